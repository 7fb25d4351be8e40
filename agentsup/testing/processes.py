"""The process table, as far as it is below one process."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from attrs import frozen

if sys.platform == "linux":  # elsewhere it can be imported
    from .._linux.keeper import CLOCK_TICKS, children_of, command_line, read_proc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@frozen
class ProcessInfo:
    """A process, or a zombie, as it was when it was looked at."""

    pid: int
    ppid: int
    #: A letter, as in proc_pid_stat(5): ``Z`` is a zombie.
    state: str
    #: Clock ticks since the machine was started; with the pid, it is the process's identity.
    start_time: int
    #: Its beginning, where it is long; the program's name in brackets where there is none.
    argv: tuple[str, ...]

    @property
    def zombie(self) -> bool:
        return self.state in "ZX"

    @property
    def identity(self) -> tuple[int, int]:
        return self.pid, self.start_time

    def age(self, now: float) -> float:
        """Seconds since it was started, by CLOCK_BOOTTIME."""
        return max(0.0, now - self.start_time / CLOCK_TICKS)


def look_at(pid: int) -> ProcessInfo | None:
    """The process of this number; None if there is none."""
    name, _, rest = read_proc(f"/proc/{pid}/stat").rpartition(b") ")
    fields = rest.split()
    if not fields:
        return None
    words = command_line(pid).split(b"\0") if fields[0] not in (b"Z", b"X") else [b""]
    if words == [b""]:
        words = [b"[" + name.partition(b" (")[2] + b"]"]
    return ProcessInfo(
        pid=pid,
        ppid=int(fields[1]),
        state=fields[0].decode(),
        start_time=int(fields[19]),
        argv=tuple(map(os.fsdecode, words)),
    )


def descendants(
    pid: int, below: Callable[[ProcessInfo], bool] = lambda process: True
) -> dict[int, ProcessInfo]:
    """What has descended from ``pid``, zombies too; parents before their children.

    :param below: whether to look below a process as well, and not only at it.
    """
    found: dict[int, ProcessInfo] = {}
    line = children_of(pid)
    for number in line:  # which grows
        process = look_at(number)
        if process is not None and number not in found:
            found[number] = process
            if below(process):
                line += children_of(number)
    return found


def kill(processes: Iterable[ProcessInfo], number: int = signal.SIGKILL) -> list[ProcessInfo]:
    """Signal those that are still there, and not another under their number; those it reached."""
    return [process for process in processes if _signal(process, number)]


def _signal(process: ProcessInfo, number: int) -> bool:
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        # Looked at again now that it is pinned.
        now = look_at(process.pid)
        if now is None or now.identity != process.identity or now.zombie:
            return False
        signal.pidfd_send_signal(fd, number)
    except OSError:
        return False  # it has just ended, or is not ours to signal
    finally:
        os.close(fd)
    return True
