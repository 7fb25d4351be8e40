"""In which order do siblings start and stop, and who goes with whom?  As in systemd.unit(5).

=============  ====================================================================================
relation       what it means for the unit that has it
=============  ====================================================================================
``after``      where both start, it waits until the other one has, or has failed to; where both
               stop, it stops first. It starts nothing
``requires``   the other one starts with it; it stops and restarts with the other one. Only with
               ``after`` as well does it not start when the other one fails to
``wants``      the other one starts with it, and that is all
``part_of``    it stops and restarts with the other one
``conflicts``  the two do not run together: to start one is to stop the other
=============  ====================================================================================

Stops are those that somebody asks for: one that ends by itself takes nobody with it.  Restarts are
also those that follow from a service's own rule or from the strategy.  The units are a mapping
from their names, in the order in which they were given.
"""

from __future__ import annotations

import graphlib
import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import Converter, field, frozen

if TYPE_CHECKING:
    from attrs import Attribute


def _to_names(value: Iterable[str], attribute: Attribute[Any]) -> tuple[str, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"{attribute.name} must be a list of names, as in ['db'], not {value!r}")
    names = tuple(value)
    for name in names:
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] -- input
            raise TypeError(f"{attribute.name} must be names, not {name!r}")
    return names


def _names() -> tuple[str, ...]:
    return field(default=(), converter=Converter(_to_names, takes_field=True))


@frozen
class Unit:
    """A service, as its siblings' order has it."""

    name: str
    after: tuple[str, ...] = _names()
    requires: tuple[str, ...] = _names()
    wants: tuple[str, ...] = _names()
    part_of: tuple[str, ...] = _names()
    conflicts: tuple[str, ...] = _names()

    @property
    def names(self) -> frozenset[str]:
        """Of the others that it has any relation to."""
        return frozenset(name for relation in _RELATIONS for name in getattr(self, relation))


Units: TypeAlias = Mapping[str, Unit]

_RELATIONS = ("after", "requires", "wants", "part_of", "conflicts")


def check(units: Units) -> None:
    """Raise ValueError for what can never work: it names the units, the relation and the fix."""
    for unit in units.values():
        for relation in _RELATIONS:
            for other in getattr(unit, relation):
                if other == unit.name:
                    raise ValueError(f"{relation}: {other!r} names itself")
                if other not in units:
                    raise ValueError(f"{relation} of {unit.name!r}: {_unknown(units, other)}")
    try:
        graphlib.TopologicalSorter({name: unit.after for name, unit in units.items()}).prepare()
    except graphlib.CycleError as error:
        cycle = " -> ".join(reversed(error.args[1]))
        raise ValueError(
            f"after: {cycle} is a cycle, in which each waits for the next; take one of them out"
        ) from None
    if any(unit.conflicts for unit in units.values()):
        for name in units:
            check_together(units, [name])


def check_together(units: Units, names: Collection[str]) -> None:
    """Raise ValueError if starting these would start two that conflict."""
    together = _pulled_in(units, names)
    for one in sorted(together):
        for other in units[one].conflicts:
            if other in together:
                started = ", ".join(map(repr, names))
                starts = "starts both (by requires or wants)"
                if len(names) > 1:
                    starts = "are to start together"
                raise ValueError(
                    f"conflicts: {one!r} conflicts with {other!r}, but {started} {starts}"
                )


def to_start(units: Units, names: Collection[str]) -> tuple[str, ...]:
    """These and all that they require and want, in an order in which they can start."""
    return tuple(_in_order(units, _pulled_in(units, names)))


def waits_for(units: Units, name: str, among: Collection[str]) -> frozenset[str]:
    """Those ``among`` which are starting that must have started, or failed, before it starts."""
    return frozenset(units[name].after).intersection(among)


def fails_with(units: Units, name: str) -> frozenset[str]:
    """Those that cannot start if it fails to, directly or not."""
    return _closure(
        [name],
        lambda failed: (
            other
            for other, unit in units.items()
            if failed in unit.requires and failed in unit.after
        ),
    ) - {name}


def to_stop(units: Units, name: str) -> tuple[str, ...]:
    """It and all that stop with it, in the order in which they stop."""
    return to_restart(units, name)[::-1]


def to_restart(units: Units, name: str) -> tuple[str, ...]:
    """It and all that restart with it, in the order in which they start; they stop in reverse."""
    return tuple(
        _in_order(
            units,
            _closure(
                [name],
                lambda stopped: (
                    other
                    for other, unit in units.items()
                    if stopped in unit.requires or stopped in unit.part_of
                ),
            ),
        )
    )


def stop_order(units: Units, names: Collection[str]) -> tuple[str, ...]:
    """These, each before those that it starts after."""
    return tuple(_in_order(units, names))[::-1]


def conflicting(units: Units, name: str) -> frozenset[str]:
    """Those that must not run while it does, whichever of the two says so."""
    return frozenset(units[name].conflicts).union(
        other for other, unit in units.items() if name in unit.conflicts
    )


# --- how --------------------------------------------------------------------------------------


def _pulled_in(units: Units, names: Collection[str]) -> frozenset[str]:
    return _closure(names, lambda name: units[name].requires + units[name].wants)


def _closure(names: Iterable[str], more: Callable[[str], Iterable[str]]) -> frozenset[str]:
    """These, and whatever ``more`` says of each of them."""
    found, left = set(names), list(names)
    while left:
        new = set(more(left.pop())) - found
        found |= new
        left += new
    return frozenset(found)


def _in_order(units: Units, names: Collection[str]) -> Iterator[str]:
    """These, each after those that it starts after; apart from that as they were given."""
    given = [name for name in units if name in names]
    position = {name: index for index, name in enumerate(given)}
    sorter = graphlib.TopologicalSorter(
        {name: [other for other in units[name].after if other in position] for name in given}
    )
    sorter.prepare()
    ready: list[int] = []
    while sorter:
        for name in sorter.get_ready():
            heapq.heappush(ready, position[name])
        name = given[heapq.heappop(ready)]
        yield name
        sorter.done(name)


def _unknown(units: Units, name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, units, 1)
    hint = f"did you mean {close[0]!r}?" if close else "add it, or take it out here"
    return f"there is no {name!r}; {hint}"
