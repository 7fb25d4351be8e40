"""An MCP client whose server crashes, hangs and leaves processes behind, and which goes on.

Run it as ``python examples/mcp_supervised.py``; it needs ``pip install 'agentsup[mcp]'``.

Client and server are the SDK's; only the transport is agentsup's.  A request that was in flight
when the server died is answered with an error, a new server takes the session over, and what the
old one had started is gone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import tenacity
from mcp import ClientSession, MCPError, StdioServerParameters
from mcp.types import TextContent

import agentsup
from agentsup.ext.mcp import stdio_client

SERVER = StdioServerParameters(
    command=sys.executable, args=[str(Path(__file__).with_name("flaky_mcp_server.py"))]
)
TOOLS = ["greet", "crash", "greet", "hang", "greet"]


async def use(session: ClientSession, tool: str) -> str:
    try:
        result = await session.call_tool(tool)
    except MCPError as error:
        return f"error: {error}"
    return "".join(part.text for part in result.content if isinstance(part, TextContent))


async def main() -> None:
    policy = agentsup.RestartPolicy(
        backoff=tenacity.wait_exponential(0.1, max=5), give_up=tenacity.stop_after_attempt(5)
    )
    async with agentsup.Supervisor() as sup:
        async with (
            stdio_client(SERVER, supervisor=sup, restart=policy, heartbeat=1.0) as connection,
            ClientSession(*connection) as session,
        ):
            await session.initialize()
            for tool in TOOLS:
                print(f"{tool}: {await use(session, tool)}")
            print(f"{connection.restarts} restarts")
        print(f"left of it: {len(sup.tree())} processes")


anyio.run(main)
