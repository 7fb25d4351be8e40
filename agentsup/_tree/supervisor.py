"""The supervisor on an event loop: it owns calls and services, and nothing outlives it."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
import types
from typing import TYPE_CHECKING, Literal, Self, overload

import anyio
from attrs import evolve, field, frozen

from .._calls import on_loop
from .._calls.process import Process
from .._calls.spec import PIPE, call_spec, find_workspace, make_spec
from .._errors import SupervisorClosed
from .._levels import AUTO, choose
from .._levels.hold import text
from .._platform import require_platform
from .._shielded import to_the_end
from .._telemetry import observed
from .._values.heartbeat import CallableHeartbeat
from .._values.number import whole
from .._values.result import Containment, Outcome
from .job import KEEP_LEAST, Job, Jobs

if sys.platform != "win32":  # there this can be imported, and require_platform() says the rest
    from .._calls.call import Call

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
    from types import TracebackType
    from typing import Unpack

    from anyio.abc import TaskGroup

    from .._calls.reader import Sink
    from .._calls.spec import CallOptions, MakeHold, Spec
    from .._services.events import EventStream
    from .._services.family import Family, FamilyOptions
    from .._services.handle import ServiceHandle
    from .._values.command import CommandLike, Word
    from .._values.result import Leftover, Result
    from .._values.service import Service
    from .._values.state import ServiceEvent, ServiceState


@frozen
class Node:
    """A line of :meth:`Supervisor.tree`."""

    name: str
    #: ``"service"``, ``"supervisor"``, ``"call"``, ``"job"``, or ``"adopted"`` for what a call left
    #: running with ``leftovers="adopt"``.
    kind: Literal["service", "supervisor", "call", "job", "adopted"]
    #: The main process, or None in the first second of a ``run``, and where none runs. Where
    #: something was adopted, it has ended.
    pid: int | None
    argv: tuple[str, ...]
    #: What was adopted and runs now.
    adopted: tuple[Leftover, ...] = ()
    #: Of a supervisor: what it has.
    children: tuple[Node, ...] = ()
    #: Of a service.
    state: ServiceState | None = None
    status_text: str = ""
    restarts: int = 0
    #: Seconds since it became active.
    uptime: float | None = None
    _stop: Callable[[], object] = field(repr=False, alias="stop", eq=False, kw_only=True)

    def stop(self) -> None:
        """Begin to end it by its own escalation. Its owner, a task or the supervisor, goes on."""
        self._stop()


class Supervisor:
    """Runs tool processes, and holds them: ``async with agentsup.Supervisor() as sup:``.

    Leaving the block stops what is still there, each tree by its own escalation, and waits until
    it is gone, also when the block ends by an exception or is cancelled.

    :param max_concurrency: how many calls may run at a time; more of them wait in line, first
        come first served. The time in line is ``result.queued`` and counts against no timeout.
    :param containment: the level to hold processes with, or ``"auto"`` for the strongest that
        costs nothing. A level that is not to be had is an error.
    :param workspace: the directory that whatever it starts begins in, or in one below it: another
        ``cwd`` is an error, and a relative one is relative to it. It is no sandbox: a program may
        go elsewhere.
    :param max_jobs: how many may run in the :meth:`background` at a time.
    :param strategy: which services restart when one of them has to: ``"one_for_one"``: that one;
        ``"one_for_all"``: all; ``"rest_for_one"``: that one and those started after it;
        ``"simple_one_for_one"``: that one, and all of them are made from ``template``. With the
        second and the third, they start one after another, and stop in reverse.
    :param max_restarts: of all its services, ``within`` so many seconds. One more, and it stops
        them all in reverse order and fails: its block is cancelled, and raises an exception group
        with a :exc:`RestartLimitReached`.
    :param auto_shutdown: leave the block when ``"any_significant"`` service has ended for good, or
        when ``"all_significant"`` ones have; ``"never"`` by default.
    :param template: the service that :meth:`start_child` makes others from.
    """

    def __init__(
        self,
        *,
        max_concurrency: int | None = None,
        containment: Containment | Literal["auto"] = "auto",
        max_jobs: int | None = 64,
        workspace: str | bytes | os.PathLike[str] | None = None,
        **options: Unpack[FamilyOptions],
    ) -> None:
        limit = whole("max_concurrency", max_concurrency, "calls", least=1)
        self._level = choose(containment)
        self._make_hold: MakeHold | None = None
        #: Makes what is told of all that a service of this name prints, in this run or call.
        self._make_log: Callable[[str, Call], Callable[[str], Sink]] | None = None
        self._limit = limit
        self._options = options
        self._family: Family | None = None
        self._children: dict[str, Supervisor] = {}
        self._parent: tuple[Supervisor, str] | None = None
        self._failure: Exception | None = None
        self._turns: anyio.Semaphore | None = None
        self._calls: dict[Call, anyio.Event] = {}
        self._tasks: TaskGroup | None = None
        self._scopes = contextlib.AsyncExitStack()
        self._open = False
        self._workspace = find_workspace(workspace)
        self._jobs = Jobs(whole("max_jobs", max_jobs, "jobs", least=1) or sys.maxsize)
        if options:
            self._services()  # for its errors

    async def __aenter__(self) -> Self:
        require_platform(self._level)
        if self._tasks is not None:
            raise RuntimeError("a Supervisor can be entered only once")
        if self._limit is not None:
            self._turns = anyio.Semaphore(self._limit, fast_acquire=True)
        self._over = anyio.Event()
        self._scope = self._scopes.enter_context(anyio.CancelScope())
        self._tasks = await self._scopes.enter_async_context(anyio.create_task_group())
        if self._family:
            self._family.tasks = self._tasks
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
        late = await to_the_end(self._end_all, self._all_ended)
        cancelled = isinstance(exc, anyio.get_cancelled_exc_class())
        try:
            # What else the block has raised is not given to the task group, which would wrap it.
            given = (exc_type, exc, traceback) if cancelled else (None, None, None)
            swallowed = await self._scopes.__aexit__(*given) and cancelled
        finally:
            self._over.set()
            self._jobs.close()
        if late is not None:
            raise late
        if self._failure is not None:
            others = [exc] if isinstance(exc, Exception) else []
            raise ExceptionGroup("a supervisor has failed", [self._failure, *others])
        return swallowed

    async def _end_all(self) -> None:
        for child in reversed(list(self._children.values())):
            child._leave()
            await child._over.wait()
        if self._family:
            await self._family.close()
        for event in list(self._calls.values()):
            await event.wait()

    def _all_ended(self) -> bool:
        family_closed = self._family is None or self._family.closed
        children_closed = all(child._over.is_set() for child in self._children.values())
        return family_closed and children_closed and not self._calls

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
        :param heartbeat: by what its progress is known; without any in time it is stopped with
            ``Outcome.HEARTBEAT_LOST``.
        :param grace: seconds between SIGTERM to the whole tree and SIGKILL to what is left of it.
        :param escalation: other steps than that; ``grace`` is then not used.
        :param stdin: bytes, an open file or descriptor, or an async iterable of bytes; nothing
            (``/dev/null``) by default.
        :param cwd: the directory to run it in.
        :param env: its whole environment, instead of this process's; ``"minimal"`` for that without
            what it need not know: only PATH, HOME, the user's name, the locale and the like.
        :param extend_env: variables to add to that.
        :param secrets: more variables, whose values are masked in the result, line by line. They
            are refused in ``command``, where everybody on the machine could read them. Files, line
            callbacks and the streams of :meth:`open` get what the program has printed.
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
        spec = self._call_spec(command, options)
        if spec.stdin is PIPE:
            raise ValueError("stdin=PIPE is for open(); run() takes bytes, a file or an iterable")
        if hasattr(spec.stdin, "__aiter__"):
            source, spec.stdin = spec.stdin, PIPE
            async with self._opened(spec) as process:
                result = await _wait_fed(process, source)
        else:
            result = await self._run(Call(spec))
        return result.check() if check else result

    def _make_spec(self, command: CommandLike, options: CallOptions) -> Spec:
        return make_spec(command, options, self._level, self._make_hold, self._workspace)

    def _service_spec(self, command: CommandLike, options: CallOptions) -> Spec:
        spec = self._make_spec(command, options)
        if self._make_log:
            spec.make_log = functools.partial(self._make_log, spec.name)
        return spec

    def _call_spec(self, command: CommandLike, options: CallOptions) -> Spec:
        return call_spec(command, options, self._level, self._make_hold, self._workspace)

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
        spec = self._call_spec(command, options)
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

    # --- jobs ---------------------------------------------------------------------------------

    async def background(
        self,
        command: CommandLike,
        *,
        keep_output: int = 16 * 1024**2,
        **options: Unpack[CallOptions],
    ) -> Job:
        """Start ``command`` in the background, and return as soon as it runs.

        It runs on, whatever becomes of the task that has started it, until it ends, is stopped, or
        the supervisor is left. Takes what :meth:`run` takes, and no turn of ``max_concurrency``.
        Its time limits hold, and there is none by default. What its main process leaves running is
        killed.

        :param keep_output: bytes of its output that are kept on disk, the last ones; at least
            64 KiB.
        :raises SpawnError: it could not be started, or ``max_jobs`` run already.
        :raises SupervisorClosed: the block has been left.
        """
        keep = whole("keep_output", keep_output, "bytes", least=KEEP_LEAST)
        if keep is None:
            raise TypeError("keep_output must be a number of bytes, not None")
        spec = self._call_spec(command, options)
        if spec.terms.adopt:
            raise ValueError("leftovers='adopt' is for run() and open(): start what is to stay")
        if spec.stdin is PIPE or hasattr(spec.stdin, "__aiter__"):
            raise ValueError("stdin of background() is bytes or a file: nobody is there to feed it")
        if spec.output.on_line is not None:
            raise ValueError("output.on_line is for run() and open(); a job's output is read")
        if isinstance(spec.heartbeat, CallableHeartbeat):
            raise TypeError("heartbeat of background() cannot be a CallableHeartbeat")
        spec.output = evolve(spec.output, merge_stderr=True)
        self._check_open()
        self._jobs.check()
        job = self._jobs.add(Call(spec, eager=True), keep)
        observer = observed(job.call)  # which hears of its end in _hold()
        try:
            await job.begin(self._host)
        except BaseException as error:
            self._jobs.remove(job)
            observer.__exit__(type(error), error, error.__traceback__)
            raise
        return job

    @property
    def jobs(self) -> Mapping[str, Job]:
        """By their ids, in the order in which they were started: those that run, and the last
        64 that have ended."""
        return types.MappingProxyType(self._jobs.by_id)

    # --- services -----------------------------------------------------------------------------

    @overload
    async def start(self, service: Service, /) -> ServiceHandle: ...
    @overload
    async def start(
        self, service: Service, another: Service, /, *more: Service
    ) -> tuple[ServiceHandle, ...]: ...

    async def start(self, *services: Service) -> ServiceHandle | tuple[ServiceHandle, ...]:
        """Start a service and wait until it is ready; it then runs until the block is left.

        Several are started in parallel, as far as their order allows. If one of them does not
        become ready, none stays. From then on, each is restarted by its own rule.

        :raises SpawnError: its program cannot be started.
        :raises NotReady: it has ended, or its ``start_timeout`` was over, before it was ready.
        :raises ValueError: two have the same name, or one names a sibling that there is not.
        :raises SupervisorClosed: the block has been left.
        """
        family = self._services(new=True)
        handles = family.add(services)
        await family.start(handles)
        return handles[0] if len(handles) == 1 else tuple(handles)

    @overload
    def start_soon(self, service: Service, /) -> ServiceHandle: ...
    @overload
    def start_soon(
        self, service: Service, another: Service, /, *more: Service
    ) -> tuple[ServiceHandle, ...]: ...

    def start_soon(self, *services: Service) -> ServiceHandle | tuple[ServiceHandle, ...]:
        """As :meth:`start`, but without waiting: a start that fails is tried again by its rule."""
        family = self._services(new=True)
        handles = family.add(services)
        family.begin([handle.name for handle in handles], patient=True)
        return handles[0] if len(handles) == 1 else tuple(handles)

    async def start_child(self, *words: Word, name: str | None = None) -> ServiceHandle:
        """With ``strategy="simple_one_for_one"``: start one more service from the template.

        :param words: arguments to add to its command.
        :param name: what to call it; the template's name and a number by default.
        """
        family = self._services(new=True)
        handle = family.add_from_template(words, name)
        await family.start([handle])
        return handle

    @contextlib.asynccontextmanager
    async def child(
        self,
        name: str,
        *,
        max_concurrency: int | None = None,
        max_jobs: int | None = 64,
        **options: Unpack[FamilyOptions],
    ) -> AsyncGenerator[Supervisor]:
        """A supervisor below this one: ``async with sup.child("workers") as workers:``.

        Takes what :class:`Supervisor` takes, but has the containment and workspace of this one.
        Its failure comes out of its block, for whoever has opened it to handle or to pass on. It
        is left at the latest when this one is.
        """
        self._check_open()
        if not isinstance(name, str) or not name or "/" in name:  # pyright: ignore[reportUnnecessaryIsInstance] -- input
            raise ValueError(f"name must be a name without a slash, not {name!r}")
        if name in self._children:
            raise ValueError(f"name: there is a supervisor {name!r} already")
        child = Supervisor(
            max_concurrency=max_concurrency,
            max_jobs=max_jobs,
            containment=self._level,
            **options,
        )
        child._make_hold, child._workspace = self._make_hold, self._workspace
        if make_log := self._make_log:
            child._make_log = lambda service, call: make_log(f"{name}/{service}", call)
        child._parent = self, name
        self._children[name] = child
        try:
            async with child:
                yield child
        finally:
            del self._children[name]

    def _arrange(self, names: Iterable[str]) -> None:
        """Of those below this one, these end in the reverse of this order."""
        for name in names:
            if child := self._children.pop(name, None):
                self._children[name] = child

    def service(self, name: str) -> ServiceHandle:
        """The service of this name; KeyError if there is none."""
        return self._services().members[name]

    def events(self, size: int = 1024) -> EventStream:
        """The state changes of all services from now on: ``async for event in sup.events():``.

        :param size: how many may wait to be read. Then the oldest are lost, and counted.
        """
        return self._services().events.listen(size)

    def _services(self, *, new: bool = False) -> Family:
        """What holds them, made when it is first needed."""
        if new:
            self._check_open()
        if self._family is None:
            from .._services.family import Family

            self._family = Family(
                self._service_spec,
                self._options,
                fail=self._fail,
                shut_down=self._leave,
                pass_on=self._pass_on,
            )
            if self._tasks is not None:
                self._family.tasks = self._tasks
        return self._family

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._leave()

    def _leave(self) -> None:
        self._scope.cancel()

    def _pass_on(self, event: ServiceEvent) -> None:
        if self._parent:
            parent, name = self._parent
            parent._services().emit(evolve(event, service=f"{name}/{event.service}"))

    # --- what there is ------------------------------------------------------------------------

    def tree(self) -> tuple[Node, ...]:
        """What there is now: services, supervisors below this one, calls with the jobs among them,
        and what was adopted."""
        services = self._family.members.values() if self._family else ()
        jobs = {job.call for job in self._jobs.by_id.values()}
        return (
            *map(_service_node, services),
            *(child._node(name) for name, child in self._children.items()),
            *(_call_node(call, "job" if call in jobs else "call") for call in self._calls),
        )

    def _node(self, name: str) -> Node:
        return Node(
            name=name,
            kind="supervisor",
            pid=None,
            argv=(),
            children=self.tree(),
            stop=self._leave,
        )

    @contextlib.asynccontextmanager
    async def _turn(self, call: Call) -> AsyncGenerator[None]:
        """Own ``call`` for the time of the block, which begins when it is its turn."""
        self._check_open()
        with observed(call):
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

    async def _host(self, call: Call, over: anyio.Event | None = None) -> anyio.Event:
        """Start it, and carry it on in the background to its end, which the event tells."""
        self._check_open()
        assert self._tasks
        over = self._calls[call] = over or anyio.Event()
        try:
            await on_loop.start(call)
        except BaseException:
            self._calls.pop(call).set()
            raise
        self._tasks.start_soon(self._hold, call)
        return over

    def _adopt(self, call: Call) -> None:
        assert self._tasks
        if not self._open:
            call.stop(Outcome.STOPPED)
        self._tasks.start_soon(self._hold, call)

    async def _hold(self, call: Call) -> None:
        """Carry it on, or an adopted tree, until it ends: its output has to be read."""
        try:
            with anyio.CancelScope(shield=True):
                while not call.finished:
                    with contextlib.suppress(anyio.get_cancelled_exc_class()):
                        await on_loop.drive(call, to_the_end=True)
        finally:
            self._calls.pop(call).set()  # first: a line callback may raise in close()
            call.close()
            if call.observer:
                call.observer.ended_by_itself()

    def _check_open(self) -> None:
        if not self._open:
            state = "has been left" if self._tasks else "has not been entered: use 'async with'"
            raise SupervisorClosed(f"this Supervisor {state}")


def _call_node(call: Call, kind: Literal["call", "job"]) -> Node:
    return Node(
        name=call.spec.name,
        kind="adopted" if call.rule.adopting else kind,
        pid=call.pid,
        argv=tuple(map(text, call.spec.argv)),
        adopted=call.adopted(),
        stop=lambda: call.stop(Outcome.STOPPED),
    )


def _service_node(handle: ServiceHandle) -> Node:
    return Node(
        name=handle.name,
        kind="service",
        pid=handle.pid,
        argv=tuple(map(text, handle.spec.argv)),
        state=handle.state,
        status_text=handle.status_text,
        restarts=handle.restarts,
        uptime=handle.uptime,
        stop=handle.stop_soon,
    )


async def run(
    command: CommandLike, *, check: bool = False, **options: Unpack[CallOptions]
) -> Result:
    """Run ``command`` under a supervisor of its own.

    Takes and raises what :meth:`Supervisor.run` does, but ``leftovers="adopt"``: there is nothing
    that could hold what is adopted.
    """
    require_platform(AUTO)
    spec = call_spec(command, options)
    refuse_adoption(spec)
    if hasattr(spec.stdin, "__aiter__") or spec.stdin is PIPE:
        async with Supervisor() as supervisor:
            return await supervisor.run(command, check=check, **options)
    call = Call(spec)
    with observed(call):
        result = await on_loop.run(call)
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
