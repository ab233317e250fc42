"""The processes of a check: start, requests, and stop by process id."""

import contextlib
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(condition, what, seconds=60):
    """Waits until the condition is true and returns its value; raises an error after `seconds`."""
    end = time.monotonic() + seconds
    while not (held := condition()):
        if time.monotonic() > end:
            raise RuntimeError(f"waited {seconds} s in vain: {what}")
        time.sleep(0.02)
    return held


def page(port, path):
    """A page of a local process; empty without an answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.suppress(OSError), opener.open(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.read().decode()
    return ""


class Process:
    """One process, with its output in a file; stopped at the end of its `with` block at the latest."""

    def __init__(self, command, output):
        self.output = output
        with open(output, "ab") as log:
            self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.signal(signal.SIGKILL)
        self.process.wait()

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait()

    def serves(self, condition, what):
        """Waits until it serves. If it exits instead, the error has its last output."""
        def held():
            if self.process.poll() is not None:
                raise RuntimeError(f"{what}: it ended with {self.process.returncode}: {self.said()[-600:]}")
            return condition()

        until(held, what)

    def said(self):
        return self.output.read_text(errors="replace")
