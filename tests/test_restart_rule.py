"""The rule of restarts: its table line by line, and tenacity's own objects."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from agentsup._rules.restart import RestartRule, RunEnded, Verdict
from agentsup._values.restart import Ending, RestartPolicy

OK, FAILED, NEVER = Ending(0), Ending(1), Ending(125)
TERMED, KILLED = Ending(signal=signal.SIGTERM), Ending(signal=signal.SIGKILL)
HUNG = Ending(signal=signal.SIGTERM, failure="heartbeat lost")


def a_rule(**policy: Any) -> RestartRule:
    return RestartRule(RestartPolicy(**policy))


def after(ending: Ending, **policy: Any) -> Verdict:
    """The verdict on a first, short run."""
    rule = a_rule(**policy)
    rule.started(0.0)
    return rule.ended(1.0, ending)


# --- the table --------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
@pytest.mark.parametrize(
    ("ending", "clean", "reason"),
    [
        (OK, True, "exited with status 0"),
        (FAILED, False, "exited with status 1"),
        (Ending(signal=signal.SIGHUP), True, "killed by SIGHUP"),
        (Ending(signal=signal.SIGINT), True, "killed by SIGINT"),
        (TERMED, True, "killed by SIGTERM"),
        (Ending(signal=signal.SIGPIPE), True, "killed by SIGPIPE"),
        (KILLED, False, "killed by SIGKILL"),
        (Ending(signal=40), False, "killed by signal 40"),  # which Python has no name for
        (HUNG, False, "heartbeat lost"),
        (Ending(0, failure="it never became ready"), False, "it never became ready"),
    ],
    ids=str,
)
def test_the_restart_types(restart: str, ending: Ending, clean: bool, reason: str) -> None:
    at_rest = "rest" if clean else "fail"
    action = {
        "permanent": "restart",
        "transient": at_rest if clean else "restart",
        "temporary": at_rest,
    }
    assert after(ending, restart=restart) == Verdict(action[restart], clean, reason)  # type: ignore[arg-type]


def test_other_statuses_and_signals_can_be_clean() -> None:
    policy: dict[str, Any] = {
        "restart": "transient",
        "success_exit_status": [3],
        "clean_signals": ["KILL"],
    }
    assert after(Ending(3), **policy).action == after(KILLED, **policy).action == "rest"
    assert after(OK, **policy).action == after(TERMED, **policy).action == "restart"


@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
def test_never_again(restart: str) -> None:
    reason = "exited with status 125: never again"
    assert after(NEVER, restart=restart) == Verdict("never", False, reason)
    assert after(Ending(9), restart=restart, never_again={9}).action == "never"
    assert after(NEVER, restart=restart, never_again=()).action != "never"
    assert after(NEVER, restart=restart, success_exit_status={125}).action != "never"
    assert after(NEVER, restart=restart, prevent_restart_on=[125]).action == "never"


def test_what_prevents_a_restart() -> None:
    both = [0, 15, signal.SIGKILL, "HUP"]
    for ending, action in (
        (OK, "rest"),
        (Ending(15), "fail"),
        (KILLED, "fail"),
        (Ending(signal=signal.SIGHUP), "rest"),
        (TERMED, "restart"),  # that was a status 15
        (Ending(9), "restart"),
        (Ending(1), "restart"),
    ):
        assert after(ending, prevent_restart_on=both).action == action
    assert after(Ending(15), prevent_restart_on=both).reason == (
        "exited with status 15, which allows no restart"
    )


# --- tenacity ---------------------------------------------------------------------------------

DELAYS: list[tuple[Any, list[float]]] = [
    (tenacity.wait_fixed(2), [2.0, 2.0, 2.0, 2.0]),
    (tenacity.wait_exponential(0.5, max=3), [0.5, 1.0, 2.0, 3.0]),
    (tenacity.wait_incrementing(1, 2), [1.0, 3.0, 5.0, 7.0]),
    (tenacity.wait_chain(tenacity.wait_none(), tenacity.wait_fixed(4)), [0.0, 4.0, 4.0, 4.0]),
    (tenacity.wait_fixed(1) + tenacity.wait_incrementing(0, 1), [1.0, 2.0, 3.0, 4.0]),
    (tenacity.wait_exception(lambda error: error.ending.exit_code / 4), [0.25, 0.25, 0.25, 0.25]),
    (lambda state: state.idle_for + 1, [1.0, 2.0, 4.0, 8.0]),
    (None, [0.0, 0.0, 0.0, 0.0]),
]


@pytest.mark.parametrize(("backoff", "delays"), DELAYS)
def test_backoff(backoff: Any, delays: list[float]) -> None:
    rule, now = a_rule(backoff=backoff), 0.0
    for number, delay in enumerate(delays, 1):
        rule.started(now)
        verdict = rule.ended(now + 1, FAILED)
        assert (verdict.action, verdict.delay) == ("restart", delay)
        assert rule.attempt == rule.restarts == number
        now += 1 + delay


def runs_until_given_up(rule: RestartRule, length: float = 1.0) -> int:
    now = 0.0
    for number in range(1, 100):
        rule.started(now)
        verdict = rule.ended(now + length, FAILED)
        if verdict.action == "give_up":
            assert verdict.delay == 0.0
            assert rule.restarts == number - 1
            return number
        now += length + verdict.delay
    raise AssertionError("it never gave up")


SET = threading.Event()
SET.set()

GIVE_UPS: list[tuple[Any, int]] = [
    (tenacity.stop_after_attempt(1), 1),
    (tenacity.stop_after_attempt(3), 3),
    (tenacity.stop_after_delay(9.0), 3),  # 1 s, 4 s of waiting, 1 s, 4 s, 1 s: 11 s
    (tenacity.stop_before_delay(9.0), 2),  # after 6 s there are 4 more to wait
    (tenacity.stop_after_attempt(5) | tenacity.stop_after_delay(9.0), 3),
    (tenacity.stop_when_event_set(SET), 1),
    (lambda state: state.attempt_number == 4, 4),
]


@pytest.mark.parametrize(("give_up", "runs"), GIVE_UPS)
def test_give_up(give_up: Any, runs: int) -> None:
    rule = a_rule(backoff=tenacity.wait_fixed(4), give_up=give_up)
    assert runs_until_given_up(rule) == runs


def test_who_gave_up_says_why() -> None:
    rule = a_rule(give_up=tenacity.stop_after_attempt(2))
    rule.started(0.0)
    rule.ended(0.0, FAILED)
    rule.started(0.0)
    assert rule.ended(0.0, KILLED) == Verdict(
        "give_up", False, "killed by SIGKILL; given up after 2 runs"
    )


def test_tenacity_sees_what_it_would_see_if_it_had_made_the_runs() -> None:
    seen: list[tenacity.RetryCallState] = []

    def record(state: tenacity.RetryCallState) -> float:
        seen.append(state)
        return 5.0

    rule = a_rule(backoff=record, give_up=lambda state: state.upcoming_sleep != 5.0)
    rule.started(100.0)
    rule.ended(101.0, FAILED)
    rule.started(106.0)
    assert rule.ended(107.0, KILLED).action == "restart"
    state = seen[1]
    assert state.attempt_number == 2
    assert (state.start_time, state.outcome_timestamp, state.seconds_since_start) == (100, 107, 7)
    assert state.idle_for == 5.0
    assert state.outcome is not None
    assert state.outcome.failed
    error = state.outcome.exception()
    assert isinstance(error, RunEnded)
    assert (error.ending, str(error)) == (KILLED, "killed by SIGKILL")
    assert "attempt #2" in repr(state)


def crash(_: object) -> float:
    raise ZeroDivisionError("division by zero")


@pytest.mark.parametrize(
    ("policy", "complaint"),
    [
        ({"backoff": crash}, "backoff raised ZeroDivisionError: division by zero"),
        ({"give_up": crash}, "give_up raised ZeroDivisionError: division by zero"),
        (
            {"backoff": lambda _: -1},
            "what backoff returns must be zero or more seconds, not -1",
        ),
        (
            {"backoff": lambda _: math.nan},
            "what backoff returns must be zero or more seconds, not nan",
        ),
        (
            {"backoff": lambda _: math.inf},
            "what backoff returns must be a finite number of seconds, not inf",
        ),
        (
            {"backoff": lambda _: None},
            "what backoff returns must be a finite number of seconds, not None",
        ),
        (
            {"backoff": lambda _: "soon"},
            "what backoff returns must be a number of seconds, not str",
        ),
    ],
)
def test_nonsense_ends_it_with_a_clear_word(policy: dict[str, Any], complaint: str) -> None:
    assert after(FAILED, **policy) == Verdict(
        "give_up", False, f"exited with status 1; {complaint}"
    )


def test_jitter_is_added_and_give_up_sees_it() -> None:
    policy = RestartPolicy(
        backoff=tenacity.wait_fixed(1), jitter=4.0, give_up=tenacity.stop_before_delay(3.0)
    )
    for random, action, delay in ((0.25, "restart", 2.0), (0.75, "give_up", 0.0)):
        rule = RestartRule(policy, lambda random=random: random)  # type: ignore[misc] -- bound now
        rule.started(0.0)
        verdict = rule.ended(0.5, FAILED)
        assert (verdict.action, verdict.delay) == (action, delay)


@given(st.floats(0, 60))
def test_jitter_is_within_its_bound_without_a_backoff_too(jitter: float) -> None:
    assert 0.0 <= after(FAILED, jitter=jitter).delay <= jitter


# --- series -----------------------------------------------------------------------------------


def test_a_stable_run_begins_a_new_series() -> None:
    rule = a_rule(
        backoff=tenacity.wait_incrementing(1, 1),
        give_up=tenacity.stop_after_delay(30) | tenacity.stop_after_attempt(4),
        stable_after=10.0,
    )
    now = 0.0
    attempts: list[int] = []
    for length in (9.75, 9.75, 10.0, 5.0, 1000.0, 5.0):
        rule.started(now)
        verdict = rule.ended(now + length, FAILED)
        assert verdict.action == "restart"
        assert verdict.delay == rule.attempt
        attempts.append(rule.attempt)
        now += length + verdict.delay
    assert attempts == [1, 2, 1, 2, 1, 2]
    assert rule.restarts == 6


def test_a_run_that_was_stopped_for_a_siblings_sake_counts_as_well() -> None:
    rule = a_rule()
    rule.started(0.0)
    rule.ended(1.0, FAILED)
    rule.started(1.0)  # and stopped, soon
    rule.started(2.0)
    assert rule.attempt == 1
    rule.started(50.0)
    assert rule.attempt == 0


def test_the_wait_for_a_restart_is_no_run() -> None:
    rule = a_rule(backoff=tenacity.wait_fixed(100))
    rule.started(0.0)
    rule.ended(1.0, FAILED)
    rule.started(101.0)
    assert rule.attempt == 1


def test_never_stable() -> None:
    rule = a_rule(stable_after=None)
    for number in (1, 2, 3):
        rule.started(0.0)
        rule.ended(1e9, FAILED)
        assert rule.attempt == number


def test_reset_begins_a_new_series() -> None:
    rule = a_rule(
        backoff=lambda state: state.idle_for + 1.0,
        give_up=tenacity.stop_after_attempt(2) | tenacity.stop_after_delay(5.0),
    )
    rule.started(0.0)
    rule.ended(1.0, FAILED)
    rule.reset()
    assert rule.attempt == 0
    rule.started(100.0)
    assert rule.ended(101.0, FAILED) == Verdict("restart", False, "exited with status 1", 1.0)
    assert rule.restarts == 2


@given(
    st.lists(
        st.tuples(st.floats(0, 20), st.sampled_from([OK, FAILED, TERMED, KILLED, HUNG])),
        max_size=20,
    ),
    st.floats(0, 20),
    st.integers(1, 5),
)
def test_never_more_restarts_in_a_row_than_allowed(
    runs: list[tuple[float, Ending]], stable_after: float, most: int
) -> None:
    rule = a_rule(stable_after=stable_after, give_up=tenacity.stop_after_attempt(most))
    now, row = 0.0, 0
    for length, ending in runs:
        rule.started(now)
        stable = (now + length) - now >= stable_after
        row = 1 if stable else row + 1
        now += length
        assert rule.ended(now, ending).action == ("restart" if row < most else "give_up")
        if row >= most:
            return
        assert rule.attempt == row


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "error", "message"),
    [
        ({"restart": "always"}, ValueError, r"^restart must be one of 'permanent', .*'always'$"),
        ({"success_exit_status": 3}, TypeError, r"^success_exit_status must be a collection, as "),
        ({"success_exit_status": "03"}, TypeError, r"^success_exit_status must be a collection"),
        ({"success_exit_status": [256]}, ValueError, r"^success_exit_status takes .*, not 256$"),
        ({"never_again": [-1]}, ValueError, r"^never_again takes exit statuses, .*, not -1$"),
        ({"never_again": [True]}, ValueError, r"^never_again takes .*, not True$"),
        ({"never_again": [signal.SIGTERM]}, ValueError, r"^never_again takes .*SIGTERM"),
        ({"clean_signals": ["TREM"]}, ValueError, r"^clean_signals: unknown signal 'TREM'"),
        ({"clean_signals": "TERM"}, TypeError, r"^clean_signals must be a collection"),
        ({"prevent_restart_on": ["TREM"]}, ValueError, r"^prevent_restart_on: unknown signal"),
        ({"prevent_restart_on": [1.5]}, ValueError, r"^prevent_restart_on takes .*, not 1\.5$"),
        ({"backoff": 5}, TypeError, r"^backoff must be like tenacity\.wait_fixed\(1\), not 5$"),
        ({"backoff": tenacity.wait_none}, TypeError, r"^backoff must be like tenacity"),
        ({"give_up": 5}, TypeError, r"^give_up must be like tenacity\.stop_after_attempt"),
        ({"stable_after": -1}, ValueError, r"^stable_after must be zero or more seconds"),
        ({"jitter": math.inf}, ValueError, r"^jitter must be a finite number of seconds, not inf"),
        ({"jitter": -1.0}, ValueError, r"^jitter must be zero or more seconds, not -1\.0"),
    ],
)
def test_bad_input(policy: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        RestartPolicy(**policy)


def test_tenacity_is_imported_only_where_it_is_asked() -> None:
    code = """
import sys
from agentsup._rules.restart import RestartRule
from agentsup._values.restart import Ending, RestartPolicy

rule = RestartRule(RestartPolicy(jitter=1.0))
rule.started(0.0)
assert rule.ended(0.0, Ending(1)).action == "restart"
assert "tenacity" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
