"""A process for each connection, as systemd's ``Accept=yes`` has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from .._calls import on_loop
from .._calls.call import Call
from .._errors import AgentsupError
from .._shielded import to_the_end
from .._values.restart import Ending
from .._values.result import Outcome
from .._values.state import ServiceState
from .activation import accept_each, pass_sockets
from .complaints import Complaints

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from .._calls.spec import Spec
    from .._values.result import Result
    from .._values.service import Service
    from .sockets import OpenSockets


class Accepting:
    """What takes the place of a :class:`Run` for such a service: it is active while it listens."""

    #: There is no main process.
    call: Call | None = None
    result: Result | None = None
    error: Exception | None = None
    up = False

    def __init__(
        self,
        service: Service,
        spec: Spec,
        sockets: OpenSockets,
        tell: Callable[[ServiceState, str], None],
    ) -> None:
        self._service = service
        self._spec = spec
        self._sockets = sockets
        self._tell = tell
        self._complain = Complaints(service.name)
        self._listening = anyio.CancelScope()
        #: One for each connection.
        self.calls: set[Call] = set()
        self._stopping = False

    @property
    def status(self) -> str:
        return f"connections: {len(self.calls)}"

    async def live(self) -> Ending:
        self.up = True
        self._tell(ServiceState.ACTIVE, "accepts connections")
        limit = self._service.max_connections
        async with anyio.create_task_group() as tasks:
            with self._listening:
                await accept_each(
                    self._sockets, self._serve, limit, tasks=tasks, log=self._complain
                )
        return Ending(0)

    async def _serve(self, connection: socket.socket) -> None:
        call = Call(pass_sockets(self._spec, [("connection", connection.fileno())]))
        self.calls.add(call)
        try:
            if self._stopping or not await self._start(call):
                return
            connection.close()  # it is the program's alone now
            late = await to_the_end(lambda: self._drive(call), lambda: call.finished)
            self._note(call)
        finally:
            self.calls.discard(call)
            call.close()
        if late is not None:
            raise late

    async def _start(self, call: Call) -> bool:
        try:
            await on_loop.start(call)
        except (AgentsupError, OSError) as error:
            self._complain(f"a connection has failed: {error}")
            return False
        return True

    def _note(self, call: Call) -> None:
        if call.error is not None:
            return self._complain(f"a connection has failed: {call.error}")
        self.result = call.result()
        ending = Ending(self.result.exit_code, self.result.signal)
        if not (self._stopping or self._service.policy.clean(ending)):
            self._complain(f"the process of a connection {self.result.reason}")
        return None

    async def _drive(self, call: Call) -> None:
        try:
            await on_loop.drive(call, to_the_end=True)
        except anyio.get_cancelled_exc_class():
            call.stop(Outcome.STOPPED)
            raise

    def stop(self) -> None:
        """Accept no more, and end those that there are."""
        if not self._stopping:
            self._stopping = True
            self._tell(ServiceState.DEACTIVATING, "it is to stop")
            self._listening.cancel()
            for call in self.calls:
                call.stop(Outcome.STOPPED)
