"""The stages of a report on their own, by examples/stages.rs: walking, rendering
and appending, in one process, without HTTP/2 and without a client.
"""

import os
import pathlib
import subprocess
import tempfile
from collections import namedtuple

import load
from load import SERVER_CPU, Failed

#: A line of the program. Times are nanoseconds per request.
Stage = namedtuple("Stage", "body name at_once instances bytes_in bytes_out median least")
#: What the program measures in the processor alone, and what that is.
IN_PROCESSOR = {
    "read": "read config and count",
    "walk": "walk",
    "text": "walk and render text",
    "json": "walk and render JSON",
}


def bodies():
    """Those of record, and the largest."""
    return [*load.bodies(), load.plain(1000)]


def word(body, scratch):
    """A body as the program takes it."""
    file = pathlib.Path(scratch, f"{body.name}.bin")
    file.write_bytes(body.message)
    return f"{body.name}:{body.template}:{file}"


def measure(program, rounds, micros, scratch, disk):
    """What the program says, run on the server's core."""
    words = [word(body, scratch) for body in bodies()]
    done = subprocess.run(
        [str(part) for part in [program, "time", rounds, micros, scratch, disk, *words]],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CPU}),
    )
    if done.returncode != 0:
        raise Failed(f"{program} ended with {done.returncode}")
    return [parsed(line) for line in done.stdout.splitlines()]


def parsed(line):
    body, name, *counts, median, least = line.split()
    return Stage(body, name, *map(int, counts), float(median), float(least))


def rate(count, nanos):
    """MB/s."""
    return f"{count * 1000 / nanos:,.0f}" if count else "-"


def processor_rows(stages):
    for one in stages:
        if one.name in IN_PROCESSOR:
            each = one.median / one.instances
            # Reading the config passes over the instances.
            walked = one.bytes_in if one.name != "read" else 0
            rates = rate(walked, one.median), rate(one.bytes_out, one.median)
            times = f"{one.median:,.0f}", f"{one.least:,.0f}", f"{each:,.0f}"
            yield [one.body, IN_PROCESSOR[one.name], f"{one.bytes_in:,}", f"{one.bytes_out:,}", *times, *rates]


def append_rows(stages):
    """A row has the same done in memory and on disk: one write to the file, or by
    the sink and back."""
    on_disk = {(one.body, one.name): one for one in stages}
    for memory in stages:
        what, _, where = memory.name.rpartition("-")
        if where == "memory":
            cells = []
            for one in (memory, on_disk[memory.body, f"{what}-disk"]):
                cells += [f"{one.median:,.0f}", f"{one.median / one.instances:,.0f}", rate(one.bytes_out, one.median)]
            name = "one write" if what.startswith("append") else "the sink, and back"
            yield [memory.body, name, memory.at_once, f"{memory.bytes_out:,}", *cells]


def file_system(directory):
    done = subprocess.run(["df", "--output=fstype", directory], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.split()[-1]


def tables(program, rounds, micros, scratch, markdown):
    """Prints what each stage takes. The disk is the one that the program lies on."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=pathlib.Path(program).resolve().parent) as disk:
        system = file_system(disk)
        stages = measure(program, rounds, micros, scratch, disk)
    print(load.heading("Stages: in the processor, per request", markdown))
    head = ["body", "stage", "B in", "B out", "ns", "least ns", "ns per instance", "MB/s in", "MB/s out"]
    print(load.table(head, list(processor_rows(stages)), markdown, left=2))
    print(load.heading(f"Stages: appending text, per request; the disk is {system}", markdown))
    head = ["body", "by", "at once", "B", "memory ns", "per instance", "MB/s", "disk ns", "per instance", "MB/s"]
    print(load.table(head, list(append_rows(stages)), markdown, left=2))


# --- instructions ----------------------------------------------------------

#: How often a stage runs under callgrind: there is nothing else to even out.
FEW, MORE = 8, 136


def instructions(program, body, stage, scratch, total):
    """Instructions per request, in user mode; `total` reads callgrind's output."""
    counts = []
    for runs in (FEW, MORE):
        out = pathlib.Path(scratch, f"callgrind.{runs}")
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", f"--log-file={scratch}/valgrind"]
        command += [program, "count", stage, runs, word(body, scratch)]
        if subprocess.run([str(part) for part in command]).returncode != 0:
            raise Failed(f"{program} fails to run {stage} of {body.name} under valgrind")
        counts.append(total(out))
    return (counts[1] - counts[0]) / (MORE - FEW)


def count(program, scratch, total, markdown):
    """Prints what each stage counts. Appending is a system call or two, and what
    the kernel does isn't in it."""
    rows = []
    for body in bodies():
        counts = [instructions(program, body, stage, scratch, total) for stage in IN_PROCESSOR]
        each = [f"{one / body.instances:,.0f}" for one in counts[1:]]
        rows.append([body.name, *(f"{one:,.0f}" for one in counts), *each])
    print(load.heading("Stages: instructions per request, and per instance", markdown))
    head = ["body", "read", "walk", "text", "JSON", "walk per instance", "text per instance", "JSON per instance"]
    print(load.table(head, rows, markdown))
