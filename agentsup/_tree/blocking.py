"""The supervisor for code that has no event loop."""

from __future__ import annotations

import collections
import contextlib
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Literal

from .._calls import blocking
from .._calls.spec import PIPE, call_spec, find_workspace
from .._errors import SupervisorClosed
from .._levels import AUTO, choose
from .._platform import require_platform
from .._telemetry import observed
from .._values.number import whole
from .._values.result import Containment

if sys.platform != "win32":  # there this can be imported, and require_platform() says the rest
    from .._calls.call import Call

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType
    from typing import Self, Unpack

    from .._calls.spec import CallOptions, MakeHold, Spec
    from .._values.command import CommandLike
    from .._values.result import Result


class SyncSupervisor:
    """A :class:`Supervisor` without an event loop: ``with agentsup.SyncSupervisor() as sup:``.

    It may be used from several threads at a time. Leaving the block stops the calls that other
    threads have in flight, and waits until they are gone.

    :param max_concurrency: how many calls may run at a time; more of them wait in line.
    :param containment: as for :class:`Supervisor`, and ``workspace`` too.
    """

    def __init__(
        self,
        *,
        max_concurrency: int | None = None,
        containment: Containment | Literal["auto"] = "auto",
        workspace: str | bytes | os.PathLike[str] | None = None,
    ) -> None:
        limit = whole("max_concurrency", max_concurrency, "calls", least=1)
        self._level = choose(containment)
        self._make_hold: MakeHold | None = None
        self._workspace = find_workspace(workspace)
        self._turns = _Turns(limit) if limit is not None else None
        self._changed = threading.Condition()
        self._calls = 0
        self._open = False
        self._closing = -1  # a pipe that all calls watch, and that ends with the block
        self._closing_end = -1

    def __enter__(self) -> Self:
        require_platform(self._level)
        if self._closing >= 0:
            raise RuntimeError("a SyncSupervisor can be entered only once")
        self._closing, self._closing_end = os.pipe()
        self._open = True
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._open = False
            os.close(self._closing_end)
            self._changed.wait_for(lambda: self._calls == 0)
            os.close(self._closing)

    def run(
        self, command: CommandLike, *, check: bool = False, **options: Unpack[CallOptions]
    ) -> Result:
        """Run ``command`` to its end; takes and raises what :meth:`Supervisor.run` does.

        ``stdin`` cannot be an async iterable here, and ``leftovers`` cannot be ``"adopt"``.
        KeyboardInterrupt stops the tree and reaps it before it goes on.
        """
        spec = self._make_spec(command, options)
        with self._counted():
            call = Call(spec)
            with observed(call):
                result = self._run(call)
        return result.check() if check else result

    def _run(self, call: Call) -> Result:
        if self._turns is None:
            return blocking.run(call, self._closing)
        queued_at = time.monotonic()
        with self._turns:
            call.queued = time.monotonic() - queued_at
            self._check_open()
            return blocking.run(call, self._closing)

    def _make_spec(self, command: CommandLike, options: CallOptions) -> Spec:
        return _check_blocking(
            call_spec(command, options, self._level, self._make_hold, self._workspace)
        )

    @contextlib.contextmanager
    def _counted(self) -> Generator[None]:
        with self._changed:
            self._check_open()
            self._calls += 1
        try:
            yield
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    def _check_open(self) -> None:
        if not self._open:
            entered = self._closing >= 0
            state = "has been left" if entered else "has not been entered: use 'with'"
            raise SupervisorClosed(f"this SyncSupervisor {state}")


class _Turns:
    """A semaphore that serves threads in the order in which they came."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._lock = threading.Lock()
        self._line: collections.deque[threading.Event] = collections.deque()

    def __enter__(self) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            turn = threading.Event()
            self._line.append(turn)
        try:
            turn.wait()
        except BaseException:
            with self._lock:
                if not turn.is_set():
                    self._line.remove(turn)
                    raise
            self._pass_on()
            raise

    def __exit__(self, *exc: object) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        with self._lock:
            if self._line:
                self._line.popleft().set()
            else:
                self._free += 1


def run_sync(
    command: CommandLike, *, check: bool = False, **options: Unpack[CallOptions]
) -> Result:
    """Run ``command`` without an event loop; takes and raises what :meth:`SyncSupervisor.run`
    does."""
    require_platform(AUTO)
    call = Call(_check_blocking(call_spec(command, options)))
    with observed(call):
        result = blocking.run(call)
    return result.check() if check else result


def _check_blocking(spec: Spec) -> Spec:
    """The same, if it can be run without an event loop."""
    if spec.stdin is PIPE or hasattr(spec.stdin, "__aiter__"):
        raise TypeError("stdin must be bytes, an open file or a descriptor without an event loop")
    if spec.terms.adopt:
        raise ValueError("leftovers='adopt' needs an agentsup.Supervisor: their output is read")
    return spec
