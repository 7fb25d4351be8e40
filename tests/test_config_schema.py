"""The JSON Schema that is shipped: it is the classes', and holds for the files that there are."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from attrs import fields

from agentsup import Service
from agentsup.config import load, schema
from agentsup.config.json_schema import generate
from agentsup.config.tables import ServiceTable

ROOT = Path(__file__).parent.parent
(PAGE,) = (ROOT / "docs").rglob("configuration.md")
BLOCKS = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
FILES = sorted((ROOT / "examples").rglob("*.toml"))

TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


def is_valid(value: Any, said: dict[str, Any], whole: dict[str, Any]) -> bool:
    """As far as our schema goes; a key word that it does not have is an error."""
    return all(_holds(word, value, said, whole) for word in said)


def _holds(word: str, value: Any, said: dict[str, Any], whole: dict[str, Any]) -> bool:
    wanted = said[word]
    if word in ("$schema", "$defs", "title", "description", "format"):
        return True
    if word == "$ref":
        return is_valid(value, whole["$defs"][wanted.rpartition("/")[2]], whole)
    if word == "anyOf":
        return any(is_valid(value, one, whole) for one in wanted)
    if word == "type":
        names = wanted if isinstance(wanted, list) else [wanted]
        if isinstance(value, bool):
            return "boolean" in names
        return any(isinstance(value, TYPES[name]) for name in names)
    if word == "enum":
        return value in wanted
    if word == "const":
        return bool(value == wanted)
    if word in ("minimum", "maximum"):
        return bool(value >= wanted) if word == "minimum" else bool(value <= wanted)
    if word == "pattern":
        return re.search(wanted, value) is not None
    if word == "items":
        return all(is_valid(one, wanted, whole) for one in value)
    if word == "required":
        return all(key in value for key in wanted)
    if word == "properties":
        return all(is_valid(value[key], wanted[key], whole) for key in wanted if key in value)
    assert word == "additionalProperties"
    others = [one for key, one in value.items() if key not in said.get("properties", {})]
    return not others if wanted is False else all(is_valid(one, wanted, whole) for one in others)


def valid(text: str) -> bool:
    return is_valid(tomllib.loads(text), schema(), schema())


def test_the_schema_that_is_shipped_is_the_one_of_the_classes() -> None:
    assert schema() == generate()


def test_every_field_is_described() -> None:
    tables = [schema(), *schema()["$defs"].values()]
    fields = [field for table in tables for field in table["properties"].values()]
    assert len(fields) > 100
    assert all(field["description"] for field in fields)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_it_holds_for_the_examples(path: Path) -> None:
    assert valid(path.read_text())
    load(path)


@pytest.mark.parametrize("text", BLOCKS, ids=range(len(BLOCKS)))
def test_what_the_page_shows_is_right(text: str, tmp_path: Path) -> None:
    assert valid(text)
    (tmp_path / "secrets.env").write_text("KEY=value\n")
    path = tmp_path / "agentsup.toml"
    path.write_text(text)
    load(path, {"HOME": "/home/me", "USER": "me"})


@pytest.mark.parametrize(
    "text",
    [
        "x = 1",
        "daemon = 5",
        "[daemon]\nsockte = 'x'",
        "[daemon]\ntcp = {listen = '1'}",
        "[service.x]\ncommand = 5",
        "[service.x]\ngrace = true",
        "[service.x]\nrestart = 'always'",
        "[service.x]\nsuccess_exit_status = [256]",
        "[service.x]\nhealth = [{tcp = 1, tpc = 2}]",
        "[service.x]\nready = 'never'",
        "[supervisor.x.supervisor.y.service.z]\nx = 1",
    ],
)
def test_it_does_not_hold_for_what_is_wrong(text: str) -> None:
    assert not valid(text)


def test_the_page_has_every_key() -> None:
    described = set(re.findall(r"`(\w+)`", PAGE.read_text()))
    tables = [schema(), *schema()["$defs"].values()]
    assert not {key for table in tables for key in table["properties"]} - described


def test_a_table_has_every_field_of_a_service() -> None:
    ours = {one.name for one in fields(ServiceTable)}
    others = {"name", "give_up", "extend_env"}  # the table's name, attempts and env
    assert {one.name for one in fields(Service) if one.init} - others <= ours
