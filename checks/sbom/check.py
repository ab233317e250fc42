"""Checks what `checks/sbom/generate` prints. `make sbom-check` runs it with the packages it needs."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).resolve().parents[2]
TARGET = sys.argv[1]
passed = failed = 0


def check(what, problem):
    global passed, failed
    passed, failed = passed + (not problem), failed + bool(problem)
    print(f"{'FAIL' if problem else 'ok  '}  {what}" + (f"\n      {problem}" if problem else ""))


def printed(*command, cwd=ROOT):
    done = subprocess.run(command, check=True, cwd=cwd, stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"})
    return done.stdout


def elsewhere():
    """What the same sources give in another directory."""
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory, "elsewhere")
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns("target", ".git", "fuzz"))
        return printed("checks/sbom/generate", TARGET, cwd=tree)


text = printed("checks/sbom/generate", TARGET)
bom = json.loads(text)
crates = {c["name"]: c for c in bom["components"] if c["purl"].startswith("pkg:cargo/")}

check("it is CycloneDX 1.5", JsonStrictValidator(SchemaVersion.V1_5).validate_str(text))
check("another directory gives the same bytes", "" if elsewhere() == text else "it doesn't")
check("it names no directory, and no number drawn by lot",
      [word for word in (str(ROOT), tempfile.gettempdir(), "serialNumber") if word in text])
check("its time is SOURCE_DATE_EPOCH's", "" if "2023-11-14T22:13:20" in bom["metadata"]["timestamp"] else bom["metadata"])

locked = dict(re.findall(r'name = "(\S+)"\nversion = .*\nsource = .*\nchecksum = "(\w+)"', (ROOT / "Cargo.lock").read_text()))
check("each crate has the checksum of Cargo.lock",
      [name for name, crate in crates.items() if name != "records"
       and crate["hashes"] != [{"alg": "SHA-256", "content": locked.get(name)}]])
check("each part has a licence", [c["name"] for c in bom["components"] if not c.get("licenses")])
notice = re.findall(r"^([\w-]+) ([\d.]+): \S", printed("scripts/notice", TARGET), re.M)
check("they are the crates of the notices in the image",
      set(notice) ^ {(name, c["version"]) for name, c in crates.items() if name != "records"})
check("macros and what tests use are not in it", crates.keys() & {"syn", "prost-derive", "proptest", "protox"})
check("musl and Rust's library are", {"musl", "rust-std"} - {c["name"] for c in bom["components"]})
print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed else 0)
