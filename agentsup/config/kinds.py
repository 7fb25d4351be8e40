"""The kinds of values in a file: how each is read, and what its JSON Schema is.

A function here takes what TOML has given and returns the value, or raises TypeError or ValueError
with a reason that goes behind the name of the key.
"""

from __future__ import annotations

import math
import re
import signal as signals
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NewType

from attrs import field, frozen

from .._calls.privileges import CAPABILITIES
from .._values.escalation import to_signal
from .._values.units import parse_duration, parse_size
from .suggestions import meant

if TYPE_CHECKING:
    from typing import TypeGuard

# --- what fields are annotated with ---------------------------------------------------------------

Text = NewType("Text", str)
Duration = NewType("Duration", float)  # seconds; inf for any time
Size = NewType("Size", float)  # bytes; inf for any number
Count = NewType("Count", float)  # inf for any number
Cpus = NewType("Cpus", float)
Number = NewType("Number", float)
Mode = NewType("Mode", int)
Whole = NewType("Whole", int)
Flag = NewType("Flag", bool)
Names = NewType("Names", tuple[str, ...])
Words = NewType("Words", tuple[str, ...])
Codes = NewType("Codes", frozenset[int])
Account = NewType("Account", object)  # a name or a number
Capabilities = NewType("Capabilities", tuple[str, ...])
Accounts = NewType("Accounts", tuple[object, ...])
SignalName = NewType("SignalName", signals.Signals)
Signals = NewType("Signals", frozenset[signals.Signals])
Endings = NewType("Endings", tuple[object, ...])  # exit statuses and signals
Address = NewType("Address", str)  # or a port
Pattern = NewType("Pattern", str)
Rate = NewType("Rate", tuple[int, float])
Variables = NewType("Variables", dict[str, Any])
Headers = NewType("Headers", dict[str, str])
Tables = NewType("Tables", dict[str, Any])

_WHOLE_MAX = 2**63 - 1


def is_table(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def is_array(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def describe(value: Any) -> str:
    """What it is, and which, as far as that can be told to anybody."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else f"{value[:59]}…")
    if isinstance(value, int):
        return str(value) if abs(value) <= _WHOLE_MAX else "a number beyond 64 bits"
    if isinstance(value, float):
        return repr(value)
    if is_table(value):
        return "a table"
    return "an array" if is_array(value) else "a date or a time"


def wrong(what: str, value: Any) -> TypeError:
    return TypeError(f"must be {what}, not {describe(value)}")


def to_text(value: Any) -> str:
    if not isinstance(value, str):
        raise wrong("a string", value)
    if "\0" in value:
        raise ValueError("holds a NUL byte")
    return value


def to_whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _WHOLE_MAX:
        raise wrong("a whole number", value)
    return value


def _to_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        meaning = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}
        hint = meaning.get(value.lower()) if isinstance(value, str) else None
        error = wrong("true or false", value)
        raise error if hint is None else TypeError(f"{error}; did you mean {str(hint).lower()}?")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (
        isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _WHOLE_MAX
    )


def to_duration(value: Any) -> float:
    if isinstance(value, str):
        return math.inf if value.strip() == "infinity" else parse_duration(value)
    if not _is_number(value):
        raise wrong("a duration such as 5, '5s' or '1min 30s'", value)
    if not value >= 0:
        raise ValueError(f"must be zero or more seconds, not {value}")
    return float(value)


def _to_size(value: Any) -> int | float:
    if isinstance(value, str):
        return math.inf if value.strip() == "infinity" else parse_size(value)
    if isinstance(value, float) or not _is_number(value):
        raise wrong("a size such as 1024, '64K' or '512M'", value)
    if value < 0:
        raise ValueError(f"must be zero or more bytes, not {value}")
    return int(value)


def _to_count(value: Any) -> float:
    if value == "infinity":
        return math.inf
    count = to_whole(value)
    if count < 0:
        raise ValueError(f"must be zero or more, not {count}")
    return count


def _to_cpus(value: Any) -> float:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?%", value):
        return float(value[:-1]) / 100
    if not _is_number(value):
        raise wrong("a number of CPUs, such as 0.5 or '50%'", value)
    return float(value)


def _to_number(value: Any) -> float:
    if not _is_number(value):
        raise wrong("a number", value)
    return float(value)


def _to_mode(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"(0o)?[0-7]{1,4}", value):
        value = int(value, 8)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 0o777:
        raise wrong("permission bits, from '000' to '777', or 0o022", value)
    return value


def _all(convert: Callable[[Any], Any], what: str) -> Callable[[Any], tuple[Any, ...]]:
    def to_all(value: Any) -> tuple[Any, ...]:
        try:
            return tuple(map(convert, value if is_array(value) else [value]))
        except TypeError as error:
            raise TypeError(f"must be {what}; one of them {error}") from None

    return to_all


def _set_of(convert: Callable[[Any], Any], what: str) -> Callable[[Any], frozenset[Any]]:
    to_all = _all(convert, what)
    return lambda value: frozenset(to_all(value))


def _to_words(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        import shlex

        to_text(value)
        try:
            words = tuple(shlex.split(value))
        except ValueError as error:
            raise ValueError(f"cannot be split into words: {error}") from None
    elif is_array(value):
        words = tuple(map(_to_word, value))
    else:
        raise wrong("a list of words, or a string that is split into them", value)
    if not words or not words[0]:
        raise ValueError("is empty: it needs at least the program to run")
    return words


def _to_word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"must be a list of strings; write '{describe(value)}' in quotes")
    return to_text(value)


def _to_code(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 255:
        raise wrong("exit statuses, which are 0 to 255", value)
    return value


def to_account(value: Any) -> object:
    return value if isinstance(value, str) and value else to_whole(value)


def _to_signal(value: Any) -> signals.Signals:
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise wrong("a signal such as 'TERM'", value)
    try:
        return to_signal("", value)
    except ValueError:
        known = [number.name.removeprefix("SIG") for number in signals.Signals]
        hint = meant(str(value).upper().removeprefix("SIG"), known)
        raise ValueError(f"must be a signal such as 'TERM', not {describe(value)}{hint}") from None


def _to_ending(value: Any) -> object:
    return _to_signal(value) if isinstance(value, str) else _to_code(value)


def _to_address(value: Any) -> str:
    if isinstance(value, str) and value:
        return to_text(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 65_535:
        raise wrong("a port, or an address such as '127.0.0.1:8080'", value)
    return str(value)


def _to_capability(value: Any) -> str:
    name = to_text(value)
    if name.upper().removeprefix("CAP_") not in CAPABILITIES:
        hint = meant(name.upper().removeprefix("CAP_"), CAPABILITIES)
        raise ValueError(f"there is no capability {describe(name)}{hint} (see capabilities(7))")
    return name


def _to_pattern(value: Any) -> str:
    try:
        re.compile(to_text(value))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return str(value)


def _to_rate(value: Any) -> tuple[int, float]:
    count, slash, time = value.partition("/") if isinstance(value, str) else ("", "", "")
    if not slash or not re.fullmatch(r"\s*[0-9]{1,15}\s*", count):
        raise wrong("so many lines in a time, as '10000/30s'", value)
    # As in systemd, "1000/s" is in one second.
    bare = re.fullmatch(r"\s*[a-zµμ]+\s*", time)
    seconds = parse_duration(f"1{time.strip()}" if bare else time)
    if not int(count) or not seconds:
        raise ValueError(f"must be more than none, and in some time, not {value!r}")
    return int(count), seconds


def _to_variables(value: Any) -> dict[str, Any]:
    # Each of them is looked at where its value is.
    if not is_table(value):
        raise wrong("a table of variables, as {PORT = '8000'}", value)
    return value


def _to_headers(value: Any) -> dict[str, str]:
    if not is_table(value):
        raise wrong("a table of headers, as {Accept = 'text/plain'}", value)
    for name, text in value.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ValueError(f"{name!r} is no name of a header")
        if not isinstance(text, str) or not re.fullmatch(r"([!-~]([\t -~]*[!-~])?)?", text):
            raise ValueError(f"{name} must be a string that a header can hold")
    return value


def _to_tables(value: Any) -> dict[str, Any]:
    if not is_table(value):
        raise wrong("a table with a table for each name", value)
    return value


# --- all of them ----------------------------------------------------------------------------------


@frozen
class Kind:
    """How a kind of value is read, and its JSON Schema."""

    read: Callable[[Any], Any]
    schema: dict[str, Any] = field(factory=dict[str, Any])


def _or_several(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "array", "items": schema}]}


_STRING = {"type": "string"}
_INTEGER = {"type": "integer"}
_NUMBER = {"type": "number", "minimum": 0}
_STRINGS = {"type": "object", "additionalProperties": _STRING}
_CODE = {"type": "integer", "minimum": 0, "maximum": 255}
_ACCOUNT = {"type": ["string", "integer"]}

KINDS: dict[Any, Kind] = {
    Text: Kind(to_text, _STRING),
    Duration: Kind(to_duration, {"anyOf": [_NUMBER, _STRING]}),
    Size: Kind(_to_size, {"anyOf": [{"type": "integer", "minimum": 0}, _STRING]}),
    Count: Kind(_to_count, {"anyOf": [{"type": "integer", "minimum": 0}, {"const": "infinity"}]}),
    Cpus: Kind(_to_cpus, {"anyOf": [_NUMBER, {"type": "string", "pattern": "^[0-9.]+%$"}]}),
    Number: Kind(_to_number, {"type": "number"}),
    Mode: Kind(_to_mode, {"anyOf": [_INTEGER, {"type": "string", "pattern": "^(0o)?[0-7]+$"}]}),
    Whole: Kind(to_whole, _INTEGER),
    Flag: Kind(_to_flag, {"type": "boolean"}),
    Names: Kind(_all(to_text, "a list of names"), _or_several(_STRING)),
    Words: Kind(_to_words, _or_several(_STRING)),
    Codes: Kind(_set_of(_to_code, "a list"), _or_several(_CODE)),
    Account: Kind(to_account, _ACCOUNT),
    Accounts: Kind(_all(to_account, "a list of names or numbers"), _or_several(_ACCOUNT)),
    Capabilities: Kind(_all(_to_capability, "a list of names"), _or_several(_STRING)),
    SignalName: Kind(_to_signal, _ACCOUNT),
    Signals: Kind(_set_of(_to_signal, "a list"), _or_several(_ACCOUNT)),
    Endings: Kind(_all(_to_ending, "a list"), _or_several(_ACCOUNT)),
    Address: Kind(_to_address, _ACCOUNT),
    Pattern: Kind(_to_pattern, {"type": "string", "format": "regex"}),
    Rate: Kind(_to_rate, {"type": "string", "pattern": "^ *[0-9]+ */"}),
    Variables: Kind(_to_variables, _STRINGS),
    Headers: Kind(_to_headers, _STRINGS),
    Tables: Kind(_to_tables, {"type": "object"}),
}
