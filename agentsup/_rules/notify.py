"""What a service says of itself: one datagram of ``NAME=value`` lines, see sd_notify(3).

There is no state here; each name is an event for the service that said it.

===================  ====================  =======================================================
name                 value                 what it says
===================  ====================  =======================================================
READY                1                     started, or done with reloading
RELOADING            1                     reloads, since MONOTONIC_USEC
STOPPING             1                     is on its way out
STATUS               text                  what it does, for people
ERRNO                0 – 4095              the error it fails with
EXIT_STATUS          0 – 255               the status it is about to exit with
MAINPID              a process ID          who is the main process from now on
WATCHDOG             1, trigger            it makes progress; it knows that it does not
WATCHDOG_USEC        microseconds          how often WATCHDOG=1 is to be expected from now on
EXTEND_TIMEOUT_USEC  microseconds          it needs that much longer to start, reload or stop
MONOTONIC_USEC       microseconds          CLOCK_MONOTONIC at a reload's beginning
FDSTORE              1                     keep the descriptors of this datagram, as FDNAME
FDSTOREREMOVE        1                     let go of those that are kept as FDNAME
FDNAME               ASCII without ``:``   their name; ``stored`` if they have none
FDPOLL               0                     keep them even when their other end is closed
BARRIER              1                     close the one descriptor of this datagram, which tells
                                           the sender that all before it has been read; stands alone
===================  ====================  =======================================================

The first valid line of a name counts, and of READY, RELOADING and STOPPING the last.  Names that
are not in the table belong to others.  What is wrong is complained of, and the rest still holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Callable

_UINT64_MAX = 2**64 - 1
_PID_MAX = 2**31 - 1
_ERRNO_MAX = 4095
_FDNAME_MAX = 255
_QUOTED = 80  # bytes of a line that a complaint repeats


@frozen
class Message:
    """One datagram, as far as it could be understood."""

    ready: bool = False
    reloading: bool = False
    stopping: bool = False
    status: str | None = None
    errno: int | None = None
    exit_status: int | None = None
    mainpid: int | None = None
    watchdog: Literal["ping", "trigger"] | None = None
    watchdog_usec: int | None = None
    extend_timeout_usec: int | None = None
    monotonic_usec: int | None = None
    fdstore: bool = False
    fdstoreremove: bool = False
    #: Not None with either of the two.
    fdname: str | None = None
    fdpoll: bool = True
    barrier: bool = False
    #: What was wrong with it, for the log.
    complaints: tuple[str, ...] = ()


def parse(data: bytes) -> Message:
    """The message in a datagram, whatever the sender has put into it."""
    data = data.removesuffix(b"\0")  # of senders that count it in
    if b"\0" in data:
        return Message(complaints=("ignored: there is a NUL in it",))
    found: dict[str, Any] = {}
    complaints: list[str] = []
    state = None
    lines = [line for line in data.split(b"\n") if line]
    for line in lines:
        name, assigns, value = line.partition(b"=")
        read = _READERS.get(name)
        if not (assigns and read):
            continue
        try:
            found.setdefault(name.decode().lower(), read(value))
        except ValueError as error:
            complaints.append(f"{line[:_QUOTED]!r} ignored: {error}")
            continue
        if name in _STATES:
            state = name
    for name in _STATES:
        found[name.decode().lower()] = name == state
    if "barrier" in found and len(lines) > 1:
        return Message(barrier=True, complaints=("BARRIER=1 has to stand alone: the rest ignored",))
    _settle_store(found, complaints)
    return Message(**found, complaints=tuple(complaints))


def _settle_store(found: dict[str, Any], complaints: list[str]) -> None:
    """A removal goes before an addition, and has to say what is to be removed."""
    if "fdstoreremove" in found:
        found.pop("fdstore", None)
        if "fdname" not in found:
            del found["fdstoreremove"]
            complaints.append("FDSTOREREMOVE=1 ignored: it needs FDNAME")
    elif "fdstore" in found:
        found.setdefault("fdname", "stored")


def _one(value: bytes) -> bool:
    if value != b"1":
        raise ValueError("the value has to be 1")
    return True


def _number(least: int, most: int) -> Callable[[bytes], int]:
    def read(value: bytes) -> int:
        if not (value.isdigit() and least <= int(value) <= most):  # no sign, space or underscore
            raise ValueError(f"the value has to be a number from {least} to {most}")
        return int(value)

    return read


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ValueError("the value has to be UTF-8") from None


def _watchdog(value: bytes) -> str:
    if value not in (b"1", b"trigger"):
        raise ValueError("the value has to be 1 or trigger")
    return "ping" if value == b"1" else "trigger"


def _poll(value: bytes) -> bool:
    if value not in (b"0", b"1"):
        raise ValueError("the value has to be 0 or 1")
    return value == b"1"


def _fdname(value: bytes) -> str:
    if not 0 < len(value) <= _FDNAME_MAX or any(c < 32 or c > 126 or c == 58 for c in value):
        raise ValueError(f"the value has to be 1 to {_FDNAME_MAX} ASCII characters, no colon")
    return value.decode()


_STATES = (b"READY", b"RELOADING", b"STOPPING")
_READERS: dict[bytes, Callable[[bytes], object]] = {
    **dict.fromkeys(_STATES, _one),
    b"STATUS": _text,
    b"ERRNO": _number(0, _ERRNO_MAX),
    b"EXIT_STATUS": _number(0, 255),
    b"MAINPID": _number(1, _PID_MAX),
    b"WATCHDOG": _watchdog,
    b"WATCHDOG_USEC": _number(0, _UINT64_MAX),
    b"EXTEND_TIMEOUT_USEC": _number(0, _UINT64_MAX),
    b"MONOTONIC_USEC": _number(0, _UINT64_MAX),
    b"FDSTORE": _one,
    b"FDSTOREREMOVE": _one,
    b"FDNAME": _fdname,
    b"FDPOLL": _poll,
    b"BARRIER": _one,
}
