"""``agentsup mcp-server``, with the SDK's client over both transports."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

pytest.importorskip("mcp")
pytest.importorskip("click")

from mcp import ClientSession, stdio_client
from mcp.client.stdio import StdioServerParameters

import agentsup
from agentsup.ext import mcp

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="the keeper is Linux's"),
]

PACKAGE = str(Path(agentsup.__file__).parent.parent)
BOTH = pytest.mark.parametrize("client", [mcp.stdio_client, stdio_client], ids=["ours", "sdk"])
# One loop is enough where the server's own is in another process.
ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])


def server(*options: str) -> StdioServerParameters:
    return StdioServerParameters(
        command=sys.executable,
        args=["-m", "agentsup", "mcp-server", *options],
        env={"PYTHONPATH": PACKAGE},
    )


async def call(session: ClientSession, tool: str, **arguments: Any) -> str:
    result = await session.call_tool(tool, arguments)
    assert not result.is_error, result
    return result.content[0].text  # type: ignore[union-attr]


@BOTH
@ASYNCIO
async def test_the_tools(
    client: Any,
    marker: Any,
    tmp_path: Path,
    eventually: Callable[..., Awaitable[None]],
):
    options = ["--workspace", str(tmp_path), "--timeout", "1min", "--max-chars", "500"]
    async with client(server(*options)) as streams, ClientSession(*streams) as session:
        await session.initialize()
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        assert list(tools) == ["bash", "run", "start", "read", "stop", "jobs"]
        run = tools["run"].input_schema
        assert run["required"] == ["argv"]
        assert run["properties"]["argv"]["description"] == "the program and its arguments."
        assert "Run a program" in (tools["run"].description or "")
        assert ":param" not in (tools["run"].description or "")

        await call(session, "bash", command="mkdir sub; cd sub; x=5")
        assert (await call(session, "bash", command="pwd; echo $x")).startswith(
            f"{tmp_path}/sub\n5\n"
        )
        assert (await call(session, "run", argv=["cat"], stdin="in")).startswith("in")
        assert len(await call(session, "run", argv=["seq", "9999"])) <= 500

        started = await call(session, "start", command=f"echo on; sleep {marker} & sleep {marker}")
        job = started.strip("[").split()[0]
        await eventually(lambda: len(marker.pids()) >= 2)
        assert "on\n" in await call(session, "read", job_id=job)
        assert job in await call(session, "jobs")
        await call(session, "stop", job_id=job)
        assert not marker.pids()

        refused = await session.call_tool("read", {"job_id": "none"})
        assert refused.is_error
        assert "no job 'none'" in refused.content[0].text  # type: ignore[union-attr]
        wrong = await session.call_tool("run", {"argv": "ls"})
        assert wrong.is_error

        path = tmp_path / "on"
        async with anyio.create_task_group() as tasks:
            command = f"touch {path}; sleep {marker} & setsid sleep {marker}"
            tasks.start_soon(session.call_tool, "run", {"argv": ["sh", "-c", command]})
            await eventually(path.exists)
            tasks.cancel_scope.cancel()
        await eventually(lambda: not marker.pids())

        # What is left in the background and in the shell ends with the client.
        await call(session, "start", command=f"setsid sleep {marker}")
        await call(session, "bash", command=f"sleep {marker} & :")
        await eventually(lambda: len(marker.pids()) >= 2)
    await eventually(lambda: not marker.pids())


def test_the_end_of_its_input_is_its_end(marker: Any, until: Callable[..., None]):
    """Also in the middle of a call, which is not answered then."""
    with subprocess.Popen(
        [sys.executable, "-m", "agentsup", "mcp-server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": PACKAGE},
        text=True,
    ) as program:
        assert program.stdin
        hello = '"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x"'
        tool = f'"name": "run", "arguments": {{"argv": ["sleep", "{marker}"]}}'
        program.stdin.write(
            f'{{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {{{hello}, '
            '"version": "1"}}}\n'
            '{"jsonrpc": "2.0", "method": "notifications/initialized"}\n'
            f'{{"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {{{tool}}}}}\n'
        )
        program.stdin.flush()
        until(marker.pids)
        program.stdin.close()
        assert program.wait(60) == 0
    assert not marker.pids()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--workspace", "/nonexistent"], "/nonexistent"),
        (["--timeout", "never"], "never"),
        (["--max-chars", "1"], "max_chars"),
        (["--containment", "wishful"], "wishful"),
    ],
)
def test_bad_options(options: list[str], says: str):
    done = subprocess.run(
        [sys.executable, "-m", "agentsup", "mcp-server", *options],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": PACKAGE},
        text=True,
        check=False,
    )
    assert done.returncode == 125
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_extra():
    code = "import sys; sys.modules['mcp'] = None; from agentsup.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "mcp-server"],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": PACKAGE},
        text=True,
        check=False,
    )
    assert done.returncode == 125
    assert done.stderr == "Error: mcp is not installed: pip install 'agentsup[mcp]'\n"
