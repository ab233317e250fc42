"""What a variant has for the Prometheus Operator: its kinds, and the pods they are about."""

from pathlib import Path

import yaml

import references

GROUP = "monitoring.coreos.com/v1"
# The keys of each kind that are used here, as the operator's API has them.
KEYS = {"PodMonitor": {"selector", "namespaceSelector", "podMetricsEndpoints"}, "PrometheusRule": {"groups"}}
ENDPOINT = {"port", "path", "interval", "honorLabels"}
# The label of the operator's own Prometheus.
PROMETHEUS = {"app.kubernetes.io/name": "prometheus"}


def is_monitoring(document):
    return document["apiVersion"].split("/")[0] == "monitoring.coreos.com"


def kind_problems(document):
    """One object of the operator's kinds, by itself."""
    if document["apiVersion"] != GROUP or document["kind"] not in KEYS:
        yield f"{document['apiVersion']} {document['kind']}: no such kind, they are {GROUP} {sorted(KEYS)}"
        return
    yield from (f"spec.{key} is not known" for key in document["spec"].keys() - KEYS[document["kind"]])
    if document["kind"] == "PrometheusRule" and document["spec"] != yaml.safe_load(Path("samples/alerts.yaml").read_text()):
        yield "the rules are not those of samples/alerts.yaml"


def problems(documents):
    """Whether the monitors find the pods, and get through to them."""
    ours = [d for d in documents if is_monitoring(d)]
    if not ours:
        return
    workload = references.workload(documents)
    labels = workload["spec"]["template"]["metadata"]["labels"]
    ports = {p["name"] for p in references.container_of(documents)["ports"]}
    for document in ours:
        where, spec = f"{document['kind']} {document['metadata']['name']}", document["spec"]
        if document["metadata"]["namespace"] != workload["metadata"]["namespace"]:
            yield f"{where} is in another namespace than the pods"
        if document["kind"] != "PodMonitor":
            continue
        if not references.matches(spec["selector"]["matchLabels"], labels):
            yield f"{where} selects no pod of ours"
        for endpoint in spec["podMetricsEndpoints"]:
            yield from (f"{where}: {key} is not known" for key in endpoint.keys() - ENDPOINT)
            if endpoint["port"] not in ports:
                yield f"{where}: no container port {endpoint['port']}"
            if not endpoint.get("honorLabels"):
                yield f"{where}: the target's label `endpoint` would replace the histogram's"
    admitted = [peer for d in documents if d["kind"] == "NetworkPolicy" for rule in d["spec"]["ingress"]
                if rule["ports"][0]["port"] == 9145 for peer in rule["from"]]
    if {"namespaceSelector": {}, "podSelector": {"matchLabels": PROMETHEUS}} not in admitted:
        yield "the NetworkPolicy does not admit the operator's Prometheus"
