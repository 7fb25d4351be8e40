"""``agentsup check``: all that is wrong with files of services."""

from __future__ import annotations

import json

import click

from .._errors import ConfigError, ConfigErrors

_EPILOG = """\
\b
Exit status:
  0    nothing is wrong
  1    something is
  125  agentsup itself failed or was misused
"""


@click.command(epilog=_EPILOG)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, on stdout.")
def command(files: tuple[str, ...], as_json: bool) -> int:
    """Say all that is wrong with files of services, an error in each line."""
    errors = [error for file in files for error in _errors(file)]
    if as_json:
        keys = ("file", "line", "key", "reason")
        found = [{key: getattr(error, key) for key in keys} for error in errors]
        click.echo(json.dumps({"errors": found}, indent=2))
    else:
        for error in errors:
            click.echo(str(error), err=True)
    return 1 if errors else 0


def _errors(file: str) -> tuple[ConfigError, ...]:
    try:
        from ..config import load
    except ModuleNotFoundError as error:
        raise click.ClickException(str(error)) from error
    try:
        load(file)
    except ConfigErrors as error:
        return error.errors
    return ()
