"""How many lines are kept of one that prints too many?

So many within an interval, which begins with the first of them; the others are dropped until the
next one begins, as journald has it.

==============  =======================  =====================================================
state           event                    what follows
==============  =======================  =====================================================
(none)          lines                    an interval begins: its burst is what there is room for
interval        lines, room for all      all are taken
interval        lines, room for some     the first are taken, and the rest is dropped
interval over   lines                    the next interval begins with them
==============  =======================  =====================================================

All times are seconds on one monotonic clock.
"""

from __future__ import annotations

import math

from attrs import define


@define
class RateRule:
    burst: int
    interval: float
    _since: float = -math.inf
    _taken: int = 0

    def room(self, now: float) -> int:
        """How many lines would be taken now."""
        return self.burst if now - self._since >= self.interval else self.burst - self._taken

    def take(self, now: float, lines: int) -> int:
        """How many of so many lines are taken."""
        room = self.room(now)
        if now - self._since >= self.interval and lines:
            self._since, self._taken = now, 0
        taken = min(lines, room)
        self._taken += taken
        return taken
