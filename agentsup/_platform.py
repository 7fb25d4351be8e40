"""Whether processes can be started here at all."""

from __future__ import annotations

import functools
import os
import sys

from ._errors import UnsupportedPlatform

OLDEST = (5, 9)  # close_range(2), pidfd_open(2)


@functools.cache
def require_linux() -> None:
    """Raise UnsupportedPlatform, saying what is missing, unless the keeper can work here."""
    if sys.platform != "linux":
        raise UnsupportedPlatform(f"agentsup starts processes on Linux only, not on {sys.platform}")
    release = os.uname().release
    if tuple(int(part) for part in release.split("-")[0].split(".")[:2]) < OLDEST:
        raise UnsupportedPlatform(f"agentsup needs Linux 5.9 or newer; this is {release}")
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
