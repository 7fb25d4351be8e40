"""The one thread that writes to a ledger.

It takes all that is asked for at a time into one transaction, so that what waits while the disk is
at work costs one fsync together.  The event loop is told of a transaction when it is on the disk.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio

from .._shielded import wait_through

if TYPE_CHECKING:
    from collections.abc import Callable

    from .steps import Steps

T = TypeVar("T")


class Request(Generic[T]):
    """A part of a transaction, on its way."""

    def __init__(self, work: Callable[[Steps], T]) -> None:
        self.work = work
        self.over = anyio.Event()
        self.result: T | None = None  # None as well if it failed
        self.error: Exception | None = None

    async def done(self) -> T:
        """Its result, once that is on the disk. It is waited for even when cancelled."""
        await wait_through(self.over)
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]  # it did not fail


class Writer:
    """``open`` is called in the thread, which is the only one to use what that returns."""

    def __init__(self, open: Callable[[], Steps]) -> None:
        self._open = open
        self._requests: queue.SimpleQueue[Request[Any] | None] = queue.SimpleQueue()
        self._call_on_loop = _caller()
        self._opened = anyio.Event()
        self._ended = anyio.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="agentsup-ledger", daemon=True)

    async def start(self) -> None:
        """Raises what ``open`` raises, and has then ended as it has when it is cancelled."""
        self._thread.start()
        try:
            await wait_through(self._opened)
        except BaseException:
            await self.stop()
            raise
        if self._error is not None:
            await self.stop()

    def ask(self, work: Callable[[Steps], T]) -> Request[T]:
        """Have ``work`` done. Its parts of the file are as they are in its turn."""
        request = Request(work)
        self._requests.put(request)
        return request

    async def stop(self) -> None:
        """Do what has been asked for, and end the thread."""
        self._requests.put(None)
        try:
            await wait_through(self._ended)
        finally:
            self._thread.join()
        if self._error is not None:
            raise self._error

    # --- in the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with contextlib.closing(self._open()) as steps:
                self._call_on_loop(self._opened.set)
                self._serve(steps)
        except Exception as error:
            self._error = error
        self._call_on_loop(_set, self._opened, self._ended)

    def _serve(self, steps: Steps) -> None:
        while True:
            group = self._next_group()
            requests = [request for request in group if request is not None]
            _carry_out(requests, steps)
            self._call_on_loop(_set, *[request.over for request in requests])
            if None in group:
                return

    def _next_group(self) -> list[Request[Any] | None]:
        group = [self._requests.get()]
        while True:
            try:
                group.append(self._requests.get_nowait())
            except queue.Empty:
                return group


def _carry_out(requests: list[Request[Any]], steps: Steps) -> None:
    try:
        results = steps.transact([request.work for request in requests])
    except Exception as error:
        if len(requests) == 1:
            requests[0].error = error
        else:
            for request in requests:  # the trouble of one is not that of the others
                _carry_out([request], steps)
    else:
        for request, result in zip(requests, results, strict=True):
            request.result = result


def _set(*events: anyio.Event) -> None:
    for event in events:
        event.set()


def _caller() -> Callable[..., object]:
    """What another thread calls to have this task's event loop call something."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        call: Callable[..., object] = trio.lowlevel.current_trio_token().run_sync_soon
        return call
    import asyncio

    return asyncio.get_running_loop().call_soon_threadsafe
