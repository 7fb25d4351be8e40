"""Blocks of Anthropic's Messages API, as a loop of one's own would pass them on."""

from __future__ import annotations

import json
import os
import signal
import types
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from agentsup import KeeperLost, Supervisor, SupervisorClosed
from agentsup._linux import lifeline
from agentsup.ext.anthropic import BASH_FUNCTION, BASH_TOOL, handle
from agentsup.ext.toolbox import Toolbox

pytestmark = pytest.mark.anyio


@pytest.fixture
async def toolbox() -> AsyncIterator[Toolbox]:
    async with Supervisor() as supervisor, Toolbox(supervisor) as toolbox:
        yield toolbox


def asks(name: str = "bash", **given: object) -> dict[str, Any]:
    return {"type": "tool_use", "id": "toolu_1", "name": name, "input": given}


def test_the_tools_are_json() -> None:
    assert json.loads(json.dumps(BASH_TOOL)) == {"type": "bash_20250124", "name": "bash"}
    schema = json.loads(json.dumps(BASH_FUNCTION))["input_schema"]
    assert set(schema["properties"]) == {"command", "restart", "timeout"}


async def test_a_session(toolbox: Toolbox, tmp_path: Path) -> None:
    assert await handle(toolbox, asks(command=f"cd {tmp_path}; X=5")) == {
        "type": "tool_result",
        "tool_use_id": "toolu_1",
        "content": "[exited with status 0]",
        "is_error": False,
    }
    failed = await handle(toolbox, asks(command="echo $X $PWD; false"))
    assert failed["content"] == f"5 {tmp_path}\n[exited with status 1]"
    assert not failed["is_error"], "the tool has done what it is for"
    assert (await handle(toolbox, asks(restart=True)))["content"] == "[the shell is new]"
    block = types.SimpleNamespace(id="toolu_2", name="bash", input={"command": "echo $X."})
    answer = await handle(toolbox, block)
    assert (answer["tool_use_id"], answer["content"]) == ("toolu_2", ".\n[exited with status 0]")
    assert json.loads(json.dumps(answer)) == answer


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (asks(), "error: command is missing"),
        (asks(command=5), "error: command must be"),
        (asks(command="true", timeout="soon"), "error: timeout must be"),
        (asks(cmd="true"), "error: bash has no input 'cmd', only command, timeout, restart"),
        (asks("sh", command="true"), "error: there is no tool 'sh', only 'bash'"),
        ({**asks(), "input": "true"}, "error: input must be an object, not 'true'"),
    ],
)
async def test_bad_input_is_an_error_for_the_model(
    toolbox: Toolbox, block: dict[str, Any], said: str
) -> None:
    answer = await handle(toolbox, block)
    assert answer["is_error"]
    assert answer["content"].startswith(said)


async def test_what_prints_error_is_none(toolbox: Toolbox) -> None:
    answer = await handle(toolbox, asks(command="echo error: none"))
    assert not answer["is_error"]


async def test_cancelled_while_it_hangs(toolbox: Toolbox, marker, eventually) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(handle, toolbox, asks(command=f"sleep {marker} & sleep {marker}"))
        await eventually(lambda: len(marker.pids()) == 2)
        tasks.cancel_scope.cancel()
    assert not marker.pids()
    assert (await handle(toolbox, asks(command="echo on")))["content"].startswith("on\n")


async def test_what_goes_wrong_with_the_supervisor_is_raised(marker, eventually) -> None:
    async with Supervisor() as supervisor, Toolbox(supervisor) as toolbox:

        async def hang() -> None:
            with pytest.raises(KeeperLost):
                await handle(toolbox, asks(command=f"sleep {marker}"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hang)
            await eventually(marker.pids)
            assert lifeline._current
            os.kill(lifeline._current.pid, signal.SIGKILL)
        await eventually(lambda: not marker.pids())
    with pytest.raises(SupervisorClosed):
        await handle(toolbox, asks(command="true"))
