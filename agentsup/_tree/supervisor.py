"""The supervisor on an event loop: it owns calls, and nothing of them outlives it."""

from __future__ import annotations

import contextlib
import inspect
import sys
from typing import TYPE_CHECKING, Literal, Self

import anyio
from attrs import field, frozen

from .._calls import on_loop
from .._calls.process import Process
from .._calls.spec import PIPE, make_spec
from .._errors import SupervisorClosed
from .._levels import AUTO, choose
from .._platform import require_platform
from .._values.number import whole
from .._values.result import Containment, Outcome

if sys.platform != "win32":  # there this can be imported, and require_platform() says the rest
    from .._calls.call import Call

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable
    from types import TracebackType
    from typing import Unpack

    from anyio.abc import TaskGroup

    from .._calls.spec import CallOptions, Spec
    from .._values.command import CommandLike
    from .._values.result import Leftover, Result


@frozen
class Node:
    """A line of :meth:`Supervisor.tree`."""

    name: str
    #: ``"call"``, or ``"adopted"`` for what a call left running with ``leftovers="adopt"``.
    kind: Literal["call", "adopted"]
    #: The main process, or None in the first second of a ``run``. Where something was adopted, it
    #: has ended.
    pid: int | None
    argv: tuple[str, ...]
    #: What was adopted and runs now.
    adopted: tuple[Leftover, ...]
    _call: Call = field(repr=False, alias="call")

    def stop(self) -> None:
        """Begin to end it by its own escalation. Its owner, a task or the supervisor, goes on."""
        self._call.stop(Outcome.STOPPED)


class Supervisor:
    """Runs tool processes, and holds them: ``async with agentsup.Supervisor() as sup:``.

    Leaving the block stops what is still there, each tree by its own escalation, and waits until
    it is gone, also when the block ends by an exception or is cancelled.

    :param max_concurrency: how many calls may run at a time; more of them wait in line, first
        come first served. The time in line is ``result.queued`` and counts against no timeout.
    :param containment: the level to hold processes with, or ``"auto"`` for the strongest that
        costs nothing. A level that is not to be had is an error.
    """

    def __init__(
        self,
        *,
        max_concurrency: int | None = None,
        containment: Containment | Literal["auto"] = "auto",
    ) -> None:
        limit = whole("max_concurrency", max_concurrency, "calls", least=1)
        self._level = choose(containment)
        self._limit = limit
        self._turns: anyio.Semaphore | None = None
        self._calls: dict[Call, anyio.Event] = {}
        self._tasks: TaskGroup | None = None
        self._open = False

    async def __aenter__(self) -> Self:
        require_platform(self._level)
        if self._tasks is not None:
            raise RuntimeError("a Supervisor can be entered only once")
        if self._limit is not None:
            self._turns = anyio.Semaphore(self._limit, fast_acquire=True)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._tasks
        self._open = False
        for call in list(self._calls):
            call.stop(Outcome.STOPPED)
        late: BaseException | None = None
        with anyio.CancelScope(shield=True):
            for event in list(self._calls.values()):
                try:
                    await on_loop.wait_through(event)
                except anyio.get_cancelled_exc_class() as exc:
                    late = exc
        # Not given to the task group, which would wrap what the block itself has raised.
        await self._tasks.__aexit__(None, None, None)
        if late is not None:
            raise late
        return None

    async def run(
        self,
        command: CommandLike,
        *,
        check: bool = False,
        **options: Unpack[CallOptions],
    ) -> Result:
        """Run ``command`` to its end and return what came of it, whatever that was.

        Cancelled, it stops the whole tree and reaps it before the cancellation goes on; what the
        call had come to is then to be had from :func:`agentsup.last_partial`.

        :param command: a sequence of words, or :func:`agentsup.shell`.
        :param timeout: seconds until it is stopped with ``Outcome.TIMED_OUT``.
        :param idle_timeout: seconds without output until it is stopped with ``Outcome.IDLE``.
        :param grace: seconds between SIGTERM to the whole tree and SIGKILL to what is left of it.
        :param escalation: other steps than that; ``grace`` is then not used.
        :param stdin: bytes, an open file or descriptor, or an async iterable of bytes; nothing
            (``/dev/null``) by default.
        :param cwd: the directory to run it in.
        :param env: its whole environment, instead of this process's.
        :param extend_env: variables to add to that.
        :param limits: what it may use.
        :param output: what is kept of what it prints.
        :param user: the name or number of the user to run it as, with that user's groups; takes
            root, as ``group`` and ``extra_groups`` do.
        :param group: another group than the user's own. Without ``user``, no others are kept.
        :param extra_groups: other supplementary groups than the user's own.
        :param umask: permissions that its files are not to have; the host's own by default.
        :param no_new_privs: let no setuid program in it take effect; anybody may ask for that.
        :param capabilities: the names of all that it may ever have (capabilities(7)), ``()`` for
            none. A bound: it gives none to a user who has none. Takes root.
        :param leftovers: ``"kill"`` what outlives the main process, or ``"adopt"`` it: it then
            runs on, in :meth:`tree`, until it ends, is stopped, or the supervisor is left.
        :param check: raise :exc:`ToolFailed` unless it exited with status 0.
        :param name: what to call it; the program's name by default.
        :raises SpawnError: it could not be started (also the matching :exc:`OSError` subclass).
        :raises ToolFailed: with ``check``.
        :raises KeeperLost: the keeper died; what it had started was killed.
        :raises SupervisorClosed: the block has been left.
        """
        spec = make_spec(command, options, self._level)
        if spec.stdin is PIPE:
            raise ValueError("stdin=PIPE is for open(); run() takes bytes, a file or an iterable")
        if hasattr(spec.stdin, "__aiter__"):
            source, spec.stdin = spec.stdin, PIPE
            async with self._opened(spec) as process:
                result = await _wait_fed(process, source)
        else:
            result = await self._run(Call(spec))
        return result.check() if check else result

    async def _run(self, call: Call) -> Result:
        async with self._turn(call):
            try:
                return await on_loop.run(call)
            finally:
                if call.rule.adopting and self._tasks:
                    self._adopt(call)

    @contextlib.asynccontextmanager
    async def open(
        self, command: CommandLike, **options: Unpack[CallOptions]
    ) -> AsyncGenerator[Process]:
        """Run ``command`` and talk to it meanwhile: ``async with sup.open(…) as process:``.

        Takes what :meth:`run` takes, and ``stdin=agentsup.PIPE``. Leaving the block stops the
        tree. Time limits and escalation run in the background, whatever the block does.
        """
        spec = make_spec(command, options, self._level)
        if hasattr(spec.stdin, "__aiter__"):
            raise ValueError("stdin of open() is bytes, a file or agentsup.PIPE; send to a PIPE")
        async with self._opened(spec) as process:
            yield process

    @contextlib.asynccontextmanager
    async def _opened(self, spec: Spec) -> AsyncGenerator[Process]:
        call = Call(spec, eager=True)
        async with self._turn(call):
            await on_loop.start(call)
            try:
                async with Process.supervise(call) as process:
                    yield process
            finally:
                if call.rule.adopting and self._tasks:
                    self._adopt(call)
                else:
                    call.close()

    def tree(self) -> tuple[Node, ...]:
        """What is running now: calls in flight, and what was adopted."""
        return tuple(
            Node(
                name=call.spec.name,
                kind="adopted" if call.rule.adopting else "call",
                pid=call.pid,
                argv=tuple(word.decode("utf-8", "replace") for word in call.spec.argv),
                adopted=call.adopted(),
                call=call,
            )
            for call in self._calls
        )

    @contextlib.asynccontextmanager
    async def _turn(self, call: Call) -> AsyncGenerator[None]:
        """Own ``call`` for the time of the block, which begins when it is its turn."""
        self._check_open()
        if self._turns is not None:
            queued_at = anyio.current_time()
            await self._turns.acquire()
            call.queued = anyio.current_time() - queued_at
        try:
            self._check_open()
            over = self._calls[call] = anyio.Event()
            try:
                yield
            finally:
                if not call.rule.adopting:
                    self._calls.pop(call, None)
                    over.set()
        finally:
            if self._turns is not None:
                self._turns.release()

    def _adopt(self, call: Call) -> None:
        assert self._tasks
        if not self._open:
            call.stop(Outcome.STOPPED)
        self._tasks.start_soon(self._hold, call)

    async def _hold(self, call: Call) -> None:
        """Carry an adopted tree on until it ends: its output has to be read."""
        try:
            with anyio.CancelScope(shield=True):
                while not call.finished:
                    with contextlib.suppress(anyio.get_cancelled_exc_class()):
                        await on_loop.drive(call, to_the_end=True)
        finally:
            call.close()
            self._calls.pop(call).set()

    def _check_open(self) -> None:
        if not self._open:
            state = "has been left" if self._tasks else "has not been entered: use 'async with'"
            raise SupervisorClosed(f"this Supervisor {state}")


async def run(
    command: CommandLike, *, check: bool = False, **options: Unpack[CallOptions]
) -> Result:
    """Run ``command`` under a supervisor of its own.

    Takes and raises what :meth:`Supervisor.run` does, but ``leftovers="adopt"``: there is nothing
    that could hold what is adopted.
    """
    require_platform(AUTO)
    spec = make_spec(command, options)
    refuse_adoption(spec)
    if hasattr(spec.stdin, "__aiter__") or spec.stdin is PIPE:
        async with Supervisor() as supervisor:
            return await supervisor.run(command, check=check, **options)
    result = await on_loop.run(Call(spec))
    return result.check() if check else result


def refuse_adoption(spec: Spec) -> None:
    if spec.terms.adopt:
        raise ValueError("leftovers='adopt' needs an agentsup.Supervisor that they can stay with")


async def _wait_fed(process: Process, source: AsyncIterable[bytes]) -> Result:
    """Feed it until it ends, whether it has read all of that or not."""
    result: Result | None = None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_feed, process, source)
            result = await process.wait()
            tasks.cancel_scope.cancel()
    except ExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise
    assert result
    return result


async def _feed(process: Process, source: AsyncIterable[bytes]) -> None:
    assert process.stdin
    try:
        async for chunk in source:
            await process.stdin.send(chunk)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass
    finally:
        if inspect.isasyncgen(source):
            await source.aclose()  # nobody else can, and it may be in the middle
    await process.stdin.aclose()
