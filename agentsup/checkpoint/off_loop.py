"""Do blocking work off the event loop: all of it or none, and never behind its caller's back."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


async def run(function: Callable[[], T]) -> T:
    """``function()`` in a worker thread. It should be short: once begun, it is waited for.

    A cancellation either comes before it has begun, and then it never begins, or is delivered when
    it has ended.
    """
    turn = threading.Lock()  # taken by the thread that begins or by the caller that gives up
    ended = threading.Event()

    def work() -> T:
        if not turn.acquire(blocking=False):
            raise InterruptedError  # nobody hears of it
        try:
            return function()
        finally:
            ended.set()

    try:
        return await anyio.to_thread.run_sync(work)
    except BaseException:
        # asyncio's own cancel() does not know of shields.
        if not turn.acquire(blocking=False):
            await _wait_through(ended)
        raise


async def _wait_through(ended: threading.Event) -> None:
    limiter = anyio.CapacityLimiter(1)  # the default one may be full of what takes long
    with anyio.CancelScope(shield=True):
        while not ended.is_set():
            try:
                await anyio.to_thread.run_sync(ended.wait, limiter=limiter)
            except anyio.get_cancelled_exc_class():
                pass  # the caller raises the first one
