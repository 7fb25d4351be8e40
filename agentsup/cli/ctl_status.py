"""``agentsup ctl status``, which scripts and monitoring ask for again and again.

Nothing here needs click: to import that takes as long as to ask the daemon and to print the answer.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from .._errors import AgentsupError
from ..daemon.client import Client, ControlError, NotRunning, UnknownName, named
from . import FAILED, SIGNALED, tables

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# As systemctl has them, after the LSB.
NOT_DONE, NOT_RUNNING, NO_SERVICE = 1, 3, 4

_RUNNING = ("active", "reloading")


def quick(words: Sequence[str]) -> int | None:
    """The exit status of ``agentsup ctl WORDS``, or None if that is left to click.

    That is all but ``[-f FILE | --socket PATH] status [--json] [NAME]…``.
    """
    places: dict[str, str] = {}
    if len(words) > 2 and words[0] in ("-f", "--file", "--socket"):
        places = {words[0].removeprefix("--").replace("-f", "file"): words[1]}
        words = words[2:]
    if words[:1] != ["status"]:
        return None
    names = [word for word in words[1:] if word != "--json"]
    if any(word.startswith("-") for word in [*names, *places.values()]):
        return None
    return told(lambda: status(find_daemon(**places), names, "--json" in words), NOT_RUNNING)


def status(client: Client, names: Sequence[str], as_json: bool) -> int:
    found = client.get(named("/v1/status", names))
    services = found["services"]
    if as_json:
        print(json.dumps(found, indent=2))
    elif sys.stdout.isatty():
        tables.show_services(services)
    else:
        for row in tables.rows(services):
            print(row)
    running = all(service["state"] in _RUNNING for service in services)
    return 0 if running or not names else NOT_RUNNING


def find_daemon(file: str | None = None, socket: str | None = None) -> Client:
    """That of a file, by default of the one in this directory."""
    if socket is None:
        from ..config import find_config, place

        socket = os.fspath(place(file or find_config(None))[0])
    return Client(socket)


def told(action: Callable[[], int], absent: int = NOT_DONE) -> int:
    """The exit status that ``action`` comes to. What goes wrong is said in a line.

    :param absent: the status where there is no ``agentsup up``.
    """
    try:
        result = action()
        sys.stdout.flush()
    except NotRunning as error:
        return _failed(error, absent)
    except UnknownName as error:
        return _failed(error, NO_SERVICE)
    except ControlError as error:
        return _failed(error, NOT_DONE)
    except AgentsupError as error:  # of the file
        return _failed(error, FAILED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is still in the buffer
        return NOT_DONE
    except KeyboardInterrupt:
        return SIGNALED + 2
    return result


def _failed(error: AgentsupError, exit_status: int) -> int:
    print(f"Error: {error}", file=sys.stderr)
    return exit_status
