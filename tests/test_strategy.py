"""The rule of a supervisor: OTP's, scenario by scenario, and what holds after any events at all."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsup._rules.intensity import Intensity
from agentsup._rules.strategy import Child, Plan, SupervisorRule, affected, shuts_down
from agentsup._values.restart import wanted

sys.path.insert(0, str(Path(__file__).parent))

import otp_scenarios as otp
from otp_scenarios import SCENARIOS, Scenario


def the_rule(scenario: Scenario) -> SupervisorRule:
    rule = SupervisorRule(
        scenario.strategy,
        Intensity(scenario.max_restarts, scenario.within),
        scenario.auto_shutdown,
    )
    declare = rule.check if scenario.strategy == "simple_one_for_one" else rule.add
    for child in scenario.children:
        declare(Child(child.name, child.restart, child.significant))
    return rule


class Driver:
    """Carries out the plans of a rule with children that are but names."""

    def __init__(self, scenario: Scenario) -> None:
        self.rule = the_rule(scenario)
        self.children = {child.name: child for child in scenario.children}
        self.running: set[str] = set()
        if scenario.strategy != "simple_one_for_one":
            self.running.update(self.children)
        self.then = "goes_on"

    def carry_out(self, event: otp.Event) -> str:
        """What the supervisor does then, as the table writes it."""
        try:
            plan = self.plan(event)
        except ValueError:
            return "refused"
        self.then = plan.then
        for name in plan.stop:
            self.running.remove(name)  # it did run
        for name in plan.start:
            assert name not in self.running
            self.running.add(name)
        return " ".join([f"-{name}" for name in plan.stop] + [f"+{name}" for name in plan.start])

    def plan(self, event: otp.Event) -> Plan:
        rule = self.rule
        match event:
            case otp.Exit(name, normal, at):
                self.running.remove(name)
                return rule.ended(name, at, again=wanted(self.children[name].restart, normal))
            case otp.Start(child):
                rule.add(Child(child.name, child.restart, child.significant))
                self.children[child.name] = child
                return Plan(start=(child.name,))
            case otp.Restart(name):
                rule.started(name)
                return Plan(start=(name,))
            case otp.Terminate(name):
                rule.stopped(name)
                return Plan(stop=(name,) if name in self.running else ())
            case otp.Delete(name):
                rule.remove(name)
                return Plan()
            case otp.Stop():
                return rule.stop()


@pytest.mark.parametrize(
    "scenario", [pytest.param(one, id=f"{one.strategy}: {one.name}") for one in SCENARIOS]
)
def test_what_otp_does(scenario: Scenario) -> None:
    if scenario.ends == "refused":
        with pytest.raises(ValueError, match=r"^significant: '.*' "):
            the_rule(scenario)
        return
    driver = Driver(scenario)
    assert tuple(map(driver.carry_out, scenario.events)) == scenario.expected
    assert driver.then == scenario.ends
    assert driver.then == "goes_on" or not driver.running


def test_the_table_is_as_large_as_it_has_to_be_and_no_scenario_is_there_twice() -> None:
    names = Counter((one.strategy, one.name) for one in SCENARIOS)
    assert len(SCENARIOS) >= 36
    assert names.most_common(1)[0][1] == 1


# --- any events -------------------------------------------------------------------------------

CHILDREN = st.tuples(st.sampled_from(["permanent", "transient", "temporary"]), st.booleans()).map(
    lambda pair: (pair[0], pair[1] and pair[0] != "permanent")
)


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    kinds = draw(st.lists(CHILDREN, min_size=1, max_size=5))
    children = tuple(otp.Child(name, *kind) for name, kind in zip("abcde", kinds, strict=False))
    return Scenario(
        name="any",
        strategy=draw(st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"])),
        children=children,
        auto_shutdown=draw(st.sampled_from(["any_significant", "all_significant"])),
        max_restarts=draw(st.integers(0, 4)),
    )


def an_event(draw: st.DrawFn, driver: Driver) -> otp.Event:
    name = draw(st.sampled_from(sorted(driver.children)))
    if name in driver.running:
        return draw(st.sampled_from([otp.ends(name), otp.fails(name), otp.Terminate(name)]))
    return draw(st.sampled_from([otp.Restart(name), otp.Delete(name), otp.Terminate(name)]))


@given(scenarios(), st.data())
def test_whatever_happens(scenario: Scenario, data: st.DataObject) -> None:
    driver = Driver(scenario)
    order = list(driver.children)
    for _ in range(data.draw(st.integers(1, 12))):
        before = set(driver.running)
        event = an_event(data.draw, driver)
        done = driver.carry_out(event).replace("refused", "").split()
        stops = [order.index(step[1:]) for step in done if step[0] == "-"]
        starts = [order.index(step[1:]) for step in done if step[0] == "+"]
        assert stops == sorted(stops, reverse=True)
        assert starts == sorted(starts)
        assert not any(driver.children[order[index]].restart == "temporary" for index in starts)
        if driver.then != "goes_on":
            assert not driver.running
            return
        if isinstance(event, otp.Exit):
            # Whoever ran and is not temporary runs on, but for one that has ended for good.
            kept = {name for name in before if driver.children[name].restart != "temporary"}
            assert kept - driver.running <= {event.child}


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
def test_what_is_heard_of_a_child_that_was_to_be_stopped_changes_nothing(strategy: str) -> None:
    rule = SupervisorRule(strategy, Intensity(0))  # type: ignore[arg-type] -- parametrized
    for name in "ab":
        rule.add(Child(name, "temporary"))
    assert rule.stop() == Plan(("b", "a"), then="shuts_down")
    assert rule.ended("a", 0.0, again=True) == Plan()
    assert rule.stop() == Plan(then="shuts_down")


def test_a_child_that_waits_for_its_restart_is_called_off_for_its_siblings_sake() -> None:
    rule = SupervisorRule("rest_for_one")
    for name in "ab":
        rule.add(Child(name))
    assert rule.ended("b", 0.0, again=True) == Plan(start=("b",))  # in a while
    assert rule.ended("a", 0.0, again=True) == Plan(("b",), ("a", "b"))


def test_a_child_that_gave_up_starts_with_its_siblings_unless_it_was_removed() -> None:
    rule = SupervisorRule("one_for_all")
    for name in "abc":
        rule.add(Child(name))
    assert rule.ended("a", 0.0, again=False) == Plan()
    assert rule.ended("b", 0.0, again=False) == Plan()
    rule.remove("a")
    assert rule.ended("c", 0.0, again=True) == Plan(start=("b", "c"))


def test_the_parts_alone() -> None:
    assert affected("rest_for_one", ("a", "b", "c", "d"), "b", {"c"}) == Plan(
        ("d", "c"), ("b", "d")
    )
    assert shuts_down("any_significant", {"a"})
    assert shuts_down("all_significant", ())
    assert not shuts_down("all_significant", {"a"})
    assert not shuts_down("never", ())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: SupervisorRule("one_for_many"),
            r"^strategy must be one of 'one_for_one', .*_many",
        ),
        (
            lambda: SupervisorRule(auto_shutdown="always"),
            r"^auto_shutdown must be one of 'never', ",
        ),
        (
            lambda: Child("a", "sometimes"),
            r"^restart must be one of 'permanent', .* not 'sometimes'",
        ),
        (lambda: SupervisorRule().stopped("a"), r"^there is no child 'a'$"),
    ],
)
def test_bad_input(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator] -- parametrized
