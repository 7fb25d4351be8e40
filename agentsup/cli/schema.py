"""``agentsup schema``: the JSON Schema of ``agentsup.toml``."""

from __future__ import annotations

import json

import click


@click.command()
def command() -> None:
    """Print the JSON Schema of a file of services, for editors."""
    from ..config import schema

    click.echo(json.dumps(schema(), indent=2))
