"""Faults under load: compares the entries that Envoy sent with the file, and explains each difference.

Envoy's own log is the reference. Each line has a unique request id, which identifies
missing and duplicate lines.
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
# Requests per second of each kind, the number of handovers, additional seconds of load.
RATE, HAND_OVERS, LONGER = 800, 3, 0


def thoroughly():
    """Increases load and repetitions beyond the time limits of CI."""
    global RATE, HAND_OVERS, LONGER
    RATE, HAND_OVERS, LONGER = 2500, 10, 8


class Scene:
    """An Envoy under load, and successive adapters with one port and one volume."""

    def __init__(self, binary, directory, *flags, volume=None, workers=1, **envoy):
        self.stack, self.directory, self.volume, self.flags, self.binary = (
            contextlib.ExitStack(), directory, volume, flags, binary)
        self.adapter = self.another()
        self.envoy = self.stack.enter_context(Envoy(directory, self.adapter.port, workers, **envoy))
        self.loads, self.asked = [], Counter()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stack.close()

    def another(self):
        """Starts another adapter, which becomes the current one."""
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
        """Waits until Envoy has logged `more` requests, or the load ends."""
        count = len(self.envoy.lines(listener)) + more
        until(lambda: len(self.envoy.lines(listener)) >= count or not self.loads[0].runs(), f"{more} more requests")

    def written(self, more, kind="http"):
        """Waits until the file has `more` new lines, or the load ends."""
        count = len(self.lines(kind)) + more
        until(lambda: len(self.lines(kind)) >= count or not self.loads[0].runs(), f"{more} more lines")

    def lines(self, kind):
        """The file's lines for one listener, by their last field, the route."""
        return [line for line in self.adapter.lines() if line.endswith(f" {kind}\n".encode())]

    def sent(self, kind):
        """Envoy's own lines, with the expected differences."""
        return [replaced(line, kind, set()) for line in self.envoy.lines(kind)]

    def finish(self):
        """Waits for the end of the load, and until every entry has arrived or is dropped. Yields failed requests."""
        for load in self.loads:
            yield from load.problems()
        until(lambda: all(len(self.envoy.lines(kind)) >= count for kind, count in self.asked.items()), "Envoy logs all of it")
        sent = {kind: self.envoy.lines(kind) for kind in LOGS}

        def handed_over():
            return all(sum(self.envoy.sent(log)) >= len(sent[kind]) for kind, log in LOGS.items())

        until(handed_over, "Envoy hands its entries over")
        # `account` checks whether the last of them arrived.
        while (before := len(self.adapter.lines())) < sum(map(len, sent.values())):
            time.sleep(2)
            if len(self.adapter.lines()) == before:
                break

    def account(self, kind):
        """Accounts for the entries sent. Returns the missing ones, the number that Envoy counted as dropped, and errors."""
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
    """SIGKILL, a period without an adapter, a new one: the lost entries are contiguous, from the last written line on."""
    with Scene(binary, directory) as scene:
        scene.load_both(7)
        scene.written(2 * RATE)
        scene.adapter.kill()
        held = scene.lines("http")
        scene.logged(RATE)
        scene.another()
        yield from scene.finish()
        # ALS has no acknowledgements, so Envoy counts all entries as written.
        sent, found = scene.sent("http"), scene.lines("http")
        missing, dropped, impossible = scene.account("http")
        yield from impossible
        again = len(sent) - (len(found) - len(held))
        if found != sent[:len(held)] + sent[again:]:
            yield "http: what is lost is not one run that begins with the last line before the kill"
        if dropped or not missing:
            yield f"http: {len(missing)} lost of a second without an adapter, {dropped} counted as dropped"
        # OTLP: Envoy counts unanswered entries as dropped. Two messages may be written but unanswered.
        missing, dropped, impossible = scene.account("otel")
        yield from impossible
        if not len(missing) <= dropped <= len(missing) + 2 * 73:
            yield f"otel: {len(missing)} lines are missing, {dropped} counted as dropped"


def a_hand_over_loses_nothing(binary, directory):
    """Repeatedly starts a second adapter on the port and sends SIGTERM to the first: no entry is lost, no check refused."""
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
    """Envoy buffers unread entries of ALS, and counts refused ones of OTLP."""
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
    """A blocked write is a stall: reading stops, and resumes afterwards."""
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
            # A verdict needs no volume, and does not wait for its audit record.
            for headers, wanted in ({"X_Custom_Token": "key"}, 200), ({}, 401):
                if (status := ask(scene.envoy.ports["http"], "/private", **headers)[0]) != wanted:
                    yield f"a check while the volume is frozen: {status}, wanted {wanted}"
        yield from scene.finish()
        yield from scene.nothing_is_lost("http")
        # Entries queued when the stall was detected are written afterwards.
        yield from counted(*scene.account("otel"), exactly=False)


def what_envoy_cannot_keep_it_counts(binary, directory):
    """A disk is full for longer than Envoy's 16 MiB last: exactly the dropped entries are missing."""
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
