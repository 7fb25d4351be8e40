"""What is added to the logs, as it is added: the kernel tells of it, nobody looks now and then.

A follower has the file open that a service's records go to, and a position in it up to which
nobody will change anything:

==============================  ===============================================================
what the writer does            what the follower does
==============================  ===============================================================
appends whole records           reads them
writes a partial record         leaves it, until there is a whole one after it
closes the file and leaves a    reads it: the writer has ended, and this was its last word
partial one
begins the next segment         reads the rest of this one first, then goes on there
compresses or removes this one  nothing: what is open stays
removes some it has not read    says how many
makes a directory, removes it   follows that too; forgets it
==============================  ===============================================================

A write is not atomic for those who read.  But it goes from the front to the end, and so does a
read: once there is a whole record, what stands before it is right the next time it is read.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from .query import before, merge, newest, services
from .reading import Entry, Position, entries, head, lines, numbers, settled_end
from .record import Record, directory_of, dump, parse, segment_name
from .segment_files import BLOCK, CompressedFile, PlainFile, open_segment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping

    from .query import Query

#: Of what there is, so much is shown at the most.
MOST_BYTES = 16 * 1024 * 1024

_WARNING = 4
_BATCH = 500  # records


async def follow(logs: str, query: Query, *, running: bool = True) -> AsyncIterator[bytes]:
    """Lines of JSON, some at a time: what there is, then what is added, until it is closed."""
    following = Follow(logs, query, running=running)
    try:
        async for chunk in last(logs, query, following.ends):
            yield chunk
        while True:
            for chunk in _chunks(following.new()):
                yield chunk
                await anyio.lowlevel.checkpoint()
            await anyio.wait_readable(following.fd)
    finally:
        following.close()


async def last(
    logs: str, query: Query, ends: Mapping[str, Position | None] | None = None
) -> AsyncIterator[bytes]:
    """What there is, the newest :data:`MOST_BYTES` of it, and nobody has to wait for it."""
    if ends is None:
        ends = dict.fromkeys(services(logs, query.services))
    found: list[Entry] = []
    size = 0
    for entry in newest(logs, query, ends):
        found.append(entry)
        size += len(entry.line)
        if size > MOST_BYTES:
            break
        if not len(found) % _BATCH:
            await anyio.lowlevel.checkpoint()
    for chunk in _chunks(reversed(found)):
        yield chunk
        await anyio.lowlevel.checkpoint()


def _chunks(found: Iterator[Entry]) -> Iterator[bytes]:
    while batch := list(itertools.islice(found, _BATCH)):
        yield b"".join(entry.line + b"\n" for entry in batch)


class Follow:
    """``fd`` is readable when there may be something :meth:`new`.

    :param running: whether the writer is; else nobody will go on with what is partial now.
    :raises OSError: the logs cannot be watched or read.
    """

    def __init__(self, logs: str, query: Query, *, running: bool = True) -> None:
        self._logs = os.path.abspath(logs)
        self._query = query
        self._tails: dict[bytes, _Tail] = {}
        from ..._linux.file_watch import DirectoryWatch

        self._watch = DirectoryWatch()
        self.fd = self._watch.fd
        try:
            self._look()
            for tail in self._tails.values():
                tail.skip(partial=not running)
        except BaseException:
            self.close()
            raise
        self.ends = {tail.service: tail.position for tail in self._tails.values()}

    def close(self) -> None:
        self._watch.close()
        for tail in self._tails.values():
            tail.close()

    def history(self) -> Iterator[Entry]:
        """What was there at first, and is asked for."""
        return before(self._logs, self._query, self.ends)

    def new(self) -> Iterator[Entry]:
        """What has been added since, and is asked for. To be read to its end."""
        changes = self._watch.changes()
        closed: dict[bytes, set[bytes]] = {}
        gone: set[bytes] = set()
        if changes is None:  # some were lost: any may have been meant
            closed = {directory: set() for directory in self._tails}
        for change in changes or ():
            names = closed.setdefault(change.directory, set())
            if change.closed:
                names.add(change.name)
            if change.gone:
                gone.add(change.directory)
        known = [self._tails[one] for one in closed if one in self._tails]
        yield from self._wanted(
            tail.entries(closed[tail.directory], gone=tail.directory in gone) for tail in known
        )
        if changes is None or gone or len(known) < len(closed):
            for directory in gone & self._tails.keys():
                self._tails.pop(directory).close()
            yield from self._wanted(tail.entries(set()) for tail in self._look())

    def _wanted(self, streams: Iterable[Iterator[Entry]]) -> Iterator[Entry]:
        return filter(self._query.wants, merge(list(streams)))

    def _look(self) -> list[_Tail]:
        """Watch what there is; those that are new."""
        self._watch_logs()
        found: list[_Tail] = []
        for service in services(self._logs, self._query.services):
            directory = os.fsencode(os.path.join(self._logs, directory_of(service)))
            if self._watch.add(directory, writes=True) and directory not in self._tails:
                self._tails[directory] = _Tail(directory, service)
                found.append(self._tails[directory])
        return found

    def _watch_logs(self) -> None:
        """If there are none yet, the nearest directory that they can come into being in."""
        logs = path = missing = os.fsencode(self._logs)
        while not self._watch.add(path, writes=False):
            missing, path = path, os.path.dirname(path)
        if path == logs:
            self._watch.add(os.path.dirname(logs), writes=False)
        elif os.path.isdir(missing):  # in the meantime
            self._watch_logs()


class _Tail:
    """The log of one service, from a position on."""

    def __init__(self, directory: bytes, service: str) -> None:
        self.directory = directory
        self.service = service
        self.position = Position()
        self._path = os.fsdecode(directory)
        self._file: PlainFile | None = None  # where the position is, unless all of it is read

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def skip(self, *, partial: bool) -> None:
        """Go to the end of what is settled, or also of what is partial."""
        for number in reversed(numbers(self._path)):
            file = open_segment(self._path, number)
            if isinstance(file, PlainFile):
                self._file = file
                size = file.size()
                self.position = Position(number, size if partial else settled_end(file))
                return
            if file:
                file.close()
                self.position = Position(number, sys.maxsize)  # all of it
                return

    def entries(self, closed: set[bytes], *, gone: bool = False) -> Iterator[Entry]:
        """What has been added.

        :param closed: names of files that were closed by their writer.
        """
        while True:
            # What a later one follows is complete, if it was there before this one is read.
            later = next((n for n in numbers(self._path) if n > self.position.segment), None)
            if self._file:
                yield from self._settled(self._file)
                ended = gone or segment_name(self.position.segment).encode() in closed
                if later is None and not ended:
                    return
                last_words = self._last_words(self._file, later, ended)
                if last_words is None:
                    return
                yield from last_words
            if later is None:
                return
            yield from self._go_on(later)

    def _go_on(self, number: int) -> Iterator[Entry]:
        self.close()
        missed = number - self.position.segment - 1
        if missed and self.position.segment:
            text = f"{missed} segments were removed before they could be shown"
            record = Record(time.time(), self.service, 0, "daemon", _WARNING, "", text)
            yield from entries([dump(record)])
        self.position = Position(number)
        file = open_segment(self._path, number)
        if isinstance(file, CompressedFile):
            try:
                yield from entries(lines(file.blocks()))
            finally:
                file.close()
        else:
            self._file = file

    def _settled(self, file: PlainFile) -> Iterator[Entry]:
        """Up to the last whole record."""
        size = BLOCK
        while block := file.read(self.position.offset, size):
            found, used, certain = _settle(block)
            if not certain:
                found, used, _ = _settle(file.read(self.position.offset, len(block)))
            if used:
                self._advance(used)
                yield from found
                size = BLOCK
            elif len(block) < size:
                return
            else:
                size *= 2

    def _last_words(self, file: PlainFile, later: int | None, ended: bool) -> list[Entry] | None:
        """What follows the last whole record in a file that nobody goes on with.

        None if that is not certain yet: the writer has begun the next one, and may be about to
        move there what is partial.
        """
        rest = _rest(file, self.position.offset)
        if later is not None and rest.strip():
            moved = head(self._path, later, len(rest.rstrip()))
            if moved == rest.rstrip():
                return []
            if not moved and not ended:
                return None
            rest = _rest(file, self.position.offset)  # it was cut off before that was written
        found = rest[: rest.rfind(b"\n") + 1]
        self._advance(len(found))
        return list(entries(line for line in found.split(b"\n") if parse(line)))

    def _advance(self, size: int) -> None:
        self.position = Position(self.position.segment, self.position.offset + size)


def _rest(file: PlainFile, offset: int) -> bytes:
    return file.read(offset, max(0, file.size() - offset))


def _settle(block: bytes) -> tuple[list[Entry], int, bool]:
    """The records up to the last whole one, the end of that, and whether they can be relied on."""
    found: list[Entry] = []
    open_ones: list[bytes] = []
    at = used = 0
    certain = True
    for line in block.split(b"\n")[:-1]:
        at += len(line) + 1
        record = parse(line)
        if record is not None and not record.partial:
            certain = certain and not open_ones
            found += entries([*open_ones, line])
            open_ones.clear()
            used = at
        elif record is not None:
            open_ones.append(line)
        elif line.strip():
            certain = False
    return found, used, certain
