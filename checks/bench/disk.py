"""What a record takes in the file. Exact: a recorded message always becomes the same bytes."""

import pathlib

import load

#: The first message of each stream: only it names the sender.
IDENTIFIED = "01-get-first-with-identifier"

#: Kind of record, template, messages in order, records in the last one, flags.
KINDS = [
    ("HTTP request by ALS", "als-http", [IDENTIFIED, "40-batch-of-40.1"], 35, ()),
    ("HTTP request by ALS, with Istio's peers", "als-http", [IDENTIFIED, "70-synthetic-istio-peers"], 1, ()),
    ("TCP connection by ALS", "als-tcp", ["01-echo", "14-burst-of-30"], 30, ()),
    ("HTTP request by OTLP", "otlp-logs", ["16-batch-of-40"], 40, ()),
    ("verdict in the audit file", "ext-authz", ["01-get-istio-default-allowed"], 1,
     ("--auth-audit-file=audit.log",)),
    ("metric instance of Mixer", "metric", ["001"], 1, ()),
    ("log entry of Mixer", "logentry", ["001"], 1, ()),
]


class Stream(load.Body):
    """Messages of one call, in order."""

    def __init__(self, template, messages):
        super().__init__(template, template, b"", 0)
        self.messages = messages

    def framed(self):
        return b"".join(load.Body("", self.template, message, 0).framed() for message in self.messages)


def written(adapter, template, messages, flags):
    """The bytes that these messages become."""
    with load.memory_dir() as scratch:
        volume = pathlib.Path(scratch, "volume")
        volume.mkdir()
        server = load.Server([adapter, "0", "--metrics-port=off", "--volume", volume, *flags], volume)
        with server:
            run = load.h2load(server, Stream(template, messages), scratch, 1, streams=1, verbose=True)
        if run.grpc_status != 0:
            raise load.Failed(f"{template} is answered by gRPC status {run.grpc_status}")
        return server.written()[0]


def bytes_each(adapter, template, names, records, flags):
    """The bytes of a record in the last message."""
    folders = load.CAPTURES / template, load.CAPTURES / "envoy" / template
    folder = next(path for path in folders if path.is_dir() and (path / f"{names[0]}.bin").exists())
    messages = [(folder / f"{name}.bin").read_bytes() for name in names]
    before = written(adapter, template, messages[:-1], flags) if messages[:-1] else 0
    size = written(adapter, template, messages, flags) - before
    if size <= 0:
        raise load.Failed(f"{template}/{names[-1]} became no record")
    return size / records


def section(adapter):
    """The section of docs/results.md."""
    rows = []
    for name, template, names, records, flags in KINDS:
        text, json = (bytes_each(adapter, template, names, records, (*flags, f"--format={form}")) for form in ("text", "json"))
        rows.append([name, f"{text:,.1f}", f"{json:,.1f}", f"{text / 1000:.2f}", f"{json / 1000:.2f}"])
    head = ["record", "bytes in text", "bytes in JSON", "GB per million in text", "GB per million in JSON"]
    return f"{load.heading('Disk: recorded messages, as written')}\n{load.table(head, rows)}\n"
