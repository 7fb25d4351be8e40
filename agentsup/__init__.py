"""A structured-concurrency supervisor for the processes of LLM agents, and of anybody else.

The names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._calls.process import InputStream, OutputStream, Process
    from ._calls.spec import PIPE
    from ._errors import (
        AgentsupError,
        KeeperLost,
        SpawnError,
        SupervisorClosed,
        ToolFailed,
        UnsupportedPlatform,
        last_partial,
    )
    from ._tree.blocking import SyncSupervisor, run_sync
    from ._tree.supervisor import Node, Supervisor, run
    from ._values.command import Command, shell
    from ._values.escalation import CLOSE_STDIN, Escalation, Step
    from ._values.limits import Limits
    from ._values.output import Output, OutputPolicy
    from ._values.result import Containment, Found, Leftover, Outcome, Result, TakenStep, Usage

__all__ = [
    "CLOSE_STDIN",
    "PIPE",
    "AgentsupError",
    "Command",
    "Containment",
    "Escalation",
    "Found",
    "InputStream",
    "KeeperLost",
    "Leftover",
    "Limits",
    "Node",
    "Outcome",
    "Output",
    "OutputPolicy",
    "OutputStream",
    "Process",
    "Result",
    "SpawnError",
    "Step",
    "Supervisor",
    "SupervisorClosed",
    "SyncSupervisor",
    "TakenStep",
    "ToolFailed",
    "UnsupportedPlatform",
    "Usage",
    "last_partial",
    "run",
    "run_sync",
    "shell",
]

_MODULES = {
    "_calls.process": ["InputStream", "OutputStream", "Process"],
    "_calls.spec": ["PIPE"],
    "_errors": [
        "AgentsupError",
        "KeeperLost",
        "SpawnError",
        "SupervisorClosed",
        "ToolFailed",
        "UnsupportedPlatform",
        "last_partial",
    ],
    "_tree.blocking": ["SyncSupervisor", "run_sync"],
    "_tree.supervisor": ["Node", "Supervisor", "run"],
    "_values.command": ["Command", "shell"],
    "_values.escalation": ["CLOSE_STDIN", "Escalation", "Step"],
    "_values.limits": ["Limits"],
    "_values.output": ["Output", "OutputPolicy"],
    "_values.result": [
        "Containment",
        "Found",
        "Leftover",
        "Outcome",
        "Result",
        "TakenStep",
        "Usage",
    ],
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
