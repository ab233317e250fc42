"""The adapter: its process, its file, its metrics."""

import re
import signal

from processes import Process, free_port, page, until


class Adapter(Process):
    """An adapter on `port`; the default volume is `directory`/volume."""

    def __init__(self, binary, directory, *flags, port=None, volume=None):
        self.port, self.metrics = port or free_port(), free_port()
        self.volume = volume or directory / "volume"
        self.volume.mkdir(exist_ok=True)
        super().__init__(
            [binary, self.port, f"--volume={self.volume}", f"--metrics-port={self.metrics}", *flags],
            directory / "adapter.log")
        self.serves(lambda: page(self.metrics, "/healthz"), "the adapter starts")

    def lines(self, file="access.log"):
        """The complete lines of a file."""
        path = self.volume / file
        text = path.read_bytes() if path.exists() else b""
        return text[:text.rfind(b"\n") + 1].splitlines(keepends=True)

    def metric(self, pattern):
        """The sum of the samples that match a pattern."""
        found = re.findall(rf"^{pattern} (\S+)$", page(self.metrics, "/metrics"), re.M)
        return sum(map(float, found))

    def end(self):
        """Sends SIGTERM. Returns the exit status."""
        self.signal(signal.SIGTERM)
        until(lambda: self.process.poll() is not None, "the adapter ends", 30)
        return self.process.returncode
