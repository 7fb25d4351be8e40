"""What holds the tree of one call, whatever the level: the call's side of it.

A call makes its descriptors, then goes through ``prepare``, ``connect`` and ``start``; asks for
``news`` whenever ``fd`` is readable or ``due`` has come; and lets go with ``close``, always.
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Protocol

from .._values.result import Usage

if TYPE_CHECKING:
    from .._errors import AgentsupError
    from .._values.result import Leftover


class News(enum.Enum):
    """What has happened. What there is to know of it is in the hold's attributes then."""

    STARTED = enum.auto()
    FAILED = enum.auto()  # it does not run: ``failure``
    EXITED = enum.auto()  # the main process has ended, and nothing else is there
    LEFT = enum.auto()  # it has ended, and others live on
    EMPTY = enum.auto()  # those others have ended by themselves
    KILLED = enum.auto()  # what was there was killed: ``leftovers``
    FOLLOWED = enum.auto()  # the answer to ``follow``: ``followed``
    STRANGER = enum.auto()  # the other answer: there is no such process in the tree
    ENDED = enum.auto()  # what was followed has ended: ``followed_status``
    LOST = enum.auto()  # nothing more will be heard, and why: ``error``


class Epoll(Protocol):
    """The part of select.epoll that a call uses, for reading only."""

    def fileno(self) -> int: ...
    def register(self, fd: int, eventmask: int, /) -> None: ...
    def unregister(self, fd: int, /) -> None: ...
    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]: ...
    def close(self) -> None: ...


class Timer(Protocol):
    """A deadline in the same epoll."""

    def set(self, deadline: float) -> None: ...
    def close(self) -> None: ...


class Hold:
    """The tree of one call. Nothing here waits."""

    pid: int | None = None
    #: of the main process, as wait(2) has it, and what it used; final when nothing is left of it.
    status: int | None = None
    usage = Usage()
    leftovers: tuple[Leftover, ...] = ()
    leftover_count = 0
    limits_reached: tuple[str, ...] = ()
    #: The process that is looked after besides the main one, and how it ended, None if unknown.
    followed = 0
    followed_status: int | None = None
    #: A process that may say for the main one how that is, where it cannot itself.
    voice: int | None = None
    #: The number of an error, and the step at which it came.
    failure = (0, "")
    error: AgentsupError | None = None
    #: The last news has been told.
    over = False
    #: In ``epoll`` already, as is the timer.
    fd = -1
    due = math.inf
    epoll: Epoll
    timer: Timer

    def prepare(self, fds: list[int], targets: bytes, *, eager: bool) -> None:
        """Make the request: the new process is to get ``fds`` as the numbers in ``targets``.

        Descriptors that have to stay open until it has started are added to the list. With
        ``eager``, STARTED is told as soon as it is true.
        """
        raise NotImplementedError

    def connect(self) -> bool:
        """Have an epoll and a timer; whether these are new ones. BlockingIOError if not now."""
        raise NotImplementedError

    def start(self, fds: list[int]) -> bool:
        """Start it; False if that takes a new connection. BlockingIOError if not now."""
        raise NotImplementedError

    def room(self) -> int:
        """A descriptor that becomes writable when another try is worth it; close it."""
        raise NotImplementedError

    def news(self) -> News | None:
        raise NotImplementedError

    def ask(self) -> None:
        """Whether it has started is to be among the next news."""

    def signal_main(self, number: int) -> None:
        """ProcessLookupError if it has ended."""
        raise NotImplementedError

    def signal_tree(self, number: int) -> None:
        raise NotImplementedError

    def kill(self) -> None:
        """SIGKILL to the tree, to a fixpoint; then KILLED is told."""
        raise NotImplementedError

    def follow(self, pid: int) -> None:
        """Look after this process of the tree too, in place of the last such one.

        FOLLOWED is told, and its end as ENDED; or STRANGER, and nothing has changed.
        """
        raise NotImplementedError

    def give_up(self) -> None:
        """It is lost: do what can be done without hearing of it."""

    def members(self) -> list[int]:
        """Who is of the tree now; zombies may be among them."""
        raise NotImplementedError

    def adopted(self) -> tuple[Leftover, ...]:
        """What of it lives on now."""
        return ()

    def owns(self, pid: int) -> bool:
        """Whether this process is of the tree, as far as can be told of one that may have ended."""
        return pid == self.pid

    def close(self) -> None:
        """Let go of everything; what still runs is killed. May be repeated."""
        raise NotImplementedError


def text(word: bytes) -> str:
    return word.decode("utf-8", "backslashreplace")  # it can be printed and written as JSON


def words(argv: bytes) -> tuple[str, ...]:
    return tuple(text(word) for word in argv.split(b"\0"))
