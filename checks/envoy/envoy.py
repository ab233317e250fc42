"""Envoy, with the configuration of samples on loopback, and with its own log in addition."""

import copy
import json
import sysconfig
from pathlib import Path

import yaml

from processes import ROOT, Process, free_port, page

PROGRAM = Path(sysconfig.get_path("purelib"), "envoy/_bin/envoy")
CONFIGURATION = ROOT / "samples/envoy.yaml"
FILE = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
# The listeners with access logs.
LOGGED = ("http", "tcp", "otel")
# Istio's JSON, by the operators of the text format.
JSON = {
    "authority": "%REQ(:AUTHORITY)%", "bytes_received": "%BYTES_RECEIVED%", "bytes_sent": "%BYTES_SENT%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%", "duration": "%DURATION%",
    "method": "%REQ(:METHOD)%", "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "protocol": "%PROTOCOL%",
    "request_id": "%REQ(X-REQUEST-ID)%", "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "response_code": "%RESPONSE_CODE%", "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "response_flags": "%RESPONSE_FLAGS%", "route_name": "%ROUTE_NAME%", "start_time": "%START_TIME%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%", "upstream_host": "%UPSTREAM_HOST%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "user_agent": "%REQ(USER-AGENT)%", "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
}


def manager(listener):
    """The settings of a listener's last filter."""
    return listener["filter_chains"][0]["filters"][-1]["typed_config"]


def filter_of(listener, name):
    return next(f["typed_config"] for f in manager(listener)["http_filters"] if f["name"] == name)


def istios_text(listeners):
    """Istio's TEXT format, from the documented configuration."""
    return manager(listeners["otel"])["access_log"][0]["typed_config"]["body"]["string_value"]


def grpc_services(listeners):
    """The settings of all calls to the adapter."""
    for name in LOGGED:
        logs = manager(listeners[name])["access_log"]
        yield from (log["typed_config"]["common_config"]["grpc_service"] for log in logs)
    yield filter_of(listeners["http"], "envoy.filters.http.ext_authz")["grpc_service"]


def without_h2(cluster):
    """Configures it like a Service's port that Istio does not know as gRPC."""
    del cluster["typed_extension_protocol_options"]


def file_log(path, log_format):
    return {"name": "file", "typed_config": {"@type": FILE, "path": str(path), "log_format": log_format}}


class Envoy(Process):
    """An Envoy for the adapter on a port. `change` may edit the listeners, `reach` the adapter's cluster."""

    def __init__(self, directory, adapter_port, workers=1, change=lambda listeners: None, reach=lambda cluster: None):
        self.directory, self.ports = directory, {"admin": free_port(), "app": free_port()}
        settings = yaml.safe_load(CONFIGURATION.read_text())
        # The parser makes one object per anchor, but each listener is edited separately.
        listeners = {listener["name"]: copy.deepcopy(listener) for listener in settings["static_resources"]["listeners"]}
        change(listeners)
        for name, listener in listeners.items():
            port = self.ports.setdefault(name, free_port())
            listener["address"]["socket_address"].update(address="127.0.0.1", port_value=port)
        self.log_beside(listeners)
        settings["static_resources"]["listeners"] = list(listeners.values())
        for cluster, port in zip(settings["static_resources"]["clusters"], (self.ports["app"], adapter_port)):
            endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
            endpoint["address"]["socket_address"].update(address="127.0.0.1", port_value=port)
        reach(settings["static_resources"]["clusters"][1])
        settings["admin"]["address"]["socket_address"]["port_value"] = self.ports["admin"]
        path = directory / "envoy.yaml"
        path.write_text(yaml.safe_dump(settings))
        super().__init__(
            [PROGRAM, "-c", path, "--concurrency", workers, "--use-dynamic-base-id", "--log-level", "warning",
             "--file-flush-interval-msec", "50", "--parent-shutdown-time-s", "1"], directory / "envoy.log")
        self.serves(lambda: page(self.ports["admin"], "/ready") == "LIVE\n", "Envoy starts")

    def log_beside(self, listeners):
        """Adds file logs in Istio's text and JSON to each listener with a log."""
        text = {"text_format_source": {"inline_string": istios_text(listeners)}}
        for name in LOGGED:
            manager(listeners[name])["access_log"] += [
                file_log(self.directory / f"{name}.text", text), file_log(self.directory / f"{name}.json", {"json_format": JSON})]

    def lines(self, listener, kind="text"):
        """The lines of its own log."""
        return (self.directory / f"{listener}.{kind}").read_bytes().splitlines(keepends=True)

    def stats(self, prefix):
        """Counters by name, without the prefix."""
        shown = json.loads(page(self.ports["admin"], f"/stats?format=json&filter=^{prefix}"))
        return {s["name"].removeprefix(prefix): s["value"] for s in shown["stats"] if "value" in s}

    def sent(self, log):
        """The entries that a kind of log counted as sent, and as dropped."""
        stats = self.stats(f"access_logs.{log}_access_log.")
        return stats.get("logs_written", 0), stats.get("logs_dropped", 0)
