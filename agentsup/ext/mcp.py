"""MCP's stdio transport for clients, with the server and all that it starts held by a supervisor.

:func:`stdio_client` takes the place of ``mcp.client.stdio.stdio_client``.  The program is told to
end in the same way: its input is closed, then SIGTERM, then SIGKILL.  But this goes to its whole
tree, is carried through however the block is left, and by the keeper where the host is killed.
"""

from __future__ import annotations

import codecs
import contextlib
import logging
import os
import select
import signal
import sys
import uuid
from typing import TYPE_CHECKING, TextIO, TypeAlias

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from .._calls.spec import PIPE
from .._errors import AgentsupError, SupervisorClosed
from .._rules.intensity import Intensity
from .._rules.restart import RestartRule
from .._shielded import to_the_end
from .._tree.supervisor import Supervisor
from .._values.escalation import CLOSE_STDIN, Escalation, Step
from .._values.number import seconds
from .._values.output import OutputPolicy
from .._values.restart import Ending, RestartPolicy
from ._extra import extra

with extra("mcp"):
    from mcp.client.stdio import StdioServerParameters, get_default_environment
    from mcp.shared.message import SessionMessage
    from mcp_types import jsonrpc_message_adapter

    from ._mcp_session import McpSession

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from typing import Self

    from anyio.abc import TaskStatus
    from mcp_types import JSONRPCMessage, JSONRPCRequest

    from .._calls.process import Process
    from .._calls.spec import CallOptions

__all__ = ["Connection", "StdioServerParameters", "stdio_client"]

ReadStream: TypeAlias = MemoryObjectReceiveStream[SessionMessage | Exception]
WriteStream: TypeAlias = MemoryObjectSendStream[SessionMessage]

_log = logging.getLogger("agentsup.mcp")

# As long as the SDK waits.
_FLUSH = 0.5
_ESCALATION = Escalation(Step(CLOSE_STDIN, 2.0), Step(signal.SIGTERM, 2.0))
_NO_OUTPUT_KEPT = OutputPolicy(head=0, tail=0)
_CHUNK = 256 * 1024
_STDERR_TAIL = 8 * 1024
_LAST_WORDS = 1.0  # for an end to be seen, and for what was said before it to reach errlog
#: A new server has so long to take the session over: it may have much to load.
TAKING_OVER = 60.0


class Connection(tuple[ReadStream, WriteStream]):
    """What the block is given: the two streams, and what there is to know of the server."""

    _link: _Link

    def __new__(cls, link: _Link, streams: tuple[ReadStream, WriteStream]) -> Self:
        self = super().__new__(cls, streams)
        self._link = link
        return self

    @property
    def pid(self) -> int | None:
        """The server's, or None while there is none."""
        process = self._link.process
        return process.pid if process else None

    @property
    def restarts(self) -> int:
        """How many times another server has taken the session over, or was to."""
        return self._link.restarts

    @property
    def stderr_tail(self) -> str:
        """The last 8 KiB of what the servers have said on stderr."""
        return self._link.errors.tail


@contextlib.asynccontextmanager
async def stdio_client(
    server: StdioServerParameters,
    errlog: TextIO = sys.stderr,
    *,
    supervisor: Supervisor | None = None,
    restart: RestartPolicy | None = None,
    heartbeat: float | None = None,
) -> AsyncGenerator[Connection]:
    """Start an MCP server and connect to it: ``async with stdio_client(…) as (read, write):``.

    It is the main process that is the server: whatever outlives it, is killed.

    :param server: as the SDK has it, and with the same environment.
    :param errlog: gets what the server says on stderr. Its end is also in the notes of an
        exception that leaves the block after the server has ended by itself.
    :param supervisor: holds the server; one of its own by default.
    :param restart: when a new server takes the place of one that ends, closes its output or takes
        no input any more. It gets the client's ``initialize`` again; requests in flight are
        answered with an error. Without a ``give_up`` of its own, three in five seconds are the
        most. By default, or when it is given up, the streams end as the SDK's do.
    :param heartbeat: a server that does not answer a ping for so many seconds is ended; pings are
        sent at that interval, from the client's first request on.
    :raises SpawnError: it could not be started (also the matching :exc:`OSError` subclass).
    :raises ValueError: the parameters hold a NUL byte, or the encoding is not of MCP's kind.
    """
    bound = seconds("heartbeat", heartbeat, zero=False)
    cause: BaseException | None = None
    async with Supervisor() if supervisor is None else contextlib.nullcontext(supervisor) as holder:
        link = _Link(server, errlog, restart, bound)
        async with anyio.create_task_group() as tasks:
            try:
                tasks.start_soon(link.write)
                await tasks.start(link.run, holder)
                yield link.connection
            except anyio.get_cancelled_exc_class():
                raise  # the task group knows whether it is its own
            except BaseException as exc:
                cause = exc  # past the task group, which would wrap it
            finally:
                late = await to_the_end(link.close, lambda: link.closed)
                if late is not None:
                    raise late
        cause = cause or link.failure
        if cause is not None:
            link.explain(cause)
            raise cause


class _Link:
    """The streams to the client, and the server at their other end: one after another."""

    def __init__(
        self,
        server: StdioServerParameters,
        errlog: TextIO,
        restart: RestartPolicy | None,
        heartbeat: float | None,
    ) -> None:
        if restart is not None and not isinstance(restart, RestartPolicy):  # pyright: ignore[reportUnnecessaryIsInstance] -- input
            raise TypeError(f"restart must be an agentsup.RestartPolicy, not {restart!r}")
        if "\n".encode(server.encoding) != b"\n":
            raise ValueError(
                f"server.encoding: a newline is not one byte in {server.encoding}; MCP is UTF-8"
            )
        self._server = server
        # The parser checks what it reads itself.
        self._decoded = server.encoding_error_handler != "strict" or not _is_utf8(server.encoding)
        self._heartbeat = heartbeat
        self._rule = RestartRule(restart) if restart else None
        self._intensity = Intensity(None if restart and restart.give_up else 3)
        self._session = McpSession(f"agentsup-{uuid.uuid4().hex}-")
        to_client = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        to_server = anyio.create_memory_object_stream[SessionMessage](0)
        self._inbox, read = to_client
        write, self._outbox = to_server
        self._pings = write.clone()  # in line with the client's own, so that no line is torn
        self.connection = Connection(self, (read, write))
        self.errors = _Errors(errlog)
        self.process: Process | None = None
        self.restarts = 0
        self.closed = False
        self.failure: AgentsupError | None = None
        self._scope = anyio.CancelScope()
        self._ready = anyio.Event()  # to send to a server, or to hear that there will be none
        self._talking = anyio.Event()  # the session is established
        self._written = anyio.Event()
        self._over = anyio.Event()
        self._answered = anyio.Event()  # a request of our own
        self._closing = False
        self._lost = False
        self._delivering = False
        self._complaint: str | None = None  # why the present server has to go
        self._ending: Ending | None = None  # of the last one, if nobody had told it to end

    # --- the end ------------------------------------------------------------------------------

    async def close(self) -> None:
        """Wind everything down, in bounded time. To be repeated if it is cancelled."""
        self._closing = True
        for stream in (*self.connection, self._pings):
            stream.close()
        with anyio.move_on_after(_FLUSH):
            await self._written.wait()
        if self.process:
            self.process.stop()
        else:
            self._scope.cancel()
        await self._over.wait()
        self.closed = True

    def explain(self, cause: BaseException) -> None:
        """Say in a note what had become of the server."""
        if self._ending and isinstance(cause, Exception):
            cause.add_note(f"{self._described(self._ending)}{self._last_words()}")

    def _described(self, ending: Ending) -> str:
        return f"the MCP server {self._server.command!r}: {ending}"

    def _last_words(self) -> str:
        tail = self.errors.tail.rstrip()
        return f"; the end of its stderr:\n{tail}" if tail else ", and nothing on stderr"

    # --- servers ------------------------------------------------------------------------------

    async def run(self, supervisor: Supervisor, *, task_status: TaskStatus[None]) -> None:
        """Have servers run, until there is to be no other one."""
        try:
            with self._scope:
                await self._run_first(supervisor, task_status)
        finally:
            self._inbox.close()
            self._ready.set()
            self._over.set()

    async def _run_first(self, supervisor: Supervisor, task_status: TaskStatus[None]) -> None:
        started: TaskStatus[None] | None = task_status
        while True:
            if self._rule:
                self._rule.started(anyio.current_time())
            try:
                ending = await self._run_one(supervisor, started)
            except AgentsupError as error:
                if not self._scope.shield:
                    raise  # from where the client waits for the first one
                self._ending = ending = Ending(failure=str(error))
                self.failure = error
            started = None
            if self._closing or isinstance(self.failure, SupervisorClosed):
                return
            delay = self._restart_in(ending)
            if delay is None:
                return
            self.failure = None
            await self._tell(f"{self._described(ending)}; another one is started")
            await anyio.sleep(delay)

    async def _run_one(self, supervisor: Supervisor, started: TaskStatus[None] | None) -> Ending:
        server = self._server
        options: CallOptions = {
            "stdin": PIPE,
            "env": get_default_environment() | (server.env or {}),
            "cwd": server.cwd,
            "escalation": _ESCALATION,
            "output": _NO_OUTPUT_KEPT,
        }
        words = [server.command, *server.args]
        spec = supervisor._make_spec(words, options)  # pyright: ignore[reportPrivateUsage] -- of one package
        spec.stderr_waits = True
        async with supervisor._opened(spec) as process:  # pyright: ignore[reportPrivateUsage] -- the same
            self.process = process
            try:
                if started:
                    # From now on the end is bounded, and in order: only close() brings it.
                    self._scope.shield = True
                    started.started()
                return await self._attend(process)
            finally:
                self.process = None

    async def _attend(self, process: Process) -> Ending:
        """Connect one server to the client, to its end."""
        self._complaint, self._lost = None, False
        ending = Ending()
        said_all = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.errors.forward, process, said_all)
            if (opening := self._session.opening()) is not None:
                tasks.start_soon(self._hand_over, process, opening)
            else:
                self._ready.set()
            if self._heartbeat is not None:
                tasks.start_soon(self._watch, process, self._heartbeat)
            await self._read(process)
            if not self._closing:
                await self._lose(process)
            result = await process.wait()
            ending = Ending(result.exit_code, result.signal, self._complaint)
            if self._lost:
                self._ending = ending
            with anyio.move_on_after(_LAST_WORDS):
                await said_all.wait()
            tasks.cancel_scope.cancel()
        return ending

    async def _lose(self, process: Process) -> None:
        """The connection is gone, whether the server is or not."""
        self._lost = True
        if self._rule is None:
            return self._inbox.close()
        if self._ready.is_set():
            self._ready = anyio.Event()
        # One that has ended takes what it has left with it, at once: there is nobody to ask.
        with anyio.move_on_after(_LAST_WORDS):
            await process.wait()
        process.stop()

    def _restart_in(self, ending: Ending) -> float | None:
        """Seconds, or None if there is to be no other server."""
        if self._rule is None:
            return None
        now = anyio.current_time()
        verdict = self._rule.ended(now, ending)
        if verdict.action != "restart":
            _log.warning("%s", self._described(Ending(failure=verdict.reason)))
        elif self._intensity.record(now):
            _log.warning("%s, too often: given up", self._described(ending))
        else:
            _log.warning("%s: another one is started", self._described(ending))
            self.restarts += 1
            return verdict.delay
        return None

    async def _tell(self, reason: str) -> None:
        """Answer what is in flight: nobody else will."""
        data = {"stderr": self.errors.tail}
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            for message in self._session.lost(reason, data):
                await self._inbox.send(SessionMessage(message))

    # --- messages -----------------------------------------------------------------------------

    async def _read(self, process: Process) -> None:
        """Pass on what the server says, until it says no more or the client is gone."""
        receive, session = process.stdout.receive, self._session
        pieces: list[bytes] = []  # of one line, joined once
        try:
            while True:
                chunk = await receive(_CHUNK)
                if b"\n" not in chunk:
                    pieces.append(chunk)
                    continue
                first, *lines, rest = b"".join([*pieces, chunk]).split(b"\n")
                pieces = [rest] if rest else []
                for line in (first, *lines):
                    item = self._parse(line)
                    if isinstance(item, SessionMessage):
                        message = session.received(item.message)
                        if message is None:
                            self._answered.set()
                            continue
                        item.message = message
                    await self._deliver(item)
                if session.established and not self._talking.is_set():
                    self._talking.set()
        except anyio.EndOfStream:
            pass
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            if not self._lost:
                self._closing = True  # the client is gone
        finally:
            await process.stdout.aclose()  # what else comes is drained

    def _parse(self, line: bytes) -> SessionMessage | Exception:
        try:
            text = self._decode(line) if self._decoded else line
            return SessionMessage(jsonrpc_message_adapter.validate_json(text, by_name=False))
        except ValueError as error:
            _log.exception("the MCP server has said what is no JSON-RPC message")
            return error

    def _decode(self, line: bytes) -> str:
        return line.decode(self._server.encoding, self._server.encoding_error_handler)

    async def _deliver(self, item: SessionMessage | Exception) -> None:
        try:
            self._inbox.send_nowait(item)
        except anyio.WouldBlock:
            self._delivering = True
            await self._inbox.send(item)
            self._delivering = False

    async def write(self) -> None:
        """Pass on what the client says."""
        try:
            with anyio.CancelScope(shield=True), self._outbox:
                async for item in self._outbox:
                    if not self._ready.is_set():
                        await self._ready.wait()
                    process = self.process
                    if process is None:
                        return
                    message = self._session.sent(item.message)
                    if message is None or await self._send(process, message):
                        continue
                    await self._lose(process)
                    if self._rule is None:
                        return
        finally:
            self._written.set()

    async def _send(self, process: Process, message: JSONRPCMessage) -> bool:
        """Write one line; False if the server takes no more."""
        assert process.stdin
        text = message.model_dump_json(by_alias=True, exclude_unset=True) + "\n"
        try:
            await process.stdin.send(
                text.encode(self._server.encoding, self._server.encoding_error_handler)
            )
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return False
        return True

    # --- requests of our own ------------------------------------------------------------------

    async def _hand_over(self, process: Process, opening: JSONRPCRequest) -> None:
        """Give the session to a new server, and let the client talk to it then."""
        session = self._session
        with anyio.move_on_after(TAKING_OVER):
            self._answered = anyio.Event()
            if not await self._send(process, opening):
                return
            await self._answered.wait()
            if session.opened:
                if session.initialized is not None:
                    await self._send(process, session.initialized)
                self._ready.set()
                return
        self._end(process, f"has not taken the session over: {session.answer or 'no answer'}")

    async def _watch(self, process: Process, interval: float) -> None:
        await self._talking.wait()
        await self._ready.wait()
        while True:
            await anyio.sleep(interval)
            self._answered = anyio.Event()
            with anyio.move_on_after(interval):
                try:
                    await self._pings.send(SessionMessage(self._session.ping()))
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return  # the end has begun
                await self._answered.wait()
            # While the client does not take what has come, an answer may wait behind it.
            if not self._answered.is_set() and not self._delivering and not self._lost:
                return self._end(process, f"no answer to a ping for {interval:g} s")

    def _end(self, process: Process, complaint: str) -> None:
        self._complaint = complaint
        process.stop()


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name == "utf-8"


class _Errors:
    """What servers say on stderr: passed on to ``errlog``, and the end of it kept."""

    def __init__(self, errlog: TextIO | None) -> None:
        self._errlog = errlog
        self._tail = bytearray()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        try:
            self._fd = errlog.fileno() if errlog else -1
        except (AttributeError, OSError, ValueError):  # it is closed, or is no file
            self._fd = -1

    @property
    def tail(self) -> str:
        return self._tail[-_STDERR_TAIL:].decode("utf-8", "replace")

    async def forward(self, process: Process, said_all: anyio.Event) -> None:
        assert process.stderr
        try:
            async for chunk in process.stderr:
                self._tail += chunk
                del self._tail[:-_STDERR_TAIL]
                await self._pass_on(chunk)
        finally:
            said_all.set()

    async def _pass_on(self, chunk: bytes) -> None:
        try:
            if self._fd < 0:
                if self._errlog:
                    self._errlog.write(self._decoder.decode(chunk))
                return
            left = memoryview(chunk)
            while left:
                await _writable(self._fd)
                # A pipe that is writable takes as much at once.
                with contextlib.suppress(BlockingIOError):
                    left = left[os.write(self._fd, left[: select.PIPE_BUF]) :]
        except (OSError, ValueError):
            self._fd, self._errlog = -1, None  # it is kept all the same


async def _writable(fd: int) -> None:
    """Wait until a write does not block; the event loop takes no files, which never do."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(0):
        await anyio.wait_writable(fd)
