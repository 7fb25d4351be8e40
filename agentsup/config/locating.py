"""Where in a TOML document each key is. Python's parser does not say.

The document is one that it has parsed, so here nothing has to be checked.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from typing import TypeAlias

#: Keys of tables, and positions in arrays.
KeyPath: TypeAlias = "tuple[str | int, ...]"

#: More keys than any table within a table of ours has, for each of them is held with all before it.
_DEEPEST = 100

_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'""")
_STRING = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?'{3,5}|"(?:[^"\\]|\\.)*"|'[^']*\'''', re.DOTALL
)
_OTHER = re.compile(r"[^,\]}#\n]*")


def locate(text: str) -> dict[KeyPath, int]:
    """The line of each key and of each member of an array, counted from 1."""
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.document()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._text = text
        self._at = 0
        self._ends = [match.start() for match in re.finditer("\n", text)]
        self._arrays: dict[KeyPath, int] = {}  # of tables: how many there are by now

    def document(self) -> None:
        table: KeyPath = ()
        while self._peek(_BLANK):
            if self._text.startswith("[", self._at):
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> KeyPath:
        line = self._line()
        several = self._text.startswith("[[", self._at)
        self._at += 1 + several
        path: KeyPath = ()
        parts = self._dotted()
        for part in parts[:-1]:
            path = self._newest((*path, part))
            self.lines.setdefault(path, line)
        path = (*path, parts[-1])
        if several:
            self.lines.setdefault(path, line)
            self._arrays[path] = self._arrays.get(path, 0) + 1
            path = self._newest(path)
        self.lines[path] = line
        self._at += 1 + several
        return path

    def _newest(self, path: KeyPath) -> KeyPath:
        return (*path, self._arrays[path] - 1) if path in self._arrays else path

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        for part in self._dotted():
            table = (*table, part)
            self.lines.setdefault(table, line)
        self._at += 1  # =
        self._value(table)

    def _dotted(self) -> list[str]:
        parts: list[str] = []
        while True:
            self._peek(_SPACE)
            part = self._take(_KEY)
            # An escape in a key is undone by whoever knows how.
            parts.append(next(iter(tomllib.loads(f"{part}=0"))) if part[0] in "\"'" else part)
            self._peek(_SPACE)
            if not self._text.startswith(".", self._at):
                return parts[:_DEEPEST]
            self._at += 1

    def _value(self, path: KeyPath) -> None:
        self._peek(_SPACE)
        opening = self._text[self._at]
        if opening == "[":
            self._at += 1
            index = 0
            while self._member("]"):
                self.lines[(*path, index)] = self._line()
                self._value((*path, index))
                index += 1
        elif opening == "{":
            self._at += 1
            while self._member("}"):
                self._pair(path)
        else:
            self._take(_STRING if opening in "\"'" else _OTHER)

    def _member(self, closing: str) -> bool:
        """Whether there is one more before the ``closing`` bracket, which is passed."""
        self._peek(_BLANK)
        if self._text[self._at] == ",":
            self._at += 1
            self._peek(_BLANK)
        if self._text[self._at] == closing:
            self._at += 1
            return False
        return True

    def _peek(self, over: re.Pattern[str]) -> bool:
        """Pass over that; whether anything comes after it."""
        self._take(over)
        return self._at < len(self._text)

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        assert match
        self._at = match.end()
        return match[0]

    def _line(self) -> int:
        return bisect_left(self._ends, self._at) + 1
