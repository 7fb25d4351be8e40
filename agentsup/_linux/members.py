"""Single processes of a tree, told apart from others that get the same number later."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import anyio
from attrs import field, frozen

from .keeper import CLOCK_TICKS, stat_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

#: At a tree, until nothing new is seen in it.
_LOOKS = 5


@frozen
class Member:
    """A process: its number, and its start, in clock ticks since boot (proc_pid_stat(5))."""

    pid: int
    started: int
    parent: int = field(eq=False)


def living(pids: Iterable[int]) -> list[Member]:
    """Those of them that run, without zombies."""
    found: list[Member] = []
    for pid in pids:
        fields = stat_fields(pid)
        # The state is the first thread's: where that has ended, others may still run.
        if fields and (fields[0] not in (b"Z", b"X") or int(fields[17]) > 1):
            found.append(Member(pid, int(fields[19]), int(fields[1])))
    return found


def newer(members: Iterable[Member], before: Collection[Member]) -> list[Member]:
    """Those that are not of ``before``, nor children of such; parents come before children."""
    old: set[int] = set()
    found: list[Member] = []
    for member in members:
        if member in before or member.parent in old:
            old.add(member.pid)
        else:
            found.append(member)
    return found


def age(member: Member) -> float:
    """Seconds, as far as a tick tells."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - member.started / CLOCK_TICKS


def open_member(member: Member) -> int | None:
    """A pidfd, or None if it has ended."""
    try:
        fd = os.pidfd_open(member.pid)
    except ProcessLookupError:
        return None
    if member in living([member.pid]):
        return fd
    os.close(fd)
    return None


def signal_member(member: Member, number: int) -> bool:
    """Signal it if it is there; False if we may not."""
    fd = open_member(member)
    if fd is None:
        return True
    try:
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        return False
    finally:
        os.close(fd)
    return True


def signal_together(look: Callable[[], Iterable[Member]], number: int) -> list[Member]:
    """Signal all that ``look`` finds, as if at once: stopped first, none of them can act upon the
    end of another, or start one more.

    :returns: those that we may signal.
    """
    stopped: list[Member] = []
    seen: set[Member] = set()
    try:
        for _ in range(_LOOKS):
            fresh = [member for member in look() if member not in seen]
            if not fresh:
                break
            seen.update(fresh)
            stopped += [member for member in fresh if signal_member(member, signal.SIGSTOP)]
        for member in stopped:
            signal_member(member, number)
    finally:
        for member in stopped:
            signal_member(member, signal.SIGCONT)
    return stopped


async def ended(member: Member) -> None:
    """Wait for its end."""
    fd = open_member(member)
    if fd is not None:
        try:
            await anyio.wait_readable(fd)
        finally:
            os.close(fd)
