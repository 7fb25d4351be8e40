"""MCP's stdio transport: what the SDK's own one promises, and what a supervisor adds to it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

import agentsup
from agentsup import CLOSE_STDIN, Escalation, RestartPolicy, Step

pytest.importorskip("mcp")

from mcp import ClientSession, MCPError
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.shared.message import SessionMessage
from mcp_types import (
    CONNECTION_CLOSED,
    ErrorData,
    JSONRPCError,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)

from agentsup.ext import mcp
from agentsup.ext._mcp_session import McpSession
from agentsup.ext.mcp import stdio_client

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="the keeper is Linux's"),
    # The SDK's own affair with streams that a cancelled session leaves.
    pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning"),
]

PING = JSONRPCRequest(jsonrpc="2.0", id=1, method="ping")
PING_2 = JSONRPCRequest(jsonrpc="2.0", id="two", method="ping", params={"é": "\u2028"})

# Answers without the SDK, which takes half a second to import. Each line that it gets goes to a
# file with its pid. Its end of input ends it, also where it hangs.
SERVER = """
import json, os, queue, sys, threading
log = open(sys.argv[1], "a")
lines = queue.Queue()
def listen():
    for line in sys.stdin:
        log.write(f"{os.getpid()} {line}")
        log.flush()
        lines.put(json.loads(line))
    os._exit(0)
threading.Thread(target=listen, daemon=True).start()
def say(**message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
spoilt = os.path.exists(sys.argv[1] + ".spoilt")
while True:
    message = lines.get()
    method, id = message.get("method"), message.get("id")
    if method == "initialize" and spoilt:
        say(id=id, error={"code": -32603, "message": "spoilt"})
    elif method == "initialize":
        say(id=id, result={
            "protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
            "serverInfo": {"name": "test", "version": "1"},
        })
    elif method == "ping":
        say(id=id, result={})
    elif method == "tools/list":
        say(id=id, result={"tools": []})
    elif method == "tools/call":
        name = message["params"]["name"]
        if name == "crash":
            sys.stderr.write("last words\\n")
            sys.stderr.flush()
            os._exit(7)
        elif name == "hang":
            threading.Event().wait()
        elif name == "ask":
            say(id=1, method="roots/list")
        elif name == "pid":
            text = {"type": "text", "text": str(os.getpid())}
            say(id=id, result={"content": [text]})
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def server(tmp_path: Path, log: Path) -> StdioServerParameters:
    path = tmp_path / "server.py"
    path.write_text(SERVER)
    return StdioServerParameters(command=sys.executable, args=["-I", "-S", str(path), str(log)])


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Step(CLOSE_STDIN, 0.1), Step(signal.SIGTERM, 0.1)
    monkeypatch.setattr(mcp, "_ESCALATION", Escalation(*steps))


def sh(code: str, *words: object, **options: Any) -> StdioServerParameters:
    return StdioServerParameters(
        command="/bin/sh", args=["-c", code, "sh", *map(str, words)], **options
    )


def line(message: Any) -> str:
    return message.model_dump_json(by_alias=True, exclude_unset=True) + "\n"


async def next_message(read: Any) -> Any:
    item = await read.receive()
    assert isinstance(item, SessionMessage), item
    return item.message


async def at_the_end(read: Any) -> bool:
    with pytest.raises(anyio.EndOfStream):
        await read.receive()
    return True


@contextlib.asynccontextmanager
async def session(
    server: StdioServerParameters, **options: Any
) -> AsyncIterator[tuple[mcp.Connection, ClientSession]]:
    async with stdio_client(server, **options) as connection, ClientSession(*connection) as client:
        await client.initialize()
        yield connection, client


async def pid_of(client: ClientSession) -> int:
    return int((await client.call_tool("pid")).content[0].text)  # type: ignore[union-attr]


# --- messages ---------------------------------------------------------------------------------


async def test_messages_come_through_however_they_are_cut(tmp_path: Path):
    wire = tmp_path / "wire"
    text = line(PING) + line(PING_2) + line(PING).replace("\n", "\r\n") + '{"jsonrpc": "2.0", "id"'
    wire.write_text(text)
    async with stdio_client(sh("dd bs=1 if=$1 2>/dev/null; cat $1", wire)) as (read, _):
        assert [await next_message(read) for _ in range(3)] == [PING, PING_2, PING]
        # What was left of a fourth has become part of the first line of the second time.
        assert isinstance(await read.receive(), ValueError)
        assert [await next_message(read) for _ in range(2)] == [PING_2, PING]
        assert await at_the_end(read)


async def test_each_message_is_one_line_whatever_its_size():
    big = JSONRPCRequest(jsonrpc="2.0", id=3, method="x", params={"a": "line\n" * 800_000})
    async with stdio_client(sh("cat")) as (read, write), anyio.create_task_group() as tasks:

        async def send() -> None:
            for message in (PING, big, PING_2):
                await write.send(SessionMessage(message))

        tasks.start_soon(send)
        assert [await next_message(read) for _ in range(3)] == [PING, big, PING_2]


async def test_what_is_no_message_comes_as_an_exception(caplog: pytest.LogCaptureFixture):
    said = r"""echo nonsense; echo; printf '\377\n'; echo "$1"; cat"""
    async with stdio_client(sh(said, line(PING).strip())) as (read, _):
        assert [isinstance(await read.receive(), ValueError) for _ in range(3)] == [True] * 3
        assert await next_message(read) == PING
    assert len(caplog.records) == 3


@pytest.mark.parametrize(
    ("encoding", "errors", "heard"),
    [("utf-8", "replace", "\ufffd"), ("latin-1", "strict", "é"), ("utf-8", "ignore", "")],
)
async def test_encodings(encoding: str, errors: Any, heard: str):
    said = r"""printf '{"jsonrpc": "2.0", "method": "\351"}\n'; cat"""
    params = sh(said, encoding=encoding, encoding_error_handler=errors)
    async with stdio_client(params) as (read, write):
        assert (await next_message(read)).method == heard
        await write.send(SessionMessage(request(1, "é")))
        assert (await next_message(read)).method == "é"


async def test_the_environment_is_the_sdk_s(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET", "secret")
    monkeypatch.setenv("TERM", "of-the-host")
    said = r"""printf '{"jsonrpc": "2.0", "method": "%s"}\n' "$SECRET $TERM $MORE"; cat"""
    async with stdio_client(sh(said, env={"MORE": "more"})) as (read, _):
        assert (await next_message(read)).method == " of-the-host more"


# --- bad input --------------------------------------------------------------------------------


async def test_what_cannot_be_started_is_an_error(tmp_path: Path):
    for params, error, says in [
        (StdioServerParameters(command="/nonexistent"), FileNotFoundError, "/nonexistent"),
        (sh("", cwd=tmp_path / "gone"), FileNotFoundError, "cwd"),
        (StdioServerParameters(command="a\0b"), ValueError, "NUL"),
        (sh("", env={"a": "\0"}), ValueError, "NUL"),
        (sh("", encoding="utf-16"), ValueError, r"server\.encoding"),
    ]:
        with pytest.raises(error, match=says):
            async with stdio_client(params):
                pytest.fail("it has started")
    for options, error in [
        ({"heartbeat": 0}, ValueError),
        ({"heartbeat": "1"}, TypeError),
        ({"restart": "always"}, TypeError),
    ]:
        with pytest.raises(error, match=next(iter(options))):
            async with stdio_client(sh(""), **options):
                pytest.fail("it has started")
    gc.collect()  # a stream that is not closed warns, which is an error here


async def test_what_the_block_raises_comes_out_as_it_is():
    with pytest.raises(LookupError) as caught:
        async with stdio_client(sh("cat")):
            raise LookupError
    assert not hasattr(caught.value, "__notes__")  # nothing was wrong with the server


# --- a server that ends -----------------------------------------------------------------------


async def test_a_server_that_dies_says_why():
    with pytest.raises(ExceptionGroup) as caught:
        async with session(sh("echo no such option >&2; exit 3")):
            pytest.fail("it has answered")
    (error,) = caught.value.exceptions
    assert isinstance(error, MCPError)
    assert error.error.code == CONNECTION_CLOSED
    (note,) = caught.value.__notes__
    assert "exited with status 3" in note
    assert note.endswith("no such option")


async def test_writing_to_a_dead_server_is_its_end(marker: Any):
    async with stdio_client(sh("exit")) as (read, write):
        assert await at_the_end(read)
        with contextlib.suppress(anyio.BrokenResourceError):
            for _ in range(3):
                await write.send(SessionMessage(PING))


async def test_a_server_that_takes_no_input_is_at_its_end(marker: Any, impatient: None):
    deaf = f"exec <&-; printf '%s' \"$1\"; exec sleep {marker}"
    async with stdio_client(sh(deaf, line(PING))) as (read, write):
        assert await next_message(read) == PING
        async with anyio.create_task_group() as tasks:

            async def send() -> None:  # the first one may get into the pipe before it is closed
                with contextlib.suppress(anyio.BrokenResourceError):
                    while True:
                        await write.send(SessionMessage(PING))
                        await anyio.sleep(0.01)

            tasks.start_soon(send)
            assert await at_the_end(read)
        assert marker.pids()
    assert not marker.pids()


async def test_the_end_of_the_server_is_not_put_off_by_who_holds_its_pipes(marker: Any):
    async with stdio_client(sh(f"sleep {marker} & exit 0")) as (read, _):
        assert await at_the_end(read)
    assert not marker.pids()


# --- the end of the block ---------------------------------------------------------------------


def test_it_is_ended_as_the_sdk_does():
    first, second = mcp._ESCALATION.steps
    assert (first.action, first.wait) == (CLOSE_STDIN, 2.0)
    assert (second.action, second.wait) == (signal.SIGTERM, 2.0)


async def test_a_server_that_ends_with_its_input_is_not_signalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mcp, "_FLUSH", 60.0)
    big = request(3, "x" * 300_000)
    said = tmp_path / "said"
    code = "trap 'echo TERM >>$1' TERM; cat >>$1; echo bye >>$1"
    async with stdio_client(sh(code, said)) as (_, write):
        await write.send(SessionMessage(PING))
        await write.send(SessionMessage(big))  # on its way when the block is left
    assert said.read_text() == line(PING) + line(big) + "bye\n"


async def test_nothing_that_it_has_started_is_left(marker: Any, impatient: None):
    stubborn = (
        f"trap '' TERM; sleep {marker} & setsid sh -c 'sleep {marker} & ' & "
        f"(setsid env -i /bin/sh -c 'sleep {marker} >/dev/null 2>&1 </dev/null &' &); "
        'printf "%s" "$1"; while :; do sleep 0.01; done'
    )
    async with stdio_client(sh(stubborn, line(PING))) as (read, _):
        assert await next_message(read) == PING
        while len(marker.pids()) < 3:
            await anyio.sleep(0.005)
    assert not marker.pids()


async def test_a_message_that_nobody_takes_does_not_keep_it(tmp_path: Path):
    """Nor does it keep a server from its end that has much to say first."""
    code = "printf '%s' \"$2\"; head -c 2000000 /dev/zero | tr '\\0' '\\n'; cat; echo bye >$1"
    async with stdio_client(sh(code, tmp_path / "said", line(PING))):
        pass
    assert (tmp_path / "said").read_text() == "bye\n"


async def test_a_message_that_cannot_be_written_does_not_keep_it(
    impatient: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mcp, "_FLUSH", 0.05)
    big = JSONRPCRequest(jsonrpc="2.0", id=3, method="x", params={"a": "x" * 1_000_000})
    async with stdio_client(sh("sleep 100")) as (_, write):
        await write.send(SessionMessage(big))


@pytest.mark.parametrize("ticks", [0, 2, 5, 13, 50, 200])
async def test_cancelled_at_any_point(ticks: int, marker: Any, impatient: None):
    async def connect() -> None:
        async with stdio_client(sh(f"sleep {marker} & cat >/dev/null")) as (_, write):
            await write.send(SessionMessage(PING))
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connect)
        for _ in range(ticks):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert not marker.pids()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("times", [1, 3])
async def test_cancelled_natively(times: int, marker: Any, impatient: None):
    started = asyncio.Event()

    async def connect() -> None:
        code = f"trap '' TERM; printf '%s' \"$1\"; while :; do sleep {marker}; done"
        async with stdio_client(sh(code, line(PING))) as (read, _):
            await next_message(read)
            started.set()
            await asyncio.sleep(1000)

    task = asyncio.create_task(connect())
    await started.wait()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not marker.pids()


HOST = """
import sys, anyio
from mcp.client.stdio import StdioServerParameters
from agentsup.ext.mcp import stdio_client

async def main():
    code = f"setsid sleep {sys.argv[1]} & trap '' TERM HUP; cat >/dev/null; sleep {sys.argv[1]}"
    async with stdio_client(StdioServerParameters(command="sh", args=["-c", code])):
        print("on", flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


def test_killing_the_host_leaves_nothing(
    python_file: Callable[[str], str], marker: Any, until: Callable[..., None]
):
    command = [sys.executable, python_file(HOST), marker]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as host:
        assert host.stdout
        assert host.stdout.readline() == b"on\n"
        until(marker.pids)
        host.kill()
    until(lambda: not marker.pids())


# --- stderr -----------------------------------------------------------------------------------

FLOOD = "head -c 1000000 /dev/zero | tr '\\0' e >&2; echo end >&2; printf '%s' \"$1\"; cat"


async def test_stderr_goes_to_a_file_and_its_end_is_kept(
    tmp_path: Path, eventually: Callable[..., Awaitable[None]]
):
    with open(tmp_path / "errors", "w+") as errlog:
        async with stdio_client(sh(FLOOD, line(PING)), errlog) as connection:
            assert await next_message(connection[0]) == PING
            await eventually(lambda: connection.stderr_tail.endswith("eend\n"))
            assert len(connection.stderr_tail) == 8 * 1024
        assert (tmp_path / "errors").stat().st_size == 1_000_004


async def test_errlog_need_be_no_file():
    errlog = io.StringIO()
    async with stdio_client(sh(FLOOD, line(PING)), errlog) as (read, _):
        assert await next_message(read) == PING
    assert errlog.getvalue() == "e" * 1_000_000 + "end\n"
    errlog.close()
    async with stdio_client(sh(FLOOD, line(PING)), errlog) as (read, _):
        assert await next_message(read) == PING


async def test_an_errlog_that_nobody_reads_holds_up_nothing_else(monkeypatch: Any):
    monkeypatch.setattr(mcp, "_LAST_WORDS", 0.05)
    read_end, write_end = os.pipe()
    with open(read_end), open(write_end, "w") as errlog:
        code = "head -c 200000 /dev/zero >&2; printf '%s' \"$1\"; cat"
        async with stdio_client(sh(code, line(PING)), errlog) as (read, write):
            assert await next_message(read) == PING
            await write.send(SessionMessage(PING_2))
            assert await next_message(read) == PING_2


# --- another server ---------------------------------------------------------------------------


def methods(log: Path, pid: int) -> list[str]:
    """What this server has got."""
    got = [entry.split(" ", 1) for entry in log.read_text().splitlines()]
    return [json.loads(text).get("method", "answer") for name, text in got if int(name) == pid]


async def test_another_server_takes_the_session_over(server: StdioServerParameters, log: Path):
    async with (
        agentsup.Supervisor() as sup,
        session(server, supervisor=sup, restart=RestartPolicy()) as (connection, client),
    ):
        first = await pid_of(client)
        assert first == connection.pid == sup.tree()[0].pid
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:  # whatever is in flight is answered
                with pytest.raises(MCPError, match="exited with status 7"):
                    await client.call_tool("never answered")

            tasks.start_soon(wait)
            await client.send_ping()  # after that
            with pytest.raises(MCPError, match="exited with status 7") as caught:
                await client.call_tool("crash")
        assert caught.value.error.code == CONNECTION_CLOSED
        assert caught.value.error.data == {"stderr": "last words\n"}
        second = await pid_of(client)
        assert first != second == connection.pid
        assert connection.restarts == 1
        assert methods(log, second)[:3] == ["initialize", "notifications/initialized", "tools/call"]
    assert connection.pid is None


async def test_a_crash_of_a_hung_one_is_seen_too(server: StdioServerParameters):
    with pytest.raises(ExceptionGroup) as caught:
        async with session(server, heartbeat=0.2) as (_, client):
            await client.call_tool("hang")
    assert "no answer to a ping for 0.2 s" in caught.value.__notes__[0]


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_hung_server_is_replaced(server: StdioServerParameters):
    async with session(server, restart=RestartPolicy(), heartbeat=1.0) as (connection, client):
        first = connection.pid
        with pytest.raises(MCPError, match="no answer to a ping"):
            await client.call_tool("hang")
        assert await pid_of(client) != first


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_client_that_takes_nothing_is_not_taken_for_a_hung_server(
    server: StdioServerParameters, log: Path, eventually: Callable[..., Awaitable[None]]
):
    initialize = JSONRPCRequest(jsonrpc="2.0", id=1, method="initialize")
    ask = JSONRPCRequest(jsonrpc="2.0", id=2, method="tools/call", params={"name": "ask"})
    async with stdio_client(server, heartbeat=0.5) as connection:
        read, write = connection
        await write.send(SessionMessage(initialize))
        await next_message(read)
        pid = connection.pid
        assert pid
        await write.send(SessionMessage(ask))
        await write.send(SessionMessage(ask))
        # The answers to these wait behind what was asked.
        await eventually(lambda: methods(log, pid)[-2:] == ["ping"] * 2)
        asked = [await next_message(read) for _ in range(2)]
        assert [message.method for message in asked] == ["roots/list"] * 2
        assert connection.pid == pid


@pytest.mark.parametrize(
    ("policy", "restarts"),
    [
        (RestartPolicy(), 3),
        (RestartPolicy(give_up=tenacity.stop_after_attempt(2)), 1),
        (RestartPolicy(restart="temporary"), 0),
    ],
)
async def test_it_is_given_up(server: StdioServerParameters, policy: RestartPolicy, restarts: int):
    connection: mcp.Connection | None = None
    with pytest.raises(ExceptionGroup) as caught:
        async with session(server, restart=policy) as (connection, client):
            for _ in range(restarts):
                with pytest.raises(MCPError, match="another one is started"):
                    await client.call_tool("crash")
            await client.call_tool("crash")
    (error,) = caught.value.exceptions
    assert isinstance(error, MCPError)
    assert error.error.message == "Connection closed"
    assert connection
    assert connection.restarts == restarts


async def test_a_server_that_does_not_take_the_session_is_none(
    server: StdioServerParameters, log: Path
):
    with pytest.raises(ExceptionGroup) as caught:
        async with session(server, restart=RestartPolicy()) as (_, client):
            log.with_name("log.spoilt").touch()
            with pytest.raises(MCPError):
                await client.call_tool("crash")
            await client.send_ping()
    assert "has not taken the session over" in caught.value.__notes__[0]


async def test_leaving_while_another_one_is_waited_for(server: StdioServerParameters):
    policy = RestartPolicy(backoff=tenacity.wait_fixed(1000))
    async with session(server, restart=policy) as (_, client):
        with pytest.raises(MCPError):
            await client.call_tool("crash")


async def test_a_supervisor_that_has_been_left_starts_no_other(server: StdioServerParameters):
    async with agentsup.Supervisor() as sup:
        link = stdio_client(server, supervisor=sup, restart=RestartPolicy())
        read, _ = await link.__aenter__()
        sup.tree()[0].stop()
        sup._open = False
        assert await at_the_end(read)
        with pytest.raises(agentsup.SupervisorClosed):
            await link.__aexit__(None, None, None)


# --- the SDK's own servers and clients --------------------------------------------------------

SDK_SERVER = """
import os, anyio
from mcp.server.mcpserver import Context, MCPServer

app = MCPServer("sdk", log_level="ERROR")

@app.tool()
async def count(to: int, ctx: Context) -> int:
    for done in range(to):
        await ctx.report_progress(done + 1, to)
    return to

@app.tool()
async def hang(path: str) -> str:
    try:
        open(path, "w").close()
        await anyio.sleep_forever()
    except BaseException:
        os.rename(path, path + ".cancelled")
        raise

@app.tool()
async def crash() -> None:
    os._exit(1)

@app.resource("notes://today")
def today() -> str:
    return "nothing"

@app.prompt()
def greet(name: str) -> str:
    return f"Hello {name}"

app.run()
"""


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_the_sdk_s_client_and_server(
    mode: str,
    python_file: Callable[[str], str],
    tmp_path: Path,
    eventually: Callable[..., Awaitable[None]],
):
    """With the handshake, and in the era that has none."""
    params = StdioServerParameters(command=sys.executable, args=[python_file(SDK_SERVER)])
    transport = stdio_client(params, restart=RestartPolicy(), heartbeat=30)
    async with Client(transport, mode=mode) as client:
        assert (client.protocol_version == "2026-07-28") is (mode == "auto")
        assert {tool.name for tool in (await client.list_tools()).tools} >= {"count", "hang"}
        progress: list[float] = []

        async def note(done: float, total: float | None, message: str | None) -> None:
            progress.append(done)

        result = await client.call_tool("count", {"to": 3}, progress_callback=note)
        assert (result.structured_content, progress) == ({"result": 3}, [1, 2, 3])
        assert (await client.read_resource("notes://today")).contents[0].text == "nothing"
        prompt = await client.get_prompt("greet", {"name": "you"})
        assert prompt.messages[0].content.text == "Hello you"
        path = tmp_path / "hangs"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "hang", {"path": str(path)})
            await eventually(path.exists)
            tasks.cancel_scope.cancel()
        await eventually((tmp_path / "hangs.cancelled").exists)
        with pytest.raises(MCPError, match="another one is started"):
            await client.call_tool("crash")
        result = await client.call_tool("count", {"to": 1})
        assert result.structured_content == {"result": 1}


def test_the_example():
    example = Path(__file__).parent.parent / "examples" / "mcp_supervised.py"
    done = subprocess.run(
        [sys.executable, str(example)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = [said.split(": ", 1) for said in done.stdout.splitlines()]
    assert [first for first, *_ in said[:5]] == ["greet", "crash", "greet", "hang", "greet"]
    assert len({said[number][1] for number in (0, 2, 4)}) == 3  # three servers, each with its pid
    assert "exited with status 70" in said[1][1]
    assert "no answer to a ping" in said[3][1]
    assert done.stdout.endswith(" restarts\nleft of it: 0 processes\n")
    assert "out of luck" in done.stderr


# --- the rule ---------------------------------------------------------------------------------

OURS = "ours-"
INITIALIZE = JSONRPCRequest(jsonrpc="2.0", id=0, method="initialize", params={"a": 1})
INITIALIZED = JSONRPCNotification(jsonrpc="2.0", method="notifications/initialized")


def request(id: int | str, method: str = "x", **params: Any) -> JSONRPCRequest:
    return JSONRPCRequest(jsonrpc="2.0", id=id, method=method, params=params)


def answer(id: int | str) -> JSONRPCResponse:
    return JSONRPCResponse(jsonrpc="2.0", id=id, result={})


def cancelled(id: int | str) -> JSONRPCNotification:
    params = {"requestId": id}
    return JSONRPCNotification(jsonrpc="2.0", method="notifications/cancelled", params=params)


def test_a_session_begins_when_a_server_agrees():
    rule = McpSession(OURS)
    assert rule.opening() is None
    rule.sent(INITIALIZE)
    rule.received(JSONRPCError(jsonrpc="2.0", id=0, error=ErrorData(code=1, message="no")))
    assert rule.opening() is None
    rule.sent(INITIALIZE)
    rule.received(answer(0))
    rule.sent(INITIALIZED)
    rule.lost("gone")
    opening = rule.opening()
    assert opening
    assert (opening.method, opening.params) == ("initialize", {"a": 1})
    assert rule.initialized is INITIALIZED
    assert not rule.opened
    assert rule.received(answer(opening.id)) is None
    assert rule.opened


def test_without_a_handshake_a_ping_says_what_a_request_has_to():
    rule = McpSession(OURS)
    version = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
    rule.sent(request(0, "server/discover", _meta={**version, "progressToken": 5}))
    rule.received(answer(0))
    rule.lost("gone")
    opening = rule.opening()
    assert opening
    assert (opening.method, opening.params) == ("ping", {"_meta": version})


def test_what_a_server_had_asked_goes_with_it():
    rule = McpSession(OURS)
    assert rule.received(request(1)) == request(1)
    assert rule.received(request(2)) == request(2)
    assert rule.sent(answer(2)) == answer(2)
    (told,) = rule.lost("gone")
    assert (told.method, told.params["requestId"]) == ("notifications/cancelled", 1)
    asked = rule.received(request(1))  # the next server counts from the beginning too
    assert asked.id not in (1, 2)
    assert rule.received(cancelled(1)).params["requestId"] == asked.id
    assert rule.sent(answer(1)) is None  # it was for the first one
    assert rule.sent(answer(asked.id)) == answer(1)


ids = st.integers(0, 3)
events = st.lists(
    st.tuples(
        st.sampled_from(["request", "cancel", "answer", "lost", "asks", "tell", "ping"]), ids
    ),
    max_size=40,
)


@given(events)
def test_every_request_is_answered_once_and_no_answer_goes_astray(
    happened: list[tuple[str, int]],
):
    rule = McpSession(OURS)
    waiting: set[int] = set()  # requests of the client's, in flight
    handled: dict[Any, tuple[int, int]] = {}  # those it was asked: by which server, with which id
    asking: set[int] = set()  # of the present server
    servers = 0
    for event, id in happened:
        if event == "request" and id not in waiting:
            assert rule.sent(request(id)) == request(id)
            waiting.add(id)
        elif event == "cancel":
            rule.sent(cancelled(id))
            waiting.discard(id)
        elif event == "answer" and id in waiting:
            assert rule.received(answer(id)) == answer(id)
            waiting.remove(id)
        elif event == "asks" and id not in asking:
            asked = rule.received(request(id))
            assert isinstance(asked, JSONRPCRequest)
            assert asked.id not in handled
            handled[asked.id] = servers, id
            asking.add(id)
        elif event == "tell" and handled:
            known = sorted(handled, key=str)[id % len(handled)]
            server, theirs = handled.pop(known)
            assert rule.sent(answer(known)) == (answer(theirs) if server == servers else None)
            if server == servers:
                asking.remove(theirs)
        elif event == "ping":
            ping = rule.ping()
            assert rule.sent(ping) == ping
            assert rule.received(answer(ping.id)) is None
        elif event == "lost":
            told = rule.lost("gone")
            errors = [message.id for message in told if isinstance(message, JSONRPCError)]
            assert sorted(errors) == sorted(waiting)
            assert len(told) - len(errors) == len(asking)
            waiting.clear()
            asking.clear()
            servers += 1
