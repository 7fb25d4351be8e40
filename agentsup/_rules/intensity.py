"""Do the restarts come too fast?  The maximum restart intensity of OTP's supervisor(3).

=========================================================  ========
restarts in the last ``within`` seconds, this one counted  too many
=========================================================  ========
at most ``max_restarts``                                   no
more                                                       yes
=========================================================  ========

A restart exactly ``within`` seconds ago still counts.
"""

from __future__ import annotations

from collections import deque

from attrs import define, field

from .._values.number import seconds, whole


def _to_max(value: int | None) -> int | None:
    return whole("max_restarts", value, "restarts")


def _to_within(value: float | None) -> float | None:
    return seconds("within", value, zero=False)


@define
class Intensity:
    """The restarts of all children of one supervisor.

    :param max_restarts: how many are allowed; None for any number.
    :param within: in so many seconds; None for ever.
    """

    max_restarts: int | None = field(default=3, converter=_to_max)
    within: float | None = field(default=5.0, converter=_to_within)
    _times: deque[float] = field(factory=deque[float], init=False)

    def record(self, now: float) -> bool:
        """A restart is due: whether it is one too many."""
        if self.max_restarts is None:
            return False
        self._times.append(now)
        if len(self._times) <= self.max_restarts:
            return False
        oldest = self._times.popleft()  # the only one that can decide, now and later
        return self.within is None or now - oldest <= self.within
