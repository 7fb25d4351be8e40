"""By what a service is known to be ready."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, TypeAlias

from attrs import field, frozen

from .number import is_seconds, is_whole
from .path import to_path
from .probe import Probe, to_probe

if TYPE_CHECKING:
    import os
    from collections.abc import Callable


@frozen
class Notified:
    """It says so itself: ``READY=1``, as in sd_notify(3)."""


@frozen
class RunningFor:
    """It has not ended for so many seconds, as supervisord's ``startsecs``.

    :param seconds: how many, less than the service's ``start_timeout``.
    """

    seconds: float = field(validator=is_seconds())


def _to_path(value: str | os.PathLike[str]) -> str:
    return to_path("FileExists.path", value)


@frozen
class FileExists:
    """The file is there, and was not before this start or has changed since.

    :param path: the file, in a directory that is there when the service starts. Taken from the
        directory that it is started in.
    """

    path: str = field(converter=_to_path)


def _to_pattern(value: str | re.Pattern[str]) -> re.Pattern[str]:
    text: object = value.pattern if isinstance(value, re.Pattern) else value
    if not isinstance(text, str):
        raise TypeError(f"OutputMatches.pattern must be a regular expression, not {value!r}")
    try:
        return re.compile(value)
    except re.error as error:
        raise ValueError(f"OutputMatches.pattern {value!r}: {error}") from None


@frozen
class OutputMatches:
    """A line of its output, standard error included, holds the regular expression.

    :param pattern: the regular expression, as :func:`re.search` has it.
    """

    pattern: re.Pattern[str] = field(converter=_to_pattern)


@frozen
class NewlineOn:
    """It writes a newline to this descriptor, as in s6's ``notification-fd``.

    :param fd: the number that the service has it as.
    """

    fd: int = field(default=3, validator=is_whole("(a descriptor)", least=3, most=1023))


Ready: TypeAlias = "Notified | RunningFor | FileExists | OutputMatches | NewlineOn | Probe"

_CONDITIONS = (Notified, RunningFor, FileExists, OutputMatches, NewlineOn)


def to_ready(value: Ready | Callable[[], object] | Literal["notify"] | None) -> Ready | None:
    """``value`` as one of these, or as a probe."""
    if value is None or isinstance(value, _CONDITIONS):
        return value
    if value == "notify":
        return Notified()
    try:
        return to_probe("ready", value)
    except TypeError:
        raise TypeError(
            "Service.ready must be 'notify', a FileExists, OutputMatches, RunningFor or NewlineOn, "
            f"a probe such as TcpProbe(8000), or a function, not {value!r}"
        ) from None
