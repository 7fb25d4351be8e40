"""Checks of numbers, each with an error that names the argument."""

from __future__ import annotations

import math


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
