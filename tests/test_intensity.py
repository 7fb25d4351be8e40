"""The restart intensity: more than so many restarts within so many seconds."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsup._rules.intensity import Intensity

#: Quarters of seconds are exact in binary, so "within" is as sharp here as it is in the rule.
TIMES = st.lists(st.integers(0, 100), max_size=30).map(
    lambda quarters: [quarter / 4 for quarter in sorted(quarters)]
)


@given(TIMES, st.integers(0, 5), st.integers(1, 40))
def test_it_is_the_count_in_the_window(times: list[float], max_restarts: int, span: int) -> None:
    within = span / 4
    intensity = Intensity(max_restarts, within)
    for index, now in enumerate(times):
        count = sum(now - time <= within for time in times[: index + 1])
        assert intensity.record(now) == (count > max_restarts)


@pytest.mark.parametrize("within", [None, math.inf])
def test_a_window_without_end(within: float | None) -> None:
    intensity = Intensity(2, within)
    assert [intensity.record(now) for now in (0.0, 1e6, 1e9)] == [False, False, True]


def test_any_number_of_restarts() -> None:
    intensity = Intensity(None)
    assert not any(intensity.record(0.0) for _ in range(1000))


def test_as_otp_has_it_one_more_than_allowed_is_too_many() -> None:
    intensity = Intensity()
    assert [intensity.record(0.0) for _ in range(4)] == [False, False, False, True]


@pytest.mark.parametrize(
    ("max_restarts", "within", "error", "message"),
    [
        (-1, 5.0, ValueError, r"^max_restarts must be at least 0 restarts, not -1"),
        (2.5, 5.0, TypeError, r"^max_restarts must be a whole number of restarts, not 2\.5"),
        (1, 0, ValueError, r"^within must be more than zero seconds, not 0"),
        (1, math.nan, ValueError, r"^within must be more than zero seconds, not nan"),
        (1, "5s", TypeError, r"^within must be a number of seconds, not str"),
    ],
)
def test_bad_input(max_restarts: int, within: float, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Intensity(max_restarts, within)
