"""Requests through Envoy: single ones, invalid ones, and load."""

import contextlib
import http.client
import re
import shutil
import socket
import struct
import subprocess


def ask(port, path="/", method="GET", body=None, headers=(), **more):
    """Sends a request, with headers as pairs or by name. Returns status, headers (names in lower case) and body."""
    pairs = [*headers, *((name.replace("_", "-"), value) for name, value in more.items())]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_host=any(name == "Host" for name, _ in pairs))
        for name, value in pairs if body is None else [*pairs, ("Content-Length", len(body))]:
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


def raw(port, request):
    """Sends raw bytes. Returns the first bytes of the answer."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(request)
        return connection.recv(65536)


def reset(port, request):
    """Sends raw bytes, and resets the connection."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(request)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Load:
    """h2load at a constant rate on four connections, for about `seconds`. It sends every request."""

    CLIENTS = 4

    def __init__(self, port, rate, seconds, *words, path="/"):
        program = shutil.which("h2load")
        if program is None:
            raise RuntimeError("there is no h2load: run 'apt-get install nghttp2-client'")
        self.count = rate * seconds
        self.process = subprocess.Popen(
            [program, "--h1", f"--clients={self.CLIENTS}", f"--requests={self.count}",
             f"--rps={rate / self.CLIENTS}", *words, f"http://127.0.0.1:{port}{path}"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait()

    def runs(self):
        return self.process.poll() is None

    def problems(self):
        """Waits for the end. Yields a failure unless each request was answered with 2xx."""
        said = self.process.communicate(timeout=300)[0]
        codes = re.search(r"^status codes: (\d+) 2xx, .*$", said, re.M)
        if codes is None or int(codes[1]) != self.count:
            yield f"of {self.count} requests: {codes[0] if codes else said[-400:]}"
