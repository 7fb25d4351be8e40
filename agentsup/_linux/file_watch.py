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

_libc = ctypes.CDLL(None, use_errno=True)

_MODIFY, _ATTRIB, _MOVED_TO, _CREATE = 0x2, 0x4, 0x80, 0x100
_ONLYDIR = 0x1000000
_Q_OVERFLOW = 0x4000
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
        try:
            events = os.read(self.fd, _SIZE)
        except BlockingIOError:
            return False
        changed, at = False, 0
        while at < len(events):
            number, mask, _, size = _EVENT.unpack_from(events, at)
            at += _EVENT.size + size
            name = events[at - size : at].rstrip(b"\0")
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


def _checked(answer: int) -> int:
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer
