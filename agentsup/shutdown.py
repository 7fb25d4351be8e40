"""Ending in good order: ``async with agentsup.shutdown.graceful() as shutdown:``.

The first SIGTERM or SIGINT asks: the unit of work in hand is finished, no new one begins. A second
one, or the end of the grace, cancels what is left.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import signal
import sys
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
import anyio.lowlevel

from . import notify
from ._errors import UnsupportedPlatform
from ._rules.shutdown import ShutdownRule, State
from ._signals import Arrivals
from ._values.escalation import to_signal
from ._values.number import seconds

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from ._values.escalation import SignalLike

__all__ = ["Shutdown", "graceful"]

_Unit = TypeVar("_Unit")
_MARGIN = 1.0  # seconds that the manager is to wait longer than we need


class Shutdown:
    """Whether this program is to end, and what is to be done then."""

    def __init__(self, rule: ShutdownRule, arrivals: Arrivals) -> None:
        self._rule = rule
        self._arrivals = arrivals
        self._asked = anyio.Event()
        self._interruptible: set[anyio.CancelScope] = set()
        self._work = anyio.CancelScope()
        self._hooks = contextlib.AsyncExitStack()
        self._hook = anyio.CancelScope()  # of the hook that is being called
        self._hooks_end = math.inf
        #: The first signal that came, or None.
        self.signal: signal.Signals | None = None

    @property
    def requested(self) -> bool:
        """It is to end: begin nothing new. May be looked at from any thread."""
        return self._rule.state >= State.REQUESTED or self._arrivals.pending

    @property
    def forced(self) -> bool:
        """Its work was cancelled, by a second signal or the end of the grace."""
        return self._rule.state >= State.CANCELLED

    async def wait_requested(self) -> None:
        """Wait until it is to end."""
        await self._asked.wait()

    def request(self) -> None:
        """Ask it to end, as the first signal does; it may have been asked before."""
        if not self.requested:
            self._rule.ask(time.monotonic())
            self._look()
            self._arrivals.poke()

    def units(self, source: Iterable[_Unit] | AsyncIterable[_Unit]) -> AsyncIterator[_Unit]:
        """The items of ``source``, until it is to end: ``async for job in shutdown.units(jobs):``.

        A wait for the next one ends as well then; what is done with one does not. None is taken
        from ``source`` that is not handed out.
        """
        return _Units(self, source)

    @contextlib.contextmanager
    def interruptible(self) -> Generator[anyio.CancelScope]:
        """``with shutdown.interruptible():`` what may be cancelled as soon as it is to end."""
        with anyio.CancelScope() as scope:
            self._interruptible.add(scope)
            if self.requested:
                scope.cancel()
            try:
                yield scope
            finally:
                self._interruptible.remove(scope)

    def on_exit(self, function: Callable[..., object], *args: Any) -> None:
        """Call ``function``, async or not, when the block is left, the last one first.

        Each is called whatever the others raise. They share the time that is left; who does not
        end in it is cancelled, and a :exc:`TimeoutError` names it.
        """
        if not callable(function):
            raise TypeError(f"function must be callable, not {function!r}")
        self._hooks.push_async_callback(self._call, function, *args)

    # --- how ----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _in_force(self) -> AsyncGenerator[None]:
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        tasks.start_soon(self._watch)
        try:
            async with self._hooks:
                try:
                    with self._work:
                        yield
                finally:
                    self._look()
                    forced = self.forced
                    self._hooks_end = anyio.current_time() + self._rule.left(time.monotonic())
        finally:
            tasks.cancel_scope.cancel()
            # The group is not told of an exception from the block, so it does not wrap it either.
            await tasks.__aexit__(None, None, None)
        if forced:
            raise SystemExit(1 if self.signal is None else 128 + self.signal)

    async def _watch(self) -> None:
        while True:
            self._look()
            deadline = self._rule.deadline
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            with anyio.move_on_after(left):
                await self._arrivals.wait()

    def _look(self) -> None:
        """Take note of the signals and of the time, and act on them."""
        rule, now = self._rule, time.monotonic()
        for number in self._arrivals.take():
            self.signal = self.signal or number
            rule.ask(now)
        rule.tick(now)
        if rule.state >= State.REQUESTED and not self._asked.is_set():
            self._asked.set()
            _tell_manager(rule.left(now) + _MARGIN)
            for scope in self._interruptible:
                scope.cancel()
        if rule.state >= State.CANCELLED:
            self._work.cancel()
        if rule.state is State.FORCED:
            self._hooks_end = self._hook.deadline = -math.inf

    async def _call(self, function: Callable[..., object], *args: Any) -> None:
        with anyio.CancelScope(deadline=self._hooks_end, shield=True) as self._hook:
            result = function(*args)
            if inspect.isawaitable(result):
                await result
        if self._hook.cancelled_caught:
            raise TimeoutError(f"on_exit: {function!r} did not end in time, and was cancelled")


class _Units(AsyncIterator[_Unit], Generic[_Unit]):
    """No generator: trio warns of one that a ``break`` has left."""

    def __init__(self, shutdown: Shutdown, source: Iterable[_Unit] | AsyncIterable[_Unit]) -> None:
        self._shutdown = shutdown
        self._source: Iterator[_Unit] | AsyncIterator[_Unit]
        if isinstance(source, AsyncIterable):
            self._source = aiter(source)
        elif isinstance(source, Iterable):
            self._source = iter(source)
        else:
            raise TypeError(f"source must be iterable, with for or async for, not {source!r}")

    async def __anext__(self) -> _Unit:
        await anyio.lowlevel.checkpoint()  # a unit may block the event loop
        if not self._shutdown.requested:
            if isinstance(self._source, Iterator):
                for unit in self._source:
                    return unit
            else:
                with self._shutdown.interruptible():
                    return await anext(self._source)
        raise StopAsyncIteration


def _tell_manager(left: float) -> None:
    with contextlib.suppress(OSError):  # it is gone, or does not listen
        notify.notify("STOPPING=1", f"EXTEND_TIMEOUT_USEC={left * 1e6:.0f}")


@contextlib.asynccontextmanager
async def graceful(
    *,
    grace: float = 20.0,
    cleanup: float = 5.0,
    signals: Iterable[SignalLike] = (signal.SIGTERM, signal.SIGINT),
) -> AsyncGenerator[Shutdown]:
    """Take the signals that ask this program to end, for the time of the block.

    The block looks at :attr:`Shutdown.requested`, or goes through :meth:`Shutdown.units`, and ends
    by itself. If it was cancelled instead, SystemExit is raised at its end, with 128 and the
    number of the signal, as a shell has it. A service manager that speaks sd_notify(3) is told,
    and asked for the time.

    It belongs around everything else, in the main thread. Of several, one in the other, the inner
    one gets the signals.

    :param grace: seconds from the first signal until the block is cancelled.
    :param cleanup: seconds that it, and the functions given to :meth:`Shutdown.on_exit`, may then
        take.
    :param signals: which signals ask.
    :raises RuntimeError: this is not the main thread.
    :raises UnsupportedPlatform: on Windows.
    """
    if sys.platform == "win32":
        raise UnsupportedPlatform("graceful() takes POSIX signals, which win32 does not have")
    rule = ShutdownRule(_finite("grace", grace), _finite("cleanup", cleanup))
    with Arrivals(_catchable(signals)) as arrivals:
        shutdown = Shutdown(rule, arrivals)
        async with shutdown._in_force():  # pyright: ignore[reportPrivateUsage] -- own class
            yield shutdown


def _finite(name: str, value: float) -> float:
    bound = seconds(name, value)
    if bound is None:
        raise ValueError(f"{name} must be finite, not {value!r}")
    return bound


def _catchable(values: Iterable[SignalLike]) -> set[signal.Signals]:
    if isinstance(values, (str, int)):
        raise TypeError(f"signals must be several, such as [{values!r}], not {values!r}")
    numbers = {to_signal("signals", value) for value in values}
    for number in numbers & {signal.SIGKILL, signal.SIGSTOP}:
        raise ValueError(f"signals: {number.name} can be neither caught nor ignored")
    return numbers
