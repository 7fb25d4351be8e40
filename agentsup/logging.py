"""Log lines that machines read, and that hold no secrets.

The library logs by :mod:`logging` below ``agentsup``, and configures nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from ._rules.redaction import REDACTED, is_secret, redact, redact_also, redact_argv
from ._tool_call import current as current_tool_call

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["json_lines", "redact_also"]

_DEPTH = 8  # of a value that is shown as JSON
_ITEMS = 1000  # in all of a line
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def json_lines() -> logging.Formatter:
    """A formatter that makes one JSON object a line of each record, and redacts secrets.

    It has ``ts``, ``level``, ``logger`` and ``msg``; ``task_id``, the name of the current task;
    ``call_id`` and ``tool`` of a call or of the :func:`agentsup.tool_call` block; ``trace_id`` and
    ``span_id`` of OpenTelemetry's current span; the ``exception`` and ``stack``; and whatever
    ``extra=`` has given. What there is none of is left out. It never raises.
    """
    return _JsonLines()


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        head: dict[str, Any] = {
            "ts": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "msg": _message(record),
            "task_id": _task(record),
            **_tool_call(record),
            **_span(),
            "exception": self._exception(record),
            "stack": record.stack_info,
        }
        line: dict[str, Any] = {name: value for name, value in head.items() if value is not None}
        for name, value in vars(record).items():
            if name not in _STANDARD and name not in _OF_CALL:
                line[f"{name}_" if name in line else name] = value
        return json.dumps(_Plain().mapping(line, _DEPTH))

    def _exception(self, record: logging.LogRecord) -> str | None:
        try:
            return self.formatException(record.exc_info) if record.exc_info else record.exc_text
        except Exception:
            return _text(record.exc_info)


def _time(record: logging.LogRecord) -> str:
    try:
        time = datetime.fromtimestamp(record.created, UTC)
    except Exception:
        return _text(record.created)
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    """As ``record.getMessage()``, but what is a command or has a name is redacted as such."""
    message, args = _text(record.msg), record.args
    try:
        if not args:
            return message
        if isinstance(args, Mapping):
            return message % {name: _secret(name, args[name]) for name in args}
        return message % tuple(map(_command, args))
    except Exception:
        return f"{message} {_text(args)}"


def _task(record: logging.LogRecord) -> str | None:
    """The name of the task that logs: no event loop is imported to find that out."""
    name: str | None = getattr(record, "taskName", None)  # by asyncio, since Python 3.12
    asyncio, trio = sys.modules.get("asyncio"), sys.modules.get("trio")
    if name is None and asyncio:
        with contextlib.suppress(Exception):
            name = asyncio.current_task().get_name()
    if name is None and trio:
        with contextlib.suppress(Exception):
            name = trio.lowlevel.current_task().name
    return name


_OF_CALL = ("call_id", "tool")


def _tool_call(record: logging.LogRecord) -> dict[str, Any]:
    call = current_tool_call()
    inherited = (call.id, call.name) if call else (None, None)
    return {
        name: getattr(record, name, value) for name, value in zip(_OF_CALL, inherited, strict=True)
    }


def _span() -> dict[str, str]:
    trace = sys.modules.get("opentelemetry.trace")
    if trace is not None:
        with contextlib.suppress(Exception):
            context = trace.get_current_span().get_span_context()
            if context.is_valid:
                return {
                    "trace_id": format(context.trace_id, "032x"),
                    "span_id": format(context.span_id, "016x"),
                }
    return {}


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


def _clean(text: str) -> str:
    """Redacted, and what UTF-8 can have."""
    return redact(text).encode("utf-8", "backslashreplace").decode()


def _secret(name: object, value: Any) -> Any:
    """The value of what has this name, or what is shown in its place."""
    harmless = value is None or isinstance(value, bool)
    return REDACTED if not harmless and is_secret(_text(name)) else value


def _command(value: Any) -> Any:
    """The value; if it is a command, without the secrets that only its words together tell of."""
    if not isinstance(value, (list, tuple)):
        return value
    words = cast("Sequence[Any]", value)
    if not all(isinstance(word, str) for word in words):
        return words
    return list(redact_argv(words)) if isinstance(value, list) else redact_argv(words)


class _Plain:
    """Makes JSON types of values; of very many or very deep ones, of the first."""

    def __init__(self) -> None:
        self._left = _ITEMS

    def mapping(self, values: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        items = itertools.islice(values.items(), self._left + 1)
        return {
            _clean(_text(name)): self.value(_secret(name, value), depth) for name, value in items
        }

    def value(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if self._left < 0:
            return "…"
        try:
            return self._value(value, depth)
        except Exception:
            return f"<{type(value).__name__}>"

    def _value(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if (type(value) is int and value.bit_length() <= 64) or (
            type(value) is float and math.isfinite(value)
        ):
            return value
        if isinstance(value, (bytes, bytearray)):
            return _clean(value.decode("utf-8", "backslashreplace"))
        if depth and isinstance(value, Mapping):
            return self.mapping(value, depth - 1)  # pyright: ignore[reportUnknownArgumentType] -- any
        if depth and isinstance(value, (list, tuple, set, frozenset)):
            items = list(itertools.islice(cast("Iterable[Any]", value), self._left + 1))
            return [self.value(item, depth - 1) for item in _command(items)]
        return _clean(_text(value))
