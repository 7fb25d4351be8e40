"""The tools for LangChain: ``model.bind_tools(tools(toolbox))``, or for any agent made with it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NoReturn, get_type_hints

from ._extra import extra
from .toolbox import Refused, described

with extra("langchain"):
    from langchain_core.tools import BaseTool, ToolException
    from pydantic import BaseModel, Field, ValidationError, create_model

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .toolbox import Toolbox


class ToolboxTool(BaseTool):
    """A tool of a toolbox. It is asynchronous: ``await tool.ainvoke(…)``."""

    call: Any = Field(exclude=True, repr=False)

    async def _arun(self, **arguments: Any) -> str:
        answer: str = await self.call(**arguments)
        if isinstance(answer, Refused):
            raise ToolException(answer)  # which makes it a message with status="error"
        return answer

    def _run(self, **arguments: Any) -> NoReturn:
        raise RuntimeError(
            f"the tool {self.name!r} needs the event loop of its supervisor: use ainvoke()"
        )


def tools(toolbox: Toolbox) -> list[BaseTool]:
    """The tools of ``toolbox``, for as long as its block lasts.

    Cancelling an ``ainvoke`` ends what the tool has started. Arguments that do not fit are told to
    the model, as a tool's own errors are; what goes wrong with the supervisor is raised.
    """
    return [_tool(method) for method in toolbox.tools]


def _tool(method: Callable[..., Awaitable[str]]) -> ToolboxTool:
    text, parameters = described(method)
    return ToolboxTool(
        name=method.__name__,
        description=text,
        args_schema=_schema(method, parameters),
        call=method,
        handle_tool_error=True,
        handle_validation_error=_explain,
    )


def _schema(method: Callable[..., Awaitable[str]], texts: dict[str, str]) -> type[BaseModel]:
    hints = get_type_hints(method)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(method).parameters.items():
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = hints[name], Field(default, description=texts[name])
    return create_model(method.__name__, **fields)


def _explain(error: Any) -> str:
    if not isinstance(error, ValidationError):
        return f"error: {error}"
    wrong = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
    return f"error: {'; '.join(wrong)}"
