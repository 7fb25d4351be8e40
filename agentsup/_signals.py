"""Signals as something to wait for, on any event loop.

A handler of Python's own notes them and writes to a pipe.  anyio's receiver would do, but on
asyncio it takes the handler away that ``asyncio.run`` has for SIGINT; here the one before comes
back.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType
    from typing import Any, Self


class Arrivals:
    """The signals that come during the block, in the order in which they do."""

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self._numbers = numbers
        self._before: dict[signal.Signals, Any] = {}
        self._came: list[signal.Signals] = []
        self._fds = (-1, -1)

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("signals come to the main thread: run the event loop there")
        self._fds = os.pipe()
        try:
            for fd in self._fds:
                os.set_blocking(fd, False)
            _replace_wakeup_fd(-1, self._fds[1])
            for number in self._numbers:
                self._before[number] = signal.signal(number, self._note)
        except BaseException:  # KeyboardInterrupt, by a handler from before
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._note:  # or else somebody has taken it over
                # None is a handler that was not installed from Python, and cannot be from here.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        fds, self._fds = self._fds, (-1, -1)
        _replace_wakeup_fd(fds[1], -1)
        for fd in fds:
            os.close(fd)

    @property
    def pending(self) -> bool:
        """Something has come, of which an event loop that is blocked knows nothing yet."""
        return bool(self._came)

    def take(self) -> list[signal.Signals]:
        came, self._came = self._came, []
        return came

    async def wait(self) -> None:
        """Until something has come, or somebody pokes."""
        await anyio.wait_readable(self._fds[0])
        os.read(self._fds[0], 4096)

    def poke(self) -> None:
        """Let whoever waits look again."""
        try:
            os.write(self._fds[1], b"!")
        except OSError:
            pass  # it is full, so they will; or closed, so nobody waits

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came.append(signal.Signals(number))
        self.poke()


def _replace_wakeup_fd(old: int, new: int) -> None:
    """Have signals written to ``new``, unless the descriptor for that is another than ``old``.

    Python calls a handler between two of its instructions only.  A signal that comes right before
    the loop begins to wait, or comes to another thread, wakes nobody without such a descriptor.
    trio and uvloop have one; asyncio has none by itself.
    """
    present = signal.set_wakeup_fd(new, warn_on_full_buffer=False)
    if present != old:
        signal.set_wakeup_fd(present, warn_on_full_buffer=False)
