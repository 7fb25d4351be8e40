"""The end of a child as a descriptor, pidfd_open(2); and who is in a process group."""

from __future__ import annotations

import os
import signal

from .keeper import is_zombie


class Child:
    """A child of this process that nobody else reaps."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.fd = os.pidfd_open(pid)  # readable from its end on

    def has_ended(self) -> bool:
        """Whether it is a zombie; ChildProcessError if somebody else has reaped it."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def send_signal(self, number: int) -> None:
        signal.pidfd_send_signal(self.fd, number)

    def close(self) -> None:
        os.close(self.fd)


def living_in(group: int) -> list[int]:
    """The processes in it, without zombies, which hold nothing and can do nothing."""
    found: list[int] = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if os.getpgid(int(name)) == group and not is_zombie(int(name)):
                found.append(int(name))
        except ProcessLookupError:
            pass  # it has just ended
    return found
