"""The container engine, a registry on loopback, and the size budget."""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKER = os.environ.get("DOCKER") or "docker"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def run(*command, check=True, timeout=1800, env=None, cwd=ROOT):
    """Runs to the end; the result has bytes in `stdout` and `stderr`."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, timeout=timeout,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if check and done.returncode != 0:
        end = b"\n".join((done.stdout + done.stderr).splitlines()[-20:]).decode(errors="replace")
        raise RuntimeError(f"{' '.join(command)} exited {done.returncode}:\n{end}")
    return done


def docker(*arguments, **options):
    return run(*DOCKER.split(), *arguments, **options)


def answers():
    """Whether there is an engine to ask."""
    try:
        docker("version", "--format", "{{.Server.Version}}", timeout=30)
        return True
    except (OSError, RuntimeError, subprocess.TimeoutExpired):
        return False


def require():
    """Ends the program where no engine answers: 0, or 1 if one is required."""
    if not answers():
        if os.environ.get("CI_REQUIRE_ENGINE") == "1":
            sys.exit("FAILED: no container engine, and CI_REQUIRE_ENGINE=1 asks for one")
        print("SKIPPED: no container engine", flush=True)
        sys.exit(0)


def find_builder():
    """Sets BUILDER to one made here, unless it is given or can be pulled."""
    if not os.environ.get("BUILDER"):
        default = re.search(r"^ARG BUILDER=(\S+)", (ROOT / "Dockerfile").read_text(), re.M)[1]
        present = docker("image", "inspect", default, check=False).returncode == 0
        if not present and docker("pull", "--quiet", default, check=False).returncode != 0:
            os.environ["BUILDER"] = run("checks/image/builder-base").stdout.decode().strip()


def build(tag, **variables):
    """`make docker-build`."""
    find_builder()
    make("docker-build", TAG=tag, **variables)


def make(target, check=True, cwd=ROOT, goals=(), **variables):
    """A target of the Makefile, in an environment with nothing set for it. With
    an option for the target, `goals` are the targets."""
    given = {"DOCKERHUB_USERNAME": "", "REGISTRY": "docker.io", "DOCKER": DOCKER,
             "BUILDER": os.environ.get("BUILDER", ""), **variables}
    if "mygrpcadapter-builder:" in given["BUILDER"]:
        given["NETWORK"] = "host"
    if check and target.startswith("docker-"):
        print(f"      make {target}: minutes, where it builds", file=sys.stderr, flush=True)
    words = [f"{name}={value}" for name, value in given.items()]
    # A make above this one passes its own variables down.
    return run("make", "--no-print-directory", target, *goals, *words, check=check, cwd=cwd,
               env={"MAKEFLAGS": "", "MAKEOVERRIDES": ""})


def budget(suffix=""):
    """The limits of the image, or with the suffix -tls of that with TLS."""
    lines = (ROOT / ".ci/budget").read_text().splitlines()
    limits = {name: int(size) for name, size in (line.split() for line in lines if line[:1].isalpha())}
    return {name: limits[name + suffix] for name in ("binary", "image", "pushed")}


def image_size(image):
    return int(docker("image", "inspect", "--format", "{{.Size}}", image).stdout)


class Registry:
    """Debian's docker-registry on a free port, over a directory of its own."""

    def __enter__(self):
        program = shutil.which("docker-registry")
        if program is None:
            raise RuntimeError("there is no docker-registry: run 'apt-get install docker-registry'")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.directory = tempfile.mkdtemp()
        config = Path(self.directory, "config.yml")
        config.write_text(
            f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{self.address}'}}\n"
            f"storage: {{filesystem: {{rootdirectory: '{self.directory}/data'}}}}\n")
        self.process = subprocess.Popen([program, "serve", config],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until(lambda: self.get("/v2/")[0] == 200, "the registry answers")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.directory)

    def get(self, path, accept="*/*"):
        request = urllib.request.Request(f"http://{self.address}{path}", headers={"Accept": accept})
        # A proxy of the environment has no business on loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, b""
        except OSError:
            return 0, b""

    def manifest(self, repository, tag):
        """The manifest stored, and its digest."""
        status, body = self.get(f"/v2/{repository}/manifests/{tag}", MANIFEST)
        if status != 200:
            raise RuntimeError(f"the registry has no {repository}:{tag} ({status})")
        return json.loads(body), "sha256:" + hashlib.sha256(body).hexdigest()

    def pushed_size(self, repository, tag):
        """Bytes of the compressed layers, as stored."""
        manifest, _ = self.manifest(repository, tag)
        return sum(layer["size"] for layer in manifest["layers"])


def until(condition, what, seconds=60):
    """Waits for the condition; an error when it never comes."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"waited {seconds} s in vain: {what}")
        time.sleep(0.02)
