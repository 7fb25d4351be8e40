"""Sockets that are listened on before, and after, there is a program to serve them."""

from __future__ import annotations

import contextlib
import ctypes.util
import errno
import os
import resource
import select
import socket
import stat
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from agentsup import Containment, Outcome, SpawnError, UnsupportedPlatform, shell
from agentsup._calls import blocking, on_loop
from agentsup._calls.call import Call
from agentsup._calls.spec import make_spec
from agentsup._levels import missing
from agentsup._services import activation
from agentsup._services.activation import accept_each, pass_sockets, wait_for_connection
from agentsup._services.fd_store import FdStore
from agentsup._services.sockets import OpenSockets, open_sockets
from agentsup._values.listen import ListenSocket

on_each_loop = pytest.mark.anyio
needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 here")
TYPES = {
    "stream": socket.SOCK_STREAM,
    "datagram": socket.SOCK_DGRAM,
    "seqpacket": socket.SOCK_SEQPACKET,
}
each_unix_kind = pytest.mark.parametrize("kind", TYPES)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose name is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="s") as directory:
        yield Path(directory)


def listen(address: object, kind: Any = "stream", **options: Any) -> OpenSockets:
    return open_sockets([ListenSocket(str(address), kind=kind, **options)])


def unix(kind: str) -> socket.socket:
    return socket.socket(socket.AF_UNIX, TYPES[kind])


def client_of(sockets: OpenSockets) -> socket.socket:
    """Connected to the first of them, which does not take anybody to accept it."""
    host, _, port = sockets.addresses[0].rpartition(":")
    if not host:
        client, address = socket.socket(socket.AF_UNIX), sockets.addresses[0]
    else:
        client, address = socket.socket(), ("127.0.0.1", int(port))
    client.settimeout(30)
    client.connect(address)
    return client


def write_to(address: str, kind: str) -> None:
    """What makes a socket or FIFO at this address readable."""
    if kind == "fifo":
        Path(address).write_bytes(b"hello")
        return
    inet = ListenSocket(address, kind=kind).inet
    family = socket.AF_UNIX if not inet else socket.AF_INET6 if "[" in address else socket.AF_INET
    with socket.socket(family, TYPES[kind]) as client:
        client.settimeout(30)
        client.connect(inet or address.replace("@", "\0"))
        client.send(b"hello")


def is_readable(fd: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


# --- making them ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("0", "stream"),
        ("0", "datagram"),
        ("127.0.0.1:0", "stream"),
        ("127.0.0.1:0", "datagram"),
        pytest.param("[::1]:0", "stream", marks=needs_ipv6),
        pytest.param("[::1]:0", "datagram", marks=needs_ipv6),
        ("{}/socket", "stream"),
        ("{}/socket", "datagram"),
        ("{}/socket", "seqpacket"),
        ("@agentsup{}", "stream"),
        ("@agentsup{}", "datagram"),
        ("@agentsup{}", "seqpacket"),
        ("{}/fifo", "fifo"),
    ],
)
def test_each_kind(address: str, kind: Any, place: Path) -> None:
    given = address.format(place)
    with listen(given, kind, name="web") as sockets:
        ((fd,), (real,)) = sockets.fds, sockets.addresses
        assert sockets.names == ("web",)
        assert not os.get_inheritable(fd)
        assert os.get_blocking(fd), "as systemd passes them"
        if ListenSocket(given).inet:
            assert ListenSocket(real).inet[1] > 0
            assert real.rpartition(":")[0] in (given.rpartition(":")[0], "[::]", "0.0.0.0")
        else:
            assert real == given
        assert not is_readable(fd, 0)
        write_to(real, kind)
        assert is_readable(fd, 10)
        if kind != "fifo":
            with socket.socket(fileno=os.dup(fd)) as server:
                assert server.type == TYPES[kind]
                if kind == "datagram":
                    assert server.recv(10) == b"hello"
                else:
                    with server.accept()[0] as connection:
                        assert connection.recv(10) == b"hello"
        else:
            assert os.read(fd, 10) == b"hello"
            assert not is_readable(fd, 0), "a writer's end is not that of the FIFO"
    sockets.close()
    assert sockets.fds == ()
    assert os.listdir(place) == []


@needs_ipv6
def test_a_port_alone_is_of_both_families() -> None:
    with listen("0") as sockets:
        port = ListenSocket(sockets.addresses[0]).inet[1]
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family) as client:
                client.connect((host, port))


def test_a_port_alone_where_there_is_no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with listen("0") as sockets:
        assert sockets.addresses[0].startswith("0.0.0.0:")
        client_of(sockets).close()


def test_names_and_order(place: Path) -> None:
    wanted = [
        ListenSocket(f"{place}/a", name="a"),
        ListenSocket("127.0.0.1:0"),
        ListenSocket(f"{place}/c", kind="fifo", name="c"),
    ]
    with open_sockets(wanted) as sockets:
        assert sockets.names == ("a", "unknown", "c")
        assert sockets.addresses[::2] == (f"{place}/a", f"{place}/c")
        assert len(set(sockets.fds)) == 3
    with open_sockets([]) as none:
        assert (none.fds, none.names, none.addresses) == ((), (), ())


@pytest.mark.parametrize("kind", [*TYPES, "fifo"])
@pytest.mark.parametrize("mode", [0o600, 0o666, 0o777])
def test_mode_is_exact(kind: str, mode: int, place: Path) -> None:
    before = os.umask(0o077)
    try:
        with listen(place / "file", kind, mode=mode):
            assert stat.S_IMODE((place / "file").stat().st_mode) == mode
    finally:
        os.umask(before)


@each_unix_kind
def test_mode_is_never_more_than_that(
    kind: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is anything left of one that cannot be given its mode."""
    seen: list[int] = []

    def fail(path: str, mode: int) -> None:
        seen.append(stat.S_IMODE(os.lstat(path).st_mode))
        raise PermissionError(errno.EPERM, "not for you")

    monkeypatch.setattr(os, "chmod", fail)
    before = os.umask(0)
    try:
        with pytest.raises(PermissionError, match="not for you"):
            listen(place / "socket", kind, mode=0o600)
    finally:
        os.umask(before)
    assert seen == [0o600]
    assert os.listdir(place) == []


def test_the_backlog(place: Path) -> None:
    with listen(place / "socket", backlog=1), unix("stream") as one, unix("stream") as other:
        for client in (one, other):
            client.setblocking(False)
            client.connect(f"{place}/socket")
        with unix("stream") as more, pytest.raises(BlockingIOError):
            more.setblocking(False)
            more.connect(f"{place}/socket")


def test_all_or_none(place: Path) -> None:
    (place / "file").write_text("mine")
    wanted = [
        ListenSocket(f"{place}/socket"),
        ListenSocket(f"{place}/fifo", kind="fifo"),
        ListenSocket(f"{place}/file"),
        ListenSocket(f"{place}/never"),
    ]
    with pytest.raises(SpawnError, match=rf"sockets: .* no socket: '{place}/file'"):
        open_sockets(wanted)
    assert os.listdir(place) == ["file"]
    assert (place / "file").read_text() == "mine"


@pytest.mark.parametrize("kind", ["stream", "datagram"])
def test_a_port_that_is_taken(kind: Any) -> None:
    with listen("127.0.0.1:0", kind) as sockets:
        with pytest.raises(SpawnError, match=rf"{sockets.addresses[0]}") as caught:
            listen(sockets.addresses[0], kind)
        assert caught.value.errno == errno.EADDRINUSE
        if kind == "stream":
            client_of(sockets).close()


@pytest.mark.parametrize("kind", ["stream", "datagram"])
def test_a_port_that_is_shared(kind: Any) -> None:
    with (
        listen("127.0.0.1:0", kind, reuse_port=True) as sockets,
        listen(sockets.addresses[0], kind, reuse_port=True) as others,
    ):
        assert others.addresses == sockets.addresses


def test_a_port_can_be_had_again_at_once() -> None:
    """Connections of the last one are about to end (TIME_WAIT)."""
    with listen("127.0.0.1:0") as sockets, client_of(sockets) as client:
        (address,) = sockets.addresses
        with socket.socket(fileno=os.dup(sockets.fds[0])) as server:
            server.accept()[0].close()
        assert client.recv(1) == b""
    with listen(address) as again:
        client_of(again).close()


@pytest.mark.parametrize(
    ("address", "kind", "error"),
    [
        ("{}/missing/socket", "stream", FileNotFoundError),
        ("{}/missing/fifo", "fifo", FileNotFoundError),
        ("192.0.2.1:0", "stream", OSError),
        ("[fe80::1%nowhere]:0", "stream", OSError),
    ],
)
def test_what_cannot_be_had(address: str, kind: Any, error: type[OSError], place: Path) -> None:
    with pytest.raises(SpawnError, match="sockets: ") as caught:
        listen(address.format(place), kind)
    assert isinstance(caught.value, error)
    assert caught.value.filename == address.format(place)


# --- what is there already --------------------------------------------------------------------


@each_unix_kind
def test_a_stale_socket_is_replaced(kind: str, place: Path) -> None:
    for left_by in TYPES:
        with unix(left_by) as dead:
            dead.bind(f"{place}/socket")
        with listen(place / "socket", kind) as sockets:
            write_to(sockets.addresses[0], kind)
            assert is_readable(sockets.fds[0], 10)
        assert os.listdir(place) == []


@each_unix_kind
def test_a_living_socket_is_not(kind: str, place: Path) -> None:
    for of_other in TYPES:
        with listen(place / "socket", of_other) as sockets:
            with pytest.raises(SpawnError, match=f"somebody listens there: '{place}/socket'"):
                listen(place / "socket", kind)
            write_to(sockets.addresses[0], of_other)
        assert os.listdir(place) == []


def test_a_socket_that_is_very_busy_is_not(place: Path) -> None:
    with listen(place / "socket", backlog=1), unix("stream") as one, unix("stream") as other:
        for client in (one, other):
            client.connect(f"{place}/socket")
        with pytest.raises(SpawnError, match="somebody listens there"):
            listen(place / "socket")


@pytest.mark.parametrize("kind", [*TYPES, "fifo"])
@pytest.mark.parametrize("what", ["file", "directory", "link", "other"])
def test_anything_else_is_not(kind: str, what: str, place: Path) -> None:
    path = place / "path"
    if what == "file":
        path.write_text("mine")
    elif what == "directory":
        path.mkdir()
    elif what == "link":
        path.symlink_to("/nonexistent")
    elif kind == "fifo":
        with unix("stream") as dead:
            dead.bind(str(path))
    else:
        os.mkfifo(path)
    before = path.lstat()
    with pytest.raises(SpawnError, match=f"at this path is no .*: '{path}'") as caught:
        listen(path, kind)
    assert caught.value.errno == errno.EEXIST
    assert path.lstat() == before


def test_a_stale_fifo_is_used_again(place: Path) -> None:
    """Somebody may be waiting at it, since before the host had died."""
    os.mkfifo(place / "fifo", 0o600)
    opening = threading.Event()

    def write() -> None:
        opening.set()
        (place / "fifo").write_bytes(b"hello")

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    opening.wait()
    with listen(place / "fifo", "fifo", mode=0o640) as sockets:
        writer.join(30)
        assert os.read(sockets.fds[0], 10) == b"hello"
        assert stat.S_IMODE((place / "fifo").stat().st_mode) == 0o640
    assert os.listdir(place) == []


def test_a_fifo_that_is_read_is_not(place: Path) -> None:
    with listen(place / "fifo", "fifo") as sockets:
        with pytest.raises(SpawnError, match=f"somebody reads it: '{place}/fifo'"):
            listen(place / "fifo", "fifo")
        write_to(*sockets.addresses, "fifo")
    os.mkfifo(place / "fifo", 0o400)
    if os.geteuid() == 0:
        os.chown(place / "fifo", 65534, 65534)
        with pytest.raises(SpawnError, match="no FIFO of this user"):
            listen(place / "fifo", "fifo")


@pytest.mark.parametrize("kind", [*TYPES, "fifo"])
def test_what_others_have_put_there_since_is_not_removed(kind: str, place: Path) -> None:
    with listen(place / "path", kind):
        (place / "path").unlink()
        (place / "path").write_text("another's")
    assert (place / "path").read_text() == "another's"
    with listen(place / "gone", kind):
        (place / "gone").unlink()


# --- passing them -----------------------------------------------------------------------------

SERVER = """
import os, socket
assert int(os.environ["LISTEN_PID"]) == os.getpid()
names = os.environ["LISTEN_FDNAMES"].split(":")
assert len(names) == int(os.environ["LISTEN_FDS"])
places = {name: 3 + n for n, name in enumerate(names)}
with socket.socket(fileno=places["web"]) as listener, listener.accept()[0] as connection:
    connection.sendall(connection.recv(100).upper())
with socket.socket(fileno=places["udp"]) as datagrams:
    data, sender = datagrams.recvfrom(100)
    datagrams.sendto(data.upper(), sender)
print(os.read(places["fifo"], 100), os.pread(places["state"], 100, 0), os.environ["OTHER"])
"""


@pytest.mark.parametrize("containment", list(Containment)[1:])
def test_a_program_that_uses_all_of_them(containment: Containment, place: Path) -> None:
    if lacking := missing(containment):
        pytest.skip(str(lacking))
    wanted = [
        ListenSocket("127.0.0.1:0", kind="datagram", name="udp"),
        ListenSocket(f"{place}/fifo", kind="fifo", name="fifo"),
        ListenSocket(f"{place}/socket", name="web"),
    ]
    options: Any = {
        "extend_env": {"LISTEN_PID": "1", "LISTEN_FDS": "7", "LISTEN_FDNAMES": "x", "OTHER": "o"},
        "timeout": 60,
    }
    spec = make_spec([sys.executable, "-IS", "-c", SERVER], options, containment)
    store = FdStore(1)
    store.add("state", [os.memfd_create("state")])
    with open_sockets(wanted) as sockets, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        ((_, state),) = store.entries()
        os.write(state, b"kept")
        datagrams.connect(ListenSocket(sockets.addresses[0]).inet)
        datagrams.send(b"packet")
        write_to(sockets.addresses[1], "fifo")
        with unix("stream") as client:
            client.connect(sockets.addresses[2])
            client.sendall(b"line")
            listening = list(zip(sockets.names, sockets.fds, strict=True))
            result = blocking.run(Call(pass_sockets(spec, listening, store.entries())))
            assert result.stderr.text == ""
            assert result.stdout.text == "b'hello' b'kept' o\n"
            assert client.recv(100) == b"LINE"
        assert datagrams.recv(100) == b"PACKET"
    store.close()


@pytest.mark.skipif(not ctypes.util.find_library("systemd"), reason="there is no libsystemd")
def test_libsystemd_understands_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PIDFDID", "1")  # of the host, and of another process
    source = """
import ctypes, os
names = ctypes.POINTER(ctypes.c_char_p)()
number = ctypes.CDLL("libsystemd.so.0").sd_listen_fds_with_names(0, ctypes.byref(names))
print(number, names[0], names[1], "LISTEN_PIDFDID" in os.environ)
"""
    spec = make_spec([sys.executable, "-c", source], {})
    wanted = [ListenSocket("127.0.0.1:0", name="web"), ListenSocket("127.0.0.1:0")]
    with open_sockets(wanted) as sockets:
        named = list(zip(sockets.names, sockets.fds, strict=True))
        result = blocking.run(Call(pass_sockets(spec, named)))
    assert (result.stderr.text, result.stdout.text) == ("", "2 b'web' b'unknown' False\n")


def test_nothing_to_pass() -> None:
    spec = make_spec(["true"], {})
    assert pass_sockets(spec, [], []) is spec


def test_too_many() -> None:
    spec = make_spec(["true"], {}, Containment.SUBREAPER)
    with open(os.devnull) as file:
        one = ("x", file.fileno())
        assert blocking.run(Call(pass_sockets(spec, [one] * 30, [one] * 18))).ok
        with pytest.raises(ValueError, match=r"^true: a program is passed 48 .* not 49$"):
            pass_sockets(spec, [one] * 30, [one] * 19)


def test_not_without_a_keeper() -> None:
    spec = make_spec(["true"], {}, Containment.PROCESS_GROUP)
    with pytest.raises(UnsupportedPlatform, match=r"^true: passing sockets takes a keeper"):
        pass_sockets(spec, [("x", 0)])


# --- waiting for something to do --------------------------------------------------------------


@on_each_loop
@pytest.mark.parametrize(
    ("address", "kind"),
    [("{}/a", "stream"), ("127.0.0.1:0", "stream"), ("{}/a", "datagram"), ("{}/a", "fifo")],
)
async def test_wait_for_connection(address: str, kind: Any, place: Path) -> None:
    wanted = [ListenSocket(f"{place}/quiet"), ListenSocket(address.format(place), kind=kind)]
    with open_sockets(wanted) as sockets:
        with anyio.move_on_after(0.01) as scope:
            await wait_for_connection(sockets)
        assert scope.cancelled_caught
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for_connection, sockets)
            await anyio.wait_all_tasks_blocked()
            write_to(sockets.addresses[1], kind)
        with anyio.fail_after(30):
            await wait_for_connection(sockets)  # nobody has taken it
        assert is_readable(sockets.fds[1], 0)


ANSWER_TWENTY = """
import os, socket
with socket.socket(fileno=3) as listener:
    for _ in range(20):
        with listener.accept()[0] as connection:
            connection.sendall(b"%d" % os.getpid())
os.kill(os.getpid(), 9)
"""


@on_each_loop
async def test_nobody_is_refused_while_it_restarts() -> None:
    answers: list[bytes] = []

    async def connect(sockets: OpenSockets) -> None:
        with client_of(sockets) as client:
            answers.append(await read_all(client))

    async def clients(sockets: OpenSockets) -> None:
        for _ in range(12):
            async with anyio.create_task_group() as at_once:
                for _ in range(5):
                    at_once.start_soon(connect, sockets)

    with listen("127.0.0.1:0") as sockets, anyio.fail_after(60):
        spec = make_spec([sys.executable, "-IS", "-c", ANSWER_TWENTY], {})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(clients, sockets)
            for _ in range(3):
                await wait_for_connection(sockets)
                result = await on_loop.run(Call(pass_sockets(spec, [("web", sockets.fds[0])])))
                assert result.outcome is Outcome.SIGNALED
    assert sorted(Counter(answers).values()) == [20, 20, 20]


async def read_all(client: socket.socket) -> bytes:
    """To the end of file."""
    data = []
    client.setblocking(False)
    while True:
        await anyio.wait_readable(client)
        if not (chunk := client.recv(100)):
            return b"".join(data)
        data.append(chunk)


# --- a process for each connection ------------------------------------------------------------


def never_log(text: str) -> None:
    raise AssertionError(text)


@on_each_loop
async def test_a_process_for_each_connection(place: Path) -> None:
    answers: list[bytes] = []
    spec = make_spec(shell("read -r line <&3; echo $LISTEN_FDNAMES $line >&3; exec 3>&-; cat"), {})

    async def handle(connection: socket.socket) -> None:
        call = Call(pass_sockets(spec, [("connection", connection.fileno())]))
        await on_loop.start(call)
        connection.close()  # it is the program's alone now
        try:
            await on_loop.drive(call)
        finally:
            call.close()

    async def ask(number: int) -> None:
        with client_of(sockets) as client:
            client.sendall(b"%d\n" % number)
            answers.append(await read_all(client))

    with listen(place / "socket") as sockets, anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:

            async def accept() -> None:
                await accept_each(sockets, handle, 3, tasks=tasks, log=never_log)

            tasks.start_soon(accept)
            async with anyio.create_task_group() as clients:
                for number in range(6):
                    clients.start_soon(ask, number)
            tasks.cancel_scope.cancel()
        assert sorted(answers) == [b"connection %d\n" % number for number in range(6)]
        assert not os.get_blocking(sockets.fds[0])
        client_of(sockets).close()  # it is listened on still


class Doors:
    """Handles connections by waiting at them until they are opened."""

    def __init__(self) -> None:
        self.waiting: list[anyio.Event] = []
        self.served = 0
        self.addresses: list[object] = []

    async def handle(self, connection: socket.socket) -> None:
        door = anyio.Event()
        self.addresses.append(connection.getsockname())
        self.waiting.append(door)
        connection.sendall(b"hello")
        await door.wait()
        self.served += 1

    def open(self) -> None:
        self.waiting.pop(0).set()


@on_each_loop
async def test_no_more_than_the_limit(
    place: Path, eventually: Callable[..., Awaitable[None]]
) -> None:
    doors = Doors()
    with listen(place / "socket") as sockets, anyio.fail_after(60):
        clients = [client_of(sockets) for _ in range(4)]
        async with anyio.create_task_group() as tasks:
            accepting, no_longer = anyio.CancelScope(), anyio.Event()

            async def accept() -> None:
                with accepting:
                    await accept_each(sockets, doors.handle, 2, tasks=tasks, log=never_log)
                no_longer.set()

            tasks.start_soon(accept)
            await eventually(lambda: len(doors.waiting) == 2)
            await anyio.wait_all_tasks_blocked()
            assert len(doors.waiting) == 2
            doors.open()
            assert await read_all(clients[0]) == b"hello"  # and is closed
            await eventually(lambda: len(doors.waiting) == 2)
            accepting.cancel()
            await no_longer.wait()
            doors.open()
            doors.open()
            assert await read_all(clients[1]) == await read_all(clients[2]) == b"hello"
        assert doors.served == 3  # the last one has not been accepted
        with socket.socket(fileno=os.dup(sockets.fds[0])) as listener:
            listener.accept()[0].close()
        assert clients[3].recv(1) == b""
        for client in clients:
            client.close()


@on_each_loop
async def test_the_limit_is_one_of_all_sockets(
    place: Path, eventually: Callable[..., Awaitable[None]]
) -> None:
    doors = Doors()
    with (
        open_sockets([ListenSocket(f"{place}/{name}") for name in "ab"]) as sockets,
        contextlib.ExitStack() as clients,
        anyio.fail_after(60),
    ):
        for address in [sockets.addresses[0]] * 3 + [sockets.addresses[1]] * 3:
            clients.enter_context(unix("stream")).connect(address)
        async with anyio.create_task_group() as tasks:

            async def accept() -> None:
                await accept_each(sockets, doors.handle, 2, tasks=tasks, log=never_log)

            tasks.start_soon(accept)
            await eventually(lambda: len(doors.waiting) == 2)
            await anyio.wait_all_tasks_blocked()
            assert sorted(doors.addresses) == sorted(sockets.addresses), "they take turns"
            for served in range(6):
                await eventually(lambda: len(doors.waiting) == min(2, 6 - doors.served))
                doors.open()
                await eventually(lambda n=served + 1: doors.served == n)
            tasks.cancel_scope.cancel()


@on_each_loop
async def test_cancelled_it_closes_what_it_has_accepted(
    place: Path, eventually: Callable[..., Awaitable[None]]
) -> None:
    doors = Doors()
    with listen(place / "socket") as sockets, client_of(sockets) as client, anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:

            async def accept() -> None:
                await accept_each(sockets, doors.handle, 2, tasks=tasks, log=never_log)

            tasks.start_soon(accept)
            await eventually(lambda: doors.waiting)
            tasks.cancel_scope.cancel()
        assert await read_all(client) == b"hello"


@on_each_loop
async def test_no_descriptors_to_accept_with(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation, "ACCEPT_PAUSE", 0.01)
    doors = Doors()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    told: list[str] = []
    starved = anyio.Event()

    def log(text: str) -> None:
        told.append(text)
        starved.set()

    with listen(place / "socket") as sockets, client_of(sockets) as client, anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:

            async def accept() -> None:
                await accept_each(sockets, doors.handle, 1, tasks=tasks, log=log)

            fillers: list[int] = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 20, limits[1]))
            try:
                with pytest.raises(OSError, match="Too many open files"):
                    while True:
                        fillers.append(os.dup(client.fileno()))
                tasks.start_soon(accept)
                await starved.wait()
                assert not doors.waiting
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                for fd in fillers:
                    os.close(fd)
            await anyio.wait_readable(client)
            assert client.recv(100) == b"hello"
            tasks.cancel_scope.cancel()
    assert set(told) == {"no connection can be accepted now: Too many open files"}


@on_each_loop
async def test_what_does_not_listen_any_more() -> None:
    with listen("127.0.0.1:0") as sockets:
        with socket.socket(fileno=os.dup(sockets.fds[0])) as same:
            same.shutdown(socket.SHUT_RDWR)  # readable in the way of one that has hung up
        async with anyio.create_task_group() as tasks:
            with anyio.fail_after(30), pytest.raises(OSError, match="Invalid argument"):
                await accept_each(sockets, print, 1, tasks=tasks, log=never_log)


# --- what a service keeps ---------------------------------------------------------------------


@pytest.fixture
def store() -> Iterator[FdStore]:
    store = FdStore(3)
    yield store
    store.close()
    store.close()


def names(store: FdStore) -> list[str]:
    return [name for name, _ in store.entries()]


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_it_keeps_no_more_than_its_limit(store: FdStore) -> None:
    fds = [os.memfd_create("kept") for _ in range(5)]
    assert store.add("a", fds[:2]) == 0
    assert store.add("b", fds[2:]) == 2
    assert store.entries() == [("a", fds[0]), ("a", fds[1]), ("b", fds[2])]
    assert [is_open(fd) for fd in fds] == [True] * 3 + [False] * 2
    store.remove("a")
    store.remove("unknown")
    assert store.entries() == [("b", fds[2])]
    assert not is_open(fds[0])
    assert FdStore(0).add("a", [os.memfd_create("refused")]) == 1


def test_it_lets_go_of_what_has_hung_up(store: FdStore) -> None:
    (ours, others), (patient, gone), (read_end, write_end) = (
        socket.socketpair(),
        socket.socketpair(),
        os.pipe(),
    )
    store.add("polled", [ours.detach()])
    store.add("patient", [patient.detach()], poll=False)
    store.add("pipe", [write_end])
    assert names(store) == ["polled", "patient", "pipe"]
    gone.close()
    os.close(read_end)
    assert names(store) == ["polled", "patient"]
    others.close()
    assert store.add("more", [os.memfd_create("more"), os.memfd_create("more")]) == 0
    assert names(store) == ["patient", "more", "more"]


def test_it_keeps_a_listening_socket(store: FdStore, place: Path) -> None:
    with socket.socket() as tcp, unix("stream") as stream, unix("datagram") as datagram:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        stream.bind(f"{place}/stream")
        stream.listen()
        datagram.bind(f"{place}/datagram")
        for kept in (tcp, stream, datagram):
            store.add("listening", [os.dup(kept.fileno())])
        assert names(store) == ["listening"] * 3


def test_it_keeps_a_socket_once_and_a_file_as_often_as_it_is_opened(store: FdStore) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as one, open(os.devnull) as file:
        again = [os.dup(one.fileno()) for _ in range(3)]
        assert store.add("a", again[:2]) == 0
        assert store.add("b", again[2:]) == 0
        assert store.entries() == [("a", again[0])]
        assert [is_open(fd) for fd in again] == [True, False, False]
        assert store.add("null", [os.dup(file.fileno()), os.dup(file.fileno())]) == 0
        assert names(store) == ["a", "null", "null"]
