"""The block that says which call of a tool it is for."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import anyio
import pytest

import agentsup
from agentsup import ToolCall, tool_call
from agentsup._tool_call import current


def test_it_holds_for_the_block_and_the_inner_one_first() -> None:
    assert current() is None
    with tool_call("search", id="call_1") as outer:
        assert current() is outer == ToolCall("search", "call_1")
        with pytest.raises(ZeroDivisionError), tool_call("fetch"):
            assert current() == ToolCall("fetch", None)
            raise ZeroDivisionError
        assert current() is outer
    assert current() is None


@pytest.mark.anyio
async def test_tasks_that_are_started_in_it_are_in_it(anyio_backend: object) -> None:
    seen: dict[str, ToolCall | None] = {}

    async def look(name: str) -> None:
        await anyio.lowlevel.checkpoint()
        seen[name] = current()

    async with anyio.create_task_group() as tasks:
        for name in ("a", "b"):
            with tool_call(name):
                tasks.start_soon(look, name)
        tasks.start_soon(look, "neither")
    assert seen == {"a": ToolCall("a"), "b": ToolCall("b"), "neither": None}


def test_one_that_nobody_ends_does_not_complain() -> None:
    complaints: list[object] = []

    async def words() -> AsyncIterator[str]:
        with tool_call("stream"):
            yield "one"

    async def take_one() -> None:
        async for _ in words():
            break

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
        await asyncio.create_task(take_one())
        gc.collect()
        await asyncio.sleep(0)

    asyncio.run(main())
    assert not complaints


@pytest.mark.parametrize(
    ("name", "id", "error"),
    [
        (None, None, TypeError("tool_call: name must be a str, not NoneType")),
        ("", None, ValueError("tool_call: name is empty")),
        ("search", 7, TypeError("tool_call: id must be a str, not int")),
        ("search", "", ValueError("tool_call: id is empty")),
    ],
)
def test_bad_input_is_one_clear_error(name, id, error) -> None:
    with pytest.raises(type(error)) as caught:
        agentsup.tool_call(name, id=id)
    assert str(caught.value) == str(error)
