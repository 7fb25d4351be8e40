"""An MCP server written with the SDK that does what servers do: see mcp_supervised.py."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from mcp.server.mcpserver import MCPServer

app = MCPServer("flaky", log_level="ERROR")


@app.tool()
def greet() -> str:
    return f"hello from {os.getpid()}"


@app.tool()
def crash() -> str:
    subprocess.Popen(["setsid", "sleep", "1000"])  # who is to end that now?
    print("out of luck", file=sys.stderr, flush=True)
    os._exit(70)


@app.tool()
async def hang() -> str:
    time.sleep(1000)  # noqa: ASYNC251 -- and the event loop with it: no ping is answered
    return "never"


app.run()
