"""From what a service prints to records: a stream is cut into lines, and a log takes them.

A chunk is escaped and split by a few calls that C carries out for all of it.  Line by line goes
only what they cannot do: a priority, bytes that are not UTF-8, and lines that are too long.
"""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING

from ..._rules.rate_limit import RateRule
from ..._values.output import whole_characters
from .record import PRIORITY, Record, dump, escape, prefix, suffix

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...config.values import LogsConfig
    from .outlets import Outlet
    from .segments import Segments

#: Of a chunk, what is made records at a time: those of empty lines take a hundred times the room.
_BLOCK = 64 * 1024
_WARNING = 4
_END = suffix()
_PREFIX = re.compile(rb"<([0-7])>")
_ESCAPED = {byte: escape(chr(byte)) for byte in (*range(0x20), *b'"\\') if byte != ord("\n")}
_AS_IT_IS = bytes(set(range(256)) - _ESCAPED.keys())
# Before a line is cut, its end and its prefix are to be seen.
_SLACK = len(b"<6>\r")


class Lines:
    """Makes records of a stream, the same ones however it comes in.

    :param begin: the beginning of a record of this priority.
    :param line_max: bytes of a message; a longer line is several of them.
    """

    def __init__(self, line_max: int) -> None:
        self._line_max = line_max
        self._rest = b""  # of a line that has not ended
        self._priority: int | None = None  # of a line whose first piece is out

    def feed(self, data: bytes, begin: Callable[[int], bytes]) -> bytes:
        """The records of all lines that end in it, and of the pieces of one that is too long."""
        data = self._rest + data if self._rest else data
        end = data.rfind(b"\n") + 1
        lines, rest = data[:end], data[end:]
        records: list[bytes] = []
        if lines and self._priority is not None:
            first, _, lines = lines.partition(b"\n")
            records += self._line(first, begin)
        if lines:
            records.append(self._records(lines, begin))
        while len(rest) > self._line_max + _SLACK:
            record, rest = self._piece(self._prioritized(rest), begin)
            records.append(record)
        self._rest = rest
        return b"".join(records)

    def close(self, begin: Callable[[int], bytes]) -> bytes:
        """The stream has ended, and with it the last line."""
        line, self._rest = self._rest, b""
        return b"".join(self._line(line, begin)) if line or self._priority is not None else b""

    def partial(self, begin: Callable[[int], bytes]) -> bytes:
        """The record of the line that has not ended, if there is anything of it."""
        if not self._rest:
            return b""
        before = self._priority
        rest = self._prioritized(self._rest)
        assert self._priority is not None
        record = _record(begin(self._priority), rest, partial=True)
        self._priority = before
        return record

    def _records(self, lines: bytes, begin: Callable[[int], bytes]) -> bytes:
        """Of lines that all have ended."""
        if not self._are_plain(lines):
            made = [
                record for line in lines[:-1].split(b"\n") for record in self._line(line, begin)
            ]
            return b"".join(made)
        special = set(lines.translate(None, _AS_IT_IS))
        if ord("\r") in special:
            lines = lines.replace(b"\r\n", b"\n")
        for byte in sorted(special, reverse=True):  # the backslash is first
            lines = lines.replace(b"%c" % byte, _ESCAPED[byte])
        start = begin(PRIORITY)
        return b"".join((start, lines[:-1].replace(b"\n", _END + start), _END))

    def _are_plain(self, lines: bytes) -> bool:
        """None of them needs a look of its own."""
        if b"<" in lines and (lines.startswith(b"<") or b"\n<" in lines):
            return False
        if not lines.isascii():
            try:
                lines.decode()
            except UnicodeDecodeError:
                return False
        start = 0
        while len(lines) - start > self._line_max:
            end = lines.rfind(b"\n", start, start + self._line_max + 1)
            if end < 0:
                return False
            start = end + 1
        return True

    def _line(self, line: bytes, begin: Callable[[int], bytes]) -> list[bytes]:
        line = self._prioritized(line.removesuffix(b"\r"))
        records: list[bytes] = []
        while len(line) > self._line_max:
            record, line = self._piece(line, begin)
            records.append(record)
        assert self._priority is not None
        records.append(_record(begin(self._priority), line))
        self._priority = None
        return records

    def _piece(self, line: bytes, begin: Callable[[int], bytes]) -> tuple[bytes, bytes]:
        assert self._priority is not None
        piece = whole_characters(line[: self._line_max]) or line[: self._line_max]
        return _record(begin(self._priority), piece, continues=True), line[len(piece) :]

    def _prioritized(self, line: bytes) -> bytes:
        """Without its prefix, whose priority is then known, if this is where it begins."""
        if self._priority is None:
            found = _PREFIX.match(line)
            self._priority = int(found[1]) if found else PRIORITY
            if found:
                return line[found.end() :]
        return line


def _record(begin: bytes, line: bytes, *, partial: bool = False, continues: bool = False) -> bytes:
    raw: bytes | None = None
    try:
        message = line.decode()
    except UnicodeDecodeError:
        message, raw = line.decode("utf-8", "replace"), line
    return begin + escape(message) + suffix(partial=partial, continues=continues, raw=raw)


class Stream:
    """A stream of one run. What is fed is written before the next is read."""

    def __init__(self, log: Log, name: str, pid: Callable[[], int], call_id: str) -> None:
        self._log = log
        self._name = name
        self._pid = pid
        self._call_id = call_id
        self._lines = Lines(log.config.line_max)

    def feed(self, chunk: memoryview, /) -> None:
        for start in range(0, len(chunk), _BLOCK):
            now = time.time()
            begin = self._begin(now)
            records = self._lines.feed(bytes(chunk[start : start + _BLOCK]), begin)
            self._log.put(records, now, (self, self._lines.partial(begin)))

    def close(self) -> None:
        now = time.time()
        self._log.put(self._lines.close(self._begin(now)), now, (self, b""))

    def _begin(self, now: float) -> Callable[[int], bytes]:
        pid = self._pid()

        def begin(priority: int) -> bytes:
            return prefix(now, self._log.service, pid, self._name, priority, self._call_id)

        return begin


class Log:
    """The log of one service.

    :param segments: where it is kept, or None if it only goes to the outlets.
    """

    def __init__(
        self,
        service: str,
        config: LogsConfig,
        outlets: Sequence[Outlet],
        segments: Segments | None,
    ) -> None:
        self.service = service
        self.segments: Segments | None = None
        self._partials: dict[Stream, bytes] = {}
        self._missed = 0  # lines that there was no room for on the disk
        self._dropped = 0  # lines beyond the rate
        self.configure(config, outlets, segments)

    def configure(
        self, config: LogsConfig, outlets: Sequence[Outlet], segments: Segments | None
    ) -> None:
        self.config = config
        self._outlets = outlets
        if self.segments and self.segments is not segments:
            self.segments.close()
        self.segments = segments
        self._rate = RateRule(*config.rate_limit) if config.rate_limit else None

    def put(self, records: bytes, now: float, partial: tuple[Stream, bytes] | None = None) -> None:
        """Take whole records, and in the place of an earlier one the partial one of a stream."""
        if records and self._rate:
            records = self._within_rate(self._rate, records, now)
        if partial:
            self._note_partial(*partial)
        self._pass_on(records, now, partial[0] if partial else None)

    def say(self, priority: int, text: str, now: float) -> None:
        """A message of the daemon's own; its lines are not limited."""
        lines = text.splitlines()
        self._pass_on(b"".join(self._message(now, line, priority) for line in lines), now)

    def _pass_on(self, records: bytes, now: float, stream: Stream | None = None) -> None:
        if records:
            for outlet in self._outlets:
                outlet.send(records)
        if self.segments:
            self._keep(self.segments, records, now, stream)

    def _within_rate(self, rate: RateRule, records: bytes, now: float) -> bytes:
        lines = records.count(b"\n")
        taken = rate.take(time.monotonic(), lines)
        if taken < lines:
            records = b"".join(records.splitlines(keepends=True)[:taken])
        if taken:
            records = self._tell_dropped(now) + records
        self._dropped += lines - taken
        return records

    def _tell_dropped(self, now: float) -> bytes:
        dropped, self._dropped = self._dropped, 0
        text = f"{dropped} lines dropped: more than logs.rate_limit allows"
        return self._message(now, text, _WARNING, dropped) if dropped else b""

    def _note_partial(self, stream: Stream, record: bytes) -> None:
        if record and (self._rate is None or self._rate.room(time.monotonic())):
            self._partials[stream] = record
        else:
            self._partials.pop(stream, None)

    def _keep(self, segments: Segments, records: bytes, now: float, stream: Stream | None) -> None:
        notice = b""
        if self._missed:
            text = f"{self._missed} lines lost: they could not be written ({segments.error})"
            notice = self._message(now, text, _WARNING, self._missed)
        partials = self._partials
        tail = b"".join(partials.values())
        others = b"".join(one for of, one in partials.items() if of is not stream)
        written = segments.write(notice + records, tail, now, meanwhile=others)
        if notice and written:
            self._missed = 0
        if written < len(notice) + len(records):
            left = records[max(0, written - len(notice)) :]
            self._missed += left.count(b"\n")

    def _message(self, now: float, text: str, priority: int, dropped: int = 0) -> bytes:
        return dump(
            Record(now, self.service, os.getpid(), "daemon", priority, "", text, dropped=dropped)
        )

    def close(self) -> None:
        """What was dropped last is said now. May be repeated."""
        now = time.time()
        self._pass_on(self._tell_dropped(now), now)
        if self.segments:
            self.segments.close()
