#!/usr/bin/env python3
"""Makes the corpora of the fuzz targets from what is recorded in tests/captures.

    corpus.py CAPTURES CORPUS

What is in CORPUS already stays; names are those of the contents' hashes.
"""

import hashlib
import pathlib
import re
import struct
import sys

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, WINDOW_UPDATE = 4, 6, 8
REPORTS = ("metric", "logentry", "tracespan", "edge", "reportnothing")
# What Envoy logs, by the target that takes it.
LOGS = {"als-http": "access_log", "als-tcp": "access_log", "otlp-logs": "log_records"}
# The order of the methods in targets/calls.rs.
CALLS = {"metric": 0, "logentry": 1, "authorization": 2}
VALIDATE, CHECK = 7, 11
# Beyond it, an input is more work than it is worth.
MAX_INPUT = 32 * 1024


def main(captures: pathlib.Path, corpus: pathlib.Path) -> None:
    def seed(target: str, content: bytes) -> None:
        if len(content) > MAX_INPUT:
            return
        folder = corpus / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / hashlib.sha1(content).hexdigest()).write_bytes(content)

    for path in sorted((captures / "envoy/ext-authz").glob("*.bin")):
        for step in (b"\0", b"\x3f"):
            seed("ext_authz", step + path.read_bytes())
        seed("calls", bytes([CHECK]) + path.read_bytes())

    for folder, target in LOGS.items():
        for path in sorted((captures / "envoy" / folder).glob("*.bin")):
            seed(target, path.read_bytes())

    messages = sorted(path for path in captures.rglob("*.bin") if "envoy" not in path.parts)
    for path in messages:
        message, kind = path.read_bytes(), kind_of(path, captures)
        for target in REPORTS if kind != "authorization" else ():
            seed(target, message)
        if kind == "logentry":
            seed("histogram", message)
        if kind == "authorization":
            for instance in fields(message, 1):
                seed("authorization", instance)
        for config in fields(message, 2):
            seed("config", config)
            seed("calls", bytes([VALIDATE]) + b"\x0a" + varint(len(config)) + config)
            for value in fields(config, 2):
                for text in fields(value, 1):
                    seed("path", text)
        seed("calls", bytes([CALLS[kind]]) + message)
        if kind in REPORTS and len(message) < 1 << 16:
            choice = REPORTS.index(kind)
            one = struct.pack("<BH", choice, len(message)) + message
            seed("journal", one)
            seed("journal", one + struct.pack("<BH", choice + 5 | 0x80, len(message)) + message + one)

    for path in sorted(captures.rglob("*.expected")):
        text = path.read_bytes()
        for torn in (0, 1, 20, len(text) // 2):
            seed("repair", b"\0" + text + text[: len(text) - torn])
    for text in (b"../a", b"/volume/./a//{hostname}.txt", b"/etc/passwd", b"a/.", b"...", b"/"):
        seed("path", text)
    line = b'{"instance":"i.instance.ns","template":"metric","value":7,"dimensions":{"a":"}\\""}}\n'
    for length in (0, 1, len(line) // 2, len(line) - 1, len(line)):
        seed("repair", b"\1" + line + line[:length])

    for path in sorted(captures.rglob("frames.txt")):
        for content in conversations(path):
            seed("http2", b"\0" + content)
            seed("http2", b"\1" + content.removeprefix(PREFACE))


def kind_of(path: pathlib.Path, captures: pathlib.Path) -> str:
    """The service a recording is for, by its own name or its directory's."""
    words = " ".join(path.relative_to(captures).parts)
    if "authorization" in words:
        return "authorization"
    return "logentry" if "logentry" in words or "gatewaymetric" in words else "metric"


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out + bytes([number]))


def fields(message: bytes, wanted: int) -> list[bytes]:
    """The contents of a field, as far as the message can be read."""
    found, at = [], 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    try:
        while at < len(message):
            key = number()
            if key & 7 == 2:
                length = number()
                if key >> 3 == wanted:
                    found.append(message[at : at + length])
                at += length
            elif key & 7 == 0:
                number()
            else:
                at += {1: 8, 5: 4}[key & 7]
    except (IndexError, KeyError):
        pass
    return found


def conversations(path: pathlib.Path) -> list[bytes]:
    """What each client said on its connection, byte for byte but for messages
    that were not kept: those are zeros."""
    bodies = {len(body) + 5: body for body in (f.read_bytes() for f in path.parent.glob("*.bin"))}
    said: dict[str, bytes] = {}
    for line in path.read_text().splitlines():
        match = re.match(r"\S+ (\S+) > (\w+)(.*)", line)
        if not match:
            continue
        name, kind, rest = match.groups()
        attributes = dict(re.findall(r"([\w-]+)=(\w+)", rest))
        said[name] = said.get(name, b"") + frame(kind, attributes, bodies)
    return [content for content in said.values() if len(content) > len(PREFACE)]


def frame(kind: str, attributes: dict[str, str], bodies: dict[int, bytes]) -> bytes:
    if kind == "PREFACE":
        return PREFACE
    length = int(attributes["len"])
    if kind == "DATA":
        number, content = 0, b"\0" + struct.pack(">I", length - 5) + bodies.get(length, bytes(length - 5))
    elif kind == "HEADERS":
        number, content = 1, bytes.fromhex(attributes["block"])
    elif kind == "PING":
        number, content = PING, bytes.fromhex(attributes["data"])
    elif kind == "WINDOW_UPDATE":
        number, content = WINDOW_UPDATE, struct.pack(">I", int(attributes["incr"]))
    elif kind == "SETTINGS" and length == 0:
        number, content = SETTINGS, b""
    else:
        sys.exit(f"corpus: no such frame: {kind} {attributes}")
    head = struct.pack(">I", len(content))[1:] + bytes([number, int(attributes["flags"], 16)])
    return head + struct.pack(">I", int(attributes["stream"])) + content


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: corpus.py CAPTURES CORPUS")
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
