"""A structured-concurrency supervisor for the processes of LLM agents, and of anybody else.

The names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._lazy import load

if TYPE_CHECKING:
    from ._calls.process import InputStream, OutputStream, Process
    from ._calls.spec import PIPE
    from ._errors import (
        AgentsupError,
        CheckpointCorrupt,
        CheckpointInUse,
        ConfigError,
        ConfigErrors,
        DiskFull,
        FormatTooNew,
        KeeperLost,
        LedgerCorrupt,
        NotReady,
        RestartLimitReached,
        SpawnError,
        StepInterrupted,
        StepLost,
        SupervisorClosed,
        ToolFailed,
        UnsupportedPlatform,
        last_partial,
    )
    from ._services.events import EventStream
    from ._services.handle import ServiceHandle
    from ._tool_call import ToolCall, tool_call
    from ._tree.blocking import SyncSupervisor, run_sync
    from ._tree.job import Job
    from ._tree.supervisor import Node, Supervisor, run
    from ._values.command import Command, shell
    from ._values.escalation import CLOSE_STDIN, Escalation, Step
    from ._values.health import HealthCheck
    from ._values.heartbeat import (
        CallableHeartbeat,
        FileHeartbeat,
        Heartbeat,
        NotifyHeartbeat,
        OutputHeartbeat,
    )
    from ._values.hook import Hook
    from ._values.limits import Limits
    from ._values.listen import ListenSocket
    from ._values.output import Output, OutputPolicy
    from ._values.probe import CallableProbe, CommandProbe, HttpProbe, TcpProbe, UnixProbe
    from ._values.readiness import FileExists, NewlineOn, Notified, OutputMatches, RunningFor
    from ._values.restart import RestartPolicy
    from ._values.result import Containment, Found, Leftover, Outcome, Result, TakenStep, Usage
    from ._values.service import Service
    from ._values.state import ServiceEvent, ServiceState

__all__ = [
    "CLOSE_STDIN",
    "PIPE",
    "AgentsupError",
    "CallableHeartbeat",
    "CallableProbe",
    "CheckpointCorrupt",
    "CheckpointInUse",
    "Command",
    "CommandProbe",
    "ConfigError",
    "ConfigErrors",
    "Containment",
    "DiskFull",
    "Escalation",
    "EventStream",
    "FileExists",
    "FileHeartbeat",
    "FormatTooNew",
    "Found",
    "HealthCheck",
    "Heartbeat",
    "Hook",
    "HttpProbe",
    "InputStream",
    "Job",
    "KeeperLost",
    "LedgerCorrupt",
    "Leftover",
    "Limits",
    "ListenSocket",
    "NewlineOn",
    "Node",
    "NotReady",
    "Notified",
    "NotifyHeartbeat",
    "Outcome",
    "Output",
    "OutputHeartbeat",
    "OutputMatches",
    "OutputPolicy",
    "OutputStream",
    "Process",
    "RestartLimitReached",
    "RestartPolicy",
    "Result",
    "RunningFor",
    "Service",
    "ServiceEvent",
    "ServiceHandle",
    "ServiceState",
    "SpawnError",
    "Step",
    "StepInterrupted",
    "StepLost",
    "Supervisor",
    "SupervisorClosed",
    "SyncSupervisor",
    "TakenStep",
    "TcpProbe",
    "ToolCall",
    "ToolFailed",
    "UnixProbe",
    "UnsupportedPlatform",
    "Usage",
    "last_partial",
    "run",
    "run_sync",
    "shell",
    "tool_call",
]

_MODULES = {
    "_calls.process": ["InputStream", "OutputStream", "Process"],
    "_calls.spec": ["PIPE"],
    "_errors": [
        "AgentsupError",
        "CheckpointCorrupt",
        "CheckpointInUse",
        "ConfigError",
        "ConfigErrors",
        "DiskFull",
        "FormatTooNew",
        "KeeperLost",
        "LedgerCorrupt",
        "NotReady",
        "RestartLimitReached",
        "SpawnError",
        "StepInterrupted",
        "StepLost",
        "SupervisorClosed",
        "ToolFailed",
        "UnsupportedPlatform",
        "last_partial",
    ],
    "_services.events": ["EventStream"],
    "_services.handle": ["ServiceHandle"],
    "_tool_call": ["ToolCall", "tool_call"],
    "_tree.blocking": ["SyncSupervisor", "run_sync"],
    "_tree.job": ["Job"],
    "_tree.supervisor": ["Node", "Supervisor", "run"],
    "_values.command": ["Command", "shell"],
    "_values.escalation": ["CLOSE_STDIN", "Escalation", "Step"],
    "_values.health": ["HealthCheck"],
    "_values.heartbeat": [
        "CallableHeartbeat",
        "FileHeartbeat",
        "Heartbeat",
        "NotifyHeartbeat",
        "OutputHeartbeat",
    ],
    "_values.hook": ["Hook"],
    "_values.limits": ["Limits"],
    "_values.listen": ["ListenSocket"],
    "_values.output": ["Output", "OutputPolicy"],
    "_values.probe": ["CallableProbe", "CommandProbe", "HttpProbe", "TcpProbe", "UnixProbe"],
    "_values.readiness": ["FileExists", "NewlineOn", "Notified", "OutputMatches", "RunningFor"],
    "_values.restart": ["RestartPolicy"],
    "_values.result": [
        "Containment",
        "Found",
        "Leftover",
        "Outcome",
        "Result",
        "TakenStep",
        "Usage",
    ],
    "_values.service": ["Service"],
    "_values.state": ["ServiceEvent", "ServiceState"],
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    return load(globals(), _HOMES, name)


def __dir__() -> list[str]:
    return __all__
