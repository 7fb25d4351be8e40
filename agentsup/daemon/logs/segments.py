"""The files of one service's log: whole records, and after them what may be overwritten."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from attrs import field, frozen

from .record import COMPRESSED, SEGMENT, UNFINISHED, segment_name, segment_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._rules.log_rotation import Rotation

_NEW = SEGMENT + ".new"


@frozen
class Segment:
    path: str
    number: int
    size: int = field(eq=False)
    written_at: float = field(eq=False)

    @property
    def compressed(self) -> bool:
        return self.path.endswith(COMPRESSED)


def segments(directory: str) -> list[Segment]:
    """Those that are there, the newest first."""
    found: list[Segment] = []
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            number = segment_number(entry.name)
            if number is not None:
                with contextlib.suppress(FileNotFoundError):  # it has been compressed just now
                    stat = entry.stat(follow_symlinks=False)
                    found.append(Segment(entry.path, number, stat.st_size, stat.st_mtime))
    return sorted(found, key=lambda segment: segment.number, reverse=True)


def recover(directory: str) -> None:
    """Put in order what a crash has left in the middle of something."""
    names = set(os.listdir(directory))
    for name in names:
        path = os.path.join(directory, name)
        if name.endswith(_NEW):  # it has the last words, which were cut off the one before
            os.rename(path, path.removesuffix(_NEW) + SEGMENT)
        elif name.endswith(UNFINISHED) or name.removesuffix(COMPRESSED) + SEGMENT in names:
            os.unlink(path)  # it is compressed again


class Segments:
    """What is written goes at once to the file: it is there, however this process ends.

    The file is opened with the first record, and is always a new one: what an earlier host has
    written, it does not touch.

    :param on_growth: told how many bytes there are more, or that it goes on in another segment.
    """

    def __init__(
        self, directory: str, rotation: Rotation, on_growth: Callable[[int, bool], None]
    ) -> None:
        self.rotation = rotation
        #: The one that is written.
        self.path: str | None = None
        #: Of the last write that has failed.
        self.error: OSError | None = None
        self._directory = directory
        self._on_growth = on_growth
        self._number = 0
        self._fd = -1
        self._begun = 0.0
        self._end = 0  # of the records
        self._used = 0  # with what follows them
        self._tail = b""

    def write(self, records: bytes, tail: bytes, now: float, *, meanwhile: bytes) -> int:
        """Append the records; ``tail`` follows them, until the next write.

        :param meanwhile: what is to follow those that are in another segment than the last ones.
        :returns: how many bytes of the records are written, as whole ones; what is not is to be
            counted as lost, for there was no room.
        """
        done = 0
        self.error = None
        try:
            if self._fd < 0 or self.rotation.is_due(self._end, self._begun, now):
                self._begin(now)
            while done < len(records) or tail != self._tail:
                fitting = self.rotation.fitting(records, done, self._end)
                if done < len(records) and fitting == done and not self._begin(now):
                    fitting = len(records)
                last = fitting == len(records)
                done += self._put(records[done:fitting], tail if last else meanwhile)
        except OSError as error:
            self.error = error
        return done

    def _put(self, records: bytes, tail: bytes) -> int:
        data = records + tail
        # Spaces instead of a cut: a reader, or a crash, finds no half of what was there before.
        data = data.ljust(self._used - self._end)
        self._tail = tail
        written = os.pwrite(self._fd, data, self._end)
        self._used = max(self._used, self._end + written)
        done = len(records) if written >= len(records) else records.rfind(b"\n", 0, written) + 1
        self._end += done
        if done:
            self._on_growth(done, False)
        elif written < len(data):
            os.pwrite(self._fd, data[written:], self._end + written)  # raises what the matter is
        return done

    def _begin(self, now: float) -> bool:
        """Go on in a new segment; where there can be none, in the old one."""
        if not self._number:
            self._number = max((one.number for one in segments(self._directory)), default=0)
        path = os.path.join(self._directory, segment_name(self._number + 1))
        try:
            os.makedirs(self._directory, 0o700, exist_ok=True)
            fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError:
            if self._fd < 0:
                raise
            return False
        before, end, tail = self._fd, self._end, self._tail
        self._number += 1
        self._fd, self.path = fd, path
        self._begun, self._end, self._used, self._tail = now, 0, 0, b""
        with contextlib.suppress(OSError):
            self._put(b"", tail)  # before it is cut off the old one: it is always in one of them
        if before >= 0:
            _finish(before, end)
        os.rename(f"{path}.new", path)  # by then, the old one does not change any more
        if before >= 0:
            self._on_growth(0, True)
        return True

    def rotate(self, now: float) -> None:
        """Go on in a new segment, if there is anything in this one."""
        if self._fd >= 0 and self._end:
            self._begin(now)

    def close(self) -> None:
        """What has not ended of a line stays as it is. May be repeated."""
        if self._fd >= 0:
            _finish(self._fd, self._end + len(self._tail))
            self._fd, self.path, self._tail = -1, None, b""


def _finish(fd: int, size: int) -> None:
    try:
        os.ftruncate(fd, size)
    except OSError:
        pass  # spaces stay behind it
    finally:
        os.close(fd)
