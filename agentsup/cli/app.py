"""The commands, each imported when it is wanted."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import click

from . import FAILED, SIGNALED

if TYPE_CHECKING:
    from collections.abc import Sequence

# For each command its line in the help. It is `command` in the module of its name.
_COMMANDS = {
    "run": "Run one command, within limits, and leave nothing of it behind.",
    "up": "Run the services of a file, and keep them running.",
    "ctl": "Look at what runs under agentsup up, and tell it what to do.",
    "logs": "Show what services have printed.",
    "check": "Say all that is wrong with a file of services.",
    "schema": "Print the JSON Schema of such a file.",
    "init": "Run one command as its init: PID 1 of a container.",
    "doctor": "Say what this host can hold, why not more, and what would give more.",
    "ledger": "Look at the steps of a ledger, or let some of them run again.",
    "mcp-server": "Offer supervised tools to an MCP client.",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f".{cmd_name.replace('-', '_')}", __package__)
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib import metadata

    try:
        version = metadata.version("agentsup")
    except metadata.PackageNotFoundError:
        version = "(not installed)"
    click.echo(f"agentsup {version}")
    ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def app() -> None:
    """Run programs so that every one ends, and nothing outlives its scope."""


def invoke(arguments: Sequence[str] | None) -> int:
    try:
        status = app.main(arguments, prog_name="agentsup", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return FAILED
    except click.Abort:
        return SIGNALED + 2  # ^C before there was anything to pass it on to
    except ModuleNotFoundError:
        raise  # an extra that is not installed
    except Exception:
        # A bug; still, the caller must not take it for the command's own status 1.
        import traceback

        traceback.print_exc(file=sys.stderr)
        return FAILED
    return status if isinstance(status, int) else 0
