"""Unary gRPC calls over plaintext HTTP/2, by the standard library alone.

Just enough of a client to send reports: no padding, no priorities, and of the
answer only whether a message came before the stream's end.
"""

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM = ACK = 1
END_HEADERS = 4


class Connection:
    def __init__(self, address, timeout=120):
        self.authority = "%s:%d" % address
        self.socket = socket.create_connection(address, timeout)
        self.reader = self.socket.makefile("rb")
        self.stream = -1
        self.window = 65535
        self.initial = 65535
        self.frame_size = 16384
        self.windows = {}
        self.answered = set()
        self.greeted = False
        self.socket.sendall(PREFACE + frame(SETTINGS) + frame(WINDOW_UPDATE, payload=struct.pack(">I", 1 << 30)))
        while not self.greeted:
            self.receive()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.reader.close()
        self.socket.close()

    def call(self, path, messages, concurrent=8):
        """Sends each message as a call of its own; returns when all are answered."""
        fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": self.authority,
                  "content-type": "application/grpc", "te": "trailers"}
        block = b"".join(b"\0" + text(name) + text(value) for name, value in fields.items())
        for message in messages:
            while len(self.windows) >= concurrent:
                self.receive()
            self.stream += 2
            self.windows[self.stream] = self.initial
            self.socket.sendall(frame(HEADERS, END_HEADERS, self.stream, block))
            self.send(self.stream, struct.pack(">BI", 0, len(message)) + message)
        while self.windows:
            self.receive()

    def send(self, stream, body):
        while body:
            room = min(self.window, self.windows[stream], self.frame_size, len(body))
            if room <= 0:
                self.receive()
                continue
            part, body = body[:room], body[room:]
            self.window -= room
            self.windows[stream] -= room
            self.socket.sendall(frame(DATA, 0 if body else END_STREAM, stream, part))

    def receive(self):
        head = self.exactly(9)
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        stream = int.from_bytes(head[5:], "big") & 0x7FFFFFFF
        payload = self.exactly(length)
        if kind == SETTINGS and not flags & ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == 4:
                    for one in self.windows:
                        self.windows[one] += value - self.initial
                    self.initial = value
                elif name == 5:
                    self.frame_size = value
            self.greeted = True
            self.socket.sendall(frame(SETTINGS, ACK))
        elif kind == PING and not flags & ACK:
            self.socket.sendall(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            more = int.from_bytes(payload, "big")
            if stream == 0:
                self.window += more
            elif stream in self.windows:
                self.windows[stream] += more
        elif kind == RST_STREAM and stream in self.windows:
            raise ConnectionError(f"call reset, HTTP/2 error {int.from_bytes(payload, 'big')}")
        elif kind == GOAWAY and int.from_bytes(payload[4:8], "big"):
            raise ConnectionError(f"connection ended, HTTP/2 error {int.from_bytes(payload[4:8], 'big')}")
        elif kind == DATA and payload:
            self.answered.add(stream)
        if kind in (DATA, HEADERS) and flags & END_STREAM:
            if stream not in self.answered:
                raise ConnectionError("call refused: it ended without a message")
            del self.windows[stream]

    def exactly(self, length):
        got = self.reader.read(length)
        if len(got) < length:
            raise ConnectionError("connection closed")
        return got


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def text(value):
    """A literal of HPACK, not Huffman-coded, below 127 bytes."""
    return bytes([len(value)]) + value.encode()
