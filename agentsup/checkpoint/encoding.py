"""What identifies a step, and how its result is kept: JSON, that comes back as it was."""

from __future__ import annotations

import functools
import hashlib
import json
from typing import TYPE_CHECKING, Any

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

_canonical = functools.partial(json.dumps, sort_keys=True, separators=(",", ":"), allow_nan=False)


@frozen
class Identity:
    """Two steps with the same ``text`` are one."""

    name: str
    inputs: str  # the digest, or nothing
    key: str | None

    @property
    def text(self) -> str:
        # A digest has no blank, so that a key cannot be taken for one with a name.
        return f"key {self.key}" if self.key is not None else f"{self.inputs} {self.name}"


def identify(name: str, inputs: Any, key: str | None) -> Identity:
    """Which step that is: the one of ``key``, or the one of that name with those inputs."""
    _check_text("name", name)
    if key is not None:
        _check_text("key", key)
        return Identity(name, "", key)
    return Identity(name, digest(inputs), None)


def _check_text(argument: str, value: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a str, not {type(value).__name__}")
    if not value:
        raise ValueError(f"{argument} is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{argument} cannot be encoded: {error}") from None


def call_inputs(fn: object, args: Sequence[object]) -> list[object]:
    """What ``fn(*args)`` gets; a functools.partial's own arguments, too."""
    keywords: dict[str, object] = {}
    if isinstance(fn, functools.partial):
        args, keywords = [*fn.args, *args], fn.keywords
    return [list(args), keywords]


def digest(inputs: Any) -> str:
    try:
        text = _canonical(inputs)
    except (TypeError, ValueError, RecursionError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"the inputs of a step must be JSON ({error}): give inputs= that are, or a key="
        ) from None
    return hashlib.sha256(text.encode()).hexdigest()


def encode_result(value: Any) -> str:
    """``value`` as JSON; TypeError or ValueError if it would not come back."""
    try:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
        back = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"the result of a step must be JSON: {error}") from None
    if back != value:
        raise TypeError(
            "the result of a step must be JSON that comes back as it was, with lists for tuples "
            f"and str for the keys of a dict; not {value!r:.200}"
        )
    return text
