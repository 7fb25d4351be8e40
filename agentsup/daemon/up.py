"""The life of ``agentsup up``: from its file to its end.

It keeps no file of its pid, and nothing has to be put in order after a kill -9: the kernel lets go
of the lock, the keeper ends what ran, and what is left of a socket is replaced.

==============  ==========================================================================
signal          what comes of it
==============  ==========================================================================
TERM, INT, QUIT the services stop in reverse order; a second one kills what is left
HUP             the file is read again, and what has changed in it is carried out
USR1            the logs go on in new files
CHLD            as PID 1: what has come to it as an orphan, and has ended, is reaped
==============  ==========================================================================
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
import select
import signal
import time
from typing import TYPE_CHECKING, cast

import anyio
import anyio.lowlevel

from .. import notify
from .._errors import AgentsupError, CheckpointInUse
from .._signals import Arrivals
from ..checkpoint.lock import Claim
from ..config import load
from .control import make_app
from .logs.store import LogStore
from .server import TcpListener, read_token, serve
from .tree import Tree, services_of

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from anyio.abc import TaskGroup, TaskStatus

    from .._services.events import EventStream
    from ..config import Config

#: Seconds for what has been killed to end.
KILL_BOUND = 5.0
#: Seconds until the manager is told that we are ready, if some service has come to nothing.
READY_BOUND = 60.0

_STOP = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
_ERROR, _WARNING, _INFO = 3, 4, 6  # as in syslog(3)


def run(config: Config, *, quiet: bool = False) -> int:
    """Run what the file names until somebody ends it; the exit status.

    :param quiet: say nothing on stderr but errors.
    :raises AgentsupError, OSError, ValueError: it has not come up.
    """
    with _lock(config.daemon.state_dir):
        use_uvloop = importlib.util.find_spec("uvloop") is not None
        daemon = _Daemon(config, quiet)
        try:
            return anyio.run(daemon.live, backend_options={"use_uvloop": use_uvloop})
        except ExceptionGroup as group:
            raise _the_one_in(group) from None


@contextlib.contextmanager
def _lock(state_dir: Path) -> Generator[None]:
    """Have the directory for us alone."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    state_dir.chmod(0o700)
    try:
        claim = Claim(str(state_dir / "lock"))
    except CheckpointInUse as error:
        raise CheckpointInUse(f"'agentsup up' runs here already: {error}") from None
    try:
        yield
    finally:
        claim.close()


def _the_one_in(error: Exception) -> Exception:
    """What task groups have wrapped, if it is one."""
    if not isinstance(error, ExceptionGroup):
        return error
    group = cast("ExceptionGroup[Exception]", error)
    return _the_one_in(group.exceptions[0]) if len(group.exceptions) == 1 else group


async def _stay_open(*, task_status: TaskStatus[TaskGroup]) -> None:
    """A task group for others, which has an end of its own."""
    async with anyio.create_task_group() as tasks:
        task_status.started(tasks)
        await anyio.sleep_forever()


class _Daemon:
    def __init__(self, config: Config, quiet: bool) -> None:
        self._config = config
        self._quiet = quiet
        self._asked = anyio.Event()
        self._deadline = math.inf  # for the stop
        self._cut_off = False

    async def live(self) -> int:
        config = self._config
        numbers = {*_STOP, signal.SIGHUP, signal.SIGUSR1}
        if os.getpid() == 1:
            numbers.add(signal.SIGCHLD)
        logs = {path: one.logs for path, one in services_of(config)}
        directory = config.daemon.state_dir / "logs"
        with Arrivals(numbers) as self._arrivals:
            async with LogStore(config.logs, directory, logs) as self._logs, notify.heartbeat():
                self._tree = Tree(config, self._logs)
                with self._library_log():
                    async with anyio.create_task_group() as self._tasks:
                        self._tasks.start_soon(self._watch)
                        self._operations = await self._tasks.start(_stay_open)
                        async with self._served():
                            await self._run()
                        self._tasks.cancel_scope.cancel()
        return 1 if self._tree.failed or self._cut_off else 0

    def _served(self) -> AbstractAsyncContextManager[object]:
        """The control API, from before the first service starts until after the last has ended."""
        daemon = self._config.daemon
        tcp = None
        if daemon.tcp:
            tcp = TcpListener(daemon.tcp.listen, read_token(daemon.tcp.token_file))
        app = make_app(self._tree, self._operations, shut_down=self._shut_down)
        return serve(app, daemon.socket, tcp)

    async def _run(self) -> None:
        reported = anyio.Event()
        self._tasks.start_soon(self._report, self._tree.events(), reported)
        try:
            async with self._tree:
                self._operations.start_soon(self._say_ready)
                try:
                    await self._asked.wait()
                finally:
                    self._operations.cancel_scope.cancel()
                    self._on_stop()
        except ExceptionGroup as group:
            if not self._tree.failed:
                raise
            for error in group.exceptions:
                self._say(_ERROR, f"it has failed: {error}")
        await reported.wait()  # the events end with the tree

    async def _say_ready(self) -> None:
        with anyio.move_on_after(READY_BOUND):
            await self._tree.wait_tried()
        await anyio.lowlevel.checkpoint()  # _report says what that was
        self._say(_INFO, f"up: {self._count()}")
        _tell("READY=1", f"STATUS={self._count()}")

    def _count(self) -> str:
        services = self._tree.status()
        return f"{sum(one.ready for one in services)} of {len(services)} services are ready"

    # --- signals ------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            for number in self._arrivals.take():
                self._on_signal(number)
            if time.monotonic() >= self._deadline:
                self._cut_short()
            with anyio.move_on_after(max(0.0, self._deadline - time.monotonic())):
                await self._arrivals.wait()

    def _on_signal(self, number: signal.Signals) -> None:
        if number is signal.SIGCHLD:
            reap_orphans()
        elif number is signal.SIGUSR1:
            self._logs.rotate()
        elif number is signal.SIGHUP:
            if not self._asked.is_set():
                self._operations.start_soon(self._reload)
        elif self._asked.is_set():
            self._say(_WARNING, f"{number.name} once more: what is left is killed")
            self._cut_short()
        else:
            self._say(_INFO, f"{number.name}: stops")
            self._asked.set()

    def _shut_down(self) -> None:
        if not self._asked.is_set():
            self._say(_INFO, "it is asked to: stops")
            self._asked.set()

    def _on_stop(self) -> None:
        """It has begun to stop, whoever wanted that."""
        self._asked.set()
        seconds = self._tree.config.daemon.stop_timeout
        self._deadline = min(self._deadline, time.monotonic() + seconds)
        self._arrivals.poke()
        usec = (seconds + KILL_BOUND) * 1e6
        _tell("STOPPING=1", "STATUS=stops", f"EXTEND_TIMEOUT_USEC={usec:.0f}")

    def _cut_short(self) -> None:
        """Kill what has not stopped; and what has not ended then is the keeper's to end."""
        if self._cut_off:
            os._exit(1)
        if time.monotonic() >= self._deadline:
            self._say(_ERROR, "stop_timeout is over: what is left is killed")
        self._cut_off = True
        self._deadline = time.monotonic() + KILL_BOUND
        self._tree.kill()

    async def _reload(self) -> None:
        """Read the file again; with an error in it, all goes on as before."""
        _tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            changes = await self._tree.update(load(self._config.path))
        except (AgentsupError, OSError, ValueError) as error:
            self._say(_ERROR, f"not reloaded: {error}")
        else:
            kinds = {name: len(getattr(changes, name)) for name in ("added", "changed", "removed")}
            self._say(_INFO, f"reloaded: {', '.join(f'{n} {kind}' for kind, n in kinds.items())}")
            for key in changes.daemon_changed:
                self._say(_WARNING, f"daemon.{key} has changed: that counts after a restart")
        finally:
            _tell("READY=1", f"STATUS={self._count()}")

    # --- what there is to say -----------------------------------------------------------------

    async def _report(self, events: EventStream, over: anyio.Event) -> None:
        async for event in events:
            bad = event.state.value in ("failed", "backoff")
            text = f"{event.state.value}: {event.reason}"
            self._say(_WARNING if bad else _INFO, text, event.service)
        over.set()

    def _say(self, priority: int, text: str, service: str | None = None) -> None:
        """To the log; and to whoever looks at the terminal, a line each."""
        for line in text.splitlines():
            self._logs.daemon_message(priority, line, service)
            if priority <= _ERROR or not self._quiet:
                print_line(f"{service}: {line}" if service else line)

    @contextlib.contextmanager
    def _library_log(self) -> Generator[None]:
        """What the library complains of is told as well."""
        handler = _Handler(self)
        logger = logging.getLogger("agentsup")
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)

    def on_record(self, record: logging.LogRecord) -> None:
        if not hasattr(record, "state"):  # _report says more of those
            priority = _ERROR if record.levelno >= logging.ERROR else _WARNING
            self._say(priority, record.getMessage())


class _Handler(logging.Handler):
    def __init__(self, daemon: _Daemon) -> None:
        super().__init__(logging.WARNING)
        self._daemon = daemon

    def emit(self, record: logging.LogRecord) -> None:
        self._daemon.on_record(record)


def print_line(text: str) -> None:
    """On stderr, if anybody takes it just now: nothing may wait for a reader."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    with contextlib.suppress(OSError):
        if any(events & select.POLLOUT for _, events in poll.poll(0)):
            os.write(2, f"agentsup: {text}\n".encode(errors="backslashreplace")[:4096])


def _tell(*lines: str) -> None:
    """The manager that has started us, if there is one."""
    with contextlib.suppress(OSError):
        notify.notify(*lines)


def reap_orphans() -> None:
    """As PID 1: take the status of what has ended here, and is nobody's whose status is awaited."""
    from .._levels import process_group
    from .._linux import keeper, lifeline

    ours = lifeline.keepers() | process_group.children()
    for pid in keeper.children_of(os.getpid()):
        if pid not in ours:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
