"""What a test has left behind: what is there after it and was not before.

=========  ===========================================================  ============================
kind       what counts                                                  what becomes of it
=========  ===========================================================  ============================
process    a child, an orphan of its descendants, an agentsup tool      killed, with what is below
zombie     a child of its own that nobody has waited for                reaped
thread     a thread of :mod:`threading`                                 runs on
fd         a descriptor                                                 stays open
socket     a descriptor that is a socket                                stays open
port       a socket that listens                                        stops listening
file       made by :mod:`tempfile`, and still there                     removed
=========  ===========================================================  ============================

Where it is in doubt whose something is, nothing is said of it.  That is: what a thread or a process
that was there before the test has started; the tools of a supervisor that had some before it, and
the pipes to them; an idle thread of a pool (the pool ends with who has it); connections that a
server took that had listened before; temporary files in a directory that is not the system's.
"""

from __future__ import annotations

import contextlib
import fnmatch
import gc
import os
import shlex
import shutil
import signal
import socket
import stat
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from attrs import define, field, frozen

from .origins import Origins

if sys.platform == "linux":
    from .._linux.keeper import children_of, prctl, read_proc, start_time, stat_fields
    from .processes import kill, look_at

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from .origins import Origin
    from .processes import ProcessInfo

KINDS = ("process", "zombie", "thread", "fd", "socket", "port", "file")

#: What is no leak, whoever has made it: opened once in a process and kept, or removed at its exit.
IGNORED = (
    "fd:/dev/random",
    "fd:/dev/urandom",
    "fd:*.coverage*",
    "fd:*/__pycache__/*",
    "file:*/pymp-*",
    "file:*/pytest-of-*",
    "thread:pytest_timeout *",
)

GRACE = 1.0  # seconds for what is just ending, where something was found
DYING = 30.0  # seconds for a process that has been killed; a busy machine takes its time
KILLING = 10.0  # seconds to kill what was left; there may be what cannot be killed
_PAUSE = 0.005  # seconds between two looks; of most that is left, nothing tells its end
_LONGEST = 200  # characters of a name
_EXITING = 0x4  # PF_EXITING, a flag of proc_pid_stat(5)
_SET_SUBREAPER, _GET_SUBREAPER = 36, 37  # PR_…_CHILD_SUBREAPER

# Functions in which a thread of a pool waits for work, and the modules that do the waiting.
_IDLE = {("concurrent.futures.thread", "_worker"), ("anyio._backends._asyncio", "run")}
_WAITING = {"threading", "queue"}


@frozen
class Leak:
    kind: str
    #: What patterns are compared with: a command line, what a descriptor is open on, a path.
    name: str
    origin: Origin | None = None
    #: Of a process, a descriptor.
    number: int | None = None
    detail: str = ""
    #: It ends by itself in a moment.
    ending: bool = False

    def lines(self) -> Iterator[str]:
        """For people; the first one says what it is."""
        number = "" if self.number is None else f" {self.number}"
        yield f"{self.kind}{number}: {_brief(self.name)}{self.detail}"
        if self.origin is not None:
            if self.origin.command and self.origin.command != self.name:
                most_likely = "most likely " if self.origin.guessed else ""
                yield f"{most_likely}started by: {_brief(self.origin.command)}"
            yield from self.origin.lines()


class Snapshot(NamedTuple):
    """What there is."""

    processes: set[tuple[int, int]]  # children: pid, start time
    tools: set[tuple[int, int]]  # children of what starts processes for this one
    threads: set[threading.Thread]
    fds: set[tuple[int, str]]
    files: set[str]

    def minus(self, other: Snapshot) -> Snapshot:
        return Snapshot(
            self.processes - other.processes,
            self.tools - other.tools,
            self.threads - other.threads,
            self.fds - other.fds,
            self.files - other.files,
        )

    def add(self, other: Snapshot) -> None:
        self.processes.update(other.processes)
        self.tools.update(other.tools)
        self.threads.update(other.threads)
        self.fds.update(other.fds)
        self.files.update(other.files)


def look(files: Iterable[str] = ()) -> Snapshot:
    return Snapshot(
        processes=_children(os.getpid()),
        tools={child for starter in _starters() for child in _children(starter)},
        threads=set(threading.enumerate()),
        fds=set(_descriptors()),
        files={path for path in files if os.path.lexists(path)},
    )


def _children(pid: int) -> set[tuple[int, int]]:
    if sys.platform != "linux":
        return set()
    return {(child, start_time(child)) for child in children_of(pid)}


def _starters() -> set[int]:
    """Children of this process that start others for it, and end with it."""
    found: set[int] = set()
    if lifeline := sys.modules.get("agentsup._linux.lifeline"):
        found |= lifeline.keepers()
    if server := sys.modules.get("multiprocessing.forkserver"):
        found.add(server._forkserver._forkserver_pid or 0)
    return found - {0}


def _servants() -> set[int]:
    """Children that are not a test's: these, and what all tests share."""
    found = _starters()
    if tracker := sys.modules.get("multiprocessing.resource_tracker"):
        found.add(tracker._resource_tracker._pid or 0)
    if shared := sys.modules.get("agentsup.testing.shared"):
        found |= {supervisor.holder for supervisor in shared.connected()}
    return found


def _servants_fds() -> set[int | None]:
    """The descriptors that belong to them."""
    found: set[int | None] = set()
    if lifeline := sys.modules.get("agentsup._linux.lifeline"):
        for kept in lifeline._all:
            found |= {kept.lifeline.fileno(), kept.pidfd}
            for channel in kept.idle:
                found |= {channel.fd, channel.epoll.fileno(), channel.timer.fd}
    if server := sys.modules.get("multiprocessing.forkserver"):
        found.add(server._forkserver._forkserver_alive_fd)
    if tracker := sys.modules.get("multiprocessing.resource_tracker"):
        found.add(tracker._resource_tracker._fd)
    if shared := sys.modules.get("agentsup.testing.shared"):
        found |= {supervisor.connection.fileno() for supervisor in shared.connected()}
    return found


def _descriptors() -> Iterator[tuple[int, str]]:
    """Each with what it is open on, but for the standard ones, which pytest redirects."""
    folder = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    try:
        numbers = [int(name) for name in os.listdir(folder)]
    except OSError:
        return  # there is no such list here
    for fd in numbers:
        if fd > 2:
            try:
                yield fd, _target(fd)
            except OSError:
                pass  # the one of the listing itself


def _target(fd: int) -> str:
    if sys.platform == "linux":
        return os.readlink(f"/proc/self/fd/{fd}")
    found = os.fstat(fd)
    kind = "socket" if stat.S_ISSOCK(found.st_mode) else "device"
    return f"{kind}:[{found.st_dev}:{found.st_ino}]"


@define
class Detector:
    """Looks before a test, and after it."""

    ignored: Sequence[str] = IGNORED
    before: Snapshot = field(init=False)
    _origins: Origins = field(init=False)
    _was_subreaper: bool = False
    _had_uvloop: bool = False

    def begin(self) -> None:
        self._origins = Origins()
        self._had_uvloop = "uvloop" in sys.modules
        if sys.platform == "linux":
            # Orphans come to us then, and not to init, where they would be anybody's.
            self._was_subreaper = _is_subreaper()
            prctl(_SET_SUBREAPER, 1)
        self.before = look()
        self._origins.begin()

    def end(self) -> list[Leak]:
        """What the test has left. What can be removed is removed."""
        try:
            found = self._wait()
            self._remove(found)
            return found
        finally:
            self._origins.end()
            if sys.platform == "linux" and not self._was_subreaper:
                prctl(_SET_SUBREAPER, 0)

    @contextlib.contextmanager
    def elsewhere(self) -> Generator[Snapshot]:
        """What is made meanwhile is not the test's. It is in the snapshot at the end."""
        new = Snapshot(set(), set(), set(), set(), set())
        before = self._look()
        try:
            yield new
        finally:
            new.add(self._look().minus(before))
            self.before.add(new)
            self._origins.disown(new.threads)

    def _look(self) -> Snapshot:
        return look(tuple(self._origins.files))

    def _wait(self) -> list[Leak]:
        """Give what is about to end some time for it, if there is something."""
        found = self._find()
        if not found:
            return []
        gc.collect()  # some objects of the test may only wait for that
        began = time.monotonic()
        while found := self._find():
            bound = DYING if all(leak.ending for leak in found) else GRACE
            if time.monotonic() > began + bound:
                break
            time.sleep(_PAUSE)
        return found

    def _find(self) -> list[Leak]:
        new = self._look().minus(self.before)
        if not any(new):
            return []
        found = [
            *self._find_processes(new.processes),
            *self._find_tools(new.tools),
            *self._find_threads(new.threads),
            *self._find_fds(new.fds),
            *self._find_files(new.files),
        ]
        return [leak for leak in found if not self._is_ignored(leak)]

    def _is_ignored(self, leak: Leak) -> bool:
        name = f"{leak.kind}:{leak.name}"
        return bool(leak.origin and leak.origin.foreign) or any(
            fnmatch.fnmatchcase(name, pattern) for pattern in self.ignored
        )

    # --- processes ----------------------------------------------------------------------------

    def _find_processes(self, new: set[tuple[int, int]]) -> Iterator[Leak]:
        servants = _servants() if new else set[int]()
        for pid, start in new:
            process = look_at(pid)
            if pid in servants or process is None or process.start_time != start:
                continue
            if not process.zombie:
                if not self._is_of_another(process):
                    yield self._process(process)
            elif self._origins.is_child(pid) or pid in _multiprocessing():
                origin = self._origins.of_process(process)
                yield Leak("zombie", process.argv[0].strip("[]"), origin, pid)
            elif not self._had_loop_of_uvloop():
                _reap(pid)  # an orphan that has ended, which would have been init's

    def _had_loop_of_uvloop(self) -> bool:
        """It starts processes without a word to Python, and waits for them."""
        return self._had_uvloop and any(it.endswith("[eventpoll]") for _, it in self.before.fds)

    def _is_of_another(self, process: ProcessInfo) -> bool:
        """Whether it is an orphan of a process that was there before the test, or may be another
        thread's."""
        if self._origins.of_process(process) is None and self._origins.may_be_older(process):
            return True
        try:
            group, session = os.getpgid(process.pid), os.getsid(process.pid)
        except OSError:
            return True  # it has just ended
        others = {before for before, _ in self.before.processes | self.before.tools}
        return group in others or session in others

    def _find_tools(self, new: set[tuple[int, int]]) -> Iterator[Leak]:
        if self.before.tools:
            return  # who has these may have restarted one
        for pid, start in new:
            process = look_at(pid)
            if process is not None and process.start_time == start and not process.zombie:
                yield self._process(process)

    def _process(self, process: ProcessInfo) -> Leak:
        addresses = _listening(process.pid)
        return Leak(
            "process",
            shlex.join(process.argv),
            self._origins.of_process(process),
            process.pid,
            f" (listening on {', '.join(addresses)})" if addresses else "",
            _is_dying(process.pid),
        )

    # --- all the rest -------------------------------------------------------------------------

    def _find_threads(self, new: set[threading.Thread]) -> Iterator[Leak]:
        if not new:
            return
        frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage] -- documented
        for thread in new:
            frame = frames.get(thread.ident or 0)
            if frame is None or _is_idle(frame) or type(thread).__name__ == "_DummyThread":
                continue  # it has just ended, or is not of Python
            kind = " (daemon)" if thread.daemon else ""
            yield Leak("thread", thread.name, self._origins.of_thread(thread), detail=kind)

    def _find_fds(self, new: set[tuple[int, str]]) -> Iterator[Leak]:
        servants = _servants_fds() if new else set[int | None]()
        pipe = _first_pipe(new) if self._imported_uvloop() else ""
        for fd, target in sorted(new):
            if fd in servants or target == pipe:
                continue
            if target.startswith("socket:"):
                leak = self._socket(fd)
                if leak is not None:
                    yield leak
            elif target.startswith("/"):
                yield Leak("fd", target, self._origins.of_file(target), fd)
            elif not self.before.tools:
                yield Leak("fd", target, self._origins.of_pipe(fd), fd)

    def _imported_uvloop(self) -> bool:
        """Its first loop opens a pipe for signals, and the process keeps that."""
        return not self._had_uvloop and "uvloop" in sys.modules

    def _socket(self, fd: int) -> Leak | None:
        try:
            with socket.socket(fileno=os.dup(fd)) as found:
                origin = self._origins.of_socket(fd)
                local, listens = found.getsockname(), _listens(found)
                if not listens and _port(local) and _port(local) in self._ports_before():
                    return None
                if not listens and not _port(local) and self.before.tools:
                    return None  # such as a supervisor has to its keeper
                return Leak("port" if listens else "socket", _describe(found), origin, fd)
        except OSError:
            return None  # it has just been closed

    def _ports_before(self) -> set[object]:
        found: set[object] = set()
        for fd, target in self.before.fds:
            if target.startswith("socket:"):
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as other:
                    if _listens(other):
                        found.add(_port(other.getsockname()))
        return found

    def _find_files(self, new: set[str]) -> Iterator[Leak]:
        folder = os.path.abspath(tempfile.gettempdir())
        for path in new:
            # Elsewhere it goes with its directory, or is meant to stay.
            if os.path.dirname(path) == folder:
                yield Leak("file", path, self._origins.files.get(path))

    # --- removing it --------------------------------------------------------------------------

    def _remove(self, found: Iterable[Leak]) -> None:
        for leak in found:
            if leak.kind == "port" and leak.number is not None:
                _silence(leak.number)
            elif leak.kind == "file":
                _delete(leak.name)
        if any(leak.kind in ("process", "zombie") for leak in found):
            self._kill()

    def _kill(self) -> None:
        """All the processes that it has left, to a fixpoint: their orphans come to us."""
        deadline = time.monotonic() + KILLING
        while time.monotonic() < deadline:
            new = self._look().minus(self.before)
            found = [
                leak
                for leak in [*self._find_processes(new.processes), *self._find_tools(new.tools)]
                if not self._is_ignored(leak)
            ]
            if not found:
                return
            for pid in [leak.number for leak in found if leak.number is not None]:
                if (process := look_at(pid)) is not None:
                    kill([process])
                if popen := self._origins.popen(pid):
                    popen.poll()  # which tells it how it has ended
                else:
                    _reap(pid)
            time.sleep(_PAUSE)


def _is_subreaper() -> bool:
    import ctypes

    value = ctypes.c_int()
    ctypes.CDLL(None).prctl(_GET_SUBREAPER, ctypes.byref(value), 0, 0, 0)
    return bool(value.value)


def _brief(text: str) -> str:
    line = text.replace("\n", "\\n")
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def _multiprocessing() -> set[int | None]:
    module = sys.modules.get("multiprocessing.process")
    return {process.pid for process in tuple(module._children)} if module else set()


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _is_dying(pid: int) -> bool:
    """It has been killed, or is on its way out; a process that has many pages takes some time."""
    fields = stat_fields(pid)
    if not fields or int(fields[6]) & _EXITING:
        return True
    for line in read_proc(f"/proc/{pid}/status").splitlines():
        name, _, mask = line.partition(b":")
        if name in (b"SigPnd", b"ShdPnd") and int(mask, 16) & 1 << (signal.SIGKILL - 1):
            return True
    return False


def _is_idle(frame: Any) -> bool:
    """Whether the thread is a pool's, and waits for work."""
    while frame is not None and frame.f_globals.get("__name__") in _WAITING:
        frame = frame.f_back
    if frame is None:
        return False
    module = frame.f_globals.get("__name__")
    return module == "trio._core._thread_cache" or (module, frame.f_code.co_name) in _IDLE


def _first_pipe(fds: Iterable[tuple[int, str]]) -> str:
    """The first both ends of which are here."""
    seen: set[str] = set()
    for _, target in sorted(fds):
        if target in seen and target.startswith("pipe:"):
            return target
        seen.add(target)
    return ""


def _silence(fd: int) -> None:
    """Let go of what a descriptor is open on. Its number stays, for who has it may close it."""
    with contextlib.suppress(OSError), open(os.devnull, "rb") as null:
        os.dup2(null.fileno(), fd, inheritable=False)


def _delete(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)


# --- addresses --------------------------------------------------------------------------------


def _listens(found: socket.socket) -> bool:
    try:
        return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False  # of a kind that never does


def _port(address: object) -> object:
    """What a server and its connections have in common."""
    return cast("tuple[object, ...]", address)[1] if isinstance(address, tuple) else address


def _describe(found: socket.socket) -> str:
    words = [found.family.name, found.type.name]
    if local := found.getsockname():
        words.append(_text(local))
    with contextlib.suppress(OSError):
        if peer := found.getpeername():
            words.append(f"to {_text(peer)}")
    return " ".join(words)


def _text(address: object) -> str:
    if isinstance(address, tuple):
        host, port, *_ = cast("tuple[object, ...]", address)
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return os.fsdecode(cast("str | bytes", address))


def _listening(pid: int) -> list[str]:
    """Where a process listens, as far as that may be seen."""
    mine: set[str] = set()
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            mine.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    except OSError:
        pass
    inodes = {target[8:-1] for target in mine if target.startswith("socket:[")}
    return sorted(where for inode, where in _listeners(pid) if inode in inodes) if inodes else []


def _listeners(pid: int) -> Iterator[tuple[str, str]]:
    """The inode and the address of all that listen in its network (proc_pid_net(5))."""
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for fields in _rows(pid, table):
            if fields[3] == "0A":  # TCP_LISTEN
                address, _, port = fields[1].partition(":")
                yield fields[9], _text((_address(family, address), int(port, 16)))
    for fields in _rows(pid, "unix"):
        if len(fields) > 7 and int(fields[3], 16) & 0x10000:  # __SO_ACCEPTCON
            yield fields[6], fields[7]


def _rows(pid: int, table: str) -> list[list[str]]:
    try:
        with open(f"/proc/{pid}/net/{table}", errors="surrogateescape") as file:
            return [line.split() for line in file.readlines()[1:]]
    except OSError:
        return []


def _address(family: socket.AddressFamily, digits: str) -> str:
    """In /proc, an address is 32-bit numbers as this machine has them."""
    raw = bytes.fromhex(digits)
    numbers = [raw[at : at + 4] for at in range(0, len(raw), 4)]
    if sys.byteorder == "little":
        numbers = [number[::-1] for number in numbers]
    return socket.inet_ntop(family, b"".join(numbers))
