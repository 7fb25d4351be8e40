"""A supervisor in a task of its own, as fixtures need it.

A fixture is set up, used and torn down in different tasks (pytest-asyncio), or in the same one as
the test (anyio); a cancel scope can do with neither: it is left in the task that has entered it,
and one that is cancelled would cancel the test, or the plugin's own runner.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING, Any, overload

import anyio

from .._shielded import wait_through
from .._tree.supervisor import Supervisor
from .._values.service import Service
from .plugin import SOURCES
from .report import describe, sections

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable

    import pytest

    from .._services.handle import ServiceHandle
    from .._values.command import CommandLike
    from .._values.state import ServiceEvent
    from .plugin import Section


@contextlib.asynccontextmanager
async def hosted(node: pytest.Item) -> AsyncGenerator[Supervisor]:
    """A supervisor for the time of the block, which raises what that has failed with.

    What it holds is told in the report of ``node``, should that fail.
    """
    host = _Host()
    node.stash[SOURCES] = (*node.stash.get(SOURCES, ()), host.sections)
    host.task = _spawn(host.run)
    try:
        await host.entered.wait()
        if host.failure is None:
            yield host.supervisor
    finally:
        host.told_to_leave.set()
        await wait_through(host.over)
    if host.failure is not None:
        raise host.failure from None


class _Host:
    def __init__(self) -> None:
        self.supervisor = _Recorded()
        self.entered = anyio.Event()
        self.told_to_leave = anyio.Event()
        self.over = anyio.Event()
        self.failure: Exception | None = None
        self.task: object = None  # asyncio itself keeps none
        self._last: list[str] | None = None

    async def run(self) -> None:
        try:
            async with self.supervisor:
                self.entered.set()
                try:
                    await self.told_to_leave.wait()
                finally:
                    self._last = self._describe()
        except Exception as failure:
            self.failure = failure
        finally:
            self.entered.set()
            self.over.set()

    def _describe(self) -> list[str]:
        return describe(self.supervisor.seen, self.supervisor.tree())

    def sections(self) -> Iterable[Section]:
        lines = self._describe() if self._last is None else self._last
        return sections(self.supervisor.seen, lines)


def _spawn(function: Callable[[], Coroutine[Any, Any, None]]) -> object:
    """Run it in a task that belongs to no other, and ends with its loop at the latest."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        return trio.lowlevel.spawn_system_task(function)
    return asyncio.get_running_loop().create_task(function())


class _Recorded(Supervisor):
    """Remembers its services and those of the supervisors below it, also when they are gone."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[ServiceHandle, str] = {}

    def _pass_on(self, event: ServiceEvent) -> None:
        supervisor: Supervisor | None = self
        *above, name = event.service.split("/")
        for child in above:
            supervisor = supervisor and supervisor._children.get(child)
        service = supervisor and supervisor._services().members.get(name)
        if service:
            self.seen.setdefault(service, event.service)


class ServiceFactory:
    """What the fixture ``service_factory`` is."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    @overload
    async def __call__(self, service: Service, /) -> ServiceHandle: ...
    @overload
    async def __call__(
        self, name: str, command: CommandLike, /, **options: Any
    ) -> ServiceHandle: ...

    async def __call__(self, service: Any, /, *command: Any, **options: Any) -> ServiceHandle:
        """Start a service, given as such or by the parameters of one, and wait until it is ready.

        Raises what :meth:`Supervisor.start` does.
        """
        if not isinstance(service, Service):
            service = Service(service, *command, **options)
        elif command or options:
            raise TypeError("service_factory takes a Service, or what makes one, and not both")
        return await self._supervisor.start(service)
