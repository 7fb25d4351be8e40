"""Whether processes can be started here at all."""

from __future__ import annotations

import functools
import os
import select
import sys

from ._errors import UnsupportedPlatform
from ._values.result import Containment

OLDEST = (5, 9)  # close_range(2)
OLDEST_PIDFD = (5, 3)


def require_platform(level: Containment) -> None:
    """Raise UnsupportedPlatform, saying what is missing, unless processes can be held so here."""
    if level is Containment.PROCESS_GROUP:
        require_posix()
    else:
        require_linux()


def require_posix() -> None:
    """The same for process groups that this process itself holds."""
    if sys.platform == "win32":
        raise UnsupportedPlatform("agentsup starts processes on POSIX systems only, not on win32")
    if sys.platform == "linux" and _release() < OLDEST_PIDFD:
        raise UnsupportedPlatform(f"this takes Linux 5.3 or newer, not {os.uname().release}")
    if sys.platform != "linux" and not hasattr(select, "kqueue"):
        raise UnsupportedPlatform(f"{sys.platform} has neither pidfd nor kqueue")


@functools.cache
def require_linux() -> None:
    """The same for the keeper."""
    if sys.platform != "linux":
        raise UnsupportedPlatform(f"the keeper works on Linux only, not on {sys.platform}")
    if _release() < OLDEST:
        raise UnsupportedPlatform(
            f"the keeper takes Linux 5.9 or newer; this is {os.uname().release}"
        )
    if not sys.executable or getattr(sys, "frozen", False):
        raise UnsupportedPlatform(
            "agentsup runs its keeper with sys.executable, which is not a Python interpreter here"
        )
    if not os.path.exists("/proc/self/task/self/children") and not os.path.exists(
        f"/proc/self/task/{os.getpid()}/children"
    ):
        raise UnsupportedPlatform(
            "agentsup needs /proc, with the list of children (CONFIG_PROC_CHILDREN)"
        )


def _release() -> tuple[int, ...]:
    return tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
