"""``agentsup init``: PID 1 of a container, or the same duty below another init."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from .._rules.init import InitRule, parse_rewrite, parse_signal
from .._values.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # generic since click 8.4 only

_EPILOG = """\
A SIGNAL is TERM, SIGTERM, 15 or RTMIN+3. Every signal that can be caught is passed on, but CHLD,
and TTIN and TTOU unless they are rewritten.

\b
Exit status:
  125    agentsup itself failed or was misused
  126    COMMAND was found but could not be executed
  127    COMMAND was not found
  128+N  signal N ended COMMAND
  0      in place of a STATUS that was expected
  else   that of COMMAND
"""


class _Parsed(_ParamType):
    # That of params.py would bring attrs along, which stays in memory for as long as PID 1 does.
    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command(
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS] [--]",
    epilog=_EPILOG,
)
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...")
@click.option(
    "-r",
    "--rewrite",
    "rewrites",
    type=_Parsed("rewrite", parse_rewrite),
    multiple=True,
    metavar="FROM:TO",
    help="Pass on the signal TO in place of FROM; 0 passes on nothing.",
)
@click.option(
    "-e",
    "--expect",
    "expected",
    type=click.IntRange(0, 255),
    multiple=True,
    metavar="STATUS",
    help="Exit with 0 in place of this status.",
)
@click.option(
    "-g/-c",
    "--group/--child-only",
    default=False,
    help="Signal COMMAND's process group, or (as without either) COMMAND only.",
)
@click.option(
    "-p",
    "--parent-death",
    type=_Parsed("signal", parse_signal),
    default=None,
    metavar="SIGNAL",
    help="Get this signal when our parent ends.",
)
@click.option(
    "--kill-leftovers",
    type=_Parsed("duration", parse_duration),
    is_flag=False,
    flag_value="5s",
    default=None,
    metavar="[GRACE]",
    help="End what lives on after COMMAND: TERM, and KILL after this time (5s).",
)
@click.option("-w", "--warn-reap", is_flag=True, help="Say of each orphan that it was reaped.")
@click.option("-v", "--verbose", is_flag=True, help="Say all that is done.")
def command(
    words: tuple[str, ...],
    rewrites: tuple[tuple[int, int], ...],
    expected: tuple[int, ...],
    group: bool,
    parent_death: int | None,
    kill_leftovers: float | None,
    warn_reap: bool,
    verbose: bool,
) -> int:
    """Run COMMAND as its init: pass signals on, reap orphans, and exit as it does.

    Below another init, orphans come to this one all the same: it becomes a subreaper.
    """
    if sys.platform != "linux":
        raise click.ClickException(f"agentsup init works on Linux only, not on {sys.platform}")
    from .._linux.init import Init

    init = Init(words, death_signal=parent_death or 0, verbose=verbose, warn=warn_reap)
    rule = InitRule(dict(rewrites), expected, group=group, grace=kill_leftovers, job=init.is_job)
    return init.run(rule)
