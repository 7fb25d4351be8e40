"""A run has ended: is it to be followed by another one, and when?

The first line that fits decides.

===========================================================  =======  =========================
how it ended                                                 action   what that means
===========================================================  =======  =========================
not clean, with a status of ``never_again``                  never    not even with its siblings
a status of ``prevent_restart_on``, or not to be restarted   rest     if it was clean
the same                                                     fail     if it was not
``give_up`` says so, or it or ``backoff`` cannot be asked    give_up  it failed too often
anything else                                                restart  in ``delay`` seconds
===========================================================  =======  =========================

*To be restarted* are a permanent one, always, and a transient one if its end was not clean.  A run
of ``stable_after`` seconds begins a new series: ``backoff`` and ``give_up`` then count from its
end.  Before that they count from the first start.
"""

from __future__ import annotations

import random as randoms
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from attrs import define, field, frozen

from .._values.number import seconds
from .._values.restart import Ending, RestartPolicy, wanted

if TYPE_CHECKING:
    from tenacity import RetryCallState

Action: TypeAlias = Literal["restart", "rest", "fail", "never", "give_up"]


class RunEnded(Exception):
    """What tenacity's objects see as the outcome of a run."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(str(ending))
        self.ending = ending


@frozen
class Verdict:
    """What follows a run; see the table above."""

    action: Action
    clean: bool
    reason: str
    #: Seconds until the restart.
    delay: float = 0.0


@frozen
class Series:
    """All that a rule knows, for another one to go on with."""

    attempt: int = 0
    restarts: int = 0
    started_at: float | None = None
    since: float | None = None
    waited: float = 0.0


@define
class RestartRule:
    """The runs of one service. Tell it of each start and each end that was not asked for."""

    policy: RestartPolicy
    _random: Callable[[], float] = randoms.random
    #: Consecutive restarts, since the last reset or stable run.
    attempt: int = field(default=0, init=False)
    #: All restarts there ever were.
    restarts: int = field(default=0, init=False)
    _started_at: float | None = field(default=None, init=False)
    _since: float | None = field(default=None, init=False)  # the series began
    _waited: float = field(default=0.0, init=False)  # of the series

    def reset(self) -> None:
        """Begin a new series: it was started or stopped by hand."""
        self.attempt = 0
        self._started_at = self._since = None
        self._waited = 0.0

    def state(self) -> Series:
        return Series(self.attempt, self.restarts, self._started_at, self._since, self._waited)

    def restore(self, series: Series) -> None:
        """Go on with it. A run that it was in is taken to have lasted until the next start."""
        self.attempt, self.restarts = series.attempt, series.restarts
        self._started_at, self._since = series.started_at, series.since
        self._waited = series.waited

    def started(self, now: float) -> None:
        """A run begins, or is tried."""
        self._end_run(now)  # the last one, if it was stopped
        self._started_at = now
        if self._since is None:
            self._since = now

    def ended(self, now: float, ending: Ending) -> Verdict:
        """It has ended, without anybody having stopped it."""
        self._end_run(now)
        policy = self.policy
        clean, reason = policy.clean(ending), str(ending)
        if not clean and ending.signal is None and ending.exit_code in policy.never_again:
            return Verdict("never", clean, f"{reason}: never again")
        if policy.prevents(ending):
            return Verdict("rest" if clean else "fail", clean, f"{reason}, which allows no restart")
        if not wanted(policy.restart, clean):
            return Verdict("rest" if clean else "fail", clean, reason)
        try:
            delay = self._ask(now, ending)
        except (TypeError, ValueError) as error:
            # A restart without its backoff could be a busy loop.
            return Verdict("give_up", clean, f"{reason}; {error}")
        if delay is None:
            runs = f"{self.attempt + 1} run" + ("s" if self.attempt else "")
            return Verdict("give_up", clean, f"{reason}; given up after {runs}")
        self.attempt += 1
        self.restarts += 1
        self._waited += delay
        return Verdict("restart", clean, reason, delay)

    def _end_run(self, now: float) -> None:
        """Begin a new series if the run was long enough."""
        started_at, self._started_at = self._started_at, None
        stable_after = self.policy.stable_after
        if started_at is None or stable_after is None or now - started_at < stable_after:
            return
        self.reset()
        self._since = now

    def _ask(self, now: float, ending: Ending) -> float | None:
        """The seconds to wait, or None to give up."""
        policy = self.policy
        delay = policy.jitter * self._random()
        if policy.backoff is None and policy.give_up is None:
            return delay
        state = self._state(now, ending)
        if policy.backoff is not None:
            delay += _finite(_call("backoff", policy.backoff, state))
        state.upcoming_sleep = delay
        if policy.give_up is not None and _call("give_up", policy.give_up, state):
            return None
        return delay

    def _state(self, now: float, ending: Ending) -> RetryCallState:
        """What tenacity would have if it had called the service itself."""
        import tenacity

        state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
        state.attempt_number = self.attempt + 1
        state.start_time = now if self._since is None else self._since
        state.idle_for = self._waited
        state.outcome = tenacity.Future(state.attempt_number)
        state.outcome.set_exception(RunEnded(ending))
        state.outcome_timestamp = now
        return state


def _call(name: str, asked: Callable[[RetryCallState], Any], state: RetryCallState) -> Any:
    try:
        return asked(state)
    except Exception as error:
        raise ValueError(f"{name} raised {type(error).__name__}: {error}") from error


def _finite(value: float) -> float:
    delay = seconds("what backoff returns", value)
    if delay is None:
        raise ValueError(f"what backoff returns must be a finite number of seconds, not {value!r}")
    return delay
