"""What may be given by itself, or as one of several."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast


def to_tuple(value: object) -> tuple[Any, ...]:
    """All that was given; what is not several is one, and so is a str."""
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return tuple(cast("Any", value))
    return (value,)
