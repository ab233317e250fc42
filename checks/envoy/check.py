"""Checks the adapter behind a real Envoy. `checks/envoy/check` sets up its environment."""

import os
import sys
import tempfile
import time
from pathlib import Path

import comparison
import dashboards
import faults
import secure
import verdicts

passed = failed = 0
only = [word for word in sys.argv[1:] if word.startswith("only=")]


def check(scenario, *arguments):
    """Runs one scenario in a temporary directory. It yields its failures."""
    global passed, failed
    if only and f"only={scenario.__name__}" not in only:
        return
    start = time.monotonic()
    problems = []
    with tempfile.TemporaryDirectory() as directory:
        try:
            problems += scenario(*arguments, Path(directory))
        except Exception as error:  # an unfinished scenario has failed
            problems.append(f"{type(error).__name__}: {error}")
        if problems:
            problems[0:0] = [f"adapter: {line}" for line in last(Path(directory, "adapter.log"))]
    passed, failed = passed + (not problems), failed + bool(problems)
    what = scenario.__name__.replace("_", " ")
    print(f"{'FAIL' if problems else 'ok  '}  {what} ({time.monotonic() - start:.0f} s)", flush=True)
    for problem in problems[:30]:
        print(f"      {problem[:1500]}", flush=True)


def last(log):
    return log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []


def scenarios(quick):
    yield comparison.text_is_envoys_own
    yield comparison.json_is_envoys_own
    yield comparison.a_file_for_each_pod
    yield comparison.a_port_that_envoy_takes_for_http_1_is_named
    yield verdicts.each_verdict_comes_to_what_the_flags_say
    yield verdicts.a_token_is_removed_and_a_reason_is_logged
    yield verdicts.no_adapter_is_an_outage_and_no_denial
    yield verdicts.no_keys_deny_everyone
    yield verdicts.keys_change_without_a_refused_request
    yield verdicts.the_audit_file_has_every_check_and_no_token
    yield verdicts.principals_open_tcp_and_http
    if dashboards.is_possible():
        yield dashboards.the_dashboard_shows_the_traffic
    yield faults.a_killed_adapter_loses_one_run_of_entries
    yield faults.connections_that_end_for_their_age_lose_nothing
    if not faults.can_mount():
        skipped("mounts and a network of its own are not allowed; run it as root")
        return
    yield faults.a_hand_over_loses_nothing
    yield faults.a_full_disk_loses_no_entry_of_als
    yield faults.a_frozen_volume_loses_no_entry_of_als
    if not quick:
        yield faults.what_envoy_cannot_keep_it_counts


def skipped(why):
    global failed
    print(f"SKIPPED: {why}", flush=True)
    failed += os.environ.get("CI_REQUIRE_MOUNTS") == "1"


def main():
    words = [word for word in sys.argv[1:] if word not in only]
    quick, (binary, binary_with_tls) = "--quick" in words, (Path(word).resolve() for word in words[-2:])
    if not quick:
        faults.thoroughly()
    for scenario in scenarios(quick):
        check(scenario, binary)
    for scenario in secure.scenarios():
        check(scenario, binary_with_tls)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
