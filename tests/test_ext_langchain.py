"""The tools with LangChain's own fake model, in the loop that its agents run."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

pytest.importorskip("langchain_core")

from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool

sys.path.insert(0, str(Path(__file__).parent))

from agent_contract import *  # noqa: F403 -- the tests
from agent_contract import Call

from agentsup.ext.langchain import tools
from agentsup.ext.toolbox import Toolbox

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """LangChain runs tools as asyncio tasks."""
    return "asyncio"


async def run_agent(toolbox: Toolbox, *turns: list[Call]) -> list[ToolMessage]:
    by_name: dict[str, BaseTool] = {tool.name: tool for tool in tools(toolbox)}
    calls = [
        [
            {"name": name, "args": given, "id": f"{turn}-{at}"}
            for at, (name, given) in enumerate(all)
        ]
        for turn, all in enumerate(turns)
    ]
    script: list[BaseMessage] = [AIMessage("", tool_calls=asked) for asked in calls]
    model = FakeMessagesListChatModel(responses=[*script, AIMessage("done")])
    messages: list[BaseMessage] = [HumanMessage("go")]
    while True:
        said = await model.ainvoke(messages)
        messages.append(said)
        if not said.tool_calls:
            assert said.content == "done"
            return [message for message in messages if isinstance(message, ToolMessage)]
        asked = [by_name[call["name"]].ainvoke(call) for call in said.tool_calls]
        messages += await asyncio.gather(*asked)


@pytest.fixture
def agent() -> Callable[..., Awaitable[list[str]]]:
    async def run(toolbox: Toolbox, *turns: list[Call]) -> list[str]:
        return [str(message.content) for message in await run_agent(toolbox, *turns)]

    return run


async def test_what_was_not_done_has_the_status_of_an_error(toolbox: Toolbox) -> None:
    told = await run_agent(
        toolbox,
        [
            ("run", {"argv": ["no-such-program"]}),
            ("run", {"argv": 5}),
            ("run", {"argv": ["false"]}),
        ],
    )
    assert [message.status for message in told] == ["error", "error", "success"]
    assert told[1].content == "error: argv: Input should be a valid list"


async def test_the_model_knows_the_tools(toolbox: Toolbox) -> None:
    by_name = {tool.name: tool for tool in tools(toolbox)}
    assert set(by_name) == {"bash", "run", "start", "read", "stop", "jobs"}
    run = by_name["run"]
    assert run.description == "Run a program without a shell."
    schema = run.tool_call_schema.model_json_schema()
    assert schema["required"] == ["argv"]
    assert schema["properties"]["argv"]["description"] == "the program and its arguments."


async def test_without_an_event_loop_it_is_refused(toolbox: Toolbox) -> None:
    bash = tools(toolbox)[0]
    with pytest.raises(RuntimeError, match=r"'bash' needs the event loop .*ainvoke"):
        bash.invoke({"command": "true"})


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langchain_core.tools", None)
    monkeypatch.delitem(sys.modules, "agentsup.ext.langchain")
    with pytest.raises(ModuleNotFoundError, match=r"langchain_core .* 'agentsup\[langchain\]'"):
        importlib.import_module("agentsup.ext.langchain")
