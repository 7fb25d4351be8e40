"""A deadline as a descriptor: timerfd_create(2).

With it, a call waits for one thing only, whatever it waits on, and moving a deadline wakes it.
"""

from __future__ import annotations

import math
import os
import sys
import time

if sys.version_info >= (3, 13):

    def _create() -> int:
        return os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_CLOEXEC | os.TFD_NONBLOCK)

    def _set(fd: int, deadline: float) -> None:
        os.timerfd_settime(fd, flags=os.TFD_TIMER_ABSTIME, initial=deadline)

else:
    import ctypes

    _libc = ctypes.CDLL(None, use_errno=True)
    _TFD_TIMER_ABSTIME = 1

    class _Itimerspec(ctypes.Structure):
        _fields_ = (
            ("interval_s", ctypes.c_long),
            ("interval_ns", ctypes.c_long),
            ("value_s", ctypes.c_long),
            ("value_ns", ctypes.c_long),
        )

    def _create() -> int:
        fd = int(_libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_CLOEXEC | os.O_NONBLOCK))
        if fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return fd

    def _set(fd: int, deadline: float) -> None:
        fraction, seconds = math.modf(deadline)
        value = _Itimerspec(0, 0, int(seconds), int(fraction * 1e9))
        if _libc.timerfd_settime(fd, _TFD_TIMER_ABSTIME, ctypes.byref(value), None):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


_LATEST = 2.0**40  # seconds; beyond the end of any uptime, and of no field


class Timer:
    """Readable from its deadline on."""

    def __init__(self) -> None:
        self.fd = _create()

    def set(self, deadline: float) -> None:
        """Until ``deadline`` (time.monotonic) it is not readable; infinity is never."""
        _set(self.fd, 0.0 if deadline > _LATEST else max(deadline, 1e-9))

    def close(self) -> None:
        os.close(self.fd)
