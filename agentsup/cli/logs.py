"""``agentsup logs``: what services have printed, from the files alone."""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import os
import select
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from .._errors import AgentsupError
from .._rules.log_time import parse_time
from ..config.finding import NAME, place
from ..daemon.logs import query as queries
from ..daemon.logs.query import Query
from . import SIGNALED
from .log_lines import form, harmless
from .params import DURATION, SIZE

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable, Sequence

    from ..daemon.logs.reading import Entry
    from ..daemon.logs.vacuum import Usage

_TAIL = 10  # lines that a follow begins with, as in tail(1) and journalctl(1)
_FORMS = ["short", "cat", "json"]

_EPILOG = """\
\b
Exit status:
  0    done, also if there was nothing to show
  125  agentsup itself failed or was misused
  130  ended by ^C
"""

_HELP = {
    "file": "The agentsup.toml; the one that is here by default.",
    "directory": "The directory of the logs instead.",
    "units": "Of this service, or of those below this supervisor. May be repeated.",
    "lines": "Only the newest N, or 'all': the default is all, with -f 10.",
    "follow": "Go on with what is added.",
    "since": "Not older: '10 min ago', today, '2026-11-24 10:00', …",
    "until": "Not newer.",
    "levels": "Of this priority or worse, or of a range: err, 4, warning..err.",
    "grep": "Whose message has this in it. Without a capital letter, those do not matter.",
    "output": "For people, the messages alone, or the records.",
}


class _Logs(click.Group):
    """What is wrong is said in a line; whoever has seen enough may go."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
            return 0
        except KeyboardInterrupt:
            return SIGNALED + 2
        except (AgentsupError, OSError, ValueError) as error:
            raise click.ClickException(str(error)) from error

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if self.get_command(ctx, args[0]) is None:
            ctx.fail(f"{args[0]!r} is no command: for the log of a service write -u {args[0]}")
        return super().resolve_command(ctx, args)


def _placed(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("-u", "--unit", "units", metavar="NAME", multiple=True, help=_HELP["units"]),
        click.option("--dir", "directory", metavar="DIR", help=_HELP["directory"]),
        click.option("--file", metavar="FILE", help=_HELP["file"]),
    ):
        command = option(command)
    return command


def _parsed(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def convert(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
        try:
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param) from error

    return convert


def _lines(text: str) -> float:
    if text != "all" and not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{text!r} is not a number of lines, or 'all'")
    return math.inf if text == "all" else int(text)


def _time(text: str) -> float:
    return parse_time(text, time.time())


@click.group(cls=_Logs, invoke_without_command=True, epilog=_EPILOG)
@_placed
@click.option("-n", "--lines", metavar="N", callback=_parsed(_lines), help=_HELP["lines"])
@click.option("-f", "-F", "--follow", is_flag=True, help=_HELP["follow"])
@click.option("-S", "--since", metavar="TIME", callback=_parsed(_time), help=_HELP["since"])
@click.option("-U", "--until", metavar="TIME", callback=_parsed(_time), help=_HELP["until"])
@click.option(
    "-p",
    "--priority",
    metavar="LEVEL",
    callback=_parsed(queries.parse_priorities),
    help=_HELP["levels"],
)
@click.option(
    "-g", "--grep", metavar="PATTERN", callback=_parsed(queries.parse_grep), help=_HELP["grep"]
)
@click.option("-o", "--output", type=click.Choice(_FORMS), default="short", help=_HELP["output"])
@click.pass_context
def command(
    ctx: click.Context,
    file: str | None,
    directory: str | None,
    units: tuple[str, ...],
    lines: float | None,
    follow: bool,
    since: float | None,
    until: float | None,
    priority: tuple[int, int] | None,
    grep: re.Pattern[str] | None,
    output: str,
) -> None:
    """Show what services have printed."""
    if ctx.invoked_subcommand:
        places = {"file": file, "directory": directory, "units": units}
        ctx.default_map = dict.fromkeys(("vacuum", "disk-usage"), places)
        return
    if follow and until is not None:
        raise click.UsageError("--follow has no end: leave out --until")
    if lines is None:
        lines = _TAIL if follow and since is None else math.inf
    logs, control = _place(file, directory)
    query = Query(units, None if lines == math.inf else int(lines), since, until, priority, grep)
    printer = _Printer(output)
    if follow:
        _follow(logs, query, printer, running=control is None or _answers(control))
    else:
        _check(logs, units)
        printer.show(queries.select(logs, query))
        printer.finish()


@command.command()
@_placed
@click.option("--max-size", type=SIZE, help="Of each service, at most this: 512M.")
@click.option("--total-size", type=SIZE, help="Of all of them together, at most this: 2G.")
@click.option("--max-age", type=DURATION, help="Nothing that was last written before: 30d.")
def vacuum(
    file: str | None,
    directory: str | None,
    units: tuple[str, ...],
    max_size: int | None,
    total_size: int | None,
    max_age: float | None,
) -> None:
    """Remove the oldest segments. The newest of each service stays."""
    from ..daemon.logs.vacuum import vacuum

    if max_size is None and total_size is None and max_age is None:
        raise click.UsageError("say what is to stay: --max-size, --total-size, --max-age")
    logs, _ = _place(file, directory)
    _check(logs, units)
    freed = vacuum(logs, units, max_size=max_size, total_size=total_size, max_age=max_age)
    _print_usage(freed, "freed")


@command.command("disk-usage")
@_placed
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, in bytes.")
def disk_usage(
    file: str | None, directory: str | None, units: tuple[str, ...], as_json: bool
) -> None:
    """Say how much room the logs take."""
    from ..daemon.logs.vacuum import usage

    logs, _ = _place(file, directory)
    _check(logs, units)
    found = usage(logs, units)
    if as_json:
        of_services = {one.service: {"bytes": one.bytes, "segments": one.segments} for one in found}
        total = sum(one.bytes for one in found)
        click.echo(json.dumps({"services": of_services, "total": total}, indent=2))
    else:
        _print_usage(found, "in all")


def _print_usage(found: Sequence[Usage], total: str) -> None:
    for one in found:
        name = harmless(one.service)
        click.echo(f"{size(one.bytes):>8}  {name} ({one.segments} {_segments(one.segments)})")
    click.echo(f"{size(sum(one.bytes for one in found)):>8}  {total}")


def _segments(number: int) -> str:
    return "segment" if number == 1 else "segments"


def size(number: int) -> str:
    """As it is written in the file: 16.0M."""
    power = min(max(0, number.bit_length() - 1) // 10, 4)
    return f"{number / 1024**power:.1f}{'BKMGT'[power]}" if power else f"{number}B"


# --- where the logs are ---------------------------------------------------------------------------


def _place(file: str | None, directory: str | None) -> tuple[str, str | None]:
    """The directory of the logs, and the socket of the daemon that writes them, if known."""
    if directory is not None:
        if file is not None:
            raise click.UsageError("--file and --dir are two ways to say one thing")
        if not os.path.isdir(directory):
            raise click.UsageError(f"there is no directory {directory!r}")
        return directory, None
    if file is None and not os.path.isfile(NAME):
        text = f"there is no {NAME} here: name one by --file, or the logs by --dir"
        raise click.ClickException(text)
    control, state = place(file or NAME)
    return os.path.join(state, "logs"), control


def _check(logs: str, units: Sequence[str]) -> None:
    """Whoever asks for something that is not there has most likely misspelt it."""
    known = queries.services(logs)
    for unit in units:
        if not any(queries.matches(name, [unit]) for name in known):
            close = difflib.get_close_matches(unit, known, n=1)
            hint = f": did you mean {close[0]!r}?" if close else ""
            raise click.ClickException(f"nothing has been logged by {unit!r}{hint}")


def _answers(control: str) -> bool:
    """Whether the daemon runs."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(control)
        except OSError:
            return False
    return True


# --- printing -------------------------------------------------------------------------------------


class _Printer:
    def __init__(self, output: str) -> None:
        terminal = sys.stdout.isatty()
        colours = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._form = form(output, terminal=terminal, colours=colours)

    def show(self, entries: Iterable[Entry]) -> None:
        out = sys.stdout.buffer
        for entry in entries:
            out.write(self._form.show(entry))
        out.flush()

    def finish(self) -> None:
        sys.stdout.buffer.write(self._form.finish())
        sys.stdout.buffer.flush()


def _follow(logs: str, query: Query, printer: _Printer, *, running: bool) -> None:
    """Until nobody reads what is printed."""
    from ..daemon.logs.follow import Follow

    with contextlib.closing(Follow(logs, query, running=running)) as following:
        printer.show(following.history())
        poll = select.poll()
        poll.register(following.fd, select.POLLIN)
        poll.register(sys.stdout.fileno(), 0)  # tells of an error, too: nobody reads it
        while True:
            printer.show(following.new())
            if any(fd != following.fd for fd, _ in poll.poll()):
                return
