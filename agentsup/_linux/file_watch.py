"""The kernel tells when a file changes, is made or is replaced: inotify(7).

A file is watched together with its directory, which is told when another file takes the name.
Python has no binding for it, so it is called by ctypes.

Nothing is told of what is stored through a memory mapping, or written by another machine to a file
system of the network: whoever has to know of that as well looks for itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_libc = ctypes.CDLL(None, use_errno=True)

_MODIFY, _ATTRIB, _CLOSE_WRITE = 0x2, 0x4, 0x8
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_ONLYDIR = 0x1000000
_Q_OVERFLOW, _IGNORED = 0x4000, 0x8000
_EVENT = struct.Struct("iIII")  # struct inotify_event: wd, mask, cookie, len
_SIZE = 64 * 1024


class FileWatch:
    """``fd`` is readable when there may be something new about the file at ``path``.

    :raises OSError: its directory cannot be watched. The file itself may be missing.
    """

    def __init__(self, path: bytes) -> None:
        self._path = path
        self._directory, self._name = os.path.split(path)
        self.fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._file = -1  # the number of its watch
        try:
            self._add(self._directory or b".", _CREATE | _MOVED_TO | _ONLYDIR)
        except BaseException:
            self.close()
            raise
        self._add_file()

    def changed(self) -> bool:
        """Whether any of what has been told is about the file; ``fd`` says if there is more."""
        changed = False
        for number, mask, name in _read(self.fd):
            if number == self._file or mask & _Q_OVERFLOW or name == self._name:
                changed = True
        if changed:
            self._add_file()
        return changed

    def _add_file(self) -> None:
        """Watch what has the name now, and no longer what had it."""
        before, self._file = self._file, -1
        with contextlib.suppress(OSError):  # nothing has, or it may not be read
            self._file = self._add(self._path, _MODIFY | _ATTRIB)
        if before not in (-1, self._file):
            _libc.inotify_rm_watch(self.fd, before)  # it has gone by itself if the file has

    def _add(self, path: bytes, mask: int) -> int:
        return _checked(_libc.inotify_add_watch(self.fd, path, mask))

    def close(self) -> None:
        os.close(self.fd)


class Change(NamedTuple):
    """Something was written, made or put in ``directory``, or that is there no more."""

    directory: bytes
    name: bytes
    closed: bool = False  # by somebody who might have written
    gone: bool = False


class DirectoryWatch:
    """``fd`` is readable when there is something new in some directories."""

    def __init__(self) -> None:
        self.fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._directories: dict[int, bytes] = {}

    def add(self, path: bytes, *, writes: bool) -> bool:
        """Watch it, which may be done already; False if there is no such directory.

        :param writes: whether to be told of what is written to its files, or of the directories
            in it that go. One that has gone says so itself only when none of its files is open.
        :raises OSError: it cannot be watched.
        """
        mask = _CREATE | _MOVED_TO | _ONLYDIR
        mask |= _MODIFY | _CLOSE_WRITE if writes else _DELETE | _MOVED_FROM
        try:
            number = _checked(_libc.inotify_add_watch(self.fd, path, mask))
        except (FileNotFoundError, NotADirectoryError):
            return False
        self._directories[number] = path
        return True

    def changes(self) -> list[Change] | None:
        """What has been told, ``fd`` says if there is more; None: some of it was lost."""
        found: list[Change] = []
        for number, mask, name in _read(self.fd):
            if mask & _Q_OVERFLOW:
                return None
            directory = self._directories.get(number)
            if directory is None:
                continue
            if mask & (_IGNORED | _DELETE | _MOVED_FROM):
                gone = os.path.join(directory, name) if name else directory
                self._forget(gone)
                found.append(Change(gone, b"", gone=True))
            else:
                found.append(Change(directory, name, closed=bool(mask & _CLOSE_WRITE)))
        return found

    def _forget(self, path: bytes) -> None:
        for number in [one for one, watched in self._directories.items() if watched == path]:
            del self._directories[number]
            _libc.inotify_rm_watch(self.fd, number)  # it has gone by itself, perhaps

    def close(self) -> None:
        os.close(self.fd)


def _read(fd: int) -> Iterator[tuple[int, int, bytes]]:
    """The number of the watch, the mask and the name of every event that waits, up to a bound."""
    try:
        events = os.read(fd, _SIZE)
    except BlockingIOError:
        return
    at = 0
    while at < len(events):
        number, mask, _, size = _EVENT.unpack_from(events, at)
        at += _EVENT.size + size
        yield number, mask, events[at - size : at].rstrip(b"\0")


def _checked(answer: int) -> int:
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer
