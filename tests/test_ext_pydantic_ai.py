"""The toolset in a real agent of Pydantic AI, with its test models."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import pytest

pytest.importorskip("pydantic_ai")

from pydantic_ai import Agent
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    RetryPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel

sys.path.insert(0, str(Path(__file__).parent))

from agent_contract import *  # noqa: F403 -- the tests
from agent_contract import Call

from agentsup.ext.pydantic_ai import toolset
from agentsup.ext.toolbox import Toolbox

pytestmark = pytest.mark.anyio

EXAMPLE = Path(__file__).parent.parent / "examples" / "pydantic_ai_agent.py"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return "asyncio", {"use_uvloop": request.param}


def scripted(turns: Iterable[list[Call]]) -> FunctionModel:
    left = iter(turns)

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        calls = next(left, None)
        if calls is None:
            return ModelResponse(parts=[TextPart("done")])
        return ModelResponse(parts=[ToolCallPart(name, arguments) for name, arguments in calls])

    return FunctionModel(answer)


def answers(messages: list[ModelMessage]) -> list[str]:
    return [
        str(part.content)
        for message in messages
        for part in message.parts
        if isinstance(part, (ToolReturnPart, RetryPromptPart))
    ]


@pytest.fixture
def agent() -> Callable[..., Awaitable[list[str]]]:
    async def run(toolbox: Toolbox, *turns: list[Call]) -> list[str]:
        agent = Agent(scripted(turns), toolsets=[toolset(toolbox)])
        result = await agent.run("go")
        assert result.output == "done"
        return answers(result.all_messages())

    return run


async def test_the_model_knows_the_tools(toolbox: Toolbox) -> None:
    """TestModel calls each with made-up arguments; ``b`` for text."""
    model = TestModel(call_tools=["bash", "start", "read", "jobs"])
    result = await Agent(model, toolsets=[toolset(toolbox, id="tools")]).run("go")
    assert answers(result.all_messages())[2] == "error: no job 'a': job-1"
    assert model.last_model_request_parameters
    tools = {tool.name: tool for tool in model.last_model_request_parameters.function_tools}
    assert set(tools) == {"bash", "run", "start", "read", "stop", "jobs"}
    run = tools["run"]
    assert run.description == "Run a program without a shell."
    assert run.parameters_json_schema["required"] == ["argv"]
    argv = run.parameters_json_schema["properties"]["argv"]
    assert argv["description"] == "the program and its arguments."


def test_the_example(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "the server has answered" in done.stdout


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic_ai.toolsets", None)
    monkeypatch.delitem(sys.modules, "agentsup.ext.pydantic_ai")
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module("agentsup.ext.pydantic_ai")
    wanted = "pydantic_ai is not installed: pip install 'agentsup[pydantic-ai]'"
    assert (str(caught.value), caught.value.name) == (wanted, "pydantic_ai")
