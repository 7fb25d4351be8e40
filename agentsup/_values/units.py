"""Sizes and durations as people write them: ``512M``, ``1h 30min``; see systemd.time(7)."""

from __future__ import annotations

import re

_SIZES = {letter: 1024**power for power, letter in enumerate("BKMGTPE")}
_SIZE_MAX = 2**63 - 1  # the kernel's own bound for a file and a limit

_DURATIONS = {
    name: seconds
    for seconds, names in (
        (1e-6, "us µs μs usec"),  # the micro sign and the Greek letter
        (1e-3, "ms msec"),
        (1.0, "s sec second seconds"),
        (60.0, "m min minute minutes"),
        (3600.0, "h hr hour hours"),
        (86400.0, "d day days"),
        (604800.0, "w week weeks"),
    )
    for name in names.split()
}

_NUMBER = r"([0-9]{1,19}(?:\.[0-9]{1,19})?|\.[0-9]{1,19})"
_SIZE = re.compile(rf"\s*{_NUMBER}\s*([BKMGTPE]?)(?:iB)?\s*", re.IGNORECASE)
_TERM = re.compile(rf"\s*{_NUMBER}\s*([a-zµμ]*)\s*")


def parse_size(text: str) -> int:
    """Bytes: a whole number, or one with K, M, G, T, P or E, each 1024 times the one before.

    :raises ValueError: it is not a size; the message says what one looks like.
    """
    match = _SIZE.fullmatch(text)
    if not match:
        hint = " (K, M, G count in steps of 1024: leave out the B)" if _decimal(text) else ""
        raise ValueError(f"{text!r} is not a size{hint}: write bytes, or 64K, 512M, 1.5G, …")
    number, unit = match.groups()
    factor = _SIZES[unit.upper() or "B"]
    if factor == 1 and "." in number:
        raise ValueError(f"{text!r} is not a whole number of bytes")
    # Whole numbers stay exact beyond 2^53.
    size = int(float(number) * factor) if "." in number else int(number) * factor
    if size > _SIZE_MAX:
        raise ValueError(f"{text!r} is more than any limit can be: leave it out for no limit")
    return size


def _decimal(text: str) -> bool:
    return re.fullmatch(rf"\s*{_NUMBER}\s*[KMGTPE]B\s*", text, re.IGNORECASE) is not None


def parse_duration(text: str) -> float:
    """Seconds: a number, or terms with units that add up, as in ``1h 30min`` or ``100ms``.

    :raises ValueError: it is not a duration; the message says what one looks like.
    """
    total, at = 0.0, 0
    while at < len(text) or not at:
        match = _TERM.match(text, at)
        if not match or (match[2] or "s") not in _DURATIONS:
            raise ValueError(
                f"{text!r} is not a duration: write seconds, or 5s, 2min, 100ms, '1h 30min', …"
            )
        total += float(match[1]) * _DURATIONS[match[2] or "s"]
        at = match.end()
    return total
