"""What the harnesses here share: recorded bodies, servers to load, h2load.

Servers run on the first core we may use, h2load on the last. Volumes lie in
memory. Standard library only.
"""

import os
import pathlib
import re
import select
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CAPTURES = ROOT / "tests" / "captures"
CPUS = sorted(os.sched_getaffinity(0))
SERVER_CPU, LOAD_CPU = CPUS[0], CPUS[-1]
PATHS = {
    "metric": "/metric.HandleMetricService/HandleMetric",
    "logentry": "/logentry.HandleLogEntryService/HandleLogEntry",
    "authorization": "/authorization.HandleAuthorizationService/HandleAuthorization",
    "ext-authz": "/envoy.service.auth.v3.Authorization/Check",
    "als-http": "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs",
    "als-tcp": "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs",
    "otlp-logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}


class Failed(Exception):
    """What makes a figure worthless, or the harness unable to take it."""


def need(tool, package):
    """Sees to it that `tool` is there: installs it where we may."""
    if shutil.which(tool):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Failed(f"no {tool}: install it (Debian, Ubuntu: 'sudo apt-get install {package}')")
    for command in ["apt-get update -qq", f"apt-get install -qq -y --no-install-recommends {package}"]:
        subprocess.run(command.split(), check=True, stdout=sys.stderr)


# --- bodies ----------------------------------------------------------------


class Body:
    """A request: its message, where it goes, and what it holds."""

    def __init__(self, name, template, message, instances, arguments=()):
        # What the adapter is started with for it.
        self.arguments = arguments
        self.name, self.template, self.message, self.instances = name, template, message, instances
        self.path = PATHS[template]
        # How many records it becomes: lines, or one text of all instances.
        has_lines = template in ("als-http", "otlp-logs") or arguments
        self.appends = instances if has_lines else int(template not in ("authorization", "ext-authz"))

    def framed(self):
        """As gRPC sends it: uncompressed, its length, the message."""
        return struct.pack(">BI", 0, len(self.message)) + self.message


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def fields(message):
    """The top-level fields, each (number, its bytes with tag and length)."""
    at = 0
    while at < len(message):
        start = at
        tag, at = varint(message, at)
        if tag & 7 != 2:
            raise Failed(f"a request's field {tag >> 3} is not length-delimited")
        length, at = varint(message, at)
        at += length
        yield tag >> 3, message[start:at]


def recorded(template, number):
    message = (CAPTURES / template / f"{number}.bin").read_bytes()
    instances = sum(1 for field, _ in fields(message) if field == 1)
    return Body(f"{template}-{number}", template, message, instances)


def logs(folder, name, entries):
    """A message of an access log, a stream of its own, or an export."""
    message = (CAPTURES / "envoy" / folder / f"{name}.bin").read_bytes()
    return Body(f"{folder}-{name[:2]}", folder, message, entries)


def in_json(body):
    """The same, to be rendered as JSON."""
    return Body(f"{body.name}-json", body.template, body.message, body.instances, ("--format", "json"))


def check(name):
    """A check that Envoy sent."""
    message = (CAPTURES / "envoy/ext-authz" / f"{name}.bin").read_bytes()
    return Body(f"ext-authz-{name[:2]}", "ext-authz", message, 1)


def plain(count):
    """The single instance of metric/001, `count` times in one request."""
    parts = list(fields(recorded("metric", "001").message))
    message = b"".join(part * count if field == 1 else part for field, part in parts)
    return Body(f"metric-x{count}", "metric", message, count)


def repeated(template, number, count):
    """The first instance of a recorded request, `count` times in one request."""
    parts = list(fields(recorded(template, number).message))
    first = next(part for field, part in parts if field == 1)
    rest = b"".join(part for field, part in parts if field != 1)
    return Body(f"{template}-{number}-x{count}", template, first * count + rest, count)


def bodies():
    """The bodies of record, in the order of the tables."""
    return [
        recorded("metric", "001"),
        recorded("metric", "027"),
        in_json(recorded("metric", "027")),
        plain(100),
        in_json(plain(100)),
        recorded("logentry", "001"),
        recorded("authorization", "001"),
        # Denied: the adapter has no key.
        check("01-get-istio-default-allowed"),
        logs("als-http", "61-batch-58-entries", 41),
        in_json(logs("als-http", "61-batch-58-entries", 41)),
        logs("otlp-logs", "16-batch-of-40", 40),
        in_json(logs("otlp-logs", "16-batch-of-40", 40)),
        # 18 values in each instance, of a metric and of a log entry.
        repeated("metric", "021", 20),
        in_json(repeated("metric", "021", 20)),
        repeated("logentry", "001", 20),
        in_json(repeated("logentry", "001", 20)),
    ]


# --- servers ---------------------------------------------------------------


class Server:
    """A running server, pinned. `volume` is None for one that writes nothing."""

    #: https for one that serves TLS; h2load checks no certificate.
    scheme = "http"

    def __init__(self, command, volume=None, start_limit=20):
        self.volume = volume
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stderr=subprocess.PIPE,
            preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CPU}),
        )
        self.pid = self.process.pid
        try:
            self.port = self._listening(command[0], time.monotonic() + start_limit)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def _listening(self, name, deadline):
        said = b""
        while not (found := re.search(rb'listening on "\S+:(\d+)"', said)):
            left = deadline - time.monotonic()
            ready = select.select([self.process.stderr], [], [], max(left, 0))[0]
            more = os.read(self.process.stderr.fileno(), 4096) if ready else b""
            if not more:
                raise Failed(f"{name} does not listen: {said.decode(errors='replace').strip() or 'it says nothing'}")
            said += more
        return int(found[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Asks it to end and waits, so that profilers write what they have."""
        self.process.send_signal(signal.SIGTERM)
        try:
            _, said = self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failed(f"{self.process.args[0]} does not end on SIGTERM") from None
        if self.process.returncode != 0:
            raise Failed(f"{self.process.args[0]} ended with {self.process.returncode}: {said.decode()[-300:]}")

    def cpu_ns(self):
        """CPU time of all its threads, in user and system mode."""
        tasks = pathlib.Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)

    def status(self, field):
        """A number from /proc/PID/status: kB for Vm fields."""
        return status(pathlib.Path(f"/proc/{self.pid}"), field)

    def switches(self):
        """Context switches of all its threads."""
        tasks = list(pathlib.Path(f"/proc/{self.pid}/task").iterdir())
        kinds = ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"]
        return sum(status(task, kind) for task in tasks for kind in kinds)

    def written(self):
        """Bytes and records in the volume."""
        size = records = 0
        for file in self._files():
            data = file.read_bytes()
            size += len(data)
            records += len(re.findall(rb'(?m)^(?:Handle\w+ invoked with:$|\[20|\{"(?:authority|time|instance)":)', data))
        return size, records

    def empty(self):
        for file in self._files():
            os.truncate(file, 0)

    def _files(self):
        return [file for file in pathlib.Path(self.volume).rglob("*") if file.is_file()] if self.volume else []


def status(proc, field):
    return int(re.search(rf"^{field}:\s+(\d+)", (proc / "status").read_text(), re.M)[1])


def memory_dir():
    """A directory that lives as long as its context, in memory where that can be had."""
    shm = "/dev/shm"
    return tempfile.TemporaryDirectory(prefix="bench-", dir=shm if os.path.isdir(shm) else None)


# --- load ------------------------------------------------------------------


class Run:
    """What came of one load."""

    def __init__(self, requests, text, latencies):
        self.requests = requests
        self.per_second = number(r"finished in \S+, ([\d.]+) req/s", text, float)
        self.succeeded = number(r"status codes: (\d+) 2xx", text, int)
        self.data = number(r"\((\d+)\) data", text, int)
        self.grpc_status = number(r"\] grpc-status: (\d+)", text, int, 0)
        self.latencies = sorted(latencies)

    def quantile(self, part):
        """A response time in microseconds that `part` of all stayed below."""
        return self.latencies[min(int(len(self.latencies) * part), len(self.latencies) - 1)]


def number(pattern, text, kind, default=None):
    found = re.search(pattern, text)
    if not found and default is None:
        raise Failed(f"h2load said nothing like '{pattern}': {text.strip()[-500:]}")
    return kind(found[1]) if found else default


def h2load(server, body, scratch, requests, clients=1, streams=32, verbose=False):
    """Sends `body` to `server`, `requests` times. `scratch` takes two files."""
    data, log = pathlib.Path(scratch, "body"), pathlib.Path(scratch, "latencies")
    data.write_bytes(body.framed())
    log.unlink(missing_ok=True)
    command = ["h2load", f"-n{requests}", f"-c{clients}", f"-m{streams}", "-d", data, f"--log-file={log}"]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers"] + ["-v"] * verbose
    done = subprocess.run(
        [str(word) for word in command] + [f"{server.scheme}://127.0.0.1:{server.port}{body.path}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {LOAD_CPU}),
    )
    if done.returncode != 0:
        raise Failed(f"h2load ended with {done.returncode}: {done.stdout.strip()[-500:]}")
    return Run(requests, done.stdout, (int(line.split(b"\t")[2]) for line in log.read_bytes().splitlines()))


class Load:
    """A body for one server, with what each request of it must come to."""

    def __init__(self, server, body, scratch):
        self.server, self.body, self.scratch = server, body, scratch
        server.empty()
        first = h2load(server, body, scratch, 1, streams=1, verbose=True)
        self.reply = first.data
        self.bytes, self.records = server.written()
        if first.grpc_status != 0:
            raise Failed(f"{body.name} is answered by gRPC status {first.grpc_status}")
        if server.volume and self.records != body.appends:
            raise Failed(f"{body.name} is answered, and {self.records} records are in the file")

    def run(self, requests, clients=1, streams=32):
        """Sends the body; an error unless each request was answered and is in
        its file. h2load itself looks at no more than the HTTP status."""
        self.server.empty()
        run = h2load(self.server, self.body, self.scratch, requests, clients, streams)
        size, records = self.server.written()
        for what, seen, each in [
            ("HTTP statuses 200", run.succeeded, 1),
            ("bytes of replies", run.data, self.reply),
            ("records in the file", records, self.records),
            ("bytes in the file", size, self.bytes),
        ]:
            if seen != each * requests:
                raise Failed(f"{self.body.name}: {seen} {what} after {requests} requests, not {each * requests}")
        return run


# --- tables ----------------------------------------------------------------


def table(head, rows):
    """A Markdown table: the first column to the left, the others to the right."""
    rows = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [[cell.rjust(width) if at else cell.ljust(width) for at, (cell, width) in enumerate(zip(row, widths))]
             for row in rows]
    lines.insert(1, ["-" * (width - (at > 0)) + ":" * (at > 0) for at, width in enumerate(widths)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def heading(text):
    return f"\n## {text}\n"


def machine():
    """What the figures were taken on."""
    cpu = re.search(r"model name\s*: (.*)|^CPU part\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    model = next((part for part in cpu.groups() if part), "unknown") if cpu else "unknown"
    system = os.uname()
    commit = subprocess.run(
        ["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ).stdout.strip()
    return [
        f"machine: {model}, {len(CPUS)} cores, {system.sysname} {system.release} {system.machine}",
        f"date: {time.strftime('%Y-%m-%d', time.gmtime())}, commit: {commit or 'unknown'}",
    ]


def median(values):
    return statistics.median(values)


def run(main, name):
    """Runs a harness: a failure is one line on stderr."""
    try:
        main()
    except Failed as failure:
        sys.exit(f"{name}: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
