"""Checks the adapter behind a real Envoy. `checks/envoy/check` runs it with what it needs."""

import sys
import tempfile
import time
from pathlib import Path

import comparison
import faults
import verdicts

failed = 0
only = [word for word in sys.argv[1:] if word.startswith("only=")]


def check(scenario, *arguments):
    """Runs one scenario in a directory of its own: what it yields is wrong."""
    global failed
    if only and f"only={scenario.__name__}" not in only:
        return
    start = time.monotonic()
    problems = []
    with tempfile.TemporaryDirectory() as directory:
        try:
            problems += scenario(*arguments, Path(directory))
        except Exception as error:  # a scenario that cannot finish has failed
            problems.append(f"{type(error).__name__}: {error}")
        if problems:
            problems[0:0] = [f"adapter: {line}" for line in last(Path(directory, "adapter.log"))]
    failed += bool(problems)
    what = scenario.__name__.replace("_", " ")
    print(f"{'FAIL' if problems else 'ok  '}  {what} ({time.monotonic() - start:.0f} s)", flush=True)
    for problem in problems[:30]:
        print(f"      {problem[:1500]}", flush=True)


def last(log):
    return log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []


def main():
    words = [word for word in sys.argv[1:] if word not in only]
    quick, binary = "--quick" in words, Path(words[-1]).resolve()
    check(comparison.text_is_envoys_own, binary)
    check(comparison.json_is_envoys_own, binary)
    check(verdicts.each_verdict_comes_to_what_the_flags_say, binary)
    check(verdicts.no_adapter_is_an_outage_and_no_denial, binary)
    check(verdicts.no_keys_deny_everyone, binary)
    check(verdicts.keys_change_without_a_refused_request, binary)
    check(verdicts.the_audit_file_has_every_check_and_no_token, binary)
    check(verdicts.principals_open_tcp_and_http, binary)
    check(faults.a_killed_adapter_loses_one_run_of_entries, binary)
    check(faults.a_hand_over_loses_nothing, binary)
    check(faults.connections_that_end_for_their_age_lose_nothing, binary)
    check(faults.a_full_disk_loses_no_entry_of_als, binary)
    check(faults.a_frozen_volume_loses_no_entry_of_als, binary)
    print(f"{failed} failed")
    sys.exit(1 if failed else 0)


main()
