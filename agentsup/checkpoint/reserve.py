"""Room on the disk that is set aside for the time when there is none.

To drop something takes room, too: SQLite has to note that in its WAL, which is full of pages that
the database file has no room for.  A file of as much as that gives way then.
"""

from __future__ import annotations

import contextlib
import os

#: Pages that the WAL may hold before they go to the database file.
WAL_PAGES = 256
_PAGE = 4096
_SIZE = 2 * WAL_PAGES * _PAGE


def set_aside(ledger: str) -> None:
    with contextlib.suppress(OSError):  # the disk is full already
        fd = os.open(_path_of(ledger), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            os.posix_fallocate(fd, 0, _SIZE)
        finally:
            os.close(fd)


def give_way(ledger: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(_path_of(ledger))


def _path_of(ledger: str) -> str:
    return f"{ledger}-reserve"
