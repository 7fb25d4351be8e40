"""A PID namespace for one call (pid_namespaces(7)): what is in it sees nothing outside, and all of
it dies with its first process.

::

    keeper
    └── init        pid 1 of the namespace, a clone of the keeper without its descriptors
        └── main    the tool. Whatever is orphaned in there becomes a child of init

Init reaps, forwards signals to the tool, and ends when no child is left.  It reports over a
socket: first the tool's pidfd, then, when the tool has ended, its status and usage.  It dies with
the keeper (PR_SET_PDEATHSIG), so nothing in there can outlive the keeper either.

A caller without CAP_SYS_ADMIN gets a user namespace around it in which it is the same user as
outside (user_namespaces(7)).

This file imports the standard library only: the keeper loads it when a call wants a namespace.
"""

from __future__ import annotations

import ctypes
import os
import struct
from _socket import (
    AF_UNIX,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    SCM_RIGHTS,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    socketpair,
)
from errno import ECHILD

from .keeper import (
    ALL_SIGNALS,
    Request,
    SpawnFailed,
    prctl,
    prepare_and_exec,
    prepared_spawn,
    read_proc,
    receive,
    report_failure,
    untrace,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from _socket import socket
    from typing import NoReturn
else:
    import _signal as signal

REPORT = struct.Struct("=iddQ?")  # wait status, user s, system s, max RSS in KiB, others live on

SYS_CLONE3 = 435  # the same on every architecture
CLONE_ARGS = struct.Struct("=11Q")  # clone_args of clone(2)
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
MNT_DETACH = 2
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 0x4000, 1 << 18
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
CAP_SYS_ADMIN = 21


class Init:
    """The first process of a namespace, as the keeper sees it."""

    def __init__(self, request: Request) -> None:
        try:
            self.socket, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
        except OSError as error:
            raise SpawnFailed(error.errno or 0, "socketpair") from None
        place = Place(self.socket, theirs)
        try:
            self.pid = prepared_spawn(request, place.clone, place.live)
            _, fds, _ = receive(self.socket, bytearray(1))
            if not fds:
                raise SpawnFailed(ECHILD, "init")  # killed before it could say a word
        except BaseException:
            self.socket.close()
            raise
        finally:
            theirs.close()
        self.pidfd = fds[0]
        _, _, rest = read_proc(f"/proc/self/fdinfo/{self.pidfd}").partition(b"Pid:")
        # The tool, as it is known out here; -1 if all of it has been killed already.
        self.main = max(int(rest.split()[0]), 0)
        self.socket.send(b"!", MSG_NOSIGNAL)
        self.reported: tuple[int, float, float, int, bool] | None = None

    def report(self) -> tuple[int, float, float, int, bool] | None:
        """How the tool has ended, if it has."""
        try:
            if data := self.socket.recv(REPORT.size, MSG_DONTWAIT):
                self.reported = REPORT.unpack(data)
        except OSError:
            pass
        return self.reported

    def close(self) -> None:
        self.socket.close()
        os.close(self.pidfd)


class Place:
    """The namespace from inside: all but the constructor runs in the new process."""

    def __init__(self, keepers_end: socket, own_end: socket) -> None:
        self.keepers_end = keepers_end
        self.socket = own_end
        self.user = (os.geteuid(), os.getegid()) if needs_user_namespace() else None

    def clone(self) -> int:
        """As fork(2), but into new namespaces; it runs in both processes."""
        flags = CLONE_NEWPID | CLONE_NEWNS | (CLONE_NEWUSER if self.user else 0)
        arguments = CLONE_ARGS.pack(flags, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0)
        return call("syscall", SYS_CLONE3, arguments, len(arguments))

    def live(self, request: Request, _: int, failure: int) -> NoReturn:
        """Set it up, start the tool, and stay until nothing is left."""
        step = "keeper"
        try:
            self.die_with_keeper()
            step = "user namespace"
            if self.user:
                become_same_user(*self.user)
            step = "mount /proc"
            call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
            if not self.user:  # else it is locked (mount_namespaces(7)), and this would fail
                call("umount2", b"/proc", MNT_DETACH)  # nobody is to find it below the new one
            call("mount", b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None)
            # Else a tool could trace it, where both are of the same user.
            prctl(PR_SET_DUMPABLE, 0)
            step = "fork"
            main = os.fork()
            if main == 0:
                prepare_and_exec(request, 1, failure)
            pidfd = struct.pack("i", os.pidfd_open(main))
            self.socket.sendmsg([b"!"], [(SOL_SOCKET, SCM_RIGHTS, pidfd)], MSG_NOSIGNAL)
            os.dup2(self.socket.fileno(), 0)
            os.closerange(1, 1 << 30)  # nobody's pipe or channel is kept open from in here
            os.read(0, 1)  # until then the tool keeps its number
            attend(main)
            os._exit(0)
        except BaseException as error:
            report_failure(failure, step, error)
        finally:
            os._exit(127)

    def die_with_keeper(self) -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        self.keepers_end.close()
        try:
            self.socket.recv(1, MSG_DONTWAIT)
        except BlockingIOError:
            return
        os._exit(127)  # it had died before that


def attend(main: int) -> None:
    """Reap, forward signals to the tool, report its end on descriptor 0, until no child is left."""
    ended = False
    while True:
        number = signal.sigwait(ALL_SIGNALS)
        if number != signal.SIGCHLD:
            if not ended:
                os.kill(main, number)
            continue
        report, childless = None, False
        try:
            while (reaped := os.wait4(-1, os.WNOHANG))[0]:
                if os.WIFSTOPPED(reaped[1]):
                    untrace(reaped[0], os.WSTOPSIG(reaped[1]))
                elif reaped[0] == main:
                    report = reaped
        except ChildProcessError:
            childless = True
        if report:
            ended = True
            _, status, used = report
            usage = used.ru_utime, used.ru_stime, used.ru_maxrss
            os.write(0, REPORT.pack(status, *usage, not childless))
        if childless:
            return


def inner_pid(pid: int) -> int:
    """The number that a process has in a namespace right below this one; 0 if it is in none."""
    depth, numbers = len(_numbers("self")), _numbers(pid)
    return numbers[depth] if len(numbers) > depth else 0


def _numbers(pid: int | str) -> list[int]:
    """In each namespace from that of the mounted /proc inwards (proc_pid_status(5))."""
    _, _, rest = read_proc(f"/proc/{pid}/status").partition(b"\nNSpid:")
    return [int(number) for number in rest.partition(b"\n")[0].split()]


def needs_user_namespace() -> bool:
    """Whether this process may not make a PID namespace just so."""
    return not has_capability(CAP_SYS_ADMIN)


def has_capability(number: int) -> bool:
    """Whether it is effective in this process (capabilities(7))."""
    _, _, rest = read_proc("/proc/self/status").partition(b"CapEff:")
    return bool(int(rest.split()[0], 16) >> number & 1)


def become_same_user(uid: int, gid: int) -> None:
    """Be, in a new user namespace, who one was outside. More than one id would take privileges."""
    for file, text in (
        ("setgroups", "deny"),
        ("gid_map", f"{gid} {gid} 1"),
        ("uid_map", f"{uid} {uid} 1"),
    ):
        fd = os.open(f"/proc/self/{file}", os.O_WRONLY | os.O_CLOEXEC)
        os.write(fd, text.encode())
        os.close(fd)


def call(name: str, *arguments: object) -> int:
    """A function of the C library; OSError if it returns -1."""
    libc = ctypes.CDLL(None, use_errno=True)
    function = libc[name]
    function.restype = ctypes.c_long
    result = int(function(*(ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments)))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result
