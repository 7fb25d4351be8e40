"""From the start of a run until it is ready."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import anyio

from .._values.readiness import Notified
from .conditions import AtItsEnd, OnNotice, on_ready
from .daemon import OnDaemon
from .flag import Flag
from .outcome import Failure

if TYPE_CHECKING:
    from collections.abc import Generator

    from .._calls.call import Call
    from .._calls.spec import Spec
    from .._values.service import Service
    from .conditions import Condition
    from .daemon import MainProcess
    from .probing import Run


class Bound:
    """How long the present turn of a run may take, which the service may ask to be moved."""

    def __init__(self) -> None:
        self._scope: anyio.CancelScope | None = None

    @contextlib.contextmanager
    def within(self, seconds: float | None) -> Generator[anyio.CancelScope]:
        with anyio.move_on_after(seconds) as self._scope:
            try:
                yield self._scope
            finally:
                self._scope = None

    def extend(self, seconds: float) -> None:
        """From now, it may take so long."""
        if scope := self._scope:
            scope.deadline = max(scope.deadline, anyio.current_time() + seconds)


class Startup:
    """What is waited for, by the type of the service and by its ``ready``: all of it.

    :param run: runs the commands of probes.
    """

    def __init__(self, service: Service, bound: Bound, run: Run) -> None:
        self._service = service
        self._bound = bound
        self.said_ready = OnNotice()
        #: To be set when its first process has exited, and has left others.
        self.adopted = Flag()
        self.daemon = OnDaemon(service, self.adopted) if service.type == "forking" else None
        self._conditions: list[Condition] = []
        if service.type == "notify" or isinstance(service.ready, Notified):
            self._conditions.append(self.said_ready)
        if self.daemon:
            self._conditions.append(self.daemon)
        if service.type == "oneshot":
            self._conditions.append(AtItsEnd())
        if service.ready is not None and not isinstance(service.ready, Notified):
            self._conditions.append(on_ready(service.ready, run))

    @property
    def needed(self) -> bool:
        """There is something to be waited for, besides its being started."""
        return bool(self._conditions)

    @property
    def met(self) -> bool:
        return all(condition.met for condition in self._conditions)

    def prepare(self, spec: Spec) -> Spec:
        for condition in self._conditions:
            spec = condition.prepare(spec)
        return spec

    def attach(self, call: Call, main: MainProcess) -> None:
        for condition in self._conditions:
            condition.attach(call, main)

    async def wait(self) -> Failure | None:
        """Until it is ready; or why it is not."""
        seconds = self._service.start_timeout
        lacking = None
        with self._bound.within(seconds):
            for condition in self._conditions:
                lacking = condition
                if failure := await condition.wait():
                    return failure
            return None
        done = "done" if self._service.type == "oneshot" else "ready"
        why = f": {lacking.lacking}" if lacking and lacking.lacking else ""
        return Failure(f"not {done} within {seconds:g} s{why}", "timeout")

    def close(self) -> None:
        for condition in self._conditions:
            condition.close()
