"""For tests that start processes: fixtures, a leak detector, misbehaving programs, a fake.

pytest finds the fixtures by itself (``plugin.py``). These names are imported when they are first
used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._lazy import load

if TYPE_CHECKING:
    from .assertions import (
        assert_exited,
        assert_nothing_left,
        assert_signaled,
        assert_stopped,
    )
    from .contract import SupervisorContract
    from .fake import FakeSupervisor, FakeSyncSupervisor
    from .misbehaving import Misbehaving
    from .script import NotScripted, Script
    from .shared import SharedService, SharedSupervisor

__all__ = [
    "FakeSupervisor",
    "FakeSyncSupervisor",
    "Misbehaving",
    "NotScripted",
    "Script",
    "SharedService",
    "SharedSupervisor",
    "SupervisorContract",
    "assert_exited",
    "assert_nothing_left",
    "assert_signaled",
    "assert_stopped",
]

_HOMES = {
    "FakeSupervisor": "fake",
    "FakeSyncSupervisor": "fake",
    "Misbehaving": "misbehaving",
    "NotScripted": "script",
    "Script": "script",
    "SharedService": "shared",
    "SharedSupervisor": "shared",
    "SupervisorContract": "contract",
    "assert_exited": "assertions",
    "assert_nothing_left": "assertions",
    "assert_signaled": "assertions",
    "assert_stopped": "assertions",
}


def __getattr__(name: str) -> Any:
    return load(globals(), _HOMES, name)


def __dir__() -> list[str]:
    return __all__
