"""What other agents do, for the tasks of a ledger that wait for one of them: inotify(7).

A write to the file of the agents says that a step was ended, or is a sign of life; a close may have
been a death.  One watch is for all who wait, since a user may have few of them, and there is none
while nobody waits.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Generator

    from anyio.abc import TaskGroup

_IN_MODIFY, _IN_CLOSE_WRITE = 0x2, 0x8


class Changes:
    """Changes of the file ``path``, of which ``tasks`` has a task that tells."""

    def __init__(self, path: str, tasks: TaskGroup) -> None:
        self._path = path
        self._tasks = tasks
        self._listeners = 0
        self._scope = anyio.CancelScope()
        #: Set at the next change. Whoever looks for something takes this before he looks.
        self.next = anyio.Event()

    @contextlib.contextmanager
    def listen(self) -> Generator[None]:
        """``next`` is told in this block."""
        if not self._listeners:
            self._scope = anyio.CancelScope()
            self._tasks.start_soon(self._tell, _watch(self._path), self._scope)
        self._listeners += 1
        try:
            yield
        finally:
            self._listeners -= 1
            if not self._listeners:
                self._scope.cancel()

    async def _tell(self, fd: int, scope: anyio.CancelScope) -> None:
        try:
            with scope:
                while True:
                    await anyio.wait_readable(fd)
                    os.read(fd, 1 << 16)
                    changed, self.next = self.next, anyio.Event()
                    changed.set()
        finally:
            os.close(fd)


def _watch(path: str) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
    if fd < 0:
        raise _error(path)
    if libc.inotify_add_watch(fd, os.fsencode(path), _IN_MODIFY | _IN_CLOSE_WRITE) < 0:
        error = _error(path)
        os.close(fd)
        raise error
    return fd


def _error(path: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"inotify: {os.strerror(number)}", path)
