"""What a tree of services is meant to do, kept from one host to the next as plain JSON.

==================================  ==============================================================
a service is saved as               and what follows in the next host
==================================  ==============================================================
(not at all)                        it is new: it starts
runs                                it starts; its restarts and their series go on
runs, and rests until then          the same, but not before then; in another boot, at once
does not run                        it is there and is not started: somebody had stopped it, or it
                                    had ended, or failed, for good
==================================  ==============================================================

``runs`` is what is meant: a service is meant to run as well when its host was killed, or was left
in order.  Times are of the monotonic clock, which says nothing in another boot: there, a series of
restarts keeps its number and begins its time anew.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar, cast

from attrs import asdict, evolve, field, frozen

from .restart import Series

_FORMAT = 1

T = TypeVar("T")


@frozen
class SavedService:
    """What is meant to become of a service."""

    runs: bool = True
    #: It has said that it is of no use to start it again.
    never: bool = False
    series: Series = field(factory=Series)
    #: It rests until then.
    next_start: float | None = None


@frozen
class SavedTree:
    """All that the next host is told."""

    services: dict[str, SavedService] = field(factory=dict[str, SavedService])
    stamps: dict[str, float] = field(factory=dict[str, float])
    #: Which boot it was, empty if that is not known, and when in it.
    boot: str = ""
    now: float = 0.0


def carry_over(tree: SavedTree, boot: str, now: float) -> dict[str, SavedService]:
    """The services, with times of this boot's clock only."""
    if boot and boot == tree.boot and tree.now <= now:
        return dict(tree.services)
    return {
        name: evolve(
            saved, series=evolve(saved.series, started_at=None, since=None), next_start=None
        )
        for name, saved in tree.services.items()
    }


def to_json(tree: SavedTree) -> dict[str, Any]:
    return {"format": _FORMAT, **asdict(tree)}


def from_json(value: object) -> SavedTree:
    """What :func:`to_json` was given; ValueError that says where it is nonsense."""
    whole = _dict("it", value)
    if _get("it", whole, "format", int) != _FORMAT:
        raise ValueError(f"its format is {whole['format']!r}, not {_FORMAT}")
    services = _dict("services", whole.get("services"))
    stamps = _dict("stamps", whole.get("stamps"))
    return SavedTree(
        {name: _to_service(f"services[{name!r}]", one) for name, one in services.items()},
        {name: _time("stamps", stamps, name) for name in stamps},
        _get("it", whole, "boot", str),
        _time("it", whole, "now"),
    )


def to_stamp(place: str, value: object) -> float:
    """``value`` as a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{place} must be a number, not {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{place} must be a finite number, not {value!r}")
    return number


# --- how ----------------------------------------------------------------------------------------


def _to_service(place: str, value: object) -> SavedService:
    saved = _dict(place, value)
    inner, series = f"{place}['series']", _dict(f"{place}['series']", saved.get("series"))
    return SavedService(
        runs=_get(place, saved, "runs", bool),
        never=_get(place, saved, "never", bool),
        series=Series(
            attempt=_count(inner, series, "attempt"),
            restarts=_count(inner, series, "restarts"),
            started_at=_time_or_none(inner, series, "started_at"),
            since=_time_or_none(inner, series, "since"),
            waited=_time(inner, series, "waited"),
        ),
        next_start=_time_or_none(place, saved, "next_start"),
    )


def _dict(place: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{place} must be an object, not {value!r}")  # noqa: TRY004 -- it was read
    return cast("dict[str, Any]", value)


def _get(place: str, found: dict[str, Any], name: str, kind: type[T]) -> T:
    value = found.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{place}[{name!r}] must be of type {kind.__name__}, not {value!r}")
    return value


def _count(place: str, found: dict[str, Any], name: str) -> int:
    if (value := _get(place, found, name, int)) < 0:
        raise ValueError(f"{place}[{name!r}] must be 0 or more, not {value}")
    return value


def _time(place: str, found: dict[str, Any], name: str) -> float:
    try:
        return to_stamp(f"{place}[{name!r}]", found.get(name))
    except TypeError as error:
        raise ValueError(str(error)) from None


def _time_or_none(place: str, found: dict[str, Any], name: str) -> float | None:
    return None if found.get(name) is None else _time(place, found, name)
