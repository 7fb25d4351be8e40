"""Run the host in a process of its own, and look for what it has left when it is gone.

However the host ends, even by kill -9, nothing of it may be there afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from attrs import frozen
from processes import Process, Signs, belonging

PATIENCE = 5.0  # seconds for the keeper to end after its host
_PR_SET_CHILD_SUBREAPER = 36


@frozen
class Verdict:
    #: The host's exit status, negative for the signal that ended it.
    status: int
    left: list[Process]
    #: Seconds from the host's end until nothing of it was left.
    took: float


def run_audited(host: Callable[[], int], signs: Signs) -> Verdict:
    """Run ``host`` to its end; whatever is left of it after that is listed, and killed."""
    # What escapes from everybody else then comes to this process.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    pid = os.fork()
    if pid == 0:
        _be_the_host(host)
    # The terminal's ^C reaches the host by itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: os.kill(pid, number))
    status = _wait_for(pid)
    ended_at = time.monotonic()
    while (left := belonging(signs)) and time.monotonic() < ended_at + PATIENCE:
        _reap()
        time.sleep(0.01)
    for process in left:
        with contextlib.suppress(OSError):
            os.kill(process.pid, signal.SIGKILL)
    return Verdict(status, left, time.monotonic() - ended_at)


def _be_the_host(host: Callable[[], int]) -> NoReturn:
    status = 70
    try:
        status = host()
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        traceback.print_exc()
    finally:
        # Not by way of the auditor's frames, whose cleanup is the auditor's.
        os._exit(status)


def _wait_for(host: int) -> int:
    """The host's status; meanwhile bury what comes to a subreaper, as init would."""
    while True:
        pid, status = os.wait()
        if pid == host:
            return os.waitstatus_to_exitcode(status)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
