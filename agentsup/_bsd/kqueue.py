"""kqueue(2) in the place of epoll, timerfd and pidfd: each of these is a kqueue of its own.

A kqueue is a descriptor, readable while it holds an event, and so can be watched by another one:
a call's by an event loop's, and a timer's or a child's by the call's.

Written from the manual pages of macOS and FreeBSD. Nothing here runs in this project's CI, which
has neither; there it is tested against a model of kqueue.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time

assert sys.platform != "linux"  # which type checkers understand, too

_EVENTS_MAX = 64
_LATEST = 2.0**30  # seconds; beyond the end of any uptime, and of no field


class Epoll:
    """The part of select.epoll that a call uses, for reading only."""

    def __init__(self) -> None:
        self._queue = select.kqueue()
        self.fileno = self._queue.fileno
        self.close = self._queue.close

    def register(self, fd: int, _eventmask: int, /) -> None:
        self._change(fd, select.KQ_EV_ADD)

    def unregister(self, fd: int, /) -> None:
        self._change(fd, select.KQ_EV_DELETE)

    def _change(self, fd: int, flags: int) -> None:
        self._queue.control([select.kevent(fd, select.KQ_FILTER_READ, flags)], 0)

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        events = self._queue.control(None, _EVENTS_MAX, timeout)
        return [(event.ident, select.POLLIN) for event in events]


class Timer:
    """Readable from its deadline on."""

    def __init__(self) -> None:
        self._queue = select.kqueue()
        self.fd = self._queue.fileno()

    def set(self, deadline: float) -> None:
        """Until ``deadline`` (time.monotonic) it is not readable; infinity is never."""
        # FreeBSD forgets that a timer has gone off when it is added again; macOS may not.
        with contextlib.suppress(FileNotFoundError):
            self._queue.control([select.kevent(1, select.KQ_FILTER_TIMER, select.KQ_EV_DELETE)], 0)
        if deadline <= _LATEST:
            _add_timer(self._queue, max(deadline - time.monotonic(), 0.0))

    def close(self) -> None:
        self._queue.close()


def _add_timer(queue: select.kqueue, seconds: float) -> None:
    # In milliseconds, rounded up. Not one-shot: that would be gone once somebody has looked.
    data = int(seconds * 1000) + 1
    queue.control([select.kevent(1, select.KQ_FILTER_TIMER, select.KQ_EV_ADD, 0, data)], 0)


class Child:
    """A child of this process that nobody else reaps."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._queue = select.kqueue()
        self.fd = self._queue.fileno()  # readable from its end on
        self._ended = False
        flags = select.KQ_EV_ADD | select.KQ_EV_ONESHOT
        end = select.kevent(pid, select.KQ_FILTER_PROC, flags, select.KQ_NOTE_EXIT)
        try:
            self._queue.control([end], 0)
        except ProcessLookupError:
            # macOS does not find a zombie. A timer that has gone off is as readable.
            _add_timer(self._queue, 0.0)
            self._ended = True

    def has_ended(self) -> bool:
        """Whether it has, or is about to be, a zombie."""
        self._ended = self._ended or bool(self._queue.control(None, 1, 0))
        return self._ended

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)  # it is not reaped while this is open

    def close(self) -> None:
        self._queue.close()
