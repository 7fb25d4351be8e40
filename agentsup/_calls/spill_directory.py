"""A directory that spill files are made in, and that is kept within bounds by whoever makes one.

Ours are the regular files of this user with names as ``agentsup-0123456789abcdef.stdout``; nothing
else is ever touched.  One that is being written is held by flock(2), which the kernel lets go of
however the writer ends: what a killed host has left goes in its turn, and what is still written,
by whatever process, stays.  Where a file system has no such locks, nothing is dropped.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import re
import stat
import time
from typing import TYPE_CHECKING

from attrs import frozen

from .._rules.retention import is_due, of_a_full_disk, surplus, with_room

if TYPE_CHECKING:
    from .._values.retention import Retention

FULL = (errno.ENOSPC, errno.EDQUOT)
_is_ours = re.compile(r"agentsup-[0-9a-f]{16}\.(stdout|stderr)").fullmatch


@frozen
class SpillFile:
    path: str
    size: int
    written_at: float


@functools.lru_cache(maxsize=64)  # one that is forgotten is looked at once more
def spill_directory(path: str, retention: Retention | None) -> SpillDirectory:
    return SpillDirectory(path, retention)


class SpillDirectory:
    """What this process has added to ``path`` since it last looked."""

    def __init__(self, path: str, retention: Retention | None) -> None:
        self._path = path
        self._retention = retention
        self._files = self._size = 0
        self._looked_at: float | None = None

    def create(self, stream: str) -> tuple[int, str]:
        """A new file, open and held, with its path; older ones go for it.

        :raises OSError: it cannot be made.
        """
        try:
            made = self._create(stream)
        except OSError as error:
            if error.errno not in FULL or not self.make_room():
                raise
            made = self._create(stream)
        self._files += 1
        try:
            self._look_when_due()
        except BaseException:  # KeyboardInterrupt
            os.close(made[0])
            raise
        return made

    def _create(self, stream: str) -> tuple[int, str]:
        while True:
            path = os.path.join(self._path, f"agentsup-{os.urandom(8).hex()}.{stream}")
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            if _hold(fd):
                return fd, path
            os.close(fd)  # somebody who looked just then has dropped it

    def wrote(self, size: int) -> None:
        self._size += size

    def make_room(self) -> bool:
        """The disk is full: drop what is beyond the bounds, or else a tenth; whether any went."""
        if self._retention is None:
            return False
        files = self._list()
        return self._drop(files, self._retention) or self._drop(files, of_a_full_disk(files))

    def _look_when_due(self) -> None:
        if self._retention is None:
            return
        now = time.monotonic()
        if self._looked_at is None or is_due(
            self._retention, self._files, self._size, now - self._looked_at
        ):
            self._files = self._size = 0
            self._looked_at = now
            self._drop(self._list(), with_room(self._retention))

    def _list(self) -> list[SpillFile]:
        """Those that are ours, newest first; none if they cannot be listed."""
        found: list[SpillFile] = []
        with contextlib.suppress(OSError), os.scandir(self._path) as entries:
            for entry in entries:
                if _is_ours(entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                            found.append(SpillFile(entry.path, status.st_size, status.st_mtime))
        return sorted(found, key=lambda file: file.written_at, reverse=True)

    def _drop(self, files: list[SpillFile], bounds: Retention) -> bool:
        held: set[SpillFile] = set()
        dropped: set[SpillFile] = set()
        while going := surplus(files, bounds, time.time(), held):
            gone = {file for file in going if _remove(file.path)}
            dropped |= gone
            held |= set(going) - gone
            files = [file for file in files if file not in gone]
        return bool(dropped)


def _hold(fd: int) -> bool:
    """Lock a file that was just made; False if it was dropped before."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # there are no locks here, so nobody could drop it
    return os.fstat(fd).st_nlink > 0


def _remove(path: str) -> bool:
    """Remove a file that nobody holds; False if it has to stay."""
    try:
        # With which NFS, too, has such a lock. Not to be followed, nor to be waited for.
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        finally:
            os.close(fd)
    except FileNotFoundError:
        pass  # somebody else was faster
    except OSError:
        return False
    return True
