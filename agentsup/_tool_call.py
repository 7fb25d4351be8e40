"""Which call of a tool, as an agent counts them, the processes started here belong to."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Generator

_current: ContextVar[ToolCall | None] = ContextVar("agentsup.tool_call", default=None)


@frozen
class ToolCall:
    """What a model asked for: spans and log lines name it, as :func:`tool_call` describes."""

    name: str
    #: As the model's answer has it.
    id: str | None = None


def current() -> ToolCall | None:
    """The innermost block that the caller is in."""
    return _current.get()


def tool_call(name: str, *, id: str | None = None) -> contextlib.AbstractContextManager[ToolCall]:
    """Say for whom processes are started: ``with agentsup.tool_call("search", id="call_123"):``.

    In the block, and in the tasks that are started there, a call's span is named ``execute_tool
    search``, and log lines have ``call_id``. Of nested blocks the inner one holds. It does not wait
    for anything, so it is the same in code with and without an event loop.

    :param name: of the tool, as the model knows it.
    :param id: of this call, as the model's answer has it.
    """
    for argument, value in (("name", name), ("id", id)):
        if not isinstance(value, str) and (value is not None or argument == "name"):
            raise TypeError(f"tool_call: {argument} must be a str, not {type(value).__name__}")
        if value == "":
            raise ValueError(f"tool_call: {argument} is empty")
    return _entered(ToolCall(name, id))


@contextlib.contextmanager
def _entered(call: ToolCall) -> Generator[ToolCall]:
    token = _current.set(call)
    try:
        yield call
    finally:
        # An async generator that nobody has closed is ended by its loop, in another context, where
        # there is nothing to be undone.
        with contextlib.suppress(ValueError):
            _current.reset(token)
