"""Checks the docs. `checks/docs/check` runs it with what it needs."""

import fnmatch
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import yaml

import commands
import samples
from program import BINARY, BINARY_WITH_TLS, REPLAY, ROOT, page, run, started, usage

GUIDES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
TEXTS = [*GUIDES, *(ROOT / name for name in ("ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md", "manifests/README.md"))]
# Options of other programs: Istio's installers, kubectl.
FOREIGN = {"--set", "--previous", "--show-labels"}
passed = failed = 0


def check(what, problems):
    global passed, failed
    try:
        problems = list(problems)
    except Exception as error:  # a check that cannot finish has failed
        problems = [f"{type(error).__name__}: {error}"]
    passed, failed = passed + (not problems), failed + bool(problems)
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
        yield from targets(re.findall(r"^make ([a-z-]+)", span))
        if re.fullmatch(r"(\.ci|\.github|bench|checks|crates|docs|make|manifests|proto|samples|scripts|src|tests)/[\w./-]+", span) and not (ROOT / span).exists() \
                and not span.startswith("manifests/mine"):  # the reader's own
            yield f"{span} does not exist"


def targets(wanted):
    """Targets that the Makefile doesn't have."""
    known = re.findall(r"^([a-z-]+):", "".join(path.read_text() for path in [ROOT / "Makefile", *ROOT.glob("make/*.mk")]), re.M)
    yield from (f"the Makefile has no {target}" for target in set(wanted) - set(known))


def workflow_targets():
    for path in ROOT.glob(".github/workflows/*.yml"):
        yield from targets(re.findall(r"run: .*?\bmake ([a-z-]+)", path.read_text()))


def metrics_problems(shown, texts):
    """Metrics and labels that the adapter doesn't show."""
    families = set(re.findall(r"^# TYPE (\S+)", shown, re.M))
    labels = {}
    for name, inner in re.findall(r"^(\w+)\{(.*)\} ", shown, re.M):
        for label, value in re.findall(r'(\w+)="([^"]*)"', inner):
            labels.setdefault((name, label), set()).add(value)
    for text in texts:
        for name, inner in re.findall(r"\b(mygrpcadapter_\w+|process_\w+|http_request_seconds_histogram\w*)(?:\{([^}]*)\})?", text):
            if name.endswith("_"):
                continue  # a family of names
            if re.sub(r"(?<=histogram)_(bucket|sum|count)$", "", name) not in families:
                yield f"no metric {name}"
            for label, operator, value in re.findall(r'(\w+)\s*(?:(=~|!~|!=|=)\s*"([^"]*)")?', inner or ""):
                if label in samples.TARGET:
                    continue
                if (name, label) not in labels:
                    yield f"{name} has no label {label}"
                elif operator == "=" and value not in labels[name, label]:
                    yield f"{name} has no {label}=\"{value}\""


def log_lines():
    """Lines in the column of what the adapter logs that no source has."""
    sources = "".join(path.read_text() for path in ROOT.glob("src/**/*.rs"))
    # A line may have the name of what is read, and `{on}` may be empty.
    known = "".join(sources.replace("{on}", "").replace("{what}", what) for what in ("keys", "tokens", "certificates"))
    for name in "operating.md", "tls.md":
        yield from (f"{name}: no source logs '{line}'" for line in quoted_lines(ROOT / "docs" / name) if line not in known)


def quoted_lines(path):
    """The lines in the columns of what the adapter logs."""
    column = None
    for line in path.read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if "the adapter logs" in cells:
            column = cells.index("the adapter logs")
        elif not cells:
            column = None
        elif column is not None:
            yield from (re.sub(r"=\w+$", "=", span) for span in re.findall(r"`([^`]+)`", cells[column]) if " " in span)


def mixer_log():
    """The documented pattern finds what Mixers log for each mistake, and the table explains each."""
    samples = (ROOT / "checks/docs/mixer.log").read_text()
    for name in "walkthrough-mixer.md", "operating.md":
        text = (ROOT / "docs" / name).read_text()
        if "grep -E" not in text:
            yield f"{name} has no pattern"
        yield from commands.selected(text, samples)
    cells = re.findall(r"^\| `([^`]+)`", (ROOT / "docs/operating.md").read_text(), re.M)
    for line in samples.splitlines():
        if not any(all(word in line for word in re.split(r"'[^']*'", cell)) for cell in cells):
            yield f"operating.md doesn't explain: {line}"


def description():
    """The one-line description is the same in each place that has one."""
    wanted = re.search(r'^description = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    places = {name: (ROOT / name).read_text() for name in ("README.md", "Dockerfile")}
    for name, text in {**places, "--help": usage()}.items():
        if wanted not in " ".join(text.split()):
            yield f"{name} doesn't say: {wanted}"


def index():
    """docs/README.md lists every page of its folder."""
    listed = re.findall(r"\]\(([\w-]+\.md)\)", (ROOT / "docs/README.md").read_text())
    pages = {path.name for path in ROOT.glob("docs/*.md")} - {"README.md"}
    yield from (f"docs/README.md doesn't list {name} once" for name in pages if listed.count(name) != 1)


def exit_codes():
    known = set(re.findall(r"^ +(\d\d) ", usage()[usage().index("Exit codes"):], re.M))
    operating = set(re.findall(r"^\| (\d\d) \|", (ROOT / "docs/operating.md").read_text(), re.M))
    if operating != known:
        yield f"docs/operating.md explains {sorted(operating)}, --help {sorted(known)}"


def shipping():
    """The samples for Fluent Bit and Vector: one follows the file, the other takes rotated ones, too."""
    fluent = re.search(r"^\s+Path\s+(\S+)$", (ROOT / "samples/fluent-bit.conf").read_text(), re.M)[1]
    vector = yaml.safe_load((ROOT / "samples/vector.yaml").read_text())["sources"]["records"]["include"]
    files = ["/volume/out.txt", "/volume/out.txt.000001"]
    if fnmatch.filter(files, fluent) != files[:1]:
        yield f"Fluent Bit's {fluent} matches {fnmatch.filter(files, fluent)}"
    yield from (f"Vector's include misses {name}" for name in files if not any(fnmatch.fnmatch(name, p) for p in vector))


def all_metrics():
    with tempfile.TemporaryDirectory() as directory:
        with started(BINARY, "8000", "--volume", directory):
            run(REPLAY, "tests/captures/metric", "tests/captures/gatewaymetric")
            shown = page()
        with started(BINARY_WITH_TLS, "8000", "--volume", directory, *tls_flags(Path(directory))):
            shown += page()
    yield from metrics_problems(shown, [path.read_text() for path in TEXTS] + samples.queries())
    yield from samples.grouping_problems(shown)


def tls_flags(directory):
    """Flags with the certificates that docs/tls.md makes, and with a token."""
    for block in commands.blocks((ROOT / "docs/tls.md").read_text(), "sh"):
        for command in block:
            run("bash", "-euc", command, cwd=directory)
    (directory / "tokens").write_text("token\n")
    files = {"tls-cert": "tls/tls.crt", "tls-key": "tls/tls.key", "tls-client-ca": "tls/ca.crt", "caller-tokens-file": "tokens"}
    return [f"--{flag}={directory / file}" for flag, file in files.items()]


def main():
    for path in TEXTS:
        check(f"{path.relative_to(ROOT)}: links lead somewhere", links(path))
        check(f"{path.relative_to(ROOT)}: flags, targets and paths exist", names(path))
    check("the workflows' make targets exist", workflow_targets())
    check("the description is the same everywhere", description())
    check("the index lists every page", index())
    check("exit codes are explained, all of them", exit_codes())
    check("log lines are logged", log_lines())
    check("Mixer's reasons are found in its log", mixer_log())
    check("metrics and their labels are shown", all_metrics())
    check("alerts fire when they should", samples.alerts())
    check("the dashboard is whole, and compose.yaml mounts it", samples.dashboard_problems())
    check("the unit is hardened, and its filter admits every call", samples.unit())
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
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
