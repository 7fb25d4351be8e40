"""Replay a recorded agent session under agentsup, then show what is left of it: nothing.

python examples/agent_session [--transcript FILE] [--timeout SECONDS] [--cwd DIR] [--verbose]
"""

from __future__ import annotations

import argparse
import io
import math
import os
import secrets
import signal
import sys
import tempfile
import time
from pathlib import Path

import anyio
import repository
import transcript
from attrs import evolve
from audit import Verdict, run_audited
from processes import VARIABLE, Signs, belonging
from replay import Place, replay
from report import Facts, peak_rss, report
from rich.console import Console
from rich.text import Text
from table import CallTable, print_line

import agentsup

BUNDLED = Path(__file__).with_name("transcript.jsonl")


def main() -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # in `… | head`, head ends it
    options = _options()
    try:
        turns = transcript.read(options.transcript)
    except transcript.TranscriptError as error:
        print(error, file=sys.stderr)
        return 2
    console = Console(highlight=False)
    os.environ[VARIABLE] = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix="agentsup-demo-") as name:
        folder = Path(name).resolve()
        signs = Signs(os.getpid(), os.environ[VARIABLE], folder)
        (folder / "pantry").mkdir()

        def host() -> int:
            return anyio.run(_host, turns, options, signs, console)

        verdict = run_audited(host, signs)
    return _conclude(console, verdict)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="agent_session",
        description="Replay an agent's tool calls under agentsup, and show what is left of them.",
    )
    parser.add_argument(
        "--transcript", type=Path, metavar="FILE", default=BUNDLED, help="another one to replay"
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        default=10.0,
        help="for each call that brings no timeout of its own (default: 10)",
    )
    parser.add_argument(
        "--cwd",
        type=_directory,
        metavar="DIR",
        help="where to make the calls, instead of in a new git repository",
    )
    parser.add_argument("--verbose", action="store_true", help="print what the model would see")
    return parser.parse_args()


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above zero, not {text!r}")
    return value


def _directory(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"not a directory: {text}")
    return path.resolve()


async def _host(
    turns: list[transcript.Turn], options: argparse.Namespace, signs: Signs, console: Console
) -> int:
    """What an agent's program does: own a supervisor, and make the calls."""
    began = time.monotonic()
    async with agentsup.Supervisor() as sup:
        if options.cwd:
            place = Place(options.cwd, dict(os.environ), options.timeout)
        else:
            env = repository.environment(signs.folder)
            place = Place(signs.folder / "pantry", env, options.timeout)
            await repository.prepare(sup, place.cwd, env)
        peak_before = peak_rss()
        with CallTable(console, verbose=options.verbose) as table:
            replayed = await replay(sup, turns, place, table)
        adopted = len(sup.tree())
    results = [r.result for r in replayed if isinstance(r.result, agentsup.Result)]
    sessions = frozenset(result.pid for result in results if result.pid is not None)
    found = belonging(evolve(signs, sessions=sessions), but=[os.getpid()])
    facts = Facts(
        replayed=replayed,
        skipped=sum(len(turn.skipped) for turn in turns),
        adopted=adopted,
        left=[process for process in found if not process.keeper],
        seconds=time.monotonic() - began,
        peak_before=peak_before,
        peak_after=peak_rss(),
    )
    console.print()
    for line in report(facts):
        print_line(console, line)
    return 0 if facts.good else 1


def _conclude(console: Console, verdict: Verdict) -> int:
    """What the auditor has to say when the host is gone."""
    if verdict.left:
        console.print(Text(f"after the host: {len(verdict.left)} processes left", "bold red"))
        for process in verdict.left:
            console.print(Text(f"  {process}"), soft_wrap=True)
        return 1
    how = "ended" if verdict.status >= 0 else f"was ended by {signal.Signals(-verdict.status).name}"
    told = f"the host {how}; {verdict.took * 1000:.0f} ms later its keeper was gone too: 0 left"
    console.print(Text(told, "green"), soft_wrap=True)
    return verdict.status if verdict.status >= 0 else 1


if __name__ == "__main__":
    sys.exit(main())
