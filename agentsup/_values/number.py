"""Checks of numbers, each with an error that names the argument."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from attrs import Attribute

    Validator: TypeAlias = Callable[[Any, Attribute[Any], Any], None]


def seconds(
    name: str, value: float | None, *, zero: bool = True, unit: str = "seconds"
) -> float | None:
    """``value`` as a finite number of seconds; None and infinity both mean no bound."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of {unit}, not {type(value).__name__}")
    if value != value or value < 0 or (value == 0 and not zero):
        least = "zero or more" if zero else "more than zero"
        raise ValueError(f"{name} must be {least} {unit}, not {value!r}")
    try:
        return None if math.isinf(value) else float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large: {value!r} {unit}") from None


def whole(
    name: str, value: int | None, unit: str, *, least: int = 0, most: int | None = None
) -> int | None:
    """``value`` as a whole number from ``least`` to ``most``; None means no bound."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number of {unit}, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least} {unit}, not {value!r}")
    if most is not None and value > most:
        raise ValueError(f"{name} must be at most {most} {unit}, not {value!r}")
    return value


def is_seconds(*, zero: bool = False) -> Validator:
    """For a field that is a finite number of seconds."""

    def check(of: object, attribute: Attribute[Any], value: float | None) -> None:
        name = f"{type(of).__name__}.{attribute.name}"
        if seconds(name, value, zero=zero) is None:
            raise ValueError(f"{name} must be a finite number of seconds, not {value!r}")

    return check


def is_whole(unit: str, *, least: int = 0, most: int | None = None) -> Validator:
    """For a field that is a whole number, and not None."""

    def check(of: object, attribute: Attribute[Any], value: int | None) -> None:
        name = f"{type(of).__name__}.{attribute.name}"
        if whole(name, value, unit, least=least, most=most) is None:
            raise TypeError(f"{name} must be a whole number of {unit}, not None")

    return check
