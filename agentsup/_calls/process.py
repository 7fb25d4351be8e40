"""A running program to talk to."""

from __future__ import annotations

import collections
import contextlib
import os
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
from anyio.abc import ByteReceiveStream, ByteSendStream

from .._shielded import wait_through
from .._values.escalation import to_signal
from .._values.result import Outcome
from . import on_loop
from .capture import Lines

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from typing import Self

    from .._values.escalation import SignalLike
    from .._values.result import Result
    from .call import Call
    from .reader import Reader

QUEUE_SIZE = 256 * 1024


class OutputStream(ByteReceiveStream):
    """One output stream of a running program.

    What comes is kept for the reader up to 256 KiB. Then the tool has to wait, as with a pipe;
    but a stream that nobody has begun to read loses its oldest bytes instead, if it may.
    """

    def __init__(self, call: Call, reader: Reader, *, may_lose: bool) -> None:
        self._call = call
        self._reader = reader
        self._may_lose = may_lose
        self._queue = bytearray()
        self._news = anyio.Event()
        self._closed = False
        reader.sink = self._put

    def _put(self, chunk: memoryview) -> None:
        if self._closed:
            return
        self._queue += chunk
        self._news.set()
        if len(self._queue) >= QUEUE_SIZE:
            if self._may_lose:
                del self._queue[:-QUEUE_SIZE]
            else:
                self._call.pause(self._reader)

    def wake(self) -> None:
        """The stream may have ended."""
        if self._reader not in self._call.readers:
            self._news.set()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """The next bytes, at least one; :exc:`anyio.EndOfStream` when there are no more."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        self._may_lose = False
        while not self._queue:
            if self._closed:
                raise anyio.ClosedResourceError
            if self._reader not in self._call.readers:
                raise anyio.EndOfStream
            self._news = anyio.Event()
            await self._news.wait()
        data = bytes(self._queue[:max_bytes])
        del self._queue[:max_bytes]
        if len(self._queue) < QUEUE_SIZE:
            self._call.resume(self._reader)
        return data

    async def aclose(self) -> None:
        """Read no more. The program can go on printing: it is kept as for ``run``, or dropped."""
        self._closed = True
        self._queue.clear()
        self._news.set()
        self._call.resume(self._reader)


class InputStream(ByteSendStream):
    """The pipe to a running program's standard input."""

    def __init__(self, call: Call) -> None:
        self._call = call
        # Whoever waits in send() is woken, also where an escalation closes the pipe.
        call.before_stdin_closes = lambda: anyio.notify_closing(call.stdin_fd)

    async def send(self, item: bytes) -> None:
        """Write all of ``item``.

        :raises anyio.BrokenResourceError: the program does not read any more.
        :raises anyio.ClosedResourceError: it was closed here.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        left = memoryview(item)
        while left:
            fd = self._call.stdin_fd
            if fd < 0:
                raise anyio.ClosedResourceError
            try:
                left = left[os.write(fd, left) :]
            except BlockingIOError:
                await anyio.wait_writable(fd)
            except BrokenPipeError:
                raise anyio.BrokenResourceError from None

    async def aclose(self) -> None:
        """Close the pipe: the program reads the end of its input."""
        self._call.close_stdin()


class Process:
    """A running program, as :meth:`Supervisor.open` gives it."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._started = anyio.Event()
        self._over = anyio.Event()
        self._failure: BaseException | None = None
        #: The pipe to its standard input with ``stdin=PIPE``, else None.
        self.stdin: InputStream | None = InputStream(call) if call.stdin_fd >= 0 else None
        streams = [
            OutputStream(call, reader, may_lose=index > 0 and not call.spec.stderr_waits)
            for index, reader in enumerate(call.readers)
        ]
        self._streams = streams
        #: Its standard output. 256 KiB that nobody reads, and it has to wait.
        self.stdout: OutputStream = streams[0]
        #: Its standard error, or None with ``merge_stderr``. It never has to wait because nobody
        #: reads this: before the first ``receive`` only the last 256 KiB are kept.
        self.stderr: OutputStream | None = streams[1] if len(streams) > 1 else None

    @classmethod
    @contextlib.asynccontextmanager
    async def supervise(cls, call: Call) -> AsyncGenerator[Process]:
        """Drive ``call``, which has been sent, in the background of the block; end it with it."""
        process = cls(call)
        call.on_change = process._on_change
        cause: BaseException | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(process._drive, tasks.cancel_scope)
            try:
                await process._started.wait()
                if call.error is not None:
                    raise call.error
                yield process
            except anyio.get_cancelled_exc_class():
                raise  # the task group knows whether it is its own
            except BaseException as exc:
                cause = exc  # past the task group, which would wrap it
            finally:
                if not call.rule.adopting:  # it then stays with the supervisor
                    call.stop(Outcome.STOPPED)
                await wait_through(process._over)
        cause = process._failure or cause or call.error
        if cause is not None:
            raise cause

    async def _drive(self, scope: anyio.CancelScope) -> None:
        try:
            with anyio.CancelScope(shield=True):
                if self._call.ask is None:
                    await on_loop.drive(self._call)
                else:
                    await on_loop.drive_and_ask(self._call, self._call.ask)
        except BaseException as exc:
            if not isinstance(exc, anyio.get_cancelled_exc_class()):
                self._failure = exc  # of a line callback: it ends the block, and comes out of it
                scope.cancel()
            await on_loop.finish(self._call, exc)
        finally:
            if self._call.observer and self._call.rule.outcome is not Outcome.STOPPED:
                self._call.observer.ended_by_itself()
            self._over.set()
            self._on_change()

    def _on_change(self) -> None:
        if self._call.pid is not None or self._call.result_ready:
            self._started.set()
        for stream in self._streams:
            stream.wake()

    @property
    def pid(self) -> int:
        """The main process."""
        assert self._call.pid is not None
        return self._call.pid

    async def wait(self) -> Result:
        """Wait for its end, which closes no stream, and return what came of it.

        What is not read may keep the program from ending. The output in the result is head and
        tail, as for ``run``, whatever was read here.
        """
        await self._over.wait()
        if self._call.error is not None:
            raise self._call.error
        return self._call.result()

    def send_signal(self, number: SignalLike) -> None:
        """Signal the main process.

        :raises ProcessLookupError: it has ended.
        """
        self._call.signal_main(to_signal("number", number))

    def stop(self) -> None:
        """Begin to end the tree by its escalation; :meth:`wait` says when that is done."""
        self._call.stop(Outcome.STOPPED)

    def lines(self) -> LineIterator:
        """The lines of its standard output, without their ends: ``async for line in …``.

        UTF-8, with U+FFFD for what is not. A line of more than 64 KiB comes in pieces.
        """
        return LineIterator(self.stdout)


class LineIterator:
    """The lines of a stream. Not a generator: one that is left early would have to be closed."""

    def __init__(self, stream: OutputStream) -> None:
        self._stream = stream
        self._ready: collections.deque[str] = collections.deque()
        self._splitter = Lines("stdout", lambda _, line: self._ready.append(line))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while not self._ready:
            try:
                self._splitter.feed(await self._stream.receive())
            except anyio.EndOfStream:
                self._splitter.close()
                if not self._ready:
                    raise StopAsyncIteration from None
        return self._ready.popleft()
