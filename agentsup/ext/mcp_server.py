"""The tools as an MCP server: ``await make_server(toolbox).run_stdio_async()``.

``agentsup mcp-server`` is this on its own stdin and stdout.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from ._extra import extra
from .toolbox import Refused, described

with extra("mcp"):
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.tools import Tool
    from mcp_types import CallToolResult, TextContent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .toolbox import Toolbox

_INSTRUCTIONS = (
    "bash keeps its directory and variables from call to call. Start what takes long, or serves, "
    "with start, and look after it with read, stop and jobs."
)


def make_server(toolbox: Toolbox, *, name: str = "agentsup") -> MCPServer[Any]:
    """A server with the tools of ``toolbox``, for as long as its block lasts.

    A client that cancels a request ends what the tool has started. What a tool refuses is marked
    as an error.
    """
    tools = [_tool(method) for method in toolbox.tools]
    return MCPServer(name, instructions=_INSTRUCTIONS, tools=tools, log_level="WARNING")


def _tool(method: Callable[..., Awaitable[str]]) -> Tool:
    text, parameters = described(method)
    tool = Tool.from_function(_answering(method), description=text, structured_output=False)
    for parameter, words in parameters.items():
        tool.parameters["properties"][parameter]["description"] = words
    return tool


def _answering(method: Callable[..., Awaitable[str]]) -> Callable[..., Awaitable[CallToolResult]]:
    @functools.wraps(method)
    async def call(**arguments: Any) -> CallToolResult:
        answer = await method(**arguments)
        content = [TextContent(type="text", text=answer)]
        return CallToolResult(content=list(content), is_error=isinstance(answer, Refused))

    return call
