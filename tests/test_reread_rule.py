"""What differs between what runs and what its file says now."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentsup._rules.reread import Changes, Plan, compare, supervisors_of

SUPERVISORS = ["s", "s/t", "u"]
PATHS = ["a", "b", "s/a", "s/t/a", "u/a", "u/b"]
NUMBERS = st.integers(0, 1)


def plans() -> st.SearchStrategy[Plan]:
    return st.builds(
        Plan,
        services=st.dictionaries(st.sampled_from(PATHS), NUMBERS),
        supervisors=st.dictionaries(st.sampled_from(SUPERVISORS), NUMBERS),
        daemon=st.dictionaries(st.sampled_from(["socket", "tcp"]), NUMBERS),
    )


def replaced(running: Plan, file: Plan, path: str) -> bool:
    """A supervisor above it is there before and after, and not the same."""
    return any(
        above in running.supervisors
        and above in file.supervisors
        and running.supervisors[above] != file.supervisors[above]
        for above in SUPERVISORS
        if path.startswith(f"{above}/")
    )


@given(plans(), plans())
def test_each_service_is_in_the_one_place_where_it_belongs(running: Plan, file: Plan) -> None:
    changes = compare(running, file)
    for path in PATHS:
        before, after = running.services.get(path), file.services.get(path)
        assert (path in changes.added) is (before is None and after is not None)
        assert (path in changes.removed) is (before is not None and after is None)
        both = before is not None and after is not None
        other = before != after or replaced(running, file, path)
        assert (path in changes.changed) is (both and other)
    assert set(changes.daemon_changed) == {
        key for key in ("socket", "tcp") if running.daemon.get(key) != file.daemon.get(key)
    }


@given(plans())
def test_nothing_differs_from_itself(plan: Plan) -> None:
    assert compare(plan, plan) == Changes()


@given(plans(), plans())
def test_they_come_in_the_order_of_their_file(running: Plan, file: Plan) -> None:
    changes = compare(running, file)
    for found, order in (
        (changes.added, file),
        (changes.removed, running),
        (changes.changed, file),
    ):
        assert list(found) == [path for path in order.services if path in found]


def test_a_change_of_a_supervisor_is_one_of_all_that_is_below_it() -> None:
    running = Plan({"a": 1, "s/a": 1, "s/t/b": 1, "st/c": 1}, {"s": 1, "s/t": 1, "st": 1})
    file = Plan(running.services, {"s": 2, "s/t": 1, "st": 1})
    assert compare(running, file) == Changes(changed=("s/a", "s/t/b"))


def test_what_a_path_is_below() -> None:
    assert list(supervisors_of("s/t/a")) == ["s/t", "s"]
    assert list(supervisors_of("a")) == []
