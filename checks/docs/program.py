"""The adapter, as the checks of the docs need it: started, asked, stopped."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY, BINARY_WITH_TLS, REPLAY = sys.argv[1:]


def run(*command, cwd=ROOT, check=True):
    """What a command prints to its standard output."""
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True)
    if check and done.returncode:
        end = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
        raise RuntimeError(f"{' '.join(map(str, command))} exited {done.returncode}:\n{end}")
    return done.stdout


def until_listening(port, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


@contextlib.contextmanager
def started(*command, port=8000, cwd=ROOT):
    """A server, as the leader of a group of its own, for as long as the block takes."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise RuntimeError(f"port {port} is taken")
    process = subprocess.Popen([str(word) for word in command], cwd=cwd, start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until_listening(port, process)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def page():
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open("http://127.0.0.1:9145/metrics", timeout=10) as answer:
        return answer.read().decode()


def usage():
    return run(BINARY, "--help")


def version():
    return re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
