"""The keeper: one small process that starts, contains and reaps every tool of one host process.

It is run as ``python -I -S keeper.py …``, imports the standard library only, and can be read in
one sitting.  It is a *subreaper* (prctl(2), PR_SET_CHILD_SUBREAPER): whatever a tool orphans,
however it daemonizes, becomes the keeper's child, never PID 1's, and never the host's.

Two kinds of socket, both ``SOCK_SEQPACKET``, so that a message is never split:

========  ==================  ====================================================================
socket    message             meaning
========  ==================  ====================================================================
lifeline  OPEN + fd           host → keeper. The descriptor is the keeper's end of a new channel
lifeline  REFUSED             keeper → host. A descriptor that came with OPEN found no room
lifeline  (end of file)       the host is gone, however it died: kill everything, exit
channel   SPAWN + fds         host → keeper. Start a program. fds: cwd, then one for each target
                              number; with LARGE, a memfd with the body last
channel   SIGNAL number       host → keeper. Send it to every process of the call
channel   KILL                host → keeper. SIGKILL the call's tree to a fixpoint, then KILLED
channel   FOLLOW pid          host → keeper. Tell of the end of this process of the call, too
channel   (end of file)       the host let go of the call: as KILL, and nobody to tell
channel   ASK                 host → keeper. Send STARTED now, if it still runs
channel   STARTED pid index   keeper → host. It runs, as the spawn of this number; with it comes
          + fd                its pidfd. Only with EAGER, or when asked
channel   FAILED errno step   keeper → host. It does not, and why. The last message of the call
channel   EXITED pid index …  keeper → host. The main process is reaped: status, rusage, whether
                              others of its tree live on (if not: the last message), limits hit
channel   FOLLOWED pid + fd   keeper → host. It does, and its pidfd; or 0: the call has no such one
channel   ENDED status        keeper → host. That one has ended; -1 if its status went to its parent
channel   EMPTY               keeper → host. Those others ended by themselves. The last message
channel   KILLED entries      keeper → host. The tree is gone; who had to be killed, who could not
                              be. The last message
channel   BROKEN text         keeper → host. A bug in this file, with its traceback
========  ==================  ====================================================================

A channel carries one call at a time and may carry another one after the last message.  A call
belongs to whoever holds the other end: no message can reach the wrong reader, and a host that
loses track of a call in any way closes the channel, which kills the call's tree.

**Whose orphan is it?**  Before each spawn the keeper lowers its own *hard* ``RLIMIT_RTTIME`` by
``stride``.  Limits are inherited by every descendant and an unprivileged process cannot raise a
hard one (setrlimit(2)), so a process carries its call's number through fork, exec, setsid and
``env -i``.  The values lie near 2^62 µs; the limit binds realtime-scheduled threads only, and
those never run for that long.  See ``_rules/tags.py`` for how the numbers are dealt out.

**Signalling without a race.**  A direct child stays a zombie until this process reaps it, so its
pid cannot be reused and kill(2) is safe.  Any other process is signalled through a pidfd whose
membership was checked *after* it was opened.
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
import struct
import sys
import time
from _socket import (
    AF_UNIX,
    CMSG_SPACE,
    MSG_CMSG_CLOEXEC,
    MSG_CTRUNC,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    MSG_TRUNC,
    SCM_RIGHTS,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    socket,
)
from errno import EINVAL, EMFILE, ENOMEM

# The C modules: `socket` and `signal` import `enum`, which doubles the start-up time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, NoReturn

    from .cgroup import Group, Leaf
    from .namespace import Init
else:
    import _signal as signal

OPEN, SPAWN, ASK, SIGNAL, KILL, FOLLOW, REFUSED = b"O", b"S", b"a", b"s", b"k", b"f", b"R"
STARTED, FAILED, EXITED, EMPTY, KILLED, BROKEN = b"1", b"2", b"3", b"4", b"5", b"6"
FOLLOWED, ENDED = b"7", b"8"

# op, flags, umask, then the lengths in bytes of argv, env and options, all NUL-separated.
# The first of argv is the path to execute; the rest is what the program sees.
SPAWN_HEADER = struct.Struct("=cBH3I")
STARTED_BODY = struct.Struct("=cII")  # pid, number of the spawn
FAILED_BODY = struct.Struct("=cI")  # and the step's name
# pid, number of the spawn, wait status, user s, system s, max RSS in KiB, flags
EXITED_BODY = struct.Struct("=cIIiddQB")
FOLLOW_BODY = struct.Struct("=cI")
FOLLOWED_BODY = struct.Struct("=cI")
ENDED_BODY = struct.Struct("=ci")
KILLED_BODY = struct.Struct("=cI")  # how many had to be killed; entries for the first of them
ENTRY = struct.Struct("=IBBH")  # pid, how it was found, gone, length of the argv that follows

LARGE, EAGER = 1, 2  # flags of SPAWN
LIVE, MEMORY_HIT, PROCESSES_HIT = 1, 2, 4  # flags of EXITED
DESCENDANT, ORPHAN, UNATTRIBUTED, GROUPED = range(4)  # how a process was found

PACKET_MAX = 1 << 16
FDS_SPACE = CMSG_SPACE(64 * 4)
ENTRIES_MAX = 64
ARGV_MAX = 512

KILL_BOUND = 5.0  # seconds until a tree that will not die (state D, or not ours) is reported
RESCAN = 0.02  # seconds between two looks at a tree that is being killed, if nothing happens
LOOKS = 3  # for one process, which may be orphaned meanwhile
WAVE_BOUND = 0.1  # seconds that one tree may keep the others waiting
INFINITY = float("inf")

# 32 and 33 belong to the C library.
ALL_SIGNALS = [n for n in range(1, 65) if n not in (32, 33)]
STOPS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")  # a second; the unit of start times in /proc/PID/stat

LIFELINE_FD = 3
RECORD_FD = 4


class Channel:
    """One connection to the host, and the call that it carries."""

    def __init__(self, fd: int) -> None:
        self.socket = socket(AF_UNIX, SOCK_SEQPACKET, 0, fd)
        self.call: Call | None = None


class Call:
    """One spawned program and everything that descends from it."""

    def __init__(self, channel: Channel, index: int) -> None:
        self.channel: Channel | None = channel
        self.index = index
        self.pid = 0  # our child: the main process, or the init of its namespace
        self.main = 0
        self.init: Init | None = None
        self.leaf: Leaf | None = None
        self.born = int(time.clock_gettime(time.CLOCK_BOOTTIME) * CLOCK_TICKS)
        self.exited = False
        self.killing = False
        self.kill_deadline = 0.0
        self.linger = INFINITY  # seconds that others may outlive the main process
        self.kill_at = INFINITY
        self.waves = 0
        # pid -> (how it was found, argv), the main process included
        self.killed: dict[int, tuple[int, bytes]] = {}
        self.spared: set[int] = set()  # pids that we may not signal
        self.followed: tuple[int, int] | None = None  # a pid and its pidfd


class Keeper:
    """The calls in hand, and the loop that serves them."""

    def __init__(self, host_pid: int, tag_base: int, tag_stride: int) -> None:
        self.tag_base = tag_base
        self.tag_stride = tag_stride
        self.spawned = 0
        self.channels: dict[int, Channel] = {}  # descriptor -> Channel
        self.calls: set[Call] = set()
        self.mains: dict[int, Call] = {}  # pid of our child -> Call
        self.by_index: dict[int, Call] = {}  # number of the spawn -> Call
        # Calls whose main process is gone, or that are being killed.
        self.waiting: set[Call] = set()
        self.inits: dict[int, Call] = {}  # descriptor -> Call, until its main process has ended
        self.followed: dict[int, Call] = {}  # pid -> Call
        self.followed_fds: dict[int, Call] = {}  # its pidfd -> Call
        self.groups: dict[str, str] = {}  # delegated control group -> ours below it
        self.group: Group | None = None  # where we are when we are in no leaf
        self.buffer = bytearray(PACKET_MAX)
        self.environment: tuple[bytes, dict[bytes, bytes]] = (b"", {})
        self.children_fd = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY)
        self.lifeline = socket(AF_UNIX, SOCK_SEQPACKET, 0, LIFELINE_FD)
        become_subreaper()
        self.signals = signal_descriptor(signal.SIGCHLD)
        self.epoll = select.epoll()
        for fd in (LIFELINE_FD, self.signals):
            self.epoll.register(fd, select.EPOLLIN)
        self.host = self.watch_host(host_pid)

    def watch_host(self, host_pid: int) -> int:
        """Watch the host by pidfd too: a fork of it may hold a copy of the lifeline."""
        try:
            fd = os.pidfd_open(host_pid)
        except OSError:
            return -1  # another PID namespace; the lifeline has to do
        self.epoll.register(fd, select.EPOLLIN)
        return fd

    # --- the loop -----------------------------------------------------------------------------

    def serve(self) -> None:
        while True:
            ready = [fd for fd, _ in self.epoll.poll(self.patience())]
            # Ends first: somebody waits for each of them, and they are quicker than a spawn. And
            # before a descriptor is opened: it may get the number of one that an end has closed.
            if self.signals in ready:
                os.read(self.signals, 4096)
                self.reap()
            for fd in ready:
                if fd in self.inits:
                    self.on_init(self.inits[fd])
                elif fd in self.followed_fds:
                    self.on_followed(self.followed_fds[fd])
            for fd in ready:
                if fd in self.channels:
                    self.on_channel(self.channels[fd])
            if self.waiting:
                self.look_after_waiting()
            if self.host in ready:
                return
            if LIFELINE_FD in ready and not self.on_lifeline():
                return

    def patience(self) -> float | None:
        if not self.waiting:
            return None
        if any(call.killing for call in self.waiting):
            return RESCAN
        kill_at = min(call.kill_at for call in self.waiting)
        return None if kill_at == INFINITY else max(kill_at - time.monotonic(), 0.0)

    def on_lifeline(self) -> bool:
        try:
            data, fds, _ = receive(self.lifeline, self.buffer)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if data and not (data == OPEN and len(fds) == 1 and self.open(fds[0])):
            # There was no room for the descriptor, say. Its other end reads as ended now.
            for fd in fds:
                os.close(fd)
            try:
                self.lifeline.send(REFUSED, MSG_DONTWAIT | MSG_NOSIGNAL)
            except OSError:
                pass  # the host has not read the last ones either
        return bool(data)

    def open(self, fd: int) -> bool:
        try:
            self.epoll.register(fd, select.EPOLLIN)
        except OSError:
            return False
        self.channels[fd] = Channel(fd)
        return True

    def on_channel(self, channel: Channel) -> None:
        try:
            data, fds, whole = receive(channel.socket, self.buffer)
        except BlockingIOError:
            return
        except OSError:
            data, fds, whole = b"", [], True
        call, kind = channel.call, data[:1]
        if not data:
            del self.channels[channel.socket.fileno()]
            # A process that is just being executed still has a copy (vfork(2) returns before
            # close-on-exec is done), so that it would not leave the epoll by being closed; and
            # its number is soon another channel's.
            self.epoll.unregister(channel.socket.fileno())
            channel.socket.close()
            if call is not None:
                self.detach(call)
                self.start_killing(call)
        elif call is None and kind == SPAWN:
            self.spawn(channel, data, fds, whole)
        elif call is not None and kind == ASK and not call.exited:
            self.tell_started(call)
        elif call is not None and kind == SIGNAL and len(data) == 2:
            self.signal_tree(call, data[1])
        elif call is not None and kind == KILL:
            self.start_killing(call)
        elif call is not None and kind == FOLLOW and len(data) == FOLLOW_BODY.size:
            self.follow(call, FOLLOW_BODY.unpack(data)[1])
        for fd in fds:
            os.close(fd)

    def tell(self, call: Call, message: bytes, fds: Sequence[int] = ()) -> None:
        if call.channel is None:
            return
        rights = [(SOL_SOCKET, SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
        try:
            call.channel.socket.sendmsg([message], rights, MSG_DONTWAIT | MSG_NOSIGNAL)
        except OSError:
            pass  # the host let go of it: the end of file is on its way

    def forget(self, call: Call) -> None:
        self.calls.discard(call)
        self.waiting.discard(call)
        self.by_index.pop(call.index, None)
        self.detach(call)
        self.unfollow(call)
        if call.leaf:
            call.leaf.remove()
        if call.init:
            self.stop_watching(call.init)
            call.init.close()

    def detach(self, call: Call) -> None:
        """The host has had the last message about this call."""
        if call.channel is not None:
            call.channel.call = None
            call.channel = None

    # --- starting -----------------------------------------------------------------------------

    def spawn(self, channel: Channel, data: bytes, fds: list[int], whole: bool) -> None:
        call = Call(channel, self.spawned)
        self.spawned += 1
        try:
            if not whole:
                raise SpawnFailed(EMFILE, "receive")
            request = Request.read(data, fds, self)
            call.linger = request.linger
            request.enter(self.next_tag(call.index))
            self.start(call, request)
        except (SpawnFailed, MemoryError) as error:
            failure = error if isinstance(error, SpawnFailed) else SpawnFailed(ENOMEM, "receive")
            if call.leaf:
                call.leaf.remove()
            return self.tell(call, FAILED_BODY.pack(FAILED, failure.errno) + failure.step.encode())
        finally:
            os.chdir("/")  # never keep a file system busy
        channel.call = call
        self.calls.add(call)
        self.mains[call.pid] = call
        self.by_index[call.index] = call
        if request.eager:
            self.tell_started(call)

    def start(self, call: Call, request: Request) -> None:
        if request.group is not None:
            call.leaf = request.leaf = self.make_leaf(call, request.group, request.settings)
        if request.namespace:
            init: Init = mechanism("namespace").Init(request)
            call.init, call.pid, call.main = init, init.pid, init.main
            self.inits[init.socket.fileno()] = call
            self.epoll.register(init.socket.fileno(), select.EPOLLIN)
            return
        if request.options or request.settings:
            call.pid = prepared_spawn(request)
        elif call.leaf and self.group:
            call.pid = self.spawn_in(call.leaf, self.group, request)
        else:
            call.pid = fast_spawn(request)
        call.main = call.pid

    def spawn_in(self, leaf: Leaf, group: Group, request: Request) -> int:
        """A child is born where its parent is; and vfork(2) leaves it no time to move itself."""
        try:
            leaf.enter()
        except OSError as error:
            raise SpawnFailed(error.errno or 0, "cgroup") from None
        try:
            return fast_spawn(request)
        finally:
            group.enter()

    def make_leaf(self, call: Call, home: str, settings: list[str]) -> Leaf:
        cgroup = mechanism("cgroup")
        try:
            if self.group is None:
                self.group = cgroup.Group(cgroup.own())
            if home not in self.groups:
                name = f"{home}/{cgroup.PREFIX}{self.tag_base:x}"
                # Known before it is there, to whoever has to do it for us.
                os.write(RECORD_FD, os.fsencode(name) + b"\n")
                cgroup.make_parent(name)
                self.groups[home] = name
            leaf: Leaf = cgroup.Leaf(self.groups[home], call.index, settings)
            return leaf
        except OSError as error:
            raise SpawnFailed(error.errno or 0, f"cgroup {error.filename or home}") from None

    def tell_started(self, call: Call) -> None:
        try:
            pidfd = os.dup(call.init.pidfd) if call.init else os.pidfd_open(call.pid)
        except OSError as error:
            self.tell(call, FAILED_BODY.pack(FAILED, error.errno or EMFILE) + b"pidfd_open")
            self.detach(call)
            return self.start_killing(call)
        self.tell(call, STARTED_BODY.pack(STARTED, call.main, call.index), [pidfd])
        os.close(pidfd)

    def next_tag(self, index: int) -> int | None:
        return self.tag_base - index * self.tag_stride if self.tag_stride else None

    # --- ends ---------------------------------------------------------------------------------

    def reap(self) -> None:
        """Reap everything that is dead: mains with their rusage, orphans without a word."""
        ended: list[tuple[Call, tuple[int, float, float, int]]] = []
        childless = False
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                childless = True
                break
            if pid == 0:
                break
            if os.WIFSTOPPED(status):
                untrace(pid, os.WSTOPSIG(status))
                continue
            call = self.mains.pop(pid, None)
            if call and not call.exited:
                report = call.init.report() if call.init else None
                used = usage.ru_utime, usage.ru_stime, usage.ru_maxrss
                ended.append((call, report[:4] if report else (status, *used)))
            if pid in self.followed:
                self.end_following(self.followed[pid], status)
        for call, how in ended:
            self.on_exit(call, how, not childless and self.has_members(call))

    def on_init(self, call: Call) -> None:
        """The main process has ended. If it was the last of its namespace, so does the init."""
        report = call.init.report() if call.init else None
        if call.init and report and report[4]:
            self.stop_watching(call.init)
            self.on_exit(call, report[:4], True)

    def stop_watching(self, init: Init) -> None:
        if self.inits.pop(init.socket.fileno(), None):
            self.epoll.unregister(init.socket.fileno())

    def follow(self, call: Call, pid: int) -> None:
        """Look after one more process of the call; it takes the place of the last one."""
        fd = -1
        try:
            if call.init:
                pid = self.outer_pid(call, pid)
            fd = os.pidfd_open(pid)
            # A member that is seen after that is the one which the descriptor names.
            if is_zombie(pid) or pid not in self.looked_for(call):
                raise ProcessLookupError
            self.epoll.register(fd, select.EPOLLIN)
        except OSError:
            if fd >= 0:
                os.close(fd)
            return self.tell(call, FOLLOWED_BODY.pack(FOLLOWED, 0))
        self.unfollow(call)
        call.followed = pid, fd
        self.followed[pid] = self.followed_fds[fd] = call
        return self.tell(call, FOLLOWED_BODY.pack(FOLLOWED, pid), [fd])

    def outer_pid(self, call: Call, pid: int) -> int:
        """What is told of a namespace from within has the numbers that it has in there."""
        inner_pid = mechanism("namespace").inner_pid
        members = (member for member in self.looked_for(call) if member != call.pid)
        return next((member for member in members if inner_pid(member) == pid), pid)

    def looked_for(self, call: Call) -> Iterator[int]:
        """Its members, several times: one look misses who loses a parent in the middle of it."""
        return (member for _ in range(LOOKS) for member, _, _ in self.members(call))

    def unfollow(self, call: Call) -> None:
        if call.followed:
            (pid, fd), call.followed = call.followed, None
            del self.followed[pid], self.followed_fds[fd]
            self.epoll.unregister(fd)
            os.close(fd)

    def on_followed(self, call: Call) -> None:
        """It has ended: ours to reap, or its parent's."""
        self.reap()
        if call.followed:
            self.end_following(call, -1)

    def end_following(self, call: Call, status: int) -> None:
        assert call.followed
        self.tell(call, ENDED_BODY.pack(ENDED, status))
        self.unfollow(call)

    def on_exit(self, call: Call, how: tuple[int, float, float, int], others: bool) -> None:
        call.exited = True
        live = others or call.killing
        flags = LIVE * live | (call.leaf.hits() if call.leaf else 0)
        self.tell(call, EXITED_BODY.pack(EXITED, call.main, call.index, *how, flags))
        if live:
            call.kill_at = time.monotonic() + call.linger
            self.waiting.add(call)
        else:
            self.forget(call)

    def look_after_waiting(self) -> None:
        for call in list(self.waiting):
            if time.monotonic() >= call.kill_at:
                self.start_killing(call)
            if call.killing:
                self.go_on_killing(call)
            elif not self.has_members(call):
                self.tell(call, EMPTY)
                self.forget(call)

    def signal_tree(self, call: Call, number: int) -> None:
        # All are found before the first is signalled: a parent's end would hide its children.
        for pid, _, parent in list(self.members(call)):
            if call.init and pid == call.pid:
                continue  # it would pass it on
            self.signal(call, pid, number, parent)
            if number not in STOPS:
                # One that is stopped has to run to act on it, as in systemd.kill(5).
                self.signal(call, pid, signal.SIGCONT, parent)

    def signal(self, call: Call, pid: int, number: int, parent: int) -> bool:
        """False if we may not. Orphaned meanwhile, it must be the call's own, and not a new one."""
        return send_signal(pid, number, parent, lambda: self.found_in(call, pid) is not None)

    def start_killing(self, call: Call) -> None:
        if not call.killing:
            call.killing = True
            call.kill_deadline = time.monotonic() + KILL_BOUND
            self.waiting.add(call)

    def go_on_killing(self, call: Call) -> None:
        """Kill what is there, at once again while new ones turn up; the rest is up to SIGCHLD."""
        wave_end = time.monotonic() + WAVE_BOUND
        while True:
            living, fresh = self.kill_wave(call)
            self.reap()
            now = time.monotonic()
            over = not living - call.spared and (call.exited or call.pid in call.spared)
            if over or now >= call.kill_deadline:
                return self.report_killed(call, living)
            if not fresh or now >= wave_end:
                return None

    def kill_wave(self, call: Call) -> tuple[set[int], bool]:
        """SIGKILL every member; return the pids that still lived, and whether any was new."""
        found: list[tuple[int, int]] = []
        fresh = False
        call.waves += 1
        for pid, how, parent in self.members(call):
            if call.init and pid == call.pid and call.waves < 3 and not call.exited:
                # It is to reap the main process and say how that has ended.
                found.append((pid, parent))
                continue
            if pid not in call.killed:
                fresh = True
                # Stopped, it can neither fork nor exit while its children and argv are read.
                self.signal(call, pid, signal.SIGSTOP, parent)
                argv = command_line(pid) if len(call.killed) <= ENTRIES_MAX else b""
                call.killed[pid] = (how, argv)
            elif is_zombie(pid):
                continue
            found.append((pid, parent))
        for pid, parent in found:
            if pid not in call.killed or self.signal(call, pid, signal.SIGKILL, parent):
                continue
            if not (call.leaf and call.leaf.has(pid)):
                call.spared.add(pid)
        self.kill_leaf(call)
        return {pid for pid, _ in found}, fresh

    def kill_leaf(self, call: Call) -> None:
        try:
            if call.leaf and self.group:
                if call.leaf.has(os.getpid()):
                    self.group.enter()  # where a privileged tool may have moved us
                call.leaf.kill()
        except OSError:
            pass  # such a tool has removed it

    def report_killed(self, call: Call, survivors: set[int]) -> None:
        own = call.pid, call.main
        others = {pid: entry for pid, entry in call.killed.items() if pid not in own}
        message = [KILLED_BODY.pack(KILLED, len(others))]
        for pid, (found, argv) in list(others.items())[:ENTRIES_MAX]:
            message += ENTRY.pack(pid, found, pid not in survivors, len(argv)), argv
        self.tell(call, b"".join(message))
        self.mains.pop(call.pid, None)
        self.forget(call)

    # --- who belongs to a call ----------------------------------------------------------------

    def has_members(self, call: Call) -> bool:
        return next(self.members(call), None) is not None

    def members(self, call: Call) -> Iterator[tuple[int, int, int]]:
        """Yield (pid, how it was found, parent or 0 for our child), parents before children."""
        tree: list[int] = []
        for pid in children_of_self(self.children_fd):
            found = self.found_in(call, pid)
            if found is not None:
                tree.append(pid)
                yield pid, found, 0
        for parent in tree:
            for pid in children_of(parent):
                tree.append(pid)
                yield pid, DESCENDANT, parent

    def found_in(self, call: Call, pid: int) -> int | None:
        """How this child of ours belongs to the call, or None."""
        if pid in self.mains:
            return DESCENDANT if pid == call.pid else None
        owner = self.owner_of(tag_of(pid))
        if owner is not None:
            return ORPHAN if owner is call else None
        for other in self.calls:
            if other.leaf and other.leaf.has(pid):
                return GROUPED if other is call else None
        # A privileged process has changed its own limits.  It ends with the last call that was
        # already there when it started, and so could own it.
        born = start_time(pid)
        could_own = [other for other in self.calls if other.born <= born]
        return UNATTRIBUTED if could_own == [call] else None

    def owner_of(self, tag: int | None) -> Call | None:
        if tag is None or not self.tag_stride or tag > self.tag_base:
            return None
        return self.by_index.get((self.tag_base - tag) // self.tag_stride)

    # --- the end ------------------------------------------------------------------------------

    def kill_everything(self) -> bool:
        """Kill all that there is, to a fixpoint; whether nothing is left."""
        deadline = time.monotonic() + KILL_BOUND
        while time.monotonic() < deadline:
            for call in self.calls:
                self.kill_leaf(call)
            tree = [(pid, 0) for pid in children_of_self(self.children_fd)]
            for pid, parent in tree:
                send_signal(pid, signal.SIGKILL, parent, lambda: True)
                tree += [(child, pid) for child in children_of(pid)]
            while True:
                try:
                    pid, status, _ = os.wait4(-1, os.WNOHANG)
                    if pid == 0:
                        break
                    if os.WIFSTOPPED(status):
                        untrace(pid, signal.SIGKILL)
                except ChildProcessError:
                    gone = [mechanism("cgroup").destroy(name) for name in self.groups.values()]
                    return all(gone)
            select.select([self.signals], [], [], RESCAN)
        return False


class Request:
    """One SPAWN message, taken apart."""

    def __init__(self, data: bytes, fds: list[int], keeper: Keeper) -> None:
        _, flags, self.umask, argv, env, options = SPAWN_HEADER.unpack_from(data)
        self.eager = flags & EAGER
        body = data[SPAWN_HEADER.size :]
        if flags & LARGE:
            body = read_all(fds.pop(), argv + env + options)
        self.path, *self.argv = body[:argv].split(b"\0")
        block, mark, context = body[argv : argv + env].partition(b"\0TRACEPARENT=")
        if keeper.environment[0] != block:  # mostly the same from call to call
            keeper.environment = (block, variables_of(block))
        self.env = keeper.environment[1]
        if mark:  # what is behind it is another one for each call
            self.env = {**self.env, **variables_of(mark[1:] + context)}
        # The first option is always there: the number that each descriptor is to have.
        (_, targets), *options = [
            option.split("=", 1) for option in body[argv + env :].decode().split("\0")
        ]
        self.group: str | None = None
        self.settings: list[str] = []
        self.namespace = False
        self.linger = INFINITY
        self.options: list[list[str]] = []
        self.leaf: Leaf | None = None
        if options:
            self.read_level(options)
        self.cwd = fds[0]
        numbers = [int(target) for target in targets.split(",")]
        self.highest = max(numbers)
        if self.highest > 2:
            for index in range(1, len(fds)):
                fds[index] = above(self.highest, fds[index])
        self.fds = list(zip(fds[1:], numbers, strict=True))

    @classmethod
    def read(cls, data: bytes, fds: list[int], keeper: Keeper) -> Request:
        try:
            return cls(data, fds, keeper)
        except OSError as error:
            raise SpawnFailed(error.errno or 0, "receive") from None
        except (ValueError, IndexError, struct.error):
            raise SpawnFailed(EINVAL, "request") from None

    def read_level(self, options: list[list[str]]) -> None:
        """What is ours to do; the rest is for the new process."""
        for option in options:
            if option[0] == "cgroup":
                self.group = option[1]
            elif option[0] == "leaf":
                self.settings.append(option[1])
            elif option[0] == "namespace":
                self.namespace = True
            elif option[0] == "linger":
                self.linger = float(option[1])
            else:
                self.options.append(option)

    def enter(self, tag: int | None) -> None:
        """Take on what the new process is to inherit."""
        try:
            if tag is not None:
                resource.setrlimit(resource.RLIMIT_RTTIME, (tag, tag))
            os.fchdir(self.cwd)
            os.umask(self.umask)
        except OSError as error:
            raise SpawnFailed(error.errno or 0, "cwd") from None


def variables_of(block: bytes) -> dict[bytes, bytes]:
    return dict(pair.split(b"=", 1) for pair in block.split(b"\0")) if block else {}


class SpawnFailed(Exception):
    def __init__(self, errno: int, step: str) -> None:
        super().__init__(errno, step)
        self.errno = errno
        self.step = step


def fast_spawn(request: Request) -> int:
    """posix_spawn(3): a vfork inside, so the cost does not depend on anybody's memory."""
    try:
        return os.posix_spawn(
            request.path,
            request.argv,
            request.env,
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, target) for fd, target in request.fds],
            setsid=True,
            setsigmask=(),
        )
    except OSError as error:
        raise SpawnFailed(error.errno or 0, "exec") from None
    except ValueError:  # no words
        raise SpawnFailed(EINVAL, "request") from None


def prepared_spawn(
    request: Request,
    fork: Callable[[], int] = os.fork,
    become: Callable[[Request, int, int], NoReturn] | None = None,
) -> int:
    """fork, then what only the new process can do to itself, then exec."""
    parent = os.getpid()
    if request.options:
        mechanism("preparations")  # once, and not in each new process
    try:
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
    except OSError as error:
        raise SpawnFailed(error.errno or 0, "pipe") from None
    try:
        write_end = above(request.highest, write_end)
        pid = fork()
        if pid == 0:
            (become or prepare_and_exec)(request, parent, write_end)
        os.close(write_end)
        write_end = -1
        failure = os.read(read_end, 1024).decode()
    except OSError as error:
        raise SpawnFailed(error.errno or 0, "fork") from None
    finally:
        os.close(read_end)
        if write_end >= 0:
            os.close(write_end)
    if failure:
        os.kill(pid, signal.SIGKILL)  # it is about to end, but for the init of a namespace
        os.waitpid(pid, 0)
        errno, step = failure.split(" ", 1)
        raise SpawnFailed(int(errno), step)
    return pid


def prepare_and_exec(request: Request, parent: int, report: int) -> NoReturn:
    """In the new process: it ends here, or becomes the program. Exec closes ``report``."""
    step = "cgroup"
    try:
        if request.leaf:
            request.leaf.enter()
        step = "setsid"
        os.setsid()
        for fd, target in request.fds:
            os.dup2(fd, target)
        if request.options:
            preparations = mechanism("preparations").PREPARATIONS
            for step, value in request.options:
                if step == "own_pid":  # sd_listen_fds(3)
                    request.env = {**request.env, value.encode(): b"%d" % os.getpid()}
                else:
                    preparations[step](value)
        if os.getppid() != parent:
            os._exit(127)  # the keeper died before a death signal was set
        step = "exec"
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(request.path, request.argv, request.env)
    except BaseException as error:
        report_failure(report, step, error)
    finally:
        os._exit(127)


def above(highest: int, fd: int) -> int:
    """``fd``, or if it is not above that number a copy which is, in its place.

    What becomes a number from 3 on must not overwrite what is still to be used."""
    if fd > highest:
        return fd
    copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, highest + 1)
    os.close(fd)
    return copy


def report_failure(report: int, step: str, error: BaseException) -> None:
    """In the new process: the other end is ``prepared_spawn``."""
    if isinstance(error, OSError):
        os.write(report, f"{error.errno} {step}".encode())
    else:
        os.write(report, f"{EINVAL} {step} ({error!r})".encode())


def mechanism(name: str) -> Any:
    """Another file of this package, for what few calls want; to it, this one is the package's."""
    full = f"agentsup._linux.{name}"
    if full not in sys.modules:
        from importlib.util import module_from_spec, spec_from_file_location

        folder = os.path.dirname(os.path.abspath(__file__))
        folder = folder.removesuffix("/__pycache__")
        sys.modules.setdefault("agentsup._linux.keeper", sys.modules["__main__"])
        spec = spec_from_file_location(full, f"{folder}/{name}.py")
        assert spec
        assert spec.loader
        module = sys.modules[full] = module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except OSError as error:  # no descriptors, perhaps
            del sys.modules[full]
            raise SpawnFailed(error.errno or 0, f"import {name}") from None
    return sys.modules[full]


# --- the kernel -------------------------------------------------------------------------------


def prctl(option: int, argument: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def untrace(pid: int, number: int) -> None:
    """It has made its parent its tracer (PTRACE_TRACEME), and that is us: let it go on."""
    import ctypes

    passed_on = 0 if number == signal.SIGTRAP else number
    ctypes.CDLL(None).ptrace(17, pid, None, ctypes.c_void_p(passed_on))  # PTRACE_DETACH


def become_subreaper() -> None:
    prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
    # A tool may have stopped us when the host dies: PR_SET_PDEATHSIG makes us go on and see it.
    prctl(1, signal.SIGCONT)
    # Blocked, not ignored: the terminal's ^C, a service manager's TERM to every process and the
    # like are for the host, and only its death ends the keeper.  Spawns unblock them.
    signal.pthread_sigmask(signal.SIG_SETMASK, ALL_SIGNALS)
    # What Python has changed would go on to the tools.
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


def signal_descriptor(number: int) -> int:
    """A descriptor that is readable while the signal is pending: signalfd(2)."""
    import ctypes

    mask = (ctypes.c_ulong * 16)()  # the C library's sigset_t
    mask[0] = 1 << (number - 1)
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.signalfd(-1, mask, os.O_CLOEXEC | os.O_NONBLOCK))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "signalfd")
    return fd


def receive(sock: socket, buffer: bytearray) -> tuple[bytes, list[int], bool]:
    """One packet, its descriptors (close-on-exec from birth), and whether all of it came.

    BlockingIOError if there is none."""
    how = MSG_CMSG_CLOEXEC | MSG_DONTWAIT
    size, ancillary, flags, _ = sock.recvmsg_into([buffer], FDS_SPACE, how)
    fds: list[int] = []
    for level, kind, rights in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            fds += struct.unpack(f"{len(rights) // 4}i", rights[: len(rights) // 4 * 4])
    return bytes(memoryview(buffer)[:size]), fds, not flags & (MSG_TRUNC | MSG_CTRUNC)


def read_all(fd: int, size: int) -> bytes:
    chunks: list[bytes] = []
    offset = 0
    try:
        while offset < size and (chunk := os.pread(fd, size - offset, offset)):
            chunks.append(chunk)
            offset += len(chunk)
    finally:
        os.close(fd)
    return b"".join(chunks)


def read_proc(path: str, size: int = 65536) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, size)
    except OSError:
        return b""
    finally:
        os.close(fd)


def children_of_self(fd: int) -> list[int]:
    chunks: list[bytes] = []
    offset = 0
    while chunk := os.pread(fd, 65536, offset):
        chunks.append(chunk)
        offset += len(chunk)
    return [int(pid) for pid in b"".join(chunks).split()]


def children_of(pid: int) -> list[int]:
    """The children of each of its threads (proc_pid_task(5)); none if it is gone."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    found: list[bytes] = []
    for thread in threads:
        found += read_proc(f"/proc/{pid}/task/{thread}/children", 1 << 20).split()
    return [int(child) for child in found]


def stat_fields(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the state on; a name may hold spaces and brackets."""
    return read_proc(f"/proc/{pid}/stat").rpartition(b") ")[2].split()


def is_zombie(pid: int) -> bool:
    fields = stat_fields(pid)
    # The state is the first thread's: where that has ended, others may still run.
    return not fields or (fields[0] in (b"Z", b"X") and int(fields[17]) <= 1)


def start_time(pid: int) -> int:
    fields = stat_fields(pid)
    return int(fields[19]) if fields else 0


def command_line(pid: int) -> bytes:
    return read_proc(f"/proc/{pid}/cmdline", ARGV_MAX).rstrip(b"\0")


def tag_of(pid: int) -> int | None:
    """The hard RLIMIT_RTTIME of a process, or None."""
    try:
        return resource.prlimit(pid, resource.RLIMIT_RTTIME)[1]
    except PermissionError:  # setuid; but anybody may read its limits
        for line in read_proc(f"/proc/{pid}/limits").splitlines():
            if line.startswith(b"Max realtime timeout"):
                hard = line.split()[4]
                return int(hard) if hard.isdigit() else None
    except OSError:
        pass
    return None


def send_signal(pid: int, number: int, parent: int, is_ours: Callable[[], bool]) -> bool:
    """Signal a child of ours (parent 0) or a verified deeper one; False if we may not."""
    try:
        if not parent:
            os.kill(pid, number)
            return True
        fd = os.pidfd_open(pid)
        try:
            fields = stat_fields(pid)
            above = int(fields[1]) if fields else 0
            if above == parent or (above == os.getpid() and is_ours()):
                signal.pidfd_send_signal(fd, number)
        finally:
            os.close(fd)
    except PermissionError:
        return False
    except OSError:
        pass  # gone already
    return True


def main(arguments: list[str]) -> int:
    host_pid, tag_base, tag_stride, record = arguments
    os.closerange(RECORD_FD + 1, 1 << 30)
    for fd in (LIFELINE_FD, RECORD_FD):
        os.set_inheritable(fd, False)
    keeper = Keeper(int(host_pid), int(tag_base), int(tag_stride))
    trouble = None
    try:
        keeper.serve()
    except BaseException:
        import traceback

        trouble = traceback.format_exc()
        for call in keeper.calls:
            keeper.tell(call, BROKEN + trouble.encode()[-60000:])
    all_gone = keeper.kill_everything()
    if record and all_gone:  # else the next start goes on with it
        os.unlink(record)
    return 70 if trouble else 0


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # nothing is left to be cleaned up, and the host waits
