"""Services whose sockets are there before them, and after them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import signal
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import tenacity

from agentsup import (
    EventStream,
    Hook,
    Limits,
    ListenSocket,
    NotReady,
    RestartLimitReached,
    Service,
    ServiceState,
    SpawnError,
    Supervisor,
    shell,
)
from agentsup._services import handle as handle_module

pytestmark = pytest.mark.anyio
Eventually = Callable[..., Awaitable[None]]
TYPES = {
    "stream": socket.SOCK_STREAM,
    "datagram": socket.SOCK_DGRAM,
    "seqpacket": socket.SOCK_SEQPACKET,
}


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose name is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="s") as directory:
        yield Path(directory)


def python(source: str, *words: str | Path) -> list[str | Path]:
    return [sys.executable, "-ISc", source, *words]


def tcp(**options: Any) -> ListenSocket:
    return ListenSocket("127.0.0.1:0", **options)


def client_of(address: str, kind: str = "stream") -> socket.socket:
    host, _, port = address.rpartition(":")
    client = socket.socket(socket.AF_INET if host else socket.AF_UNIX, TYPES[kind])
    client.settimeout(30)
    try:
        client.connect((host, int(port)) if host else address)
    except BaseException:
        client.close()
        raise
    return client


def write_to(address: str, kind: str, text: bytes = b"hello\n") -> None:
    if kind == "fifo":
        Path(address).write_bytes(text)
    else:
        with client_of(address, kind) as client:
            client.send(text)


async def read_all(client: socket.socket) -> bytes:
    """To the end of file."""
    data = []
    client.setblocking(False)
    with anyio.fail_after(30):
        while True:
            await anyio.wait_readable(client)
            if not (chunk := client.recv(100)):
                return b"".join(data)
            data.append(chunk)


async def reached(events: EventStream, state: ServiceState, reason: str = "") -> None:
    with anyio.fail_after(30):
        async for event in events:
            if event.state is state and reason in event.reason:
                return
    raise AssertionError(f"never {state.value}")


def free(address: str) -> bool:
    """Nobody listens there any more."""
    host, _, port = address.rpartition(":")
    if not host:
        return not os.path.lexists(address)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((host, int(port)))
        other.listen()
    return True


# --- over restarts ----------------------------------------------------------------------------

SERVER = """
import os, socket
listener = socket.socket(fileno=3)
while True:
    with listener.accept()[0] as connection:
        connection.sendall(b"%07d" % os.getpid())
"""


def fate(address: str) -> str:
    try:
        with client_of(address) as client:
            return client.recv(7, socket.MSG_WAITALL).decode() or "cut off"
    except ConnectionRefusedError:
        return "refused"
    except ConnectionResetError:
        return "cut off"


async def test_nobody_is_refused() -> None:
    """A thousand connections while the server is killed and restarted: some are cut off, for it had
    accepted them; none is refused."""
    seen: Counter[str] = Counter()

    async def hammer(connections: int) -> None:
        while seen.total() < connections:
            fates = await anyio.to_thread.run_sync(lambda: [fate(address) for _ in range(25)])
            seen.update(fates)

    async with Supervisor(max_restarts=1000) as sup:
        server = await sup.start(Service("server", python(SERVER), sockets=[tcp()]))
        [address] = server.addresses
        async with anyio.create_task_group() as clients:
            clients.start_soon(hammer, 1000)
            for number in itertools.count():
                await hammer(min(1000, seen.total() + 1))
                if seen.total() >= 1000:
                    break
                if number % 2:
                    await server.restart()
                elif server.pid:
                    os.kill(server.pid, signal.SIGKILL)
        assert server.addresses == (address,)
        assert server.restarts > 0
    assert seen["refused"] == 0
    assert seen["cut off"] < 200, seen
    assert len(seen.keys() - {"cut off"}) > 3, "several servers"
    assert free(address)


STORE = """
import os, socket
names, count = os.environ["LISTEN_FDNAMES"], int(os.environ["LISTEN_FDS"])
assert int(os.environ["LISTEN_PID"]) == os.getpid()
assert all(map(os.get_blocking, range(3, 3 + count)))
if count == 2:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.connect(os.environ["NOTIFY_SOCKET"])
        socket.send_fds(notify, [b"FDSTORE=1\\nFDNAME=kept"], [os.memfd_create("it")])
        read, write = os.pipe()
        socket.send_fds(notify, [b"BARRIER=1"], [write])
        os.close(write)
        os.read(read, 1)
    os.set_blocking(3, False)
    os.kill(os.getpid(), 9)
kept = os.readlink("/proc/self/fd/5")
with socket.socket(fileno=3) as listener, listener.accept()[0] as connection:
    connection.sendall(f"{names} {kept}".encode())
"""


async def test_stored_ones_come_after_the_sockets(place: Path) -> None:
    sockets = [ListenSocket(f"{place}/web", name="web"), tcp(name="log")]
    async with Supervisor() as sup:
        service = await sup.start(Service("store", python(STORE), sockets=sockets, fd_store=2))
        with client_of(service.addresses[0]) as client:
            assert (await read_all(client)).startswith(b"web:log:kept /memfd:it")


# --- lazily -----------------------------------------------------------------------------------

RECEIVER = """
import os, socket, sys
assert [os.environ[name] for name in ("LISTEN_FDS", "LISTEN_FDNAMES")] == ["1", sys.argv[1]]
assert int(os.environ["LISTEN_PID"]) == os.getpid()
if sys.argv[1] == "fifo":
    text = os.read(3, 100)
else:
    received = socket.socket(fileno=3)
    if sys.argv[1] != "datagram":
        received = received.accept()[0]
    text = received.recv(100)
print(text)
"""


async def test_the_first_connection_starts_it(place: Path, eventually: Eventually) -> None:
    addresses: list[tuple[str, Any]] = [
        ("127.0.0.1:0", "stream"),
        ("127.0.0.1:0", "datagram"),
        *((f"{place}/{kind}", kind) for kind in ("stream", "datagram", "seqpacket", "fifo")),
    ]
    async with Supervisor() as sup:
        services = [
            Service(
                f"service {number}",
                python(RECEIVER, kind),
                sockets=[ListenSocket(address, kind=kind, name=kind)],
                lazy=True,
            )
            for number, (address, kind) in enumerate(addresses)
        ]
        handles = await sup.start(*services)
        for handle in handles:
            assert handle.state is ServiceState.INACTIVE
            assert (handle.pid, handle.status_text) == (None, "waits for a connection")
        for (_, kind), handle in zip(addresses, handles, strict=True):
            write_to(handle.addresses[0], kind)
        for handle in handles:
            await eventually(lambda handle=handle: handle.result)
            assert handle.output == "b'hello\\n'\n", handle.output


READ_LINE = shell("read -r line <&3; echo got $line")


async def test_after_a_clean_end_the_next_one_does(place: Path) -> None:
    fifo = ListenSocket(f"{place}/fifo", kind="fifo")
    async with Supervisor() as sup:
        events = sup.events()
        service = await sup.start(Service("lazy", READ_LINE, sockets=[fifo], lazy=True))
        for number in range(3):
            await reached(events, ServiceState.INACTIVE, "waits for a connection")
            write_to(fifo.address, "fifo", b"%d\n" % number)
            await reached(events, ServiceState.ACTIVE)
        await reached(events, ServiceState.INACTIVE, "waits for a connection")
        assert service.output == "got 2\n"
        assert service.restarts == 0
        await service.restart()
        await reached(events, ServiceState.INACTIVE, "waits for a connection")
        await service.stop()
        assert (service.state, service.status_text) == (ServiceState.INACTIVE, "stopped")
        write_to(fifo.address, "fifo")
        assert service.pid is None
        with pytest.raises(NotReady, match="stopped"):
            await service.wait_ready()
        await service.start()
        await reached(events, ServiceState.ACTIVE)
        await service.stop()
        service.remove()
        assert free(fifo.address)


async def test_one_that_crashes(place: Path, eventually: Eventually) -> None:
    socket_ = ListenSocket(f"{place}/socket")
    service = Service(
        "lazy",
        ["false"],
        sockets=[socket_],
        lazy=True,
        backoff=tenacity.wait_chain(tenacity.wait_none(), tenacity.wait_fixed(3600)),
    )
    with pytest.RaisesGroup(RestartLimitReached):
        async with Supervisor(max_restarts=2, within=3600) as sup:
            handle = await sup.start(service)
            with client_of(socket_.address):
                # The first restart is for the connection that nobody has taken.
                await eventually(lambda: handle.state is ServiceState.BACKOFF)
                assert handle.restarts == 2
                await handle.start()
                await anyio.sleep_forever()
    assert free(socket_.address)


async def test_one_that_takes_nothing(
    place: Path, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handle_module, "ACTIVATIONS", (2, 3600.0))
    socket_ = ListenSocket(f"{place}/socket")
    async with Supervisor() as sup:
        events = sup.events()
        service = await sup.start(Service("lazy", ["true"], sockets=[socket_], lazy=True))
        with client_of(socket_.address):
            for _ in range(2):
                await reached(events, ServiceState.ACTIVE)
            await eventually(lambda: service.status_text == "started too often: waits 3600 s")
        await service.stop()


# --- a process for each connection ------------------------------------------------------------

ANSWER = shell(
    '[ "$LISTEN_PID" = $$ ] || exit 3; echo "$LISTEN_FDS $LISTEN_FDNAMES" >&3; read -r line <&3;'
    'echo "it was $line"'
)


async def test_a_process_for_each_connection(place: Path, eventually: Eventually) -> None:
    sockets = [ListenSocket(f"{place}/{kind}", kind=kind) for kind in ("stream", "seqpacket")]
    service = Service("accept", ANSWER, sockets=sockets, accept=True, max_connections=2)
    with contextlib.ExitStack() as stack:
        async with Supervisor() as sup:
            handle = await sup.start(service)
            assert (handle.state, handle.pid) == (ServiceState.ACTIVE, None)
            clients = [stack.enter_context(client_of(one.address, one.kind)) for one in sockets * 2]
            answered: list[socket.socket] = []

            async def hello(client: socket.socket) -> None:
                client.setblocking(False)
                await anyio.wait_readable(client)
                assert client.recv(100) == b"1 connection\n"
                answered.append(client)

            async with anyio.create_task_group() as tasks:
                for client in clients:
                    tasks.start_soon(hello, client)
                await eventually(lambda: len(answered) == 2)
                await anyio.wait_all_tasks_blocked()
                assert len(answered) == 2, "the bound is one of both sockets"
                assert handle.status_text == "connections: 2"
                answered[0].send(b"kept\n")
                await eventually(lambda: len(answered) == 3)
                assert handle.output == "it was kept\n"
                assert handle.result
                assert handle.result.ok
                answered[1].close()  # it hangs up
                await eventually(lambda: len(answered) == 4)
            await eventually(lambda: handle.status_text == "connections: 2")
            await handle.stop()
            assert [await read_all(client) for client in answered[2:]] == [b"", b""]
            assert all(free(one.address) for one in sockets)
            assert await handle.wait() is ServiceState.INACTIVE


async def test_connections_wait_while_it_restarts(place: Path) -> None:
    address = f"{place}/socket"
    service = Service(
        "accept",
        shell("echo $$ >&3; read -r line <&3; echo $line >&3; exec 3>&-; sleep 1000"),
        sockets=[ListenSocket(address)],
        accept=True,
        max_connections=1,
    )
    async with Supervisor() as sup:
        handle = await sup.start(service)
        with client_of(address) as first, client_of(address) as second:
            await anyio.wait_readable(first)
            pid = int(first.recv(100))
            await handle.restart()
            assert await read_all(first) == b""
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
            second.send(b"hello\n")
            assert (await read_all(second)).endswith(b"\nhello\n")


async def test_what_goes_wrong_with_connections(
    place: Path, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    program = place / "program"

    def write(text: str) -> None:
        program.write_text(text)
        program.chmod(0o755)

    write("#!/nonexistent")
    service = Service(
        "accept",
        [program],
        sockets=[ListenSocket(f"{place}/socket")],
        accept=True,
        limits=Limits(open_files=77),
    )
    async with Supervisor() as sup:
        handle = await sup.start(service)
        with client_of(handle.addresses[0]) as client:
            assert await read_all(client) == b""
        assert "accept: a connection has failed: [Errno 2]" in caplog.text
        write("#!/bin/sh\nulimit -n >&3; exit 7\n")
        client_of(handle.addresses[0]).close()  # it has gone before it is served
        with client_of(handle.addresses[0]) as client:
            assert await read_all(client) == b"77\n"
        await eventually(lambda: "the process of a connection exited with" in caplog.text)
        assert handle.state is ServiceState.ACTIVE


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
async def test_of_another_user(place: Path) -> None:
    service = Service(
        "accept", shell("id -u >&3"), sockets=[tcp()], accept=True, user=12345, group=12345
    )
    async with Supervisor() as sup:
        handle = await sup.start(service)
        with client_of(handle.addresses[0]) as client:
            assert await read_all(client) == b"12345\n"


async def test_its_tasks_are_cancelled(
    place: Path, eventually: Eventually, anyio_backend_name: str
) -> None:
    """As only asyncio lets anybody do."""
    if anyio_backend_name != "asyncio":
        pytest.skip("there is no such thing")
    service = Service(
        "accept",
        shell("echo hello >&3; sleep 1000"),
        sockets=[ListenSocket(f"{place}/socket")],
        accept=True,
    )
    mine = asyncio.all_tasks()
    async with Supervisor() as sup:
        handle = await sup.start(service)
        with client_of(handle.addresses[0]) as client:
            await anyio.wait_readable(client)
            for task in asyncio.all_tasks() - mine:
                task.cancel()
            assert await read_all(client) == b"hello\n"
        await handle.wait()
        assert free(service.sockets[0].address)


# --- addresses --------------------------------------------------------------------------------


async def test_they_are_freed(place: Path) -> None:
    async with Supervisor() as sup:
        sockets = [tcp(), ListenSocket(f"{place}/socket"), ListenSocket(f"{place}/f", kind="fifo")]
        service = Service("sleep", ["sleep", "1000"], sockets=sockets)
        handle = await sup.start(service)
        addresses = handle.addresses
        await handle.stop()
        with client_of(addresses[1]):
            pass  # it is listened on still
        handle.remove()
        assert all(free(address) for address in addresses)
        kept = await sup.start(service)
        addresses = kept.addresses
    assert all(free(address) for address in addresses)
    assert kept.addresses == ()


FAILING: list[tuple[type[Exception], dict[str, Any]]] = [
    (NotReady, {"command": ["false"], "ready": lambda: False}),
    (NotReady, {"pre_start": Hook(["false"])}),
    (SpawnError, {"command": ["/nonexistent"]}),
    (SpawnError, {"sockets": [ListenSocket("/nonexistent/path")]}),
    (ValueError, {"after": "nobody"}),
]


async def test_a_start_that_fails(place: Path) -> None:
    other = Service("other", ["sleep", "1000"], sockets=[ListenSocket(f"{place}/other")])
    async with Supervisor() as sup:
        for error, options in FAILING:
            options = {"command": ["true"], "sockets": (), **options}
            options["sockets"] = [ListenSocket(f"{place}/fails"), *options["sockets"]]
            with pytest.raises(error):
                await sup.start(other, Service("fails", **options))
            assert os.listdir(place) == []
            assert sup.tree() == ()
        assert await sup.start(other)


async def test_an_address_that_is_taken(place: Path) -> None:
    kinds: list[Any] = [*TYPES, "fifo"]
    sockets = [tcp(), *(ListenSocket(f"{place}/{kind}", kind=kind) for kind in kinds)]
    async with Supervisor() as sup:
        first = await sup.start(Service("first", ["sleep", "1000"], sockets=sockets))
        for address, wanted in zip(first.addresses, sockets, strict=True):
            again = ListenSocket(address, kind=wanted.kind)
            second = Service("second", ["true"], sockets=[ListenSocket(f"{place}/other"), again])
            with pytest.raises(SpawnError, match=rf"sockets: .*{re.escape(address)}"):
                await sup.start(second)
            assert sorted(os.listdir(place)) == sorted(kinds)
        assert [node.name for node in sup.tree()] == ["first"]
        client_of(first.addresses[0]).close()


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"lazy": True}, "need sockets"),
        ({"accept": True}, "need sockets"),
        ({"accept": True, "sockets": ListenSocket("0", kind="datagram")}, "'0', which is a datagr"),
        ({"accept": True, "sockets": ListenSocket("/f", kind="fifo")}, "'/f', which is a fifo"),
        ({"accept": True, "sockets": tcp(), "lazy": True}, "no lazy"),
        ({"accept": True, "sockets": tcp(), "fd_store": 1}, "no fd_store"),
        ({"accept": True, "sockets": tcp(), "pre_start": Hook(["true"])}, "no pre_start"),
        ({"accept": True, "sockets": tcp(), "type": "notify"}, "type='simple'"),
        ({"sockets": [tcp()] * 30, "fd_store": 19}, "49 descriptors, and .* 48 at most"),
        ({"sockets": tcp(), "max_connections": 0}, "at least 1"),
        ({"sockets": tcp(), "max_connections": None}, "max_connections must be a whole number"),
        ({"fd_store": None}, "fd_store must be a whole number"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        Service("service", ["true"], **options)
