"""What there is to be played: programs, levels, and ends of a host."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PROGRAMS = {path.stem: path for path in sorted((HERE / "programs").iterdir())}
SCOPE_ENDS = ("exit", "timeout", "cancel", "exception")
HOST_ENDS = {"host TERM": signal.SIGTERM, "host KILL": signal.SIGKILL}
ENDS = (*SCOPE_ENDS, *HOST_ENDS)
LEVELS = ("SUBREAPER", "CGROUP", "PID_NAMESPACE")
BASELINE = "killpg"
ROOT, OTHERS = USERS = ("root", "an unprivileged user")
USER = OTHERS if os.geteuid() else ROOT


@dataclass(frozen=True)
class Cell:
    """A place in the table."""

    level: str
    program: str
    end: str

    @property
    def backend(self) -> str:
        """Alternately by row and by column."""
        odd = (list(PROGRAMS).index(self.program) + ENDS.index(self.end)) % 2
        return "trio" if odd else "asyncio"


def description(program: str) -> str:
    """What it does, in its own words: its first comment."""
    first_line = PROGRAMS[program].read_text().partition("\n")[0]
    return re.sub(r"^(/\*|#) | \*/$", "", first_line)
