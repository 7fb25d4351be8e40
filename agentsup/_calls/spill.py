"""A file with all of a stream. When it cannot be written, the call goes on without it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from .._errors import SpawnError
from .spill_directory import FULL, spill_directory

if TYPE_CHECKING:
    from .._values.output import OutputPolicy


class Spill:
    """One file of ``directory``, within the bounds of ``policy``."""

    def __init__(
        self, stream: str, policy: OutputPolicy, directory: str | os.PathLike[str]
    ) -> None:
        self._room = self._limit = policy.spill_limit
        try:
            path = os.path.abspath(directory)
            self._directory = spill_directory(path, policy.spill_retention)
            self._fd, self.path = self._directory.create(stream)
        except OSError as error:
            number = error.errno or errno.EIO
            raise SpawnError(
                number, f"output.spill_dir: {os.strerror(number)}", os.fspath(directory)
            ) from None
        self.error: str | None = None

    def write(self, chunk: memoryview) -> None:
        if self.error is not None:
            return
        fits = chunk if self._room is None else chunk[: self._room]
        try:
            self._write(fits)
        except OSError as error:
            self.error = str(error)
        else:
            if self._room is not None:
                self._room -= len(fits)
            if len(fits) < len(chunk):
                self.error = f"cut after {self._limit} bytes: OutputPolicy.spill_limit"

    def _write(self, chunk: memoryview) -> None:
        tried = False
        while chunk:
            try:
                size = os.write(self._fd, chunk)
            except OSError as error:
                if tried or error.errno not in FULL or not self._directory.make_room():
                    raise
                tried = True
            else:
                self._directory.wrote(size)
                chunk = chunk[size:]

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
