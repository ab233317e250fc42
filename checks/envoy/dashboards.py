"""The dashboard and the alert rules, evaluated by a real Prometheus that scrapes the adapter."""

import json
import os
import shutil
import subprocess
import time
import urllib.parse

import yaml

import comparison
from adapter import Adapter
from envoy import Envoy
from processes import ROOT, Process, free_port, page, until

SAMPLES = ROOT / "samples"
# The dashboard's variables.
VALUES = {"$__rate_interval": "10s", "$instance": ".*"}


class Prometheus(Process):
    """A Prometheus with the sample's configuration and rules, for an adapter on loopback."""

    def __init__(self, directory, target):
        settings = yaml.safe_load((SAMPLES / "prometheus.yml").read_text())
        settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        settings["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{target}"]}]
        (directory / "prometheus.yml").write_text(yaml.safe_dump(settings))
        shutil.copy(SAMPLES / "alerts.yaml", directory)
        self.port = free_port()
        super().__init__(
            ["prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data",
             f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"], directory / "prometheus.log")
        self.serves(lambda: page(self.port, "/-/ready"), "Prometheus starts")

    def asked(self, path, **parameters):
        """The data of an answer; nothing if the question is refused."""
        query = urllib.parse.urlencode(parameters)
        return json.loads(page(self.port, f"/api/v1/{path}?{query}") or "{}").get("data")

    def samples(self, expr):
        """The samples of a query that have a number."""
        data = self.asked("query", query=expr) or {"result": []}
        return [sample for sample in data["result"] if sample["value"][1] != "NaN"]


def the_dashboard_shows_the_traffic(binary, directory):
    keys = directory / "keys"
    keys.write_text("key\n")
    with Adapter(binary, directory, f"--auth-keys-file={keys}", "--rotate-size=4KiB") as adapter, \
            Prometheus(directory, adapter.metrics) as prometheus, Envoy(directory, adapter.port) as envoy:
        until(lambda: prometheus.samples("mygrpcadapter_build_info"), "Prometheus scrapes the adapter")
        traffic(binary, adapter, envoy)
        yield from panels(prometheus)
        rules = [rule for group in prometheus.asked("rules")["groups"] for rule in group["rules"]]
        yield from (f"{rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] != "ok")
        # Those that wait to fire count the errors that this check causes.
        yield from (f"{rule['name']} fires" for rule in rules if rule["state"] == "firing")


def traffic(binary, adapter, envoy):
    """Requests of each kind, and an error, in two batches: a rate needs an increase."""
    for entries in 50, 100:
        list(comparison.requests(envoy.ports["http"]))
        list(comparison.denied(envoy.ports["http"]))
        list(comparison.connections(envoy.ports["tcp"]))
        list(comparison.requests(envoy.ports["otel"]))
        subprocess.run([binary, "probe", str(adapter.port), "no.such.Service"], capture_output=True)
        until(lambda: adapter.metric(r"mygrpcadapter_access_log_entries_total\S*") >= entries, f"{entries} entries")
        # Longer than a scrape.
        time.sleep(2.5)


def panels(prometheus):
    """Queries of the dashboard without a result, or with an error."""
    for panel in json.loads((SAMPLES / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            expr = target["expr"]
            for variable, value in VALUES.items():
                expr = expr.replace(variable, value)
            if not prometheus.samples(expr):
                yield f"{panel['title']}: no data for {expr}"
    increased = {
        "access log entries": "sum(rate(mygrpcadapter_access_log_entries_total[10s]))",
        "verdicts": 'sum(rate(mygrpcadapter_authorizations_total{service="envoy.service.auth.v3.Authorization"}[10s]))',
        "rotations": "sum(rate(mygrpcadapter_rotations_total[10s]))",
        "free space": "mygrpcadapter_volume_free_bytes",
        "responses": "sum(rate(http_request_seconds_histogram_count[10s]))",
    }
    for what, expr in increased.items():
        if not any(float(sample["value"][1]) > 0 for sample in prometheus.samples(expr)):
            yield f"{what}: {prometheus.samples(expr)}"


def is_possible():
    if shutil.which("prometheus"):
        return True
    print("SKIPPED: no prometheus (Debian: prometheus), so the dashboard's queries are not run", flush=True)
    if os.environ.get("CI") == "true":
        raise RuntimeError("no prometheus, and CI=true asks for it")
    return False
