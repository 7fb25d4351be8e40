"""``agentsup up``: the services of a file, in the foreground."""

from __future__ import annotations

import sys

import click

from . import FAILED

_EPILOG = """\
It stops its services in reverse order on TERM, INT or QUIT, kills them on a second one, reads its
file again on HUP, and goes on in new log files on USR1.

\b
Exit status:
  0    it was asked to stop, and all services have
  1    a supervisor has failed, or services had to be killed
  125  it has not come up
"""


@click.command("up", epilog=_EPILOG)
@click.option(
    "-f",
    "--file",
    metavar="FILE",
    help="The file that names the services (default: agentsup.toml, here).",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr but errors.")
def command(file: str | None, quiet: bool) -> int:
    """Run the services of a file, and keep them running."""
    from .._errors import AgentsupError, ConfigError
    from ..config import find_config, load
    from ..daemon.up import run

    try:
        return run(load(file or find_config()), quiet=quiet)
    except ConfigError as error:
        print(error, file=sys.stderr)
    except (AgentsupError, OSError, ValueError) as error:
        print(f"agentsup: {error}", file=sys.stderr)
    return FAILED
