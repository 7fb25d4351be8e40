"""A child has ended: which of its siblings stop and start, and does the supervisor go on?

The rules are those of OTP's supervisor(3).

=================================  ========================================================
event                              what follows
=================================  ========================================================
ended, wanted again                the intensity is exceeded: stop all, *fails*
ended, wanted again                stop and start what the strategy affects, itself included
ended for good, significant        any_significant, or the last active: stop all, *shuts down*
ended for good                     nothing; the strategy does not concern it
stopped or started by hand         nothing; no restart is counted, nothing shuts down
the supervisor is to stop          stop all, *shuts down*
=================================  ========================================================

==================  ================================  ===================================
strategy            stopped, the last started first   started, in start order
==================  ================================  ===================================
one_for_one         nothing                           the child
simple_one_for_one  nothing                           the child
one_for_all         every other one                   every one
rest_for_one        those after it                    the child and those after it
==================  ================================  ===================================

A child that is down keeps its place, and starts with the others when a sibling's failure starts
them.  A temporary one has no place to keep: it is forgotten as soon as it is down, whoever stopped
it.  So is every child of a simple_one_for_one, whose template is all that there is to keep.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, TypeAlias

from attrs import define, field, frozen

from .._values.restart import Restart, one_of
from .intensity import Intensity

Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one", "simple_one_for_one"]
AutoShutdown: TypeAlias = Literal["never", "any_significant", "all_significant"]
Then: TypeAlias = Literal["goes_on", "shuts_down", "fails"]


@frozen
class Plan:
    """What is to be done: ``stop`` one after another, then ``start``."""

    stop: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    #: What becomes of the supervisor once that is done.
    then: Then = "goes_on"


@frozen
class Child:
    """What a supervisor has to know of a child."""

    name: str
    restart: Restart = "permanent"
    significant: bool = False

    def __attrs_post_init__(self) -> None:
        one_of("restart", self.restart, Restart)
        if self.significant and self.restart == "permanent":
            raise ValueError(
                f"significant: {self.name!r} is permanent, so it never ends for good; "
                "give it restart='transient' or 'temporary'"
            )


def affected(
    strategy: Strategy, children: Sequence[str], failed: str, temporary: Collection[str] = ()
) -> Plan:
    """What the failure of one child does to all of them; ``children`` are in start order.

    The failed one is down already; the ``temporary`` ones are stopped, but not started again.
    """
    if strategy == "one_for_all":
        group = children
    elif strategy == "rest_for_one":
        group = children[children.index(failed) :]
    else:
        group = (failed,)
    return Plan(
        stop=tuple(name for name in reversed(group) if name != failed),
        start=tuple(name for name in group if name not in temporary),
    )


def shuts_down(policy: AutoShutdown, active: Collection[str]) -> bool:
    """Whether the supervisor ends because a significant child has ended for good, by itself.

    :param active: the significant children that run or are about to.
    """
    return policy == "any_significant" or (policy == "all_significant" and not active)


@define
class SupervisorRule:
    """The children of one supervisor. Feed it events; then carry out the plan that it returns.

    It takes a plan for done at once, so what is heard of a child that was to be stopped says
    nothing new. A child that waits for its restart is active: it is stopped by calling it off.
    """

    strategy: Strategy = "one_for_one"
    intensity: Intensity = field(factory=Intensity)
    auto_shutdown: AutoShutdown = "never"
    _children: dict[str, Child] = field(factory=dict[str, Child], init=False)  # in start order
    _active: set[str] = field(factory=set[str], init=False)

    def __attrs_post_init__(self) -> None:
        one_of("strategy", self.strategy, Strategy)
        one_of("auto_shutdown", self.auto_shutdown, AutoShutdown)

    # --- by hand ------------------------------------------------------------------------------

    def check(self, child: Child) -> None:
        """Raise ValueError if this supervisor cannot have it, nor any child made from it."""
        if child.significant and self.auto_shutdown == "never":
            raise ValueError(
                f"significant: {child.name!r} cannot shut down a supervisor whose auto_shutdown "
                "is 'never'; make that 'any_significant' or 'all_significant'"
            )

    def add(self, child: Child) -> None:
        """A new child starts, as the last one."""
        self.check(child)
        if child.name in self._children:
            raise ValueError(f"name: there is a child {child.name!r} already")
        self._children[child.name] = child
        self._active.add(child.name)

    @property
    def children(self) -> tuple[str, ...]:
        """Those that have a place, in start order."""
        return tuple(self._children)

    @property
    def active(self) -> frozenset[str]:
        """Those that run or are about to."""
        return frozenset(self._active)

    def start(self, child: Child) -> None:
        """A child starts, a new one or one that was down."""
        if child.name in self._children:
            self.started(child.name)
        else:
            self.add(child)

    def started(self, name: str) -> None:
        """A child that was down starts."""
        self._known(name)
        if name in self._active:
            raise ValueError(f"{name!r} runs already")
        self._active.add(name)

    def stopped(self, name: str) -> None:
        """A child was stopped, or its restart was called off."""
        self._known(name)
        self._down(name)

    def remove(self, name: str) -> None:
        """Forget a child that is down."""
        self._known(name)
        if name in self._active:
            raise ValueError(f"{name!r} runs; stop it first")
        del self._children[name]

    def arrange(self, order: Sequence[str]) -> None:
        """This is the start order from now on; it names them all, and maybe others."""
        self._children = {name: self._children[name] for name in order if name in self._children}

    def stop(self) -> Plan:
        """The supervisor is to stop."""
        return self._stop_all("shuts_down")

    # --- what happens -------------------------------------------------------------------------

    def ended(self, name: str, now: float, *, again: bool) -> Plan:
        """A child has ended by itself; ``again``: its own rule wants it restarted.

        One that is never to start again is to be removed, too.
        """
        if name not in self._active:
            return Plan()  # it was being stopped
        if not again:
            return self._ended_for_good(self._children[name])
        if self.intensity.record(now):
            self._down(name)
            return self._stop_all("fails")
        children = self._children
        temporary = {child.name for child in children.values() if child.restart == "temporary"}
        plan = affected(self.strategy, tuple(children), name, temporary)
        stop = tuple(filter(self._active.__contains__, plan.stop))
        for sibling in stop:
            self._down(sibling)
        self._active.update(plan.start)
        return Plan(stop, plan.start)

    # --- how ----------------------------------------------------------------------------------

    def _ended_for_good(self, child: Child) -> Plan:
        self._down(child.name)
        active = [name for name in self._active if self._children[name].significant]
        if child.significant and shuts_down(self.auto_shutdown, active):
            return self._stop_all("shuts_down")
        return Plan()

    def _stop_all(self, then: Then) -> Plan:
        stop = tuple(filter(self._active.__contains__, reversed(self._children)))
        for name in stop:
            self._down(name)
        return Plan(stop, then=then)

    def _down(self, name: str) -> None:
        self._active.discard(name)
        if self._children[name].restart == "temporary" or self.strategy == "simple_one_for_one":
            del self._children[name]

    def _known(self, name: str) -> None:
        if name not in self._children:
            raise ValueError(f"there is no child {name!r}")
