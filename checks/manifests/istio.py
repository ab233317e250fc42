"""What a variant has for Istio without Mixer: its kinds, and the mesh configuration beside it."""

import re
from pathlib import Path

import yaml

MESH = Path("manifests/istio/mesh-config.yaml")
ROOT_NAMESPACE = "istio-system"
ACCESS_LOG = {"envoyHttpAls", "envoyOtelAls"}
# Keys of each kind of provider, as Istio's API has them.
PROVIDERS = {
    "envoyHttpAls": {"service", "port", "logName", "filterStateObjectsToLog", "additionalRequestHeadersToLog",
                     "additionalResponseHeadersToLog", "additionalResponseTrailersToLog"},
    "envoyOtelAls": {"service", "port", "logName", "logFormat"},
    "envoyExtAuthzGrpc": {"service", "port", "timeout", "failOpen", "clearRouteCache", "statusOnError",
                          "includeRequestBodyInCheck"},
}
KINDS = {
    ("telemetry.istio.io/v1", "Telemetry"): {"selector", "targetRefs", "tracing", "metrics", "accessLogging"},
    ("security.istio.io/v1", "AuthorizationPolicy"): {"selector", "targetRefs", "rules", "action", "provider"},
    ("networking.istio.io/v1", "DestinationRule"): {"host", "trafficPolicy", "subsets", "exportTo", "workloadSelector"},
}


def is_istios(document):
    return document["apiVersion"].split("/")[0].endswith(".istio.io") and not document["apiVersion"].startswith("config.")


def kind_problems(document):
    """One object of Istio's kinds, by itself."""
    known = KINDS.get((document["apiVersion"], document["kind"]))
    if known is None:
        yield f"{document['apiVersion']} {document['kind']}: no such kind, they are {sorted(KINDS)}"
        return
    yield from (f"spec.{key} is not known" for key in document["spec"].keys() - known)
    if document["kind"] == "AuthorizationPolicy" and document["spec"].get("action") != "CUSTOM":
        yield f"the action is {document['spec'].get('action')}: only CUSTOM asks anyone"


def mesh():
    """The documented providers by name: the kind of each, and its settings."""
    providers = yaml.safe_load(MESH.read_text())["meshConfig"]["extensionProviders"]
    return {p["name"]: next((k, v) for k, v in p.items() if k != "name") for p in providers}


def provider_problems(documents, providers):
    """Each provider by itself, and against the Service of the variant."""
    services = {f"{d['metadata']['name']}.{d['metadata']['namespace']}.svc.cluster.local": d for d in documents if d["kind"] == "Service"}
    for name, (kind, settings) in providers.items():
        where = f"provider {name}"
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
            yield f"{where}: newer pilots refuse this name"
        if kind not in PROVIDERS:
            yield f"{where}: {kind} is none of {sorted(PROVIDERS)}"
            continue
        yield from (f"{where}: {key} is not known" for key in settings.keys() - PROVIDERS[kind])
        port = next((p for p in services.get(settings["service"], {"spec": {"ports": []}})["spec"]["ports"]
                     if p["port"] == settings["port"]), None)
        if port is None or port["targetPort"] != "grpc":
            yield f"{where}: {settings['service']}:{settings['port']} is no gRPC port of a Service"
        elif port.get("appProtocol") != "grpc" or not re.match(r"grpc($|-)", port["name"]):
            yield f"{where}: Envoy takes the port {port['name']} for HTTP/1.1 or TCP"
        if kind == "envoyExtAuthzGrpc" and (settings.get("timeout"), settings.get("statusOnError")) != ("1s", "503"):
            yield f"{where}: a caller would wait 600s, or take an outage for a denial"


def problems(documents, providers=None):
    """Whether what names a provider names one that serves it."""
    ours = [d for d in documents if is_istios(d)]
    if not ours:
        return
    providers = providers or mesh()
    yield from provider_problems(documents, providers)
    for document in ours:
        where, spec = f"{document['kind']} {document['metadata']['name']}", document["spec"]
        if document["kind"] == "DestinationRule":  # it names none
            continue
        if document["kind"] == "Telemetry":
            named = [p["name"] for log in spec["accessLogging"] for p in log["providers"]]
            if len(named) != 1:
                yield f"{where}: every provider logs everything: {named}"
            wanted = ACCESS_LOG
            if document["metadata"]["namespace"] != ROOT_NAMESPACE:
                yield f"{where}: not in the root namespace, so not for the mesh"
        else:
            named, wanted = [spec["provider"]["name"]], {"envoyExtAuthzGrpc"}
        yield from (f"{where}: {name} is no provider of {sorted(wanted)}" for name in named
                    if providers.get(name, ("",))[0] not in wanted)
