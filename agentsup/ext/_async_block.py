"""A block on an event loop: one task carries on all that the block has started."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import collections
import contextlib
import os
import select
import sys
from typing import TYPE_CHECKING

import anyio

from .._shielded import wait_through
from .._tree.supervisor import Supervisor
from ._shim import Block

if sys.platform == "linux":
    from select import epoll as make_epoll
elif sys.platform != "win32":
    from .._bsd.kqueue import Epoll as make_epoll

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from .._levels.hold import Epoll
    from .._values.limits import Limits
    from ._shim import Held


class AsyncBlock(Block):
    """Other threads may start processes in it, and wait for them, as trio's do."""

    def __init__(self, supervisor: Supervisor, grace: float, limits: Limits | None) -> None:
        super().__init__(supervisor._check_open, supervisor._make_spec, grace, limits)
        self._calls = supervisor._calls  # for its tree
        self._supervisor = supervisor
        self._over = anyio.Event()
        self._by_fd: dict[int, Held] = {}
        self._news: collections.deque[Callable[[], object]] = collections.deque()

    def open(self) -> None:
        super().open()
        tasks = self._supervisor._tasks
        assert tasks
        self._bell, self._bell_rope = os.pipe()  # rung by whoever has news for the loop
        self._epoll: Epoll = make_epoll()
        self._epoll.register(self._bell, select.POLLIN)
        tasks.start_soon(self._carry_on)

    async def end(self) -> None:
        for held in list(self.running):
            held.stop()
        self._tell(_nothing)
        await wait_through(self._over)

    async def _carry_on(self) -> None:
        try:
            with anyio.CancelScope(shield=True):
                while not self._all_over():
                    with contextlib.suppress(anyio.get_cancelled_exc_class()):
                        await anyio.wait_readable(self._epoll.fileno())
                        self._look()
        finally:
            self._epoll.close()
            os.close(self._bell)
            os.close(self._bell_rope)
            self._over.set()

    def _all_over(self) -> bool:
        with self._lock:
            return not (self._open or self.running or self._news)

    def _look(self) -> None:
        for fd, _ in self._epoll.poll(0):
            if fd == self._bell:
                os.read(fd, 4096)
            elif held := self._by_fd.get(fd):
                held.poll()
        while self._news:
            self._news.popleft()()

    # --- what its processes tell it, in any thread --------------------------------------------

    def _tell(self, news: Callable[[], object]) -> None:
        """Have this done on the loop."""
        self._news.append(news)
        os.write(self._bell_rope, b"!")

    def add(self, held: Held) -> None:
        self._calls[held.call] = anyio.Event()
        try:
            super().add(held)
        except BaseException:
            self._forget(held)
            raise

    def remove(self, held: Held) -> None:
        self.unwatch(held)
        with self._lock:  # as long as it is among those that run, the pipe is open
            self._tell(lambda: self._forget(held))
            self.running.discard(held)

    def _forget(self, held: Held) -> None:
        self._calls.pop(held.call).set()

    def ended(self, held: Held) -> None:
        self._tell(held.tell_exit)

    def watch(self, held: Held) -> None:
        fd = held.call.fileno()
        self._by_fd[fd] = held
        self._epoll.register(fd, select.POLLIN)

    def unwatch(self, held: Held) -> None:
        fd = held.call.fileno()
        if self._by_fd.pop(fd, None):
            self._epoll.unregister(fd)


@contextlib.asynccontextmanager
async def hold(supervisor: Supervisor, grace: float, limits: Limits | None) -> AsyncGenerator[None]:
    """What the block starts by way of ``subprocess`` runs under ``supervisor``."""
    if not isinstance(supervisor, Supervisor):  # pyright: ignore[reportUnnecessaryIsInstance] -- input
        kind = type(supervisor).__name__
        hint = ": use agentsup.ext.subprocess" if kind == "SyncSupervisor" else ""
        raise TypeError(f"supervisor must be an agentsup.Supervisor, not {kind}{hint}")
    block = AsyncBlock(supervisor, grace, limits)
    block.open()
    try:
        yield
    finally:
        block.close()
        try:
            await block.end()
        finally:
            block.forget()


def _nothing() -> None:
    pass
