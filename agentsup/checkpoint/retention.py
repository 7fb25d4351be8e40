"""Which generations of a checkpoint go: ``_rules/retention.py``, with ``keep`` for their number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import evolve, frozen

from .._rules import retention as rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._values.retention import Retention


@frozen
class Generation:
    """A file of a checkpoint. Which is newer is told by the numbers alone."""

    number: int
    size: int  # bytes
    written_at: float  # by the clock on the wall, which may be set back


def surplus(
    generations: Sequence[Generation], keep: int, retention: Retention, now: float
) -> list[Generation]:
    """Those of ``generations``, newest first, that are to be dropped, oldest first."""
    most = keep if retention.max_files is None else min(keep, retention.max_files)
    return rule.surplus(generations, evolve(retention, max_files=most), now)
