"""Generations of bytes in files: the last one that was written is there after any kill.

A write is: a temporary file, fsync, rename, fsync of the directory.  Until the rename there is no
trace of it that is ever read; from the second fsync on it outlives a power cut as well, and only
then are older ones dropped.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import TYPE_CHECKING

from attrs import frozen

from .._errors import CheckpointCorrupt, DiskFull, FormatTooNew
from . import format, generations
from .lock import Claim
from .retention import Generation, surplus

if TYPE_CHECKING:
    from .._values.retention import Retention

_FULL = (errno.ENOSPC, errno.EDQUOT)
_BUFFER = 1 << 16  # bytes; what fits goes to the kernel at one stroke


@frozen
class Found:
    """The newest generation that is good, and what is wrong with those that are newer."""

    path: str
    payload: bytes
    passed_over: tuple[str, ...]


class Store:
    """The generations at ``path``, an absolute one. Not for two threads at a time."""

    def __init__(self, path: str, keep: int, retention: Retention) -> None:
        self._path = path
        self._keep = keep
        self._retention = retention
        self._claim: Claim | None = None
        self._generations: list[Generation] | None = None  # newest first; None: look again
        self._good = 0  # the newest that is known to be good

    def open(self) -> list[Generation]:
        """Claim it, if it is not claimed already; what there is, newest first.

        :raises CheckpointInUse: another process, or another store of this one, has it.
        :raises FormatTooNew: a generation was written by a newer version of this package.
        """
        while not (self._claim and self._claim.held):
            self.close()
            self._claim = Claim(generations.lock_of(self._path))
        if self._generations is None:
            try:
                found = generations.find(self._path)
                for generation in found:
                    self._refuse_newer_format(generation.number)
                self._good = 0
                self._drop_surplus(found)  # of a writer that was killed before it could
            except BaseException:
                self.close()
                raise
            self._generations = found
        return self._generations

    def close(self) -> None:
        self._generations = None
        if self._claim:
            self._claim.close()
            self._claim = None

    # --- reading ------------------------------------------------------------------------------

    def read(self) -> Found | None:
        """The newest that is good; None if nothing has ever been written.

        :raises CheckpointCorrupt: there are some, and all are damaged.
        """
        self._generations = None  # somebody may have put one back
        return self._newest_good(self.open())

    def _newest_good(self, found: list[Generation]) -> Found | None:
        damages: list[str] = []
        for generation in found:
            path = generations.path_of(self._path, generation.number)
            try:
                payload = self._read(generation.number)
            except format.Damaged as error:
                damages.append(f"{path} {error}")
            else:
                self._good = generation.number
                return Found(path, payload, tuple(damages))
        if damages:
            raise CheckpointCorrupt(f"no generation can be used: {'; '.join(damages)}")
        return None

    def _read(self, number: int) -> bytes:
        path = generations.path_of(self._path, number)
        try:
            with open(path, "rb", buffering=0) as file:
                content = file.read()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            raise format.Damaged("cannot be read from its disk") from error
        try:
            return format.decode(number, content)
        except FormatTooNew as error:
            raise FormatTooNew(f"{path} {error}") from None

    def _refuse_newer_format(self, number: int) -> None:
        """A look at the header is enough for all others."""
        path = generations.path_of(self._path, number)
        with contextlib.suppress(format.Damaged, OSError), open(path, "rb", buffering=0) as file:
            if format.version_of(file.read(format.HEADER_MAX)) > format.VERSION:
                self._read(number)

    # --- writing ------------------------------------------------------------------------------

    def write(self, payload: bytes) -> None:
        """Make ``payload`` the newest generation, wholly or not at all, and drop what is surplus.

        :raises DiskFull: also after all older ones but the last good one were dropped.
        """
        found = self.open()
        number = found[0].number + 1 if found else 1
        header = format.encode(number, payload)
        try:
            self._write_making_room(found, number, header, payload)
        except BaseException:
            self._generations = None  # it may have come as far as its rename
            raise
        self._good = number
        found.insert(0, Generation(number, len(header) + len(payload), time.time()))
        self._drop_surplus(found)

    def _write_making_room(
        self, found: list[Generation], number: int, header: bytes, payload: bytes
    ) -> None:
        while True:
            try:
                return self._write(number, header, payload)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                if not self._make_room(found):
                    why = f"{os.strerror(error.errno)}, and no older generation is left to drop"
                    raise DiskFull(error.errno, why, self._path) from None

    def _write(self, number: int, header: bytes, payload: bytes) -> None:
        temporary = generations.temporary_of(self._path)
        directory = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            with open(temporary, "wb", _BUFFER, opener=_private) as file:
                file.write(header)
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, generations.path_of(self._path, number))
            os.fsync(directory)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        finally:
            os.close(directory)

    # --- dropping -----------------------------------------------------------------------------

    def _make_room(self, found: list[Generation]) -> bool:
        """Drop the oldest generation that is not the last good one; whether there was one."""
        self._know_the_good_one(found)
        for generation in reversed(found):
            if generation.number != self._good:
                self._drop(found, generation)
                return True
        return False

    def _drop_surplus(self, found: list[Generation]) -> None:
        """What is newer than the last good one is damaged, and stands for nothing."""
        now = time.time()
        if surplus(found, self._keep, self._retention, now):
            self._know_the_good_one(found)
            older = [generation for generation in found if generation.number <= self._good]
            for generation in surplus(older, self._keep, self._retention, now):
                self._drop(found, generation)

    def _know_the_good_one(self, found: list[Generation]) -> None:
        if not self._good:
            with contextlib.suppress(CheckpointCorrupt):  # then there is none
                self._newest_good(found)

    def _drop(self, found: list[Generation], generation: Generation) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(generations.path_of(self._path, generation.number))
        found.remove(generation)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
