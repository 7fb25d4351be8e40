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


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out ``arguments`` (``sys.argv`` by default) and return the exit status."""
    _open_standard_descriptors()
    try:
        from .app import invoke

        status = invoke(arguments)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("click", "rich"):
            raise
        missing = f"the command line needs {package}"
        print(f"agentsup: {missing}: pip install 'agentsup[cli]'", file=sys.stderr)
        return FAILED
    gc.freeze()  # the interpreter looks at all of it once more before it ends: 8 ms of 76
    return status


def _open_standard_descriptors() -> None:
    """Where one is closed, something opened later would take its number and get the output."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is fd
