"""When is a program asked to stop, when is its work cancelled, and when is it over?

===========  ===========================  =================================================
state        event                        what follows
===========  ===========================  =================================================
RUNNING      asked                        REQUESTED: what is in hand may end, in the grace
REQUESTED    asked again, grace over      CANCELLED: it is cancelled, and may clean up
CANCELLED    asked again, cleanup over    FORCED: the clean-up is cancelled as well
FORCED       asked again                  (nothing more can be done)
===========  ===========================  =================================================

All times are seconds on one monotonic clock.
"""

from __future__ import annotations

import enum

from attrs import define


class State(enum.IntEnum):
    RUNNING = 0
    REQUESTED = 1
    CANCELLED = 2
    FORCED = 3


@define
class ShutdownRule:
    """Feed it what happens; then look at ``state``."""

    #: Seconds for the unit of work in hand, and for what follows it.
    grace: float
    cleanup: float
    state: State = State.RUNNING
    #: When :meth:`tick` is due.
    deadline: float | None = None

    def ask(self, now: float) -> None:
        """A signal has come, or the program itself wants to end."""
        if self.state is not State.FORCED:
            self._advance(now)

    def tick(self, now: float) -> None:
        """Time has passed."""
        while self.deadline is not None and now >= self.deadline:
            self._advance(self.deadline)

    def left(self, now: float) -> float:
        """Seconds until FORCED at the latest; while RUNNING, those for a clean-up that begins."""
        until_deadline = 0.0 if self.deadline is None else max(0.0, self.deadline - now)
        return until_deadline + (self.cleanup if self.state <= State.REQUESTED else 0.0)

    def _advance(self, now: float) -> None:
        self.state = State(self.state + 1)
        times = {State.REQUESTED: self.grace, State.CANCELLED: self.cleanup}
        self.deadline = now + times[self.state] if self.state in times else None
