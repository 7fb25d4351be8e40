"""Who started it: the interpreter's audit events (PEP 578) of one test, each with its stack.

An audit hook cannot be removed and hears of everything that any code does.  So there is one, from
when it is first needed on, and it lets go at once of what nobody records.  What it keeps is bounded
and ends with the test.
"""

from __future__ import annotations

import functools
import inspect
import mmap
import os
import re
import shlex
import struct
import sys
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import evolve, field, frozen

if TYPE_CHECKING:
    import socket
    import subprocess
    from collections.abc import Callable, Iterable, Iterator
    from types import CodeType, FrameType

    from .processes import ProcessInfo

    Stack: TypeAlias = list[tuple[CodeType, int]]

_DEPTH = 80  # frames that are looked at
_SHOWN = 4  # frames that are told
_KEPT = 512  # events of a kind, the newest
_TICK = 0.01  # seconds: how exactly the kernel tells when a process was started
_ABOUT = 1.0  # seconds from an event to what comes of it, on a busy machine
_FORKED = 1024  # slots for the pids of forks

# Code that is between a test and what it calls, and says nothing about who it was.
_PACKAGES = (
    "_pytest", "agentsup", "anyio", "execnet", "outcome", "pluggy", "pytest", "pytest_asyncio",
    "pytest_trio", "sniffio", "trio", "uvloop", "xdist",
)  # fmt: skip
_INSTALLED = re.compile(r".*[/\\](?:site|dist)-packages[/\\](\w+)")
_STDLIB = os.path.dirname(os.__file__) + os.sep
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


@frozen
class Origin:
    """One event."""

    argv: tuple[str, ...] = ()
    stack: Stack = field(factory=list["tuple[CodeType, int]"])
    #: By a thread that was there before the test.
    foreign: bool = False
    #: By CLOCK_BOOTTIME, as the start of a process.
    at: float = 0.0
    #: It may have been another one.
    guessed: bool = False

    @property
    def command(self) -> str:
        return shlex.join(self.argv)

    def lines(self) -> Iterator[str]:
        """For people: the innermost frames, but for those of the libraries between."""
        frames = [frame for frame in self.stack if _is_telling(frame[0].co_filename)]
        for code, line in (frames or self.stack)[:_SHOWN]:
            yield f"{_short(code.co_filename)}:{line} in {code.co_name}"


def _is_telling(filename: str) -> bool:
    if filename.startswith(("<", _OWN)):
        return False
    if installed := _INSTALLED.match(filename):
        return installed[1] not in _PACKAGES
    return not filename.startswith(_STDLIB)


def _short(filename: str) -> str:
    below = os.path.relpath(filename)
    return filename if below.startswith("..") else below


class Origins:
    """What one test has started, opened and made, as far as the interpreter tells."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._others = {thread.ident for thread in threading.enumerate()} - {self._thread}
        self._began = _now()
        self._spawns: deque[Origin] = deque(maxlen=_KEPT)
        self._popens: deque[tuple[weakref.ref[subprocess.Popen[Any]], Origin]] = deque(maxlen=_KEPT)
        self._threads: deque[tuple[weakref.ref[threading.Thread], Origin]] = deque(maxlen=_KEPT)
        self._sockets: deque[tuple[weakref.ref[socket.socket], Origin]] = deque(maxlen=_KEPT)
        self._opens: deque[tuple[str | bytes, Origin]] = deque(maxlen=_KEPT)
        #: Temporary files and directories; they may be gone.
        self.files: dict[str, Origin] = {}
        self._forked = mmap.mmap(-1, _FORKED * 4)  # shared with the children

    def begin(self) -> None:
        _install()
        _recording.append(self)

    def end(self) -> None:
        if self in _recording:
            _recording.remove(self)
        self._forked.close()

    def disown(self, threads: Iterable[threading.Thread]) -> None:
        """They are not the test's, nor is what they do from now on."""
        self._others.update(thread.ident for thread in threads)

    # --- what was heard -----------------------------------------------------------------------

    def popen(self, pid: int) -> subprocess.Popen[Any] | None:
        return next((popen for popen, _ in self._living_popens() if popen.pid == pid), None)

    def is_child(self, pid: int) -> bool:
        """Whether this process itself has started it; orphans that it has adopted look the same."""
        (forked,) = struct.unpack_from("i", self._forked, pid % _FORKED * 4)
        return pid == forked or self.popen(pid) is not None

    def of_process(self, process: ProcessInfo) -> Origin | None:
        """The event that it came from, or if it is a descendant, most likely came from."""
        from .._linux.keeper import CLOCK_TICKS

        origin = next((it for popen, it in self._living_popens() if popen.pid == process.pid), None)
        if origin is not None:
            return origin
        started = process.start_time / CLOCK_TICKS + _TICK
        before = [origin for origin in tuple(self._spawns) if origin.at <= started]
        same = [origin for origin in before if origin.argv == process.argv]
        found = next(reversed(same or before), None)
        return found and evolve(found, guessed=not same and len(before) > 1)

    def may_be_older(self, process: ProcessInfo) -> bool:
        """Another thread may have been about to start it when this began to listen."""
        from .._linux.keeper import CLOCK_TICKS

        return bool(self._others) and process.start_time / CLOCK_TICKS < self._began + _ABOUT

    def _living_popens(self) -> Iterator[tuple[subprocess.Popen[Any], Origin]]:
        for reference, origin in tuple(self._popens):
            # Its pid is there after the start, which may have failed.
            if (popen := reference()) is not None and getattr(popen, "pid", None):
                yield popen, origin

    def of_thread(self, thread: threading.Thread) -> Origin | None:
        return next((origin for ref, origin in tuple(self._threads) if ref() is thread), None)

    def of_socket(self, fd: int) -> Origin | None:
        """Of the socket object that has this descriptor now."""
        for reference, origin in reversed(tuple(self._sockets)):
            if (found := reference()) is not None and found.fileno() == fd:
                return origin
        return None

    def of_pipe(self, fd: int) -> Origin | None:
        """Of the Popen whose output or input it is."""
        for popen, origin in self._living_popens():
            for stream in (popen.stdin, popen.stdout, popen.stderr):
                if stream is not None and not stream.closed and stream.fileno() == fd:
                    return origin
        return None

    def of_file(self, target: str) -> Origin | None:
        """Of the last that opened this file."""
        for path, origin in reversed(tuple(self._opens)):
            if os.path.realpath(os.fsdecode(path)) == target:
                return origin
        return None

    # --- hearing it ---------------------------------------------------------------------------

    def _origin(self, argv: Iterable[object] = ()) -> Origin:
        found: Stack = []
        frame: FrameType | None = _caller(inspect.currentframe(), 3)
        while frame is not None and len(found) < _DEPTH:
            found.append((frame.f_code, frame.f_lineno))
            frame = frame.f_back
        return Origin(_words(argv), found, threading.get_ident() in self._others, _now())

    def on_popen(self, args: tuple[Any, ...]) -> None:
        origin = self._origin([args[1]] if isinstance(args[1], str | bytes) else args[1])
        self._spawns.append(origin)
        # Popen._execute_child: its object, which has the pid in a moment.
        frame = _caller(inspect.currentframe(), 2)
        if frame is not None and (popen := frame.f_locals.get("self")) is not None:
            self._popens.append((weakref.ref(popen), origin))

    def on_spawn(self, args: tuple[Any, ...]) -> None:
        self._spawns.append(self._origin(args[1]))

    def on_system(self, args: tuple[Any, ...]) -> None:
        self._spawns.append(self._origin(["sh", "-c", args[0]]))

    def on_call(self, args: tuple[Any, ...]) -> None:
        self._spawns.append(self._origin(args[0]))

    def on_fork(self, args: tuple[Any, ...]) -> None:
        self._spawns.append(self._origin())

    def on_thread(self, args: tuple[Any, ...]) -> None:
        thread = getattr(args[0], "__self__", None)
        if isinstance(thread, threading.Thread):
            self._threads.append((weakref.ref(thread), self._origin()))

    def on_socket(self, args: tuple[Any, ...]) -> None:
        self._sockets.append((weakref.ref(args[0]), self._origin()))

    def on_open(self, args: tuple[Any, ...]) -> None:
        path = args[0]
        frame = _caller(inspect.currentframe(), 2)
        if isinstance(path, str | bytes) and frame and not _is_import(frame):
            self._opens.append((path, self._origin()))

    def on_temporary(self, args: tuple[Any, ...]) -> None:
        if len(self.files) < _KEPT:
            self.files[os.path.abspath(os.fsdecode(args[0]))] = self._origin()

    def note_fork(self) -> None:
        """In the child: for the parent to know it by."""
        pid = os.getpid()
        struct.pack_into("i", self._forked, pid % _FORKED * 4, pid)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else 0.0


def _caller(frame: FrameType | None, levels: int) -> FrameType | None:
    """Who is so many levels above; two are the hook's and its method's."""
    for _ in range(levels):
        frame = frame and frame.f_back
    return frame


def _is_import(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith("<frozen importlib")


def _words(argv: Iterable[object]) -> tuple[str, ...]:
    return tuple(os.fsdecode(word) if isinstance(word, bytes) else str(word) for word in argv)


_EVENTS: dict[str, Callable[[Origins, tuple[Any, ...]], None]] = {
    "subprocess.Popen": Origins.on_popen,
    "os.posix_spawn": Origins.on_spawn,
    "os.system": Origins.on_system,
    "os.fork": Origins.on_fork,
    "os.forkpty": Origins.on_fork,
    "agentsup.spawn": Origins.on_call,
    "_thread.start_new_thread": Origins.on_thread,
    "_thread.start_joinable_thread": Origins.on_thread,
    "socket.__new__": Origins.on_socket,
    "open": Origins.on_open,
    "tempfile.mkstemp": Origins.on_temporary,
    "tempfile.mkdtemp": Origins.on_temporary,
}
_recording: list[Origins] = []  # the last hears; a pytest in a test has its own
_installed = False


def _hook(
    event: str,
    args: tuple[Any, ...],
    events: dict[str, Callable[[Origins, tuple[Any, ...]], None]] = _EVENTS,
    recording: list[Origins] = _recording,  # as an interpreter that ends takes the globals away
) -> None:
    if event in events and recording:
        try:
            events[event](recording[-1], args)
        except Exception:  # it would fail what the hook is only told of
            pass


def _install() -> None:
    global _installed
    if not _installed:
        _installed = True
        sys.addaudithook(_hook)
        if sys.version_info < (3, 12):
            _add_thread_events()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_after_fork)


def _add_thread_events() -> None:
    """Python 3.12 has them."""
    start = threading.Thread.start

    @functools.wraps(start)
    def audited(self: threading.Thread) -> None:
        sys.audit("_thread.start_new_thread", self._bootstrap, (), None)  # type: ignore[attr-defined]
        start(self)

    threading.Thread.start = audited  # type: ignore[method-assign]


def _after_fork() -> None:
    if _recording:
        _recording[-1].note_fork()
        _recording.clear()
