"""A pseudo-terminal that a shell and its commands have as theirs: pty(7)."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import struct
import termios
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from attrs import field, frozen

from .._values.number import is_whole
from .ansi import Plain, Screen, emulator

if TYPE_CHECKING:
    from collections.abc import Callable

    from attrs import Attribute

    from .turn import Filter

Ansi: TypeAlias = Literal["strip", "keep", "screen"]

_MOST = 10_000  # columns or lines
_BLOCK = 64 * 1024


def _is_mode(_: object, attribute: Attribute[Ansi], value: object) -> None:
    if value not in get_args(Ansi):
        raise ValueError(
            f"Terminal.{attribute.name} must be 'strip', 'keep' or 'screen', not {value!r}"
        )


def _is_name(_: object, attribute: Attribute[str | None], value: object) -> None:
    if value is not None and not (isinstance(value, str) and re.fullmatch(r"[\w.+-]+", value)):
        raise ValueError(
            f"Terminal.{attribute.name} must be a terminal's name such as 'xterm', not {value!r}"
        )


@frozen
class Terminal:
    """The terminal that a shell's commands run in.

    :param columns: its width.
    :param lines: its height.
    :param ansi: ``"strip"`` for text without control sequences, where of a line that was written
        over, as a progress bar is, the last state is left; ``"keep"`` for all that was printed, as
        it is; ``"screen"`` for what is on the screen at the end, and the lines that were above it,
        by way of pyte (the extra ``pty``).
    :param term: the value of ``TERM``: ``xterm`` by default, ``linux`` with ``"screen"``.
    """

    columns: int = field(default=80, validator=is_whole("columns", least=1, most=_MOST))
    lines: int = field(default=24, validator=is_whole("lines", least=1, most=_MOST))
    ansi: Ansi = field(default="strip", kw_only=True, validator=_is_mode)
    term: str | None = field(default=None, kw_only=True, validator=_is_name)

    def check(self) -> None:
        """An error, if what it takes is not installed."""
        if self.ansi == "screen":
            emulator()

    @property
    def name(self) -> str:
        return self.term or ("linux" if self.ansi == "screen" else "xterm")

    def make_filter(self) -> Filter | None:
        if self.ansi == "screen":
            return Screen(self.columns, self.lines)
        return Plain() if self.ansi == "strip" else None


class Pty:
    """Both ends of one. The near end does not block.

    What is printed on it arrives some time later. So marks are printed as well, which no command
    knows: what comes before one at this end was printed before it at the other.
    """

    def __init__(self, terminal: Terminal, uid: int | None) -> None:
        self.near, self._far = os.openpty()
        self.path = os.ttyname(self._far)
        self.resize(terminal)
        if uid is not None:
            os.fchown(self._far, uid, -1)
        os.set_blocking(self.near, False)
        os.set_blocking(self._far, False)
        self._modes = termios.tcgetattr(self._far)
        # Digits, and what no mode of a terminal changes.
        self._mark = b"\x1e%039d" % secrets.randbelow(10**39)
        self._marks = re.compile(re.escape(self._mark) + rb"(\d{12})")
        self._mark_size = len(self._mark) + 12
        self._held_back = b""

    def resize(self, terminal: Terminal) -> None:
        size = struct.pack("HHHH", terminal.lines, terminal.columns, 0, 0)
        fcntl.ioctl(self.near, termios.TIOCSWINSZ, size)

    def mark(self, number: int) -> str:
        """As a format for printf(1)."""
        return f"\\036{self._mark[1:].decode()}{number:012}"

    def print_mark(self, number: int) -> None:
        """From this side, when nobody is left on the other one."""
        os.write(self._far, b"%b%012d" % (self._mark, number))

    def read(self, on_text: Callable[[bytes], None], on_mark: Callable[[int], None]) -> None:
        """Take in what is there, in order."""
        try:
            data = self._held_back + os.read(self.near, _BLOCK)
        except BlockingIOError:
            return
        *pieces, rest = self._marks.split(data)
        for text, number in zip(pieces[::2], pieces[1::2], strict=True):
            if text:
                on_text(text)
            on_mark(int(number))
        start = rest.rfind(b"\x1e")
        if start < 0 or not self._may_be_mark(rest[start:]):
            start = len(rest)
        self._held_back = rest[start:]
        if start:
            on_text(rest[:start])

    def _may_be_mark(self, data: bytes) -> bool:
        begin = self._mark[: len(data)]
        return len(data) < self._mark_size and data.startswith(begin)

    def reset(self, *, modes: bool) -> None:
        """Forget what was typed and not read, and what a command has made of it that was ended."""
        termios.tcflush(self._far, termios.TCIFLUSH)
        if modes:
            termios.tcsetattr(self._far, termios.TCSANOW, self._modes)

    def close(self) -> None:
        os.close(self.near)
        os.close(self._far)
