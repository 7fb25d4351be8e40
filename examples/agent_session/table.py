"""The calls as they go: those in flight in a live table, each that has ended on a line above it."""

from __future__ import annotations

import contextlib
import shlex
import time
from types import TracebackType
from typing import Self

from replay import Replayed
from rich import box
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text
from transcript import ToolCall

import agentsup
from agentsup import Outcome


class CallTable:
    """``with CallTable(console, verbose=False) as table:``; without a terminal, plain lines."""

    def __init__(self, console: Console, *, verbose: bool) -> None:
        self._console = console
        self._verbose = verbose
        self._in_flight: dict[int, tuple[float, float, ToolCall]] = {}
        self._spinner = Spinner("dots", style="cyan")
        self._live = (
            Live(console=console, get_renderable=self._table, transient=True, refresh_per_second=10)
            if console.is_terminal
            else contextlib.nullcontext()
        )

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.__exit__(exc_type, exc, traceback)

    # --- what happens -------------------------------------------------------------------------

    def said(self, text: str) -> None:
        self._console.print()
        line = Text(f"● {printable(text)}", "bold")
        self._console.print(line, soft_wrap=not self._console.is_terminal)

    def skipped(self, tool: str) -> None:
        print_line(self._console, Text(f"      skipped: {tool!r} is not a shell tool", "dim"))

    def started(self, number: int, call: ToolCall, timeout: float) -> None:
        self._in_flight[number] = (time.monotonic(), timeout, call)

    def ended(self, replayed: Replayed) -> None:
        del self._in_flight[replayed.number]
        for line in _lines(replayed):
            print_line(self._console, line)
        if self._verbose:
            for row in replayed.for_model.splitlines():
                print_line(self._console, Text(f"        │ {printable(row)}", "dim"))

    # --- what is in flight --------------------------------------------------------------------

    def _table(self) -> Table | Text:
        if not self._in_flight:
            return Text()
        table = Table(box=box.SIMPLE_HEAD, header_style="dim", expand=True, padding=(0, 1))
        table.add_column("#", justify="right", width=3)
        table.add_column("", width=1)
        table.add_column("time", justify="right", width=7)
        table.add_column("limit", justify="right", width=7)
        table.add_column("in flight", ratio=1, no_wrap=True, overflow="ellipsis")
        now = time.monotonic()
        # Drawn by a thread of rich's, so from a copy.
        for number, (since, timeout, call) in list(self._in_flight.items()):
            style = "yellow" if now - since > timeout else ""
            table.add_row(
                str(number),
                self._spinner,
                f"{now - since:.1f} s",
                f"{timeout:.4g} s",
                shown(call),
                style=style,
            )
        return table


def _lines(replayed: Replayed) -> list[Text]:
    """What became of a call: one line, and one more for each thing that is out of the ordinary."""
    mark, style, outcome = _label(replayed)
    result, notes = replayed.result, []
    if not isinstance(result, agentsup.Result):
        lasted = ""
        notes.append(printable(str(result)))
    else:
        lasted = f"{result.duration:.2f} s"
        if result.escalation:
            notes.append(steps(result))
        count, leftovers = replayed.killed
        if count:
            notes.append(f"killed {count} left over: {_first(leftovers)}")
    line = Text.assemble(
        (f"{replayed.number:>4} ", "dim"),
        (f"{mark} {outcome:<15}", style),
        (f"{lasted:>7}  ", "dim"),
        shown(replayed.call),
    )
    lines = [line, *(Text(f"{'':>7}{note}", "dim") for note in notes)]
    if replayed.differs:
        told = f"{replayed.ending or 'no known ending'}; recorded was: {replayed.call.ending}"
        lines.append(Text(f"{'':>7}{told}", "bold red"))
    return lines


def _label(replayed: Replayed) -> tuple[str, str, str]:
    """A mark, a style and a few words for how it ended."""
    result = replayed.result
    if not isinstance(result, agentsup.Result):
        return "✗", "red", replayed.outcome
    if result.outcome is Outcome.EXITED:
        mark, style = ("✓", "green") if result.ok else ("✗", "red")
        return mark, style, f"exited {result.exit_code}"
    if result.outcome is Outcome.SIGNALED:
        return "✗", "red", result.reason.removeprefix("killed by ")
    return "■", "yellow", result.outcome.value


def steps(result: agentsup.Result) -> str:
    """What was done to end it, and when."""
    return " → ".join(f"{step.action} at {step.at:.2f} s" for step in result.escalation)


def shown(call: ToolCall, width: int = 120) -> str:
    """The command on one line."""
    command = call.command if isinstance(call.command, str) else shlex.join(call.command)
    text = printable(" ↵ ".join(line.strip() for line in command.strip().splitlines()))
    text = text if len(text) <= width else f"{text[: width - 1]}…"
    return f"{text}  (in the background)" if call.background else text


def _first(leftovers: tuple[agentsup.Leftover, ...]) -> str:
    first = leftovers[0]
    argv = printable(shlex.join(first.argv).partition("\n")[0])
    more = ", …" if len(leftovers) > 1 else ""
    return f"{argv[:60]} ({first.found.name.lower()}{more})"


def printable(text: str) -> str:
    """Text that does nothing to the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def print_line(console: Console, line: Text) -> None:
    """One line: cut to fit a terminal, whole anywhere else."""
    if console.is_terminal:
        console.print(line, no_wrap=True, overflow="ellipsis")
    else:
        console.print(line, soft_wrap=True)
