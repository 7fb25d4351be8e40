"""Which files of the past go, and when is a look at them due?

The oldest goes first, and the newest never:

=======================================  ==================================================
a file goes when                         it stays all the same when
=======================================  ==================================================
there are more than ``max_files``        it is the newest, or held: in the hands of somebody
all together have over ``max_bytes``     (then it counts, and a newer one goes in its place)
it is older than ``max_age``
=======================================  ==================================================

A look costs as much as there are files.  So it is due when a tenth of what is allowed has been
added since the last one, and then leaves room for a tenth: the bounds hold in between, and each
file costs the same however many there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from attrs import evolve

from .._values.retention import Retention

if TYPE_CHECKING:
    from collections.abc import Container, Sequence


class File(Protocol):
    @property
    def size(self) -> int: ...  # bytes

    @property
    def written_at(self) -> float: ...  # by the clock on the wall, which may be set back


AnyFile = TypeVar("AnyFile", bound=File)


def surplus(
    files: Sequence[AnyFile], retention: Retention, now: float, held: Container[AnyFile] = ()
) -> list[AnyFile]:
    """Those of ``files``, newest first, that are to go, oldest first."""
    going: list[AnyFile] = []
    count, total = len(files), sum(file.size for file in files)
    for file in reversed(files[1:]):
        too_many = retention.max_files is not None and count > retention.max_files
        too_large = retention.max_bytes is not None and total > retention.max_bytes
        too_old = retention.max_age is not None and now - file.written_at > retention.max_age
        if (too_many or too_large or too_old) and file not in held:
            going.append(file)
            count -= 1
            total -= file.size
    return going


def is_due(retention: Retention, files: int, size: int, seconds: float) -> bool:
    """Whether so many files and bytes, in so many seconds, are worth a look."""
    return (
        (retention.max_files is not None and files > retention.max_files // 10)
        or (retention.max_bytes is not None and size > retention.max_bytes // 10)
        or (retention.max_age is not None and seconds > retention.max_age / 10)
    )


def with_room(retention: Retention) -> Retention:
    """The bounds less what may be added before the next look."""
    most, size = retention.max_files, retention.max_bytes
    return evolve(
        retention,
        max_files=None if most is None else most - most // 10,
        max_bytes=None if size is None else size - size // 10,
    )


def of_a_full_disk(files: Sequence[File]) -> Retention:
    """Bounds by which at least a tenth goes, whatever was allowed: for files, disk and quota."""
    return Retention(
        max_files=max(1, len(files) * 9 // 10), max_bytes=sum(file.size for file in files) * 9 // 10
    )
