"""What came of a call, as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from .._values.result import Result


def show(result: Result) -> None:
    """Print the table to stderr."""
    table = Table(show_header=False, title=Text(result.name), title_justify="left")
    for title, text in _rows(result):
        table.add_row(title, Text(text))
    Console(stderr=True).print(table)


def _rows(result: Result) -> list[tuple[str, str]]:
    usage = result.usage
    rows = [
        ("outcome", result.reason),
        ("duration", f"{result.duration:.3f} s"),
        ("CPU", f"{usage.user_cpu:.3f} s user, {usage.system_cpu:.3f} s system"),
        ("memory", f"{usage.max_rss / 1024**2:.1f} MiB at most"),
        ("contained by", result.containment.name.lower().replace("_", " ")),
    ]
    rows += [(f"at {step.at:.1f} s", step.action) for step in result.escalation]
    for leftover in result.leftovers:
        done = "killed" if leftover.killed else "not killed"
        rows.append((f"{done} {leftover.pid}", " ".join(leftover.argv)))
    return rows
