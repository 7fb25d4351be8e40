"""The rule of a graceful end: its table, then any order of signals and times."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentsup._rules.shutdown import ShutdownRule, State

TIMES = st.floats(0, 100)


def test_the_table_by_signals() -> None:
    rule = ShutdownRule(grace=20, cleanup=5)
    seen = []
    for now in (100, 101, 102, 103):
        rule.ask(now)
        seen.append((rule.state, rule.deadline))
    assert seen == [
        (State.REQUESTED, 120),
        (State.CANCELLED, 106),
        (State.FORCED, None),
        (State.FORCED, None),
    ]


def test_the_table_by_time() -> None:
    rule = ShutdownRule(grace=20, cleanup=5)
    rule.tick(99)
    assert rule.state is State.RUNNING
    rule.ask(100)
    for now, state in (
        (119.9, State.REQUESTED),
        (120, State.CANCELLED),
        (124.9, State.CANCELLED),
        (125, State.FORCED),
        (999, State.FORCED),
    ):
        rule.tick(now)
        assert (now, rule.state) == (now, state)


def test_a_loop_that_was_blocked_gets_no_time_for_that() -> None:
    rule = ShutdownRule(grace=20, cleanup=5)
    rule.ask(100)
    rule.tick(122)
    assert (rule.state, rule.deadline) == (State.CANCELLED, 125)


def test_what_is_left() -> None:
    rule = ShutdownRule(grace=20, cleanup=5)
    left = [rule.left(50)]
    for now in (100, 110, 112):
        rule.ask(now)
        left += [rule.left(now), rule.left(now + 1), rule.left(now + 1000)]
    assert left == [5, 25, 24, 5, 5, 4, 0, 0, 0, 0]


@given(TIMES, TIMES, st.lists(st.tuples(st.booleans(), st.floats(0, 50))))
def test_whatever_happens(grace: float, cleanup: float, events: list[tuple[bool, float]]) -> None:
    rule = ShutdownRule(grace, cleanup)
    now, asked = 0.0, 0
    for is_signal, wait in events:
        before, now = rule.state, now + wait
        left = rule.left(now)
        if is_signal:
            rule.ask(now)
            asked += 1
        rule.tick(now)
        assert rule.state >= max(before, min(asked, State.FORCED))
        assert (rule.state is State.RUNNING) == (not asked)
        if before is not State.RUNNING:  # what was promised is kept, or less is taken
            assert rule.left(now) <= left + 1e-6
        assert (rule.deadline is None) == (rule.state in (State.RUNNING, State.FORCED))
        assert rule.deadline is None or rule.deadline > now
    if asked:
        rule.tick(now + rule.left(now) + 1e-6)
        assert rule.state is State.FORCED
