"""The logs of all services: made when they are first written, bounded together, compressed."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from typing import TYPE_CHECKING, Self

import anyio

from ..._rules.log_rotation import Rotation, of_service, to_remove
from ..._rules.retention import is_due
from ..._services.flag import Flag
from ..._tree.supervisor import Supervisor
from ..._values.retention import Retention
from .compress import compress
from .outlets import OUTLETS, Outlet, OutletName
from .record import DAEMON, directory_of, service_of
from .segments import Segment, Segments, recover, segments
from .writer import Log, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from anyio.abc import TaskGroup

    from ..._calls.call import Call
    from ...config.values import LogsConfig

_FINISH = 1.0  # seconds for an outlet to take what waits
_ERROR = 3


class LogStore:
    """``async with LogStore(…) as logs:`` also compresses, and waits for slow outlets.

    What is fed to it is written at once. Nothing of it raises because there is no room.

    :param defaults: for a service that has none of its own, and for ``total_size``.
    :param directory: has a directory for each service, made when it is needed.
    :param services: how the log of each is kept, by its path.
    :param outlets: what makes them, by their names.
    :raises OSError: what an earlier host has left cannot be put in order.
    """

    def __init__(
        self,
        defaults: LogsConfig,
        directory: str | os.PathLike[str],
        services: Mapping[str, LogsConfig] | None = None,
        *,
        outlets: Mapping[OutletName, Callable[[], Outlet]] = OUTLETS,
    ) -> None:
        self.directory = os.path.abspath(directory)
        self._defaults = defaults
        self._services = services or {}
        self._make_outlet = outlets
        self._outlets: dict[OutletName, Outlet] = {}
        self._logs: dict[str, Log] = {}
        self._added = 0  # bytes, since the last look at all of them
        self._to_compress = Flag()
        self._scopes = contextlib.AsyncExitStack()
        self._tasks: TaskGroup | None = None
        for name in self._names():
            recover(os.path.join(self.directory, name))
        self.vacuum()

    async def __aenter__(self) -> Self:
        supervisor = await self._scopes.enter_async_context(Supervisor())
        self._tasks = await self._scopes.enter_async_context(anyio.create_task_group())
        self._tasks.start_soon(self._compress, supervisor)
        for outlet in self._outlets.values():
            self._tasks.start_soon(outlet.run)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._tasks
        # What else the block has raised is not given to the task group, which would wrap it.
        cancelled = isinstance(exc, anyio.get_cancelled_exc_class())
        try:
            self._tasks.cancel_scope.cancel()
            given = (exc_type, exc, traceback) if cancelled else (None, None, None)
            await self._scopes.__aexit__(*given)
        finally:
            self._tasks = None
            with anyio.move_on_after(_FINISH, shield=True):
                for outlet in self._outlets.values():
                    await outlet.finish()
            self.close()

    def close(self) -> None:
        """Let go of all files. May be repeated, and what is fed afterwards opens them again."""
        for log in self._logs.values():
            log.close()
        while self._outlets:
            self._outlets.popitem()[1].close()

    # --- what is written ----------------------------------------------------------------------

    def sink_for(self, service: str, call: Call) -> Callable[[str], Stream]:
        """What takes the streams of a run of the service, by their names."""
        log, call_id = self._log(service), secrets.token_hex(6)

        def pid() -> int:
            return call.followed[0] or call.pid or 0

        return lambda stream: Stream(log, stream, pid, call_id)

    def daemon_message(self, priority: int, text: str, service: str | None = None) -> None:
        """Keep what the daemon has to say, of a service or of itself."""
        self._log(service or DAEMON).say(priority, text, time.time())

    def configure(self, defaults: LogsConfig, services: Mapping[str, LogsConfig]) -> None:
        """Go on by these; a stream that runs keeps its ``line_max``."""
        self._defaults, self._services = defaults, services
        for name, log in self._logs.items():
            config = self._config(name)
            log.configure(config, self._outlets_of(config), self._segments(name, config))
        self._on_growth(0, True)

    def _log(self, service: str) -> Log:
        if (log := self._logs.get(service)) is None:
            config = self._config(service)
            segments = self._segments(service, config)
            log = self._logs[service] = Log(service, config, self._outlets_of(config), segments)
        return log

    def _config(self, service: str) -> LogsConfig:
        return self._services.get(service, self._defaults)

    def _segments(self, service: str, config: LogsConfig) -> Segments | None:
        if not config.keep:
            return None
        rotation = Rotation(config.segment_size, config.segment_age)
        log = self._logs.get(service)
        if log and log.segments:
            log.segments.rotation = rotation
            return log.segments
        return Segments(self._directory(service), rotation, self._on_growth)

    def _outlets_of(self, config: LogsConfig) -> list[Outlet]:
        return [self._outlet(name) for name in config.outlets]

    def _outlet(self, name: OutletName) -> Outlet:
        if (outlet := self._outlets.get(name)) is None:
            outlet = self._outlets[name] = self._make_outlet[name]()
            if self._tasks:
                self._tasks.start_soon(outlet.run)
        return outlet

    # --- what is kept of it -------------------------------------------------------------------

    def rotate(self) -> None:
        """Have every log go on in a new segment."""
        for log in self._logs.values():
            if log.segments:
                log.segments.rotate(time.time())

    def vacuum(self) -> int:
        """Remove what is beyond the bounds; how many bytes that were."""
        self._added = 0
        found = {service_of(name): self._found(name) for name in self._names()}
        configs = {service: self._config(service) for service in found}
        bounds = {
            service: of_service(config.max_size, config.segment_size, config.max_age)
            for service, config in configs.items()
        }
        total = Retention(max_bytes=self._defaults.total_size)
        written = {one for files in found.values() for one in files if self._is_written(one)}
        removed = to_remove(found, bounds, total, time.time(), written)
        for segment in removed:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(segment.path)
        for service in found:
            with contextlib.suppress(OSError):
                os.rmdir(self._directory(service))  # if there is nothing in it
        return sum(segment.size for segment in removed)

    def _on_growth(self, size: int, new: bool) -> None:
        self._added += size
        if new:
            self._to_compress.set()
        if new or is_due(Retention(max_bytes=self._defaults.total_size), 0, self._added, 0.0):
            with contextlib.suppress(OSError):  # no descriptor is left, perhaps: the next time
                self.vacuum()

    async def _compress(self, supervisor: Supervisor) -> None:
        while True:
            self._to_compress = Flag()
            if failed := await self._compress_all(supervisor):
                self.daemon_message(_ERROR, f"not compressed: {failed}")
            await self._to_compress.wait()

    async def _compress_all(self, supervisor: Supervisor) -> str | None:
        try:
            for segment in self._compressible():
                if failed := await compress(segment.path, supervisor):
                    return failed
        except OSError as error:
            return str(error)
        return None

    def _compressible(self) -> list[Segment]:
        """The oldest first."""
        return [
            segment
            for name in self._names()
            if self._config(service_of(name)).compress
            for segment in reversed(self._found(name))
            if not segment.compressed and not self._is_written(segment)
        ]

    def _is_written(self, segment: Segment) -> bool:
        name = os.path.basename(os.path.dirname(segment.path))
        log = self._logs.get(service_of(name))
        return log is not None and log.segments is not None and log.segments.path == segment.path

    def _names(self) -> list[str]:
        try:
            with os.scandir(self.directory) as entries:
                return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []

    def _found(self, name: str) -> list[Segment]:
        return segments(os.path.join(self.directory, name))

    def _directory(self, service: str) -> str:
        return os.path.join(self.directory, directory_of(service))
