"""The listening end, with datagrams of every kind, and with the real ``systemd-notify``."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentsup._linux.notify_socket import Datagram, NotifySocket
from agentsup._rules.notify import Message, parse

PATIENCE = 30.0  # seconds

systemd_notify = pytest.mark.skipif(
    shutil.which("systemd-notify") is None, reason="systemd-notify is not installed"
)


@pytest.fixture
def listening() -> Iterator[NotifySocket]:
    with contextlib.closing(NotifySocket()) as found:
        yield found


@pytest.fixture
def sender(listening: NotifySocket) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.connect(listening.path)
        yield connection


def receive_all(listening: NotifySocket) -> list[Datagram]:
    return list(iter(listening.receive, None))


def receive_one(listening: NotifySocket) -> Datagram:
    assert select.select([listening.fd], [], [], PATIENCE)[0]
    (datagram,) = receive_all(listening)
    return datagram


# --- the file -----------------------------------------------------------------------------------


def test_its_file_is_for_who_knows_of_it_and_goes_with_it(listening: NotifySocket) -> None:
    """A root host may start or make processes of any user, and others only of its own."""
    file = Path(listening.path)
    found, directory = file.stat(), file.parent.stat()
    assert stat.S_ISSOCK(found.st_mode)
    modes = stat.S_IMODE(found.st_mode), stat.S_IMODE(directory.st_mode)
    assert modes == ((0o666, 0o711) if os.geteuid() == 0 else (0o600, 0o700))
    assert len(os.fsencode(listening.path)) < 108  # sun_path
    assert not os.get_inheritable(listening.fd)
    listening.close()
    listening.close()
    assert not Path(listening.path).exists()
    assert listening.fd == -1


def test_many_at_once(listening: NotifySocket) -> None:
    with contextlib.closing(NotifySocket()) as other:
        assert other.path != listening.path
        assert Path(listening.path).exists()


def test_those_of_dead_hosts_are_removed(listening: NotifySocket) -> None:
    code = (
        "import os, signal\n"
        "from agentsup._linux.notify_socket import NotifySocket\n"
        "print(NotifySocket().path, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert done.returncode == -signal.SIGKILL
    left = Path(done.stdout.strip())
    foreign = left.with_name("notify-not-ours")
    # The same number in another namespace is another process.
    pid, start, *_ = left.name.split("-")[1:]
    elsewhere = left.with_name(f"notify-{pid}-{start}-1-00000000")
    foreign.touch()
    elsewhere.touch()
    try:
        NotifySocket().close()
        assert not left.exists()
        assert foreign.exists()
        assert elsewhere.exists()
        assert Path(listening.path).exists()
    finally:
        foreign.unlink()
        elsewhere.unlink()


def test_nothing_is_left_of_one_that_could_not_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []

    def refuse(path: str | Path, mode: int, **_: object) -> None:
        if not Path(path).is_dir():
            paths.append(Path(path))
            assert paths[0].exists()
            raise PermissionError

    monkeypatch.setattr(os, "chmod", refuse)
    with pytest.raises(PermissionError):
        NotifySocket()
    assert not paths[0].exists()


def test_a_fork_has_none_of_it(listening: NotifySocket, sender: socket.socket) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork with threads, says 3.12
        pid = os.fork()
    if not pid:
        status = 1
        with contextlib.suppress(BaseException):
            status = 0 if listening.fd == -1 else 2
            listening.close()
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    sender.send(b"READY=1")
    assert receive_one(listening).data == b"READY=1"
    assert Path(listening.path).exists()


# --- datagrams ----------------------------------------------------------------------------------


def test_nothing_has_come(listening: NotifySocket) -> None:
    assert receive_all(listening) == []


def test_the_kernel_says_who_it_was(
    listening: NotifySocket, python_file: Callable[[str], str]
) -> None:
    program = python_file(
        "import socket, sys\n"
        "with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:\n"
        "    connection.sendto(b'READY=1', sys.argv[1])\n"
    )
    with subprocess.Popen([sys.executable, program, listening.path]) as process:
        datagram = receive_one(listening)
    assert datagram == Datagram(b"READY=1", process.pid, os.geteuid(), [])


def test_several_come_in_order(listening: NotifySocket, sender: socket.socket) -> None:
    sent, received = [], []
    sender.setblocking(False)
    while len(sent) < 60:
        data = b"STATUS=%d" % len(sent)
        try:
            sender.send(data)
            sent.append(data)
        except BlockingIOError:  # the kernel holds a few only
            received += receive_all(listening)
    received += receive_all(listening)
    assert [datagram.data for datagram in received] == sent
    assert {(datagram.pid, datagram.uid) for datagram in received} == {(os.getpid(), os.geteuid())}


@pytest.mark.parametrize("data", [b"", b"\0\xff\n\n=\n", b"x" * 4096])
def test_nonsense_comes_as_it_is(
    listening: NotifySocket, sender: socket.socket, data: bytes
) -> None:
    sender.send(data)
    assert receive_one(listening) == Datagram(data, os.getpid(), os.geteuid(), [])


@pytest.mark.parametrize("size", [4097, 100_000])
def test_a_huge_one_is_lost_with_its_descriptors(
    listening: NotifySocket, sender: socket.socket, size: int
) -> None:
    ours, theirs = os.pipe()
    socket.send_fds(sender, [b"READY=1\n" + b"x" * (size - 8)], [theirs])
    os.close(theirs)
    sender.send(b"STATUS=after")
    lost, after = receive_all(listening)
    assert (lost.data, lost.fds, lost.pid) == (b"", [], os.getpid())
    assert "4096 bytes" in str(lost.lost)
    assert (after.data, after.lost) == (b"STATUS=after", None)
    assert_ended(ours)


def assert_ended(pipe: int) -> None:
    """There is no other end any more; the test's own is closed."""
    try:
        assert select.select([pipe], [], [], PATIENCE)[0]
        assert os.read(pipe, 1) == b""
    finally:
        os.close(pipe)


def test_descriptors_are_closed_with_the_datagram(
    listening: NotifySocket, sender: socket.socket
) -> None:
    ours, theirs = os.pipe()
    socket.send_fds(sender, [b"BARRIER=1"], [theirs, theirs])
    os.close(theirs)
    with receive_one(listening) as datagram:
        assert len(datagram.fds) == 2
        assert not any(map(os.get_inheritable, datagram.fds))
        assert not select.select([ours], [], [], 0)[0]
    datagram.close()
    assert_ended(ours)


def test_taken_descriptors_stay(listening: NotifySocket, sender: socket.socket) -> None:
    ours, theirs = os.pipe()
    socket.send_fds(sender, [b"FDSTORE=1"], [theirs])
    os.close(theirs)
    with receive_one(listening) as datagram:
        (taken,) = datagram.take()
    os.close(taken)  # an error if it had been closed
    assert_ended(ours)


@pytest.mark.parametrize("room", [0, 1])
def test_a_full_table(listening: NotifySocket, sender: socket.socket, room: int) -> None:
    ours, theirs = os.pipe()
    socket.send_fds(sender, [b"READY=1\nFDSTORE=1"], [theirs] * 3)
    os.close(theirs)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    copies: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (ours + 20, limits[1]))
        with contextlib.suppress(OSError):
            while True:
                copies.append(os.dup(ours))
        for _ in range(room):
            os.close(copies.pop())
        (datagram,) = receive_all(listening)
        for _ in range(room):
            copies.append(os.dup(ours))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in copies:
            os.close(fd)
    assert (datagram.data, datagram.pid) == (b"READY=1\nFDSTORE=1", os.getpid())
    assert datagram.fds == []
    assert "descriptors" in str(datagram.lost)
    assert_ended(ours)


# --- the real client ----------------------------------------------------------------------------


def messages_of(listening: NotifySocket, *arguments: str) -> list[Message]:
    """What ``systemd-notify`` says until it ends."""
    said = []
    with subprocess.Popen(
        ["systemd-notify", *arguments],
        env={**os.environ, "NOTIFY_SOCKET": listening.path},
        stderr=subprocess.PIPE,
    ) as process:
        ended = os.pidfd_open(process.pid)
        try:
            while ended not in (ready := select.select([listening.fd, ended], [], [], PATIENCE)[0]):
                assert ready
                for datagram in receive_all(listening):
                    with datagram:
                        said.append(parse(datagram.data))
                        assert len(datagram.fds) == said[-1].barrier
                    assert datagram.uid == os.geteuid()
                    # With the privilege to do so, it speaks for its parent, but for the barrier.
                    assert datagram.pid in (process.pid, os.getpid())
        finally:
            os.close(ended)
            process.kill()
        assert process.stderr is not None
        assert process.stderr.read() == b""  # it complains when the barrier has not been closed
    assert process.returncode == 0
    return said


@systemd_notify
def test_systemd_notify(listening: NotifySocket) -> None:
    said = messages_of(listening, "--ready", "--status=x y")
    assert said == [Message(ready=True, status="x y"), Message(barrier=True)]


@systemd_notify
def test_systemd_notify_names_a_main_process(listening: NotifySocket) -> None:
    said = messages_of(listening, f"--pid={os.getpid()}")
    assert said[0] == Message(mainpid=os.getpid())


@systemd_notify
def test_systemd_notify_says_anything(listening: NotifySocket) -> None:
    said = messages_of(listening, "STOPPING=1", "EXTEND_TIMEOUT_USEC=1000", "X_OURS=1")
    assert said[0] == Message(stopping=True, extend_timeout_usec=1000)
