"""A result as text for a model, and as plain JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .output import Output
    from .result import Leftover, Result

_LEAST = 200


def for_model(result: Result, max_chars: int) -> str:
    if max_chars < _LEAST:
        raise ValueError(f"max_chars must be at least {_LEAST}, not {max_chars}")
    last = "[" + f"{result.reason}{_left_behind(result)}"[: _LEAST - 2] + "]"
    room = max_chars - len(last) - 1
    out, err = result.stdout.text, result.stderr.text
    title = "[stderr]\n"
    if err and out:
        room -= len(title) + 1
        # Errors are short as a rule: they get up to half, the output gets what is left.
        err_room = max(room // 2, room - len(out))
        err = shorten(err, err_room)
        out = shorten(out, room - len(err))
        body = _line(out) + title + err
    else:
        body = shorten(out or err, room)
    return _line(body) + last


def _left_behind(result: Result) -> str:
    if not result.leftover_count:
        return ""
    if result.leftover_count == 1:
        return "; one other process of it had to be killed"
    return f"; {result.leftover_count} other processes of it had to be killed"


def _line(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def shorten(text: str, room: int) -> str:
    """At most ``room`` characters: the beginning, a note, and the (longer) end."""
    if len(text) <= room:
        return text
    note = "\n[… {} characters left out …]\n"
    keep = max(room - len(note.format(len(text))), 0)
    head = keep // 3
    left_out = note.format(len(text) - keep)
    return (text[:head] + left_out + text[len(text) - (keep - head) :])[:room]


def to_dict(result: Result) -> dict[str, Any]:
    from .result import signal_name

    return {
        "argv": list(result.argv),
        "name": result.name,
        "outcome": result.outcome.name,
        "ok": result.ok,
        "exit_code": result.exit_code,
        "signal": signal_name(result.signal) if result.signal else None,
        "reason": result.reason,
        "stdout": _output(result.stdout),
        "stderr": _output(result.stderr),
        "duration": result.duration,
        "queued": result.queued,
        "usage": {
            "user_cpu": result.usage.user_cpu,
            "system_cpu": result.usage.system_cpu,
            "max_rss": result.usage.max_rss,
        },
        "escalation": [{"action": step.action, "at": step.at} for step in result.escalation],
        "leftovers": [_leftover(leftover) for leftover in result.leftovers],
        "leftover_count": result.leftover_count,
        "adopted": [_leftover(leftover) for leftover in result.adopted],
        "containment": result.containment.name,
        "limits_reached": list(result.limits_reached),
        "pid": result.pid,
    }


def _leftover(leftover: Leftover) -> dict[str, Any]:
    return {
        "pid": leftover.pid,
        "argv": list(leftover.argv),
        "found": leftover.found.name,
        "killed": leftover.killed,
    }


def _output(output: Output) -> dict[str, Any]:
    return {
        "text": output.text,
        "total_bytes": output.total_bytes,
        "truncated": output.truncated,
        "spill_path": output.spill_path,
        "spill_error": output.spill_error,
    }
