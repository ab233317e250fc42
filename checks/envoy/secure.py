"""TLS: Envoy and other clients of a TLS port, with certificates and tokens, and what refused ones are told."""

import socket
import ssl

import grpc
import h2.config
import h2.connection
import h2.events

from adapter import Adapter
from authority import DAY, Authority, Secret, context, identity_files
from client import ask
from comparison import connections, requests, settled
from envoy import LOGGED, Envoy, grpc_services, without_h2
from faults import Scene
from processes import ROOT, until
from verdicts import PATH

SERVER = "mygrpcadapter.istio-system.svc"
PROXY = "spiffe://cluster.local/ns/default/sa/sleep"
MIXER = "spiffe://cluster.local/ns/istio-system/sa/istio-mixer-service-account"
TOKEN = "a-token-of-32-random-characters"
UPSTREAM = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
METRIC = "/metric.HandleMetricService/HandleMetric"
HEALTH = "/grpc.health.v1.Health/Check"
REPORT = (ROOT / "tests/captures/metric/001.bin").read_bytes()
# What Go offered for TLS 1.2 in the time of Mixer, by OpenSSL's names.
CIPHERS_OF_GO = ":".join((
    "ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "AES128-GCM-SHA256"))


class Mesh:
    """The CAs of servers and clients, the adapter's Secret, one of a client, and the files of keys and tokens."""

    def __init__(self, directory):
        self.servers, self.clients = Authority("servers"), Authority("clients")
        self.directory = directory
        self.secret = Secret(directory / "tls", **identity_files(self.servers.issue(SERVER), self.clients))
        self.client = self.secret_of("client", self.clients.issue(PROXY))
        self.keys, self.tokens = directory / "keys", directory / "tokens"
        self.keys.write_text("key\n")
        self.tokens.write_text(f"{TOKEN}\n")

    def secret_of(self, name, identity, *servers):
        return Secret(self.directory / name, **identity_files(identity, *(servers or [self.servers])))

    def simple(self, secret=None):
        """Flags for a server certificate, the adapter's unless given, and for keys."""
        secret = secret or self.secret
        return f"--tls-cert={secret.path('tls.crt')}", f"--tls-key={secret.path('tls.key')}", f"--auth-keys-file={self.keys}"

    def mutual(self, *names):
        """Flags for client certificates, too."""
        return *self.simple(), f"--tls-client-ca={self.secret.path('ca.crt')}", *(f"--tls-client-name={name}" for name in names)

    def with_tokens(self):
        return (f"--caller-tokens-file={self.tokens}",)


def upstream(secret, mutual=True, name=SERVER, version=None):
    """Envoy's settings as from a DestinationRule with mode SIMPLE or MUTUAL, and `subjectAltNames`."""
    file = {name: {"filename": str(secret.path(name))} for name in ("tls.crt", "tls.key", "ca.crt")}
    kind = "URI" if "://" in name else "DNS"
    common = {"alpn_protocols": ["h2"], "validation_context": {
        "trusted_ca": file["ca.crt"], "match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": name}}]}}
    if mutual:
        common["tls_certificates"] = [{"certificate_chain": file["tls.crt"], "private_key": file["tls.key"]}]
    # Envoy's own limit for upstreams is TLS 1.2, and its ciphers are those of 1.2.
    common["tls_params"] = {"tls_minimum_protocol_version": version or "TLSv1_2", "tls_maximum_protocol_version": version or "TLSv1_3"}
    if version == "TLSv1_1":
        common["tls_params"]["cipher_suites"] = ["ECDHE-ECDSA-AES128-SHA"]

    def reach(cluster):
        cluster["transport_socket"] = {"name": "tls", "typed_config": {"@type": UPSTREAM, "sni": SERVER, "common_tls_context": common}}

    return reach


def sends(token):
    """Adds `initial_metadata` to all of Envoy's calls."""
    def change(listeners):
        for service in grpc_services(listeners) if token else ():
            service["initial_metadata"] = [{"key": "authorization", "value": f"Bearer {token}"}]

    return change


def handshakes(adapter, outcome=r"\w+"):
    return adapter.metric(rf'mygrpcadapter_tls_handshakes_total\{{outcome="{outcome}"\}}')


def logs_and_checks_arrive_through_tls(binary, directory):
    """Modes SIMPLE and MUTUAL, without and with a token: each entry is a line, and each check gets its verdict."""
    table = (False, None, "TLSv1_2"), (False, TOKEN, None), (True, None, "TLSv1_2"), (True, TOKEN, None)
    for number, (mutual, token, version) in enumerate(table):
        place = directory / str(number)
        place.mkdir()
        mesh = Mesh(place)
        flags = (*(mesh.mutual(PROXY) if mutual else mesh.simple()), *(mesh.with_tokens() if token else ()))
        with Adapter(binary, place, *flags) as adapter, Envoy(
                place, adapter.port, change=sends(token), reach=upstream(mesh.client, mutual, version=version)) as envoy:
            for listener in "http", "otel":
                yield from requests(envoy.ports[listener])
            yield from connections(envoy.ports["tcp"])
            for headers, wanted in ({"X_Custom_Token": "key"}, 200), ({}, 401):
                if (status := ask(envoy.ports["http"], PATH, **headers)[0]) != wanted:
                    yield f"{flags}: a check got {status}, wanted {wanted}"
            yield from settled(envoy, adapter)
            if not handshakes(adapter) == handshakes(adapter, "ok") > 0:
                yield f"{flags}: {handshakes(adapter)} handshakes, {handshakes(adapter, 'ok')} succeeded"
            yield from secrets_in(adapter)


def secrets_in(adapter):
    if TOKEN in adapter.said():
        yield "a token is in the log"


def a_rotation_under_load_fails_no_check_and_loses_no_line(binary, directory):
    """New certificates, from a new CA as well, while connections end for their age."""
    mesh = Mesh(directory)
    successor = Authority("servers, the next")
    client = mesh.secret_of("trusting-both", mesh.clients.issue(PROXY), mesh.servers, successor)
    flags = (*mesh.mutual(PROXY), *mesh.with_tokens(), "--max-connection-age=1s")
    with Scene(binary, directory, *flags, workers=2, change=sends(TOKEN), reach=upstream(client)) as scene:
        scene.load(8, "otel")
        scene.load(8, "http", "--header=x-custom-token: key", path=PATH)
        for issuer in mesh.servers, successor, mesh.servers, successor:
            scene.written(400)
            identity = issuer.issue(SERVER, lasts=DAY)
            # The CA of clients is replaced together with another one.
            mesh.secret.put(**identity_files(identity, mesh.clients, Authority("another")))
            until(lambda: shown(scene.adapter, client) == identity.der, "the new certificate is shown", 20)
        yield from scene.finish()
        yield from scene.nothing_is_lost("http", "otel")
        if scene.adapter.said().count("read the certificates again") != 4:
            yield f"it has not said four times that it read them again: {scene.adapter.said()[-900:]}"
        if handshakes(scene.adapter) != handshakes(scene.adapter, "ok"):
            yield f"{handshakes(scene.adapter)} handshakes, {handshakes(scene.adapter, 'ok')} succeeded"


def shown(adapter, secret):
    """The adapter's certificate, as a client gets it."""
    with connected(adapter.port, context(secret)) as connection:
        return connection.getpeercert(binary_form=True)


def connected(port, settings):
    connection = socket.create_connection(("127.0.0.1", port), 20)
    try:
        return settings.wrap_socket(connection, server_hostname=SERVER)
    except OSError:
        connection.close()
        raise


def refusals(mesh):
    """What is wrong, the adapter's flags, Envoy's settings, the outcome of the handshake, the line."""
    stranger = Authority("strangers")
    expired = mesh.secret_of("expired", mesh.clients.issue(PROXY, lasts=-DAY))
    unknown = mesh.secret_of("unknown", stranger.issue(PROXY))
    other = mesh.secret_of("other", mesh.clients.issue(PROXY + "-not"))
    distrust = mesh.secret_of("distrust", mesh.clients.issue(PROXY), stranger)
    mutual = mesh.mutual(PROXY)
    late = mesh.secret_of("late", mesh.servers.issue(SERVER, lasts=-DAY), mesh.clients)
    good = upstream(mesh.client)
    yield "plaintext", mutual, {}, "plaintext", "a client speaks plaintext to the TLS port; let it use TLS"
    yield "HTTP/1", mesh.simple(), {"reach": http_1(mesh)}, "alpn", 'a client does not offer HTTP/2; give the Service\'s port "appProtocol: grpc"'
    yield "TLS 1.1", mutual, {"reach": upstream(mesh.client, version="TLSv1_1")}, "incompatible", "it needs 1.2 or 1.3"
    yield "no certificate", mutual, {"reach": upstream(mesh.client, mutual=False)}, "no_certificate", "a client presents no certificate"
    yield "a certificate of another CA", mutual, {"reach": upstream(unknown)}, "unknown_issuer", "no CA in --tls-client-ca has issued"
    yield "an expired certificate", mutual, {"reach": upstream(expired)}, "expired", "a client's certificate is not valid now"
    yield "another name", mutual, {"reach": upstream(other)}, "name", f'or give it another certificate names="{PROXY}-not"'
    line = "a client refuses our certificate"
    yield "another CA of servers", mutual, {"reach": upstream(distrust)}, "refused_by_peer", line
    yield "another name of the server", mutual, {"reach": upstream(mesh.client, name=MIXER)}, "refused_by_peer", line
    yield "an expired certificate of the server", mesh.simple(late), {"reach": upstream(mesh.client, mutual=False)}, "refused_by_peer", line
    tokens = (*mutual, *mesh.with_tokens())
    line = "a caller without a valid token is refused"
    yield "no token", tokens, {"reach": good}, "ok", line
    yield "a wrong token", tokens, {"reach": good, "change": sends("wrong")}, "ok", line


def http_1(mesh):
    """TLS to a port that Envoy does not know as gRPC: http/1.1 in the ALPN."""
    def reach(cluster):
        upstream(mesh.client, mutual=False)(cluster)
        without_h2(cluster)
        del cluster["transport_socket"]["typed_config"]["common_tls_context"]["alpn_protocols"]

    return reach


def a_refused_envoy_gets_no_verdict_and_the_log_says_what_to_do(binary, directory):
    """It writes nothing, allows nothing, and is logged once, with its address."""
    mesh = Mesh(directory)
    for number, (what, flags, envoy_settings, outcome, line) in enumerate(refusals(mesh)):
        place = directory / str(number)
        place.mkdir()
        with Adapter(binary, place, *flags) as adapter, Envoy(place, adapter.port, **envoy_settings) as envoy:
            for _ in range(2):
                if (status := ask(envoy.ports["http"], PATH, X_Custom_Token="key")[0]) != 503:
                    yield f"{what}: a check got {status}"
            for listener in LOGGED:
                ask(envoy.ports[listener])
            until(lambda: handed_over(envoy), f"{what}: Envoy hands its entries over", 20)
            until(lambda: line in adapter.said(), f"{what}: the log has '{line}'", 20)
            if adapter.said().count(line) != 1:
                yield f"{what}: more than one line: {adapter.said()[-900:]}"
            if not handshakes(adapter, outcome) or handshakes(adapter) != handshakes(adapter, outcome):
                yield f"{what}: {handshakes(adapter)} handshakes, {handshakes(adapter, outcome)} were {outcome}"
            if adapter.lines() or list(adapter.volume.iterdir()):
                yield f"{what}: something was written"
            yield from secrets_in(adapter)


def handed_over(envoy):
    """Whether Envoy has sent the entries of HTTP, or counted them as dropped."""
    return sum(envoy.sent("grpc")) >= 3 and sum(envoy.sent("open_telemetry")) >= 1


def called(port, secret, path=METRIC, message=REPORT, token=None, identity=True):
    """A call by grpcio. Returns the status and what it says."""
    pem = {name: secret.path(name).read_bytes() for name in ("tls.crt", "tls.key", "ca.crt")}
    credentials = grpc.ssl_channel_credentials(
        pem["ca.crt"], *((pem["tls.key"], pem["tls.crt"]) if identity else ()))
    options = [("grpc.ssl_target_name_override", SERVER), ("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        metadata = [("authorization", f"Bearer {token}")] if token else None
        try:
            channel.unary_unary(path)(message, timeout=20, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name, error.details()
    return "OK", ""


def grpcio_is_served_with_a_certificate_and_a_token(binary, directory):
    """Health needs no token, but a certificate."""
    mesh = Mesh(directory)
    unknown = mesh.secret_of("unknown", Authority("strangers").issue(PROXY))
    needs_token = "send a token as `authorization: Bearer TOKEN`"
    table = [
        # The adapter's flags; secret, token, with a certificate; the status of a report, its text, the status of health.
        (mesh.simple(), mesh.client, None, False, "OK", "", "OK"),
        (mesh.simple(), mesh.client, None, True, "OK", "", "OK"),
        (mesh.mutual(), mesh.client, None, True, "OK", "", "OK"),
        (mesh.mutual(), mesh.client, None, False, "UNAVAILABLE", "", "UNAVAILABLE"),
        (mesh.mutual(), unknown, None, True, "UNAVAILABLE", "", "UNAVAILABLE"),
        (mesh.mutual(MIXER), mesh.client, None, True, "UNAVAILABLE", "", "UNAVAILABLE"),
        (mesh.simple() + mesh.with_tokens(), mesh.client, None, False, "UNAUTHENTICATED", needs_token, "OK"),
        (mesh.simple() + mesh.with_tokens(), mesh.client, "wrong", False, "UNAUTHENTICATED", "the token is not valid here", "OK"),
        (mesh.simple() + mesh.with_tokens(), mesh.client, TOKEN, False, "OK", "", "OK"),
        (mesh.mutual(PROXY) + mesh.with_tokens(), mesh.client, TOKEN, True, "OK", "", "OK"),
        (mesh.mutual(PROXY) + mesh.with_tokens(), mesh.client, None, True, "UNAUTHENTICATED", needs_token, "OK"),
    ]
    for flags in dict.fromkeys(row[0] for row in table):
        with Adapter(binary, directory, *flags) as adapter:
            for _, secret, token, identity, wanted, text, health in (row for row in table if row[0] == flags):
                before = len(adapter.lines("out.txt"))
                status, details = called(adapter.port, secret, token=token, identity=identity)
                if status != wanted or text not in details:
                    yield f"{flags} {token} {identity}: {status} {details}, wanted {wanted} {text}"
                if (len(adapter.lines("out.txt")) > before) != (wanted == "OK"):
                    yield f"{flags} {token} {identity}: {status}, with {len(adapter.lines('out.txt')) - before} more lines"
                asked = called(adapter.port, secret, HEALTH, b"", identity=identity)
                if asked[0] != health:
                    yield f"{flags} {identity}: health is {asked}, wanted {health}"


def by_hand(port, settings, path=METRIC, message=REPORT, headers=()):
    """A call without a gRPC library. Returns the version of TLS, the protocol of the ALPN, and the status."""
    with connected(port, settings) as connection:
        peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        peer.initiate_connection()
        peer.send_headers(1, [(":method", "POST"), (":scheme", "https"), (":authority", SERVER), (":path", path),
                              ("content-type", "application/grpc"), ("te", "trailers"), *headers])
        peer.send_data(1, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=True)
        connection.sendall(peer.data_to_send())
        while received := connection.recv(65536):
            for event in peer.receive_data(received):
                if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
                    found = {name.decode(): value.decode() for name, value in event.headers}
                    if "grpc-status" in found:
                        return connection.version(), connection.selected_alpn_protocol(), found["grpc-status"]
            connection.sendall(peer.data_to_send())
    return connection.version(), None, "the connection is closed"


def clients_of_mixers_time_and_without_alpn_are_served(binary, directory):
    """Go of 2018 speaks TLS 1.2 only. Mixer wants its own identity in the server's certificate: one Secret serves both."""
    mesh, citadel = Mesh(directory), Authority("citadel", is_old=True)
    mesh.secret.put(**identity_files(citadel.issue(MIXER), citadel))
    own = {alpn: context(mesh.secret, alpn=alpn, version=ssl.TLSVersion.TLSv1_2, ciphers=CIPHERS_OF_GO) for alpn in (("h2",), ())}
    newest = context(mesh.secret, alpn=())
    with Adapter(binary, directory, *mesh.mutual(MIXER)) as adapter:
        for settings in (*own.values(), newest):
            # As Mixer does, compare the identity in place of the name.
            settings.check_hostname = False
        for settings, wanted in (
                (own["h2",], ("TLSv1.2", "h2", "0")), (own[()], ("TLSv1.2", None, "0")), (newest, ("TLSv1.3", None, "0"))):
            if (seen := by_hand(adapter.port, settings)) != wanted:
                yield f"{seen}, wanted {wanted}"
        with connected(adapter.port, own["h2",]) as connection:
            if ("URI", MIXER) not in connection.getpeercert()["subjectAltName"]:
                yield f"Mixer would refuse {connection.getpeercert()}"


def clients_that_are_too_old_or_no_clients_are_refused(binary, directory):
    """TLS 1.1, TLS 1.2 without ECDHE, no HTTP/2 in the ALPN, and a port scan: others are served meanwhile."""
    mesh = Mesh(directory)
    with Adapter(binary, directory, *mesh.mutual(PROXY)) as adapter:
        idle = [socket.create_connection(("127.0.0.1", adapter.port), 20) for _ in range(20)]
        for settings, outcome, line in (
                (context(mesh.client, version=ssl.TLSVersion.TLSv1_1), "incompatible", "it needs 1.2 or 1.3, with ECDHE"),
                (context(mesh.client, version=ssl.TLSVersion.TLSv1_2, ciphers="AES128-GCM-SHA256"), "incompatible", "it needs 1.2 or 1.3, with ECDHE"),
                (context(mesh.client, alpn=("http/1.1",)), "alpn", "a client does not offer HTTP/2")):
            before = handshakes(adapter, outcome)
            try:
                by_hand(adapter.port, settings)
                yield f"{outcome}: it was served"
            except ssl.SSLError as error:
                print(f"      {outcome}: the client sees {error}", flush=True)
            if handshakes(adapter, outcome) != before + 1:
                yield f"{outcome}: not counted"
            if adapter.said().count(line) != 1:
                yield f"{outcome}: not logged once: {adapter.said()[-600:]}"
        if (seen := by_hand(adapter.port, context(mesh.client)))[2] != "0":
            yield f"a client beside them got {seen}"
        for connection in idle:
            connection.close()
        until(lambda: handshakes(adapter, "closed") == len(idle), "the port scan is counted", 20)
        if "closed" in adapter.said():
            yield f"a port scan is logged: {adapter.said()[-600:]}"


def scenarios():
    yield logs_and_checks_arrive_through_tls
    yield a_rotation_under_load_fails_no_check_and_loses_no_line
    yield a_refused_envoy_gets_no_verdict_and_the_log_says_what_to_do
    yield grpcio_is_served_with_a_certificate_and_a_token
    yield clients_of_mixers_time_and_without_alpn_are_served
    yield clients_that_are_too_old_or_no_clients_are_refused
