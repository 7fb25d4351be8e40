"""Read a pipe without waiting, into one reused buffer."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import termios
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from .capture import Capture

    class Sink(Protocol):
        """What takes in all of a stream, as a log does. It must not raise."""

        def feed(self, chunk: memoryview, /) -> None:
            """The chunk may be overwritten afterwards."""

        def close(self) -> None:
            """The stream has ended."""


PIPE_SIZE = 256 * 1024
_DEFAULT_PIPE_SIZE = 64 * 1024
_F_SETPIPE_SZ = 1031

# Buffers that are free to use: one for each thread that is reading at the same time.
_buffers: list[bytearray] = []


class Reader:
    """The host's end of one output pipe.

    It is read when epoll says that there is something. That may be gone by then: a tool can read
    from its own output pipe (``/proc/self/fd/1``), so the descriptor must not block.
    """

    def __init__(self, fd: int, capture: Capture, log: Sink | None = None) -> None:
        self.fd = fd
        self.capture = capture
        self._log = log
        #: Told of every chunk besides the capture; the chunk may be overwritten afterwards.
        self.sink: Callable[[memoryview], None] | None = None
        self._enlarged = False

    def read(self) -> int | None:
        """Take in what is there; return how many bytes that were, 0 at the end of the stream,
        None if there is nothing."""
        try:
            buffer = _buffers.pop()
        except IndexError:
            buffer = bytearray(PIPE_SIZE)
        try:
            size = os.readv(self.fd, [buffer])
            if size:
                chunk = memoryview(buffer)[:size]
                self.capture.feed(chunk)
                if self._log:
                    self._log.feed(chunk)
                if self.sink:
                    self.sink(chunk)
                if size >= _DEFAULT_PIPE_SIZE and not self._enlarged:
                    self._enlarge()
            return size
        except BlockingIOError:
            return None
        finally:
            _buffers.append(buffer)

    def read_rest(self) -> None:
        """Take in what is in the pipe now, however much a tool has made it hold."""
        (left,) = struct.unpack("i", fcntl.ioctl(self.fd, termios.FIONREAD, bytes(4)))
        while left > 0 and (size := self.read()):
            left -= size

    def _enlarge(self) -> None:
        """A pipe found full: fewer, larger reads from now on. Users have a quota: pipe(7)."""
        self._enlarged = True
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.fd, _F_SETPIPE_SZ, PIPE_SIZE)

    def close(self) -> None:
        os.close(self.fd)
        if self._log:
            self._log.close()
        self.capture.close()
