"""What PID 1 does with what, without any process."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsup._rules.init import (
    KILL_BOUND,
    Do,
    InitRule,
    Send,
    State,
    To,
    parse_rewrite,
    parse_signal,
)

TERM, QUIT, CONT, KILL = signal.SIGTERM, signal.SIGQUIT, signal.SIGCONT, signal.SIGKILL
numbers = st.sampled_from(sorted(signal.valid_signals() - {KILL, signal.SIGSTOP, signal.SIGCHLD}))


@given(numbers)
def test_what_is_received_goes_to_the_child_or_its_group(number: int) -> None:
    for group, to in ((False, To.CHILD), (True, To.GROUP)):
        actions = InitRule({}, group=group).received(0, number)
        assert (Send(number, to) in actions) == (number not in (signal.SIGTTIN, signal.SIGTTOU))


@given(numbers, numbers)
def test_another_signal_in_its_place_or_none(before: int, after: int) -> None:
    rule = InitRule({before: after})
    assert Send(after, To.CHILD) in rule.received(0, before)
    assert InitRule({before: 0}).received(0, before) == []


def test_a_job_stops_with_its_child_and_goes_on_as_a_whole() -> None:
    rule = InitRule({}, job=True)
    assert rule.received(0, signal.SIGTSTP) == [Send(signal.SIGTSTP, To.CHILD)]
    assert rule.stopped() == [Do.SUSPEND]
    assert rule.received(0, CONT) == [Do.LEND_TERMINAL, Send(CONT, To.GROUP)]
    assert rule.received(0, CONT) == [Do.LEND_TERMINAL, Send(CONT, To.CHILD)]


def test_pid_1_does_not_stop() -> None:
    rule = InitRule({})
    assert rule.stopped() == []
    assert rule.received(0, CONT) == [Do.LEND_TERMINAL, Send(CONT, To.CHILD)]


@pytest.mark.parametrize(
    ("code", "expected", "status"),
    [(0, (), 0), (7, (), 7), (-9, (), 137), (-TERM, (143,), 0), (3, (143, 3), 0), (4, (3,), 4)],
)
def test_the_status(code: int, expected: tuple[int, ...], status: int) -> None:
    rule = InitRule({}, expected)
    assert rule.reaped(0, False) == []
    assert rule.state is State.RUNNING
    rule.ended(code)
    assert rule.reaped(0, alone=False) == []
    assert (rule.state, rule.status) == (State.FINISHED, status)


def leftovers(grace: float = 5.0) -> InitRule:
    rule = InitRule({}, grace=grace)
    rule.ended(0)
    assert rule.reaped(10, alone=False) == [Send(TERM, To.LEFTOVERS), Send(CONT, To.LEFTOVERS)]
    return rule


def test_what_outlives_the_child_is_asked_and_then_killed() -> None:
    rule = leftovers()
    assert rule.deadline == 15
    assert rule.tick(14.9) == rule.reaped(14.9, alone=False) == []
    assert rule.tick(15) == [Send(KILL, To.LEFTOVERS)]
    assert rule.reaped(15.1, alone=False) == [Send(KILL, To.LEFTOVERS)]
    assert rule.tick(15 + KILL_BOUND - 0.1) == []
    assert rule.state is State.KILLING
    assert rule.tick(15 + KILL_BOUND) == []
    assert rule.state is State.FINISHED


@pytest.mark.parametrize("number", [TERM, signal.SIGINT, signal.SIGHUP, QUIT])
def test_who_asks_again_does_not_wait_for_them(number: int) -> None:
    rule = leftovers()
    assert rule.received(10.5, signal.SIGUSR1) == []
    assert rule.received(11, number) == [Send(KILL, To.LEFTOVERS)]
    assert rule.deadline == 11 + KILL_BOUND
    assert rule.received(11, number) == []


events = st.one_of(
    st.tuples(st.just("received"), numbers),
    st.tuples(st.just("stopped")),
    st.tuples(st.just("ended"), st.integers(-64, 255)),
    st.tuples(st.just("reaped"), st.booleans()),
    st.tuples(st.just("tick")),
)


@given(
    st.lists(st.tuples(st.floats(0, 9), events)),
    st.booleans(),
    st.none() | st.floats(0, 9),
)
def test_whatever_happens(
    happens: list[tuple[float, tuple[object, ...]]], job: bool, grace
) -> None:
    rule = InitRule({}, job=job, grace=grace)
    now, ended, reaped = 0.0, False, False
    for later, (name, *arguments) in happens:
        now += later
        if name == "ended":
            if ended:
                continue  # it does so once
            ended = True
        if ended and (name == "stopped" or (name == "received" and not reaped)):
            continue  # what has ended is reaped with the others, before anything else
        timed = () if name in ("stopped", "ended") else (now,)
        before = rule.state
        actions = getattr(rule, name)(*timed, *arguments) or []
        reaped = reaped or (ended and name == "reaped")
        sent = [action for action in actions if isinstance(action, Send)]
        if reaped:  # its number may be another's
            assert all(one.to is To.LEFTOVERS for one in sent)
        else:
            assert all(one.to is not To.LEFTOVERS for one in sent)
            assert rule.state is State.RUNNING
        if before is State.FINISHED:
            assert actions == []
        if any(one.number == KILL for one in sent):
            assert rule.state is State.KILLING
        assert rule.state.value >= before.value
        assert (rule.deadline is None) == (rule.state in (State.RUNNING, State.FINISHED))
        assert job or Do.SUSPEND not in actions
    if ended and reaped:
        while rule.deadline is not None:
            rule.tick(rule.deadline)
        assert rule.state is State.FINISHED
        assert rule.status is not None


# --- as they are written ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("TERM", 15),
        ("SIGTERM", 15),
        ("term", 15),
        ("15", 15),
        ("RTMIN", signal.SIGRTMIN),
        ("SIGRTMIN+3", signal.SIGRTMIN + 3),
        (str(int(signal.SIGRTMAX)), signal.SIGRTMAX),
    ],
)
def test_a_signal(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "32",
        "65",
        "-1",
        "SIG",
        "FOO",
        "_DFL",
        "SIG_DFL",
        "TERM+1",
        "RTMIN+",
        "RTMIN+99",
        "²",
    ],
)
def test_no_signal(text: str) -> None:
    with pytest.raises(ValueError, match="is not a signal: write TERM"):
        parse_signal(text)


def test_a_rewrite() -> None:
    assert parse_rewrite("TERM:QUIT") == (15, 3)
    assert parse_rewrite("15:3") == (15, 3)
    assert parse_rewrite("TERM:0") == (15, 0)
    assert parse_rewrite("TTIN:STOP") == (signal.SIGTTIN, signal.SIGSTOP)
    for text, told in (
        ("TERM", "is not a rewrite"),
        ("TERM:", "is not a signal"),
        ("0:TERM", "is not a signal"),
        ("KILL:TERM", "no process can catch"),
        ("STOP:0", "no process can catch"),
        ("CHLD:TERM", "never passed on"),
    ):
        with pytest.raises(ValueError, match=told):
            parse_rewrite(text)
