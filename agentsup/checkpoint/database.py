"""The SQLite file of a ledger: how it is opened, what is in it, and what its errors mean.

The pragmas: WAL, so that one can read while another writes, and ``synchronous=FULL``, so that what
was committed outlives a power cut.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from typing import TYPE_CHECKING, Any, TypeVar

from .._errors import DiskFull, FormatTooNew, LedgerCorrupt
from . import reserve

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

T = TypeVar("T")

APPLICATION = 0x61677570
VERSION = 1
PATIENCE = 60.0  # seconds that another process may hold the file for
_NUMBERS = 0xFF  # an error code without its extension

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE steps (
    id INTEGER PRIMARY KEY,
    identity TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    inputs TEXT NOT NULL,
    key TEXT,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    agent INTEGER,
    result TEXT,
    checksum INTEGER,
    error TEXT,
    size INTEGER NOT NULL DEFAULT 0,
    planned_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL
);
CREATE INDEX running ON steps (agent) WHERE state = 'running';
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
COMMIT;
"""


class Database:
    """A connection, for one thread. ``drop`` is called, in a transaction, when the disk is full."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.drop: Callable[[], None] = _nothing
        if os.path.exists(path) and not os.access(path, os.W_OK):  # SQLite would only read it
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        with told(path):
            self._connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
            try:
                self._open()
            except BaseException:
                self._connection.close()
                raise

    def _open(self) -> None:
        self.execute("PRAGMA synchronous = FULL")
        [tables] = self.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables:
            check_version(self._connection, self.path)
        self.execute("PRAGMA journal_mode = WAL")
        self.execute(f"PRAGMA wal_autocheckpoint = {reserve.WAL_PAGES}")
        if not tables:
            self._connection.executescript(_SCHEMA)

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return self._connection.execute(statement, values)

    def transact(self, work: Callable[[], T]) -> T:
        """``work()`` as one transaction, which is on the disk when this returns.

        With a full disk it is tried once more when what may be dropped has been dropped.
        """
        with told(self.path):
            try:
                return self._transact(work)
            except sqlite3.Error as error:
                if not _is_full(error):
                    raise
            self._make_room()
            return self._transact(work)

    def _make_room(self) -> None:
        reserve.give_way(self.path)
        with contextlib.suppress(sqlite3.Error):
            self.execute("PRAGMA wal_checkpoint")  # the WAL is then written from its beginning
        with contextlib.suppress(sqlite3.Error):
            self._transact(self.drop)

    def _transact(self, work: Callable[[], T]) -> T:
        self.execute("BEGIN IMMEDIATE")
        try:
            result = work()
            self.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite ends it by itself after some errors
                self.execute("ROLLBACK")
            raise
        return result

    def close(self) -> None:
        self._connection.close()


def read(path: str) -> sqlite3.Connection:
    """A connection for reading only."""
    connection = sqlite3.connect(_uri(path), uri=True, timeout=PATIENCE, isolation_level=None)
    try:
        check_version(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _uri(path: str) -> str:
    from urllib.parse import quote

    return f"file:{quote(path)}?mode=ro"


def check_version(connection: sqlite3.Connection, path: str) -> None:
    [application] = connection.execute("PRAGMA application_id").fetchone()
    [version] = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION:
        raise ValueError(f"path: {path} is a database, but not a ledger")
    if version > VERSION:
        raise FormatTooNew(
            f"{path} is a ledger of version {version}, and this agentsup knows those up to "
            f"{VERSION}: take a newer one"
        )


@contextlib.contextmanager
def told(path: str) -> Generator[None]:
    """SQLite's errors as ours, with the name of the file."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise _explain(error, path) from error


#: Also where a column is missing or is no text.
_DAMAGED = 0, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB


def _explain(error: Exception, path: str) -> Exception:
    code = getattr(error, "sqlite_errorcode", 0) & _NUMBERS
    if _is_full(error):
        return DiskFull(errno.ENOSPC, "no room for the ledger, and nothing to drop", path)
    if code in _DAMAGED:
        return LedgerCorrupt(f"{path} is damaged: {error}")
    if code == sqlite3.SQLITE_BUSY:
        return TimeoutError(errno.ETIMEDOUT, f"locked for {PATIENCE:.0f} s by others", path)
    if not os.path.exists(path):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        return PermissionError(errno.EACCES, str(error), path)
    return OSError(errno.EIO, str(error), path)


def _is_full(error: Exception) -> bool:
    # The second is for the file of shared memory.
    return getattr(error, "sqlite_errorcode", 0) in (
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR_SHMSIZE,
    )


def _nothing() -> None:
    pass
