"""The last of a stream, on disk, for whoever reads it in pieces.

It is kept in segments, files without a name: nothing stays behind, however this process ends.  The
oldest segment goes when there is more than agreed on, or no room on the disk.
"""

from __future__ import annotations

import collections
import os
import tempfile
from typing import BinaryIO

from attrs import define

_SEGMENTS = 4


@define
class _Segment:
    file: BinaryIO
    start: int  # its place in the stream
    size: int = 0

    @property
    def end(self) -> int:
        return self.start + self.size


class Spool:
    """What is in it is named by its place in the stream.

    :param limit: bytes that are kept of it, a quarter less at worst.
    """

    def __init__(self, limit: int) -> None:
        self._segment_size = max(limit // _SEGMENTS, 1)
        self._segments: collections.deque[_Segment] = collections.deque()
        #: Bytes of the stream so far.
        self.end = 0

    @property
    def start(self) -> int:
        """The first byte that is still there."""
        return self._segments[0].start if self._segments else self.end

    def write(self, chunk: memoryview) -> None:
        while chunk:
            try:
                chunk = chunk[self._write(chunk) :]
            except OSError:  # the disk is full, or there is no descriptor left
                if self.start == self.end:  # and nothing here that could make room
                    self.close()
                    self.end += len(chunk)
                    return
                self._drop_oldest()

    def _write(self, chunk: memoryview) -> int:
        last = self._segments[-1] if self._segments else None
        if last is None or last.size >= self._segment_size:
            if len(self._segments) == _SEGMENTS:
                self._drop_oldest()
            file = tempfile.TemporaryFile("w+b", buffering=0)  # noqa: SIM115 -- closed with its segment
            last = _Segment(file, self.end)
            self._segments.append(last)
        room = self._segment_size - last.size
        written = os.pwrite(last.file.fileno(), chunk[:room], last.size)
        last.size += written
        self.end += written
        return written

    def _drop_oldest(self) -> None:
        self._segments.popleft().file.close()

    def read(self, start: int, end: int) -> bytes:
        """What there still is between these places."""
        found = b""
        for segment in self._segments:
            first, last = max(start, segment.start), min(end, segment.end)
            if first < last:
                found += os.pread(segment.file.fileno(), last - first, first - segment.start)
        return found

    def close(self) -> None:
        """Keep nothing of it."""
        while self._segments:
            self._drop_oldest()
