"""Runs the demonstration of docs/walkthrough-istio.md, verbatim, in containers.

Builds the images from the adapter's binary, from Envoy's in PyPI and Prometheus's in
Debian, without a registry. Nothing has Grafana's: it is not started.
Usage: compose.py BINARY
"""

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from envoy import PROGRAM
from processes import ROOT, until

BINARY = Path(sys.argv[1])
DOCKER = os.environ.get("DOCKER") or "docker"
# Unique names.
ADAPTER, ENVOY, PROMETHEUS, PROJECT = (
    f"mygrpcadapter-{what}:check-{os.getpid()}" for what in ("demo", "envoy", "prometheus", "project"))
ENVIRONMENT = {**os.environ, "ADAPTER_IMAGE": ADAPTER, "ENVOY_IMAGE": ENVOY, "PROMETHEUS_IMAGE": PROMETHEUS,
               "COMPOSE_PROJECT_NAME": PROJECT.replace(":", "-")}
COMPOSE = "docker compose -f samples/compose.yaml"
SERVICES = "mygrpcadapter envoy prometheus"


def run(*words, **options):
    done = subprocess.run(words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} exited {done.returncode}: {(done.stdout + done.stderr).decode()[-800:]}")
    return done.stdout.decode()


def compose():
    """The command for Compose; empty if it is missing."""
    for words in ([*DOCKER.split(), "compose"], ["docker-compose"]):
        if shutil.which(words[0]) and subprocess.run([*words, "version"], capture_output=True).returncode == 0:
            return " ".join(words)
    return ""


def image(name, files, *changes):
    """Builds an image with only these files: by path in the image, a local file, or the target of a link."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for path, source in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.mode = 0o755
            if source is None:
                entry.type, entry.uid, entry.gid, entry.mode = tarfile.DIRTYPE, 65532, 0, 0o775
                archive.addfile(entry)
            elif isinstance(source, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, source
                archive.addfile(entry)
            else:
                entry.size = source.stat().st_size
                with open(source, "rb") as file:
                    archive.addfile(entry, file)
    options = [word for change in changes for word in ("--change", change)]
    run(*DOCKER.split(), "import", *options, "-", name, input=tar.getvalue())


def images():
    links = {f"/bin/{name}": "/mygrpcadapter" for name in ("mygrpcadapter", "cat", "tail", "probe")}
    image(ADAPTER, {"/mygrpcadapter": BINARY, "/volume": None, **links},
          "USER 65532:65532", "ENV PATH=/bin", 'ENTRYPOINT ["/mygrpcadapter"]', 'CMD ["8000"]')
    image(ENVOY, {"/usr/local/bin/envoy": PROGRAM, **libraries(PROGRAM)},
          "ENV PATH=/usr/local/bin", 'CMD ["envoy", "-c", "/etc/envoy/envoy.yaml"]')
    prometheus = Path(shutil.which("prometheus"))
    image(PROMETHEUS, {"/bin/prometheus": prometheus, "/prometheus": None, **libraries(prometheus)},
          'ENTRYPOINT ["/bin/prometheus"]',
          'CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]')


def libraries(program):
    return {path: Path(path).resolve() for path in re.findall(r"(/\S+) \(0x", run("ldd", str(program)))}


def commands():
    """The commands of the demonstration, each with its expected output."""
    section = (ROOT / "docs/walkthrough-istio.md").read_text().partition("\n## 0. ")[2].partition("\n## ")[0]
    block = re.search(r"^```console\n(.*?)^```$", section, re.M | re.S)[1]
    for line in block.splitlines():
        command, _, wanted = line.partition(" # ")
        yield command.strip(), wanted.strip()


def version():
    return re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]


def said(command, how):
    if command == f"{COMPOSE} up --detach":
        command += f" {SERVICES}"
    return run("bash", "-euc", command.replace("docker compose", how, 1))


def demonstrate(how):
    """Runs the commands. Yields unexpected output."""
    built = run("make", "--no-print-directory", "image-name", "DOCKERHUB_USERNAME=", "TAG=" + version()).strip()
    if "${ADAPTER_IMAGE:-%s}" % built not in (ROOT / "samples/compose.yaml").read_text():
        yield f"compose.yaml doesn't name {built}, which `make image` builds"
    for command, wanted in commands():
        print(f"      $ {command}", flush=True)
        if command.startswith("curl"):
            # The first one may precede Envoy's start or Prometheus's first scrape.
            seen = until(lambda: answer(command), command)
            if seen != wanted:
                yield f"`{command}` printed {seen!r}, wanted {wanted!r}"
        elif " tail " in command:
            # Envoy sends its logs after a second.
            count = int(re.search(r"tail -n (\d+)", command)[1])
            shown = until(lambda: lines(command, how, count), f"{count} lines of `{command}`", 20)
            yield from unlike(command, shown)
        else:
            said(command, how)


def answer(command):
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True).stdout.strip().removeprefix("000")


def lines(command, how, count):
    found = subprocess.run(["bash", "-euc", command.replace("docker compose", how, 1)], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    shown = found.stdout.splitlines()
    return shown if len(shown) == count else None


def unlike(command, shown):
    """Yields lines that do not match the preceding requests."""
    wanted = ["verdict=deny reason=no_token", "verdict=deny reason=wrong_token", "verdict=allow"] if "audit" in command else [
        '"GET / HTTP/1.1" 200 ', '"GET /private HTTP/1.1" 401 UAEX ', '"GET /private HTTP/1.1" 403 UAEX ',
        '"GET /private HTTP/1.1" 200 ', '"GET /over-otlp HTTP/1.1" 200 ', '"- - -" 0 ']
    yield from (f"`{command}` shows no {part}: {shown}" for part in wanted if not any(part in line for line in shown))


def main():
    how = compose()
    if not how or not shutil.which("prometheus") or subprocess.run([*DOCKER.split(), "info"], capture_output=True).returncode:
        if os.environ.get("CI_REQUIRE_ENGINE") == "1":
            sys.exit("FAIL  no container engine with Compose, or no prometheus, and CI_REQUIRE_ENGINE=1 asks for them")
        print("SKIPPED: no container engine with Compose, or no prometheus, so the demonstration is not run", flush=True)
        return
    try:
        images()
        problems = list(demonstrate(how))
        if problems:
            problems.append(said(f"{COMPOSE} logs", how)[-2000:])
    except (OSError, RuntimeError) as error:
        problems = [str(error)]
    finally:
        for command in f"{COMPOSE.replace('docker compose', how)} down --volumes", f"{DOCKER} image rm {ADAPTER} {ENVOY} {PROMETHEUS}":
            subprocess.run(["bash", "-c", command], cwd=ROOT, env=ENVIRONMENT, capture_output=True)
    print(f"{'FAIL' if problems else 'ok  '}  the walkthrough's demonstration runs", flush=True)
    for problem in problems:
        print(f"      {problem}", flush=True)
    sys.exit(1 if problems else 0)


main()
