"""The OpenAPI description, made of the routes and of the classes of ``api.py``."""

from __future__ import annotations

import types
import typing
from typing import TYPE_CHECKING, Any

from attrs import NOTHING, fields, frozen, has

from . import api

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object"}


@frozen
class Parameter:
    """Of the query."""

    name: str
    type: type[Any]
    description: str


@frozen
class Described:
    """A route, and what it takes and answers."""

    method: str
    path: str
    summary: str
    answer: type[Any]
    body: type[Any] | None = None
    errors: Mapping[int, type[Any]] = {}
    query: tuple[Parameter, ...] = ()
    #: The answer is a line of many.
    lines: bool = False
    status: int = 200

    @property
    def name(self) -> str:
        """Of what handles it, and its operationId: ``wait_ready``."""
        return self.path.split("/")[2].removesuffix(".json").replace("-", "_")


def describe(routes: Iterable[Described], version: str) -> dict[str, Any]:
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for route in routes:
        path = route.path.replace(":path}", "}")
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "agentsup up", "version": version or "unknown"},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],  # on the Unix socket none, by TCP the token
    }


def _operation(route: Described, schemas: dict[str, Any]) -> dict[str, Any]:
    kind = "application/x-ndjson" if route.lines else "application/json"
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": [*_in_path(route), *(_in_query(one, schemas) for one in route.query)],
        "responses": {
            str(route.status): _content("What was asked for.", kind, route.answer, schemas),
            "default": _content("Why not.", "application/json", api.Error, schemas),
        },
    }
    for status, answer in route.errors.items():
        operation["responses"][str(status)] = _content(
            "Why not.", "application/json", answer, schemas
        )
    if route.body is not None:
        operation["requestBody"] = _content("", "application/json", route.body, schemas)
    return operation


def _in_path(route: Described) -> Iterable[dict[str, Any]]:
    if "{name" in route.path:
        yield {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}


def _in_query(parameter: Parameter, schemas: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": "query",
        "description": parameter.description,
        "schema": _schema(parameter.type, schemas),
    }


def _content(text: str, kind: str, of: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {kind: {"schema": _schema(of, schemas)}}}


def _schema(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """JSON Schema of a type; classes go to ``schemas``."""
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if kind is types.NoneType:
        return {"type": "null"}
    if has(kind):
        if kind.__name__ not in schemas:
            schemas[kind.__name__] = {}  # it may have itself in it
            schemas[kind.__name__] = _object(kind, schemas)
        return {"$ref": f"#/components/schemas/{kind.__name__}"}
    of = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        return {"type": "array", "items": _schema(of[0], schemas)}
    if typing.get_origin(kind) is dict:
        return {"type": "object", "additionalProperties": _schema(of[1], schemas)}
    return {"anyOf": [_schema(one, schemas) for one in of]}  # a union


def _object(kind: type[Any], schemas: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    properties: dict[str, Any] = {}
    for attribute in fields(kind):
        properties[attribute.name] = _schema(hints[attribute.name], schemas)
        if text := attribute.metadata.get("description"):
            properties[attribute.name]["description"] = text
        if attribute.default is not NOTHING:
            properties[attribute.name]["default"] = attribute.default
    required = [one.name for one in fields(kind) if one.default is NOTHING]
    found = {"type": "object", "properties": properties, "required": required}
    return found | {"description": kind.__doc__.strip()} if kind.__doc__ else found
