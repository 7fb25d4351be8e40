"""What is asked for of the logs, and what of them it is: merged by time, without a look at more."""

from __future__ import annotations

import fnmatch
import heapq
import itertools
import os
import re
from operator import attrgetter
from typing import TYPE_CHECKING

from attrs import frozen

from . import reading
from .record import PRIORITY, directory_of, parse, service_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from .reading import Entry, Position

PRIORITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
_OTHER_NAMES = {"panic": 0, "critical": 2, "error": 3, "warn": 4}
# A quote inside a string is escaped, so that these are keys.
_PRIORITY, _MESSAGE = re.compile(rb',"priority":([0-7]),'), b'"message":"'

by_time = attrgetter("ts")


@frozen
class Query:
    """Of which services, and which of their records.

    :param services: names and globs, as :func:`matches` has them; none of them is all.
    :param lines: only the newest ones, so many; None is all.
    :param since: seconds since the epoch, as ``until``.
    :param priorities: the first and the last of those that are wanted.
    :param grep: is searched in the message.
    """

    services: Sequence[str] = ()
    lines: int | None = None
    since: float | None = None
    until: float | None = None
    priorities: tuple[int, int] | None = None
    grep: re.Pattern[str] | None = None

    def wants(self, entry: Entry) -> bool:
        ts, line = entry
        if self.since is not None and ts < self.since:
            return False
        if self.until is not None and ts > self.until:
            return False
        if self.priorities and not self.priorities[0] <= _priority(line) <= self.priorities[1]:
            return False
        return self.grep is None or self.grep.search(_message(line)) is not None


def matches(service: str, patterns: Sequence[str]) -> bool:
    """Whether it is meant by one of them: a name, a glob, or a supervisor that it is below."""
    return not patterns or any(
        fnmatch.fnmatchcase(service, pattern) or service.startswith(f"{pattern}/")
        for pattern in patterns
    )


def services(logs: str, patterns: Sequence[str] = ()) -> list[str]:
    """Those that have a log and are meant, by name."""
    try:
        with os.scandir(logs) as found:
            names = [service_of(one.name) for one in found if one.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    return sorted(name for name in names if matches(name, patterns))


def select(logs: str, query: Query) -> Iterator[Entry]:
    """The records that are asked for, in the order of time."""
    ends = dict.fromkeys(services(logs, query.services))
    return before(logs, query, ends)


def before(logs: str, query: Query, ends: Mapping[str, Position | None]) -> Iterator[Entry]:
    """The same of these services, up to where they end."""

    if query.lines is None:
        return merge([_of(logs, query, reading.forwards, one, ends[one]) for one in ends])
    return reversed(list(newest(logs, query, ends)))


def newest(logs: str, query: Query, ends: Mapping[str, Position | None]) -> Iterator[Entry]:
    """The same the other way round."""

    # Of records of the same time, the first by name is the last one here.
    streams = [_of(logs, query, reading.backwards, one, ends[one]) for one in reversed(list(ends))]
    return itertools.islice(heapq.merge(*streams, key=by_time, reverse=True), query.lines)


def _of(
    logs: str,
    query: Query,
    read: Callable[..., Iterator[Entry]],
    service: str,
    end: Position | None,
) -> Iterator[Entry]:
    directory = os.path.join(logs, directory_of(service))
    return filter(query.wants, read(directory, query.since, query.until, end))


def merge(streams: Sequence[Iterable[Entry]]) -> Iterator[Entry]:
    return iter(streams[0]) if len(streams) == 1 else heapq.merge(*streams, key=by_time)


def parse_priorities(text: str) -> tuple[int, int]:
    """As journalctl has them: ``err`` or ``3`` and all that is worse, or ``warning..err``.

    :raises ValueError: it is none of these.
    """
    first, dots, last = text.partition("..")
    if not dots:
        return 0, _number(first)
    least, most = sorted((_number(first), _number(last)))
    return least, most


def _number(name: str) -> int:
    name = name.strip().lower()
    if name in PRIORITIES:
        return PRIORITIES.index(name)
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    if name in tuple("01234567"):
        return int(name)
    names = ", ".join(PRIORITIES)
    raise ValueError(f"{name!r} is not a priority: write one of {names}, 0 to 7, or err..warning")


def parse_grep(text: str) -> re.Pattern[str]:
    """A regular expression; without a capital letter in it, those do not matter.

    :raises ValueError: it is no regular expression.
    """
    try:
        return re.compile(text, re.IGNORECASE if text == text.lower() else 0)
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from error


# --- what is in a line, without parsing it --------------------------------------------------------


def _priority(line: bytes) -> int:
    found = _PRIORITY.search(line)
    return int(found[1]) if found else PRIORITY


def _message(line: bytes) -> str:
    at = line.find(_MESSAGE) + len(_MESSAGE)
    if b"\\" not in line:  # it stands there as it is
        return line[at : line.find(b'"', at)].decode("utf-8", "replace")
    record = parse(line)
    return record.message if record else ""
