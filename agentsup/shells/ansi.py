"""What a terminal would show, as plain text: line by line, or as its whole screen."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Characters of a line from which on it can no longer be overwritten.
_LINE_MAX = 64 * 1024
#: Characters of a sequence: what is longer is none, and its end is not waited for.
_SEQUENCE_MAX = 4096
#: Where a cursor may be sent without anything being printed there.
_COLUMN_MAX = 1000
#: Lines that have left the screen at the top.
_HISTORY = 2000

#: ECMA-48: CSI, the strings (OSC, DCS, SOS, PM, APC), and what has two or three characters.
_TOKEN = re.compile(
    rf"""
      (?P<text>[^\x00-\x08\x0a-\x1f\x7f]+)
    | \x1b \[ (?P<parameter>[0-?]{{0,{_SEQUENCE_MAX}}}) [ -/]{{0,8}} (?P<csi>[@-~])
    | \x1b [\]PX^_] [^\x07\x18\x1a\x1b]{{0,{_SEQUENCE_MAX}}} (?:[\x07\x18\x1a] | \x1b\\)
    | \x1b [ -/]{{0,8}} [0-~]
    | (?P<control>[\x00-\x1f\x7f])
    """,
    re.VERBOSE,
)
#: The beginning of one, at the end of what has come.
_UNFINISHED = re.compile(
    rf"""
    \x1b (?:
        \[ [0-?]{{0,{_SEQUENCE_MAX}}} [ -/]{{0,8}}
      | [\]PX^_] [^\x07\x18\x1a\x1b]{{0,{_SEQUENCE_MAX}}} \x1b?
      | [ -/]{{0,8}}
    ) \Z
    """,
    re.VERBOSE,
)


class _Tokens:
    """Text and whole control sequences, however they come in."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._unfinished = ""

    def _split(self, data: bytes) -> Iterator[re.Match[str]]:
        text = self._unfinished + self._decoder.decode(data)
        begin = _UNFINISHED.search(text)
        end = begin.start() if begin else len(text)
        self._unfinished = text[end:]
        return _TOKEN.finditer(text, 0, end)


class Plain(_Tokens):
    """Text without sequences; a line is what stands there when it ends, as with a progress bar
    that returns to its beginning. A character is taken for one column."""

    def __init__(self) -> None:
        super().__init__()
        self._line = ""
        self._column = 0
        self._finished: list[str] = []

    def feed(self, data: bytes) -> bytes:
        """The lines that are finished by this."""
        for token in self._split(data):
            self._take(token)
        finished, self._finished = "".join(self._finished), []
        return finished.encode("utf-8", "surrogateescape")

    def rest(self) -> bytes:
        """The line that is not."""
        return self._line.encode("utf-8", "surrogateescape")

    def resize(self, columns: int, lines: int) -> None:
        """Nothing depends on that."""

    def _take(self, token: re.Match[str]) -> None:
        if text := token["text"]:
            self._write(text)
        elif token["control"] == "\n":
            self._finish("\n")
        elif token["control"] == "\r":
            self._column = 0
        elif token["control"] == "\b":
            self._column = max(0, self._column - 1)
        elif token["csi"] == "K":
            self._erase(token["parameter"])
        elif (kind := token["csi"]) in ("C", "D", "G"):
            digits = token["parameter"]
            count = min(int(digits[:9]), _COLUMN_MAX) if digits.isdecimal() else 1
            place = {"C": self._column + count, "D": self._column - count, "G": count - 1}[kind]
            self._column = max(0, min(place, max(_COLUMN_MAX, self._column)))

    def _write(self, text: str) -> None:
        before = self._line[: self._column].ljust(self._column)
        self._line = before + text + self._line[self._column + len(text) :]
        self._column += len(text)
        if self._column == len(self._line) > _LINE_MAX:
            self._finish("")

    def _erase(self, what: str) -> None:
        before, after = self._line[: self._column], self._line[self._column :]
        if what in ("1", "2"):
            before = " " * len(before)
        self._line = before + (after if what == "1" else "")
        if what == "2":
            self._line = ""

    def _finish(self, end: str) -> None:
        self._finished.append(self._line + end)
        self._line, self._column = "", 0


class Screen(_Tokens):
    """What is on the screen in the end, below the lines that have left it at the top."""

    def __init__(self, columns: int, lines: int) -> None:
        super().__init__()
        self._emulator = emulator()
        self._screen = self._emulator.HistoryScreen(columns, lines, history=_HISTORY)
        self._stream = self._emulator.Stream(self._screen)

    def feed(self, data: bytes) -> bytes:
        for token in self._split(data):
            try:
                self._stream.feed(token[0])
            except Exception:  # pyte cannot do all sequences, and its parser is then at its end
                self._stream = self._emulator.Stream(self._screen)
        return b""

    def rest(self) -> bytes:
        screen = self._screen
        lines = *screen.history.top, *(screen.buffer[number] for number in range(screen.lines))
        columns = range(screen.columns)
        text = ("".join(line[number].data for number in columns).rstrip() for line in lines)
        return "\n".join(text).rstrip("\n").encode("utf-8", "surrogateescape")

    def resize(self, columns: int, lines: int) -> None:
        self._screen.resize(lines, columns)


def emulator() -> Any:
    """pyte, or an error that says how it is to be had."""
    try:
        import pyte  # type: ignore[import-untyped, unused-ignore]  # it has no annotations
    except ModuleNotFoundError:
        message = "ansi='screen' needs pyte: pip install 'agentsup[pty]'"
        raise ModuleNotFoundError(message, name="pyte") from None
    return pyte
