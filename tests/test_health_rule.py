"""The rule of a health check: its table row by row, then any results at any times."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsup._rules.health import HealthRule, State
from agentsup._values.health import ROLES, HealthCheck
from agentsup._values.probe import TcpProbe


def began(role: str = "liveness", **options: Any) -> HealthRule:
    rule = HealthRule(HealthCheck(TcpProbe(1), role=role, **options))  # type: ignore[arg-type]
    rule.began(100.0)
    return rule


def feed(rule: HealthRule, results: str) -> HealthRule:
    """``+`` and ``-``, each a second after it was due."""
    for result in results:
        assert rule.due is not None
        if result == "+":
            rule.passed(rule.due + 1)
        else:
            rule.failed(rule.due + 1, "refused")
    return rule


def test_nothing_is_due_before_the_process_runs() -> None:
    rule = HealthRule(HealthCheck(TcpProbe(1)))
    assert rule.due is None
    rule.began(100.0)
    assert rule.due == 100.0


@pytest.mark.parametrize(
    ("role", "results", "due", "started", "ready", "unhealthy"),
    [
        ("liveness", "", 100.0, True, True, False),
        ("liveness", "+", 110.0, True, True, False),
        ("liveness", "--", 120.0, True, True, False),
        ("liveness", "--+--", 150.0, True, True, False),
        ("liveness", "--+---", None, True, True, True),
        ("startup", "--", 120.0, False, False, False),
        ("startup", "--+", None, True, True, False),
        ("startup", "---", None, False, False, True),
        ("readiness", "", 100.0, True, False, False),
        ("readiness", "----", 140.0, True, False, False),
        ("readiness", "+", 110.0, True, True, False),
        ("readiness", "+--", 130.0, True, True, False),
        ("readiness", "+---", 140.0, True, False, False),
        ("readiness", "+---+", 150.0, True, True, False),
    ],
)
def test_what_results_in_a_row_come_to(
    role: str, results: str, due: float | None, started: bool, ready: bool, unhealthy: bool
) -> None:
    rule = feed(began(role), results)
    assert (rule.due, rule.started, rule.ready, rule.unhealthy) == (due, started, ready, unhealthy)
    assert rule.last_reason == ("refused" if results.endswith("-") else None)


def test_readiness_takes_several_successes_in_a_row() -> None:
    assert not feed(began("readiness", successes=3), "++-++").ready
    assert feed(began("readiness", successes=3), "++-+++").ready


def test_failures_in_the_start_period_do_not_count() -> None:
    rule = feed(began(start_period=5.0, start_interval=2.0, failures=1), "--")
    assert (rule.due, rule.failures, rule.last_reason) == (104.0, 0, "refused")
    rule.failed(105.0, "refused")  # the period is over when that is known
    assert rule.unhealthy


def test_the_start_period_ends_with_the_first_success() -> None:
    rule = feed(began(start_period=1000.0, start_interval=2.0, failures=1), "-+")
    assert rule.due == 112.0
    assert feed(rule, "-").unhealthy


def test_a_start_period_without_an_interval_of_its_own_uses_the_usual_one() -> None:
    assert feed(began(start_period=1000.0), "-").due == 110.0


def test_what_comes_late_is_not_made_up_for() -> None:
    rule = began()
    rule.passed(165.0)
    assert rule.due == 165.0
    rule.passed(166.0)
    assert rule.due == 175.0


def test_when_it_is_over_nothing_changes() -> None:
    rule = feed(began("startup"), "---")
    rule.passed(200.0)
    assert (rule.state, rule.unhealthy, rule.started) == (State.OVER, True, False)
    rule = feed(began("startup", failures=1), "+")
    rule.failed(200.0, "refused")
    assert (rule.state, rule.unhealthy, rule.started) == (State.OVER, False, True)


seconds = st.integers(1, 40).map(float)


@given(
    role=st.sampled_from(ROLES),
    failures=st.integers(1, 4),
    successes=st.integers(1, 4),
    interval=seconds,
    start_period=st.one_of(st.just(0.0), seconds),
    start_interval=st.one_of(st.none(), seconds),
    results=st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=40),
)
def test_any_results_at_any_times(
    role: str,
    failures: int,
    successes: int,
    interval: float,
    start_period: float,
    start_interval: float | None,
    results: list[tuple[bool, int]],
) -> None:
    rule = began(
        role,
        failures=failures,
        successes=successes if role == "readiness" else 1,
        interval=interval,
        timeout=0.5,
        start_period=start_period,
        start_interval=start_interval if start_period else None,
    )
    counted = ""  # what the definitions in the documentation say of all results so far
    ready = role == "liveness"
    for passed, took in results:
        before = rule.due
        assert before is not None
        now = before + took
        if passed:
            rule.passed(now)
        else:
            rule.failed(now, str(now))
        grace = not passed and not counted and now < 100.0 + start_period
        counted += "" if grace else "+" if passed else "-"
        failed_for_good = counted.endswith("-" * failures)
        if counted.endswith("+" * rule.check.successes):
            ready = True
        elif failed_for_good and role == "readiness":
            ready = False
        assert rule.ready is ready
        assert rule.started is (role != "startup" or "+" in counted)
        assert rule.unhealthy is (failed_for_good and role != "readiness")
        assert rule.last_reason == (None if passed else str(now))
        if rule.unhealthy or (role == "startup" and passed):
            assert rule.due is None
            break
        wait = (start_interval or interval) if grace else interval
        assert rule.due == max(now, before + wait)
