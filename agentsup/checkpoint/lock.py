"""Who may write: the process that holds flock(2) on the lock file, and that process alone.

The kernel lets go of the lock when the last descriptor of it is closed, however its holder ended:
there is no stale lock, and nothing to clean up.  An exec closes it.  A fork shares it, so the child
closes its copy before anything else runs; a holder that is killed while it forks leaves a child
that is about to do that, and the next claim waits for it.

The file holds its holder's pid, for the message of the error and for no decision but that wait.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
import weakref
from typing import TYPE_CHECKING

from .._errors import CheckpointInUse

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from io import FileIO

#: For a child of a dead holder that has not yet closed its copy.
PATIENCE = 2.0
_PAUSE = 0.01  # flock(2) has no timeout

_claims: weakref.WeakSet[Claim] = weakref.WeakSet()


class Claim:
    """The lock on the file ``path``, until :meth:`close`.

    :raises CheckpointInUse: somebody else, or another claim of this process, has it.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        # A file object: one that is forgotten is closed, with a ResourceWarning.
        self._file: FileIO = open(path, "rb+", buffering=0, opener=_open)  # noqa: SIM115 -- closed below
        _claims.add(self)
        try:
            self._acquire()
            with contextlib.suppress(OSError):  # a full disk: nobody needs it
                os.ftruncate(self._file.fileno(), 0)
                os.pwrite(self._file.fileno(), b"%d\n" % os.getpid(), 0)
        except BaseException:
            self.close()
            raise

    def _acquire(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(self._file.fileno(), 32, 0).strip().decode("ascii", "replace")
            if _is_alive(holder) or time.monotonic() >= deadline:
                who = f"process {holder}" if holder else "another process"
                raise CheckpointInUse(f"{self._path} is held by {who}")
            time.sleep(_PAUSE)

    @property
    def held(self) -> bool:
        """False in the child of a fork, and when somebody has removed the lock file."""
        if self._file.closed:
            return False
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        self._file.close()  # not LOCK_UN, which would undo it for a parent too


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o600)


def _is_alive(pid: str) -> bool:
    """Whether there is such a process, and it is no zombie. False where nobody can tell."""
    try:
        fd = os.pidfd_open(int(pid))
    except (AttributeError, OSError, ValueError):
        return False
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return not poll.poll(0)
    finally:
        os.close(fd)


def _forget_after_fork() -> None:
    for claim in list(_claims):
        claim.close()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_after_fork)
