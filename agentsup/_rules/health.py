"""When is a health check's next probe due, and what do its results come to?

========  ====================================  ====================================================
state     event                                 what follows
========  ====================================  ====================================================
IDLE      began                                 STARTING; a probe is due at once
STARTING  failed, within ``start_period``       does not count; due again after ``start_interval``
STARTING  failed, later                         WATCHING, where it counts
STARTING  passed                                WATCHING, where it counts
WATCHING  passed, ``successes`` in a row        readiness: ready; startup: OVER, started and ready
WATCHING  failed, ``failures`` in a row         readiness: not ready; others: OVER, unhealthy
WATCHING  any other result                      due again after ``interval``
OVER      anything                              nothing; no probe is due
========  ====================================  ====================================================

Intervals run from the time that a probe was due, so that its own duration does not add up; one that
comes late is made up for by none.  All times are seconds on one monotonic clock.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from attrs import define, field

if TYPE_CHECKING:
    from .._values.health import HealthCheck


class State(enum.Enum):
    IDLE = enum.auto()
    STARTING = enum.auto()
    WATCHING = enum.auto()
    OVER = enum.auto()


@define
class HealthRule:
    """The state of one check of one process. Probe it when it is ``due``, and say how that went."""

    check: HealthCheck
    state: State = State.IDLE
    #: When the next probe is to be made, or None.
    due: float | None = None
    #: A startup check has passed; true of the others from the beginning.
    started: bool = field(init=False)
    #: As far as this check is concerned: true of a liveness check from the beginning.
    ready: bool = field(init=False)
    unhealthy: bool = False
    #: Why the last probe failed, or None if it passed.
    last_reason: str | None = None
    passes: int = 0  #: in a row
    failures: int = 0  #: in a row, that count
    _began_at: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.started = self.check.role != "startup"
        self.ready = self.check.role == "liveness"

    def began(self, now: float) -> None:
        """The process runs, and what has to come before its first probe is done."""
        self.state = State.STARTING
        self.due = self._began_at = now

    def passed(self, now: float) -> None:
        """A probe has passed."""
        if self.state is State.OVER:
            return
        self.state = State.WATCHING
        self.last_reason = None
        self.passes += 1
        self.failures = 0
        if self.passes >= self.check.successes:
            self.started = self.ready = True
            if self.check.role == "startup":
                return self._end()
        return self._go_on(now, self.check.interval)

    def failed(self, now: float, reason: str) -> None:
        """A probe has failed."""
        if self.state is State.OVER:
            return
        check = self.check
        self.last_reason = reason
        self.passes = 0
        if self.state is State.STARTING and now < self._began_at + check.start_period:
            return self._go_on(now, check.start_interval or check.interval)
        self.state = State.WATCHING
        self.failures += 1
        if self.failures >= check.failures:
            if check.role != "readiness":
                self.unhealthy = True
                return self._end()
            self.ready = False
        return self._go_on(now, check.interval)

    def _go_on(self, now: float, interval: float) -> None:
        assert self.due is not None
        self.due = max(now, self.due + interval)

    def _end(self) -> None:
        self.state = State.OVER
        self.due = None
