"""The rule of a ledger's steps: its table, then any order of events over some agents."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agentsup._rules.ledger import (
    Do,
    Sighting,
    StepState,
    Watch,
    as_found,
    may_write,
    what_to_do,
)

POLICIES = ["retry", "skip", "fail", "ask"]


@pytest.mark.parametrize(
    ("state", "does"),
    [
        (None, [Do.TAKE] * 4),
        (StepState.PLANNED, [Do.TAKE] * 4),
        (StepState.FAILED, [Do.TAKE] * 4),
        (StepState.DONE, [Do.GIVE] * 4),
        (StepState.RUNNING, [Do.WAIT] * 4),
        (StepState.INTERRUPTED, [Do.TAKE, Do.SKIP, Do.FAIL, Do.ASK]),
    ],
)
def test_the_table(state: StepState | None, does: list[Do]) -> None:
    assert [what_to_do(state, policy) for policy in POLICIES] == does  # type: ignore[arg-type]


@pytest.mark.parametrize("state", StepState)
def test_only_what_runs_is_interrupted_by_a_death(state: StepState) -> None:
    dead = StepState.INTERRUPTED if state is StepState.RUNNING else state
    assert as_found(state, holder_lives=True) is state
    assert as_found(state, holder_lives=False) is dead


@pytest.mark.parametrize("state", StepState)
@pytest.mark.parametrize("attempt", [1, 2, 3])
def test_only_the_attempt_that_runs_may_write(state: StepState, attempt: int) -> None:
    allowed = state is StepState.RUNNING and attempt == 2
    assert may_write(attempt, state=state, attempts=2) is allowed


class OneStep(RuleBasedStateMachine):
    """A step, and agents that are killed, or taken for dead while they are not."""

    def __init__(self) -> None:
        super().__init__()
        self.state: StepState | None = None
        self.attempts = 0
        self.believed = False  # that the holder lives
        self.holds: dict[int, int] = {}  # of each agent, the attempt that it believes to be in
        self.acknowledged = 0

    @rule(agent=st.integers(0, 3), policy=st.sampled_from(POLICIES))
    def ask(self, agent: int, policy: Any) -> None:
        if agent in self.holds:
            return
        if self.state is not None:
            self.state = as_found(self.state, holder_lives=self.believed)
        if what_to_do(self.state, policy) is Do.TAKE:
            assert not self.acknowledged, "done again after its acknowledgement"
            self.state, self.attempts, self.believed = StepState.RUNNING, self.attempts + 1, True
            self.holds[agent] = self.attempts

    @rule(agent=st.integers(0, 3), end=st.sampled_from([StepState.DONE, StepState.FAILED]))
    def end(self, agent: int, end: StepState) -> None:
        attempt = self.holds.pop(agent, 0)
        if self.state and may_write(attempt, state=self.state, attempts=self.attempts):
            self.state = end
            self.acknowledged += end is StepState.DONE

    @rule(agent=st.integers(0, 3))
    def die(self, agent: int) -> None:
        if self.holds.pop(agent, 0) == self.attempts:
            self.believed = False

    @rule()
    def hang(self) -> None:
        self.believed = False

    @invariant()
    def at_most_one_may_write(self) -> None:
        able = [
            agent
            for agent, attempt in self.holds.items()
            if self.state and may_write(attempt, state=self.state, attempts=self.attempts)
        ]
        assert len(able) <= 1
        assert self.acknowledged <= 1


OneStep.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestOneStep = OneStep.TestCase


@settings(deadline=None)
@given(
    start=st.floats(-1e6, 1e6),
    lease=st.floats(0.1, 100),
    looks=st.lists(st.tuples(st.floats(0, 200), st.booleans()), max_size=20),
)
def test_an_agent_is_hung_when_its_beat_stays_the_same_for_its_lease(
    start: float, lease: float, looks: list[tuple[float, bool]]
) -> None:
    now, beat, last = start, 0, start
    watch = Watch(Sighting(1, beat, lease), start)
    for pause, beats in looks:
        now += pause
        if beats:
            beat, last = beat + 1, now
        watch.see(Sighting(1, beat, lease), now)
        assert watch.left(now) == pytest.approx(max(last + lease - now, 0), abs=1e-6)


def test_another_attempt_is_another_agents() -> None:
    watch = Watch(Sighting(1, 5, 10.0), 0.0)
    watch.see(Sighting(2, 5, 10.0), 9.0)
    assert watch.left(10.0) == 9.0


def test_no_lease_never_ends() -> None:
    assert Watch(Sighting(1, 5, math.inf), 0.0).left(1e9) == math.inf
