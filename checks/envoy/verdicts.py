"""ext_authz: responses to Envoy's clients for each verdict, and during changes of keys and adapters."""

import contextlib
import copy
import os
import signal
import socket

from adapter import Adapter
from authority import Authority, Secret, context, identity_files
from client import Load, ask
from envoy import Envoy, file_log, filter_of, manager
from processes import free_port, until

PATH = "/private"
FLAGS = (
    "--auth-header=x-api-key", "--auth-header=authorization", "--auth-remove-header",
    "--auth-missing-code=407", "--auth-denied-code=404", "--auth-denied-body={\"error\":\"no\"}",
    "--auth-denied-content-type=application/json",
)
CHALLENGE = ("--auth-www-authenticate=Bearer realm=\"mesh\"", "--auth-denied-code=401")
TOKEN = "x-custom-token"

# The adapter's flags, the request's headers, and the answer: status, body, some headers.
TABLE = [
    ((), {}, (401, b"", {})),
    ((), {TOKEN: "wrong"}, (403, b"", {})),
    ((), {TOKEN: ""}, (401, b"", {})),
    ((), {TOKEN: "key"}, (200, b"hello\n", {})),
    ((), {TOKEN: "second key"}, (200, b"hello\n", {})),
    ((), {TOKEN: "KEY"}, (403, b"", {})),
    ((), {TOKEN: "ke"}, (403, b"", {})),
    ((), {TOKEN: "principal spiffe://a/b"}, (403, b"", {})),
    # Envoy joins repeated headers: the result is one wrong token.
    ((), {TOKEN: ["wrong", "key"]}, (403, b"", {})),
    ((), {TOKEN: ["key", "key"]}, (403, b"", {})),
    (FLAGS, {}, (407, b'{"error":"no"}', {"content-type": "application/json"})),
    (FLAGS, {"x-api-key": "wrong"}, (404, b'{"error":"no"}', {"content-type": "application/json"})),
    (FLAGS, {"x-api-key": "key"}, (200, b"hello\n", {})),
    (FLAGS, {"authorization": "Bearer key"}, (200, b"hello\n", {})),
    (FLAGS, {"authorization": "Bearer wrong"}, (404, b'{"error":"no"}', {})),
    (CHALLENGE, {}, (401, b"", {"www-authenticate": 'Bearer realm="mesh"'})),
    (CHALLENGE, {TOKEN: "wrong"}, (401, b"", {"www-authenticate": 'Bearer realm="mesh"'})),
]


def answer_differs(what, answer, wanted):
    status, body, headers = wanted
    seen = answer[0], answer[2], {name: answer[1].get(name) for name in headers}
    if seen != (status, body, headers):
        yield f"{what}: {seen}, wanted {wanted}"


def two_of_a_kind(headers):
    """A request's headers as pairs; a list of values repeats its header."""
    return [(name, value) for name, values in headers.items() for value in (values if isinstance(values, list) else [values])]


def each_verdict_comes_to_what_the_flags_say(binary, directory):
    keys = directory / "keys"
    keys.write_text("key\nsecond key\nprincipal spiffe://a/b\n")
    port = free_port()
    with Envoy(directory, port) as envoy:
        for flags in dict.fromkeys(flags for flags, *_ in TABLE):
            with Adapter(binary, directory, f"--auth-keys-file={keys}", *flags, port=port):
                reached(envoy)
                for _, headers, wanted in (row for row in TABLE if row[0] == flags):
                    yield from answer_differs(f"{flags} {headers}", ask(envoy.ports["http"], PATH, headers=two_of_a_kind(headers)), wanted)
                if ask(envoy.ports["http"])[0] != 200:
                    yield "what no policy selects is denied, too"


def a_token_is_removed_and_a_reason_is_logged(binary, directory):
    """`--auth-remove-header` hides the token from the application, and Envoy's log can show the reason."""
    token, reason = directory / "token", directory / "reason"

    def change(listeners):
        for name, path, text in (
            ("app", token, "%REQ(X-CUSTOM-TOKEN)%\n"),
            ("http", reason, "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:reason)%\n")):
            log = file_log(path, {"text_format_source": {"inline_string": text}})
            manager(listeners[name]).setdefault("access_log", []).append(log)

    keys, port = directory / "keys", free_port()
    keys.write_text("key\n")
    with Envoy(directory, port, change=change) as envoy:
        for flags in (), ("--auth-remove-header",):
            with Adapter(binary, directory, f"--auth-keys-file={keys}", *flags, port=port):
                reached(envoy)
                ask(envoy.ports["http"], PATH, X_Custom_Token="key")
        seen = until(lambda: len(found := token.read_text().split()) == 2 and found, "two requests arrive")
        if seen != ["key", "-"]:
            yield f"the application saw {seen}, without and with the flag"
        reasons = until(lambda: len(found := reason.read_text().split()) >= 4 and found, "four requests are logged")
        if set(reasons) - {"-"} != {"no_token", "key"}:
            yield f"Envoy logged the reasons {reasons}"


def reached(envoy):
    """Waits until Envoy's checks arrive: it answers 503 for a stopped adapter."""
    until(lambda: ask(envoy.ports["http"], PATH)[0] != 503, "Envoy finds the adapter")


def no_adapter_is_an_outage_and_no_denial(binary, directory):
    """Without an answer, `statusOnError` applies, or the request proceeds with `failOpen`; a denial overrides both."""
    def change(listeners):
        listeners["open"] = copy.deepcopy(listeners["http"])
        listeners["open"]["name"] = "open"
        filter_of(listeners["open"], "envoy.filters.http.ext_authz")["failure_mode_allow"] = True

    keys = directory / "keys"
    keys.write_text("key\n")
    with Adapter(binary, directory, f"--auth-keys-file={keys}") as adapter, Envoy(directory, adapter.port, change=change) as envoy:
        shut, fails_open = envoy.ports["http"], envoy.ports["open"]
        yield from statuses("served", shut, fails_open, 401, 401)
        # Stopped, it accepts connections without answering: the timeout applies.
        adapter.signal(signal.SIGSTOP)
        yield from statuses("no answer", shut, fails_open, 503, 200)
        adapter.signal(signal.SIGCONT)
        until(lambda: ask(shut, PATH)[0] == 401, "it answers again")
        adapter.kill()
        yield from statuses("no adapter", shut, fails_open, 503, 200)


def statuses(what, shut, fails_open, *wanted):
    seen = ask(shut, PATH)[0], ask(fails_open, PATH)[0]
    if seen != wanted:
        yield f"{what}: {seen} without and with failOpen, wanted {wanted}"


def no_keys_deny_everyone(binary, directory):
    with Adapter(binary, directory) as adapter, Envoy(directory, adapter.port) as envoy:
        for headers in {}, {"X_Custom_Token": "abc"}:
            if (status := ask(envoy.ports["http"], PATH, **headers)[0]) not in (401, 403):
                yield f"{headers}: {status}"


def keys_change_without_a_refused_request(binary, directory):
    """The old key, both, the new one, as in changes of a Secret: a caller with a valid key is never refused."""
    keys = directory / "keys"
    put(keys, "old")
    with Adapter(binary, directory, f"--auth-keys-file={keys}") as adapter, Envoy(directory, adapter.port, workers=2) as envoy:
        port = envoy.ports["http"]

        def status(key):
            return ask(port, PATH, X_Custom_Token=key)[0]

        with Load(port, 500, 5, "--header=x-custom-token: old", path=PATH) as load:
            put(keys, "old", "new")
            until(lambda: status("new") == 200, "the new key holds")
            yield from load.problems()
        with Load(port, 500, 5, "--header=x-custom-token: new", path=PATH) as load:
            put(keys, "new")
            until(lambda: status("old") == 403, "the old key holds no more")
            yield from load.problems()


def put(path, *keys):
    """Replaces the file atomically, as the kubelet does."""
    beside = path.with_suffix(".new")
    beside.write_text("".join(f"{key}\n" for key in keys))
    os.replace(beside, path)


def the_audit_file_has_every_check_and_no_token(binary, directory):
    keys = directory / "keys"
    keys.write_text("s3cr3t-key\n")
    flags = f"--auth-keys-file={keys}", "--auth-audit-file=audit.log"
    with Adapter(binary, directory, *flags) as adapter, Envoy(directory, adapter.port) as envoy:
        asked = {"s3cr3t-key": 200, "s3cr3t-guess": 403, None: 401}
        for token, wanted in asked.items():
            headers = {"X_Custom_Token": token} if token else {}
            status = ask(envoy.ports["http"], PATH + "/a?b=c", Host="shop.example", X_Request_Id=f"id-{wanted}", **headers)[0]
            if status != wanted:
                yield f"{token}: {status}"
        records = until(lambda: len(found := adapter.lines("audit.log")) == len(asked) and found, "three records")
        for record, verdict, code in zip(records, ("allow", "deny", "deny"), asked.values()):
            for part in f" verdict={verdict} ", ' method="GET" host="shop.example" path="/private/a" ', f'request_id="id-{code}"':
                if part.encode() not in record:
                    yield f"{part} is not in {record}"
        if any(b"s3cr3t" in line for line in adapter.lines("audit.log") + adapter.lines()) or "s3cr3t" in adapter.said():
            yield "a token got into a file"


def peers(directory):
    """The Secrets of a server and of two peers with SPIFFE identities."""
    mesh = Authority("mesh")
    names = {name: mesh.issue(f"spiffe://cluster.local/ns/default/sa/{name}") for name in ("server", "sleep", "other")}
    return {name: Secret(directory / name, **identity_files(identity, mesh)) for name, identity in names.items()}


def mutual_tls(listener, secret):
    file = {name: {"filename": str(secret.path(name))} for name in ("tls.crt", "tls.key", "ca.crt")}
    listener["filter_chains"][0]["transport_socket"] = {"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_certificates": [{"certificate_chain": file["tls.crt"], "private_key": file["tls.key"]}],
            "validation_context": {"trusted_ca": file["ca.crt"]}}}}


def asked_for_tcp(listeners):
    """Adds Istio's TCP filter for the same provider, before the proxy."""
    http = filter_of(listeners["http"], "envoy.filters.http.ext_authz")
    listeners["tcp"]["filter_chains"][0]["filters"].insert(0, {"name": "ext_authz", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.ext_authz.v3.ExtAuthz",
        "stat_prefix": "tcp.", "transport_api_version": "V3", "grpc_service": http["grpc_service"]}})


def principals_open_tcp_and_http(binary, directory):
    """A peer is admitted by its mTLS identity; on TCP, without headers, only by that."""
    secrets = peers(directory)
    keys = directory / "keys"
    keys.write_text("key\nprincipal spiffe://cluster.local/ns/default/sa/sl*\n")

    def change(listeners):
        for name in "tcp", "http":
            mutual_tls(listeners[name], secrets["server"])
        asked_for_tcp(listeners)

    with Adapter(binary, directory, f"--auth-keys-file={keys}") as adapter, Envoy(directory, adapter.port, change=change) as envoy:
        for listener, name, wanted in (
            ("tcp", "sleep", b"200"), ("tcp", "other", b""), ("http", "sleep", b"200"), ("http", "other", b"401")):
            if (seen := status_by_tls(envoy.ports[listener], secrets[name])) != wanted:
                yield f"{listener} as {name}: {seen}, wanted {wanted}"


def status_by_tls(port, secret):
    """The status for a peer with this certificate; empty if the connection is closed."""
    settings = context(secret, alpn=())
    settings.check_hostname = False
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 30) as plain:
        with settings.wrap_socket(plain) as connection:
            connection.sendall(f"GET {PATH} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            return b"".join(connection.recv(4096).split()[1:2])
    return b""
