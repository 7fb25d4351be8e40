"""The sockets of the control API: who may speak there, for how long, and what is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from agentsup.daemon import server
from agentsup.daemon.server import TcpListener, read_token, serve

# uvicorn is asyncio's alone.
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize(
        "anyio_backend",
        [
            pytest.param(("asyncio", {"use_uvloop": uvloop}), id="uvloop" if uvloop else "asyncio")
            for uvloop in (False, True)
        ],
    ),
]
TOKEN = "0123456789abcdef"
ENDED = anyio.EndOfStream, anyio.BrokenResourceError
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Says the path; or an endless answer, until the client goes or the server closes."""
    while (await receive()).get("more_body"):
        pass
    if scope["path"] != "/endless":
        return await JSONResponse({"path": scope["path"]})(scope, receive, send)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": True})
    await send({"type": "http.response.body", "body": b"last", "more_body": True})
    await scope["state"]["closing"].wait()
    await send({"type": "http.response.body", "body": b"over"})


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="agentsup-", dir="/tmp") as directory:
        yield Path(directory) / "state" / "control.sock"


async def ask(address: Path | tuple[str, int], request: bytes = GET) -> bytes:
    """All that is answered until the connection ends."""
    unix = isinstance(address, Path)
    connect: Any = anyio.connect_unix(address) if unix else anyio.connect_tcp(*address)
    answer = b""
    async with await connect as stream:
        with contextlib.suppress(anyio.BrokenResourceError):
            await stream.send(request.replace(b"Host:", b"Connection: close\r\nHost:", 1))
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                answer += await stream.receive()
    return answer


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def listening(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


async def test_only_the_user_can_open_the_socket(path: Path) -> None:
    async with serve(app, path) as addresses:
        assert addresses == (str(path),)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert b'{"path":"/"}' in await ask(path)
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="to be another user takes root")
async def test_another_user_is_refused_whatever_the_mode(path: Path) -> None:
    client = (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX);"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534);"
        "s.connect(sys.argv[1]); print(s.recv(1000).decode()); assert s.recv(1) == b''"
    )
    async with serve(app, path):
        for part in (path.parent.parent, path.parent, path):
            part.chmod(0o777)
        ran = await anyio.run_process([sys.executable, "-ISc", client, path])
        assert status_of(ran.stdout) == 403
        assert json.loads(ran.stdout.partition(b"\r\n\r\n")[2])["error"]
        assert status_of(await ask(path)) == 200


async def test_one_that_was_left_is_replaced_and_a_living_one_is_not(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with serve(app, path):
        with pytest.raises(OSError, match="somebody listens there"):
            async with serve(app, path):
                pass
        assert status_of(await ask(path)) == 200
    path.write_text("of somebody's")
    with pytest.raises(FileExistsError, match="no socket"):
        async with serve(app, path):
            pass
    assert path.read_text() == "of somebody's"


async def test_tcp_takes_the_token(path: Path) -> None:
    async with serve(app, path, TcpListener("127.0.0.1:0", TOKEN)) as (_, tcp):
        for said, status in [
            (b"", 401),
            (b"Authorization: Bearer 0123456789abcdeF\r\n", 401),
            (b"Authorization: Bearer \r\n", 401),
            (b"Authorization: Basic 0123456789abcdef\r\n", 401),
            (b"Authorization: Bearer 0123456789abcdef\xff\r\n", 401),
            (b"Authorization: bearer 0123456789abcdef\r\n", 200),
        ]:
            request = GET.replace(b"\r\n\r\n", b"\r\n" + said + b"\r\n")
            assert status_of(await ask(listening(tcp), request)) == status, said
        assert status_of(await ask(path)) == 200  # on the Unix socket nobody asks for it


async def test_nothing_is_left_if_one_cannot_be_opened(path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=address):
            async with serve(app, path, TcpListener(address, TOKEN)):
                pass
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "\n", "short\n", "0123456789\n0123456789", "0123456789abcdé"])
async def test_a_token_file_has_one(anyio_backend: object, tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(ValueError, match="16 or more"):
        read_token(file)
    file.write_text(f" {TOKEN}\n")
    assert read_token(file) == TOKEN


async def test_idle_it_never_wakes(path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with serve(app, path):
        await ask(path)
        async with await anyio.connect_unix(path) as quiet:
            await quiet.send(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
            read = b""
            while not read.endswith(b"last\r\n"):
                read += await quiet.receive()
            while (before := _waits()) != await _settled(loop):
                pass
            await asyncio.sleep(1.5)
            # Once to begin to sleep, once to end it: a tick of 0.1 s would make it 15.
            assert _waits() - before <= 4


def _waits() -> int:
    """How often this thread has waited for something."""
    with open("/proc/thread-self/status") as file:
        [line] = [line for line in file if line.startswith("voluntary_ctxt_switches")]
    return int(line.split()[1])


async def _settled(loop: asyncio.AbstractEventLoop) -> int:
    for _ in range(20):
        await asyncio.sleep(0)
    return _waits()


async def test_streams_end_with_the_server_and_who_does_not_read_is_not_waited_for(
    path: Path,
) -> None:
    endless = b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n"
    async with contextlib.AsyncExitStack() as clients:
        with anyio.fail_after(30):
            async with serve(app, path):
                reader, stuck, silent, half = [
                    await clients.enter_async_context(await anyio.connect_unix(path))
                    for _ in range(4)
                ]
                await stuck.send(endless)
                await half.send(b"GET / HT")
                await reader.send(endless)
                read = b""
                while not read.endswith(b"last\r\n"):
                    read += await reader.receive()
        assert not path.exists()
        rest = b""
        with contextlib.suppress(anyio.EndOfStream):
            while True:
                rest += await reader.receive()
        assert rest.endswith(b"over\r\n0\r\n\r\n")
        for other in (silent, half):
            with pytest.raises(anyio.EndOfStream):
                await other.receive()


async def test_a_server_can_be_cancelled_anywhere(path: Path) -> None:
    for steps in range(12):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_serve_for_ever, path)
            for _ in range(steps):
                await asyncio.sleep(0)
            tasks.cancel_scope.cancel()
        assert not path.exists()


async def _serve_for_ever(path: Path) -> None:
    async with serve(app, path, TcpListener("127.0.0.1:0", TOKEN)):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.send(GET)
            await anyio.sleep_forever()


async def test_what_the_block_raises_comes_out_as_it_is(path: Path) -> None:
    with pytest.raises(KeyError):
        async with serve(app, path):
            raise KeyError


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0" * 100,
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /" + b"a" * 100_000,
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 50_000,
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n" + b"\0" * 200_000,
        b"POST /endless HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nazz",
        bytes(range(256)) * 20,
    ],
)
async def test_garbage_is_harmless(path: Path, garbage: bytes) -> None:
    async with serve(app, path), contextlib.AsyncExitStack() as clients:
        for _ in range(5):
            client = await clients.enter_async_context(await anyio.connect_unix(path))
            with contextlib.suppress(anyio.BrokenResourceError), anyio.move_on_after(0.01):
                await client.send(garbage)
        assert status_of(await ask(path)) == 200


async def test_a_request_has_to_come_in_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PATIENCE", 0.1)
    async with serve(app, path):
        for begun in (
            b"",
            b"GET / HTTP/1.1\r\nHo",
            b"POST / HTTP/1.1\r\nContent-Length: 5\r\nHost: x\r\n\r\n1",
        ):
            # Also after one that was answered, and behind one that is to be answered.
            for before, after in ((b"", begun), (GET, begun), (GET + begun, b"")):
                async with await anyio.connect_unix(path) as client:
                    await client.send(before)
                    if before:
                        assert status_of(await client.receive()) == 200
                    await client.send(after)
                    with (
                        anyio.fail_after(30),
                        contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError),
                    ):
                        while True:
                            await client.receive()
        async with await anyio.connect_unix(path) as client:
            await client.send(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
            read = b""
            while not read.endswith(b"last\r\n"):
                read += await client.receive()
            with anyio.move_on_after(0.5) as scope:
                await client.receive()
            assert scope.cancelled_caught, "an answer may take any time"


async def test_too_many_connections_are_turned_away(
    path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS", 2)
    async with serve(app, path, TcpListener("127.0.0.1:0", TOKEN)) as (_, tcp):
        async with contextlib.AsyncExitStack() as clients:
            for _ in range(2):
                await clients.enter_async_context(await anyio.connect_tcp(*listening(tcp)))
            assert status_of(await ask(listening(tcp))) == 503
            assert status_of(await ask(path)) == 200, "that is another count"
        while status_of(await ask(listening(tcp))) != 401:
            pass


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
async def test_curl_can_speak_with_it(path: Path) -> None:
    async with serve(app, path):
        ran = await anyio.run_process(
            ["curl", "-sS", "--fail", "--unix-socket", path, "http://agentsup/some"]
        )
        assert json.loads(ran.stdout) == {"path": "/some"}
