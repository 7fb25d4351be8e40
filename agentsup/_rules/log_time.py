"""Points in time as people write them; see systemd.time(7).

==============================  ================================================================
written                         meant
==============================  ================================================================
``now``                         now
``today yesterday tomorrow``    midnight, of that day
``10 min ago``, ``-1h``         so long before now
``10min``                       the same: a log is of the past
``+1h``                         so long after now
``@1700000000.5``               seconds since the epoch
``2026-11-24 10:00[:00[.5]]``   that time; ``T`` may stand between, and a day of the week before
``2026-11-24``                  midnight
``10:00[:00[.5]]``              today
``… UTC``, ``Z``, ``+02:00``    after a date or a time: in that zone
==============================  ================================================================

Without a zone it is the local one.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, tzinfo

from .._values.units import parse_duration

_DAYS = {"yesterday": -1, "today": 0, "tomorrow": 1}
# On average, as systemd counts them.
_LONG = {"M": 2629800.0, "month": 2629800.0, "y": 31557600.0, "year": 31557600.0}
_LONG_TERM = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(M|y|months?|years?)(?![a-zA-Z])")
_TIMESTAMP = re.compile(
    r"""(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*,?\s+)?
    (?:(?P<date>[0-9]{4}-[0-9]{1,2}-[0-9]{1,2})(?:(?:\s+|T)(?=[0-9])|(?=\s|$)))?
    (?P<time>[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?)?
    (?:\s*(?P<zone>Z|UTC|[+-][0-9]{2}:?[0-9]{2}))?""",
    re.VERBOSE | re.IGNORECASE,
)


def parse_time(text: str, now: float) -> float:
    """Seconds since the epoch.

    :raises ValueError: it is no time; the message says what one looks like.
    """
    text = text.strip()
    try:
        if text.startswith("@"):
            return datetime.fromtimestamp(float(text[1:])).timestamp()  # within what can be shown
        if text == "now":
            return now
        moment = _timestamp(text, now)
        # What can be no date is reckoned from now.
        return now + _from_now(text) if moment is None else moment.timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(
            f"{text!r} is not a time: write '10 min ago', -1h, today, yesterday, "
            "'2026-11-24 10:00', 10:00, @1700000000, …"
        ) from error


def _timestamp(text: str, now: float) -> datetime | None:
    word, _, zone_name = text.partition(" ")
    if word in _DAYS:
        zone = _zone(zone_name)
        midnight = datetime.fromtimestamp(now, zone).replace(hour=0, minute=0, second=0)
        return midnight.replace(microsecond=0) + timedelta(days=_DAYS[word])
    match = _TIMESTAMP.fullmatch(text)
    if not match or not (match["date"] or match["time"]):
        return None
    zone = _zone(match["zone"])
    date = match["date"] or datetime.fromtimestamp(now, zone).strftime("%Y-%m-%d")
    clock, _, fraction = (match["time"] or "0:00").partition(".")
    form = "%Y-%m-%d %H:%M:%S" if clock.count(":") == 2 else "%Y-%m-%d %H:%M"
    moment = datetime.strptime(f"{date} {clock}", form)
    return moment.replace(microsecond=int(fraction.ljust(6, "0")), tzinfo=zone)


def _zone(name: str | None) -> tzinfo | None:
    if not name:
        return None
    return datetime.strptime("+0000" if name.upper() == "UTC" else name, "%z").tzinfo


def _from_now(text: str) -> float:
    duration = text.removesuffix("ago").strip()
    sign = -1.0
    if duration == text and text[:1] in ("+", "-"):
        sign = 1.0 if text[0] == "+" else -1.0
        duration = text[1:]
    return sign * parse_duration(_LONG_TERM.sub(_seconds, duration))


def _seconds(term: re.Match[str]) -> str:
    return f"{float(term[1]) * _LONG[term[2].rstrip('s')]:.6f}s"
