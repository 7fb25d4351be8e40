"""The levels of containment, one file each, from the weakest to the strongest.

A level says what this system lacks for it, and what the keeper is to do for a call:

================  ==============================================================================
``missing()``     None, or what is missing and what would give it. It may try things out
``options()``     what a request to the keeper says for it (``_linux/keeper.py``)
================  ==============================================================================

``auto`` is the strongest that costs nothing and needs no asking: SUBREAPER, and PROCESS_GROUP where
there is no Linux.  The others take time (``benchmarks/containment.py``) or change what a tool sees.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Literal, Protocol, cast

from attrs import frozen

from .._errors import UnsupportedPlatform
from .._values.result import Containment

if TYPE_CHECKING:
    from collections.abc import Sequence

AUTO = Containment.SUBREAPER if sys.platform == "linux" else Containment.PROCESS_GROUP


@frozen
class Missing:
    """Why a level is not to be had."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


class Level(Protocol):
    """What the module of each level has."""

    def missing(self) -> Missing | None: ...

    def options(self) -> Sequence[str]: ...


def level(containment: Containment) -> Level:
    """The level's own file, imported when it is wanted."""
    return cast("Level", importlib.import_module(f".{containment.name.lower()}", __name__))


def choose(demanded: Containment | Literal["auto"]) -> Containment:
    """The level to use; UnsupportedPlatform, with what is missing, if it is not to be had."""
    if demanded == "auto":
        return AUTO
    if not isinstance(demanded, Containment):
        raise TypeError(f"containment must be 'auto' or an agentsup.Containment, not {demanded!r}")
    require(demanded, f"containment={demanded.name}")
    return demanded


def missing(containment: Containment) -> Missing | None:
    """Why the level is not to be had, or None."""
    if containment > Containment.SUBREAPER and (lacking := missing(Containment.SUBREAPER)):
        return lacking  # the others stand on it
    return level(containment).missing()


def require(containment: Containment, wish: str) -> None:
    if lacking := missing(containment):
        raise UnsupportedPlatform(f"{wish} is not to be had here: {lacking}")
