"""Wait for calls on an event loop: asyncio, uvloop or trio, by way of anyio."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from .._errors import SupervisorClosed, attach_partial
from .._shielded import to_the_end
from .._values.result import Outcome, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from .call import Call


async def start(call: Call) -> None:
    """Hand ``call`` to the keeper. It is closed if that fails or is cancelled."""
    await anyio.lowlevel.checkpoint_if_cancelled()
    call.prepare()
    try:
        while not call.send():
            fd = call.keeper_fd()
            try:
                await anyio.wait_writable(fd)
            finally:
                os.close(fd)
            if call.rule.outcome is not None:
                raise SupervisorClosed("the call was stopped before it began")
    except BaseException:
        call.close()
        raise


async def drive(call: Call, *, to_the_end: bool = False) -> None:
    """Carry ``call`` on until its result is ready, or until what it left for adoption has ended."""
    while not (call.finished if to_the_end else call.result_ready):
        await anyio.wait_readable(call.fileno())
        call.step()


async def drive_and_ask(call: Call, ask: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Carry it on as :func:`drive` does, with the question of its heartbeat beside it."""
    failure: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        try:
            await drive(call)
        except anyio.get_cancelled_exc_class():
            raise  # the task group knows whether it is its own
        except BaseException as exc:
            failure = exc  # past the task group, which would wrap it
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def finish(call: Call, cause: BaseException) -> None:
    """End ``call`` because of ``cause``, whatever else happens, and leave its partial result there.

    A cancellation that comes during that is delivered afterwards.
    """
    call.stop(Outcome.STOPPED)
    late = await to_the_end(lambda: drive(call), lambda: call.result_ready)
    attach_partial(cause, call.result())
    if late is not None:
        # Also if `cause` is a cancellation: that may be a scope's, which ends with the scope.
        attach_partial(late, call.result())
        raise late


async def run(call: Call) -> Result:
    """The whole of ``call``: nothing of it is left when this returns or raises."""
    await start(call)
    try:
        try:
            await (drive(call) if call.ask is None else drive_and_ask(call, call.ask))
        except BaseException as exc:
            await finish(call, exc)
            raise
        if call.error is not None:
            raise call.error
        return call.result()
    finally:
        if not call.rule.adopting:
            call.close()
