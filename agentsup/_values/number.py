"""Checks of numbers, each with an error that names the argument."""

from __future__ import annotations

import math


def seconds(name: str, value: float | None, *, zero: bool = True) -> float | None:
    """``value`` as a finite number of seconds; None and infinity both mean no bound."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if math.isnan(value) or value < 0 or (value == 0 and not zero):
        least = "zero or more" if zero else "more than zero"
        raise ValueError(f"{name} must be {least} seconds, not {value!r}")
    return None if math.isinf(value) else float(value)


def whole(name: str, value: int | None, unit: str, *, least: int = 0) -> int | None:
    """``value`` as a whole number of at least ``least``; None means no bound."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number of {unit}, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least} {unit}, not {value!r}")
    return value
