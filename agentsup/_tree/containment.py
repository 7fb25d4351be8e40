"""Which level of containment can be had."""

from __future__ import annotations

from typing import Literal

from .._errors import UnsupportedPlatform
from .._values.result import Containment


def check_containment(level: Containment | Literal["auto"]) -> None:
    """An error that says why, unless ``level`` can be had exactly."""
    if level == "auto" or level is Containment.SUBREAPER:
        return
    if not isinstance(level, Containment):
        raise TypeError(f"containment must be 'auto' or an agentsup.Containment, not {level!r}")
    if level > Containment.SUBREAPER:
        raise UnsupportedPlatform(f"containment={level.name} is not in this version yet")
    raise ValueError(f"containment={level.name} is weaker than what this system always has")
