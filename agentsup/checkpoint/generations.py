"""Which files a checkpoint at ``PATH`` has.

=========================  ====================================================================
``PATH.000000000042``      generation 42, written whole; the highest number is the newest
``PATH.tmp``               the one being written, or what a killed writer left of it
``PATH.lock``              who may write (``lock.py``); it stays
=========================  ====================================================================

Numbers only ever go up: no clock is asked which file is newer. They are all of one length, so that
nothing of somebody else's, as ``PATH.1`` or ``PATH.20250101``, is taken for a generation.
"""

from __future__ import annotations

import os
import re

from .retention import Generation

_DIGITS = 12


def path_of(path: str, number: int) -> str:
    return f"{path}.{number:0{_DIGITS}}"


def temporary_of(path: str) -> str:
    return f"{path}.tmp"


def lock_of(path: str) -> str:
    return f"{path}.lock"


def find(path: str) -> list[Generation]:
    """The generations that there are, newest first."""
    folder, name = os.path.split(path)
    is_one = re.compile(rf"{re.escape(name)}\.([0-9]{{{_DIGITS}}})").fullmatch
    found: list[Generation] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if match := is_one(entry.name):
                status = entry.stat(follow_symlinks=False)
                found.append(Generation(int(match[1]), status.st_size, status.st_mtime))
    return sorted(found, key=lambda generation: generation.number, reverse=True)
