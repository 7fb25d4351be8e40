"""Sizes and durations as people write them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsup._values.units import parse_duration, parse_size

SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1, "": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1000", 1000),
        ("64K", 65536),
        ("64k", 65536),
        ("512M", 512 * 1024**2),
        ("512MiB", 512 * 1024**2),
        ("1.5G", 1536 * 1024**2),
        (" 1 G ", 1024**3),
        ("7B", 7),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "512M"),
        ("G", "512M"),
        ("-1", "512M"),
        ("1GB", "leave out the B"),
        ("1.5", "whole number"),
        ("8E", "no limit"),
        ("1e3", "512M"),
        ("nan", "512M"),
    ],
)
def test_what_is_no_size_is_told_how_to_be_one(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint) as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)


@given(st.integers(0, 7), st.sampled_from("KMGTPE"))
def test_a_size_is_its_number_times_a_power_of_1024(number: int, unit: str) -> None:
    assert parse_size(f"{number}{unit}") == number * 1024 ** ("KMGTPE".index(unit) + 1)


@given(st.integers(0, 2**63 - 1))
def test_every_number_of_bytes_is_exact(number: int) -> None:
    assert parse_size(str(number)) == number


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("5", 5),
        ("2.5", 2.5),
        (".5", 0.5),
        ("5s", 5),
        ("2min", 120),
        ("100ms", 0.1),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("1h 30min", 5400),
        ("1h30min", 5400),
        ("1 h 30", 3630),
        (" 1day ", 86400),
        ("2 weeks", 1209600),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", " ", "s", "-1", "5 parsecs", "1M", "1h,30min", "1e3", "nan", "inf", "1..5", "5s!"]
)
def test_what_is_no_duration_is_told_how_to_be_one(text: str) -> None:
    with pytest.raises(ValueError, match="1h 30min") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(sorted(SECONDS))), min_size=1),
    st.sampled_from(["", " "]),
)
def test_terms_add_up(terms: list[tuple[int, str]], between: str) -> None:
    # "1" "2" side by side would be 12: a term without a unit needs its space.
    text = " ".join(f"{number}{between}{unit}" for number, unit in terms)
    assert parse_duration(text) == pytest.approx(sum(n * SECONDS[unit] for n, unit in terms))


@given(st.text(alphabet="0123456789.KMGTPEiBhmsdµ -+e") | st.text())
def test_any_text_is_a_finite_number_or_a_value_error(text: str) -> None:
    for parse in (parse_size, parse_duration):
        try:
            value = parse(text)
        except ValueError:
            continue
        assert value >= 0
        assert math.isfinite(value)
