"""What is to be done with a step that somebody asks for, and who may still write to it?

===========  ==============================  ======================================
the step is  and                             what follows
===========  ==============================  ======================================
unknown                                      TAKE → running
planned                                      TAKE → running
failed                                       TAKE → running
done                                         GIVE what is stored
running      its agent lives                 WAIT
running      its agent is dead, or hung      → interrupted, and then as that
interrupted  policy "retry"                  TAKE → running
interrupted  policy "skip"                   SKIP
interrupted  policy "fail"                   FAIL
interrupted  policy is a callable            ASK it, and then by its answer
===========  ==============================  ======================================

Each TAKE is an attempt with a number of its own, one more than the last.  Only the attempt that a
running step is in may make it done, failed, interrupted or, when it has not begun, planned again:
an agent that was taken for dead and is not finds that its step is lost.  By hand, all but a
running one become planned.

An agent is dead when the kernel says so.  It is *hung* when its beat has stayed the same for as
long as its lease, by the clock of the one who waits for it: no two clocks are ever compared.
"""

from __future__ import annotations

import enum
from typing import Literal, TypeAlias

from attrs import define, frozen

Answer: TypeAlias = Literal["retry", "skip", "fail"]
ANSWERS: tuple[Answer, ...] = "retry", "skip", "fail"


class StepState(enum.Enum):
    """What has become of a step."""

    PLANNED = "planned"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class Do(enum.Enum):
    TAKE = enum.auto()
    GIVE = enum.auto()
    WAIT = enum.auto()
    SKIP = enum.auto()
    FAIL = enum.auto()
    ASK = enum.auto()


_POLICIES = {"retry": Do.TAKE, "skip": Do.SKIP, "fail": Do.FAIL, "ask": Do.ASK}


def as_found(state: StepState, *, holder_lives: bool) -> StepState:
    """What a step that is noted as ``state`` really is."""
    return StepState.INTERRUPTED if state is StepState.RUNNING and not holder_lives else state


def what_to_do(state: StepState | None, policy: Answer | Literal["ask"]) -> Do:
    """With a step found in ``state``, None if there is none."""
    if state is StepState.DONE:
        return Do.GIVE
    if state is StepState.RUNNING:
        return Do.WAIT
    return _POLICIES[policy] if state is StepState.INTERRUPTED else Do.TAKE


def may_write(attempt: int, *, state: StepState, attempts: int) -> bool:
    """Whether that attempt is the one that the step is in."""
    return state is StepState.RUNNING and attempt == attempts


@frozen
class Sighting:
    """What one who waits sees of the agent that runs a step."""

    attempt: int
    beat: int
    lease: float  # seconds, or infinity


@define
class Watch:
    """For how long an agent has given no sign of life."""

    last: Sighting
    since: float

    def see(self, sighting: Sighting, now: float) -> None:
        if sighting != self.last:
            self.last, self.since = sighting, now

    def left(self, now: float) -> float:
        """Seconds until it is hung; 0 when it is."""
        return max(self.since + self.last.lease - now, 0.0)
