"""Keep the first and the last of a stream, at a flat cost however much comes."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

from .._values.output import Output

if TYPE_CHECKING:
    from .._values.output import OnLine, OutputPolicy

LINE_MAX = 64 * 1024


class Capture:
    """What is kept of one stream."""

    def __init__(self, stream: str, policy: OutputPolicy) -> None:
        self.total = 0
        self._stream = stream
        self._head_room = policy.head
        self._tail_size = policy.tail
        self._head = bytearray()
        self._tail = bytearray()
        self._lines = Lines(stream, policy.on_line) if policy.on_line else None
        self._spill = Spill(stream, policy.spill_dir) if policy.spill_dir is not None else None

    def feed(self, chunk: memoryview) -> None:
        """Take note of ``chunk``, which may be overwritten afterwards."""
        self.total += len(chunk)
        if self._spill:
            self._spill.write(chunk)
        kept = chunk
        if self._head_room:
            first = kept[: self._head_room]
            self._head += first
            self._head_room -= len(first)
            kept = kept[len(first) :]
        if self._tail_size:
            self._tail += kept[-self._tail_size :]
            # Cut when it has doubled, so that a byte is moved once however small the chunks are.
            if len(self._tail) > 2 * self._tail_size:
                del self._tail[: -self._tail_size]
        if self._lines:
            try:
                self._lines.feed(bytes(chunk))
            except BaseException:
                self._lines = None  # it is not called again while the call is being ended
                raise

    def close(self) -> None:
        """The stream has ended: hand over an unfinished line, close the file."""
        if self._spill:
            self._spill.close()
        if self._lines:
            lines, self._lines = self._lines, None
            lines.close()

    def output(self) -> Output:
        tail = bytes(self._tail[-self._tail_size :]) if self._tail_size else b""
        spill = self._spill
        return Output(
            bytes(self._head),
            tail,
            self.total,
            spill_path=spill.path if spill else None,
            spill_error=spill.error if spill else None,
        )


class Lines:
    """Cut a stream into lines of bounded length."""

    def __init__(self, stream: str, on_line: OnLine) -> None:
        self._stream = stream
        self._on_line = on_line
        self._partial = b""

    def feed(self, data: bytes) -> None:
        *lines, partial = (self._partial + data).split(b"\n")
        if len(partial) > LINE_MAX:
            lines.append(partial)
            partial = b""
        self._partial = partial
        for line in lines:
            self._emit(line)

    def close(self) -> None:
        if self._partial:
            self._emit(self._partial)
            self._partial = b""

    def _emit(self, line: bytes) -> None:
        line = line.removesuffix(b"\r")
        for start in range(0, len(line) or 1, LINE_MAX):
            piece = line[start : start + LINE_MAX]
            self._on_line(self._stream, piece.decode("utf-8", "replace"))


class Spill:
    """A file with all of a stream. When it cannot be written, the call goes on without it."""

    def __init__(self, stream: str, directory: str | os.PathLike[str]) -> None:
        self._fd, path = tempfile.mkstemp(suffix=f".{stream}", prefix="agentsup-", dir=directory)
        self.path = os.path.abspath(path)
        self.error: str | None = None

    def write(self, chunk: memoryview) -> None:
        if self.error is not None:
            return
        try:
            while chunk:
                chunk = chunk[os.write(self._fd, chunk) :]
        except OSError as error:
            self.error = str(error)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
