"""The numbers that calls carry: no two calls share one, at any depth of nesting."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsup._rules.tags import NO_TAGS, SPAN, TOP, UNLIMITED, TagRange, tag_range

DRAWS = st.integers(min_value=0, max_value=2**32 - 1)


def tag(tags: TagRange, index: int) -> int:
    """As the keeper deals them out."""
    assert 0 <= index < tags.capacity
    return tags.first - index * tags.stride


@st.composite
def nested(draw: st.DrawFn, levels: int = 3) -> list[tuple[TagRange, int]]:
    """The range of a keeper and the number of one of its calls, at each level of nesting."""
    found: list[tuple[TagRange, int]] = []
    own = UNLIMITED
    for _ in range(levels):
        tags = tag_range(own, draw(DRAWS))
        edges = st.sampled_from([0, tags.capacity - 1])
        own = tag(tags, draw(edges | st.integers(0, tags.capacity - 1)))
        found.append((tags, own))
    return found


@given(nested())
def test_what_a_call_starts_lies_within_the_interval_of_that_call(
    levels: list[tuple[TagRange, int]],
) -> None:
    for (outer, own), (inner, _) in itertools.pairwise(levels):
        last = tag(inner, inner.capacity - 1)
        assert own - outer.stride < last - inner.stride + 1 <= inner.first < own


@given(nested(), st.data())
def test_calls_of_one_keeper_do_not_overlap(
    levels: list[tuple[TagRange, int]], data: st.DataObject
) -> None:
    for tags, _ in levels:
        numbers = st.integers(0, tags.capacity - 1)
        one, other = data.draw(st.tuples(numbers, numbers).filter(lambda pair: pair[0] < pair[1]))
        assert tag(tags, one) - tags.stride >= tag(tags, other)


@given(nested(levels=1), DRAWS, DRAWS)
def test_keepers_of_one_host_share_all_their_numbers_or_none(
    levels: list[tuple[TagRange, int]], draw: int, other_draw: int
) -> None:
    for own in (UNLIMITED, levels[0][1]):
        one, other = tag_range(own, draw), tag_range(own, other_draw)
        if one != other:
            assert not one.covers(other.first)
            assert not one.covers(tag(other, other.capacity - 1))


@given(nested())
def test_a_host_is_told_apart_from_all_that_it_starts(
    levels: list[tuple[TagRange, int]],
) -> None:
    for (_, own), (inner, _) in itertools.pairwise(levels):
        assert not inner.covers(own)
        assert all(tags.covers(own) for tags, number in levels if number >= own)


@given(nested())
def test_the_limit_itself_never_binds_and_is_never_unlimited(
    levels: list[tuple[TagRange, int]],
) -> None:
    for tags, _ in levels:
        assert tag(tags, tags.capacity - 1) - tags.stride + 1 >= SPAN
        assert SPAN < tags.first < 2**63


@given(nested(), DRAWS)
def test_below_the_last_level_there_are_no_numbers(
    levels: list[tuple[TagRange, int]], draw: int
) -> None:
    assert tag_range(levels[-1][1], draw) == NO_TAGS


@pytest.mark.parametrize("limit", [0, 1, 200_000, SPAN - 1])
def test_a_limit_that_is_somebody_elses_gives_no_numbers(limit: int) -> None:
    assert tag_range(limit, 7) == NO_TAGS


def test_a_range_without_numbers_covers_nothing() -> None:
    assert not any(NO_TAGS.covers(number) for number in (None, UNLIMITED, 0, 1, SPAN, TOP))


@given(
    first=st.integers(50, 60),
    stride=st.integers(1, 4),
    capacity=st.integers(1, 5),
    number=st.integers(20, 70),
)
def test_covers_agrees_with_counting(first: int, stride: int, capacity: int, number: int) -> None:
    covered = {
        first - index * stride - below for index in range(capacity) for below in range(stride)
    }
    tags = TagRange(first, stride, capacity)
    assert tags.covers(number) == (number in covered)
    assert not tags.covers(None)
    assert not tags.covers(UNLIMITED)


def test_each_level_has_as_many_numbers_as_its_table_says() -> None:
    outer = tag_range(UNLIMITED, 12345)
    middle = tag_range(tag(outer, 77), 12345)
    inner = tag_range(tag(middle, 77), 12345)
    assert [(tags.stride, tags.capacity) for tags in (outer, middle, inner)] == [
        (2**24, 65_536),
        (2**8, 1_023),
        (1, 63),
    ]


LOWER_AND_TELL = """
import resource, sys
for number in map(int, sys.argv[1:]):
    resource.setrlimit(resource.RLIMIT_RTTIME, (number, number))
    assert resource.getrlimit(resource.RLIMIT_RTTIME) == (number, number), number
"""


def test_the_kernel_takes_the_numbers_of_all_levels_one_below_the_other() -> None:
    import resource

    own = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
    if own != UNLIMITED:
        pytest.skip("this process has a limit of its own")
    for draw, index in [(0, 0), (1, 1), (2**32 - 1, 62)]:
        numbers: list[int] = []
        for _ in range(3):
            tags = tag_range(own, draw)
            numbers += [tags.first, own := tag(tags, index)]
        own = UNLIMITED
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", LOWER_AND_TELL, *map(str, numbers)], check=True
        )
