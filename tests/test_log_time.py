"""Points in time as people write them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsup._rules.log_time import parse_time

HOUR, DAY = 3600.0, 86400.0


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A zone with summer time, by its rule: there may be no data base of zones."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


NOW = 1795773600.25  # 2026-11-27 11:00:00.25 in Berlin


def local(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("now", NOW),
        ("@1700000000", 1700000000.0),
        ("@1700000000.5", 1700000000.5),
        ("10 min ago", NOW - 600),
        ("10min", NOW - 600),
        ("-10min", NOW - 600),
        ("+10min", NOW + 600),
        ("1h 30min ago", NOW - 1.5 * HOUR),
        ("90", NOW - 90),
        ("2 weeks ago", NOW - 14 * DAY),
        ("1 month ago", NOW - 30.4375 * DAY),
        ("2M", NOW - 60.875 * DAY),
        ("2m", NOW - 120),
        ("1y", NOW - 365.25 * DAY),
        ("today", local("2026-11-27T00:00+01:00")),
        ("yesterday", local("2026-11-26T00:00+01:00")),
        ("tomorrow", local("2026-11-28T00:00+01:00")),
        ("today UTC", local("2026-11-27T00:00+00:00")),
        ("2026-11-24", local("2026-11-24T00:00+01:00")),
        ("2026-11-24 10:00", local("2026-11-24T10:00+01:00")),
        ("2026-07-24 10:00", local("2026-07-24T10:00+02:00")),
        ("  2026-11-24T10:00:05.25  ", local("2026-11-24T10:00:05.25+01:00")),
        ("Tue 2026-11-24 10:00", local("2026-11-24T10:00+01:00")),
        ("2026-11-24 10:00 UTC", local("2026-11-24T10:00+00:00")),
        ("2026-11-24T10:00:00Z", local("2026-11-24T10:00+00:00")),
        ("2026-11-24 10:00 +05:30", local("2026-11-24T10:00+05:30")),
        ("09:30", local("2026-11-27T09:30+01:00")),
        ("09:30:15", local("2026-11-27T09:30:15+01:00")),
    ],
)
def test_times(text: str, meant: float) -> None:
    assert parse_time(text, NOW) == pytest.approx(meant, abs=1e-5)


def test_a_day_may_have_25_hours() -> None:
    monday = local("2026-10-26T12:00+01:00")
    assert parse_time("today", monday) - parse_time("yesterday", monday) == 25 * HOUR


@pytest.mark.parametrize(
    "text",
    ["", "ago", "-", "+", "@", "@nan", "@1e99", "2026-13-01", "2026-02-30", "25:00", "10:61", "mon",
     "UTC", "tomorrow maybe", "-1h ago", "10 fortnights ago", "2026-11-24 10", "2026-11-24x"],
)  # fmt: skip
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time: write '10 min ago'"):
        parse_time(text, NOW)


@given(st.text(alphabet="0123456789-+:.@TZ agonowhmyMs", max_size=24) | st.text(max_size=12))
def test_anything_is_a_time_or_said_not_to_be(text: str) -> None:
    try:
        moment = parse_time(text, NOW)
    except ValueError as error:
        if "is not a time" not in str(error):
            raise
    else:
        assert isinstance(moment, float)


@given(st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1)))
def test_what_python_writes_is_read(moment: datetime) -> None:
    assert (
        parse_time(moment.isoformat(" ", "seconds"), NOW)
        == moment.replace(microsecond=0).timestamp()
    )
