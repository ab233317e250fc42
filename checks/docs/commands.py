"""The commands in the docs: those of `sh` blocks are run, those of `console` blocks looked at."""

import contextlib
import functools
import re
import shlex
import shutil
import subprocess

from program import BINARY, ROOT, run, started, version

# What a step of CI runs by itself.
ELSEWHERE = {"make test"}


def blocks(text, language):
    """The commands of each block of a language: comments gone, lines joined."""
    for block in re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S):
        lines = re.sub(r"\\\n\s*", "", block).splitlines()
        yield [line for line in (re.sub(r"(^|\s+)#.*", "", line).rstrip() for line in lines) if line]


def copy_of_tree(to):
    """The files of the repository with their times, so that nothing is built again."""
    for name in run("git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def execute(text, tree):
    """Runs the `sh` blocks of a document, one after the other; says what fails."""
    with contextlib.ExitStack() as servers:
        for command in (command for block in blocks(text, "sh") for command in block):
            if command in ELSEWHERE:
                continue
            if command == "make run":
                # Where it is built already, but with the other's volume.
                servers.enter_context(started("make", "run", f"VOLUME={tree}/volume"))
                continue
            cwd = ROOT if command.startswith("make replay") else tree
            done = subprocess.run(["bash", "-euc", command], cwd=cwd, capture_output=True, text=True)
            print(f"      $ {command}", flush=True)
            if done.returncode:
                yield f"`{command}` exited {done.returncode}: {(done.stdout + done.stderr)[-800:]}"
            if command.startswith("tail ") and not done.stdout.rstrip().endswith("}"):
                yield f"`{command}` shows no record: {done.stdout[-200:]!r}"


@functools.cache
def kubectl_help(verbs):
    return run("kubectl", *verbs, "--help") + run("kubectl", "options")


def kubectl(words, tree):
    before, _, inside = " ".join(words).partition(" -- ")
    words = before.split()
    verbs = tuple(words[1:{"rollout": 3, "create": 4 if words[2] == "secret" else 3}.get(words[1], 2)])
    known = kubectl_help(verbs)
    if {"tail", "-f"} <= set(inside.split()) and "-it" not in words:
        yield "without -it the tail goes on when kubectl has ended"
    options = re.sub(r"(?<=\s)-it(?=\s)", "-i -t", before)
    for option in re.findall(r"(?<=\s)(--?[a-z-]+)", options):
        if not re.search(rf"(?<![\w-]){option}(?![\w-])", known):
            yield f"kubectl {' '.join(verbs)} has no {option}"
    for flag, path in zip(words, words[1:]):
        if (flag, path) == ("-f", "-"):
            continue
        if flag in ("-k", "-f") and not (tree / path).exists():
            yield f"{path} does not exist"
        elif flag == "-k":
            run("kubectl", "kustomize", path, cwd=tree)
    if inside and any(word.endswith("/mygrpcadapter") for word in words):
        yield from of_image(inside.split(), tree)


def of_image(words, tree):
    """A command that the image has, run here on a file that is here."""
    if "probe" in words:  # nothing is started here that it could ask
        return ()
    words = [str(tree / "LICENSE") if word.startswith("/") else word for word in words if word != "-f"]
    run(BINARY, *words)
    return ()


def docker(words, tree):
    if words[1] == "login":
        return ()
    if words[1:3] == ["compose", "-f"]:  # checks/envoy/compose.py runs these
        return [] if (tree / words[3]).exists() else [f"{words[3]} does not exist"]
    if words[1] == "exec":
        return of_image(words[3:], tree)
    image = f"you/mygrpcadapter:{version()}"
    if image not in words:
        return [f"another image than {image}: {' '.join(words)}"]
    arguments = words[words.index(image) + 1:]
    return of_image(arguments, tree) if words[1:3] == ["run", "--rm"] else ()


def make(words, tree):
    run("make", *(() if words[1] == "render" else ("-n",)), *words[1:], cwd=tree)
    return ()


def helm(words, tree):
    if words[1] == "list":
        return ()
    values = words[words.index("-f") + 1]
    return [] if (tree / values).exists() else [f"{values} does not exist"]


def of_release(words, tree):
    tag = next((word for word in words if re.match(r"v\d", word)), None)
    return [] if tag == f"v{version()}" else [f"{tag} is not v{version()}"]


def sed(words, tree):
    run("bash", "-euc", " ".join([*map(shlex.quote, words[:3]), *words[3:], "</dev/null"]), cwd=tree)
    return ()


PROGRAMS = {"sed": sed, "helm": helm, "kubectl": kubectl, "docker": docker, "make": make, "gh": of_release, "git": of_release,
            **dict.fromkeys(("curl", "grep", "openssl", "tr"), lambda words, tree: [])}


def selected(text, samples):
    """Lines of a Mixer's log that the documented pattern misses."""
    for pattern in set(re.findall(r"grep -E (\"[^\"]+\")", text)):
        expression = re.compile(shlex.split(pattern)[0])
        yield from (f"{pattern} misses: {line}" for line in samples.splitlines() if not expression.search(line))


def look_at(text, tree):
    """What is wrong with the commands of `console` blocks, as far as can be seen from here."""
    for command in (command for block in blocks(text, "console") for command in block):
        for part in re.split(r" \|\|? (?=[a-z])", re.sub(r" > \S+$", "", command)):
            words = shlex.split(part)
            if words[0] not in PROGRAMS:
                yield f"`{command}`: nobody knows {words[0]}"
                continue
            try:
                yield from (f"`{command}`: {problem}" for problem in PROGRAMS[words[0]](words, tree))
            except RuntimeError as error:
                yield f"`{command}`: {error}"
