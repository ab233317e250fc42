"""Connections that stay open and send nothing more: HTTP/2, as far as that needs.

Standard library only.
"""

import resource
import socket
import struct

import load

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
ACK, END_HEADERS = 1, 4
INITIAL_WINDOW = 4
MAX_FRAME = 16384
#: Windows before the server's settings arrive.
WINDOW = 65535


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header(name, value):
    """A literal without indexing; both are short."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


class Connection:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.windows = {0: WINDOW, 1: WINDOW}
        self.received = b""
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
        while self.read() != SETTINGS:
            pass

    def read(self):
        """Handles a frame, and returns its kind."""
        while len(self.received) < 9 or len(self.received) < 9 + int.from_bytes(self.received[:3], "big"):
            more = self.socket.recv(65536)
            if not more:
                raise load.Failed("the server closed a connection")
            self.received += more
        length = int.from_bytes(self.received[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", self.received[3:9])
        payload, self.received = self.received[9 : 9 + length], self.received[9 + length :]
        if kind == WINDOW_UPDATE:
            self.windows[stream] += int.from_bytes(payload, "big")
        elif kind == SETTINGS and not flags & ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == INITIAL_WINDOW:
                    self.windows[1] += value - WINDOW
            self.socket.sendall(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self.socket.sendall(frame(PING, ACK, 0, payload))
        return kind

    def open(self, path):
        """Opens the only stream."""
        fields = [(b":path", path.encode()), (b":authority", b"adapter"), (b"content-type", b"application/grpc")]
        # From the static table: POST, http.
        block = b"\x83\x86" + b"".join(header(*field) for field in [*fields, (b"te", b"trailers")])
        self.socket.sendall(frame(HEADERS, END_HEADERS, 1, block))

    def send(self, message):
        while message:
            length = min(MAX_FRAME, len(message), *self.windows.values())
            if length <= 0:
                self.read()
                continue
            self.socket.sendall(frame(DATA, 0, 1, message[:length]))
            message = message[length:]
            self.windows = {stream: window - length for stream, window in self.windows.items()}

    def close(self):
        self.socket.close()


def descriptors(count):
    """Lets this process and those it starts have so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise load.Failed(f"{count} descriptors are needed, and {hard} allowed")
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
