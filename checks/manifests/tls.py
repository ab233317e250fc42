"""TLS in a variant: the adapter's flags, image and Secrets, and the settings of its callers."""

import re
from pathlib import Path

import references

PAGE = Path("docs/tls.md")
PATHS = ("tls-cert", "tls-key", "tls-client-ca", "caller-tokens-file")
MIXER = "istio.istio-mixer-service-account"
# Secrets that others create, and their files.
FOREIGN = {MIXER: {"cert-chain.pem", "key.pem", "root-cert.pem"}}
# What a handler's `connection.authentication` may have, by mode.
AUTHENTICATION = {
    "mutual": {"privateKey", "clientCertificate", "caCertificates", "serverName"},
    "tls": {"caCertificates", "tokenPath", "oauth", "authHeader", "customHeader", "serverName"},
}
# What Mixer's pods of a kind mount.
ADAPTER_SECRETS = {"checks": "/var/run/secrets/istio.io/policy/adapter/", "reports": "/var/run/secrets/istio.io/telemetry/adapter/"}
DESTINATION = {"mode", "clientCertificate", "privateKey", "caCertificates", "credentialName", "subjectAltNames", "sni"}


def created(name):
    """The files of a Secret that the page creates; empty if it creates none."""
    made = re.search(rf"^kubectl create secret generic {re.escape(name)} (.*)$", re.sub(r"\\\n\s*", "", PAGE.read_text()), re.M)
    return set(re.findall(r"--from-file=([\w.-]+)", made[1])) if made else set()


def names_of_server():
    """The DNS names in the certificates that the page makes."""
    return set(re.findall(r"(?:DNS:|^  - )(mygrpcadapter[\w.-]*)", PAGE.read_text(), re.M))


def problems(documents):
    """Whether all that belongs to TLS fits together."""
    container = references.container_of(documents)
    flags = references.flags_of(container)
    has_tls = "tls-cert" in flags
    if container["image"].endswith("-tls") != has_tls:
        yield f"the image is {container['image']}, and the flags are {sorted(flags)}"
    yield from file_problems(documents, flags)
    callers = [*references.only(documents, "handler"), *references.only(documents, "Telemetry")]
    if has_tls and not callers:
        yield "there is no caller"
    for handler in references.only(documents, "handler"):
        yield from (f"handler {handler['metadata']['name']}: {p}" for p in handler_problems(documents, handler, flags))
    rules = references.only(documents, "DestinationRule")
    if references.only(documents, "Telemetry") and len(rules) != has_tls:
        yield f"{len(rules)} DestinationRules, TLS: {has_tls}"
    for rule in rules:
        yield from (f"DestinationRule {rule['metadata']['name']}: {p}" for p in rule_problems(documents, rule, flags))
    if has_tls:
        probes = [container[probe].get("httpGet", {}).get("port") for probe in ("readinessProbe", "livenessProbe")]
        if probes != ["metrics", "metrics"]:
            yield f"the kubelet's probes know no TLS, and ask the ports {probes}"


def file_problems(documents, flags):
    """Each flag names a file of a mounted Secret, and each such Secret exists."""
    pod = references.workload(documents)["spec"]["template"]["spec"]
    mounts = {m["name"]: m for m in pod["containers"][0]["volumeMounts"]}
    secrets = {v["name"]: v["secret"] for v in pod["volumes"] if v["name"] in ("tls", "tokens")}
    files = set()
    for volume, secret in secrets.items():
        there = FOREIGN.get(secret["secretName"]) or created(secret["secretName"])
        if not there:
            yield f"{PAGE} does not create the Secret {secret['secretName']}"
        items = {item["key"]: item["path"] for item in secret.get("items", [])} or {name: name for name in there}
        yield from (f"Secret {secret['secretName']} has no {key}" for key in items.keys() - there)
        files |= {f"{mounts[volume]['mountPath']}/{path}" for path in items.values()}
        if (mounts[volume].get("readOnly"), secret.get("defaultMode")) != (True, 0o440):
            yield f"volume {volume} is for others than the adapter's group"
    yield from (f"--{flag}={flags[flag]}: no such file in {sorted(files)}" for flag in PATHS if flag in flags and flags[flag] not in files)


def handler_problems(documents, handler, flags):
    """Mixer's settings against the adapter's."""
    modes = handler["spec"]["connection"].get("authentication", {})
    if len(modes) != ("tls-cert" in flags):
        yield f"authentication {sorted(modes)}, and the adapter's flags are {sorted(flags)}"
        return
    for mode, settings in modes.items():
        yield from (f"authentication.{mode}.{key} is not known" for key in settings.keys() - AUTHENTICATION.get(mode, set()))
        if mode == "mutual":
            yield from mutual_problems(documents, settings, flags)
        else:
            place = ADAPTER_SECRETS["checks" if handler["metadata"]["name"] == "authorization" else "reports"]
            if not all(settings[key].startswith(place) for key in ("caCertificates", "tokenPath")):
                yield f"Mixer's pods do not mount {settings}"
            if settings.get("authHeader") != "BEARER" or "caller-tokens-file" not in flags:
                yield "the adapter takes a token as authorization: Bearer"
            if settings.get("serverName") not in names_of_server():
                yield f"no certificate of {PAGE} has the name {settings.get('serverName')}"


def mutual_problems(documents, settings, flags):
    paths = [settings.get(key) for key in ("privateKey", "clientCertificate", "caCertificates")]
    if paths != ["/etc/certs/key.pem", "/etc/certs/cert-chain.pem", "/etc/certs/root-cert.pem"]:
        yield f"Mixer's pods do not mount {paths}"
    if "tls-client-ca" not in flags or not flags.get("tls-client-name", "").endswith("/sa/istio-mixer-service-account"):
        yield "the adapter does not ask for Mixer's certificate"
    secrets = [v["secret"]["secretName"] for v in references.workload(documents)["spec"]["template"]["spec"]["volumes"] if v["name"] == "tls"]
    if secrets != [MIXER]:
        yield f"Mixer wants its own SPIFFE id in the certificate, which is from {secrets}"


def rule_problems(documents, rule, flags):
    """A proxy's settings against the adapter's."""
    hosts = {f"{d['metadata']['name']}.{d['metadata']['namespace']}.svc.cluster.local": d for d in references.only(documents, "Service")}
    service = hosts.get(rule["spec"]["host"])
    if service is None:
        yield f"no Service {rule['spec']['host']}"
        return
    grpc = {p["port"] for p in service["spec"]["ports"] if p["targetPort"] == "grpc"}
    settings = rule["spec"]["trafficPolicy"].get("portLevelSettings", [])
    if {s["port"]["number"] for s in settings} != grpc or "tls" in rule["spec"]["trafficPolicy"]:
        yield f"TLS is for the ports {sorted(grpc)}, and for no other"
    for tls in (s["tls"] for s in settings):
        yield from (f"tls.{key} is not known" for key in tls.keys() - DESTINATION)
        is_mutual = {"clientCertificate", "privateKey"} <= tls.keys()
        if tls["mode"] != ("MUTUAL" if "tls-client-ca" in flags else "SIMPLE") or is_mutual != (tls["mode"] == "MUTUAL"):
            yield f"mode {tls['mode']}, and the adapter's flags are {sorted(flags)}"
        if "caCertificates" not in tls or not set(tls.get("subjectAltNames", [])) & names_of_server():
            yield "proxies would not verify our certificate"
