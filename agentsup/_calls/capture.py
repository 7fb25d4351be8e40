"""Keep the first and the last of a stream, at a flat cost however much comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._values.output import Output, whole_characters

if TYPE_CHECKING:
    from .._values.output import OnLine, OutputPolicy
    from .spill import Spill

LINE_MAX = 64 * 1024


class Capture:
    """What is kept of one stream."""

    def __init__(self, stream: str, policy: OutputPolicy, on_line: OnLine | None = None) -> None:
        self.total = 0
        self._stream = stream
        self._head_room = policy.head
        self._tail_size = policy.tail
        self._head = bytearray()
        self._tail = bytearray()
        self._lines = Lines(stream, on_line) if on_line else None
        self._policy = policy
        self._spill: Spill | None = None

    def open(self) -> None:
        """Make the file, where one is asked for; it is closed by :meth:`close`."""
        if self._policy.spill_dir is not None:
            from .spill import Spill

            self._spill = Spill(self._stream, self._policy, self._policy.spill_dir)

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
            self._lines.feed(bytes(chunk))

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


class UntilItRaises:
    """A line callback that is not called again, for either stream, once it has raised: that ends
    the call, and ending it must go on."""

    def __init__(self, on_line: OnLine) -> None:
        self._on_line: OnLine | None = on_line

    def __call__(self, stream: str, line: str) -> None:
        on_line = self._on_line
        if on_line:
            try:
                on_line(stream, line)
            except BaseException:
                self._on_line = None
                raise


class Lines:
    """Cut a stream into lines of bounded length, the same ones however it comes in."""

    def __init__(self, stream: str, on_line: OnLine) -> None:
        self._stream = stream
        self._on_line = on_line
        self._partial = b""

    def feed(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._emit(line)
        while len(self._partial) > LINE_MAX + 1:  # one for a CR that may be part of its end
            self._partial = self._emit_piece(self._partial)

    def close(self) -> None:
        line, self._partial = self._partial, b""
        if line:
            self._emit(line)

    def _emit(self, line: bytes) -> None:
        line = line.removesuffix(b"\r")
        while len(line) > LINE_MAX:
            line = self._emit_piece(line)
        self._on_line(self._stream, line.decode("utf-8", "replace"))

    def _emit_piece(self, line: bytes) -> bytes:
        piece = whole_characters(line[:LINE_MAX])
        self._on_line(self._stream, piece.decode("utf-8", "replace"))
        return line[len(piece) :]
