"""Work that is done to its end, whatever comes meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def to_the_end(
    work: Callable[[], Awaitable[object]], done: Callable[[], bool]
) -> BaseException | None:
    """Have ``work`` done, which is bounded by itself, again and again until ``done`` says True.

    :returns: the cancellation that came during that: for the caller to raise, at the end.
    """
    late: BaseException | None = None
    with anyio.CancelScope(shield=True):
        while not done():
            try:
                await (work() if late is None else _apart(work))
            except anyio.get_cancelled_exc_class() as exc:
                late = exc  # asyncio's own cancel() does not know of shields
    return late


async def _apart(work: Callable[[], Awaitable[object]]) -> None:
    """In a task of its own, where asyncio's own cancel() does not reach it.

    That may come in each cycle of the loop, and nothing that waits would get any further: so anyio
    cancels, and what is between its scope and us (:func:`asyncio.gather`) passes it on as one.
    """
    import asyncio

    async def do() -> None:
        await work()

    task = asyncio.ensure_future(do())
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            pass  # the caller has one already
    task.result()


async def wait_through(event: anyio.Event) -> None:
    """Wait for what is bounded by itself; a cancellation is put off until then."""
    if (late := await to_the_end(event.wait, event.is_set)) is not None:
        raise late
