"""Order among siblings: what a manual page of systemd says, and what holds for any units."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsup._rules.ordering import (
    Unit,
    check,
    conflicting,
    fails_with,
    stop_order,
    to_restart,
    to_start,
    to_stop,
    waits_for,
)

Units = dict[str, Unit]


def some(**relations: dict[str, Any]) -> Units:
    units = {name: Unit(name, **given) for name, given in relations.items()}
    check(units)
    return units


SHOP = some(
    web={"after": ["db", "cache"], "requires": ["db"], "wants": ["cache"]},
    cache={"after": ["log"]},
    db={"after": ["log"], "requires": ["log"]},
    log={},
    admin={"after": ["web"], "part_of": ["web"]},
    batch={"requires": ["web"], "after": ["web"]},
    repair={"conflicts": ["db"]},
)


def test_what_starts_with_it_and_in_which_order() -> None:
    assert to_start(SHOP, ["web"]) == ("log", "cache", "db", "web")
    assert to_start(SHOP, ["log"]) == ("log",)
    assert to_start(SHOP, ["admin"]) == ("admin",)  # part_of and after start nothing
    assert to_start(SHOP, ["batch", "repair"]) == ("log", "cache", "db", "web", "batch", "repair")


def test_what_stops_with_it_and_in_which_order() -> None:
    assert to_stop(SHOP, "log") == ("batch", "admin", "web", "db", "log")
    assert to_stop(SHOP, "db") == ("batch", "admin", "web", "db")
    assert to_stop(SHOP, "cache") == ("cache",)  # to want is not to require
    assert to_stop(SHOP, "admin") == ("admin",)
    assert to_restart(SHOP, "db") == ("db", "web", "admin", "batch")


def test_what_it_waits_for_is_only_what_starts_too() -> None:
    assert waits_for(SHOP, "web", ["log", "cache", "db", "web"]) == {"cache", "db"}
    assert waits_for(SHOP, "web", ["log", "web"]) == frozenset()
    assert waits_for(SHOP, "repair", SHOP) == frozenset()


def test_what_cannot_start_when_it_has_failed_to() -> None:
    assert fails_with(SHOP, "log") == {"db", "web", "batch"}
    assert fails_with(SHOP, "cache") == frozenset()
    assert fails_with(SHOP, "web") == {"batch"}  # admin is but after it, and a part of it


def test_without_after_a_requirement_gives_no_order_and_fails_nobody() -> None:
    units = some(a={"requires": ["b"]}, b={"requires": ["a"]})
    assert to_start(units, ["b"]) == ("a", "b")
    assert waits_for(units, "a", units) == frozenset()
    assert fails_with(units, "b") == frozenset()
    assert to_stop(units, "b") == ("b", "a")


def test_after_alone_counts_also_where_the_one_between_is_left_out() -> None:
    units = some(a={}, b={"after": ["a"]}, c={"after": ["b"]})
    assert stop_order(units, ["a", "c", "b"]) == ("c", "b", "a")
    assert to_start(units, ["c", "a"]) == ("a", "c")


def test_conflicts_go_both_ways() -> None:
    assert conflicting(SHOP, "db") == {"repair"}
    assert conflicting(SHOP, "repair") == {"db"}
    assert conflicting(SHOP, "web") == frozenset()


def test_a_long_chain_is_no_deep_recursion() -> None:
    names = [f"s{index}" for index in range(1200)]
    units = {names[0]: Unit(names[0])}
    for before, name in itertools.pairwise(names):
        units[name] = Unit(name, after=(before,), requires=(before,))
    check(units)
    assert to_start(units, names[-1:]) == tuple(names)
    assert to_stop(units, names[0]) == tuple(reversed(names))


@pytest.mark.parametrize(
    ("relations", "message"),
    [
        (
            {"web": {"after": ["cahce"]}, "cache": {}},
            r"^after of .web.: .*; did you mean .cache.\?$",
        ),
        ({"web": {"wants": ["mail"]}}, r"^wants of 'web': there is no 'mail'; add it, or take it"),
        ({"web": {"part_of": ["web"]}}, r"^part_of: 'web' names itself$"),
        (
            {"a": {"after": ["b"]}, "b": {"after": ["a"]}},
            r"^after: (a -> b -> a|b -> a -> b) is a cycle, in which each waits for the next; ",
        ),
        (
            {"x": {}, "a": {"after": ["x", "c"]}, "b": {"after": ["a"]}, "c": {"after": ["b"]}},
            r"^after: (a -> c -> b -> a|b -> a -> c -> b|c -> b -> a -> c) is a cycle",
        ),
        (
            {"a": {"requires": ["b"], "conflicts": ["b"]}, "b": {}},
            r"^conflicts: 'a' conflicts with 'b', but 'a' starts both \(by requires or wants\)$",
        ),
        (
            {"a": {"requires": ["b"]}, "b": {"wants": ["c"]}, "c": {"conflicts": ["a"]}},
            r"^conflicts: 'c' conflicts with 'a', but 'a' starts both",
        ),
        (
            {"a": {"wants": ["b", "c"]}, "b": {}, "c": {"conflicts": ["b"]}},
            r"^conflicts: 'c' conflicts with 'b', but 'a' starts both",
        ),
    ],
)
def test_what_can_never_work(relations: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        some(**relations)


@pytest.mark.parametrize(
    ("relation", "message"),
    [
        ({"after": "db"}, r"^after must be a list of names, as in \['db'\], not 'db'$"),
        ({"conflicts": 5}, r"^conflicts must be a list of names, .* not 5$"),
        ({"wants": [None]}, r"^wants must be names, not None$"),
    ],
)
def test_what_is_no_list_of_names(relation: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Unit("web", **relation)


# --- any units --------------------------------------------------------------------------------

NAMES = "abcdefg"


@st.composite
def any_units(draw: st.DrawFn) -> Units:
    """Without a cycle: each is only after such as come before it in some hidden order."""
    hidden = draw(st.permutations(NAMES))
    units: Units = {}
    for name in NAMES:
        others = sorted(set(NAMES) - {name})
        before = sorted(hidden[: hidden.index(name)])
        subset = st.lists(st.sampled_from(others), max_size=2, unique=True)
        after = st.lists(st.sampled_from(before), unique=True) if before else st.just([])
        units[name] = Unit(name, draw(after), draw(subset), draw(subset), draw(subset))
    check(units)
    return units


SUBSETS = st.sets(st.sampled_from(NAMES))


def in_order(units: Units, names: Collection[str]) -> bool:
    return all(
        second not in units[first].after for first, second in itertools.combinations(names, 2)
    )


@given(any_units(), SUBSETS)
def test_each_starts_after_those_it_is_after_and_stops_before_them(
    units: Units, names: set[str]
) -> None:
    starting = to_start(units, names)
    assert names <= set(starting)
    assert len(starting) == len(set(starting))
    assert in_order(units, starting)
    for name in starting:
        assert {*units[name].requires, *units[name].wants} <= set(starting)
        assert waits_for(units, name, starting) <= set(starting[: starting.index(name)])
    assert stop_order(units, starting) == starting[::-1]
    assert not names or set(starting) == set().union(*(to_start(units, [one]) for one in names))


@given(any_units(), st.sampled_from(NAMES))
def test_those_that_go_with_it(units: Units, name: str) -> None:
    stopping = to_stop(units, name)
    assert in_order(units, stopping[::-1])
    assert to_restart(units, name) == stopping[::-1]
    for other, unit in units.items():
        with_it = bool({*unit.requires, *unit.part_of} & set(stopping))
        assert (other in stopping) == (with_it or other == name)
    failing = fails_with(units, name)
    assert name not in failing
    assert failing <= set(stopping)
    for other, unit in units.items():
        reached = set(unit.requires) & set(unit.after) & (failing | {name})
        assert (other in failing) == bool(reached)


@given(any_units(), SUBSETS)
def test_what_is_in_no_order_stays_as_it_was_given(units: Units, names: set[str]) -> None:
    loose = {name: Unit(name, (), unit.requires) for name, unit in units.items()}
    assert to_start(loose, names) == tuple(sorted(to_start(loose, names)))
