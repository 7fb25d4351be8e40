"""State changes, for whoever listens: each listener has a queue of bounded length."""

from __future__ import annotations

import collections
import weakref
from typing import TYPE_CHECKING

import anyio

from .._values.number import whole

if TYPE_CHECKING:
    from typing import Self

    from .._values.state import ServiceEvent


class EventStream:
    """The events since it was made: ``async for event in stream``. It ends with the supervisor.

    One that is not read loses its oldest events; :attr:`dropped` counts them.
    """

    def __init__(self, size: int) -> None:
        self._queue: collections.deque[ServiceEvent] = collections.deque(maxlen=size)
        self._news = anyio.Event()
        self._over = False
        #: How many events were lost because nobody read them in time.
        self.dropped = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ServiceEvent:
        while not self._queue:
            if self._over:
                raise StopAsyncIteration
            if self._news.is_set():  # else others wait for it
                self._news = anyio.Event()
            await self._news.wait()
        return self._queue.popleft()

    def put(self, event: ServiceEvent) -> None:
        self.dropped += len(self._queue) == self._queue.maxlen
        self._queue.append(event)
        self._news.set()

    def end(self) -> None:
        self._over = True
        self._news.set()


class Events:
    """The listeners of one supervisor. One that nobody holds any more is forgotten."""

    def __init__(self) -> None:
        self._streams: weakref.WeakSet[EventStream] = weakref.WeakSet()
        self._over = False

    def listen(self, size: int) -> EventStream:
        if whole("size", size, "events", least=1) is None:
            raise TypeError("size must be a number of events, not None")
        stream = EventStream(size)
        if self._over:
            stream.end()
        self._streams.add(stream)
        return stream

    def emit(self, event: ServiceEvent) -> None:
        for stream in self._streams:
            stream.put(event)

    def end(self) -> None:
        self._over = True
        for stream in self._streams:
            stream.end()
