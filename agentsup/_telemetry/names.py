"""The names of what is told: OpenTelemetry's, where its semantic conventions have one.

They are written down here, for the package that has them is no part of the API.  Those of
``gen_ai`` and ``process`` are in development there, and a test compares them.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from enum import Enum

ERROR_TYPE = "error.type"
GEN_AI_OPERATION_NAME = "gen_ai.operation.name"
GEN_AI_TOOL_CALL_ID = "gen_ai.tool.call.id"
GEN_AI_TOOL_NAME = "gen_ai.tool.name"
PROCESS_COMMAND_ARGS = "process.command_args"
PROCESS_EXECUTABLE_PATH = "process.executable.path"
PROCESS_EXIT_CODE = "process.exit.code"
PROCESS_PID = "process.pid"

#: A value of ``GEN_AI_OPERATION_NAME``.
EXECUTE_TOOL = "execute_tool"

ACTION = "agentsup.escalation.action"
CHECK = "agentsup.health.check"
CONTAINMENT = "agentsup.containment"
FAILURES = "agentsup.health.failures"
FOUND = "agentsup.leftover.found"
KILLED = "agentsup.leftover.killed"
LEFTOVERS = "agentsup.leftovers"
LIMIT = "agentsup.limit"
OUTCOME = "agentsup.outcome"
PREVIOUS = "agentsup.service.previous_state"
QUEUED = "agentsup.queued"
REASON = "agentsup.reason"
RESTARTS = "agentsup.service.restarts"
SERVICE = "agentsup.service.name"
SIGNAL = "agentsup.signal"
STATE = "agentsup.service.state"
STDERR_BYTES = "agentsup.stderr.bytes"
STDOUT_BYTES = "agentsup.stdout.bytes"
STREAM = "agentsup.stream"

# Events of spans.
ESCALATION_EVENT = "agentsup.escalation"
HEALTH_EVENT = "agentsup.health.failed"
LEFTOVER_EVENT = "agentsup.leftover"
LIMIT_EVENT = "agentsup.limit_reached"
RESTART_EVENT = "agentsup.service.restart"
STATE_EVENT = "agentsup.service.state"


@functools.cache
def lower(value: Enum) -> str:
    """The name of an outcome, a level or the like, as it is told."""
    return value.name.lower()


@functools.cache
def scope() -> tuple[str, str]:
    """The name and the version of what makes the spans and the metrics."""
    from importlib import metadata

    try:
        return "agentsup", metadata.version("agentsup")
    except metadata.PackageNotFoundError:
        return "agentsup", ""
