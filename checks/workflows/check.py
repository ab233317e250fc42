"""What this project wants of a workflow, beyond what the two linters look for."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

TARGETS = set(re.findall(r"^([a-z][a-z-]*):", "".join(p.read_text() for p in [Path("Makefile"), *Path("make").glob("*.mk")]), re.M))
WRITERS = {("release.yml", "release")}


def problems(name, text):
    workflow = yaml.safe_load(text)
    if workflow.get("permissions") != {"contents": "read"}:
        yield f"permissions are {workflow.get('permissions')}"
    if "concurrency" not in workflow:
        yield "no concurrency group"
    for line in re.findall(r"^.*\buses:.*$", text, re.M):
        if not re.search(r"uses: (\./|[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$)", line):
            yield f"not pinned by commit, with the version behind: {line.strip()}"
    for title, job in workflow["jobs"].items():
        if "uses" in job:
            continue
        if not 0 < job.get("timeout-minutes", 0) <= 60:
            yield f"{title}: timeout-minutes is {job.get('timeout-minutes')}"
        if job.get("permissions") and (name, title) not in WRITERS:
            yield f"{title}: has permissions of its own"
        if "secrets." in str({**job, "steps": []}):
            yield f"{title}: a secret is given to all steps"
        for step in job["steps"]:
            script = step.get("run", "")
            for target in set(re.findall(r"\bmake ([a-z-]+)", script)) - TARGETS:
                yield f"{title}: no target {target} in the Makefile"
            if "${{" in script:
                yield f"{title}: an expression inside of a script: {script}"
            if shutil.which("shellcheck"):
                found = subprocess.run(["shellcheck", "--shell=bash", "-"], input=script, text=True, capture_output=True)
                if found.returncode:
                    yield f"{title}: {found.stdout.strip()}"


BROKEN = [
    ("permissions are", "permissions:\n  contents: read", "permissions:\n  contents: write"),
    ("no concurrency", "concurrency:", "env:"),
    ("not pinned", "actions/checkout@08c6903cd8c0fde910a37f88322edcfb5dd907a8 # v5.0.0", "actions/checkout@v5"),
    ("no target", "make test", "make tests"),
    ("timeout-minutes", "timeout-minutes: 40", "timeout-minutes: 400"),
    ("an expression", "make test", "make test ${{ github.ref }}"),
]


def main():
    failed = 0
    for path in sorted(Path(".github/workflows").glob("*.yml")):
        found = list(problems(path.name, path.read_text()))
        failed += bool(found)
        print(f"{'FAIL' if found else 'ok  '} {path}")
        print("".join(f"     {problem}\n" for problem in found), end="")
    text = Path(".github/workflows/ci.yml").read_text()
    for said, old, new in BROKEN:
        if old not in text or not any(said in problem for problem in problems("ci.yml", text.replace(old, new))):
            failed += 1
            print(f"FAIL  '{new}' in place of '{old}' goes unnoticed")
    sys.exit(1 if failed else 0)


main()
