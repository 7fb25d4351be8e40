"""Every kind of probe against real servers: good ones, bad ones, and ones that hang."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import agentsup
from agentsup._services import probing
from agentsup._values.command import Command, shell
from agentsup._values.probe import (
    CallableProbe,
    CommandProbe,
    HttpProbe,
    Probe,
    TcpProbe,
    UnixProbe,
)

pytestmark = pytest.mark.anyio

LONG = 60.0  # for what passes, or fails, by itself
SHORT = 0.2  # for what hangs
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

# For localhost and 127.0.0.1, signed by itself, and good for a hundred years.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgMMg9S+R59zfuh8m3
5CcHXn0wZEtxy5zGnQt+9A8bZQmhRANCAAR7WfGAC3o2vnR2IyzXVAZNJ1IWhK+y
sdCnId7/bQBmBWxV1QszvLq0LCZc2yEs/NDO4CJa1Nn66coGiPCBs2BI
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBfTCCASSgAwIBAgIBATAKBggqhkjOPQQDAjAPMQ0wCwYDVQQDDAR0ZXN0MCAX
DTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAPMQ0wCwYDVQQDDAR0ZXN0
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEe1nxgAt6Nr50diMs11QGTSdSFoSv
srHQpyHe/20AZgVsVdULM7y6tCwmXNshLPzQzuAiWtTZ+unKBojwgbNgSKNvMG0w
GgYDVR0RBBMwEYIJbG9jYWxob3N0hwR/AAABMA8GA1UdEwEB/wQFMAMBAf8wHQYD
VR0OBBYEFAJUfJ+ai6LCLTDgSYgZ1B0LTlrWMB8GA1UdIwQYMBaAFAJUfJ+ai6LC
LTDgSYgZ1B0LTlrWMAoGCCqGSM49BAMCA0cAMEQCIEl0hd1hQlqKqwyIEhMs7lXM
nu91rgKnvOeYqeoh2o2XAiAisXroaUzYachzxcJBAFJ5cqA8dug2CbrhCwt6phhh
og==
-----END CERTIFICATE-----
"""


async def run(command: Command, timeout: float | None) -> agentsup.Result:
    return await agentsup.run(command, timeout=timeout)


async def check(probe: Probe, timeout: float = LONG) -> str | None:
    return await probing.check(probe, timeout, run)


class Server:
    """Gives every request the same answer, one connection after another, in a thread."""

    def __init__(
        self,
        listener: socket.socket,
        answer: Callable[[], Iterable[bytes]],
        tls: ssl.SSLContext | None,
    ) -> None:
        self.requests: list[bytes] = []
        self.closed = 0  # connections that the client has closed
        self._listener = listener
        self._answer = answer
        self._tls = tls
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def port(self) -> int:
        port = self._listener.getsockname()[1]
        assert isinstance(port, int)
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/health"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # shut down
            with connection, contextlib.suppress(OSError):
                if self._tls:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                with connection, contextlib.suppress(OSError):
                    self._talk(connection)
            self.closed += 1

    def _talk(self, connection: socket.socket) -> None:
        self.requests.append(connection.recv(65_536))  # so short that it comes in one piece
        for piece in self._answer():
            connection.sendall(piece)
        while connection.recv(65_536):
            pass


Serve = Callable[..., Server]


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """Connections can be made, and nobody accepts them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def serve() -> Iterator[Serve]:
    with contextlib.ExitStack() as stack:

        def start(
            *answer: bytes,
            forever: bytes = b"",
            path: Path | None = None,
            tls: ssl.SSLContext | None = None,
        ) -> Server:
            if path:
                listener = socket.socket(socket.AF_UNIX)
                listener.bind(str(path))
                listener.listen()
            else:
                listener = socket.create_server(("127.0.0.1", 0))
            endless = itertools.repeat(forever) if forever else ()
            server = Server(listener, lambda: itertools.chain(answer, endless), tls)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as bound:  # nobody else gets it, and nobody listens
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def socket_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Short enough, however long the name of pytest's own directory is."""
    monkeypatch.chdir(tmp_path)
    return Path("s")


# --- TCP and Unix sockets -------------------------------------------------------------------------


async def test_tcp(listening: socket.socket, closed_port: int) -> None:
    port = listening.getsockname()[1]
    assert await check(TcpProbe(port)) is None
    assert await check(TcpProbe(port, "localhost")) is None
    assert await check(TcpProbe(closed_port)) == "Connection refused"
    assert await check(TcpProbe(closed_port, "localhost")) == "Connection refused"
    assert "not known" in str(await check(TcpProbe(port, "a" * 100)))


async def test_tcp_tries_every_address_of_a_name(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = listening.getsockname()[1]

    async def resolve(*_: object, **__: object) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, 0, 0, "", (host, port)) for host in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(anyio, "getaddrinfo", resolve)
    assert await check(TcpProbe(port, "a.name")) is None


async def test_tcp_that_nobody_answers() -> None:
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(8):  # the kernel drops what its queue has no room for
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        reason = await check(TcpProbe(full.getsockname()[1]), SHORT)
    assert reason == "no answer within 0.2 s"


SELF_CONNECTION = """
import fcntl, socket, struct, sys
import anyio
from agentsup._services import probing
from agentsup._values.probe import TcpProbe

with socket.socket() as any_socket:  # ip link set lo up
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 1))
with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:
    file.write("40000 40000")
print(anyio.run(probing.check, TcpProbe(40000), 60.0, None))
"""


def test_a_connection_to_itself_is_none() -> None:
    new_network = ["unshare", "--map-root-user", "--net"]
    usable = [*new_network, "test", "-w", "/proc/sys/net/ipv4/ip_local_port_range"]
    if subprocess.run(usable, capture_output=True, check=False).returncode:
        pytest.skip("no namespaces here")
    done = subprocess.run(
        [*new_network, sys.executable, "-c", SELF_CONNECTION],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("Connection refused\n", "")


async def test_unix_socket(socket_path: Path) -> None:
    assert await check(UnixProbe(socket_path)) == "No such file or directory"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
        listener.bind(str(socket_path))
        assert await check(UnixProbe(socket_path)) == "Connection refused"
        listener.listen(0)
        assert await check(UnixProbe(str(socket_path))) is None
        listener.accept()[0].close()
        waiting.connect(str(socket_path))
        full = "its queue of connections is full"
        assert await check(UnixProbe(socket_path)) == full
        assert await check(HttpProbe("http://a/", unix_socket=socket_path)) == full


# --- HTTP -----------------------------------------------------------------------------------------


async def test_http_passes_by_its_status(serve: Serve) -> None:
    server = serve(OK)
    assert await check(HttpProbe(server.url)) is None
    assert await check(HttpProbe(server.url, status={204})) == "HTTP status 200"
    broken = serve(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
    assert await check(HttpProbe(broken.url)) == "HTTP status 503"
    assert await check(HttpProbe(broken.url, status=[503])) is None


async def test_http_request_is_what_was_asked_for(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    for name in "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy":
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port}")
    server = serve(OK)
    probe = HttpProbe(
        server.url + "?a=%20b", method="HEAD", headers={"X-Probe": "1", "Host": "example"}
    )
    assert await check(probe) is None
    first, *headers = server.requests[0].decode().rstrip().split("\r\n")
    assert first == "HEAD /health?a=%20b HTTP/1.1"
    assert sorted(headers, key=str.lower) == [
        "Accept-Encoding: identity",
        "Connection: close",
        "Host: example",
        "X-Probe: 1",
    ]


async def test_http_redirect_is_an_answer_and_not_followed(serve: Serve) -> None:
    elsewhere = serve(OK)
    location = elsewhere.url.encode()
    server = serve(
        b"HTTP/1.1 302 There\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n"
    )
    assert await check(HttpProbe(server.url)) is None
    assert await check(HttpProbe(server.url, status={200})) == "HTTP status 302"
    assert elsewhere.requests == []


async def test_http_body(serve: Serve) -> None:
    server = serve(OK)
    assert await check(HttpProbe(server.url, body=lambda body: body == b"hello")) is None
    reason = await check(HttpProbe(server.url, body=lambda body: b"bye" in body))
    assert reason == "the body of the answer does not pass"
    reason = await check(HttpProbe(server.url, body=lambda body: 1 // 0))
    assert str(reason).startswith("ZeroDivisionError: ")


async def test_http_body_in_chunks(serve: Serve) -> None:
    server = serve(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n",
        b"2\r\nlo\r\n0\r\n\r\n",
    )
    assert await check(HttpProbe(server.url, body=lambda body: body == b"hello")) is None


@pytest.mark.parametrize("length", [b"", b"Content-Length: 1000000000000\r\n"])
async def test_http_reads_only_the_beginning_of_a_large_body(serve: Serve, length: bytes) -> None:
    sizes: list[int] = []
    server = serve(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n", forever=b"x" * 65_536)
    reason = await check(HttpProbe(server.url, body=lambda body: not sizes.append(len(body))))
    assert (reason, sizes) == (None, [1024 * 1024])


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel",
    ],
)
async def test_http_that_hangs(
    serve: Serve, eventually: Callable[..., Awaitable[None]], answer: bytes
) -> None:
    server = serve(answer)
    assert await check(HttpProbe(server.url, body=bool), SHORT) == "no answer within 0.2 s"
    await eventually(lambda: server.closed == 1)


@pytest.mark.parametrize("answer", [b"hello\r\n\r\n", b"\xff" * 200_000, b"\0" * 200_000])
async def test_what_is_not_http(serve: Serve, answer: bytes) -> None:
    reason = await check(HttpProbe(serve(answer).url))
    assert reason
    assert "ProtocolError" in reason
    assert len(reason) <= probing.REASON_MAX


async def test_http_endless_headers(serve: Serve) -> None:
    server = serve(b"HTTP/1.1 200 OK\r\n", forever=b"a: b\r\n" * 1000)
    assert "ProtocolError" in str(await check(HttpProbe(server.url)))


async def test_http_connection_closed_without_an_answer(listening: socket.socket) -> None:
    def close() -> None:
        with listening.accept()[0] as connection:
            connection.recv(65_536)

    thread = threading.Thread(target=close)
    thread.start()
    reason = await check(HttpProbe(f"http://127.0.0.1:{listening.getsockname()[1]}/"))
    thread.join()
    assert "without sending a response" in str(reason)


async def test_http_refused(closed_port: int) -> None:
    assert await check(HttpProbe(f"http://127.0.0.1:{closed_port}/")) == "Connection refused"


async def test_http_over_a_unix_socket(serve: Serve, socket_path: Path) -> None:
    probe = HttpProbe("http://app/health", unix_socket=socket_path, body=b"hello".__eq__)
    assert await check(probe) == "No such file or directory"
    server = serve(OK, path=socket_path)
    assert await check(probe) is None
    assert b"\r\nHost: app\r\n" in server.requests[0]


async def test_https(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentsup._services import http

    file = tmp_path / "certificate.pem"
    file.write_text(CERTIFICATE)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(file)
    large = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
    server = serve(large, tls=tls)
    probe = HttpProbe(f"https://127.0.0.1:{server.port}/", body=lambda body: len(body) == 100_000)
    assert "certificate verify failed" in str(await check(probe))
    trusting = ssl.create_default_context(cafile=file)
    monkeypatch.setattr(http, "_tls", lambda: trusting)
    assert await check(probe) is None
    other = HttpProbe(f"https://127.1:{server.port}/")  # another name of the same host
    assert "certificate verify failed" in str(await check(other))


async def test_https_to_what_is_none(serve: Serve) -> None:
    server = serve(forever=b"220 mail.example\r\n")
    reason = await check(HttpProbe(f"https://127.0.0.1:{server.port}/"))
    assert "SSL" in str(reason)


# --- commands and functions -----------------------------------------------------------------------


async def test_command() -> None:
    assert await check(CommandProbe(["true"])) is None
    assert await check(CommandProbe(["false"])) == "exited with status 1"
    reason = await check(CommandProbe(shell("echo out; echo no database >&2; exit 3")))
    assert reason == "exited with status 3: no database"
    assert "'no-such-program'" in str(await check(CommandProbe(["no-such-program"])))


async def test_command_that_hangs(marker: Any) -> None:
    reason = await check(CommandProbe(["sleep", marker]), SHORT)
    assert str(reason).startswith("timed out after 0.")
    assert not marker.pids()


async def test_function() -> None:
    async def passes() -> str:
        await anyio.sleep(0)
        return "yes"

    async def fails() -> None:
        await anyio.sleep(0)

    def raises() -> None:
        raise KeyError("database\n  gone")

    assert await check(CallableProbe(lambda: True)) is None
    assert await check(CallableProbe(passes)) is None
    assert await check(CallableProbe(lambda: 0)) == "returned 0"
    assert await check(CallableProbe(fails)) == "returned None"
    assert await check(CallableProbe(raises)) == r"KeyError: 'database\n gone'"
    assert await check(CallableProbe(anyio.sleep_forever), SHORT) == "no answer within 0.2 s"


async def test_without_a_timeout_it_takes_its_time() -> None:
    async def slow() -> bool:
        await anyio.sleep(0.01)
        return True

    assert await probing.check(CallableProbe(slow), None, run) is None


# --- nothing is left open -------------------------------------------------------------------------


def open_sockets() -> int:
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """Which would close what was forgotten."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("scheme", ["tcp", "http", "https"])
async def test_cancelled_anywhere_it_closes_its_socket(
    listening: socket.socket, scheme: str
) -> None:
    host, port = listening.getsockname()
    probe = TcpProbe(port, host) if scheme == "tcp" else HttpProbe(f"{scheme}://{host}:{port}/")
    await check(probe, SHORT)  # imports
    before = open_sockets()
    for steps in range(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(check, probe)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        assert open_sockets() == before, steps


@pytest.mark.usefixtures("no_garbage_collection")
async def test_a_url_that_httpx_refuses(socket_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path))
        listener.listen()
        before = open_sockets()
        reason = await check(HttpProbe("http://xn--\u00fc/", unix_socket=socket_path))
        assert str(reason).startswith("InvalidURL: ")
        assert open_sockets() == before


async def test_a_peer_that_is_always_faster_does_not_hold_up_the_loop() -> None:
    from agentsup._services.http import _Stream

    ours, theirs = socket.socketpair()
    with ours, theirs, anyio.CancelScope() as scope:
        theirs.sendall(b"here already")
        scope.cancel()
        await _Stream(ours).read(4)
    assert scope.cancelled_caught


async def test_cancelled_in_the_middle_of_the_answer_it_closes_its_socket(
    serve: Serve, eventually: Callable[..., Awaitable[None]]
) -> None:
    server = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(check, HttpProbe(server.url, body=bool))
        await eventually(lambda: server.requests)
        tasks.cancel_scope.cancel()
    await eventually(lambda: server.closed == 1)


def test_httpx_is_imported_for_http_alone() -> None:
    code = """
import sys
import anyio
from agentsup._services import health, probing
from agentsup._values.probe import HttpProbe, TcpProbe

anyio.run(probing.check, TcpProbe(1), 60.0, None)
print("httpx" in sys.modules)
anyio.run(probing.check, HttpProbe("http://127.0.0.1:1/"), 60.0, None)
print("httpx" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\nTrue\n"
