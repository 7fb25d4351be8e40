"""The text of a file and what it says as TOML, or an error that says where it does not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .._errors import ConfigError, ConfigErrors

if TYPE_CHECKING:
    from typing import NoReturn

_MOST = 16 * 1024**2  # bytes
_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)")
#: More digits than Python makes a number of, for these could take hours.
_TOO_LONG = re.compile(r"[0-9][0-9_]{4200,}")


def read(file: str) -> str:
    """The text of the file."""
    try:
        data = read_bytes(file)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        fail(file, None, f"cannot be read: {reason}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        fail(file, line, f"is not UTF-8: byte {data[error.start]:#04x}")


def read_bytes(file: str) -> bytes:
    """What is in it, unless that cannot be what is meant."""
    with open(file, "rb") as stream:
        data = stream.read(_MOST + 1)
    if len(data) > _MOST:
        raise ValueError(f"it has more than {_MOST // 1024**2} MiB")
    return data


def parse(file: str, text: str) -> dict[str, Any]:
    """What the text says."""
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        position = _POSITION.search(str(error))
        line = int(position[1]) if position and position[1] else _last_line(text)
        fail(file, line, f"is not TOML: {_POSITION.sub('', str(error))}")
    except RecursionError:
        fail(file, 1, "is nested too deeply")
    except ValueError as error:
        number = _TOO_LONG.search(text)
        line = text.count("\n", 0, number.start()) + 1 if number else 1
        fail(file, line, f"has a number that is too long: {error}")


def _last_line(text: str) -> int:
    return text.rstrip("\n").count("\n") + 1


def fail(file: str, line: int | None, reason: str, key: str = "") -> NoReturn:
    """Raise it as the only error."""
    raise ConfigErrors([ConfigError(file, line, key, reason)]) from None
