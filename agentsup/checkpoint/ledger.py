"""The steps of an agent's work: what is done is not done again, whenever the agent is killed."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

import anyio
import anyio.lowlevel

from .._errors import StepInterrupted, UnsupportedPlatform
from .._rules.ledger import Do, StepState, Watch
from .._values.number import seconds, whole
from .._values.retention import Retention
from .encoding import call_inputs, encode_result, identify
from .policies import ask, attempt, check_policy, check_retry

if sys.platform == "linux":  # elsewhere this can be imported, and Ledger() says the rest
    from .steps import Steps
    from .writer import Writer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
    from types import TracebackType
    from typing import Self, Unpack

    import tenacity
    from anyio.abc import TaskGroup

    from .._calls.spec import CallOptions
    from .._rules.ledger import Answer, Sighting
    from .._tree.supervisor import Supervisor
    from .._values.command import CommandLike
    from .._values.result import Result
    from .changes import Changes
    from .encoding import Identity
    from .history import LedgerStep
    from .policies import Policy
    from .steps import Found
    from .writer import Request

T = TypeVar("T")

_THE_ARGUMENTS: Final = object()
_FIRST_PAUSE = 0.01  # seconds; the kernel tells of a close before it lets go of the lock


class OpenStep:
    """A step in its ``async with`` block."""

    def __init__(self, step: LedgerStep, *, done: bool) -> None:
        self.step = step
        #: Whether there is nothing to do: it is done, or it was interrupted and is to be skipped.
        self.done = done
        #: What is stored, or what was given to :meth:`set_result`; None until then.
        self.result: Any = step.result
        self.encoded = "null"

    def set_result(self, value: Any) -> None:
        """What is to be stored when the block ends: JSON that comes back as it was."""
        if self.done:
            raise RuntimeError(f"step {self.step.name!r} is done and has its result")
        self.encoded, self.result = encode_result(value), value


class Ledger:
    """The steps of one or many agents in a file: ``async with Ledger(path) as ledger:``.

    What is awaited here is on the disk when it returns. Several agents, in one process or in many
    on the machine, can have one ledger open; a step runs in one of them at a time.

    :param path: the file; others are beside it, and have its name with something behind.
    :param lease: seconds for which an agent that lives, but whose event loop stands still, keeps
        its steps from those who wait for them; None is for ever. A dead one's are free at once.
    :param keep: how many done steps are kept; None is all. A step that is no longer there is run
        again when it is asked for.
    :param retention: bounds for the size and the age of those.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        lease: float | None = 60.0,
        keep: int | None = None,
        retention: Retention | None = None,
    ) -> None:
        if sys.platform != "linux":
            raise UnsupportedPlatform(
                f"a Ledger takes the locks of open files of Linux, which {sys.platform} has not"
            )
        self._path = _to_path(path)
        self._lease = seconds("lease", lease, zero=False) or math.inf
        self._keep = whole("keep", keep, "steps", least=1)
        self._retention = Retention() if retention is None else retention
        self._writer: Writer | None = None
        self._steps: Steps | None = None  # the writer's, but for beats
        self._tasks: TaskGroup | None = None
        self._changes: Changes | None = None
        self._in_hand: dict[str, anyio.Event] = {}
        self._busy: anyio.Event
        self._open = False

    async def __aenter__(self) -> Self:
        """Begin the thread that writes.

        :raises LedgerCorrupt: the file is damaged.
        :raises FormatTooNew: a newer version of this package has written it.
        """
        if self._writer is not None:
            raise RuntimeError("a Ledger can be entered only once")
        self._busy = anyio.Event()
        self._writer = Writer(self._open_steps)
        await self._writer.start()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._beat)
        self._open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._tasks
        assert self._writer
        self._open = False
        self._tasks.cancel_scope.cancel()
        try:
            # Not given to the task group, which would wrap what the block itself has raised.
            await self._tasks.__aexit__(None, None, None)
        finally:
            await self._writer.stop()

    @overload
    async def run(
        self,
        name: str,
        fn: Callable[..., Awaitable[T]],
        *args: Any,
        key: str | None = None,
        inputs: Any = ...,
        policy: Policy = "retry",
        retry: tenacity.AsyncRetrying | None = None,
    ) -> T: ...
    @overload
    async def run(
        self,
        name: str,
        fn: Callable[..., T],
        *args: Any,
        key: str | None = None,
        inputs: Any = ...,
        policy: Policy = "retry",
        retry: tenacity.AsyncRetrying | None = None,
    ) -> T: ...
    async def run(
        self,
        name: str,
        fn: Callable[..., Any],
        *args: Any,
        key: str | None = None,
        inputs: Any = _THE_ARGUMENTS,
        policy: Policy = "retry",
        retry: tenacity.AsyncRetrying | None = None,
    ) -> Any:
        """What ``fn(*args)`` returned when this step was done, now or before.

        If the same step is being run by somebody else, that is waited for. One that has failed is
        run again.

        :param fn: an async function, or one that returns at once. What it returns is JSON.
        :param args: JSON; with ``name``, they say which step it is. For keyword arguments use
            :class:`functools.partial`.
        :param key: says by itself which step it is.
        :param inputs: JSON that stands for the arguments.
        :param policy: what to do when the step was begun and nobody knows how far it came:
            ``"retry"`` it, ``"skip"`` it and return None, ``"fail"`` with :exc:`StepInterrupted`;
            or a callable, async or not, that gets the :class:`LedgerStep` and returns one of these.
        :param retry: runs ``fn`` again when it fails, each time as another attempt.
        :raises StepInterrupted: with the policy ``"fail"``.
        :raises StepLost: the event loop stood still, and another agent has taken the step over.
        :raises DiskFull: there is no room, and nothing that may be dropped.
        :raises TypeError, ValueError: the arguments or the result are not JSON.
        """
        check_retry(retry)
        if inputs is _THE_ARGUMENTS:
            inputs = call_inputs(fn, args)
        async with self.step(name, inputs, key=key, policy=policy) as step:
            if not step.done:

                async def begin_again(error: Exception) -> None:
                    await self._try_again(step, error)

                step.set_result(await attempt(fn, args, retry, begin_again))
        return step.result

    @overload
    async def run_tool(
        self,
        sup: Supervisor,
        command: CommandLike,
        *,
        check: bool = False,
        key: str | None = None,
        inputs: Any = ...,
        policy: Literal["retry", "fail"] = "retry",
        **options: Unpack[CallOptions],
    ) -> Result: ...
    @overload
    async def run_tool(
        self,
        sup: Supervisor,
        command: CommandLike,
        *,
        check: bool = False,
        key: str | None = None,
        inputs: Any = ...,
        policy: Policy,
        **options: Unpack[CallOptions],
    ) -> Result | None: ...
    async def run_tool(
        self,
        sup: Supervisor,
        command: CommandLike,
        *,
        check: bool = False,
        key: str | None = None,
        inputs: Any = _THE_ARGUMENTS,
        policy: Policy = "retry",
        **options: Unpack[CallOptions],
    ) -> Result | None:
        """The result of ``sup.run(command)``, which is stored whatever came of the command.

        Which step it is is said by its name, which is the program's by default, and by the
        command, its directory, its environment as far as it was given, its stdin and its user.

        :param check: raise :exc:`ToolFailed` unless it exited with status 0. A new call has then
            failed as a step, too, and is run again the next time.
        :param key: as for :meth:`run`; so are ``inputs`` and ``policy``.
        :param options: those of :meth:`Supervisor.run`.
        """
        from . import tools

        if inputs is _THE_ARGUMENTS and key is None:
            inputs = tools.command_inputs(command, options)
        name = options.get("name") or tools.program_name(command)
        async with self.step(name, inputs, key=key, policy=policy) as step:
            if not step.done:
                result = await sup.run(command, check=check, **options)
                step.set_result(tools.to_json(result))
                return result
        if step.result is None:
            return None
        stored = tools.from_json(step.result)
        return stored.check() if check else stored

    @contextlib.asynccontextmanager
    async def step(
        self, name: str, inputs: Any = None, *, key: str | None = None, policy: Policy = "retry"
    ) -> AsyncGenerator[OpenStep]:
        """A step whose work is the block: ``async with ledger.step("send", [to]) as step:``.

        If ``step.done``, there is nothing to do, and ``step.result`` is what is stored. Otherwise
        the block gives its result to ``step.set_result``; the step is done when the block has been
        left. An exception makes it failed, a cancellation interrupted.

        The arguments and errors are those of :meth:`run`.
        """
        identity = identify(name, inputs, key)
        check_policy(policy)
        self._check_open()
        async with self._turn(identity):
            found = await self._take(identity, policy)
            if found.do is Do.FAIL:
                raise StepInterrupted(found.step)
            step = OpenStep(found.step, done=found.do is not Do.TAKE)
            if step.done:
                yield step
                return
            try:
                yield step
            except BaseException as error:
                await self._end_by(error, step)
                raise
            await self._end(step, StepState.DONE, result=step.encoded)

    async def plan(
        self, name: str, *args: Any, key: str | None = None, inputs: Any = _THE_ARGUMENTS
    ) -> None:
        """Note a step that is to be run later; one that is known already stays as it is."""
        if inputs is _THE_ARGUMENTS:
            inputs = call_inputs(None, args)
        identity = identify(name, inputs, key)
        await self._ask(lambda steps: steps.plan(identity)).done()

    def history(self) -> Iterator[LedgerStep]:
        """Every step, in the order in which they were planned, as of the first ``next()``.

        One that is said to be running by an agent that is dead is interrupted.
        """
        from .history import history

        return history(self._path)

    # --- how ----------------------------------------------------------------------------------

    def _open_steps(self) -> Steps:
        self._steps = Steps(
            self._path, lease=self._lease, keep=self._keep, retention=self._retention
        )
        return self._steps

    async def _beat(self) -> None:
        """Give signs of life for as long as there is something that somebody may wait for."""
        assert self._steps
        while self._lease < math.inf:
            await self._busy.wait()
            with contextlib.suppress(OSError):  # a full disk: then others may take it for hung
                self._steps.agents.beat()
            await anyio.sleep(self._lease / 3)

    @contextlib.asynccontextmanager
    async def _turn(self, identity: Identity) -> AsyncGenerator[None]:
        """In this ledger object, one task at a time is in the block of a step."""
        while other := self._in_hand.get(identity.text):
            await other.wait()
        over = self._in_hand[identity.text] = anyio.Event()
        self._busy.set()
        try:
            yield
        finally:
            del self._in_hand[identity.text]
            if not self._in_hand:
                self._busy = anyio.Event()
            over.set()

    async def _take(self, identity: Identity, policy: Policy) -> Found:
        answer: Answer | Literal["ask"] = "ask" if callable(policy) else policy
        while True:
            found = await self._take_when_free(identity, answer)
            if found.do is not Do.ASK:
                return found
            answer = await ask(policy, found.step)

    async def _take_when_free(self, identity: Identity, answer: Answer | Literal["ask"]) -> Found:
        """Wait for as long as another agent has it in hand."""
        found = await self._try_to_take(identity, answer)
        if found.holder is None:
            return found
        watch = Watch(found.holder, anyio.current_time())
        pause = _FIRST_PAUSE
        changes = self._listen_to_others()
        with changes.listen():
            while True:
                change = changes.next
                hung = None if watch.left(anyio.current_time()) else watch.last
                found = await self._try_to_take(identity, answer, hung)
                if found.holder is None:
                    return found
                watch.see(found.holder, anyio.current_time())
                with anyio.move_on_after(min(pause, watch.left(anyio.current_time()))):
                    await change.wait()
                pause = _FIRST_PAUSE if change.is_set() else pause * 2

    def _listen_to_others(self) -> Changes:
        if self._changes is None:
            from .agents import path_of
            from .changes import Changes

            assert self._tasks
            self._changes = Changes(path_of(self._path), self._tasks)
        return self._changes

    async def _try_to_take(
        self, identity: Identity, answer: Answer | Literal["ask"], hung: Sighting | None = None
    ) -> Found:
        request = self._ask(lambda steps: steps.take(identity, answer, hung))
        try:
            found = await request.done()
            await anyio.lowlevel.checkpoint_if_cancelled()
            return found
        except BaseException:
            if request.result is not None and request.result.do is Do.TAKE:
                step = request.result.step
                with contextlib.suppress(Exception):  # it is then found to be interrupted
                    await self._ask(lambda steps: steps.release(step)).done()
            raise

    async def _try_again(self, step: OpenStep, error: Exception) -> None:
        text, current = _in_a_line(error), step.step
        step.step = await self._ask(lambda steps: steps.try_again(current, text)).done()

    async def _end_by(self, error: BaseException, step: OpenStep) -> None:
        state = StepState.FAILED if isinstance(error, Exception) else StepState.INTERRUPTED
        try:
            await self._end(step, state, error=_in_a_line(error))
        except Exception as trouble:
            error.add_note(f"agentsup: the ledger has not noted that: {trouble}")

    async def _end(
        self,
        step: OpenStep,
        state: StepState,
        *,
        result: str | None = None,
        error: str | None = None,
    ) -> None:
        current = step.step
        await self._ask(lambda steps: steps.end(current, state, result=result, error=error)).done()

    def _ask(self, work: Callable[[Steps], T]) -> Request[T]:
        self._check_open()
        assert self._writer
        return self._writer.ask(work)

    def _check_open(self) -> None:
        if not self._open:
            state = "has been left" if self._writer else "has not been entered: use 'async with'"
            raise RuntimeError(f"this Ledger {state}")


def _in_a_line(error: BaseException) -> str:
    name = type(error).__name__
    # What a cancellation says is of no use to anybody who reads it later.
    text = f"{name}: {error}" if isinstance(error, Exception) and str(error) else name
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())[:1000]


def _to_path(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"path must be a str or a path object, not {path!r}")
    if not text or "\0" in text or os.path.isdir(text):
        raise ValueError(f"path must name a file, which {text!r} does not")
    return os.path.realpath(text)
