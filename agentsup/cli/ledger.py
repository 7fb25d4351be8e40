"""``agentsup ledger``: the steps of a ledger, and letting some of them run again."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from .._errors import AgentsupError
from .._rules.ledger import StepState
from ..checkpoint.history import history

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..checkpoint.history import LedgerStep

_WIDTH = 60  # of a result in the table

_EPILOG = """\
\b
Exit status:
  0    done
  125  agentsup itself failed or was misused, or the file is no ledger or damaged
"""

_FILE = click.argument("file", type=click.Path(exists=True, dir_okay=False, resolve_path=True))
_JSON = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")


class _Told(click.Group):
    """What is wrong with a ledger is said in a line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (AgentsupError, OSError, ValueError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Told, epilog=_EPILOG)
def command() -> None:
    """Look at the steps of a ledger, or let some of them run again."""


@command.command()
@_FILE
@_JSON
def show(file: str, as_json: bool) -> None:
    """Say how many steps are in which state, and list those that are not done."""
    counts: Counter[StepState] = Counter()
    others: list[LedgerStep] = []
    for step in history(file):
        counts[step.state] += 1
        if step.state is not StepState.DONE:
            others.append(step)
    numbers = {state.value: counts[state] for state in StepState}
    if as_json:
        _print_json({"counts": numbers, "steps": [step.to_dict() for step in others]})
    else:
        click.echo(", ".join(f"{number} {name}" for name, number in numbers.items() if number))
        if others:
            _print_table(others)


@command.command("history")
@_FILE
@_JSON
def show_history(file: str, as_json: bool) -> None:
    """List every step, in the order in which they were planned."""
    steps = list(history(file))
    if as_json:
        _print_json([step.to_dict() for step in steps])
    else:
        _print_table(steps)


@command.command()
@_FILE
def export(file: str) -> None:
    """Print every step with its result, a JSON object in each line."""
    for step in history(file):
        click.echo(json.dumps(step.to_dict()))


@command.command()
@_FILE
@click.argument("wanted", metavar="[STEP]...", nargs=-1)
@click.option("--done", is_flag=True, help="Those of the given steps that are done, too.")
@_JSON
def retry(file: str, wanted: tuple[str, ...], done: bool, as_json: bool) -> None:
    """Let steps run again that have failed or were interrupted.

    STEP is a name or a number; without any, it is all of them. What is running stays as it is.
    """
    if done and not wanted:
        raise click.UsageError("--done takes the steps that are meant")
    states = {StepState.FAILED, StepState.INTERRUPTED}
    if done:
        states.add(StepState.DONE)
    unknown = set(wanted)
    chosen: list[LedgerStep] = []
    for step in history(file):
        names = {step.name, str(step.id)}
        unknown -= names
        if step.state in states and (not wanted or not names.isdisjoint(wanted)):
            chosen.append(step)
    if unknown:
        raise click.UsageError(f"no step is called {min(unknown)!r} or has that number")
    _reset(file, chosen, states)
    if as_json:
        _print_json([step.to_dict() for step in chosen])
    else:
        for step in chosen:
            click.echo(f"{step.id} {step.name}: was {step.state.value}, is planned")


def _reset(file: str, chosen: Iterable[LedgerStep], states: set[StepState]) -> None:
    from .._values.retention import Retention
    from ..checkpoint.steps import Steps

    with contextlib.closing(Steps(file, lease=1.0, keep=None, retention=Retention())) as steps:
        steps.transact(
            [functools.partial(Steps.reset, id=step.id, states=states) for step in chosen]
        )


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


def _print_table(steps: Iterable[LedgerStep]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("number", "step", "state", "attempts", "begun", "seconds", "came to")
    for step in steps:
        row = (
            str(step.id),
            step.name,
            step.state.value,
            str(step.attempts),
            _moment(step.started_at),
            _seconds(step),
            _outcome(step),
        )
        table.add_row(*map(Text, row))
    # Only a terminal has an edge: another program gets all of it.
    Console(width=None if sys.stdout.isatty() else 1000).print(table)


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _seconds(step: LedgerStep) -> str:
    if step.started_at is None or step.ended_at is None:
        return ""
    return f"{step.ended_at - step.started_at:.1f}"


def _outcome(step: LedgerStep) -> str:
    if step.state is not StepState.DONE:
        return step.error or ""
    text = json.dumps(step.result, ensure_ascii=False)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"
