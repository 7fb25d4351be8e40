"""A reload, asked for or of the service's own accord.

A service that sends messages says when it begins (``RELOADING=1`` with its time) and when it is
done (``READY=1``), as systemd's ``Type=notify-reload``.  What it had begun before it was asked does
not count.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio

from .._values.hook import Hook
from .._values.readiness import Notified

if TYPE_CHECKING:
    from .._calls.call import Call
    from .._values.service import Service
    from .hooks import Side
    from .startup import Bound


class Reload:
    """One of them, from its beginning.

    :param how: a hook or a signal; None if the service has begun by itself.
    """

    def __init__(self, service: Service, how: Hook | int | None) -> None:
        self.reason = "it says that it reloads" if how is None else "asked to"
        #: Why it has not reloaded.
        self.failure: str | None = "it has ended meanwhile"
        self.over = anyio.Event()
        self._service = service
        self._how = how
        self._asked_at = time.monotonic_ns() // 1000
        self._begun = False
        self._ready = anyio.Event()

    def on_begun(self, at: int | None) -> None:
        """RELOADING=1, and its MONOTONIC_USEC."""
        self._begun = at is None or self._how is None or at >= self._asked_at

    def on_ready(self) -> None:
        """READY=1."""
        if self._begun:
            self._ready.set()

    async def carry_out(self, call: Call, side: Side, bound: Bound) -> None:
        if isinstance(self._how, Hook):
            self.failure = await side.do("reload", (self._how,))
            return
        if self._how is not None:
            try:
                call.signal_main(self._how)
            except ProcessLookupError:
                return
        if self._how is None or self._answers:
            seconds = self._service.start_timeout
            with bound.within(seconds):
                await self._ready.wait()
            if not self._ready.is_set():
                self.failure = f"not reloaded within {seconds:g} s"
                return
        self.failure = None

    @property
    def _answers(self) -> bool:
        return self._service.type == "notify" or isinstance(self._service.ready, Notified)
