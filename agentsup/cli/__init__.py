"""The command line: ``agentsup COMMAND …``, also as ``python -m agentsup COMMAND …``.

Exit statuses are those of timeout(1) and env(1):

======  ==========================================================
status  meaning
======  ==========================================================
124     a time limit or an output limit ended the command
125     agentsup itself failed, or was not told rightly what to do
126     the command was found but could not be executed
127     the command was not found
128+N   signal N ended the command
other   the command's own
======  ==========================================================
"""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMIT_REACHED, FAILED, NOT_EXECUTABLE, NOT_FOUND = 124, 125, 126, 127
SIGNALED = 128

# What may not be there, and the extra that it comes with.
_EXTRAS = {"click": "cli", "rich": "cli"} | dict.fromkeys(
    ("cattrs", "starlette", "uvicorn", "h11"), "daemon"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out ``arguments`` (``sys.argv`` by default) and return the exit status."""
    _open_standard_descriptors()
    words = sys.argv[1:] if arguments is None else arguments
    try:
        status = _quick(words) if words[:1] == ["ctl"] else None
        if status is None:
            from .app import invoke

            status = invoke(arguments)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        text = f"{package} is not installed: pip install 'agentsup[{_EXTRAS[package]}]'"
        print(f"agentsup: {text}", file=sys.stderr)
        return FAILED
    gc.freeze()  # the interpreter looks at all of it once more before it ends: 8 ms of 76
    return status


def _quick(words: Sequence[str]) -> int | None:
    """What is asked again and again: without click, whose import takes longer than that."""
    from .ctl_status import quick

    return quick(words[1:])


def _open_standard_descriptors() -> None:
    """Where one is closed, something opened later would take its number and get the output."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is fd
