"""``agentsup ctl``: looks at what runs under ``agentsup up``, and tells it what to do."""

from __future__ import annotations

import base64
import functools
import json
import os
import select
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from ..daemon.client import PATIENCE, Client, ControlError, named
from . import ctl_status, tables
from .ctl_status import NOT_DONE, NOT_RUNNING, find_daemon, told
from .params import DURATION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_EPILOG = """\
NAME is a service's path, as workers/a, a glob such as 'workers/*', the name of a supervisor for all
below it, or the name of a group, as @frontend. '*' is all.

Without -f, --socket or --url it is the tree of agentsup.toml in this directory.

\b
Exit status:
  0    done; with status, that all of the named services run
  1    not done: refused, failed, out of reach, or only in part
  3    status, pid: it does not run; also if agentsup up does not
  4    there is no such service
  125  agentsup itself failed or was misused
"""


class _Told(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        return told(functools.partial(super().invoke, ctx))


@click.group(cls=_Told, epilog=_EPILOG)
@click.option("-f", "--file", type=click.Path(), help="The file that agentsup up has been given.")
@click.option("--socket", type=click.Path(), metavar="PATH", help="The control socket itself.")
@click.option("--url", help="Over TCP, as http://127.0.0.1:9009; wants --token-file.")
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False),
    help="The file with the token for --url.",
)
def command(file: str | None, socket: str | None, url: str | None, token_file: str | None) -> None:
    """Look at what runs under agentsup up, and tell it what to do."""
    if sum(place is not None for place in (file, socket, url)) > 1:
        raise click.UsageError("-f, --socket and --url exclude each other")
    if (url is None) != (token_file is None):
        raise click.UsageError("--url and --token-file go together")
    if url is not None and not url.startswith(("http://", "https://")):
        raise click.UsageError(f"--url {url}: write http://{url}")


def _client(ctx: click.Context) -> Client:
    assert ctx.parent is not None
    given = ctx.parent.params
    if given["url"] is None:
        return find_daemon(given["file"], given["socket"])
    try:
        with open(given["token_file"], encoding="ascii") as file:
            token = file.read().strip()
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--token-file {given['token_file']}: {error}") from error
    if not token:
        raise click.UsageError(f"--token-file {given['token_file']} is empty")
    return Client(given["url"], token)


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The names that there are, if the daemon says them at once."""
    try:
        services = _client(ctx).get("/v1/status", timeout=0.5)["services"]
    except Exception:
        return []  # nobody wants to read why while he types
    names = {service["path"] for service in services}
    if param.name == "names":
        names |= {f"@{group}" for service in services for group in service["groups"]}
        names |= {
            path[:at] for path in list(names) for at, letter in enumerate(path) if letter == "/"
        }
    return sorted(name for name in names if name.startswith(incomplete))


def _names(required: bool) -> Callable[[Any], Any]:
    # The help says NAME for each of them, as the text below it does.
    return click.argument(
        "names",
        nargs=-1,
        required=required,
        metavar="NAME..." if required else "[NAME]...",
        shell_complete=_complete,
    )


_JSON = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
_NO_WAIT = click.option(
    "--no-wait", is_flag=True, help="Only say it; do not wait until it is done."
)
_TIMEOUT = click.option("--timeout", type=DURATION, help="Wait no longer, and fail (as 30s, 2min).")


# --- to look ----------------------------------------------------------------------------------


@command.command()
@_names(required=False)
@_JSON
@click.pass_context
def status(ctx: click.Context, names: tuple[str, ...], as_json: bool) -> int:
    """Say how services are.

    To a terminal that is a table, else a line each, with tabs: service, state, ready, pid, seconds
    up, restarts, remark.
    """
    return told(lambda: ctl_status.status(_client(ctx), names, as_json), NOT_RUNNING)


@command.command()
@_names(required=False)
@_JSON
@click.pass_context
def pid(ctx: click.Context, names: tuple[str, ...], as_json: bool) -> int:
    """Print main processes; without a name: agentsup up's."""
    return told(lambda: _print_pids(_client(ctx), names, as_json), NOT_RUNNING)


def _print_pids(client: Client, names: tuple[str, ...], as_json: bool) -> int:
    found = client.get(named("/v1/status", names))
    pids = {service["path"]: service["pid"] for service in found["services"]}
    if not names:
        pids = {"agentsup up": found["daemon"]["pid"]}
    if as_json:
        _print_json(pids)
    else:
        for name, number in pids.items():
            click.echo(number or f"{name} does not run", err=not number)
    return 0 if all(pids.values()) else NOT_RUNNING


@command.command()
@_JSON
@click.pass_context
def tree(ctx: click.Context, as_json: bool) -> None:
    """Draw the supervisors and what runs below them."""
    root = _client(ctx).get("/v1/tree")
    if as_json:
        _print_json(root)
    else:
        for lines, node in tables.branches(root):
            _print_node(tables.in_charset(lines, sys.stdout.encoding), node)


def _print_node(lead: str, node: Mapping[str, Any]) -> None:
    state, pid = node.get("state"), node.get("pid")
    shown = [lead + node["name"]]
    if state:
        shown.append(click.style(state, tables.COLOURS.get(state)))
    if pid:
        shown.append(str(pid))
    click.echo(" ".join(shown))


@command.command()
@click.option("-f", "--follow", is_flag=True, expose_value=False, help="As it always does.")
@click.option("--json", "as_json", is_flag=True, help="Print each as a line of JSON.")
@click.pass_context
def events(ctx: click.Context, as_json: bool) -> None:
    """Print every change of a service's state from now on."""
    show = _put_line if as_json else _put_event
    _follow(_client(ctx), "/v1/events", show)
    raise ControlError("agentsup up has ended")


@command.command()
@click.argument("name", shell_complete=_complete)
@click.option("-f", "--follow", is_flag=True, help="Go on with what it prints from now on.")
@click.option("-n", "--lines", type=click.IntRange(0), default=10, help="How many (default: 10).")
@click.option("--json", "as_json", is_flag=True, help="Print records, a line of JSON each.")
@click.pass_context
def tail(ctx: click.Context, name: str, follow: bool, lines: int, as_json: bool) -> None:
    """Print the last lines that a service has printed; what agentsup says of it, to stderr."""
    path = f"/v1/logs/{quote(name)}?lines={lines}&follow={'true' if follow else 'false'}"
    _follow(_client(ctx), path, _put_line if as_json else _put_message)
    if follow:
        raise ControlError("agentsup up has ended")


# --- to change --------------------------------------------------------------------------------


def _operation(verb: str, text: str, *, required: bool = True) -> None:
    @command.command(verb, help=text)
    @_names(required)
    @_NO_WAIT
    @_TIMEOUT
    @_JSON
    @click.pass_context
    def _(
        ctx: click.Context,
        names: tuple[str, ...],
        no_wait: bool,
        timeout: float | None,
        as_json: bool,
    ) -> int:
        if not names:
            return _update(ctx, as_json)
        body = {"names": names, "wait": not no_wait, "timeout": timeout}
        return _operate(ctx, verb, body, as_json)


_operation("start", "Start services, and wait until they are ready.")
_operation("stop", "Stop services, and wait until nothing of them runs.")
_operation("restart", "Stop services and start them again.")
_operation("reload", "Let services reload themselves; without a name: update.", required=False)


@command.command("signal")
@click.argument("signal", metavar="SIGNAL")
@_names(required=True)
@_JSON
@click.pass_context
def send_signal(ctx: click.Context, signal: str, names: tuple[str, ...], as_json: bool) -> int:
    """Send a signal, as HUP, to main processes."""
    return _operate(ctx, "signal", {"names": names, "signal": signal}, as_json)


@command.command("wait-ready")
@_names(required=False)
@_TIMEOUT
@_JSON
@click.pass_context
def wait_ready(
    ctx: click.Context, names: tuple[str, ...], timeout: float | None, as_json: bool
) -> int:
    """Wait until services, or all that are to run, are ready; also for agentsup up itself."""
    client = _client(ctx)
    if client.local:
        absent = functools.partial(click.echo, "agentsup up is not there yet", err=True)
        timeout = client.wait_listening(timeout, absent)
    return _operate(ctx, "wait-ready", {"names": names, "timeout": timeout}, as_json)


@command.command()
@_JSON
@click.pass_context
def reread(ctx: click.Context, as_json: bool) -> None:
    """Say what has changed in the file, and do nothing."""
    _print_changes(_client(ctx).post("/v1/reread"), as_json)


@command.command()
@_JSON
@click.pass_context
def update(ctx: click.Context, as_json: bool) -> int:
    """Read the file, and carry out what has changed."""
    return _update(ctx, as_json)


def _update(ctx: click.Context, as_json: bool) -> int:
    _print_changes(_client(ctx).post("/v1/update", timeout=None), as_json)
    return 0


@command.command()
@_NO_WAIT
@_TIMEOUT
@click.pass_context
def shutdown(ctx: click.Context, no_wait: bool, timeout: float | None) -> None:
    """Stop all services, and agentsup up itself."""
    client = _client(ctx)
    process = None if no_wait else client.open_daemon()
    try:
        client.post("/v1/shutdown")
        if process is not None and not _ends(process, timeout):
            raise ControlError(f"agentsup up has not ended within {timeout:g} s, but will")
    finally:
        if process is not None:
            os.close(process)


def _ends(process: int, timeout: float | None) -> bool:
    end = select.poll()
    end.register(process, select.POLLIN)
    return bool(end.poll(None if timeout is None else timeout * 1000))


# --- what the answers look like ---------------------------------------------------------------


def _operate(ctx: click.Context, verb: str, body: Mapping[str, Any], as_json: bool) -> int:
    wait, timeout = body.get("wait", verb == "wait-ready"), body.get("timeout")
    patience = None if wait and timeout is None else PATIENCE + (timeout or 0)
    results = _client(ctx).post(f"/v1/{verb}", body, timeout=patience)["results"]
    if as_json:
        _print_json(results)
    else:
        for result in results:
            name, ok = result["name"], result["ok"]
            said = result["state"] if ok else result["error"].removeprefix(f"{name}: ")
            click.echo(f"{name}: {said}", err=not ok)
    return 0 if all(result["ok"] for result in results) else NOT_DONE


def _print_changes(changes: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(changes)
        return
    for kind in ("added", "changed", "removed"):
        for name in changes[kind]:
            click.echo(f"{name}: {kind}")
    if not any(changes.values()):
        click.echo("nothing has changed", err=True)
    if keys := changes["daemon_changed"]:
        click.echo(f"{', '.join(keys)}: from the next start of agentsup up on", err=True)


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


def _follow(client: Client, path: str, show: Callable[[bytes, Mapping[str, Any]], bytes]) -> None:
    """Print what comes, as soon as it comes."""
    out = sys.stdout.buffer
    for lines in client.stream(path):
        for line in filter(None, lines):
            out.write(show(line, json.loads(line)))
        out.flush()


def _put_line(line: bytes, _: Mapping[str, Any]) -> bytes:
    return line + b"\n"


def _put_message(_: bytes, record: Mapping[str, Any]) -> bytes:
    if "message" not in record:
        return b""  # it says that it is connected
    if record["stream"] == "daemon":
        sys.stdout.flush()  # what was printed before stands before it
        click.echo(f"agentsup: {record['service']}: {record['message']}", err=True)
        return b""
    raw = record.get("raw")
    content: bytes = base64.b64decode(raw) if raw else record["message"].encode()
    return content if record.get("continues") else content + b"\n"


def _put_event(_: bytes, event: Mapping[str, Any]) -> bytes:
    if "dropped" in event:
        click.echo(f"{event['dropped']} more were lost: they were not read in time", err=True)
    if "service" not in event:
        return b""  # it says that it is connected
    moment = time.localtime(event["time"])
    service, state, reason = event["service"], event["state"], event["reason"]
    if not sys.stdout.isatty():
        at = time.strftime("%Y-%m-%dT%H:%M:%S%z", moment)
        row = tables.fields(at, service, event["previous"], state, event["pid"], reason)
        return row.encode() + b"\n"
    shown = click.style(state, tables.COLOURS.get(state))
    at = time.strftime("%H:%M:%S", moment)
    return f"{at} {service}: {shown} ({tables.printable(reason)})\n".encode()
