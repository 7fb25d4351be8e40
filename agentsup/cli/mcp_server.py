"""``agentsup mcp-server``: supervised tools for any MCP client."""

from __future__ import annotations

from typing import Any

import click

from .params import DURATION, LEVELS

_EPILOG = """\
A DURATION is in seconds, or 100ms, 2min, '1h 30min'.

It speaks MCP on stdin and stdout, offers the tools bash, run, start, read, stop and jobs, and ends
with its client, with all that the tools have started.

\b
Exit status:
  0    the client has closed stdin
  125  agentsup itself failed or was misused
"""


@click.command("mcp-server", epilog=_EPILOG)
@click.option(
    "--timeout",
    type=DURATION,
    default=120.0,
    help="Time for a command where the model does not say (default: 2min).",
)
@click.option(
    "--max-timeout",
    type=DURATION,
    default=3600.0,
    help="The most that the model may say (default: 1h).",
)
@click.option(
    "--max-chars", type=int, default=8000, help="Characters of an answer (default: 8000)."
)
@click.option("--workspace", metavar="DIRECTORY", help="Where commands begin (default: here).")
@click.option(
    "--containment",
    metavar="LEVEL",
    type=click.Choice(["auto", *LEVELS]),
    default="auto",
    help="How tightly to hold them (see 'agentsup doctor').",
)
def command(workspace: str | None, containment: str, **options: Any) -> None:
    """Offer supervised tools to an MCP client: a shell, programs and background jobs."""
    import anyio

    from .._errors import AgentsupError

    try:
        from ..ext import mcp_server
    except ModuleNotFoundError as error:
        raise click.ClickException(str(error)) from None

    from .._tree.supervisor import Supervisor
    from ..ext.toolbox import Toolbox

    async def serve() -> None:
        sup = Supervisor(workspace=workspace, containment=LEVELS.get(containment, "auto"))
        async with sup, Toolbox(sup, **options) as toolbox:
            await mcp_server.make_server(toolbox).run_stdio_async()

    try:
        anyio.run(serve)
    except (AgentsupError, ValueError) as error:
        raise click.ClickException(str(error)) from error
