"""When is a call stopped, how is it escalated, and when is it over?

==========  ==========================  ======================================================
state       event                       what follows
==========  ==========================  ======================================================
RUNNING     exited, nothing lives on    DRAINING
RUNNING     exited, others live on      LINGERING: their output is read for a while
RUNNING     a deadline, stop, a limit   STOPPING, first step
RUNNING     no beat within its bound    STOPPING, first step
RUNNING     no word for a while         Ask whether it was started; no answer in time: Lose
LINGERING   drained, or time is up      Kill → KILLING; to be adopted: ADOPTED, the result is ready
LINGERING   empty                       DRAINING
LINGERING   stop                        Kill → KILLING; to be adopted: STOPPING, first step
ADOPTED     empty / stop                DRAINING / STOPPING, first step
ADOPTED     no beat within a new bound  STOPPING, first step
STOPPING    extend                      (goes on: the step has so much time from now)
STOPPING    the step's time is over     next step; after the last one Kill → KILLING
STOPPING    exited, others live on      (goes on: the grace is the whole tree's)
STOPPING    exited or empty: all gone   DRAINING
KILLING     killed, or all gone         DRAINING
KILLING     no answer in time           Lose → FINISHED: the keeper does not do its work
DRAINING    drained, or drain time      FINISHED
==========  ==========================  ======================================================

*drained* is the end of every output stream.  A heartbeat's bound ends with the main process, and
what was adopted can be given a new one.  All times are seconds on one monotonic clock.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, TypeAlias

from attrs import define, field, frozen

from .._values.command import Command
from .._values.escalation import CLOSE_STDIN
from .._values.result import Outcome, TakenStep

if TYPE_CHECKING:
    import signal as signals

    from .._values.escalation import Escalation

DRAIN_TIME = 0.2
#: A short call is over by then, and a message less is a tenth of what it costs.
ASK_AFTER = 1.0
START_BOUND = 60.0
#: The keeper itself gives up after five seconds and says so.
KILL_BOUND = 10.0


class State(enum.Enum):
    RUNNING = enum.auto()
    LINGERING = enum.auto()
    ADOPTED = enum.auto()
    STOPPING = enum.auto()
    KILLING = enum.auto()
    DRAINING = enum.auto()
    FINISHED = enum.auto()


@frozen
class SendSignal:
    """Signal every process of the tree."""

    signal: signals.Signals


@frozen
class RunCommand:
    """Run a pre-stop command, for at most so many seconds."""

    command: Command
    seconds: float


class Do(enum.Enum):
    CLOSE_STDIN = enum.auto()
    ASK = enum.auto()  # whether it has been started
    KILL = enum.auto()  # SIGKILL to the tree, to a fixpoint
    LOSE = enum.auto()  # the keeper is lost: see to it without it


Action: TypeAlias = "SendSignal | RunCommand | Do"


@frozen
class Terms:
    """What was agreed on for this call. Seconds and bytes; None is no bound."""

    escalation: Escalation
    timeout: float | None = None
    idle_timeout: float | None = None
    heartbeat: float | None = None
    output_limit: int | None = None
    adopt: bool = False
    #: How long the output of what outlives the main process is read. A service is not to wait.
    linger: float = DRAIN_TIME


@define
class CallRule:
    """The state of one call. Feed it events; then carry out what :meth:`take` returns."""

    terms: Terms
    started_at: float
    state: State = State.RUNNING
    #: Why it was stopped, if it was.
    outcome: Outcome | None = None
    taken: list[TakenStep] = field(factory=list[TakenStep])
    ended_at: float | None = None
    #: Whether what outlives the main process is to stay.
    adopt: bool = False
    _spawned: bool = False
    _asked: bool = False
    _drained: bool = False
    _adopted: bool = False
    _next_step: int = 0
    _until: float | None = None
    _kill_at: float | None = None  # whatever the steps say
    _last_output: float = 0.0
    _beats_within: float = 0.0
    _beat_due: float | None = None
    _actions: list[Action] = field(factory=list[Action])

    def __attrs_post_init__(self) -> None:
        self._last_output = self.started_at
        if self.terms.heartbeat is not None:
            self.expect_beats(self.started_at, self.terms.heartbeat)
        self.adopt = self.terms.adopt

    # --- what is known ------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """When :meth:`tick` is due at the latest, or None. It may only have moved later since."""
        if self.state is not State.RUNNING:
            return self._beat_due if self.state is State.ADOPTED else self._until
        terms = self.terms
        due = None if terms.timeout is None else self.started_at + terms.timeout
        if terms.idle_timeout is not None:
            idle = self._last_output + terms.idle_timeout
            due = idle if due is None else min(due, idle)
        if self._beat_due is not None:
            due = self._beat_due if due is None else min(due, self._beat_due)
        if not self._spawned:
            start = self.started_at + (START_BOUND if self._asked else ASK_AFTER)
            due = start if due is None else min(due, start)
        return due

    @property
    def result_ready(self) -> bool:
        return self.state is State.FINISHED or self._adopted

    @property
    def adopting(self) -> bool:
        """The result is ready, but what the call left runs on."""
        return self.state is not State.FINISHED and self._adopted

    @property
    def finished(self) -> bool:
        return self.state is State.FINISHED

    def take(self) -> list[Action]:
        """What is to be done now, in order. Each action is handed out once."""
        actions, self._actions = self._actions, []
        return actions

    # --- what happens -------------------------------------------------------------------------

    def began(self, now: float) -> None:
        """The request was sent; what was waited until now counts against nothing."""
        self.started_at = self._last_output = now
        self.beat(now)

    def spawned(self) -> None:
        """The program runs."""
        self._spawned = True

    def output(self, now: float, total: int) -> None:
        """Something was printed; ``total`` bytes so far over all streams."""
        self._last_output = now
        limit = self.terms.output_limit
        if limit is not None and total > limit and self.state is State.RUNNING:
            self.stop(now, Outcome.OUTPUT_LIMIT)

    def beat(self, now: float) -> None:
        """It makes progress."""
        if self._beat_due is not None:
            self._beat_due = max(self._beat_due, now + self._beats_within)

    def expect_beats(self, now: float, seconds: float | None) -> None:
        """From now on, a beat at least every so many seconds; None for no such bound."""
        self._beats_within = seconds or 0.0
        self._beat_due = None if seconds is None else now + seconds

    def exited(self, now: float, live: bool) -> None:
        """The main process is reaped; ``live``: others of its tree are not."""
        if self.finished:
            return
        self.ended_at = now
        self._beat_due = None
        if not live:
            self._drain(now)
        elif self.state is State.RUNNING:
            self._enter(State.LINGERING, now + self.terms.linger)
            if self._drained:
                self._end_lingering(now)

    def empty(self, now: float) -> None:
        """What outlived the main process has ended by itself."""
        self._drain(now)

    def killed(self, now: float) -> None:
        """The tree was killed."""
        self._drain(now)

    def drained(self, now: float) -> None:
        """Every output stream has ended."""
        self._drained = True
        if self.state is State.DRAINING:
            self._enter(State.FINISHED, None)
        elif self.state is State.LINGERING:
            self._end_lingering(now)

    def stop(self, now: float, outcome: Outcome, within: float | None = None) -> None:
        """End it. A main process that has ended already keeps its own outcome, unless what was
        adopted in its place has lost its heartbeat."""
        lost = self.state is State.ADOPTED and outcome is Outcome.HEARTBEAT_LOST
        if lost or (self.ended_at is None and self.state is State.RUNNING):
            self.outcome = outcome
        if self.state is State.LINGERING and not self.adopt:
            self._kill(now)
        elif self.state in (State.RUNNING, State.LINGERING, State.ADOPTED):
            self._kill_at = None if within is None else now + within
            self._enter(State.STOPPING, None)
            self._take_step(now)

    def extend(self, now: float, seconds: float) -> None:
        """It asks for this much time, from now, to stop."""
        if self.state is State.STOPPING and self._until is not None:
            self._until = max(self._until, now + seconds)
            if self._kill_at is not None:
                self._kill_at = max(self._kill_at, self._until)

    def tick(self, now: float) -> None:
        """Time has passed."""
        while (due := self.deadline) is not None and now >= due:
            if self.state is State.RUNNING:
                self._overdue(now)
            elif self.state is State.ADOPTED:
                self.stop(now, Outcome.HEARTBEAT_LOST)
            elif self.state is State.STOPPING:
                self._take_step(now)
            elif self.state is State.LINGERING:
                self._end_lingering(now)
            elif self.state is State.KILLING:
                self.lost(now)
                self._actions.append(Do.LOSE)
            else:
                self._enter(State.FINISHED, None)

    def lost(self, now: float) -> None:
        """The keeper is gone; nothing more will be heard."""
        if self.ended_at is None:
            self.ended_at = now
        self._enter(State.FINISHED, None)

    # --- how ----------------------------------------------------------------------------------

    def _enter(self, state: State, until: float | None) -> None:
        self.state = state
        self._until = until

    def _overdue(self, now: float) -> None:
        timeout, idle = self.terms.timeout, self.terms.idle_timeout
        if timeout is not None and now >= self.started_at + timeout:
            self.stop(now, Outcome.TIMED_OUT)
        elif idle is not None and now >= self._last_output + idle:
            self.stop(now, Outcome.IDLE)
        elif self._beat_due is not None and now >= self._beat_due:
            self.stop(now, Outcome.HEARTBEAT_LOST)
        elif not self._asked:
            self._asked = True
            self._actions.append(Do.ASK)
        else:
            self.lost(now)
            self._actions.append(Do.LOSE)

    def _take_step(self, now: float) -> None:
        steps = self.terms.escalation.steps
        if self._next_step == len(steps) or (self._kill_at is not None and now >= self._kill_at):
            return self._kill(now)
        step = steps[self._next_step]
        self._next_step += 1
        self._until = now + step.wait
        if self._kill_at is not None:
            self._until = min(self._until, self._kill_at)
        action = step.action
        if action is CLOSE_STDIN:
            self._act(now, Do.CLOSE_STDIN, "close stdin")
        elif isinstance(action, Command):
            self._act(now, RunCommand(action, step.wait), f"run {action}")
        else:
            self._act(now, SendSignal(action), action.name)
        return None

    def _kill(self, now: float) -> None:
        self._enter(State.KILLING, now + KILL_BOUND)
        self._act(now, Do.KILL, "SIGKILL")

    def _end_lingering(self, now: float) -> None:
        if self.adopt:
            self._adopted = True
            self._enter(State.ADOPTED, None)
        else:
            self._kill(now)

    def _drain(self, now: float) -> None:
        if self.ended_at is None:
            self.ended_at = now
        if self._drained:
            self._enter(State.FINISHED, None)
        elif self.state is not State.DRAINING and not self.finished:
            self._enter(State.DRAINING, now + DRAIN_TIME)

    def _act(self, now: float, action: Action, name: str) -> None:
        self._actions.append(action)
        self.taken.append(TakenStep(name, now - self.started_at))
