"""A segment as a file: its bytes in blocks, from the front or from the end, compressed or not."""

from __future__ import annotations

import contextlib
import os
import zlib
from typing import TYPE_CHECKING, TypeAlias

from .record import COMPRESSED, SEGMENT, Record, dump, segment_name, service_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from zlib import _Decompress as _State  # pyright: ignore[reportPrivateUsage] -- its only name

BLOCK = 256 * 1024
_LAST_BLOCK = 8 * 1024  # most often it has all that is wanted
_COMPRESSED_BLOCK = 32 * 1024
_GZIP = 31  # the wbits of zlib for it
_WARNING = 4


class PlainFile:
    """One that may still be written: nothing of it is kept between two reads."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 -- closed by close

    def close(self) -> None:
        self._file.close()

    def size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def read(self, offset: int, size: int = BLOCK) -> bytes:
        return os.pread(self._file.fileno(), size, offset)

    def blocks(self, end: int | None = None) -> Iterator[bytes]:
        at = 0
        while block := self.read(at, BLOCK if end is None else min(BLOCK, end - at)):
            at += len(block)
            yield block

    def blocks_backwards(self, end: int | None = None) -> Iterator[bytes]:
        """From ``end`` to the beginning."""
        at = self.size() if end is None else end
        size = _LAST_BLOCK
        while at:
            start = max(0, at - size)
            yield self.read(start, at - start)
            at = start
            size = min(2 * size, BLOCK)


class CompressedFile:
    """What is damaged ends with a record that says so."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 -- closed by close

    def close(self) -> None:
        self._file.close()

    def blocks(self, end: int | None = None) -> Iterator[bytes]:
        self._file.seek(0)
        state = zlib.decompressobj(_GZIP)
        at = 0
        try:
            while block := self._next(state, at, end):
                at += len(block)
                yield block
        except zlib.error as error:
            yield self._damage(error)

    def blocks_backwards(self, end: int | None = None) -> Iterator[bytes]:
        """After a look at all of it: of each block is kept what it can be made again from."""
        self._file.seek(0)
        state = zlib.decompressobj(_GZIP)
        begins: list[tuple[int, int, _State]] = []
        at = 0
        try:
            begin = (at, 0, state.copy())
            while block := self._next(state, at, end):
                begins.append(begin)
                at += len(block)
                begin = (at, self._file.tell(), state.copy())
        except zlib.error as error:
            yield self._damage(error)
        for at, offset, before in reversed(begins):
            self._file.seek(offset)
            yield self._next(before, at, end)

    def _next(self, state: _State, at: int, end: int | None) -> bytes:
        """A block; what there is before damage; nothing at the end."""
        found = b""
        size = BLOCK if end is None else min(BLOCK, end - at)
        try:
            while len(found) < size and not state.eof:
                data = state.unconsumed_tail or self._file.read(_COMPRESSED_BLOCK)
                more = state.decompress(data, size - len(found))
                if not data and not more:
                    raise zlib.error("it ends too early")
                found += more
        except zlib.error:
            if not found:
                raise
        return found

    def _damage(self, error: zlib.error) -> bytes:
        """A record; before it may be half a line."""
        at, service = (
            os.fstat(self._file.fileno()).st_mtime,
            os.path.basename(os.path.dirname(self._path)),
        )
        text = f"{self._path} is damaged, and the rest of it lost: {error}"
        record = Record(at, service_of(service), 0, "daemon", _WARNING, "", text)
        return b"\n" + dump(record)


SegmentFile: TypeAlias = "PlainFile | CompressedFile"


def open_segment(directory: str, number: int) -> SegmentFile | None:
    """None if it has been removed."""
    path = os.path.join(directory, segment_name(number))
    with contextlib.suppress(FileNotFoundError):
        return PlainFile(path)
    # It goes only when there is the other.
    with contextlib.suppress(FileNotFoundError):
        return CompressedFile(path.removesuffix(SEGMENT) + COMPRESSED)
    return None
