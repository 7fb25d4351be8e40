"""The agents that have one ledger open, and which of them live: a file beside the ledger.

::

    offset 32 × N       slot N: its agent's beat and lease; its first byte is what the agent locks
    offset 2^40         the byte that whoever opens the ledger locks meanwhile

A slot's lock belongs to the open file (F_OFD_SETLK): the kernel lets go of it when the agent
closes the file or dies, however it dies.  Whoever waits for another agent's step watches the file:
see ``changes.py``.  The beats need not outlive a power cut, which no agent outlives, so they cost
no fsync.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import math
import os
import struct
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

_SLOT = 32  # bytes
_BEAT = struct.Struct("=Qd")
_ENDED = 16  # where in a slot something is written when a step has ended
_OPENING = 1 << 40
_FLOCK = struct.Struct("hhqqi0q")  # struct flock: type, whence, start, length, pid

_all: weakref.WeakSet[Agents] = weakref.WeakSet()


def path_of(ledger: str) -> str:
    return f"{ledger}-agents"


class Agents:
    """One agent's view of all of them. ``enter`` makes it one of them."""

    def __init__(self, path: str, *, read_only: bool = False) -> None:
        flags = os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT
        self._fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
        self._beats = 0
        self._lease = math.inf
        self.slot = -1
        _all.add(self)

    @property
    def known(self) -> bool:
        """Whether there has ever been one."""
        return os.fstat(self._fd).st_size > 0

    @contextlib.contextmanager
    def alone(self) -> Generator[None]:
        """Only one agent at a time is in this block, which is short."""
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLKW, _flock(fcntl.F_WRLCK, _OPENING))
        try:
            yield
        finally:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, _OPENING))

    def enter(self, lease: float) -> None:
        """Take the first slot that is free. Only within ``alone``."""
        self.slot = next(slot for slot in itertools.count() if self._lock(slot))
        self._beats, self._lease = self.last_sign(self.slot)[0], lease
        self.beat()

    def _lock(self, slot: int) -> bool:
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, slot * _SLOT))
        except BlockingIOError:
            return False
        return True

    def live(self, slot: int) -> bool:
        """Whether an agent, and not this one itself, has that slot."""
        answer = fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, slot * _SLOT))
        kind: int = _FLOCK.unpack(answer)[0]
        return kind != fcntl.F_UNLCK

    def last_sign(self, slot: int) -> tuple[int, float]:
        """The last beat of a slot's agent, and for how many seconds it is good."""
        data = os.pread(self._fd, _BEAT.size, slot * _SLOT)
        beat, lease = _BEAT.unpack(data.ljust(_BEAT.size, b"\0"))
        return beat, lease

    def beat(self) -> None:
        self._beats += 1
        os.pwrite(self._fd, _BEAT.pack(self._beats, self._lease), self.slot * _SLOT)

    def tell_of_end(self) -> None:
        """Wake those who wait for a step."""
        os.pwrite(self._fd, b"\0", self.slot * _SLOT + _ENDED)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _flock(kind: int, start: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, start, 1, 0)


def _forget_after_fork() -> None:
    """In a child of fork: or else it would keep a dead parent alive."""
    for agents in list(_all):
        agents.close()


os.register_at_fork(after_in_child=_forget_after_fork)
