"""How a record is shown: as JSON, as the message alone, or as a line for people."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Protocol

from ..daemon.logs.record import DAEMON, parse

if TYPE_CHECKING:
    from ..daemon.logs.reading import Entry
    from ..daemon.logs.record import Record

#: So much of a line that is kept in pieces is put together again, in bytes.
LONGEST = 1024 * 1024
_RESET = "\x1b[0m"
# As journalctl has them; the priorities that are not here are as they are.
_COLOURS = dict.fromkeys(range(4), "\x1b[1;31m") | {4: "\x1b[1;33m", 5: "\x1b[1m", 7: "\x1b[90m"}

_COLOUR = r"\x1b\[[0-9;:]{0,40}m"
# What moves the cursor, changes how a terminal works, or turns the direction of a text.
_CONTROL = "[\0-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
_UNSAFE = re.compile(f"({_COLOUR})|{_CONTROL}")


class Form(Protocol):
    def show(self, entry: Entry) -> bytes:
        """What is to be printed now."""
        ...

    def finish(self) -> bytes:
        """What has been held back."""
        ...


def form(name: str, *, terminal: bool, colours: bool) -> Form:
    if name == "json":
        return _Json(terminal)
    return _Text(short=name == "short", terminal=terminal, colours=colours)


def harmless(text: str, colours: bool = False) -> str:
    """What a terminal only shows. Colours are left to it or taken away, the rest is escaped."""
    coloured = False

    def replace(found: re.Match[str]) -> str:
        nonlocal coloured
        if found[1]:
            coloured = colours
            return found[1] if colours else ""
        code = ord(found[0])
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"

    text = _UNSAFE.sub(replace, text)
    return text + _RESET if coloured else text


class _Json:
    def __init__(self, terminal: bool) -> None:
        self._terminal = terminal

    def show(self, entry: Entry) -> bytes:
        line = entry.line
        if self._terminal:  # the same to a JSON parser
            text = line.decode("utf-8", "replace")
            line = re.sub(_CONTROL, lambda found: f"\\u{ord(found[0]):04x}", text).encode()
        return line + b"\n"

    def finish(self) -> bytes:
        return b""


class _Text:
    """Pieces of a line are put together, until they are too long."""

    def __init__(self, *, short: bool, terminal: bool, colours: bool) -> None:
        self._short = short
        self._exact = not short and not terminal
        self._colours = colours
        self._pieces: dict[tuple[str, str, str], list[Record]] = {}
        self._unended: tuple[str, str, str] | None = None  # what has been printed of a line
        self._second = (-1, "")

    def show(self, entry: Entry) -> bytes:
        record = parse(entry.line)
        if record is None:
            return b""
        stream = (record.service, record.stream, record.call_id)
        pieces = self._pieces.pop(stream, [])
        pieces.append(record)
        if record.continues and sum(len(one.message) for one in pieces) < LONGEST:
            self._pieces[stream] = pieces
            return b""
        return self._line(stream, pieces)

    def finish(self) -> bytes:
        shown = [self._line(stream, pieces) for stream, pieces in self._pieces.items()]
        self._pieces.clear()
        return b"".join(shown)

    def _line(self, stream: tuple[str, str, str], pieces: list[Record]) -> bytes:
        content = b"".join(one.content for one in pieces)
        if self._exact:
            before = b"\n" if self._unended not in (None, stream) else b""
            ended = not (pieces[-1].continues or pieces[-1].partial)
            self._unended = None if ended else stream
            return before + content + (b"\n" if ended else b"")
        text = harmless(content.decode("utf-8", "replace"), self._colours)
        if self._short:
            text = self._prefixed(pieces[0], text)
        return text.encode() + b"\n"

    def _prefixed(self, record: Record, text: str) -> str:
        second = int(record.ts)
        if second != self._second[0]:
            self._second = second, time.strftime("%b %d %H:%M:%S", time.localtime(second))
        colour = _COLOURS.get(record.priority) if self._colours else None
        if colour:
            text = f"{colour}{text}{_RESET}"
        if record.stream == "daemon":  # it is not the service that says it
            of = "" if record.service == DAEMON else f"{harmless(record.service)}: "
            return f"{self._second[1]} agentsup[{record.pid}]: {of}{text}"
        return f"{self._second[1]} {harmless(record.service)}[{record.pid}]: {text}"
