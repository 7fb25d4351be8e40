"""Read a recorded conversation: what the assistant said, and the shell commands that it called.

=========  =================================================================================
form       a tool call
=========  =================================================================================
Anthropic  {"role": "assistant", "content": [{"type": "tool_use", "id", "name", "input"}]}
OpenAI     {"role": "assistant", "tool_calls": [{"id", "function": {"name", "arguments"}}]}
=========  =================================================================================

A file holds one message a line, or one JSON array of messages.  A message may be wrapped, as in
{"type": "assistant", "message": {…}}.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import evolve, frozen
from ending import ending

#: The tools that are shells, and how many seconds the unit of their ``timeout`` has.
SHELLS = {
    "bash": 1.0,
    "shell": 1.0,
    "sh": 1.0,
    "terminal": 1.0,
    "execute_bash": 1.0,
    "run_command": 1.0,
    "Bash": 0.001,
}
LONGEST = 1e12
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
KINDS = {str: "a string", dict: "an object", list: "an array", bool: "true or false"}


class TranscriptError(Exception):
    """``FILE:LINE: reason``"""


class Malformed(Exception):
    """The reason, for somebody who knows the place."""


@frozen
class ToolCall:
    id: str
    #: Shell code, or words.
    command: str | tuple[str, ...]
    timeout: float | None = None
    idle_timeout: float | None = None
    background: bool = False
    #: How it ended when it was recorded, where the transcript says so.
    ending: str | None = None


@frozen
class Turn:
    """What the assistant said, and what it called at the same time."""

    text: str
    calls: tuple[ToolCall, ...]
    #: The names of called tools that are not shells.
    skipped: tuple[str, ...]


def read(path: Path) -> list[Turn]:
    """The assistant's turns, each call with its recorded ending."""
    turns: list[Turn] = []
    endings: dict[str, str | None] = {}
    for line, message in _messages(path):
        try:
            role, message = _unwrap(message)
            if role == "assistant":
                turns.append(_turn(message))
            else:
                endings.update(_endings(role, message))
        except Malformed as error:
            raise TranscriptError(f"{path}:{line}: {error}") from None
    return [
        evolve(turn, calls=tuple(evolve(call, ending=endings.get(call.id)) for call in turn.calls))
        for turn in turns
    ]


# --- lines ------------------------------------------------------------------------------------


def _messages(path: Path) -> Iterator[tuple[int, Any]]:
    """Each message, and the line on which it begins."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise TranscriptError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TranscriptError(f"{path}:{line}: not UTF-8") from None
    if not text.strip():
        raise TranscriptError(f"{path}:1: the file is empty")
    if text.lstrip().startswith("["):
        yield from _items(path, text)
        return
    for line, source in enumerate(text.split("\n"), 1):
        if source.strip():
            yield line, _parse(path, line, source)


def _items(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The items of one array, which may be spread over lines."""
    _parse(path, 1, text)
    decoder = json.JSONDecoder()
    at = text.index("[") + 1
    while True:
        at += len(text[at:]) - len(text[at:].lstrip(" \t\r\n,"))
        if text[at] == "]":
            return
        message, end = decoder.raw_decode(text, at)
        yield text.count("\n", 0, at) + 1, message
        at = end


def _parse(path: Path, line: int, source: str) -> Any:
    try:
        return json.loads(source)
    except json.JSONDecodeError as error:
        place = f"{path}:{line + error.lineno - 1}"
        raise TranscriptError(f"{place}: not JSON: {error.msg} (column {error.colno})") from None
    except (ValueError, RecursionError) as error:
        raise TranscriptError(f"{path}:{line}: not JSON: {error}") from None


# --- messages ---------------------------------------------------------------------------------


def _unwrap(message: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(message, dict):
        raise Malformed(f"a message must be an object, not {_kind(message)}")
    if "role" not in message and isinstance(message.get("message"), dict):
        message = message["message"]
    role = _field(message, "role", str, "a message")
    if role not in ROLES:
        raise Malformed(f"unknown role {role!r}")
    return role, message


def _turn(message: dict[str, Any]) -> Turn:
    said: list[str] = []
    calls: list[ToolCall] = []
    skipped: list[str] = []
    for block in _blocks(message):
        if block["type"] == "text":
            said.append(_field(block, "text", str, "a text block"))
    for call, name, arguments in _uses(message):
        if name in SHELLS and arguments.get("restart") is not True:
            calls.append(_tool_call(call, name, arguments))
        else:
            skipped.append(name)
    return Turn("\n".join(said).strip(), tuple(calls), tuple(skipped))


def _uses(message: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The id, the tool's name and the input of every call, in either form."""
    for block in _blocks(message):
        if block["type"] == "tool_use":
            name = _field(block, "name", str, "tool_use")
            yield _field(block, "id", str, "tool_use"), name, _field(block, "input", dict, name)
    if message.get("tool_calls") is None:
        return
    for call in _field(message, "tool_calls", list, "a message"):
        if not isinstance(call, dict):
            raise Malformed(f"an item of tool_calls must be an object, not {_kind(call)}")
        function = _field(call, "function", dict, "an item of tool_calls")
        name = _field(function, "name", str, "function")
        try:
            arguments = json.loads(_field(function, "arguments", str, name))
        except (ValueError, RecursionError) as error:
            raise Malformed(f"{name}: 'arguments' are not JSON: {error}") from None
        if not isinstance(arguments, dict):
            raise Malformed(f"{name}: 'arguments' must be an object, not {_kind(arguments)}")
        yield _field(call, "id", str, "an item of tool_calls"), name, arguments


def _tool_call(call: str, name: str, arguments: dict[str, Any]) -> ToolCall:
    background = arguments.get("run_in_background", False)
    if not isinstance(background, bool):
        raise Malformed(f"{name}: 'run_in_background' must be true or false")
    return ToolCall(
        id=call,
        command=_command(name, arguments.get("command", arguments.get("cmd"))),
        timeout=_seconds(name, "timeout", arguments, SHELLS[name]),
        idle_timeout=_seconds(name, "idle_timeout", arguments, 1.0),
        background=background,
    )


def _command(name: str, value: Any) -> str | tuple[str, ...]:
    words = value if isinstance(value, list) else [value]
    if not words or not all(isinstance(word, str) for word in words):
        raise Malformed(f"{name}: 'command' must be a string or an array of strings")
    for word in words:
        if "\0" in word:
            raise Malformed(f"{name}: 'command' holds a NUL character, which no argument can")
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise Malformed(f"{name}: 'command' holds half of a surrogate pair")
    return tuple(words) if isinstance(value, list) else words[0]


def _seconds(name: str, key: str, arguments: dict[str, Any], unit: float) -> float | None:
    value = arguments.get(key)
    if value is None:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value < LONGEST:
        raise Malformed(f"{name}: {key!r} must be a number above zero, not {value!r}")
    return float(value) * unit


def _endings(role: str, message: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    if role == "tool":
        yield _field(message, "tool_call_id", str, "a tool message"), ending(_text(message))
    for block in _blocks(message):
        if block["type"] == "tool_result":
            yield _field(block, "tool_use_id", str, "tool_result"), ending(_text(block))


# --- content ----------------------------------------------------------------------------------


def _blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The content of a message or a tool_result as blocks, each with a type."""
    content = message.get("content")
    if content is None and ("tool_calls" in message or "tool_use_id" in message):
        return []
    if "content" not in message:
        raise Malformed("a message has no 'content'")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise Malformed(f"'content' must be a string or an array of blocks, not {_kind(content)}")
    for block in content:
        if not isinstance(block, dict):
            raise Malformed(f"a content block must be an object, not {_kind(block)}")
        _field(block, "type", str, "a content block")
    return content


def _text(holder: dict[str, Any]) -> str:
    return "\n".join(
        _field(block, "text", str, "a text block")
        for block in _blocks(holder)
        if block["type"] == "text"
    )


def _field(holder: dict[str, Any], key: str, kind: type, what: str) -> Any:
    if key not in holder:
        raise Malformed(f"{what} has no {key!r}")
    if not isinstance(holder[key], kind):
        raise Malformed(f"{what}: {key!r} must be {KINDS[kind]}, not {_kind(holder[key])}")
    return holder[key]


def _kind(value: Any) -> str:
    return "null" if value is None else KINDS.get(type(value), "a number")
