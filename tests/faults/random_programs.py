"""Random programs, run in random ways, and cancelled at random scheduling points."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import anyio
import trio

import agentsup
from agentsup import PIPE, Limits, Outcome, OutputPolicy, SpawnError, Supervisor
from agentsup._linux import keeper, lifeline

Call = Callable[[Supervisor], Awaitable[agentsup.Result]]

PROGRAMS: dict[str, Callable[[str], list[str]]] = {
    "true": lambda m: ["true"],
    "sleeper": lambda m: ["sleep", m],
    "ignores TERM": lambda m: sh(f"trap '' TERM; sleep {m}"),
    "prints for ever": lambda m: ["yes", m],
    "prints a lot": lambda m: sh("head -c 300000 /dev/zero"),
    "daemon": lambda m: sh(f"(setsid sleep {m} >/dev/null 2>&1 &)"),
    "daemon and more": lambda m: sh(f"(env -i setsid sleep {m} &); exec sleep {m}"),
    "holds the pipe": lambda m: sh(f"sleep {m} &"),
    "reads stdin": lambda m: ["cat"],
    "children": lambda m: sh(f"sleep {m} & sleep {m} & wait"),
    "stopped": lambda m: sh("kill -STOP $$"),
    "kills itself": lambda m: sh(f"sleep {m} & kill -9 $$"),
    "missing": lambda m: ["agentsup-no-such-program"],
    "not executable": lambda m: ["/bin/sh/true"],
}
CAN_FAIL = ("missing", "not executable")
#: Nobody stops a call here but by its timeout or by cancelling it, which is to be raised again.
BY_ITSELF = (Outcome.EXITED, Outcome.SIGNALED, Outcome.TIMED_OUT, Outcome.IDLE)


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


class Steps:
    """Counts what the event loop does, and strikes when a count is reached."""

    def __init__(self) -> None:
        self._count = 0
        self._due: list[tuple[int, int, Callable[[], object]]] = []
        self._order = itertools.count()

    def after(self, steps: int, strike: Callable[[], object]) -> None:
        heapq.heappush(self._due, (self._count + steps, next(self._order), strike))

    def step(self) -> None:
        self._count += 1
        while self._due and self._due[0][0] <= self._count:
            heapq.heappop(self._due)[2]()

    async def tick(self) -> None:
        """Go on where nothing else happens in the loop."""
        while True:
            await anyio.sleep(0.002)
            self.step()

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Every step of every task counts, and comes after the strike that it is the turn of."""
        if _in_trio():
            instrument = _Instrument(self.step)
            trio.lowlevel.add_instrument(instrument)
            try:
                yield
            finally:
                trio.lowlevel.remove_instrument(instrument)
        else:
            loop = asyncio.get_running_loop()

            def task(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
                return asyncio.Task(_Counted(coro, self.step), loop=loop, **options)

            loop.set_task_factory(task)
            try:
                yield
            finally:
                loop.set_task_factory(None)


class _Instrument(trio.abc.Instrument):
    def __init__(self, step: Callable[[], None]) -> None:
        self._step = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._step()


class _Counted(Coroutine[Any, Any, Any]):
    """A coroutine that tells before each of its steps."""

    def __init__(self, coro: Coroutine[Any, Any, Any], step: Callable[[], None]) -> None:
        self._coro = coro
        self._step = step

    def send(self, value: Any) -> Any:
        self._step()
        return self._coro.send(value)

    def throw(self, *error: Any) -> Any:
        self._step()
        return self._coro.throw(*error)

    def close(self) -> None:
        self._coro.close()

    def __await__(self) -> Any:
        return self._coro.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coro, name)  # anyio asks a coroutine for its state


def _in_trio() -> bool:
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return False
    return True


def random_call(choice: random.Random, marker: str) -> tuple[str, Call]:
    """A call, and what it does in words."""
    name = choice.choice(list(PROGRAMS))
    command = PROGRAMS[name](marker)
    options: dict[str, Any] = {
        "grace": choice.choice([0, 0, 0.01]),
        "timeout": choice.choice([None, None, None, 0.005, 0.03]),
        "idle_timeout": choice.choice([None, None, None, 0.02]),
        "stdin": choice.choice([None, None, b"some"]),
        "output": OutputPolicy(merge_stderr=choice.random() < 0.2),
        "limits": choice.choice([None, None, None, Limits(open_files=50)]),
    }
    way = choice.choice(["run", "run", "open", "read", "feed", "talk", "leave"])

    async def run(sup: Supervisor) -> agentsup.Result:
        return await sup.run(command, **options)

    async def feed(sup: Supervisor) -> agentsup.Result:
        return await sup.run(command, **{**options, "stdin": _chunks(choice.randrange(4))})

    async def opened(sup: Supervisor) -> agentsup.Result:
        async with sup.open(command, **options) as process:
            if way == "read":
                async for _ in process.stdout:
                    pass
            if way == "leave":
                process.stop()
            return await process.wait()

    async def talk(sup: Supervisor) -> agentsup.Result:
        async with sup.open(command, **{**options, "stdin": PIPE}) as process:
            with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                await process.stdin.send(b"x" * choice.choice([1, 100_000]))
                await process.stdin.aclose()
            return await process.wait()

    ways = {"run": run, "feed": feed, "talk": talk}
    return f"{name!r} by {way} with {options}", ways.get(way, opened)


def left_of(marker: str) -> list[int]:
    kept = lifeline._current
    tree = keeper.children_of(kept.pid) if kept else []
    for pid in tree:  # which grows
        tree += keeper.children_of(pid)
    return [pid for pid in tree if marker.encode() in keeper.command_line(pid)]


async def _chunks(number: int) -> Any:
    for _ in range(number):
        await anyio.sleep(0)
        yield b"line\n"
    if number == 3:
        await anyio.sleep_forever()


async def cancelled_at_random(sup: Supervisor, steps: Steps, seed: float, marker: str) -> None:
    """One call, cancelled once or more at points that ``seed`` says; and what came of it.

    Nobody else's processes have ``marker`` in their arguments.
    """
    choice = random.Random(seed)
    words, call = random_call(choice, marker)
    first = choice.choice([choice.randrange(6), choice.randrange(60), choice.randrange(600)])
    more = [first + choice.choice([1, choice.randrange(1, 40)]) for _ in range(choice.randrange(3))]
    native = not _in_trio() and choice.random() < 0.5
    words += f", cancelled {'natively ' * native}after {[first, *more]} steps"

    async def outcome() -> agentsup.Result | SpawnError:
        try:
            return await call(sup)
        except SpawnError as error:
            return error

    end = _native if native else _by_scopes
    try:
        result = await end(steps, [first, *more], outcome)
    except Exception as exc:
        exc.add_note(words)
        raise
    if result is None:
        assert not left_of(marker), f"when the cancellation came out, there was more: {words}"
    elif isinstance(result, SpawnError):
        assert any(repr(name) in words for name in CAN_FAIL), f"{result!r}: {words}"
    elif "leave" not in words:
        assert result.outcome in BY_ITSELF, f"{result.outcome}: {words}"


async def _native(steps: Steps, when: list[int], outcome: Callable[[], Any]) -> Any:
    """asyncio's own ``cancel()``: whoever got it in time has to end by it."""
    task = asyncio.get_running_loop().create_task(outcome())
    cancelled: list[bool] = []
    for number in when:
        steps.after(number, lambda: cancelled.append(task.cancel()))
    try:
        result = await task
    except asyncio.CancelledError:
        assert any(cancelled)
        return None
    assert not any(cancelled), f"a cancellation was swallowed: {result}"
    return result


async def _by_scopes(steps: Steps, when: list[int], outcome: Callable[[], Any]) -> Any:
    """A scope for each cancellation, the innermost for the first."""
    scopes = [anyio.CancelScope() for _ in when]
    result = None
    with contextlib.ExitStack() as stack:
        for scope in reversed(scopes):
            stack.enter_context(scope)
        for number, scope in zip(when, scopes, strict=True):
            steps.after(number, scope.cancel)
        result = await outcome()
    assert result is not None or any(scope.cancelled_caught for scope in scopes)
    if not _in_trio():
        task = asyncio.current_task()
        assert task
        assert task.cancelling() == 0
    return result
