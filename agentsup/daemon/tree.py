"""What a file of services names, running: a supervisor in whose tree the others are.

Each supervisor is a *branch*.  It has what it runs from which description, so an update compares
the file with what is there, not with what was asked for the last time: one that was cancelled half
way is made good by the next.

An update waits while it stops things (:meth:`Branch.clear`); then it starts the new ones in one go
(:meth:`Branch.fill`), with nothing in between at which it could be cancelled.
"""

from __future__ import annotations

import difflib
import fnmatch
import time
from typing import TYPE_CHECKING, Any, Self

import anyio
from attrs import evolve, fields, frozen

from .._errors import AgentsupError, NotReady, RestartLimitReached, SupervisorClosed
from .._levels.hold import text
from .._rules.reread import Changes, Plan, compare, supervisors_of
from .._services.sockets import OpenSockets, open_sockets
from .._tree.supervisor import Supervisor
from .._values.command import encode_argv
from .._values.state import ServiceState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from anyio.abc import TaskGroup

    from .._services.events import EventStream
    from .._services.family import Family, FamilyOptions
    from .._services.handle import ServiceHandle
    from .._values.listen import ListenSocket
    from ..config.values import Config, DaemonConfig, ServiceConfig, SupervisorConfig
    from .logs.store import LogStore

#: Seconds from the end of a supervisor that has failed to its next start.
RESTART_PAUSE = 1.0


class UnknownService(AgentsupError):
    """There is no such service. :attr:`pattern` is what was asked for."""

    def __init__(self, pattern: str, close: Sequence[str] = ()) -> None:
        super().__init__(pattern, close)
        self.pattern = pattern
        self.close = close

    def __str__(self) -> str:
        hint = f"; did you mean {' or '.join(map(repr, self.close))}?" if self.close else ""
        return f"there is no service {self.pattern!r}{hint}"


@frozen
class Status:
    """What there is to see of a service."""

    path: str
    state: str
    ready: bool
    pid: int | None
    uptime: float | None
    restarts: int
    next_start_in: float | None
    status_text: str
    autostart: bool
    groups: tuple[str, ...]
    argv: tuple[str, ...]
    #: The path of the one that it is under; empty for the root.
    supervisor: str


class Tree:
    """The services of ``config``: ``async with Tree(config, logs) as tree:``.

    Entering it starts them, and does not wait until they are ready. Leaving it stops them in
    reverse order. If the supervisor at the root fails, the block is cancelled, and raises what
    :class:`agentsup.Supervisor` does.

    :raises ValueError: the description cannot be carried out here; nothing was started.
    """

    def __init__(self, config: Config, logs: LogStore | None) -> None:
        self.config = config
        self._logs = logs
        self._one_at_a_time = anyio.Lock()
        self._supervisor = _make_supervisor(config, config.daemon)
        self._check(config)
        if logs:
            self._supervisor._make_log = logs.sink_for  # pyright: ignore[reportPrivateUsage] -- our own
        self._root = Branch("", config.daemon, config)

    async def __aenter__(self) -> Self:
        self._tasks = await anyio.create_task_group().__aenter__()
        self._root.tasks = self._tasks
        await self._supervisor.__aenter__()
        try:
            self._root.come_up(self._supervisor)
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        for branch in self._root.walk():
            branch.leaving.set()
        try:
            return await self._supervisor.__aexit__(exc_type, exc, traceback)
        finally:
            # Its tasks end with the supervisor. What that raises is not to be wrapped once more.
            await self._tasks.__aexit__(None, None, None)

    # --- what there is to see -----------------------------------------------------------------

    @property
    def failed(self) -> bool:
        """The supervisor at the root has given up."""
        return self._supervisor._failure is not None  # pyright: ignore[reportPrivateUsage] -- our own

    @property
    def services(self) -> Mapping[str, ServiceHandle | None]:
        """By their paths. None where the supervisor has never come up."""
        return {path: self._last_handle(path) for path in self._described()}

    def status(self) -> list[Status]:
        """Of all services, in the order of the file."""
        handles = self.services
        return [_status(path, one, handles[path]) for path, one in self._described().items()]

    def events(self, size: int = 1024) -> EventStream:
        """The state changes of all services from now on, by path."""
        return self._supervisor.events(size)

    def match(self, patterns: Sequence[str] = ()) -> list[str]:
        """The paths that are meant: globs, names of supervisors, ``@group``; all for none.

        :raises UnknownService: one of the patterns means none.
        """
        described = self._described()
        if not patterns:
            return list(described)
        found: set[str] = set()
        for pattern in patterns:
            meant = {path for path, one in described.items() if _is_meant(path, one, pattern)}
            if not meant:
                groups = {f"@{group}" for one in described.values() for group in one.groups}
                raise UnknownService(
                    pattern, difflib.get_close_matches(pattern, [*described, *sorted(groups)], 2)
                )
            found |= meant
        return [path for path in described if path in found]

    async def wait_tried(self) -> None:
        """Wait until the first start of each has come to something, or is not to come."""
        for branch in self._root.walk():
            await branch.up.wait()
            for handle in list(branch.handles.values()):
                await handle.tried.wait()

    # --- what there is to do ------------------------------------------------------------------

    async def start(self, path: str) -> None:
        """As :meth:`ServiceHandle.start`; a supervisor that has shut down comes up again."""
        await self._raise_up(path)
        await self._handle(path).start()

    async def stop(self, path: str) -> None:
        """As :meth:`ServiceHandle.stop`."""
        await self._handle(path).stop()

    async def restart(self, path: str) -> None:
        """As :meth:`ServiceHandle.restart`; a supervisor that has shut down comes up again."""
        await self._raise_up(path)
        await self._handle(path).restart()

    async def reload(self, path: str) -> None:
        """As :meth:`ServiceHandle.reload`."""
        await self._handle(path).reload()

    def signal(self, path: str, number: int) -> None:
        """Send it to the main process.

        :raises NotReady: there is none.
        """
        try:
            self._handle(path).send_signal(number)
        except ProcessLookupError:
            raise NotReady(path, "it does not run") from None

    def kill(self) -> None:
        """Have everything end now: what a stop still waits for, too."""
        for handle in self.services.values():
            if handle:
                handle.kill()

    def _handle(self, path: str) -> ServiceHandle:
        self.match([path])  # for its error
        handle = self._last_handle(path)
        if handle is None:
            raise NotReady(path, "its supervisor is not up")
        return handle

    async def _raise_up(self, path: str) -> None:
        self.match([path])
        for above in reversed([*supervisors_of(path)]):
            branch = self._root.find(above)
            if branch is None:
                break
            if branch.over.is_set():
                branch.parent.begin(branch)
            await branch.wait_up()

    # --- updates ------------------------------------------------------------------------------

    def compare(self, config: Config) -> Changes:
        """What :meth:`update` would do."""
        running = Plan(
            dict(self._root.made_below()),
            {
                branch.path: _settings(branch.settings)
                for branch in self._root.walk()
                if branch.path
            },
            _of_the_daemon(self.config),
        )
        supervisors = {path: _settings(one) for path, one in _supervisors(config)}
        services = {path: _as_run(one) for path, one in services_of(config)}
        return compare(running, Plan(services, supervisors, _of_the_daemon(config)))

    async def update(self, config: Config) -> Changes:
        """Make it what ``config`` describes. What is described as before is not touched.

        What is gone stops, and what has changed with what requires it or is part of it, in reverse
        order; then the new ones start. A service that has changed starts if it ran, or if it has
        ``autostart``. Sockets of those that have changed are closed and opened again. Cancelled,
        it leaves a tree that runs, and the next update goes on from there.

        :raises ValueError: it cannot be carried out here; nothing has changed.
        """
        self._check(config)
        async with self._one_at_a_time:
            changes = self.compare(config)
            if self._logs:
                self._logs.configure(config.logs, {p: one.logs for p, one in services_of(config)})
            self._root.describe(config)
            while not self._root.cleared:
                await self._root.clear()
            self._root.fill()
            # What is the daemon's own stays as it is, but for what can be taken over.
            daemon = evolve(self.config.daemon, stop_timeout=config.daemon.stop_timeout)
            self.config = evolve(config, daemon=daemon)
        return changes

    def _check(self, config: Config) -> None:
        """Raise what is wrong with it on this machine, before anything is done."""
        parts: list[tuple[DaemonConfig | SupervisorConfig, Part]] = [(config.daemon, config)]
        parts += [(one, one) for _, one in _supervisors(config)]
        for settings, part in parts:
            family = _family(_make_supervisor(config, settings))
            family.lasting = True
            services = [one.service for one in part.services.values()]
            at_rest = [one.name for one in part.services.values() if not one.autostart]
            family.check(services, at_rest=at_rest)

    # --- how ----------------------------------------------------------------------------------

    def _described(self) -> dict[str, ServiceConfig]:
        return dict(services_of(self.config))

    def _last_handle(self, path: str) -> ServiceHandle | None:
        above, _, name = path.rpartition("/")
        branch = self._root.find(above)
        return branch.handles.get(name) if branch else None


class Branch:
    """A supervisor of the tree: what it is to run, and what it runs."""

    parent: Branch
    tasks: TaskGroup  # of the tree

    def __init__(self, path: str, settings: DaemonConfig | SupervisorConfig, part: Part) -> None:
        self.path = path
        self.settings = settings
        self.branches: dict[str, Branch] = {}
        #: The last that there was of each service.
        self.handles: dict[str, ServiceHandle] = {}
        #: It has started what it is to start.
        self.up = anyio.Event()
        #: It is not to be started again.
        self.leaving = anyio.Event()
        self.over = anyio.Event()
        self.restarts = 0
        self._part = part
        self._supervisor: Supervisor | None = None
        self._made: dict[str, ServiceConfig] = {}
        self._owed: set[str] = set()  # what ran, and was stopped for an update

    def walk(self) -> Iterator[Branch]:
        yield self
        for branch in list(self.branches.values()):
            yield from branch.walk()

    def find(self, path: str) -> Branch | None:
        name, _, rest = path.partition("/")
        if not name:
            return self
        branch = self.branches.get(name)
        return branch and branch.find(rest)

    def made_below(self) -> Iterator[tuple[str, ServiceConfig]]:
        for name, one in self._made.items():
            yield self._path_of(name), _as_run(one)
        for branch in self.branches.values():
            yield from branch.made_below()

    def _path_of(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name

    @property
    def family(self) -> Family | None:
        """Of its services; None while it is down, or is going down."""
        family = _family(self._supervisor) if self._supervisor else None
        return family if family and family.open else None

    # --- its life -----------------------------------------------------------------------------

    def come_up(self, supervisor: Supervisor) -> None:
        """It has a supervisor, which is new."""
        self._supervisor = supervisor
        _family(supervisor).lasting = True
        self._made = {}
        self._owed = set()
        self.fill()
        self.up.set()

    def begin(self, branch: Branch) -> None:
        """Have one below it run, until it is told to leave, has shut down, or this one ends."""
        branch.parent, branch.tasks = self, self.tasks
        branch.up, branch.over = anyio.Event(), anyio.Event()
        self.tasks.start_soon(branch.live)

    async def live(self) -> None:
        """It is ended by the supervisors, in their order, whatever is cancelled."""
        with anyio.CancelScope(shield=True):
            try:
                while await self._live_once() and not self.leaving.is_set():
                    self.restarts += 1
            finally:
                self.up.set()
                self.over.set()

    async def _live_once(self) -> bool:
        """From its start to its end; whether it is to be started again."""
        above = self.parent._supervisor
        failure: RestartLimitReached | None = None
        try:
            if above is None:
                return False
            async with above.child(self.path.rpartition("/")[2], **_options(self.settings)) as own:
                above._arrange(self.parent.branches)  # pyright: ignore[reportPrivateUsage] -- our own
                self.come_up(own)
                await anyio.sleep_forever()
        except SupervisorClosed:
            return False  # the one above is being left
        except ExceptionGroup as group:
            [error] = group.exceptions
            if not isinstance(error, RestartLimitReached):
                raise
            failure = error
        finally:
            self._supervisor, self.up = None, anyio.Event()
            for branch in self.branches.values():
                await branch.leave()
            self.branches.clear()
        return failure is not None and await self._may_restart(failure)

    async def _may_restart(self, error: RestartLimitReached) -> bool:
        family = self.parent.family
        if family is None or not family.child_failed(self.path.rpartition("/")[2], error):
            return False
        with anyio.move_on_after(RESTART_PAUSE):
            await self.leaving.wait()
        return True

    async def wait_up(self) -> None:
        """Until it has started what it is to start, or will not; also if it is failing just now."""
        if self._supervisor and not self.family:
            await self._supervisor._over.wait()  # pyright: ignore[reportPrivateUsage] -- our own
        await self.up.wait()

    async def leave(self) -> None:
        self.leaving.set()
        if self._supervisor:
            self._supervisor._leave()  # pyright: ignore[reportPrivateUsage] -- our own
        await self.over.wait()

    # --- updates ------------------------------------------------------------------------------

    def describe(self, part: Part) -> None:
        """What it is to be from now on; if it fails meanwhile, it starts with that."""
        self._part = part
        for name, branch in self.branches.items():
            if (one := part.supervisors.get(name)) and not branch.differs(one):
                branch.describe(one)

    def differs(self, one: SupervisorConfig) -> bool:
        return _settings(self.settings) != _settings(one)

    @property
    def _gone(self) -> list[str]:
        """The services that are to be removed, or made anew."""
        new = self._part.services
        return [
            name
            for name, one in self._made.items()
            if name not in new or _as_run(new[name]) != _as_run(one)
        ]

    @property
    def _branches_gone(self) -> list[str]:
        new = self._part.supervisors
        return [
            name
            for name, branch in self.branches.items()
            if name not in new or branch.differs(new[name])
        ]

    @property
    def cleared(self) -> bool:
        """Nothing runs that is in the way."""
        family = self.family
        running = family and any(
            family.intends(handle) or not handle.idle.is_set()
            for name in self._gone
            if (handle := family.members.get(name))
        )
        return (
            not running
            and not self._branches_gone
            and all(branch.cleared for branch in self.branches.values())
        )

    async def clear(self) -> None:
        """Stop what is in the way, and what stops with that."""
        for name, branch in reversed([*self.branches.items()]):
            if name in self._branches_gone:
                await branch.leave()
                self.branches.pop(name, None)
            else:
                await branch.clear()
        if (family := self.family) and self._gone:
            stopped = family.stopping_with(self._gone)
            self._owed |= {name for name in stopped if family.intends(family.members[name])}
            await family.stop_together(stopped).wait()

    def fill(self) -> None:
        """Make and start what is lacking."""
        if family := self.family:
            self._fill(family)
        else:
            self._made = dict(self._part.services)  # which it comes up with
        for name, one in self._part.supervisors.items():
            if name in self.branches:
                self.branches[name].fill()
            elif self.family:
                self.branches[name] = Branch(self._path_of(name), one, one)
                self.begin(self.branches[name])
        order = [name for name in self._part.supervisors if name in self.branches]
        self.branches = {name: self.branches[name] for name in order}
        if self._supervisor:
            self._supervisor._arrange(order)  # pyright: ignore[reportPrivateUsage] -- our own

    def _fill(self, family: Family) -> None:
        part = self._part.services
        family.drop(self._gone)
        made = {name: self._made[name] for name in self._made if name not in self._gone}
        new = [one for name, one in part.items() if name not in made]
        at_rest = [one.name for one in new if not one.autostart and one.name not in self._owed]
        services = [one.service for one in new]
        family.add(services, opener=_open_if_possible, at_rest=at_rest, order=list(part))
        self._made = dict(part)
        self.handles = {name: family.members[name] for name in part}
        start = {one.name for one in new if one.autostart} | self._owed.intersection(part)
        self._owed = set()
        family.arrange(list(part))
        family.begin([name for name in part if name in start], patient=True)
        family.arrange(list(part))


if TYPE_CHECKING:
    Part = Config | SupervisorConfig


def _family(supervisor: Supervisor) -> Family:
    return supervisor._services()  # pyright: ignore[reportPrivateUsage] -- our own


def _make_supervisor(config: Config, settings: DaemonConfig | SupervisorConfig) -> Supervisor:
    return Supervisor(containment=config.daemon.containment, **_options(settings))


def _options(settings: DaemonConfig | SupervisorConfig) -> FamilyOptions:
    return {
        "strategy": settings.strategy,
        "max_restarts": settings.max_restarts,
        "within": settings.within,
        "auto_shutdown": settings.auto_shutdown,
    }


def _settings(settings: DaemonConfig | SupervisorConfig) -> tuple[object, ...]:
    return tuple(_options(settings).values())


def _as_run(one: ServiceConfig) -> ServiceConfig:
    """Without what can change while it runs."""
    return evolve(one, groups=())


def _of_the_daemon(config: Config) -> dict[str, Any]:
    """What takes a restart to change."""
    names = (one.name for one in fields(type(config.daemon)) if one.name != "stop_timeout")
    return {name: getattr(config.daemon, name) for name in names}


def services_of(part: Part, above: str = "") -> Iterator[tuple[str, ServiceConfig]]:
    for name, one in part.services.items():
        yield above + name, one
    for name, supervisor in part.supervisors.items():
        yield from services_of(supervisor, f"{above}{name}/")


def _supervisors(part: Part, above: str = "") -> Iterator[tuple[str, SupervisorConfig]]:
    for name, one in part.supervisors.items():
        yield above + name, one
        yield from _supervisors(one, f"{above}{name}/")


def _is_meant(path: str, one: ServiceConfig, pattern: str) -> bool:
    if pattern.startswith("@"):
        return pattern[1:] in one.groups
    return fnmatch.fnmatchcase(path, pattern) or path.startswith(f"{pattern.rstrip('/')}/")


def _open_if_possible(sockets: Sequence[ListenSocket]) -> OpenSockets:
    """One that cannot be opened fails when its service starts, and keeps no other from starting."""
    try:
        return open_sockets(sockets)
    except OSError:
        return OpenSockets([])


def _status(path: str, one: ServiceConfig, handle: ServiceHandle | None) -> Status:
    status = Status(
        path=path,
        state=ServiceState.INACTIVE.value,
        ready=False,
        pid=None,
        uptime=None,
        restarts=0,
        next_start_in=None,
        status_text="its supervisor is not up",
        autostart=one.autostart,
        groups=one.groups,
        argv=tuple(map(text, encode_argv(one.service.command))),
        supervisor=path.rpartition("/")[0],
    )
    if handle is None:
        return status
    next_start = handle.next_start
    return evolve(
        status,
        state=handle.state.value,
        ready=handle.ready,
        pid=handle.pid,
        uptime=handle.uptime,
        restarts=handle.restarts,
        next_start_in=None if next_start is None else max(0.0, next_start - time.monotonic()),
        status_text=handle.status_text,
    )
