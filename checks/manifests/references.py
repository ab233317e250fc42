"""Whether the objects of one rendered variant fit each other, and Mixer's rules for its kinds."""

import re
from pathlib import Path

import descriptors

PARAMS = ".mygrpcadapter.config.v1.Params"
GROUP = "config.istio.io/v1alpha2"
SPEC_KEYS = {
    "adapter": {"description", "session_based", "templates", "config"},
    "template": {"descriptor"},
    "handler": {"adapter", "connection", "params"},
    "instance": {"template", "params", "attributeBindings"},
    "rule": {"match", "actions", "requestHeaderOperations", "responseHeaderOperations"},
    "attributemanifest": {"attributes"},
}
REQUIRED = {
    "adapter": {"templates", "config"}, "template": {"descriptor"}, "handler": {"adapter", "connection"},
    "instance": {"template", "params"}, "rule": {"actions"}, "attributemanifest": {"attributes"},
}
# Seconds. The program's default; what is left over for the kubelet and the exit.
DRAIN_TIMEOUT, RESERVE = "5s", 5
# grpc-go resolves a name again after this at the earliest; and what an endpoint
# needs to get out of the cluster's DNS.
RESOLVE, RESOLVE_RESERVE = 30, 10
VALUE_TYPES = {"STRING", "INT64", "DOUBLE", "BOOL", "TIMESTAMP", "IP_ADDRESS", "EMAIL_ADDRESS", "URI", "DNS_NAME",
               "DURATION", "STRING_MAP"}


def is_custom(document):
    return document["apiVersion"].split("/")[0] == "config.istio.io"


def custom_problems(document):
    """One object of Mixer's kinds, by itself."""
    kind, spec = document["kind"], document["spec"]
    if document["apiVersion"] != GROUP or kind not in SPEC_KEYS:
        yield f"{document['apiVersion']} {kind}: no such kind, they are {GROUP} and lower case"
        return
    yield from (f"spec.{key} is not known" for key in spec.keys() - SPEC_KEYS[kind])
    yield from (f"spec.{key} is missing" for key in REQUIRED[kind] - spec.keys())
    if document["metadata"].get("namespace") != "istio-system":
        yield "not in istio-system, where Mixer looks for what applies to all"
    if kind == "handler":
        yield from (f"connection.{key} is not known"
                    for key in spec["connection"].keys() - {"address", "timeout", "authentication"})
    elif kind == "rule":
        for action in spec["actions"]:
            yield from (f"actions.{key} is not known" for key in action.keys() - {"handler", "instances", "name"})
    elif kind == "attributemanifest":
        for name, info in spec["attributes"].items():
            if info.keys() - {"valueType", "description"} or info.get("valueType") not in VALUE_TYPES:
                yield f"attribute {name} is {info}"


def resolve(reference, kind, namespace):
    """The full names a reference may stand for, in Mixer's order."""
    parts = reference.split(".")
    if len(parts) == 1:
        return [f"{reference}.{kind}.{namespace}"]
    if len(parts) == 2:
        return [f"{reference}.{namespace}", f"{parts[0]}.{kind}.{parts[1]}"]
    return [reference]


def attributes_in(expression):
    """The attribute names an expression mentions; functions and text are none."""
    bare = re.sub(r'"(\\.|[^"\\])*"', '""', expression)
    return re.findall(r"\b[A-Za-z]\w*(?:\.[A-Za-z]\w*)+\b(?!\s*\()", bare)


def instance_problems(params, message, template, vocabulary, path="params"):
    """The params of an instance against the message its template declares."""
    for key, value in params.items():
        where = f"{path}.{key}"
        field = template.field(message, key)
        if field is None or key == "name":
            yield f"{where}: no such field in {message}"
            continue
        inner = template.messages.get(field.type_name)
        if template.entry(field) is not None:
            texts = list(value.items())
        elif inner is not None and not field.type_name.startswith(".istio.policy."):
            yield from instance_problems(value, field.type_name, template, vocabulary, where)
            continue
        else:
            texts = [(None, value)]
        for name, text in texts:
            spot = where if name is None else f"{where}.{name}"
            if not isinstance(text, str):
                yield f"{spot}: {text!r} is no expression, quote it"
                continue
            yield from (f"{spot}: attribute {a} is not in manifests/attributes"
                        for a in attributes_in(text) if a not in vocabulary)


def params_problems(params, message, config, path="params"):
    """The params of a handler against what the adapter says it takes."""
    for key, value in params.items():
        field = config.field(message, key)
        if field is None:
            yield f"{path}.{key}: no such field in {message}"
        elif field.type_name in config.enums and value not in [v.name for v in config.enums[field.type_name].value]:
            yield f"{path}.{key}: {value} is none of {field.type_name}"
        elif isinstance(value, dict) and field.type_name in config.messages:
            yield from params_problems(value, field.type_name, config, f"{path}.{key}")


def mixer_problems(documents, installed, vocabulary):
    """handler to adapter, rule to handler and instance, instance and adapter to template."""
    by_name = {f"{d['metadata']['name']}.{d['kind']}.{d['metadata']['namespace']}": d
               for d in documents if is_custom(d)}

    def find(reference, kind, referrer):
        names = resolve(reference, kind, referrer["metadata"]["namespace"])
        return next((by_name[n] for n in names if n in by_name and by_name[n]["kind"] == kind), None)

    used = set()
    for name, document in by_name.items():
        spec, kind = document["spec"], document["kind"]
        if kind == "handler":
            adapter = find(spec["adapter"], "adapter", document)
            if adapter is None:
                yield f"{name}: no adapter {spec['adapter']}"
            else:
                config = descriptors.Set(adapter["spec"]["config"])
                yield from (f"{name}: {p}" for p in params_problems(spec.get("params", {}), PARAMS, config))
        elif kind == "instance":
            used.add(spec["template"])
            if spec["template"] not in installed:
                yield f"{name}: no template {spec['template']}"
            else:
                message = f".{spec['template']}.InstanceMsg"
                template = descriptors.Set(installed[spec["template"]]["spec"]["descriptor"])
                yield from (f"{name}: {p}"
                            for p in instance_problems(spec.get("params", {}), message, template, vocabulary))
        elif kind == "rule":
            yield from (f"{name}: match: attribute {a} is not in manifests/attributes"
                        for a in attributes_in(spec.get("match", "")) if a not in vocabulary)
            for action in spec["actions"]:
                handler = find(action["handler"], "handler", document)
                if handler is None:
                    yield f"{name}: no handler {action['handler']}"
                    continue
                adapter = find(handler["spec"]["adapter"], "adapter", handler)
                for reference in action["instances"]:
                    instance = find(reference, "instance", document)
                    if instance is None:
                        yield f"{name}: no instance {reference}"
                    elif adapter and instance["spec"]["template"] not in adapter["spec"]["templates"]:
                        yield f"{name}: {handler['spec']['adapter']} takes no {instance['spec']['template']}"
    for name, document in by_name.items():
        if document["kind"] == "adapter":
            yield from (f"{name}: lists {t}, which the variant has no use for"
                        for t in document["spec"]["templates"] if t not in used)
            if not document["spec"]["templates"]:
                yield f"{name}: lists no template"


def only(documents, kind):
    return [d for d in documents if d["kind"] == kind]


def workload(documents):
    """What makes the pods: a Deployment, or a DaemonSet."""
    found = only(documents, "Deployment") + only(documents, "DaemonSet")
    if len(found) != 1:
        raise ValueError(f"{len(found)} Deployments and DaemonSets")
    return found[0]


def container_of(documents):
    return workload(documents)["spec"]["template"]["spec"]["containers"][0]


def matches(selector, labels):
    return bool(selector) and selector.items() <= labels.items()


def quantity(text):
    """Bytes of a quantity or of a flag's size."""
    number, unit = re.fullmatch(r"(\d+)(Ki|Mi|Gi)B?", text).groups()
    return int(number) << {"Ki": 10, "Mi": 20, "Gi": 30}[unit]


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text).group(1))


def flags_of(container):
    return dict(a[2:].split("=", 1) for a in container["args"] if str(a).startswith("--"))


def served(documents):
    """The templates that the variant's adapters list, by the name of their gRPC service."""
    templates = {t for d in only(documents, "adapter") for t in d["spec"]["templates"]} & descriptors.TEMPLATES.keys()
    return {descriptors.TEMPLATES[t][1].split("/")[1]: descriptors.TEMPLATES[t][0] for t in templates}


def is_headless(documents, handler):
    """Whether a handler's address is resolved to the pods' own."""
    name = re.split(r"[.:]", handler["spec"]["connection"]["address"].removeprefix("dns:///"))[0]
    return any(d["metadata"]["name"] == name and d["spec"].get("clusterIP") == "None"
               for d in only(documents, "Service"))


def shutdown_problems(documents, pod, flags):
    """Everything that may take its time after SIGTERM, against what the kubelet allows."""
    delay, timeout = seconds(flags["drain-delay"]), seconds(flags.get("drain-timeout", DRAIN_TIMEOUT))
    # Calls have the timeout to end, then the queue has as much again to be written.
    least = delay + timeout + timeout + RESERVE
    if pod["terminationGracePeriodSeconds"] < least:
        yield f"the grace period is {pod['terminationGracePeriodSeconds']}s, stopping may take {least}s"
    if any(is_headless(documents, h) for h in only(documents, "handler")) and delay < RESOLVE + RESOLVE_RESERVE:
        yield f"the drain delay is {delay}s, Mixer resolves a headless name only every {RESOLVE}s"


def probe_problems(documents, container):
    """Readiness follows the volume where every call needs it, and only there."""
    probe, services = container["readinessProbe"], served(documents)
    path = probe.get("httpGet", {}).get("path", "")
    asked = path.partition("?service=")[2] or probe.get("grpc", {}).get("service", "")
    reports = [name for name, variety in services.items() if variety == descriptors.REPORT]
    if reports and len(reports) == len(services):
        if asked not in reports:
            yield f"readiness asks after {asked or 'the whole'}, but only reports are served: {sorted(reports)}"
    elif asked:
        yield f"readiness asks after {asked}, and a full volume would stop checks, too"
    if probe.get("initialDelaySeconds") or probe.get("periodSeconds") != 1:
        yield "a first readiness probe that comes too early costs more than 1s"


def memory_problems(resources):
    """A limit, and a request below it; how much they are is said in one place."""
    if quantity(resources["requests"]["memory"]) > quantity(resources["limits"].get("memory", "0Mi")):
        yield f"the memory limit is {resources['limits'].get('memory')}, below the request"


def workload_problems(documents):
    """What surrounds the pod: Services, policy, budget, account, volumes, ports, addresses."""
    deployment = workload(documents)
    namespace = deployment["metadata"]["namespace"]
    template = deployment["spec"]["template"]
    labels, notes, pod = template["metadata"]["labels"], template["metadata"]["annotations"], template["spec"]
    container = pod["containers"][0]
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}

    def known(port):
        return port in ports or port in ports.values()

    def named(kind, name):
        return any(d["metadata"]["name"] == name and d["metadata"].get("namespace", namespace) == namespace
                   for d in only(documents, kind))

    if not matches(deployment["spec"]["selector"]["matchLabels"], labels):
        yield f"the {deployment['kind']} does not select its own pods"
    for kind in ("Service", "NetworkPolicy", "PodDisruptionBudget"):
        for document in only(documents, kind):
            name, spec = f"{kind} {document['metadata']['name']}", document["spec"]
            selector = {"Service": lambda: spec["selector"], "NetworkPolicy": lambda: spec["podSelector"]["matchLabels"],
                        "PodDisruptionBudget": lambda: spec["selector"]["matchLabels"]}[kind]()
            if not matches(selector, labels):
                yield f"{name} selects no pod of ours"
            if document["metadata"]["namespace"] != namespace:
                yield f"{name} is in another namespace than the pods"
            if kind == "Service":
                for port in spec["ports"]:
                    if port["targetPort"] not in ports:
                        yield f"{name}: no container port {port['targetPort']}"
                    protocol = "grpc-" if port["targetPort"] == "grpc" else "http-"
                    if not f"{port['name']}-".startswith(protocol):
                        yield f"{name}: port {port['name']} should start with {protocol}"
            if kind == "NetworkPolicy":
                allowed = {p["port"] for rule in spec["ingress"] for p in rule["ports"]}
                if allowed != set(ports.values()):
                    yield f"{name} admits to {sorted(allowed)}, the container has {sorted(ports.values())}"
                if not all(rule.get("from") for rule in spec["ingress"]):
                    yield f"{name} admits anyone"
    if not named("ServiceAccount", pod["serviceAccountName"]):
        yield f"no ServiceAccount {pod['serviceAccountName']}"
    for probe in ("readinessProbe", "livenessProbe"):
        action = container[probe].get("httpGet") or container[probe]["grpc"]
        if not known(action["port"]):
            yield f"{probe}: no container port {action['port']}"
    if int(notes["prometheus.io/port"]) != ports["metrics"]:
        yield "prometheus.io/port is not the metrics port"
    priority = pod.get("priorityClassName", "system-")
    if not priority.startswith("system-") and priority not in [d["metadata"]["name"]
                                                               for d in only(documents, "PriorityClass")]:
        yield f"no PriorityClass {priority}"
    volumes = {v["name"]: v for v in pod["volumes"]}
    mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    if volumes.keys() != mounts.keys():
        yield f"volumes {sorted(volumes)} and mounts {sorted(mounts)} differ"
    for volume in volumes.values():
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim is not None and not named("PersistentVolumeClaim", claim):
            yield f"no PersistentVolumeClaim {claim}"
        if claim is not None and (deployment["spec"]["strategy"] != {"type": "Recreate"}
                                  or deployment["spec"]["replicas"] != 1):
            yield "a volume with one writer wants Recreate and one replica"
        room = volume.get("emptyDir", {}).get("sizeLimit") or next(
            (d["spec"]["resources"]["requests"]["storage"] for d in only(documents, "PersistentVolumeClaim")), None)
        flags = flags_of(container)
        total = quantity(flags["rotate-size"]) * (int(flags["rotate-keep"]) + 1)
        if volume["name"] in ("tls", "tokens"):  # tls.py checks these
            continue
        if "secret" in volume:
            yield from secret_problems(documents, flags, volume["secret"]["secretName"], mounts[volume["name"]])
            continue
        if room and not total <= quantity(flags["max-volume-bytes"]) < quantity(room):
            yield f"{total} bytes rotated, {flags['max-volume-bytes']} at most, {room} there: in the wrong order"
    flags = flags_of(container)
    yield from shutdown_problems(documents, pod, flags)
    yield from probe_problems(documents, container)
    yield from memory_problems(container["resources"])
    if container["args"][0] != str(ports["grpc"]):
        yield f"the first argument is not the port {ports['grpc']}"
    for handler in only(documents, "handler"):
        where = f"handler {handler['metadata']['name']}"
        address = handler["spec"]["connection"]["address"]
        host, _, port = address.removeprefix("dns:///").rpartition(":")
        name, _, elsewhere = host.partition(".")
        service = next((s for s in only(documents, "Service") if s["metadata"]["name"] == name
                        and s["metadata"]["namespace"] == (elsewhere or handler["metadata"]["namespace"])), None)
        if service is None:
            yield f"{where}: no Service for {address}"
            continue
        offered = {p["port"]: p["targetPort"] for p in service["spec"]["ports"]}
        if offered.get(int(port)) != "grpc":
            yield f"{where}: {address} is no gRPC port of its Service"
        if service["spec"].get("clusterIP") == "None" and int(port) != ports["grpc"]:
            yield f"{where}: a headless Service translates no port"
        path = handler["spec"].get("params", {}).get("file_path", "")
        if path.startswith("/") and not any(path.startswith(m + "/") for m in mounts.values()):
            yield f"{where}: {path} is on no volume"


def secret_problems(documents, flags, name, mount):
    """The variant has no key in it, and the walkthrough creates the Secret with the file that a flag names."""
    if only(documents, "Secret"):
        yield "a Secret in the manifests: its keys would be everybody's"
    created = re.search(r"kubectl create secret generic (\S+) -n istio-system --from-file=(\S+)\n",
                        Path("docs/walkthrough-istio.md").read_text())
    if created is None or (created[1], f"{mount}/{created[2]}") != (name, flags.get("auth-keys-file")):
        yield f"the walkthrough creates no Secret {name} with the file {flags.get('auth-keys-file')}"


def hardening_problems(documents, seccomp, users):
    """No sidecar, no token, the restricted Pod Security Standard, and our user or none at all."""
    template = workload(documents)["spec"]["template"]
    labels, notes, pod = template["metadata"]["labels"], template["metadata"]["annotations"], template["spec"]
    account = only(documents, "ServiceAccount")[0]
    container, user = pod["containers"][0], pod["securityContext"]
    wanted = [
        ("label sidecar.istio.io/inject", labels.get("sidecar.istio.io/inject"), "false"),
        ("annotation sidecar.istio.io/inject", notes.get("sidecar.istio.io/inject"), "false"),
        ("label istio.io/dataplane-mode", labels.get("istio.io/dataplane-mode"), "none"),
        ("the pod's token", pod.get("automountServiceAccountToken"), False),
        ("the account's token", account.get("automountServiceAccountToken"), False),
        ("runAsNonRoot", user.get("runAsNonRoot"), True),
        *((key, user.get(key), 65532 if users else None) for key in ("runAsUser", "runAsGroup", "fsGroup")),
        ("allowPrivilegeEscalation", container["securityContext"].get("allowPrivilegeEscalation"), False),
        ("readOnlyRootFilesystem", container["securityContext"].get("readOnlyRootFilesystem"), True),
        ("capabilities", container["securityContext"].get("capabilities"), {"drop": ["ALL"]}),
    ]
    if seccomp:
        wanted.append(("seccompProfile", user.get("seccompProfile"), {"type": "RuntimeDefault"}))
    yield from (f"{what} is {found!r}, wanted {want!r}" for what, found, want in wanted if found != want)
    # Of the pod, and of each of its containers.
    if not users and re.search(r"'(runAsUser|runAsGroup|fsGroup|supplementalGroups)'|65532", str(template)):
        yield "a user or group is left"
    yield from (f"{key} is shared with the host" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key))
    for volume in pod["volumes"]:
        if not volume.keys() - {"name"} <= {"emptyDir", "persistentVolumeClaim", "secret", "configMap"}:
            yield f"volume {volume['name']} is of a kind that is not restricted"
