"""What a service keeps with its supervisor while it restarts: ``FDSTORE=1`` of sd_notify(3)."""

from __future__ import annotations

import os
import select
import stat
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@frozen
class _Kept:
    name: str
    fd: int
    poll: bool


class FdStore:
    """The descriptors of one service.

    :param limit: how many it may keep.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: list[_Kept] = []

    def add(self, name: str, fds: Iterable[int], *, poll: bool = True) -> int:
        """Keep ``fds``, which are the store's to close from now on, whatever comes of them.

        A socket that is kept already is not kept twice.

        :param poll: let go of them when their other end is closed.
        :return: how many found no room.
        """
        self._drop_hung_up()
        refused = 0
        for fd in fds:
            known = _same_socket(fd, [kept.fd for kept in self._kept])
            if not known and len(self._kept) < self._limit:
                self._kept.append(_Kept(name, fd, poll))
            else:
                os.close(fd)
                refused += not known
        return refused

    def remove(self, name: str) -> None:
        """Let go of all that are kept by this name."""
        self._drop(lambda kept: kept.name == name)

    def entries(self) -> list[tuple[str, int]]:
        """Names and descriptors, oldest first, to be handed over now."""
        self._drop_hung_up()
        return [(kept.name, kept.fd) for kept in self._kept]

    def close(self) -> None:
        """Let go of everything. May be repeated."""
        self._drop(lambda _: True)

    def _drop_hung_up(self) -> None:
        poll = select.poll()
        for kept in self._kept:
            if kept.poll:
                poll.register(kept.fd, 0)  # POLLHUP and POLLERR are always told
        gone = {fd for fd, _ in poll.poll(0)}
        self._drop(lambda kept: kept.fd in gone)

    def _drop(self, chosen: Callable[[_Kept], bool]) -> None:
        for kept in filter(chosen, self._kept[:]):
            self._kept.remove(kept)
            os.close(kept.fd)


def _same_socket(fd: int, others: Iterable[int]) -> bool:
    """Sockets only: what else is the same file may be open in another way, or at another place."""
    found = os.fstat(fd)
    return stat.S_ISSOCK(found.st_mode) and any(
        os.path.samestat(found, os.fstat(other)) for other in others
    )
