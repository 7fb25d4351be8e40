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


def sweep(tags: TagRange) -> int:
    """SIGKILL every process that carries one of ``tags``, to a fixpoint; return how many died.

    What we may not signal is left, and so is what does not die in :data:`BOUND` seconds.
    """
    if not tags.stride:
        return 0
    deadline = time.monotonic() + BOUND
    killed: set[int] = set()
    while True:
        pidfds = dict(_kill_tagged(tags))
        try:
            if not pidfds:
                return len(killed)
            killed |= pidfds.keys()
            _wait_dead(set(pidfds.values()), deadline)
        finally:
            for fd in pidfds.values():
                os.close(fd)
        if time.monotonic() >= deadline:
            return len(killed)


def _kill_tagged(tags: TagRange) -> Iterator[tuple[int, int]]:
    for name in os.listdir("/proc"):
        if not name.isdigit() or not tags.covers(tag_of(int(name))):
            continue
        pid = int(name)
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            continue
        # Looked at again now that the descriptor pins the process: the number may be another's.
        try:
            if tags.covers(tag_of(pid)) and not is_zombie(pid):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
                yield pid, fd
                continue
        except OSError:
            pass
        os.close(fd)


def _wait_dead(pidfds: set[int], deadline: float) -> None:
    """A pidfd becomes readable when its process is dead (pidfd_open(2))."""
    poll = select.poll()
    for fd in pidfds:
        poll.register(fd, select.POLLIN)
    while pidfds and (left := deadline - time.monotonic()) > 0:
        for fd, _ in poll.poll(left * 1000):
            poll.unregister(fd)
            pidfds.discard(fd)
