"""The JSON Schema of the file, for editors. ``agentsup schema`` prints the one that is shipped."""

from __future__ import annotations

import json
import re
import typing
from importlib import resources
from typing import Any, Literal, get_args, get_origin

from attrs import fields

NAME = "agentsup.schema.json"


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of ``agentsup.toml``."""
    text = resources.files("agentsup.config").joinpath(NAME).read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def generate() -> dict[str, Any]:
    """The same, made from the classes anew."""
    from . import tables

    definitions: dict[str, Any] = {}
    _define(tables.FileTable, definitions)
    whole = definitions.pop("FileTable")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "agentsup.toml",
        **whole,
        "$defs": dict(sorted(definitions.items())),
    }


def _define(cls: Any, definitions: dict[str, Any]) -> None:
    if cls.__name__ in definitions:
        return
    definitions[cls.__name__] = {}  # for those that have themselves below them
    hints = typing.get_type_hints(cls)
    described = _descriptions(cls)
    properties = {
        field.name: {
            "description": described[field.name],
            **_field(field, hints[field.name], definitions),
        }
        for field in fields(cls)
    }
    required = [field.name for field in fields(cls) if field.default is not None]
    definitions[cls.__name__] = {
        "description": (cls.__doc__ or "").partition("\n")[0],
        "type": "object",
        "properties": properties,
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def _field(field: Any, hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if "is" in field.metadata:
        return _of(field.metadata["is"], definitions)
    below = field.metadata.get("of")
    if below is None:
        return _of(hint, definitions)
    from . import tables

    cls = getattr(tables, below) if isinstance(below, str) else below
    return {"type": "object", "additionalProperties": _of(cls, definitions)}


def _of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    from .kinds import KINDS

    if kind in KINDS:
        return KINDS[kind].schema
    if get_origin(kind) is Literal:
        return {"enum": list(get_args(kind))}
    if get_origin(kind) is list:
        one = _of(get_args(kind)[0], definitions)
        return {"anyOf": [one, {"type": "array", "items": one}]}
    if get_args(kind):  # it, or None where it is not there
        some = [_of(one, definitions) for one in get_args(kind) if one is not type(None)]
        return some[0] if len(some) == 1 else {"anyOf": some}
    _define(kind, definitions)
    reference = {"$ref": f"#/$defs/{kind.__name__}"}
    short = _short(kind)
    return {"anyOf": [reference, short]} if short else reference


def _short(cls: Any) -> dict[str, Any] | None:
    """The other spelling of a table."""
    from . import tables
    from .kinds import KINDS, Duration, Words

    return {
        tables.ReadyTable: {"const": "notify"},
        tables.HookTable: KINDS[Words].schema,
        tables.HeartbeatTable: KINDS[Duration].schema,
        tables.BackoffTable: KINDS[Duration].schema,
    }.get(cls)


def _descriptions(cls: Any) -> dict[str, str]:
    """What the classes say of their fields."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        text = " ".join((one.__doc__ or "").split())
        found.update(re.findall(r":param (\w+): (.*?)(?= :param |$)", text))
    return found
