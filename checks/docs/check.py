"""Checks the docs. `checks/docs/check` runs it with what it needs."""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import yaml

import commands
from program import BINARY, MIXER, ROOT, page, run, started, usage

GUIDES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
TEXTS = [*GUIDES, *(ROOT / name for name in ("ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md", "manifests/README.md"))]
SAMPLES = [ROOT / "docs/alerts.yaml"]
# Options of other programs: Istio's installers, kubectl logs.
FOREIGN = {"--set", "--previous"}
failed = 0


def check(what, problems):
    global failed
    try:
        problems = list(problems)
    except Exception as error:  # a check that cannot finish has failed
        problems = [f"{type(error).__name__}: {error}"]
    failed += bool(problems)
    print(f"{'FAIL' if problems else 'ok  '}  {what}", flush=True)
    for problem in problems:
        print(f"      {problem}", flush=True)


def spans(text):
    """Code in a line of prose."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


def anchors(path):
    """The anchors that a heading gets."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        to = (path.parent / file).resolve() if file else path
        if not to.exists():
            yield f"{target} leads nowhere"
        elif anchor and anchor not in anchors(to):
            yield f"{target}: no such heading"


def names(path):
    """Flags, make targets and paths that are not there."""
    text, known = path.read_text(), usage()
    for span in spans(text):
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", span):
            if flag not in FOREIGN and not re.search(rf"(?<![\w-]){flag}(?![\w-])", known):
                yield f"--help has no {flag}"
        for target in re.findall(r"^make ([a-z-]+)", span):
            if subprocess.run(["make", "-n", target, "DOCKERHUB_USERNAME=x"], cwd=ROOT, capture_output=True).returncode:
                yield f"the Makefile has no {target}"
        if re.fullmatch(r"(\.ci|\.github|bench|checks|crates|docs|make|manifests|proto|scripts|src|tests)/[\w./-]+", span) and not (ROOT / span).exists() \
                and not span.startswith("manifests/mine"):  # the reader's own
            yield f"{span} does not exist"


def metrics_problems(shown, texts):
    """Metrics and labels that the adapter doesn't show."""
    families = set(re.findall(r"^# TYPE (\S+)", shown, re.M))
    labels = {}
    for name, inner in re.findall(r"^(\w+)\{(.*)\} ", shown, re.M):
        for label, value in re.findall(r'(\w+)="([^"]*)"', inner):
            labels.setdefault((name, label), set()).add(value)
    for text in texts:
        for name, inner in re.findall(r"\b(mygrpcadapter_\w+|process_\w+|http_request_seconds_histogram)(?:\{([^}]*)\})?", text):
            if name.endswith("_"):
                continue  # a family of names
            if name not in families:
                yield f"no metric {name}"
            for label, operator, value in re.findall(r'(\w+)\s*(?:(=|!=)\s*"([^"]*)")?', inner or ""):
                if (name, label) not in labels:
                    yield f"{name} has no label {label}"
                elif operator == "=" and value not in labels[name, label]:
                    yield f"{name} has no {label}=\"{value}\""


def log_lines():
    """Lines in the column of what the adapter logs that no source has."""
    sources = "".join(path.read_text() for path in ROOT.glob("src/**/*.rs"))
    text, column = (ROOT / "docs/operating.md").read_text(), None
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if "the adapter logs" in cells:
            column = cells.index("the adapter logs")
        elif not cells:
            column = None
        elif column is not None:
            for span in re.findall(r"`([^`]+)`", cells[column]):
                if " " in span and re.sub(r"=\w+$", "=", span) not in sources:
                    yield f"no source logs '{span}'"


def mixer_log():
    """The documented pattern finds what Mixers log for each mistake, and the table explains each."""
    samples = (ROOT / "checks/docs/mixer.log").read_text()
    for name in "walkthrough.md", "operating.md":
        text = (ROOT / "docs" / name).read_text()
        if "grep -E" not in text:
            yield f"{name} has no pattern"
        yield from commands.selected(text, samples)
    cells = re.findall(r"^\| `([^`]+)`", (ROOT / "docs/operating.md").read_text(), re.M)
    for line in samples.splitlines():
        if not any(all(word in line for word in re.split(r"'[^']*'", cell)) for cell in cells):
            yield f"operating.md doesn't explain: {line}"


def exit_codes():
    known = set(re.findall(r"^\s*(\d+)\s", usage()[usage().index("Error codes"):], re.M))
    operating = set(re.findall(r"^\| (\d\d) \|", (ROOT / "docs/operating.md").read_text(), re.M))
    readme = set(re.findall(r"\b(6\d|7\d)\b", " ".join(re.findall(r"^\| exit (.*?) \|", (ROOT / "README.md").read_text(), re.M))))
    for name, codes in ("docs/operating.md", operating), ("README.md", readme):
        if codes != known:
            yield f"{name} explains {sorted(codes)}, --help {sorted(known)}"


def alerts():
    if not shutil.which("promtool"):
        print("      SKIPPED: no promtool (Debian: prometheus), so the rules are not run")
        if os.environ.get("CI") == "true":
            yield "no promtool, and CI=true asks for it"
        return
    run("promtool", "check", "rules", "docs/alerts.yaml")
    run("promtool", "test", "rules", "checks/docs/alerts.yaml")
    tested = (ROOT / "checks/docs/alerts.yaml").read_text()
    for group in yaml.safe_load((ROOT / "docs/alerts.yaml").read_text())["groups"]:
        yield from (f"{rule['alert']} has no test" for rule in group["rules"] if rule["alert"] not in tested)


def shipping():
    """What the samples for Fluent Bit and Vector rely on, with files that were written and rotated."""
    fluent = re.search(r"^\s+Path\s+(\S+)$", (ROOT / "docs/fluent-bit.conf").read_text(), re.M)[1]
    source = yaml.safe_load((ROOT / "docs/vector.yaml").read_text())["sources"]["records"]
    with tempfile.TemporaryDirectory() as directory:
        with started(BINARY, "8000", "--volume", directory, "--format=json", "--rotate-size=64KiB", "--rotate-keep=100"):
            run(MIXER, "--count", "20", "tests/captures/metric")
        files = {f"/volume/{path.name}": path.read_text() for path in Path(directory).iterdir()}
    if len(files) < 4:
        yield f"too few files were rotated: {sorted(files)}"
    if fnmatch.filter(files, fluent) != ["/volume/out.txt"]:
        yield f"Fluent Bit's {fluent} matches {fnmatch.filter(files, fluent)}"
    if missed := [name for name in files if not any(fnmatch.fnmatch(name, p) for p in source["include"])]:
        yield f"Vector's include misses {missed}"
    if len({text.partition("\n")[0] for text in files.values()}) != len(files):
        yield "two files begin with the same line: Vector would take them for one"
    for name, text in files.items():
        for line in text.splitlines():
            datetime.fromisoformat(json.loads(line)["received_at"].replace("Z", "+00:00"))
            if len(line) > source["max_line_bytes"]:
                yield f"{name} has a line of {len(line)} bytes"


def all_metrics():
    with tempfile.TemporaryDirectory() as directory:
        with started(BINARY, "8000", "--volume", directory):
            run(MIXER, "tests/captures/metric", "tests/captures/gatewaymetric")
            shown = page()
    texts = [path.read_text() for path in TEXTS + SAMPLES]
    yield from metrics_problems(shown, texts)
    for wrong in 'mygrpcadapter_reqests_total', 'mygrpcadapter_requests_total{cod}', 'mygrpcadapter_verdicts_total{outcome="no"}':
        if not list(metrics_problems(shown, [wrong])):
            yield f"{wrong} goes unnoticed"


def main():
    for path in TEXTS:
        check(f"{path.relative_to(ROOT)}: links lead somewhere", links(path))
        check(f"{path.relative_to(ROOT)}: flags, targets and paths exist", names(path))
    check("exit codes are explained, all of them", exit_codes())
    check("log lines are logged", log_lines())
    check("the walkthrough has every command for another namespace", commands.elsewhere((ROOT / "docs/walkthrough.md").read_text()))
    check("Mixer's reasons are found in its log", mixer_log())
    check("metrics and their labels are shown", all_metrics())
    check("alerts fire when they should", alerts())
    check("what shippers rely on holds", shipping())
    if not shutil.which("kubectl"):
        check("kubectl is there", ["it is not, so no command of the docs is run"] * (os.environ.get("CI") == "true"))
    else:
        for path in GUIDES:
            with tempfile.TemporaryDirectory() as directory:
                tree = Path(directory)
                commands.copy_of_tree(tree)
                name = path.relative_to(ROOT)
                check(f"{name}: commands of `sh` blocks run", commands.execute(path.read_text(), tree))
                check(f"{name}: commands of `console` blocks are in order", commands.look_at(path.read_text(), tree))
    print(f"{failed} failed")
    sys.exit(1 if failed else 0)


main()
