"""Checks manifests/. `checks/manifests/check` runs it with the packages it needs."""

import copy
import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

import descriptors
import istio
import monitoring
import references
import tls
from references import only

ROOT = Path("manifests")
NEW_SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
OLD_SCHEMAS = Path(sys.argv[1]) / "kubernetes_validate" / "kubernetes-json-schema"

WALKTHROUGHS = ["metric", "gatewaymetric", "authorization", "all"]
COMPONENTS = [  # what may be put together, and the oldest and newest Kubernetes it is for
    [], ["current"], ["old"], ["persistent-volume"], ["replicas"], ["current", "persistent-volume"],
    ["current", "replicas"], ["old", "persistent-volume"], ["old", "replicas"], ["current", "own-namespace"],
    ["current", "persistent-volume", "own-namespace"], ["openshift"], ["current", "openshift"],
    ["current", "persistent-volume", "openshift"], ["current", "prometheus-operator"],
    ["current", "prometheus-operator", "own-namespace"], ["current", "prometheus-operator", "openshift", "own-namespace"],
    ["mixer-tls"], ["mixer-mutual-tls"], ["old", "mixer-tls"], ["old", "replicas", "mixer-mutual-tls"],
    ["current", "replicas", "mixer-tls"], ["current", "persistent-volume", "own-namespace", "mixer-tls"],
    ["current", "openshift", "mixer-mutual-tls"],
]
# The same for Istio without Mixer. Its variants have `current` already.
ISTIO = ["istio", "istio-authorization", "istio-daemonset"]
ISTIO_COMPONENTS = [["openshift"], ["prometheus-operator"], ["prometheus-operator", "openshift"], ["persistent-volume"],
                    ["istio-tls"], ["istio-mutual-tls"], ["openshift", "istio-mutual-tls"]]


def versions(components):
    """The schemas a combination has to pass: the oldest it is for, some between, the newest."""
    newest = max((d.name for d in NEW_SCHEMAS.glob("*-strict")), key=lambda n: int(n.split(".")[1]))
    old = ["v1.11.0-local-strict", "v1.13.0-local-strict", "v1.16.0-local-strict"]
    new = ["v1.25.0-local-strict", newest]
    if "old" in components:
        return old
    return new if "current" in components else old[2:] + new


_validators = {}


def schema_problems(document, version):
    """One built-in object against the strict schema of one Kubernetes version."""
    directory = (NEW_SCHEMAS if (NEW_SCHEMAS / version).is_dir() else OLD_SCHEMAS) / version
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", document["apiVersion"])
    name = f"{document['kind'].lower()}-{group}.json"
    key = (version, name)
    if key not in _validators:
        if not (directory / name).is_file():
            return [f"{document['kind']} {document['apiVersion']} does not exist in {version}"]
        if version not in _validators:
            definitions = json.loads((directory / "_definitions.json").read_text())
            _validators[version] = Resource.from_contents(definitions, default_specification=DRAFT7)
        registry = Registry().with_resource("_definitions.json", _validators[version])
        schema = json.loads((directory / name).read_text())
        schema = {"$ref": schema["$ref"]} if "$ref" in schema else schema
        _validators[key] = jsonschema.Draft7Validator(schema, registry=registry)
    return [f"{version}: {'.'.join(map(str, e.absolute_path))}: {e.message}"
            for e in _validators[key].iter_errors(document)]


def parse(text):
    return [d for d in yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if d]


def load(path):
    return parse(path.read_text())


def kustomize(directory):
    done = subprocess.run(["kubectl", "kustomize", str(directory)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return parse(done.stdout)


def title(document):
    return f"{document['kind']} {document['metadata']['name']}"


INSTALLED = {d["metadata"]["name"]: d for f in sorted(ROOT.glob("templates/*.yaml")) for d in load(f)}
VOCABULARY = {a for f in ROOT.glob("attributes/*.yaml") for d in load(f) for a in d["spec"]["attributes"]}


def variant_problems(documents, components):
    """Everything about one rendered variant."""
    for document in documents:
        if references.is_custom(document):
            yield from (f"{title(document)}: {p}" for p in references.custom_problems(document))
        elif istio.is_istios(document):
            yield from (f"{title(document)}: {p}" for p in istio.kind_problems(document))
        elif monitoring.is_monitoring(document):
            yield from (f"{title(document)}: {p}" for p in monitoring.kind_problems(document))
        else:
            for version in versions(components):
                yield from (f"{title(document)}: {p}" for p in schema_problems(document, version))
    names = [(d["apiVersion"].split("/")[0], d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"])
             for d in documents]
    yield from (f"{name} is there twice" for name in set(names) if names.count(name) > 1)
    yield from (f"{title(d)} belongs to Istio" for d in documents if d["kind"] in ("template", "attributemanifest"))
    yield from references.mixer_problems(documents, INSTALLED, VOCABULARY)
    yield from istio.problems(documents)
    yield from monitoring.problems(documents)
    yield from references.workload_problems(documents)
    yield from tls.problems(documents)
    yield from references.hardening_problems(documents, seccomp="current" in components, users="openshift" not in components)


def source_problems(path):
    """One file of the sources: one object, in order by itself."""
    documents = load(path)
    if len(documents) != 1:
        yield f"{len(documents)} objects, wanted one"
        return
    document = documents[0]
    if references.is_custom(document):
        yield from references.custom_problems(document)
    elif istio.is_istios(document):
        yield from istio.kind_problems(document)
    elif monitoring.is_monitoring(document):
        yield from monitoring.kind_problems(document)
    else:
        components = [path.parent.name] if path.parent.parent.name == "components" else []
        for version in versions(["current"] if components == ["own-namespace"] else components):
            yield from schema_problems(document, version)


def walkthrough_problems(documents):
    """The published handlers, word for word, against what we install."""
    published = {
        "metric": {"adapter": "mygrpcadapter", "connection": {"address": "mygrpcadapter:8000"},
                   "params": {"file_path": "/volume/out.txt"}},
        "gatewaymetric": {"adapter": "gatewaymetric", "connection": {"address": "gatewaymetric:41543"},
                          "params": {"file_path": "out.txt"}},
        "authorization": {"adapter": "mygrpcadapter", "connection": {"address": "mygrpcadapterservice:44225"},
                          "params": {"auth_key": "abc"}},
    }
    for walkthrough, spec in published.items():
        ours = [d for d in documents[walkthrough] if d["kind"] != "handler"]
        names = [d["metadata"]["name"] for d in only(documents[walkthrough], "handler")]
        handlers = [{"apiVersion": references.GROUP, "kind": "handler", "spec": spec,
                     "metadata": {"name": name, "namespace": "istio-system"}} for name in names]
        yield from (f"{walkthrough}: {p}" for p in variant_problems(ours + handlers, []))
    metric = {d["kind"]: d for d in documents["metric"]}
    if (metric["handler"]["metadata"]["name"], metric["instance"]["metadata"]["name"],
            metric["rule"]["metadata"]["name"]) != ("h1", "i1metric", "r1"):
        yield "metric: handler, instance and rule are not h1, i1metric and r1"
    variables = only(documents["gatewaymetric"], "instance")[0]["spec"]["params"]["variables"]
    if list(variables) != ["host", "latency", "method", "responseBodySize", "responseCode", "responseTotalSize", "url"]:
        yield f"gatewaymetric: the variables are {list(variables)}"
    ports = {p["port"] for d in only(documents["gatewaymetric"], "Service")
             if d["metadata"]["name"] == "gatewaymetric" for p in d["spec"]["ports"]}
    if ports != {41543, 9145}:
        yield f"gatewaymetric: the Service has {ports}"


def image_problems():
    version = re.search(r'^version = "(.*)"', Path("Cargo.toml").read_text(), re.M).group(1)
    for path in sorted(ROOT.glob("*.yaml")):
        image = references.container_of(load(path))["image"].removesuffix("-tls")
        if image != f"docker.io/USERNAME/mygrpcadapter:{version}":
            yield f"{path.name}: {image}, but Cargo.toml says {version}"


def make(*words):
    """What a target prints, and what it complains of."""
    done = subprocess.run(["make", "--no-print-directory", *words], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def render_problems(plain):
    """`make render` prints a variant with the image that `make docker-push` pushes, or nothing."""
    account = ["DOCKERHUB_USERNAME=me.too", "REGISTRY=registry.example.com:5000", "TAG=1.2"]
    name = make("image-name", *account)[1].strip()
    for variant, documents in plain.items():
        wanted = copy.deepcopy(documents)
        container = references.container_of(wanted)
        container["image"] = name + "-tls" * container["image"].endswith("-tls")
        code, text, complaint = make("render", f"VARIANT={variant}", *account)
        if code or parse(text) != wanted:
            yield f"{variant}: not the same with {name}: {complaint}"
    if make("render", *account)[1] != make("render", "VARIANT=metric", *account)[1]:
        yield "metric is not the default"
    for what, words in {"no account": ["render", "DOCKERHUB_USERNAME="], "no variant": ["render", "VARIANT=no", *account]}.items():
        code, text, complaint = make(*words)
        said = {"no account": "DOCKERHUB_USERNAME", "no variant": "metric-replicas"}[what]
        if code == 0 or text or said not in complaint:
            yield f"{what}: exit code {code}, {text[:80]!r}, {complaint!r}"


def own_overlay_problems():
    """The overlay in the README: it renders, with the image it names, and git ignores it."""
    text = (ROOT / "README.md").read_text()
    overlays = [re.sub(r"^    ", "", block, flags=re.M) for block in re.findall(r"(?:^    .*\n)+", text, re.M)
                if "kind: Kustomization" in block]
    if not overlays:
        yield "the README has none"
    if subprocess.run(["git", "check-ignore", "--quiet", "manifests/mine/kustomization.yaml"]).returncode == 1:
        yield "git doesn't ignore manifests/mine"
    for overlay in overlays:
        with tempfile.TemporaryDirectory() as scratch:
            mine = Path(scratch) / "manifests" / "mine"
            shutil.copytree(ROOT, mine.parent, ignore=shutil.ignore_patterns("mine"))
            mine.mkdir()
            (mine / "kustomization.yaml").write_text(overlay)
            documents = kustomize(mine)
            image = references.container_of(documents)["image"]
            if f"value: {image}\n" not in overlay:
                yield f"it renders {image}"
            yield from variant_problems(documents, ["current", *re.findall(r"components/(openshift)", overlay)])


def alert_problems(plain):
    """With every connection in use, the threshold is between half and three quarters of the limit."""
    rules = yaml.safe_load(Path("samples/alerts.yaml").read_text())["groups"][0]["rules"]
    expr = next(rule["expr"] for rule in rules if rule["alert"] == "MygrpcadapterMemory")
    base, more, free = map(int, re.search(r"> (\d+) \* 1024 \* 1024 \+ (\d+) \* 1024 \* clamp_min\(\w+ - (\d+), 0\)$", expr).groups())
    for variant, documents in plain.items():
        container = references.container_of(documents)
        limit = references.quantity(container["resources"]["limits"]["memory"])
        connections = int(references.flags_of(container)["max-connections"])
        threshold = (base << 20) + (more << 10) * max(connections - free, 0)
        if not limit / 2 <= threshold <= limit * 3 / 4:
            yield f"{variant}: the alert is at {threshold >> 20} MiB, the limit at {limit >> 20}"


def readme_problems():
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"manifests/[\w./-]+", text):
        if not path.startswith("manifests/mine") and not Path(path.rstrip(".")).exists():
            yield f"{path} does not exist"
    for path in list(ROOT.glob("*/kustomization.yaml")) + list(ROOT.glob("components/*/kustomization.yaml")):
        if path.parent != ROOT / "base" and f"`{path.parent.name}`" not in text:
            yield f"`{path.parent.name}` is not mentioned"


def stale_problems():
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / "manifests"
        shutil.copytree(ROOT, fresh)
        done = subprocess.run([str(ROOT / "generate"), str(fresh)], capture_output=True, text=True)
        if done.returncode:
            yield done.stderr.strip()
            return
        files = {f.relative_to(d) for d in (ROOT, fresh) for f in d.rglob("*") if f.is_file()}
        for file in sorted(files):
            if not ((ROOT / file).is_file() and (fresh / file).is_file()):
                yield f"{file} is {'not generated any more' if (ROOT / file).is_file() else 'missing'}"
            elif not filecmp.cmp(ROOT / file, fresh / file, shallow=False):
                yield f"{file} is stale: run `make manifests`"


def main():
    passed = failed = 0

    def report(name, problems):
        nonlocal passed, failed
        try:
            problems = list(problems)
        except Exception as error:  # a check that cannot finish has failed
            problems = [f"{type(error).__name__}: {error}"]
        passed, failed = passed + (not problems), failed + bool(problems)
        print(f"{'FAIL' if problems else 'ok  '} {name}")
        for problem in problems:
            print(f"     {problem}")

    sources = [f for d in ("base", "components/*", "attributes", "templates") for f in sorted(ROOT.glob(f"{d}/*.yaml"))
               if f.name != "kustomization.yaml" and not f.name.endswith("-patch.yaml")]
    for path in sources:
        report(f"{path} is one sound object", source_problems(path))
    report("every template is there", (f"{t} is not" for t in descriptors.TEMPLATES.keys() ^ INSTALLED.keys()))
    for name, template in INSTALLED.items():
        report(f"template {name}: Mixer takes its descriptor",
               descriptors.template_problems(name, template["spec"]["descriptor"]))
    for path in sorted(ROOT.rglob("adapter*.yaml")):
        if not path.name.endswith("-patch.yaml"):
            report(f"{path}: Mixer takes its descriptor", descriptors.adapter_problems(load(path)[0]["spec"]["config"]))

    plain = {p.stem.removeprefix("mygrpcadapter-"): load(p) for p in sorted(ROOT.glob("*.yaml"))}
    for variant, documents in plain.items():
        walkthrough, _, added = variant.partition("-")
        components = ["current", added] if added == "own-namespace" or walkthrough == "istio" else [added] if added else []
        report(f"{variant}, as a plain file", variant_problems(documents, components))
    report("the alert of the memory is below every limit", alert_problems(plain))
    report("handlers of the published walkthroughs fit", walkthrough_problems(plain))
    report("the image is named in one way, and its version is ours", image_problems())
    report("the README names what is there", readme_problems())
    report("make render names the image that is pushed", render_problems(plain))

    if shutil.which("kubectl"):
        with tempfile.TemporaryDirectory() as scratch:
            tree = Path(scratch) / "manifests"
            shutil.copytree(ROOT, tree)
            mixer = [(name, components, []) for name in WALKTHROUGHS for components in COMPONENTS]
            proxies = [(name, components, ["current"]) for name in ISTIO for components in ISTIO_COMPONENTS]
            for number, (name, components, included) in enumerate(mixer + proxies):
                # A claim is for one pod, which a DaemonSet is not.
                if name == "istio-daemonset" and "persistent-volume" in components:
                    continue
                overlay = tree / f"overlay-{number}"
                overlay.mkdir()
                (overlay / "kustomization.yaml").write_text(yaml.safe_dump({
                    "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
                    "resources": [f"../{name}"], "components": [f"../components/{c}" for c in components]}))
                report(" + ".join([name, *components]),
                       (p for documents in [kustomize(overlay)] for p in variant_problems(documents, included + components)))
        report("the README's overlay is in order", own_overlay_problems())
        report("nothing generated is stale", stale_problems())
    else:
        missing = "kubectl is missing: variants are NOT rendered, staleness is NOT checked"
        print(f"!!!! {missing}", file=sys.stderr)
        if os.environ.get("CI") == "true":
            report("kubectl is there", [missing])

    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
