"""The samples: the dashboard and its provisioning, the rules, the unit for systemd."""

import functools
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import yaml

from program import BINARY, REPLAY, ROOT, run, started

SAMPLES = ROOT / "samples"
ALERTS, DASHBOARD, UNIT = SAMPLES / "alerts.yaml", SAMPLES / "dashboard.json", SAMPLES / "mygrpcadapter.service"
# What `systemd-analyze security` may find at most. It misses a filter of addresses, a root directory
# of its own, and a UMask, which the adapter overrides: its group may write its files.
EXPOSURE = 1.5
# Labels by which Prometheus names a target, and those that it makes itself.
TARGET = {"instance", "job", "le"}


def is_missing(program, package, purpose):
    """Says that a check is skipped. With CI=true that is its failure."""
    if shutil.which(program):
        return False
    print(f"      SKIPPED: no {program} (Debian: {package}), so {purpose}")
    if os.environ.get("CI") == "true":
        raise RuntimeError(f"no {program}, and CI=true asks for it")
    return True


@functools.cache
def dashboard():
    return json.loads(DASHBOARD.read_text())


def targets():
    """Each query of the dashboard, with its panel's title and its legend."""
    for panel in dashboard()["panels"]:
        yield from ((panel["title"], target["expr"], target["legendFormat"]) for target in panel.get("targets", ()))


def queries():
    """The text of the rules and the dashboard in which metrics are named."""
    known = dashboard()
    variables = [v["definition"] for v in known["templating"]["list"] if v["type"] == "query"]
    return [ALERTS.read_text(), *(expr for _, expr, _ in targets()), *variables,
            *(a["expr"] for a in known["annotations"]["list"])]


def grouping_problems(shown):
    """Labels by which the dashboard groups metrics that do not have them."""
    for title, expr, _ in targets():
        names = set(re.findall(r"\b(?:mygrpcadapter|process|http)_\w+", expr))
        of_names = "\n".join(re.findall(rf"^(?:{'|'.join(names)}){{.*", shown, re.M)) if names else ""
        known = set(re.findall(r'(\w+)="', of_names)) | TARGET
        yield from (f"{title}: no metric has the label {label}" for label in grouped(expr) - known)


def grouped(expr):
    return {label for found in re.findall(r"\bby \(([^)]*)\)", expr) for label in found.split(", ")}


def dashboard_problems():
    """What a panel needs, and where compose.yaml puts the files."""
    panels = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
    ids = [panel["id"] for panel in dashboard()["panels"]]
    if len(set(ids)) != len(ids):
        yield "two panels have the same id"
    for panel in panels:
        if not panel["description"] or panel["datasource"]["uid"] != "${datasource}":
            yield f"{panel['title']}: no description, or a fixed data source"
    yield from overlaps(dashboard()["panels"])
    for title, expr, legend in targets():
        for label in set(re.findall(r"{{(\w+)}}", legend)) - {"instance"} - grouped(expr):
            yield f"{title}: the legend has {label}, the query does not"
    services = yaml.safe_load((SAMPLES / "compose.yaml").read_text())["services"]
    mounts = dict(volume.split(":")[1::-1] for volume in services["grafana"]["volumes"] + services["prometheus"]["volumes"])
    for path, file in mounts.items():
        if not (SAMPLES / file).is_file():
            yield f"compose.yaml mounts {file} at {path}"
    provider = yaml.safe_load((SAMPLES / "grafana/dashboards.yaml").read_text())["providers"][0]["options"]["path"]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    if mounts.get(home) != "./dashboard.json" or Path(home).parent != Path(provider):
        yield f"Grafana looks for dashboards in {provider}, its home is {home}"
    rules = yaml.safe_load((SAMPLES / "prometheus.yml").read_text())["rule_files"]
    yield from (f"prometheus.yml names {rule}, not mounted" for rule in rules if f"/etc/prometheus/{rule}" not in mounts)
    yield from (f"{name}: the image has no tag" for name, service in services.items() if not re.search(r":v?\d+\.\d+\.\d+}$", service["image"]))


def overlaps(panels):
    """Panels that share a cell, or leave the 24 columns."""
    taken = {}
    for panel in panels:
        at = panel["gridPos"]
        if at["x"] + at["w"] > 24:
            yield f"{panel['title']} is too wide"
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            if taken.setdefault(cell, panel["title"]) != panel["title"]:
                yield f"{panel['title']} lies on {taken[cell]}"
                break


def alerts():
    if is_missing("promtool", "prometheus", "the rules are not run"):
        return
    run("promtool", "check", "config", "samples/prometheus.yml")
    run("promtool", "check", "rules", ALERTS)
    tests = ROOT / "checks/docs/alerts.yaml"
    run("promtool", "test", "rules", tests)
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        yield from (f"{rule['alert']} has no test" for rule in group["rules"] if rule["alert"] not in tests.read_text())


def settings():
    """The unit's settings, each with its values in order."""
    found = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.M):
        found.setdefault(key, []).append(value)
    return found


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text)[1])


def unit():
    """systemd accepts the unit, finds it hardened, and its filter admits what the adapter calls."""
    if is_missing("systemd-analyze", "systemd", "the unit is not verified"):
        return
    found, words = settings(), settings()["ExecStart"][0].split()
    flags = dict(word[2:].split("=") for word in words if word.startswith("--"))
    timeout = seconds(flags.get("drain-timeout", "5s"))
    least = seconds(flags.get("drain-delay", "0s")) + 2 * timeout + 5
    if seconds(found["TimeoutStopSec"][0]) < least:
        yield f"TimeoutStopSec is {found['TimeoutStopSec'][0]}, a stop may take {least}s"
    if flags["volume"] != f"/var/lib/{found['StateDirectory'][0]}":
        yield f"the volume is {flags['volume']}, the StateDirectory {found['StateDirectory'][0]}"
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory, UNIT.name)
        copy.write_text(UNIT.read_text().replace(words[0], str(BINARY)))
        run("systemd-analyze", "verify", copy)
        run("systemd-analyze", "security", "--offline=true", f"--threshold={round(EXPOSURE * 10)}", copy)
        if not is_missing("strace", "strace", "the unit's filter is not compared with the adapter's calls"):
            refused = called(directory, words[1:]) - admitted(found["SystemCallFilter"])
            yield from (f"SystemCallFilter refuses {name}" for name in sorted(refused))


def admitted(filters):
    """The calls that the unit's filters leave."""
    calls = set()
    for line in filters:
        of_line = set().union(*map(calls_of, line.lstrip("~").split()))
        calls = calls - of_line if line.startswith("~") else calls | of_line
    return calls


@functools.cache
def calls_of(name):
    """The calls of a set, and of the sets in it."""
    if not name.startswith("@"):
        return {name}
    lines = (line.strip() for line in run("systemd-analyze", "syscall-filter", name).splitlines()[1:])
    return set().union(*(calls_of(line) for line in lines if line and not line.startswith("#")))


def called(directory, words):
    """The system calls of an adapter from its start to its end, with records in between."""
    trace, volume = Path(directory, "trace"), Path(directory, "volume")
    volume.mkdir()
    ours = {"--volume": volume, "--rotate-size": "20KiB", "--fsync": "always"}
    words = [word for word in words if word.split("=")[0] not in ours] + [f"{flag}={value}" for flag, value in ours.items()]
    # A tracer in a group of its own outlives the signal.
    with started("strace", "-DD", "-f", "-qq", "-o", trace, BINARY, *words) as process:
        run(REPLAY, "--count", "20", "tests/captures/metric", "tests/captures/gatewaymetric")
        run(BINARY, "probe", "8000")
        run("curl", "--silent", "--noproxy", "*", "http://localhost:9145/metrics")
    if process.returncode or not list(volume.glob("out.txt.*")):
        raise RuntimeError(f"the traced adapter ended with {process.returncode}, its files are {list(volume.iterdir())}")
    # The first is that of strace.
    return set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.M)[1:])
