"""What the control API takes and answers, as values; a request that is none of them is refused.

From these classes the OpenAPI description is made (``openapi.py``), so it cannot say anything else.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import field, fields, frozen
from cattrs import ClassValidationError, Converter
from cattrs.errors import ForbiddenExtraKeysError

from .tree import Status

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


def _said(text: str) -> dict[str, str]:
    """For the description."""
    return {"description": text}


# --- requests -----------------------------------------------------------------------------------


@frozen
class Operate:
    """Which services, and whether to wait until it is done."""

    names: tuple[str, ...] = field(
        metadata=_said("Paths, globs ('workers/*'), supervisors or '@group'; '*' is all.")
    )
    wait: bool = field(
        default=True, metadata=_said("Answer when it is done, and not when it has begun.")
    )
    timeout: float | None = field(
        default=None, metadata=_said("Seconds to wait; the operation itself goes on.")
    )


@frozen
class SendSignal:
    """A signal for the main processes."""

    names: tuple[str, ...] = field(metadata=_said("As for start."))
    signal: str = field(metadata=_said("A name, with or without SIG, or a number: 'HUP', '15'."))


@frozen
class WaitReady:
    """Which services, and for how long."""

    names: tuple[str, ...] = field(
        default=(), metadata=_said("As for start; none is all that are to run.")
    )
    timeout: float | None = field(default=None, metadata=_said("Seconds to wait."))


@frozen
class Nothing:
    """There is nothing to say: ``{}``, or no body at all."""


# --- answers ------------------------------------------------------------------------------------


@frozen
class Daemon:
    """The process that runs the services."""

    pid: int
    uptime: float
    config: str
    version: str
    failed: bool = field(metadata=_said("The supervisor at the root has given up."))


@frozen
class StatusAnswer:
    """The daemon and its services."""

    daemon: Daemon
    services: tuple[Status, ...]


@frozen
class Result:
    """What came of an operation for one service."""

    name: str
    ok: bool
    error: str | None
    state: str = field(metadata=_said("As it is now."))


@frozen
class Results:
    """One for each service that was meant."""

    results: tuple[Result, ...]


@frozen
class Differences:
    """Between the file and what runs."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    daemon_changed: tuple[str, ...] = field(
        metadata=_said("Keys that take a restart of the daemon.")
    )


@frozen
class FileError:
    """One that the file has."""

    file: str
    line: int | None
    key: str
    reason: str


@frozen
class FileErrors:
    """All that is wrong with the file."""

    error: str
    errors: tuple[FileError, ...]


@frozen
class Node:
    """A service, or a supervisor with what is below it."""

    name: str
    path: str
    kind: str = field(metadata=_said("'service' or 'supervisor'."))
    state: str | None = field(metadata=_said("Of a service."))
    pid: int | None
    children: tuple[Node, ...]


@frozen
class Error:
    """Why a request was refused."""

    error: str
    unknown: tuple[str, ...] | None = field(
        default=None, metadata=_said("Names that match nothing.")
    )
    fields: dict[str, str] | None = field(
        default=None, metadata=_said("What is wrong with each field.")
    )


@frozen
class Event:
    """A service has changed its state. The first line is ``{"hello": …}``, of the daemon."""

    service: str
    state: str
    previous: str
    reason: str
    time: float = field(metadata=_said("Seconds since the epoch."))
    pid: int | None


@frozen
class LogRecord:
    """Something that a service has printed; more keys may follow."""

    ts: float = field(metadata=_said("Seconds since the epoch."))
    service: str
    pid: int
    stream: str
    priority: int
    call_id: str
    message: str


# --- reading requests ---------------------------------------------------------------------------


class BadRequest(Exception):
    """It is not what was expected. :attr:`fields` has a reason for each field that is wrong."""

    def __init__(self, reasons: dict[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
        self.fields = reasons


def parse(body: bytes, to: type[T]) -> T:
    """The request in ``body``."""
    try:
        said: Any = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError) as error:
        raise BadRequest({"body": f"is no JSON: {error}"}) from None
    if not isinstance(said, dict):
        raise BadRequest({"body": "must be an object"})
    try:
        return _converter.structure(said, to)
    except ClassValidationError as error:
        raise BadRequest(dict(_reasons(error, to))) from None


def _reasons(error: ClassValidationError, to: type[Any]) -> Iterator[tuple[str, str]]:
    noted, others = error.group_exceptions()
    for exception, note in noted:
        yield note.name, "is missing" if isinstance(exception, KeyError) else str(exception)
    for other in others:
        if isinstance(other, ForbiddenExtraKeysError):
            known = ", ".join(attribute.name for attribute in fields(to)) or "nothing"
            for name in sorted(other.extra_fields):
                yield name, f"is unknown; known is {known}"


_LONGEST = 10**9  # seconds: more than that, event loops cannot take


def _is_seconds(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 <= value <= _LONGEST)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(name, str)
        for name in value  # pyright: ignore[reportUnknownVariableType] -- JSON
    )


# By itself it would make a str of anything, and a list of a str.
_converter = Converter(forbid_extra_keys=True)


def _strictly(kind: Any, what: str, right: Callable[[Any], bool]) -> None:
    def structure(value: Any, _: Any) -> Any:
        if not right(value):
            raise TypeError(f"must be {what}, not {json.dumps(value)[:60]}")
        return value

    if isinstance(kind, type):
        _converter.register_structure_hook(kind, structure)
    else:
        _converter.register_structure_hook_func(partial(operator.eq, kind), structure)


_strictly(str, "a string", lambda value: isinstance(value, str))
_strictly(bool, "true or false", lambda value: isinstance(value, bool))
_strictly(float | None, "a number of seconds", _is_seconds)
_strictly(tuple[str, ...], "a list of strings", _is_names)
