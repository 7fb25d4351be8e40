"""Kill what a dead keeper has left, found by its tags in one scan of /proc."""

from __future__ import annotations

import os
import select
import signal
import time
from typing import TYPE_CHECKING

from .keeper import is_zombie, tag_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._rules.tags import TagRange

BOUND = 2.0  # seconds


def sweep(tags: TagRange) -> bool:
    """SIGKILL every process that carries one of ``tags``, to a fixpoint; whether none is left.

    What we may not signal is left, and so is what does not die in :data:`BOUND` seconds.
    """
    deadline = time.monotonic() + BOUND
    while time.monotonic() < deadline:
        living = list(_living(tags))
        try:
            if not living:
                return True
            dying = {fd for fd in living if _kill(fd)}
            if not dying:
                return False
            _wait_dead(dying, deadline)
        finally:
            for fd in living:
                os.close(fd)
    return False


def _living(tags: TagRange) -> Iterator[int]:
    """A pidfd of each process that carries one of ``tags`` and is alive."""
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        if tags.covers(tag_of(pid)):
            try:
                fd = os.pidfd_open(pid)
            except OSError:
                continue
            # Looked at again now that it is pinned: the number may have become another's.
            if tags.covers(tag_of(pid)) and not is_zombie(pid):
                yield fd
            else:
                os.close(fd)


def _kill(pidfd: int) -> bool:
    """False if we may not; True as well if it has just died."""
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except PermissionError:
        return False
    except ProcessLookupError:
        pass
    return True


def _wait_dead(pidfds: set[int], deadline: float) -> None:
    """A pidfd becomes readable when its process is dead (pidfd_open(2))."""
    poll = select.poll()
    for fd in pidfds:
        poll.register(fd, select.POLLIN)
    while pidfds and (left := deadline - time.monotonic()) > 0:
        for fd, _ in poll.poll(left * 1000):
            poll.unregister(fd)
            pidfds.discard(fd)
