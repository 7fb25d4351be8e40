"""What code starts by way of ``subprocess``, held by a supervisor without a change to that code.

Below ``subprocess.run`` and all the others is one class, ``Popen``, and in it a few methods that
know of processes.  While there is any block, those are replaced: they look into which block they
were called from, and where from none they go on as ever.  All else, its pipes, text and time
limits, is Python's own code; and asyncio's and trio's processes are built on it.

A ``Popen`` has no event loop that could carry its call on.  Whoever asks of it does, in whatever
thread, and nobody has to: the keeper kills by itself what outlives the main process.
"""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from .._calls import blocking
from .._errors import SupervisorClosed
from .._rules.call import DRAIN_TIME
from .._values.result import Containment, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._calls.call import Call
    from .._calls.spec import CallOptions, Spec
    from .._values.limits import Limits

    Popen = subprocess.Popen[Any]

_LONGEST = 1e6  # seconds that poll(2) is asked to wait at a time


class Held:
    """The call of one ``Popen``: whoever asks of it carries it on.

    ``Popen.returncode`` is set when the main process has ended. It is over when nothing of its
    tree is left.
    """

    returncode: int | None = None

    def __init__(self, block: Block, popen: Popen, call: Call) -> None:
        self.call = call
        self.over = False
        self.on_exit: Callable[[int], object] | None = None
        self._block = block
        self._popen = weakref.ref(popen)  # one that is dropped is to say so
        self._changed = threading.Condition()
        self._waited_on = False  # by a thread, which then is the only one to carry it on

    def start(self) -> None:
        """Return when it runs, or raise why it does not."""
        call = self.call
        call.prepare()
        try:
            blocking.send(call)
            while call.pid is None and not call.finished:
                call.step(None)
            if call.error is not None:
                raise call.error
            assert call.pid is not None
            self._block.add(self)
        except BaseException:
            call.close()
            raise
        self.poll()

    def poll(self) -> None:
        """Learn what there is to know of it now."""
        with self._changed:
            if self._waited_on or self.over:
                return
            self._step()
            if self.returncode is None and self._reaped():
                while self.returncode is None:  # the word of it is on its way
                    self._step(None)

    def _reaped(self) -> bool:
        try:
            self.call.signal_main(0)
        except ProcessLookupError:
            return True
        except PermissionError:  # a setuid program
            pass
        return False

    def wait(self, timeout: float | None) -> None:
        """Wait for the end of the main process, for so many seconds at most."""
        self._wait(lambda: self.returncode is not None, timeout)

    def wait_over(self) -> None:
        """Wait until nothing is left of it."""
        self._wait(lambda: self.over, None)

    def _wait(self, done: Callable[[], bool], timeout: float | None) -> None:
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        left = math.inf
        with self._changed:
            while not done() and left > 0.0:
                left = max(deadline - time.monotonic(), 0.0)
                if self._waited_on:
                    self._changed.wait(min(left, _LONGEST))
                else:
                    self._carry_on(min(left, _LONGEST))

    def _carry_on(self, longest: float) -> None:
        """Let the others ask, meanwhile; but none of them ends it below this thread."""
        self._waited_on = True
        self._block.unwatch(self)
        self._changed.release()
        try:
            _sleep(self.call.fileno(), longest)
        finally:
            self._changed.acquire()
            self._waited_on = False
            self._step()
            if not self.over:
                self._block.watch(self)
            self._changed.notify_all()

    def _step(self, wait: float | None = 0) -> None:
        self.call.step(wait)
        if self.call.rule.ended_at is not None:
            self._end_with(_returncode(self.call))
        if self.call.finished:
            self._let_go()

    def _end_with(self, code: int) -> None:
        if self.returncode is None:
            self.returncode = code
            if popen := self._popen():
                popen.returncode = code
            self._block.ended(self)

    def _let_go(self) -> None:
        self.over = True
        self._block.remove(self)
        self.call.close()

    def tell_exit(self) -> None:
        if self.on_exit is not None:
            assert self.returncode is not None
            self.on_exit(self.returncode)

    def send_signal(self, number: int) -> None:
        with self._changed, contextlib.suppress(ProcessLookupError):
            self.call.signal_main(number)

    def stop(self) -> None:
        """Begin to end its tree."""
        with self._changed:
            if not self.over:
                self.call.stop(Outcome.STOPPED)

    def abandon(self) -> None:
        """Kill it without another look, unless some other thread is at it."""
        with self._changed:
            if not self.over and not self._waited_on:
                self._end_with(-signal.SIGKILL)
                self._let_go()


def _returncode(call: Call) -> int:
    result = call.result()
    if result.exit_code is not None:
        return result.exit_code
    return -(result.signal or signal.SIGKILL)  # which it was if nobody could be asked: KeeperLost


def _sleep(fd: int, longest: float) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll(math.ceil(longest * 1000))


# --- the block --------------------------------------------------------------------------------


class Block:
    """A ``with`` block: what it has started ends with it."""

    def __init__(
        self,
        check_open: Callable[[], None],
        make_spec: Callable[[list[Any], CallOptions], Spec],
        grace: float,
        limits: Limits | None,
    ) -> None:
        self.make_spec = make_spec
        self.running: set[Held] = set()
        self.options: CallOptions = {"grace": grace, "limits": limits}
        make_spec(["/bin/sh"], self.options)  # for their errors
        self._check_open = check_open
        self._open = False
        self._outer: Block | None = None
        self._lock = threading.Lock()

    def open(self) -> None:
        self._check_open()
        _patch_popen()
        self._open = True
        self._outer = _current.get()
        _current.set(self)

    def close(self) -> None:
        """Start nothing more."""
        with self._lock:
            self._open = False
        _current.set(self._outer)

    @staticmethod
    def forget() -> None:
        """All that it has started is over."""
        _restore_popen()

    def start(self, popen: Popen, spec: Spec, outputs: tuple[int, int]) -> Held:
        from .._calls.call import Call

        self._check_open()
        for held in list(self.running):
            if held.returncode is not None:
                held.poll()  # nobody else may ask of it any more
        held = Held(self, popen, Call(spec, eager=True, outputs=outputs))
        held.start()
        return held

    @classmethod
    def current(cls) -> Block | None:
        """The innermost one that this code was called from, or started from, and that is open."""
        block = _current.get()
        while block is not None and not block._open:
            block = block._outer
        return block

    # --- what its processes tell it, in any thread --------------------------------------------

    def add(self, held: Held) -> None:
        with self._lock:
            if not self._open:
                raise SupervisorClosed("the block that this was to be started in has been left")
            self.running.add(held)
        self.watch(held)

    def remove(self, held: Held) -> None:
        self.unwatch(held)
        with self._lock:
            self.running.discard(held)

    def ended(self, held: Held) -> None:
        """Its main process has."""

    def watch(self, held: Held) -> None:
        """Carry it on when there is news of it; until :meth:`unwatch`."""

    def unwatch(self, held: Held) -> None:
        pass


_current: contextvars.ContextVar[Block | None] = contextvars.ContextVar("block", default=None)


# --- Popen ------------------------------------------------------------------------------------

_originals: dict[str, Callable[..., Any]] = {}
_patching = threading.Lock()
_blocks = 0


def _patch_popen() -> None:
    global _blocks
    with _patching:
        _blocks += 1
        if _blocks == 1:
            for name, replacement in _REPLACEMENTS.items():
                _originals[name] = getattr(subprocess.Popen, name)
                setattr(subprocess.Popen, name, replacement)


def _restore_popen() -> None:
    global _blocks
    with _patching:
        _blocks -= 1
        if _blocks == 0:
            for name, original in _originals.items():
                setattr(subprocess.Popen, name, original)


def held_of(popen: Popen) -> Held | None:
    """Its call, if it was started from within a block."""
    return getattr(popen, "_agentsup_held", None)


def _execute_child(popen: Any, *arguments: Any, **named: Any) -> None:
    original = _originals["_execute_child"]
    block = Block.current()
    if block is None:
        original(popen, *arguments, **named)
        return
    given = inspect.signature(original).bind(popen, *arguments, **named).arguments
    spec = _make_spec(block, given)
    sys.audit("subprocess.Popen", spec.program, spec.argv, given["cwd"], given["env"])
    spec.stdin = _its_end(popen, given["p2cread"], 0)
    outputs = _its_end(popen, given["c2pwrite"], 1), _its_end(popen, given["errwrite"], 2)
    held = popen._agentsup_held = block.start(popen, spec, outputs)
    popen.pid = held.call.pid
    popen._child_created = True
    ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
    popen._close_pipe_fds(*(given[name] for name in ends))


def _its_end(popen: Any, given: int, own: int) -> int:
    """What it gets as this descriptor: this process's own if nothing is given."""
    if given != -1:
        return given
    try:
        os.fstat(own)
    except OSError:
        return popen._get_devnull()  # type: ignore[no-any-return]
    return own


def _make_spec(block: Block, given: Mapping[str, Any]) -> Spec:
    """What Popen was asked for, as a call; ValueError for what that cannot be."""
    for name, refused, reason in (
        ("preexec_fn", given["preexec_fn"] is not None, "the keeper starts it, not this process"),
        ("close_fds", not given["close_fds"], "name those that it is to have in pass_fds"),
        ("restore_signals", not given["restore_signals"], "it begins with none ignored"),
        ("process_group", given["process_group"] > 0, "it begins with a session of its own"),
    ):
        if refused:
            raise ValueError(f"{name}={given[name]!r} cannot be had under a supervisor: {reason}")
    command = _argv(given["args"], given["shell"], given["executable"])
    options: CallOptions = {**block.options, "cwd": given["cwd"], "env": given["env"]}
    if given["umask"] >= 0:
        options["umask"] = given["umask"]
    uid, gid, groups = given["uid"], given["gid"], given["gids"]
    if not (uid is gid is groups is None):
        # Popen changes what it was asked to, and a call all that belongs to the user.
        options["group"] = os.getegid() if gid is None else gid
        options["extra_groups"] = list(dict.fromkeys(os.getgroups() if groups is None else groups))
        if uid is not None:
            options["user"] = uid
    executable = given["executable"] or command[0]
    spec = block.make_spec([executable, *command[1:]], options)
    spec.argv[0] = os.fsencode(command[0])
    passed = sorted({int(fd) for fd in given["pass_fds"]})
    spec.passed = tuple((fd, fd) for fd in passed if fd > 2)
    if _is_kept(spec):
        linger = f"linger={DRAIN_TIME}".encode()
        spec.options = spec.options + b"\0" + linger if spec.options else linger
    return spec


def _argv(args: Any, shell: bool, executable: Any) -> list[Any]:
    words: list[Any] = [args] if isinstance(args, (str, bytes, os.PathLike)) else list(args)
    if not shell:
        return words
    if isinstance(args, os.PathLike):
        raise TypeError("path-like args is not allowed when shell is true")
    return [executable or "/bin/sh", "-c", *words]


def _is_kept(spec: Spec) -> bool:
    """Whether there is a keeper to see to what outlives its main process."""
    own_hold = spec.make_hold is not None or spec.containment is Containment.PROCESS_GROUP
    return sys.platform == "linux" and not own_hold


def _internal_poll(popen: Any, *arguments: Any, **named: Any) -> int | None:
    held = held_of(popen)
    if held is None:
        return _originals["_internal_poll"](popen, *arguments, **named)  # type: ignore[no-any-return]  # typeshed has none of them
    if popen.returncode is None:
        held.poll()
        popen.returncode = held.returncode
    return popen.returncode  # type: ignore[no-any-return]


def _wait(popen: Any, timeout: float | None) -> int | None:
    held = held_of(popen)
    if held is None:
        return _originals["_wait"](popen, timeout)  # type: ignore[no-any-return]
    if popen.returncode is None:
        held.wait(timeout)
        popen.returncode = held.returncode
    if popen.returncode is None:
        assert timeout is not None
        raise subprocess.TimeoutExpired(popen.args, timeout)
    return popen.returncode  # type: ignore[no-any-return]


def _send_signal(popen: Any, sig: int) -> None:
    held = held_of(popen)
    if held is None:
        _originals["send_signal"](popen, sig)
    elif popen.poll() is None:
        held.send_signal(sig)


_REPLACEMENTS: dict[str, Callable[..., Any]] = {
    "_execute_child": _execute_child,
    "_internal_poll": _internal_poll,
    "_wait": _wait,
    "send_signal": _send_signal,
}
