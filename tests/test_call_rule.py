"""The rule of one call: its table row by row, then any order of events at all."""

from __future__ import annotations

import copy
import fcntl
import signal
import sys
import termios
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agentsup._calls.call import Call
from agentsup._calls.spec import make_spec
from agentsup._linux import keeper
from agentsup._rules.call import (
    ASK_AFTER,
    DRAIN_TIME,
    KILL_BOUND,
    START_BOUND,
    Action,
    CallRule,
    Do,
    RunCommand,
    SendSignal,
    State,
    Terms,
)
from agentsup._values.command import Command
from agentsup._values.escalation import CLOSE_STDIN, Escalation, Step
from agentsup._values.result import Outcome

INT, TERM = SendSignal(signal.SIGINT), SendSignal(signal.SIGTERM)
TWO_STEPS = Escalation(Step("INT", 2.0), Step("TERM", 3.0))

Event = Callable[[CallRule], object]
RUNNING: tuple[Event, ...] = (lambda r: r.spawned(),)
LINGERING: tuple[Event, ...] = (*RUNNING, lambda r: r.exited(1.0, True))
ADOPTED: tuple[Event, ...] = (*LINGERING, lambda r: r.tick(1.0 + DRAIN_TIME))
STOPPING: tuple[Event, ...] = (*RUNNING, lambda r: r.stop(1.0, Outcome.STOPPED), lambda r: r.take())
KILLING: tuple[Event, ...] = (*STOPPING, lambda r: r.tick(3.0), lambda r: r.tick(6.0))
KILLING_TAKEN: tuple[Event, ...] = (*KILLING, lambda r: r.take())
DRAINING: tuple[Event, ...] = (*RUNNING, lambda r: r.exited(1.0, False))


def the_rule(*, adopt: bool = False, **terms: float) -> CallRule:
    return CallRule(Terms(TWO_STEPS, adopt=adopt, **terms), 0.0)  # type: ignore[arg-type]


def after(events: tuple[Event, ...], call: CallRule | None = None) -> CallRule:
    call = call or the_rule()
    for event in events:
        event(call)
    return call


@pytest.mark.parametrize(
    ("before", "event", "state", "actions", "until"),
    [
        pytest.param(RUNNING, lambda r: r.exited(1.0, False), State.DRAINING, [], 1.2, id="exit"),
        pytest.param(
            RUNNING, lambda r: r.exited(1.0, True), State.LINGERING, [], 1.2, id="exit, others live"
        ),
        pytest.param(
            RUNNING, lambda r: r.stop(1.0, Outcome.STOPPED), State.STOPPING, [INT], 3.0, id="stop"
        ),
        pytest.param(
            LINGERING, lambda r: r.drained(1.1), State.KILLING, [Do.KILL], 11.1, id="drained"
        ),
        pytest.param(
            LINGERING, lambda r: r.tick(1.2), State.KILLING, [Do.KILL], 11.2, id="drain time"
        ),
        pytest.param(LINGERING, lambda r: r.empty(1.1), State.DRAINING, [], 1.3, id="empty"),
        pytest.param(
            LINGERING,
            lambda r: r.stop(1.1, Outcome.STOPPED),
            State.KILLING,
            [Do.KILL],
            11.1,
            id="what lingers is not asked",
        ),
        pytest.param(STOPPING, lambda r: r.tick(2.9), State.STOPPING, [], 3.0, id="not yet"),
        pytest.param(STOPPING, lambda r: r.tick(3.0), State.STOPPING, [TERM], 6.0, id="next step"),
        pytest.param(
            (*STOPPING, lambda r: r.tick(3.0), lambda r: r.take()),
            lambda r: r.tick(6.0),
            State.KILLING,
            [Do.KILL],
            16.0,
            id="after the last step",
        ),
        pytest.param(
            STOPPING,
            lambda r: r.exited(2.0, True),
            State.STOPPING,
            [],
            3.0,
            id="the grace is for all",
        ),
        pytest.param(
            STOPPING, lambda r: r.exited(2.0, False), State.DRAINING, [], 2.2, id="stopped, gone"
        ),
        pytest.param(
            (*STOPPING, lambda r: r.exited(2.0, True)),
            lambda r: r.empty(2.5),
            State.DRAINING,
            [],
            2.7,
            id="stopped, all gone",
        ),
        pytest.param(KILLING_TAKEN, lambda r: r.killed(7.0), State.DRAINING, [], 7.2, id="killed"),
        pytest.param(
            KILLING_TAKEN, lambda r: r.exited(7.0, True), State.KILLING, [], 16.0, id="main killed"
        ),
        pytest.param(
            KILLING_TAKEN, lambda r: r.exited(7.0, False), State.DRAINING, [], 7.2, id="gone anyway"
        ),
        pytest.param(
            KILLING_TAKEN, lambda r: r.tick(16.0), State.FINISHED, [Do.LOSE], None, id="no answer"
        ),
        pytest.param(DRAINING, lambda r: r.drained(1.1), State.FINISHED, [], None, id="ends"),
        pytest.param(DRAINING, lambda r: r.tick(1.2), State.FINISHED, [], None, id="drain is over"),
    ],
)
def test_each_row_of_the_table(
    before: tuple[Event, ...],
    event: Event,
    state: State,
    actions: list[Action],
    until: float | None,
) -> None:
    call = after(before)
    event(call)
    assert (call.state, call.take()) == (state, actions)
    assert call.deadline == pytest.approx(until)


@pytest.mark.parametrize(
    ("terms", "event", "outcome"),
    [
        ({"timeout": 4.0}, lambda r: r.tick(4.0), Outcome.TIMED_OUT),
        ({"idle_timeout": 4.0}, lambda r: r.tick(4.0), Outcome.IDLE),
        ({"timeout": 4.0, "idle_timeout": 4.0}, lambda r: r.tick(4.0), Outcome.TIMED_OUT),
        ({"timeout": 9.0, "idle_timeout": 4.0}, lambda r: r.tick(20.0), Outcome.TIMED_OUT),
        ({"heartbeat": 4.0}, lambda r: r.tick(4.0), Outcome.HEARTBEAT_LOST),
        ({"heartbeat": 4.0, "idle_timeout": 4.0}, lambda r: r.tick(4.0), Outcome.IDLE),
        ({"output_limit": 9}, lambda r: r.output(4.0, 10), Outcome.OUTPUT_LIMIT),
        ({"output_limit": 0}, lambda r: r.output(4.0, 1), Outcome.OUTPUT_LIMIT),
    ],
)
def test_a_bound_that_is_passed_is_the_outcome(
    terms: dict[str, float], event: Event, outcome: Outcome
) -> None:
    call = after((*RUNNING, event), the_rule(**terms))
    assert (call.outcome, call.state, call.take()) == (outcome, State.STOPPING, [INT])


@pytest.mark.parametrize(
    ("terms", "event"),
    [
        ({"timeout": 4.0}, lambda r: r.tick(3.9)),
        ({"output_limit": 9}, lambda r: r.output(4.0, 9)),
        ({"idle_timeout": 4.0}, lambda r: (r.output(3.0, 1), r.tick(6.9))),
        ({"heartbeat": 4.0}, lambda r: (r.beat(3.0), r.tick(6.9))),
    ],
)
def test_a_bound_that_is_not_passed_does_nothing(terms: dict[str, float], event: Event) -> None:
    call = after((*RUNNING, event), the_rule(**terms))
    assert (call.outcome, call.state, call.take()) == (None, State.RUNNING, [])


def test_time_before_the_request_was_sent_counts_against_nothing() -> None:
    call = the_rule(timeout=4.0, idle_timeout=3.0)
    call.began(100.0)
    call.spawned()
    assert call.deadline == 103.0
    call = the_rule(heartbeat=4.0)
    call.began(100.0)
    call.spawned()
    assert call.deadline == 104.0


def test_a_keeper_that_does_not_start_the_program_in_time_is_lost() -> None:
    call = the_rule()
    assert call.deadline == ASK_AFTER
    call.tick(ASK_AFTER)
    assert (call.state, call.take(), call.deadline) == (State.RUNNING, [Do.ASK], START_BOUND)
    call.tick(START_BOUND)
    assert (call.state, call.take(), call.ended_at) == (State.FINISHED, [Do.LOSE], START_BOUND)


def test_a_started_program_without_bounds_is_waited_for_without_end() -> None:
    call = after(RUNNING)
    call.tick(1e9)
    assert (call.deadline, call.state) == (None, State.RUNNING)


def test_output_streams_that_ended_early_leave_nothing_to_drain() -> None:
    gone = after((*RUNNING, lambda r: r.drained(0.5), lambda r: r.exited(1.0, False)))
    others_live = after((*RUNNING, lambda r: r.drained(0.5), lambda r: r.exited(1.0, True)))
    assert (gone.state, others_live.state) == (State.FINISHED, State.KILLING)


def test_a_service_does_not_wait_for_what_it_leaves() -> None:
    call = after((*LINGERING, lambda r: r.tick(1.0)), the_rule(linger=0.0))
    assert call.state is State.KILLING


@pytest.mark.parametrize(
    ("before", "event", "outcome"),
    [
        (RUNNING, lambda r: r.exited(1.0, False), None),
        (LINGERING, lambda r: r.stop(1.1, Outcome.STOPPED), None),
        (DRAINING, lambda r: r.stop(1.1, Outcome.STOPPED), None),
        (STOPPING, lambda r: r.stop(2.0, Outcome.TIMED_OUT), Outcome.STOPPED),
        (STOPPING, lambda r: r.output(2.0, 10**9), Outcome.STOPPED),
        (KILLING, lambda r: r.stop(7.0, Outcome.TIMED_OUT), Outcome.STOPPED),
    ],
)
def test_the_first_cause_is_the_outcome(
    before: tuple[Event, ...], event: Event, outcome: Outcome | None
) -> None:
    call = after((*before, event), the_rule(output_limit=100))
    assert call.outcome is outcome


def test_every_step_is_carried_out_and_noted_with_its_time() -> None:
    script = Command(("stop-it", "now"))
    escalation = Escalation(Step(CLOSE_STDIN, 1.0), Step(script, 2.0), Step("TERM", 0.0))
    call = CallRule(Terms(escalation), 10.0)
    call.stop(11.0, Outcome.STOPPED)
    call.tick(12.0)
    call.tick(14.0)
    assert call.take() == [Do.CLOSE_STDIN, RunCommand(script, 2.0), TERM, Do.KILL]
    assert [(step.action, step.at) for step in call.taken] == [
        ("close stdin", 1.0),
        ("run stop-it now", 2.0),
        ("SIGTERM", 4.0),
        ("SIGKILL", 4.0),
    ]


def waiting(call: Call) -> int:
    """The bytes of all messages that the keeper has sent about it."""
    answer = fcntl.ioctl(call._hold.fd, termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


def test_a_host_that_looks_late_takes_note_of_the_end_before_the_time(
    until: Callable[..., None],
) -> None:
    """Its loop was busy beyond the timeout; the program had ended long before that."""
    call = Call(make_spec(["sleep", "0.05"], {"timeout": 0.15}), eager=True)
    call.prepare()
    try:
        assert call.send()
        until(lambda: waiting(call) >= keeper.STARTED_BODY.size + keeper.EXITED_BODY.size)
        time.sleep(0.2)
        while not call.result_ready:
            call.step(None)
        assert call.result().ok
    finally:
        call.close()


class TestAdoption:
    def test_the_result_is_ready_and_what_was_left_runs_on(self) -> None:
        call = after(ADOPTED, the_rule(adopt=True))
        assert (call.state, call.take(), call.deadline) == (State.ADOPTED, [], None)
        assert call.result_ready
        assert call.adopting
        assert not call.finished

    def test_what_was_left_may_end_by_itself(self) -> None:
        call = after((*ADOPTED, lambda r: r.empty(9.0)), the_rule(adopt=True))
        assert (call.state, call.take()) == (State.DRAINING, [])
        call.drained(9.1)
        assert call.finished
        assert not call.adopting

    def test_stopped_it_is_asked_first_and_the_outcome_stays(self) -> None:
        call = after((*ADOPTED, lambda r: r.stop(9.0, Outcome.STOPPED)), the_rule(adopt=True))
        assert (call.state, call.take(), call.outcome) == (State.STOPPING, [INT], None)
        assert call.result_ready

    @pytest.mark.parametrize("events", [STOPPING, DRAINING, RUNNING])
    def test_only_what_lingers_is_adopted(self, events: tuple[Event, ...]) -> None:
        assert not after(events, the_rule(adopt=True)).result_ready

    def test_the_timeout_does_not_bind_what_was_adopted(self) -> None:
        call = after(ADOPTED, the_rule(adopt=True, timeout=5.0))
        call.tick(100.0)
        assert (call.state, call.outcome) == (State.ADOPTED, None)


class TestHeartbeat:
    @given(gaps=st.lists(st.integers(0, 12)), within=st.integers(1, 10))
    def test_it_is_lost_in_the_first_gap_that_is_as_long_as_the_bound(
        self, gaps: list[int], within: int
    ) -> None:
        call = after(RUNNING, the_rule(heartbeat=within))
        now = 0
        for gap in gaps:
            assert (call.deadline, call.outcome) == (now + within, None)
            if gap >= within:
                call.tick(now + within)
                assert (call.outcome, call.take()) == (Outcome.HEARTBEAT_LOST, [INT])
                break
            now += gap
            call.tick(now)
            call.beat(now)

    def test_output_is_no_beat(self) -> None:
        call = after((*RUNNING, lambda r: r.output(3.0, 1)), the_rule(heartbeat=4.0))
        assert call.deadline == 4.0

    def test_a_beat_that_is_heard_of_late_takes_no_time_away(self) -> None:
        call = after(
            (*RUNNING, lambda r: r.beat(3.0), lambda r: r.beat(2.0)), the_rule(heartbeat=4)
        )
        assert call.deadline == 7.0

    def test_beats_can_be_expected_more_often_less_often_and_no_more(self) -> None:
        call = after(RUNNING)
        call.beat(1.0)
        assert call.deadline is None
        for now, seconds, due in ((2.0, 5.0, 7.0), (3.0, 1.0, 4.0), (3.5, 9.0, 12.5)):
            call.expect_beats(now, seconds)
            assert call.deadline == due
        call.expect_beats(4.0, None)
        call.tick(100.0)
        assert (call.deadline, call.outcome) == (None, None)

    def test_the_bound_ends_with_the_main_process(self) -> None:
        call = after(ADOPTED, the_rule(adopt=True, heartbeat=5.0))
        call.tick(100.0)
        assert (call.state, call.deadline) == (State.ADOPTED, None)

    def test_what_was_adopted_can_be_given_a_new_one_and_lose_it(self) -> None:
        call = after(ADOPTED, the_rule(adopt=True))
        call.expect_beats(2.0, 5.0)
        call.beat(4.0)
        call.tick(8.9)
        assert (call.state, call.deadline) == (State.ADOPTED, 9.0)
        call.tick(9.0)
        assert (call.state, call.take()) == (State.STOPPING, [INT])
        assert call.outcome is Outcome.HEARTBEAT_LOST

    def test_who_is_being_stopped_needs_none(self) -> None:
        call = after(STOPPING, the_rule(heartbeat=1.5))
        call.expect_beats(1.1, 0.1)
        call.tick(2.0)
        assert (call.deadline, call.outcome, call.take()) == (3.0, Outcome.STOPPED, [])


ACTIONS = st.sampled_from(["INT", "TERM", "HUP", CLOSE_STDIN, Command(("stop",))])
WAITS = st.sampled_from([0.0, 0.5, 3.0])
TERMS = st.builds(
    Terms,
    escalation=st.lists(st.builds(Step, ACTIONS, WAITS), max_size=4).map(
        lambda steps: Escalation(*steps)
    ),
    timeout=st.none() | st.sampled_from([0.1, 2.0, 70.0]),
    idle_timeout=st.none() | st.sampled_from([0.1, 2.0]),
    heartbeat=st.none() | st.sampled_from([0.1, 2.0]),
    output_limit=st.none() | st.sampled_from([0, 50]),
    adopt=st.booleans(),
)


def as_action(step: Step) -> Action:
    if step.action is CLOSE_STDIN:
        return Do.CLOSE_STDIN
    if isinstance(step.action, Command):
        return RunCommand(step.action, step.wait)
    assert isinstance(step.action, signal.Signals)
    return SendSignal(step.action)


def bound(terms: Terms) -> float:
    """From a stop to the end, if nobody answers to anything."""
    return sum(step.wait for step in terms.escalation.steps) + KILL_BOUND + DRAIN_TIME


class AnyOrder(RuleBasedStateMachine):
    """Events in any order, sensible or not; each at the present time, which only advances."""

    def __init__(self) -> None:
        super().__init__()
        self.call = CallRule(Terms(Escalation()), 0.0)
        self.now = 0.0
        self.total = 0
        self.acted: list[tuple[float, Action]] = []
        self.was_ready = False
        self.was_finished = False
        self.outcome: Outcome | None = None
        self.ended_before_a_stop = False

    def collect(self) -> None:
        actions = self.call.take()
        if self.was_finished:
            assert actions == [], "nothing is to be done for what is over"
        self.acted += [(self.now, action) for action in actions]
        assert self.call.take() == [], "each action is handed out once"

    @initialize(terms=TERMS, start=st.sampled_from([0.0, 1000.0]))
    def begin(self, terms: Terms, start: float) -> None:
        self.call = CallRule(terms, start)
        self.now = start

    @rule(by=st.sampled_from([0.0, 0.05, 0.2, 1.0, 3.0, 100.0]))
    def time_passes(self, by: float) -> None:
        self.now += by
        self.call.tick(self.now)
        self.collect()
        due = self.call.deadline
        assert due is None or due > self.now, "tick() does all that is due"

    @rule()
    def time_passes_until_the_deadline(self) -> None:
        if (due := self.call.deadline) is not None:
            self.time_passes(max(0.0, due - self.now))

    @rule()
    def spawned(self) -> None:
        self.call.spawned()
        self.collect()

    @rule(size=st.sampled_from([1, 60]))
    def output(self, size: int) -> None:
        self.total += size
        self.call.output(self.now, self.total)
        self.collect()

    @rule()
    def beat(self) -> None:
        self.call.beat(self.now)
        self.collect()

    @rule(seconds=st.none() | st.sampled_from([0.0, 0.1, 2.0]))
    def expect_beats(self, seconds: float | None) -> None:
        self.call.expect_beats(self.now, seconds)
        self.collect()

    @rule(live=st.booleans())
    def exited(self, live: bool) -> None:
        if self.call.outcome is None:
            self.ended_before_a_stop = True
        self.call.exited(self.now, live)
        self.collect()

    @rule()
    def empty(self) -> None:
        self.call.empty(self.now)
        self.collect()

    @rule()
    def killed(self) -> None:
        self.call.killed(self.now)
        self.collect()

    @rule()
    def drained(self) -> None:
        self.call.drained(self.now)
        self.collect()

    @rule(outcome=st.sampled_from([Outcome.STOPPED, Outcome.HEARTBEAT_LOST]))
    def stop(self, outcome: Outcome) -> None:
        self.call.stop(self.now, outcome)
        self.collect()

    @rule()
    def lost(self) -> None:
        self.call.lost(self.now)
        self.collect()

    @invariant()
    def it_never_takes_anything_back(self) -> None:
        call = self.call
        if self.was_finished:
            assert call.finished
        if self.was_ready:
            assert call.result_ready
        if self.outcome is not None:
            assert call.outcome is self.outcome
        if self.ended_before_a_stop:
            # Only of what was adopted is there more to tell.
            adopted = (None, Outcome.HEARTBEAT_LOST)
            assert call.outcome in (adopted if call.result_ready and call.terms.adopt else (None,))
        self.was_ready, self.was_finished = call.result_ready, call.finished
        self.outcome = call.outcome

    @invariant()
    def its_views_agree(self) -> None:
        call = self.call
        assert call.adopting == (call.result_ready and not call.finished)
        if call.finished:
            assert call.deadline is None
            assert call.ended_at is not None
        if call.adopting:
            assert call.terms.adopt
        assert len(call.taken) == len([a for _, a in self.acted if a not in (Do.ASK, Do.LOSE)])

    @invariant()
    def the_steps_are_taken_in_order_and_in_time(self) -> None:
        kinds = [action for _, action in self.acted]
        for once in (Do.ASK, Do.KILL, Do.LOSE):
            assert kinds.count(once) <= 1
        if Do.ASK in kinds:
            assert kinds.pop(0) is Do.ASK, "only what runs is asked whether it was started"
        steps = self.call.terms.escalation.steps
        others = (Do.ASK, Do.KILL, Do.LOSE)
        asked = [(at, action) for at, action in self.acted if action not in others]
        assert [action for _, action in asked] == [as_action(s) for s in steps[: len(asked)]]
        for index, (at, _) in enumerate(asked[1:]):
            assert at >= asked[index][0] + steps[index].wait - 1e-6
        if Do.KILL in kinds:
            assert kinds.index(Do.KILL) == len(asked), "nobody is asked who is being killed"
        if Do.LOSE in kinds:
            assert kinds[-1] is Do.LOSE

    @invariant()
    def it_ends_in_time_though_nobody_answers(self) -> None:
        """On a copy: stopped now, and then only time passes."""
        call = copy.deepcopy(self.call)
        call.stop(self.now, Outcome.STOPPED)
        now = self.now
        while (due := call.deadline) is not None:
            now = max(now, due)
            call.tick(now)
        assert call.finished
        assert now <= self.now + bound(call.terms) + 1e-6


TestAnyOrder = AnyOrder.TestCase


@given(terms=TERMS)
def test_a_call_with_a_bound_ends_though_the_keeper_is_silent_from_the_start(terms: Terms) -> None:
    call = CallRule(terms, 0.0)
    now = 0.0
    while (due := call.deadline) is not None:
        call.tick(now := max(now, due))
    assert call.finished
    bounds = (terms.timeout, terms.idle_timeout, terms.heartbeat, START_BOUND)
    limits = [x for x in bounds if x is not None]
    assert now <= min(limits) + bound(terms) + 1e-6
