"""The tools in real runs of the OpenAI Agents SDK, with its scripted model."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

pytest.importorskip("agents")

from agents import Agent, LocalShellTool, RunConfig, Runner, RunResult, ShellTool, Tool
from agents.items import ToolCallOutputItem
from agents.testing.model import ScriptedModel, assistant_message, function_call
from openai.types.responses import ResponseFunctionShellToolCall
from openai.types.responses.response_output_item import LocalShellCall

sys.path.insert(0, str(Path(__file__).parent))

from agent_contract import *  # noqa: F403 -- the tests
from agent_contract import Call, holds

from agentsup import Supervisor, SupervisorClosed
from agentsup.ext.openai_agents import ShellFailed, local_executor, shell_executor, tools
from agentsup.ext.toolbox import Toolbox

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The SDK runs tools as asyncio tasks."""
    return "asyncio"


async def run_agent(offered: list[Tool], *turns: list[Any]) -> list[ToolCallOutputItem]:
    model = ScriptedModel([*turns, [assistant_message("done")]])
    agent = Agent("tester", model=model, tools=offered)
    result: RunResult = await Runner.run(agent, "go", run_config=RunConfig(tracing_disabled=True))
    assert result.final_output == "done"
    return [item for item in result.new_items if isinstance(item, ToolCallOutputItem)]


@pytest.fixture
def agent() -> Callable[..., Awaitable[list[str]]]:
    async def run(toolbox: Toolbox, *turns: list[Call]) -> list[str]:
        script = [
            [
                function_call(name, given, call_id=f"{turn}-{at}")
                for at, (name, given) in enumerate(calls)
            ]
            for turn, calls in enumerate(turns)
        ]
        return [item.output for item in await run_agent([*tools(toolbox)], *script)]

    return run


def test_the_model_knows_the_tools() -> None:
    by_name = {tool.name: tool for tool in tools(Toolbox(Supervisor()))}
    assert set(by_name) == {"bash", "run", "start", "read", "stop", "jobs"}
    run = by_name["run"]
    assert run.description == "Run a program without a shell."
    argv = run.params_json_schema["properties"]["argv"]
    assert argv["description"] == "the program and its arguments."


# --- the shell tools --------------------------------------------------------------------------


numbers = itertools.count()


def shell_call(*commands: str, **action: object) -> ResponseFunctionShellToolCall:
    return ResponseFunctionShellToolCall.model_validate(
        {
            "id": "1",
            "call_id": f"shell-{next(numbers)}",
            "type": "shell_call",
            "status": "completed",
            "action": {"commands": commands, **action},
        }
    )


async def run_shell(toolbox: Toolbox, *commands: str, **action: object) -> dict[str, Any]:
    """What goes back to the model."""
    offered = [ShellTool(shell_executor(toolbox))]
    (item,) = await run_agent(offered, [shell_call(*commands, **action)])
    assert isinstance(item.raw_item, dict)
    return item.raw_item


async def test_each_command_of_a_shell_call_has_its_output(toolbox: Toolbox, tmp_path) -> None:
    answer = await run_shell(
        toolbox, f"cd {tmp_path}; echo out; echo err >&2; (exit 3)", "pwd", "exit 4", "pwd"
    )
    assert answer["output"] == [
        {"stdout": "out\n", "stderr": "err\n", "outcome": {"type": "exit", "exit_code": 3}},
        {"stdout": f"{tmp_path}\n", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}},
        {
            "stdout": "",
            "stderr": "exit\n[exited with status 4; the shell has ended with it]",
            "outcome": {"type": "exit", "exit_code": 4},
        },
        {"stdout": f"{tmp_path}\n", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}},
    ]


async def test_a_shell_call_that_hangs_is_ended_in_time(toolbox: Toolbox, marker) -> None:
    hangs = f"echo up; sleep {marker} & sleep {marker}"
    answer = await run_shell(toolbox, hangs, "echo never", timeout_ms=500)
    (output,) = answer["output"]
    assert output["outcome"] == {"type": "timeout"}
    assert "[timed out after " in output["stderr"]
    assert not marker.pids()


async def test_a_shell_call_keeps_both_ends_of_its_output(toolbox: Toolbox) -> None:
    answer = await run_shell(toolbox, "seq 100000", max_output_length=1000)
    stdout = answer["output"][0]["stdout"]
    assert stdout.startswith("1\n2\n3\n")
    assert stdout.endswith("\n99999\n100000\n")
    assert len(stdout) <= 1000
    assert answer["max_output_length"] == 1000


async def test_a_bad_command_of_a_shell_call_is_told(toolbox: Toolbox) -> None:
    answer = await run_shell(toolbox, "echo \0", "echo on")
    assert answer["output"][0]["stderr"].startswith("error: command ")
    assert answer["output"][1]["stdout"] == "on\n"


def local_call(*command: str, **action: object) -> LocalShellCall:
    return LocalShellCall.model_validate(
        {
            "id": "1",
            "call_id": f"shell-{next(numbers)}",
            "type": "local_shell_call",
            "status": "completed",
            "action": {"type": "exec", "command": command, "env": {}, **action},
        }
    )


async def test_a_local_shell_call(toolbox: Toolbox, tmp_path: Path, marker) -> None:
    script = "echo $X $PWD; exit 3"
    turns = [
        local_call("sh", "-c", script, env={"X": "5"}, working_directory=str(tmp_path)),
        local_call("sh", "-c", f"sleep {marker} & sleep {marker}", timeout_ms=300),
        local_call("no-such-program"),
        local_call("true", user="root"),
    ]
    offered = [LocalShellTool(local_executor(toolbox))]
    told = [item.output for item in await run_agent(offered, *([turn] for turn in turns))]
    assert told[0] == f"5 {tmp_path}\n[exited with status 3]"
    assert told[1].startswith("[timed out after ")
    assert not marker.pids()
    assert told[2].startswith("error: ")
    assert told[3] == "error: user is not the model's to choose"


async def test_a_local_shell_call_gets_what_the_toolbox_is_given(tmp_path: Path) -> None:
    options = {"cwd": tmp_path, "extend_env": {"X": "own", "Y": "own"}}
    async with Supervisor() as supervisor, Toolbox(supervisor, options=options) as toolbox:
        offered = [LocalShellTool(local_executor(toolbox))]
        call = local_call("sh", "-c", "echo $X $Y $PWD", env={"X": "model"})
        (item,) = await run_agent(offered, [call])
    assert item.output == f"model own {tmp_path}\n[exited with status 0]"


SHELLS: dict[str, Any] = {
    "shell": (lambda toolbox: ShellTool(shell_executor(toolbox)), shell_call),
    "local_shell": (
        lambda toolbox: LocalShellTool(local_executor(toolbox)),
        lambda command: local_call("sh", "-c", command),
    ),
}


@pytest.mark.parametrize("name", SHELLS)
async def test_cancelled_while_a_shell_call_hangs(
    toolbox: Toolbox, marker, eventually, name: str
) -> None:
    tool, call = SHELLS[name]
    async with anyio.create_task_group() as tasks:
        hangs = [call(f"sleep {marker} & sleep {marker}")]
        tasks.start_soon(run_agent, [tool(toolbox)], hangs)
        await eventually(lambda: len(marker.pids()) >= 2)
        tasks.cancel_scope.cancel()
    await eventually(lambda: not marker.pids())


@pytest.mark.parametrize("name", SHELLS)
async def test_what_goes_wrong_with_the_supervisor_comes_out(name: str) -> None:
    tool, call = SHELLS[name]
    async with Supervisor() as supervisor, Toolbox(supervisor) as toolbox:
        pass
    with pytest.raises((ShellFailed, SupervisorClosed)) as caught:
        await run_agent([tool(toolbox)], [call("true")])
    assert holds(caught.value, SupervisorClosed)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "agents", None)
    monkeypatch.delitem(sys.modules, "agentsup.ext.openai_agents")
    with pytest.raises(ModuleNotFoundError, match=r"agents .* 'agentsup\[openai-agents\]'"):
        importlib.import_module("agentsup.ext.openai_agents")
