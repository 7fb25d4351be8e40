"""The bash tool of Anthropic's Messages API, with no package of theirs.

Give :data:`BASH_TOOL` to the API, or :data:`BASH_FUNCTION` where the model does not know that one,
and answer each ``tool_use`` block for ``"bash"`` with what :func:`handle` returns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from .toolbox import Refused

if TYPE_CHECKING:
    from .toolbox import Toolbox

#: The tool that the models are trained on. It has ``command`` and ``restart``.
BASH_TOOL: dict[str, Any] = {"type": "bash_20250124", "name": "bash"}

#: The same as a custom tool, for any model. It has a ``timeout`` as well.
BASH_FUNCTION: dict[str, Any] = {
    "name": "bash",
    "description": "Run a command in a shell session that keeps its directory and variables.",
    "input_schema": {
        "type": "object",
        "properties": {
            "command": {"type": "string", "description": "Shell code, any number of lines."},
            "timeout": {"type": "number", "description": "Seconds until it is interrupted."},
            "restart": {"type": "boolean", "description": "Begin with a new shell."},
        },
        "additionalProperties": False,
    },
}
_INPUTS: dict[str, Any] = BASH_FUNCTION["input_schema"]["properties"]


async def handle(toolbox: Toolbox, tool_use: object) -> dict[str, Any]:
    """Carry out a ``tool_use`` block, and return the ``tool_result`` block that answers it.

    :param tool_use: a dict, or the object that the SDK has for it. One for another tool than bash
        is answered with an error too.
    """
    name, given = _field(tool_use, "name"), _field(tool_use, "input")
    answer: str
    if name != "bash":
        answer = Refused(f"error: there is no tool {name!r}, only 'bash'")
    elif not isinstance(given, dict):
        answer = Refused(f"error: input must be an object, not {given!r}")
    elif unknown := cast("dict[str, Any]", given).keys() - _INPUTS:
        answer = Refused(f"error: bash has no input {min(unknown)!r}, only {', '.join(_INPUTS)}")
    else:
        answer = await toolbox.bash(**cast("dict[str, Any]", given))
    return {
        "type": "tool_result",
        "tool_use_id": _field(tool_use, "id"),
        "content": answer,
        "is_error": isinstance(answer, Refused),
    }


def _field(block: object, name: str) -> Any:
    if isinstance(block, dict):
        return cast("dict[str, Any]", block).get(name)
    return getattr(block, name, None)
