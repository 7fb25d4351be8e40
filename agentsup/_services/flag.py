"""What a service has many of, and is seldom waited for: an event that costs little until then."""

from __future__ import annotations

import anyio
import anyio.lowlevel


class Flag:
    """As :class:`anyio.Event`, which takes most of a kilobyte on asyncio."""

    __slots__ = ("_event", "_is_set")

    def __init__(self, *, is_set: bool = False) -> None:
        self._is_set = is_set
        self._event: anyio.Event | None = None

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        if self._event:
            self._event.set()

    async def wait(self) -> None:
        if self._is_set:
            await anyio.lowlevel.checkpoint()
            return
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()
