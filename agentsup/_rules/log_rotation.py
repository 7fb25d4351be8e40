"""When does a log go on in a new segment, and which of the old ones go?

=====================================  ====================================================
event                                  what follows
=====================================  ====================================================
it has come to ``segment_size``        a new segment
its first record is ``segment_age``    a new segment, with the next record
a record that it has no room for       a new segment, unless it has none yet
a service has over ``max_size``        the oldest of its segments go, all but those written
one has not been written for           it goes
``max_age``
all services have over ``total_size``  the oldest of all go, whosever they are
=====================================  ====================================================

A look is due with each new segment, and when all have grown by a tenth of ``total_size``.  What is
written grows until the next one: so a service is left room for a segment, and all for a tenth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from .._values.retention import Retention
from .retention import with_room

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from .retention import AnyFile


@frozen
class Rotation:
    """Bytes, and seconds by the clock on the wall; None is no bound."""

    size: int
    age: float | None

    def is_due(self, size: int, begun: float, now: float) -> bool:
        """Whether a segment of this size, with a first record from then, is to end."""
        return size >= self.size or (self.age is not None and size > 0 and now - begun >= self.age)

    def fitting(self, records: bytes, start: int, size: int) -> int:
        """How far the records from ``start`` on go into a segment of that size: at most one of
        them beyond the bound, and that only where it is the first."""
        room = max(0, self.size - size)
        if len(records) - start <= room:
            return len(records)
        end = records.rfind(b"\n", start, start + room) + 1
        if end or size:
            return max(end, start)
        return records.index(b"\n", start) + 1


def to_remove(
    files: Mapping[str, Sequence[AnyFile]],
    retention: Mapping[str, Retention],
    total: Retention,
    now: float,
    written: Container[AnyFile],
) -> list[AnyFile]:
    """As :func:`beyond`, and with room for what is written until the next look."""
    return beyond(files, retention, with_room(total), now, written)


def beyond(
    files: Mapping[str, Sequence[AnyFile]],
    retention: Mapping[str, Retention],
    total: Retention,
    now: float,
    written: Container[AnyFile],
) -> list[AnyFile]:
    """Which of the segments go, that each service has, the newest of it first."""
    gone = [
        file
        for service, found in files.items()
        for file in _surplus(found, retention[service], now, written)
    ]
    left = [file for found in files.values() for file in found if file not in gone]
    left.sort(key=lambda file: file.written_at, reverse=True)
    return gone + _surplus(left, total, now, written)


def _surplus(
    files: Sequence[AnyFile], retention: Retention, now: float, written: Container[AnyFile]
) -> list[AnyFile]:
    """As ``retention.surplus``, but the newest goes as well, unless it is written."""
    going: list[AnyFile] = []
    total = sum(file.size for file in files)
    for file in reversed(files):
        too_large = retention.max_bytes is not None and total > retention.max_bytes
        too_old = retention.max_age is not None and now - file.written_at > retention.max_age
        if (too_large or too_old) and file not in written:
            going.append(file)
            total -= file.size
    return going


def of_service(max_size: int | None, segment_size: int, max_age: float | None) -> Retention:
    """Its bounds at a look, with room for the segment that is written from then on."""
    size = None if max_size is None else max(0, max_size - segment_size)
    return Retention(max_bytes=size, max_age=max_age)
