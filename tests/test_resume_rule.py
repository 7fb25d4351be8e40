"""What is saved of a tree: there and back, what is nonsense, and what another boot makes of it."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsup._rules.restart import RestartRule, Series
from agentsup._rules.resume import SavedService, SavedTree, carry_over, from_json, to_json
from agentsup._values.restart import Ending, RestartPolicy

FAILED = Ending(1)

numbers = st.floats(allow_nan=False, allow_infinity=False)
times = st.none() | numbers
counts = st.integers(0, 10**9)
series = st.builds(Series, counts, counts, times, times, numbers)
services = st.builds(SavedService, st.booleans(), st.booleans(), series, times)
trees = st.builds(
    SavedTree,
    st.dictionaries(st.text(), services, max_size=3),
    st.dictionaries(st.text(), numbers, max_size=3),
    st.text(),
    numbers,
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


def places(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Of all that is in it."""
    inner = value.items() if isinstance(value, dict) else ()
    return [path, *(place for name, one in inner for place in places(one, (*path, name)))]


def replaced(value: Any, path: tuple[str, ...], new: Any) -> Any:
    return new if not path else {**value, path[0]: replaced(value[path[0]], path[1:], new)}


@given(trees)
def test_there_and_back(tree: SavedTree) -> None:
    assert from_json(json.loads(json.dumps(to_json(tree)))) == tree


@given(trees, st.data())
def test_what_is_read_is_good_or_refused(tree: SavedTree, data: st.DataObject) -> None:
    plain = to_json(tree)
    place = data.draw(st.sampled_from(places(plain)))
    nonsense = replaced(plain, place, data.draw(anything))
    with contextlib.suppress(ValueError):
        found = from_json(nonsense)  # then it is as good as what was there
        assert from_json(json.loads(json.dumps(to_json(found), allow_nan=False))) == found


@pytest.mark.parametrize(
    ("place", "new", "text"),
    [
        ((), ["web"], "it must be an object"),
        (("format",), 2, "its format is 2, not 1"),
        (("format",), True, r"it\['format'\] must be of type int"),
        (("services", "web"), None, r"services\['web'\] must be an object"),
        (("services", "web", "runs"), 1, r"services\['web'\]\['runs'\] must be of type bool"),
        (("services", "web", "series", "attempt"), -1, "must be 0 or more, not -1"),
        (("services", "web", "series", "since"), "soon", "must be a number, not 'soon'"),
        (("services", "web", "next_start"), float("inf"), "must be a finite number"),
        (("stamps", "nightly"), 10**400, r"stamps\['nightly'\] must be a finite number"),
    ],
)
def test_nonsense_is_named(place: tuple[str, ...], new: object, text: str) -> None:
    plain = to_json(SavedTree({"web": SavedService()}, {"nightly": 1.0}, "boot", 2.0))
    with pytest.raises(ValueError, match=text):
        from_json(replaced(plain, place, new))


TREE = SavedTree({"web": SavedService(series=Series(2, 5, 90.0, 80.0, 6.0), next_start=120.0)})
AS_IT_WAS = TREE.services
WITHOUT_TIMES = {"web": SavedService(series=Series(2, 5, None, None, 6.0))}


@pytest.mark.parametrize(
    ("then", "boot", "now", "expected"),
    [
        (("one", 100.0), "one", 100.0, AS_IT_WAS),
        (("one", 100.0), "one", 1e6, AS_IT_WAS),
        (("one", 100.0), "two", 200.0, WITHOUT_TIMES),
        (("one", 100.0), "one", 99.0, WITHOUT_TIMES),  # another clock
        (("", 100.0), "", 200.0, WITHOUT_TIMES),  # nobody knows
    ],
)
def test_times_are_of_one_boot(
    then: tuple[str, float], boot: str, now: float, expected: dict[str, SavedService]
) -> None:
    saved_boot, saved_now = then
    tree = SavedTree(TREE.services, {}, saved_boot, saved_now)
    assert carry_over(tree, boot, now) == expected


# --- the rule of restarts goes on ----------------------------------------------------------------


def a_rule() -> RestartRule:
    return RestartRule(RestartPolicy(backoff=lambda state: state.attempt_number, stable_after=10.0))


@given(st.lists(st.floats(0.1, 15.0), max_size=8), st.integers(0, 8))
def test_a_restored_rule_goes_on_as_the_first_would_have(runs: list[float], turn: int) -> None:
    """Wherever its host is killed."""
    one, other, now = a_rule(), a_rule(), 100.0
    for number, seconds in enumerate(runs):
        if number == turn:
            other, before = a_rule(), other
            other.restore(before.state())
        one.started(now)
        other.started(now)
        now += seconds
        verdict = one.ended(now, FAILED)
        assert other.ended(now, FAILED) == verdict
        now += verdict.delay
    assert one.state() == other.state()


@pytest.mark.parametrize(("lasted", "attempt"), [(9.0, 2), (10.0, 0)])
def test_a_run_counts_that_was_not_seen_to_its_end(lasted: float, attempt: int) -> None:
    rule = a_rule()
    for at in (0.0, 10.0):
        rule.started(at)
        rule.ended(at + 1.0, FAILED)
    rule.started(20.0)
    restored = a_rule()
    restored.restore(rule.state())
    restored.started(20.0 + lasted)
    assert (restored.attempt, restored.restarts) == (attempt, 2)
