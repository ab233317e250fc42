"""Faults under load: what Envoy sent, what the file has, and the difference explained to the entry.

Envoy's own log is the truth. Each line of it has a request's own id, so a line that
the file lacks, or has twice, is known by name.
"""

import contextlib
import os
import subprocess
import time
from collections import Counter

from adapter import Adapter
from client import Load, ask
from comparison import replaced
from envoy import Envoy
from processes import until

LOGS = {"http": "grpc", "otel": "open_telemetry"}
# Requests a second of each kind, how many hand-overs, how much longer the load runs.
RATE, HAND_OVERS, LONGER = 800, 3, 0


def thoroughly():
    """More of everything than CI has the time for."""
    global RATE, HAND_OVERS, LONGER
    RATE, HAND_OVERS, LONGER = 2500, 10, 8


class Scene:
    """An Envoy under load; one adapter after the other, with one port and one volume."""

    def __init__(self, binary, directory, *flags, volume=None, workers=1):
        self.stack, self.directory, self.volume, self.flags, self.binary = (
            contextlib.ExitStack(), directory, volume, flags, binary)
        self.adapter = self.another()
        self.envoy = self.stack.enter_context(Envoy(directory, self.adapter.port, workers))
        self.loads, self.asked = [], Counter()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stack.close()

    def another(self):
        """A further adapter, which takes the place of the last."""
        port = self.adapter.port if hasattr(self, "adapter") else None
        self.adapter = self.stack.enter_context(
            Adapter(self.binary, self.directory, *self.flags, port=port, volume=self.volume))
        return self.adapter

    def load(self, seconds, listener, *words, path="/", rate=None):
        load = Load(self.envoy.ports[listener], rate or RATE, seconds + LONGER, *words, path=path)
        self.loads.append(self.stack.enter_context(load))
        self.asked[listener] += load.count

    def load_both(self, seconds):
        for listener in LOGS:
            self.load(seconds, listener)

    def logged(self, more, listener="http"):
        """Waits until Envoy has logged some more requests, or the load is over."""
        count = len(self.envoy.lines(listener)) + more
        until(lambda: len(self.envoy.lines(listener)) >= count or not self.loads[0].runs(), f"{more} more requests")

    def written(self, more, kind="http"):
        """Waits until the file has some more lines, or the load is over."""
        count = len(self.lines(kind)) + more
        until(lambda: len(self.lines(kind)) >= count or not self.loads[0].runs(), f"{more} more lines")

    def lines(self, kind):
        """The file's lines of one listener: their last field is the route."""
        return [line for line in self.adapter.lines() if line.endswith(f" {kind}\n".encode())]

    def sent(self, kind):
        """What Envoy logged, as the file should have it."""
        return [replaced(line, kind, set()) for line in self.envoy.lines(kind)]

    def finish(self):
        """Lets the load end and every entry arrive, or be counted as dropped; what the clients missed."""
        for load in self.loads:
            yield from load.problems()
        until(lambda: all(len(self.envoy.lines(kind)) >= count for kind, count in self.asked.items()), "Envoy logs all of it")
        sent = {kind: self.envoy.lines(kind) for kind in LOGS}

        def handed_over():
            return all(sum(self.envoy.sent(log)) >= len(sent[kind]) for kind, log in LOGS.items())

        until(handed_over, "Envoy hands its entries over")
        # Whether the last of them arrive is for the account to say.
        while (before := len(self.adapter.lines())) < sum(map(len, sent.values())):
            time.sleep(2)
            if len(self.adapter.lines()) == before:
                break

    def account(self, kind):
        """Entries sent, lines of the file, lines it lacks, entries that Envoy took for dropped; and what can't be."""
        sent, found = Counter(self.sent(kind)), Counter(self.lines(kind))
        written, dropped = self.envoy.sent(LOGS[kind])
        impossible = [f"{kind}: {count} times in the file: {line}" for line, count in found.items() if count != 1]
        impossible += [f"{kind}: never sent: {line}" for line in found - sent]
        if written + dropped != sum(sent.values()):
            impossible.append(f"{kind}: Envoy counts {written} and {dropped} of {sum(sent.values())} entries")
        missing = sent - found
        print(f"      {kind}: {sum(sent.values())} entries, {sum(found.values())} lines, "
              f"{sum(missing.values())} missing, {dropped} counted as dropped", flush=True)
        return missing, dropped, impossible

    def nothing_is_lost(self, *kinds):
        for kind in kinds:
            missing, dropped, impossible = self.account(kind)
            yield from impossible
            if missing or dropped:
                yield f"{kind}: {len(missing)} lines are missing, {dropped} counted as dropped, first {list(missing)[:1]}"


def a_killed_adapter_loses_one_run_of_entries(binary, directory):
    """SIGKILL, a while without one, a new one: what is lost is in one piece, from the last line that was written."""
    with Scene(binary, directory) as scene:
        scene.load_both(7)
        scene.written(2 * RATE)
        scene.adapter.kill()
        held = scene.lines("http")
        scene.logged(RATE)
        scene.another()
        yield from scene.finish()
        # ALS: nothing is acknowledged, so Envoy takes all of them for written.
        sent, found = scene.sent("http"), scene.lines("http")
        missing, dropped, impossible = scene.account("http")
        yield from impossible
        again = len(sent) - (len(found) - len(held))
        if found != sent[:len(held)] + sent[again:]:
            yield "http: what is lost is not one run that begins with the last line before the kill"
        if dropped or not missing:
            yield f"http: {len(missing)} lost of a second without an adapter, {dropped} counted as dropped"
        # OTLP: what was not answered is counted. Two messages may have been written and not answered.
        missing, dropped, impossible = scene.account("otel")
        yield from impossible
        if not len(missing) <= dropped <= len(missing) + 2 * 73:
            yield f"otel: {len(missing)} lines are missing, {dropped} counted as dropped"


def a_hand_over_loses_nothing(binary, directory):
    """A second adapter on the port, then SIGTERM to the first, again and again: logs, and checks without a refusal."""
    keys = directory / "keys"
    keys.write_text("key\n")
    with Scene(binary, directory, "--reuse-port", f"--auth-keys-file={keys}", workers=2) as scene:
        scene.load(8, "otel")
        scene.load(8, "http", "--header=x-custom-token: key", path="/private")
        for _ in range(HAND_OVERS):
            scene.written(RATE // 2)
            first = scene.adapter
            scene.another()
            if (code := first.end()) != 0:
                yield f"the first one ended with {code}"
        yield from scene.finish()
        yield from scene.nothing_is_lost("http", "otel")


def connections_that_end_for_their_age_lose_nothing(binary, directory):
    with Scene(binary, directory, "--max-connection-age=1s", workers=2) as scene:
        scene.load_both(5)
        yield from scene.finish()
        yield from scene.nothing_is_lost("http", "otel")


def a_full_disk_loses_no_entry_of_als(binary, directory):
    """Envoy keeps what is not read. Of OTLP, what is refused is counted."""
    with mounted(directory, "-t", "tmpfs", "-o", "size=24m", "tmpfs") as volume:
        ballast = volume / "ballast"
        ballast.write_bytes(bytes(23 << 20))
        with Scene(binary, directory, volume=volume) as scene:
            scene.load_both(8)
            until(lambda: scene.adapter.metric(r'mygrpcadapter_write_errors_total\{reason="full"\}') > 0, "the disk is full")
            scene.logged(2 * RATE)
            ballast.unlink()
            yield from scene.finish()
            yield from scene.nothing_is_lost("http")
            yield from counted(*scene.account("otel"), exactly=True)


def a_frozen_volume_loses_no_entry_of_als(binary, directory):
    """A write that doesn't return is a stall: reading stops, and goes on when it is over."""
    image = directory / "image"
    with open(image, "wb") as file:
        file.truncate(48 << 20)
    subprocess.run(["mkfs.ext4", "-qF", image], check=True)
    keys = directory / "keys"
    keys.write_text("key\n")
    flags = f"--auth-keys-file={keys}", "--auth-audit-file=audit.log"
    with mounted(directory, "-o", "loop", image) as volume, Scene(binary, directory, *flags, volume=volume) as scene:
        scene.load_both(11)
        scene.written(RATE)
        with frozen(volume):
            until(lambda: scene.adapter.metric(r'mygrpcadapter_write_errors_total\{reason="stalled"\}') > 0, "the volume stalls")
            scene.logged(RATE)
            # A verdict needs no volume, and its audit record waits by itself.
            for headers, wanted in ({"X_Custom_Token": "key"}, 200), ({}, 401):
                if (status := ask(scene.envoy.ports["http"], "/private", **headers)[0]) != wanted:
                    yield f"a check while the volume is frozen: {status}, wanted {wanted}"
        yield from scene.finish()
        yield from scene.nothing_is_lost("http")
        # What was queued when the stall was told of is written afterwards.
        yield from counted(*scene.account("otel"), exactly=False)


def what_envoy_cannot_keep_it_counts(binary, directory):
    """A disk that is full for more entries than Envoy's 16 MiB hold: what is missing is what it dropped."""
    with mounted(directory, "-t", "tmpfs", "-o", "size=96m", "tmpfs") as volume:
        ballast = volume / "ballast"
        ballast.write_bytes(bytes(95 << 20))
        with Scene(binary, directory, volume=volume) as scene:
            scene.load(8, "http", rate=10000)
            until(lambda: scene.envoy.sent("grpc")[1] > 0, "Envoy drops entries", 120)
            ballast.unlink()
            yield from scene.finish()
            missing, dropped, impossible = scene.account("http")
            yield from impossible
            if len(missing) != dropped:
                yield f"http: {len(missing)} lines are missing, {dropped} counted as dropped"


def counted(missing, dropped, impossible, exactly):
    yield from impossible
    if len(missing) > dropped or exactly and len(missing) != dropped:
        yield f"otel: {len(missing)} lines are missing, {dropped} counted as dropped"


def can_mount():
    return os.environ.get("ENVOY_CHECK_MOUNTS") == "1"


@contextlib.contextmanager
def mounted(directory, *options):
    volume = directory / "mounted"
    volume.mkdir()
    subprocess.run(["mount", *options, volume], check=True)
    try:
        yield volume
    finally:
        subprocess.run(["umount", volume], check=True)


@contextlib.contextmanager
def frozen(volume):
    subprocess.run(["fsfreeze", "--freeze", volume], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", volume], check=True)
