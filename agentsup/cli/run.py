"""``agentsup run``: one command, within limits, with its input, output and signals passed on."""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from typing import TYPE_CHECKING, Any

import click

from . import FAILED, LIMIT_REACHED, NOT_EXECUTABLE, NOT_FOUND, SIGNALED
from .params import CPUS, DURATION, LEVELS, SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._calls.call import Call
    from .._calls.spec import Spec
    from .._errors import AgentsupError
    from .._values.result import Containment, Result

_EPILOG = """\
A SIZE is in bytes, or 64K, 512M, 1.5G (in steps of 1024). A DURATION is in seconds, or 100ms,
2min, '1h 30min'.

\b
Exit status:
  124    a time limit or the output limit was reached
  125    agentsup itself failed or was misused
  126    COMMAND was found but could not be executed
  127    COMMAND was not found
  128+N  signal N ended COMMAND
  else   that of COMMAND

The output is COMMAND's own, as without agentsup; with --idle-timeout, --limit-output or --result
it goes through a pipe.

SIGTERM and SIGHUP end the tree, beginning with that signal; so does a second ^C within 2 s. Other
signals are passed on.
"""


@click.command(
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS] [--]",
    epilog=_EPILOG,
)
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...")
@click.option("--timeout", type=DURATION, help="End the command after this time.")
@click.option("--idle-timeout", type=DURATION, help="End it after this time without output.")
@click.option(
    "--grace",
    type=DURATION,
    default=5.0,
    help="Time from the first signal to SIGKILL for what is left of the tree (default: 5s).",
)
@click.option("--limit-output", type=SIZE, help="Pass on no more than this, and end it then.")
@click.option(
    "--containment",
    metavar="LEVEL",
    type=click.Choice(["auto", *LEVELS]),
    default="auto",
    help="How tightly to hold it (see 'agentsup doctor').",
)
@click.option("--memory", type=SIZE, help="Address space of each process; in a cgroup, memory.")
@click.option("--memory-high", type=SIZE, help="Memory of the tree above which it is slowed down.")
@click.option("--cpu-quota", type=CPUS, help="CPUs that the tree may use, as 0.5 or 50%.")
@click.option("--io-weight", type=int, help="Share of a busy disk, 1 to 10000.")
@click.option("--cpu-time", type=DURATION, help="CPU time of each process.")
@click.option("--file-size", type=SIZE, help="Size that a process may let a file grow to.")
@click.option("--open-files", type=int, help="File descriptors of each process.")
@click.option("--processes", type=int, help="Processes of the user (as root: give --user).")
@click.option("--user", help="Name or number of the user to run it as.")
@click.option("--group", help="Name or number of the group, if not the user's own.")
@click.option("--extra-groups", metavar="LIST", help="Other groups, if not the user's own; or ''.")
@click.option("--umask", metavar="OCTAL", help="Permissions that its files are not to have.")
@click.option("--no-new-privs", is_flag=True, help="Let no setuid program in it take effect.")
@click.option(
    "--capabilities", metavar="LIST", help="All that it may ever have, as kill,chown; or none."
)
@click.option("--cwd", metavar="DIRECTORY", help="Directory to run it in.")
@click.option("--minimal-env", is_flag=True, help="Keep only PATH, HOME, the locale and the like.")
@click.option("--result", metavar="FILE", help="Write what came of it to this file, as JSON.")
@click.option("--report", is_flag=True, help="Show what came of it on stderr.")
@click.option("-q", "--quiet", is_flag=True, help="Do not say on stderr why it was ended.")
def command(
    words: tuple[str, ...], result: str | None, report: bool, quiet: bool, **options: Any
) -> int:
    """Run COMMAND, and leave nothing of it behind: no child, no daemon, whatever ends it."""
    from .._errors import AgentsupError

    show = _reporter() if report else None  # at once: what it needs may not be installed
    try:
        if result is not None:
            _check_result_file(result)
        came_of_it, notes = _run(words, result, options)
    except AgentsupError as error:
        status, text = _explain(error)
        _say(text, words[0])
        return status
    if not quiet:
        for note in notes:
            _say(note, came_of_it.name)
    if show:
        show(came_of_it)
    return _status(came_of_it)


def _reporter() -> Callable[[Result], None]:
    from .report import show

    return show


def _run(
    words: tuple[str, ...], result_file: str | None, options: dict[str, Any]
) -> tuple[Result, list[str]]:
    """Run it; return the result and what there is to say about it."""
    from .._levels import choose
    from .._platform import require_platform
    from .._values.result import Containment as Level

    level = choose(LEVELS.get(options["containment"], "auto"))
    require_platform(level)
    if level is not Level.PROCESS_GROUP:
        from .._linux import lifeline

        lifeline.release(lifeline.acquire(), None)  # it starts while we import what is left
    from .._calls.call import Call
    from .relay import Relay

    watched = any(
        value is not None
        for value in (result_file, options["idle_timeout"], options["limit_output"])
    )
    call = Call(_spec(words, options, result_file, level), outputs=None if watched else (1, 2))
    call.prepare()
    try:
        relay = Relay(call, options["grace"])
        _send(call)
        relay.carry()
        if call.error is not None:
            raise call.error
        result = call.result()
    finally:
        call.close()
    try:
        if result_file is not None:
            _write_result(result, result_file)
    finally:
        unread = relay.deliver(_delivery_bound(result, options["timeout"]))
    return result, [*map(str, relay.errors()), *_notes(result, unread)]


def _spec(
    words: tuple[str, ...], options: dict[str, Any], result_file: str | None, level: Containment
) -> Spec:
    from attrs import fields

    from .._calls.spec import make_spec
    from .._values.limits import Limits
    from .._values.output import OutputPolicy

    limits = [param.name for param in fields(Limits)]
    # One stream where both go to one place: what is printed keeps its order.
    merge = result_file is None and os.path.sameopenfile(1, 2)
    try:
        return make_spec(
            words,
            {
                "timeout": options["timeout"],
                "idle_timeout": options["idle_timeout"],
                "grace": options["grace"],
                "stdin": 0,
                "cwd": options["cwd"],
                "env": "minimal" if options["minimal_env"] else None,
                "limits": Limits(**{name: options[name] for name in limits}),
                "output": OutputPolicy(limit=options["limit_output"], merge_stderr=merge),
                "user": _account(options["user"]),
                "group": _account(options["group"]),
                "extra_groups": _list(options["extra_groups"]),
                "umask": _umask(options["umask"]),
                "no_new_privs": options["no_new_privs"],
                "capabilities": _list(options["capabilities"], none="none"),
            },
            level,
        )
    except (TypeError, ValueError) as error:
        raise click.UsageError(_in_options(str(error))) from None


def _account(text: str | None) -> str | int | None:
    return int(text) if text and text.isdecimal() else text


def _list(text: str | None, none: str = "") -> list[Any] | None:
    if text is None:
        return None
    return [] if text == none else [_account(word) for word in text.split(",")]


def _umask(text: str | None) -> int | None:
    try:
        return None if text is None else int(text, 8)
    except ValueError:
        raise ValueError(f"umask must be octal, as 022, not {text!r}") from None


def _send(call: Call) -> None:
    import select

    while not call.send():
        fd = call.keeper_fd()
        select.select([], [fd], [])
        os.close(fd)


def _delivery_bound(result: Result, timeout: float | None) -> float:
    """Until when a reader may take its time with what the command had printed."""
    from .._values.result import Outcome

    if result.outcome not in (Outcome.EXITED, Outcome.SIGNALED):
        return 0.0
    return math.inf if timeout is None else time.monotonic() + timeout - result.duration


# --- what came of it --------------------------------------------------------------------------


def _status(result: Result) -> int:
    from .._values.result import Outcome

    if result.outcome in (Outcome.TIMED_OUT, Outcome.IDLE, Outcome.OUTPUT_LIMIT):
        return LIMIT_REACHED
    if result.exit_code is not None:
        return result.exit_code
    return SIGNALED + result.signal if result.signal else FAILED


def _notes(result: Result, unread: int) -> list[str]:
    """What the status alone does not tell."""
    from .._values.result import Outcome

    notes: list[str] = []
    if result.outcome not in (Outcome.EXITED, Outcome.SIGNALED, Outcome.STOPPED):
        at = result.escalation[0].at if result.escalation else result.duration
        notes.append(f"{result.outcome.value} after {at:.1f} s")
    notes += [f"reached its limit of {name}" for name in result.limits_reached]
    if result.leftover_count:
        noun = "process" if result.leftover_count == 1 else "processes"
        notes.append(f"killed {result.leftover_count} leftover {noun}")
    notes += [f"could not kill process {left.pid}" for left in result.leftovers if not left.killed]
    if unread:
        notes.append(f"{unread} bytes of its output were not read")
    return [", ".join(notes)] if notes else []


def _say(text: str, name: str) -> None:
    """One line on stderr, unless nobody would take it: nothing may hang because of it."""
    from .relay import is_writable

    if is_writable(2, 1.0):
        with contextlib.suppress(OSError):
            os.write(2, f"agentsup: {name}: {text}\n".encode(errors="surrogateescape"))


# --- the result file --------------------------------------------------------------------------


def _check_result_file(path: str) -> None:
    """Find out before anything is run."""
    if path == "-":
        raise click.UsageError("--result: '-' would mix with the command's output: name a file")
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise click.UsageError(f"--result: there is no directory {directory!r}: create it first")
    if os.path.isdir(path):
        raise click.UsageError(f"--result: {path!r} is a directory: name a file")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise click.UsageError(f"--result: no permission to write in {directory!r}")


def _write_result(result: Result, path: str) -> None:
    """All of it or nothing: whoever reads the file never sees half of it."""
    import json

    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "x", encoding="utf-8", errors="backslashreplace") as file:
            json.dump(result.to_dict(), file, indent=2)
            file.write("\n")
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise click.ClickException(f"--result: {error}") from None


# --- errors -----------------------------------------------------------------------------------


def _explain(error: AgentsupError) -> tuple[int, str]:
    """The status for it, and the message in the words of the command line."""
    if not isinstance(error, OSError):
        return FAILED, str(error)
    text = error.strerror or str(error)
    if text.startswith("command: "):
        status = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        return status, text.removeprefix("command: ")
    where = f": {error.filename!r}" if error.filename else ""
    return FAILED, _in_options(text) + where


def _in_options(message: str) -> str:
    """Arguments of the API as the options that they come from."""
    options = "|".join(param.name for param in command.params if isinstance(param, click.Option))
    return re.sub(
        rf"^(?:Limits\.|limits\.)?({options})\b|\b({options})=(?:True)?",
        lambda match: "--" + (match[1] or match[2]).replace("_", "-"),
        message,
    )
