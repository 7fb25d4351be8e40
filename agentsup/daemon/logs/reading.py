"""Records of one service, forwards and backwards, as far as they are asked for.

What is read is the files alone, a block at a time, while another process writes the last of them,
compresses others and removes the oldest:

==============================  ===============================================================
found                           what is made of it
==============================  ===============================================================
a partial record, and a whole   it is the last word of a daemon that was killed
one after it
partial records at the end      the same, unless the writer is about to overwrite them
the same ones at the beginning  they have moved there
of the next segment
a line without an end, spaces   nothing, or not yet anything
a line that is no record        nothing: it is torn
a segment that has gone         nothing: it was too old
==============================  ===============================================================
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from attrs import frozen

from .record import parse, segment_number
from .segment_files import CompressedFile, open_segment

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from .segment_files import PlainFile, SegmentFile

_HEAD = b'{"ts":'


class Entry(NamedTuple):
    """A record as it is in the file, without the end of its line."""

    ts: float
    line: bytes


@frozen
class Position:
    """In the log of a service, which begins with segment 1."""

    segment: int = 0
    offset: int = 0


def numbers(directory: str) -> list[int]:
    """Of the segments that are there, oldest first."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted({number for name in names if (number := segment_number(name)) is not None})


def entry(line: bytes) -> Entry | None:
    """What a line holds, without a look at all of it. What was torn before it is cut off."""
    # The quotes inside a message are escaped: this is nowhere but at the beginning of a record.
    line = line[max(line.rfind(_HEAD), 0) :].rstrip()
    if not line.endswith(b"}"):
        return None
    try:
        return Entry(float(line[len(_HEAD) : line.index(b",")]), line)
    except ValueError:
        return None


def entries(lines: Iterable[bytes]) -> Iterator[Entry]:
    for line in lines:
        found = entry(line)
        if found:
            yield found


def lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Those that have an end, without it."""
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        yield from whole


def lines_backwards(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Of blocks from the last to the first; at first what has no end."""
    rest = b""
    for block in blocks:
        rest, *whole = (block + rest).split(b"\n")
        yield from reversed(whole)
    yield rest


def is_whole(line: bytes) -> bool:
    """Whether it is a record that will not change any more."""
    record = parse(line)
    return record is not None and not record.partial


def settled_end(file: PlainFile) -> int:
    """Where the records end that nobody will change."""
    at = file.size()
    found = lines_backwards(file.blocks_backwards(at))
    at -= len(next(found))
    for line in found:
        if is_whole(line):
            return at
        at -= len(line) + 1
    return 0


def forwards(
    directory: str,
    since: float | None = None,
    until: float | None = None,
    end: Position | None = None,
) -> Iterator[Entry]:
    """Every record before ``end``, oldest first; of other times only in the same segments."""
    for number in reversed(list(_segments(directory, since, until, end))):
        with _opened(directory, number) as file:
            if file:
                yield from entries(lines(file.blocks(_bound(directory, number, file, end))))


def backwards(
    directory: str,
    since: float | None = None,
    until: float | None = None,
    end: Position | None = None,
) -> Iterator[Entry]:
    """The same, newest first. No segment is touched before it is wanted."""
    for number in _segments(directory, since, until, end):
        with _opened(directory, number) as file:
            if file:
                bound = _bound(directory, number, file, end)
                found = lines_backwards(file.blocks_backwards(bound))
                next(found)
                yield from entries(found)


def _segments(
    directory: str, since: float | None, until: float | None, end: Position | None
) -> Iterator[int]:
    """Those in which there may be something of that time, newest first."""
    timed = since is not None or until is not None
    for number in reversed(numbers(directory)):
        if end is not None and number > end.segment:
            continue
        begun = _begun(directory, number) if timed else None
        if begun is None or until is None or begun <= until:
            yield number
        if begun is not None and since is not None and begun < since:
            return


def _begun(directory: str, number: int) -> float | None:
    """When the first record of a segment was written."""
    with _opened(directory, number) as file:
        first = next(entries(lines(file.blocks())), None) if file else None
        return first.ts if first else None


def _bound(directory: str, number: int, file: SegmentFile, end: Position | None) -> int | None:
    """How far it is read, if not to its end."""
    if end is not None and number == end.segment:
        return end.offset
    if isinstance(file, CompressedFile):
        return None
    settled = settled_end(file)
    rest = file.read(settled, file.size() - settled).rstrip()
    moved = rest and head(directory, number + 1, len(rest)) == rest
    return settled if moved else None


def head(directory: str, number: int, size: int) -> bytes | None:
    """What a segment begins with; None if it is not there."""
    with _opened(directory, number) as file:
        return next(file.blocks(), b"")[:size] if file else None


@contextlib.contextmanager
def _opened(directory: str, number: int) -> Generator[SegmentFile | None]:
    file = open_segment(directory, number)
    try:
        yield file
    finally:
        if file:
            file.close()
