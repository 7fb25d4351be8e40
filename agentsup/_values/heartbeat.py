"""By what the progress of a process is known. One that makes none is ended, though it lives."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeAlias

from attrs import Attribute, field, frozen
from attrs.validators import optional

from .number import is_seconds


def _check_path(_: Any, attribute: Attribute[Any], value: Any) -> None:
    if not isinstance(value, (str, bytes, os.PathLike)):
        raise TypeError(
            f"FileHeartbeat.{attribute.name} must be a str, bytes or a path object, "
            f"not {type(value).__name__}"
        )


def _check_function(_: Any, attribute: Attribute[Any], value: Any) -> None:
    if not callable(value):
        raise TypeError(f"CallableHeartbeat.{attribute.name} must be callable, not {value!r}")


def _check_interval(of: CallableHeartbeat, _: Attribute[Any], value: float) -> None:
    if value >= of.max_age:
        raise ValueError(
            f"CallableHeartbeat.interval must be less than max_age, {of.max_age!r}, not {value!r}"
        )


@frozen
class NotifyHeartbeat:
    """It sends ``WATCHDOG=1`` (sd_notify(3)), as :func:`agentsup.notify.watchdog` does.

    Any process of the tree may. ``WATCHDOG_USEC`` in its environment says how often it has to.

    :param interval: the most seconds between two.
    """

    interval: float = field(validator=is_seconds())

    @property
    def bound(self) -> float:
        return self.interval


@frozen
class FileHeartbeat:
    """The modification time of a file changes, however that comes about.

    Only changes count: a file that is older than the process, or has a time in the future, is no
    progress.

    :param path: the file, which need not exist yet, in a directory that does. Taken from the
        directory that the process is started in.
    :param max_age: the most seconds since the file was modified.
    """

    path: str | bytes | os.PathLike[str] = field(validator=_check_path)
    max_age: float = field(validator=is_seconds())

    @property
    def bound(self) -> float:
        return self.max_age


@frozen
class OutputHeartbeat:
    """It prints something, on either stream.

    :param max_silence: the most seconds without.
    """

    max_silence: float = field(validator=is_seconds())

    @property
    def bound(self) -> float:
        return self.max_silence


@frozen
class CallableHeartbeat:
    """A function says so. Takes an event loop.

    :param function: called without an argument in the event loop, async or not, from the start on;
        must not block. True is progress. Raising is none, and ``result.escalation`` then says why.
    :param max_age: the most seconds since it was last true.
    :param interval: the seconds from one answer to the next question; a third of ``max_age`` by
        default.
    """

    function: Callable[[], object] = field(validator=_check_function)
    max_age: float = field(validator=is_seconds())
    interval: float | None = field(
        default=None, kw_only=True, validator=optional([is_seconds(), _check_interval])
    )

    @property
    def bound(self) -> float:
        return self.max_age


Heartbeat: TypeAlias = NotifyHeartbeat | FileHeartbeat | OutputHeartbeat | CallableHeartbeat
