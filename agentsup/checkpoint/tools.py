"""A tool call as a step: what makes it the same one, and its result as JSON and back."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from .._values.command import encode_argv
from .._values.output import Output
from .._values.result import Containment, Found, Leftover, Outcome, Result, TakenStep, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._values.command import CommandLike

#: The options that decide on what a command does, and not only on how long it may take.
_INPUTS = "cwd", "env", "extend_env", "stdin", "user", "group"


def program_name(command: CommandLike) -> str:
    return os.path.basename(_text(encode_argv(command)[0]))


def command_inputs(command: CommandLike, options: Mapping[str, Any]) -> Any:
    """JSON that is the same for the same call."""
    inputs: dict[str, object] = {"argv": [_text(word) for word in encode_argv(command)]}
    for name in _INPUTS:
        value: Any = options.get(name)
        if value is None:
            continue
        if name == "stdin" and not isinstance(value, (bytes, bytearray)):
            raise TypeError("a step whose stdin is not bytes needs a key= or inputs= of its own")
        if name in ("env", "extend_env") and not isinstance(value, str):
            inputs[name] = {_text(variable): _text(value[variable]) for variable in value}
        else:
            inputs[name] = value if isinstance(value, int) else _text(value)
    return inputs


def _text(value: Any) -> str:
    return os.fsdecode(bytes(value) if isinstance(value, bytearray) else value)


def to_json(result: Result) -> dict[str, Any]:
    """``Result.to_dict()``, but with all bytes of the output that were kept."""
    return {
        **result.to_dict(),
        "stdout": _output_to_json(result.stdout),
        "stderr": _output_to_json(result.stderr),
    }


def from_json(stored: Mapping[str, Any]) -> Result:
    return Result(
        argv=tuple(stored["argv"]),
        name=stored["name"],
        outcome=Outcome[stored["outcome"]],
        exit_code=stored["exit_code"],
        signal=_signal(stored["signal"]),
        stdout=_output(stored["stdout"]),
        stderr=_output(stored["stderr"]),
        duration=stored["duration"],
        queued=stored["queued"],
        usage=Usage(**stored["usage"]),
        escalation=tuple(TakenStep(**step) for step in stored["escalation"]),
        leftovers=_leftovers(stored["leftovers"]),
        leftover_count=stored["leftover_count"],
        containment=Containment[stored["containment"]],
        pid=stored["pid"],
        adopted=_leftovers(stored["adopted"]),
        limits_reached=tuple(stored["limits_reached"]),
    )


def _output_to_json(output: Output) -> dict[str, Any]:
    return {
        # Every byte comes back from that, whether it is UTF-8 or not.
        "head": output.head.decode("utf-8", "surrogateescape"),
        "tail": output.tail.decode("utf-8", "surrogateescape"),
        "total_bytes": output.total_bytes,
        "spill_path": output.spill_path,
        "spill_error": output.spill_error,
    }


def _output(stored: Mapping[str, Any]) -> Output:
    head = stored["head"].encode("utf-8", "surrogateescape")
    tail = stored["tail"].encode("utf-8", "surrogateescape")
    return Output(**{**stored, "head": head, "tail": tail})


def _signal(name: str | None) -> signal.Signals | int | None:
    if name is None:
        return None
    return int(name[7:]) if name.startswith("signal ") else signal.Signals[name]


def _leftovers(stored: list[dict[str, Any]]) -> tuple[Leftover, ...]:
    return tuple(
        Leftover(each["pid"], tuple(each["argv"]), Found[each["found"]], each["killed"])
        for each in stored
    )
