"""Compares Envoy's own log of the same requests with the adapter's file, in text and JSON."""

import json
import socket
from collections import Counter

import client
from adapter import Adapter
from client import ask
from envoy import LOGGED, Envoy, without_h2
from processes import until

NOT_CHOSEN = "of a request that Envoy answers itself an entry has no cluster: no host was chosen"
SANITIZED = "Envoy sends '!' for a byte that is no UTF-8 where its own line has it as it is"
ESCAPED = "Envoy escapes nothing, so that a client can forge fields"
NO_METHOD = "an entry has no other methods than HTTP's own"

# By listener: Envoy's part of a line, our part, the reason.
TEXT = {
    "http": [
        (b'"agent "quoted" \\ 1.0"', b'"agent \\"quoted\\" \\\\ 1.0"', ESCAPED),
        (b'"caf\xe9"', b'"caf!"', SANITIZED),
        (b'"id-\xff"', b'"id-!"', SANITIZED),
        (b'"PROPFIND /dav ', b'"- /dav ', NO_METHOD),
    ],
    "tcp": [],
    "otel": [],
}
# The same in JSON: member, Envoy's value, our value, the reason.
MEMBERS = [
    ("user_agent", "caf\u00e9", "caf!", SANITIZED),
    ("request_id", "id-\u00ff", "id-!", SANITIZED),
    ("method", "PROPFIND", None, NO_METHOD),
]


def requests(port):
    """Sends the requests of the comparison to an HTTP listener. Yields unexpected answers."""
    for method in "GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "HEAD":
        yield from expected(200, ask(port, f"/{method.lower()}?a=b&c=d", method, b"x" * 1000 if method == "POST" else None))
    yield from expected(200, ask(port, "/headers", User_Agent="curl/8", X_Forwarded_For="198.51.100.4, 10.0.0.1",
                                 X_Request_Id="mine", Host="shop.example:8080"))
    yield from expected(200, ask(port, "/quoted", User_Agent='agent "quoted" \\ 1.0'))
    yield from expected(200, ask(port, "/latin1", User_Agent="caf\u00e9", X_Request_Id="id-\u00ff"))
    yield from expected(200, ask(port, "/" + "long" * 2000))
    yield from expected(200, ask(port, "/dav", "PROPFIND"))
    for version in b"1.0", b"1.1":
        request = b"GET /version HTTP/%s\r\nHost: a.example\r\nConnection: close\r\n\r\n" % version
        # Envoy answers 426 to HTTP/1.0 unless configured for it.
        if b" 200 " not in (answer := client.raw(port, request)) and version == b"1.1":
            yield f"HTTP/{version} {answer[:60]}"
    if b" 400 " not in (answer := client.raw(port, b"GET / HTTP/9\r\n\r\n")):
        yield f"what is no HTTP got {answer[:60]}"
    client.reset(port, b"POST /given-up HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n1234567890")
    with client.Load(port, 40, 1, path="/many") as load:
        yield from load.problems()


def denied(port):
    yield from expected(401, ask(port, "/private"))
    yield from expected(403, ask(port, "/private/a", X_Custom_Token="wrong"))
    yield from expected(200, ask(port, "/private/a", X_Custom_Token="key"))


def connections(port):
    """Opens the connections of the comparison to a TCP listener."""
    yield from expected(200, ask(port, "/through-tcp"))
    client.reset(port, b"GET / HTTP/1.1\r\n")
    with socket.create_connection(("127.0.0.1", port)):
        pass


def expected(status, answer):
    if answer[0] != status:
        yield f"{status} was to come, and {answer[0]} came: {answer[2][:80]}"


def replaced(line, listener, used):
    """Envoy's line, with the expected differences."""
    for place, (part, by, _) in enumerate(TEXT[listener]):
        if part in line:
            used.add((listener, place))
            line = line.replace(part, by)
    # If ext_authz denies a request, or Envoy rejects it, the entry lacks the route's cluster.
    if listener != "otel" and b' "-" app - ' in line:
        used.add(NOT_CHOSEN)
        line = line.replace(b' "-" app - ', b' "-" - - ')
    return line


def differences(wanted, found, kind):
    wanted, found = Counter(wanted), Counter(found)
    for what, lines in (f"{kind}: Envoy wrote", wanted - found), (f"{kind}: the adapter wrote", found - wanted):
        yield from (f"{what} {line}" for line in lines)


def traffic(envoy):
    for listener in "http", "otel":
        yield from requests(envoy.ports[listener])
    yield from denied(envoy.ports["http"])
    yield from connections(envoy.ports["tcp"])


def settled(envoy, adapter):
    """Waits until Envoy has written every entry to its files, and the adapter every one of them."""
    def counts():
        files = (sum(len(envoy.lines(listener, kind)) for listener in LOGGED) for kind in ("text", "json"))
        # Envoy counts as sent what it has logged, but no entries of TCP.
        sent = sum(envoy.sent(log)[0] for log in ("grpc", "open_telemetry")) + len(envoy.lines("tcp"))
        return (*files, len(adapter.lines()), sent)

    try:
        until(lambda: len(set(counts())) == 1 and envoy.stats("http.http.downstream_rq_active")[""] == 0, "", 20)
    except RuntimeError:
        yield "Envoy has {} lines of text and {} of JSON, the adapter {}, of {} entries".format(*counts())


def text_is_envoys_own(binary, directory):
    """The lines are Envoy's own, except for the differences above, and each difference occurs."""
    keys = directory / "keys"
    keys.write_text("key\n")
    with Adapter(binary, directory, f"--auth-keys-file={keys}") as adapter, Envoy(directory, adapter.port) as envoy:
        yield from traffic(envoy)
        yield from settled(envoy, adapter)
        used = set()
        wanted = [replaced(line, listener, used) for listener in LOGGED for line in envoy.lines(listener)]
        yield from differences(wanted, adapter.lines(), "text")
        every = {NOT_CHOSEN, *((listener, at) for listener in TEXT for at in range(len(TEXT[listener])))}
        yield from (f"no request shows this difference: {one}" for one in every - used)
        # The histogram counts only the ends of HTTP requests.
        counted = adapter.metric(r"http_request_seconds_histogram_count\{.*\}")
        if counted != len(envoy.lines("http")):
            yield f"the histogram has {counted} requests, Envoy {len(envoy.lines('http'))}"


def json_is_envoys_own(binary, directory):
    """Istio's members are Envoy's in the JSON for HTTP and TCP; the body of an OTLP record is the text."""
    keys = directory / "keys"
    keys.write_text("key\n")
    flags = f"--auth-keys-file={keys}", "--format=json"
    with Adapter(binary, directory, *flags) as adapter, Envoy(directory, adapter.port) as envoy:
        yield from traffic(envoy)
        yield from settled(envoy, adapter)
        found = [json.loads(line) for line in adapter.lines()]
        entries = [{name: one[name] for name in sorted(one) if name in names(envoy)} for one in found if "body" not in one]
        wanted = [members(json.loads(line)) for listener in ("http", "tcp") for line in envoy.lines(listener, "json")]
        yield from differences(map(json.dumps, wanted), map(json.dumps, entries), "json")
        if any(one["namespace"] != "default" or one["pod"] != "demo-0" for one in found if "body" not in one):
            yield "namespace and pod are not those of the node"
        bodies = [one["body"].rstrip("\n") for one in found if "body" in one]
        yield from differences([line.decode(errors="replace").rstrip("\n") for line in envoy.lines("otel")], bodies, "OTLP bodies")


def a_file_for_each_pod(binary, directory):
    """The values of placeholders come from Envoy's node."""
    path = "{namespace}/{pod}/{log_name}.log"
    with Adapter(binary, directory, f"--access-log={path}") as adapter, Envoy(directory, adapter.port) as envoy:
        ask(envoy.ports["http"])
        ask(envoy.ports["tcp"])
        wanted = {f"default/demo-0/{kind}_envoy_accesslog.log" for kind in ("http", "tcp")}
        files = until(lambda: (seen := sorted(str(path.relative_to(adapter.volume)) for path in adapter.volume.rglob("*.log")))
                      and wanted <= set(seen) and seen, f"the files {sorted(wanted)}", 20)
        yield from (f"{file} has {len(adapter.lines(file))} lines" for file in files if len(adapter.lines(file)) != 1)


def a_port_that_envoy_takes_for_http_1_is_named(binary, directory):
    """The most common mistake: the log names the fix, once."""
    with Adapter(binary, directory) as adapter, Envoy(directory, adapter.port, reach=without_h2) as envoy:
        for _ in range(3):
            ask(envoy.ports["http"], "/private", X_Custom_Token="key")
        until(lambda: "appProtocol: grpc" in adapter.said(), "the log names the mistake", 20)
        if adapter.said().count("appProtocol: grpc") != 1:
            yield f"it says so more than once: {adapter.said()[-900:]}"


def names(envoy):
    return json.loads(envoy.lines("http", "json")[0]).keys()


def members(one):
    """Envoy's object, with the expected differences."""
    for name, envoys, ours, _ in MEMBERS:
        if one[name] == envoys:
            one[name] = ours
    if one["upstream_cluster"] and one["upstream_host"] is None:
        one["upstream_cluster"] = None
    return one
