"""What TOML has given as the tables of a file, by cattrs; and all that is wrong with it."""

from __future__ import annotations

import operator
import typing
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

from attrs import fields, has

from ..ext._extra import extra
from . import tables
from .kinds import KINDS, is_array, is_table, wrong
from .suggestions import choice, unknown

with extra("daemon"):
    from cattrs import (
        ClassValidationError,
        Converter,
        IterableValidationError,
        IterableValidationNote,
    )
    from cattrs.errors import ForbiddenExtraKeysError
    from cattrs.gen import make_dict_structure_fn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .locating import KeyPath

T = TypeVar("T")
#: Where it is, and a reason.
Finding: typing.TypeAlias = "tuple[KeyPath, str]"


def structure(given: Any, to: type[T], at: KeyPath, findings: list[Finding]) -> T | None:
    """The table, without the keys that are wrong; None if nothing of it can be used."""
    if not is_table(given):
        findings.append((at, str(wrong("a table", given))))
        return None
    try:
        return _converter().structure(given, to)
    except ClassValidationError as error:
        found = list(_findings(error, at))
    findings += found
    bad = {path[len(at)] for path, _ in found if len(path) > len(at)}
    rest = {key: value for key, value in given.items() if key not in bad}
    try:
        return _converter().structure(rest, to)
    except ClassValidationError:  # a key is missing that there has to be
        return None


# --- errors ---------------------------------------------------------------------------------------


def _findings(error: BaseException, at: KeyPath) -> Iterator[Finding]:
    """Each with the path of what it is about."""
    if isinstance(error, ClassValidationError):
        noted, others = error.group_exceptions()
        for inner, note in noted:
            yield from _findings(inner, (*at, note.name))
        for other in others:
            yield from _findings(other, at)
    elif isinstance(error, IterableValidationError):
        for inner, index in error.group_exceptions()[0]:
            yield from _findings(inner, (*at, index.index))
    elif isinstance(error, ForbiddenExtraKeysError):
        known = [one.name for one in fields(error.cl)]
        for key in sorted(error.extra_fields):
            yield (*at, key), unknown(key, known, error.cl.__name__)
    elif isinstance(error, KeyError):
        yield at[:-1], f"{at[-1]} is missing"
    else:
        yield at, str(error)


# --- how ------------------------------------------------------------------------------------------


def _notify(value: Any) -> Any:
    if isinstance(value, str):
        if value != "notify":
            raise wrong("'notify', or a table such as {tcp = 8000}", value)
        return {"notify": True}
    return value


def _command(value: Any) -> Any:
    return {"command": value} if isinstance(value, str) or is_array(value) else value


def _beats(value: Any) -> Any:
    return value if is_table(value) else {"notify": value}


def _constant(value: Any) -> Any:
    return value if is_table(value) else {"initial": value, "factor": 1}


#: The tables that have a shorter spelling as well.
_SHORT: dict[Any, Callable[[Any], Any]] = {
    tables.ReadyTable: _notify,
    tables.HookTable: _command,
    tables.HeartbeatTable: _beats,
    tables.BackoffTable: _constant,
}


@cache
def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True)
    for kind, how in KINDS.items():
        converter.register_structure_hook_func(partial(operator.is_, kind), _reader(how.read))
    converter.register_structure_hook_func(_is_literal, _structure_literal)
    converter.register_structure_hook_factory(has, _structure_table)
    converter.register_structure_hook_factory(_is_list, _structure_list)
    converter.register_structure_hook_factory(_is_optional, _structure_optional)
    return converter


def _reader(read: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda value, _: read(value)


def _is_literal(kind: Any) -> bool:
    return get_origin(kind) is Literal


def _is_list(kind: Any) -> bool:
    return get_origin(kind) is list


def _is_optional(kind: Any) -> bool:
    return get_origin(kind) in (Union, type(int | None)) and type(None) in get_args(kind)


def _structure_literal(value: Any, kind: Any) -> Any:
    known = get_args(kind)
    if value in known:
        return value
    of = f"one of {', '.join(map(repr, known))}"
    spelled = str(value).lower() if isinstance(value, (str, bool)) else ""
    raise TypeError(f"{wrong(of, value)}{choice(spelled, known)}")


def _structure_table(cls: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    fill = make_dict_structure_fn(
        cls, converter, _cattrs_forbid_extra_keys=True, _cattrs_detailed_validation=True
    )
    short = _SHORT.get(cls)

    def structure(value: Any, _: Any) -> Any:
        if short:
            value = short(value)
        if not is_table(value):
            raise wrong("a table", value)
        return fill(value, cls)

    return structure


def _structure_list(of: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    """One by itself is a list as well."""
    (member,) = get_args(of)
    structure_one = converter.get_structure_hook(member)
    is_command = member is tables.HookTable

    def structure(value: Any, _: Any) -> Any:
        if not is_array(value) or (is_command and is_words(value)):
            return [structure_one(value, member)]
        wrongs: list[Exception] = []
        found: list[Any] = []
        for index, one in enumerate(value):
            try:
                found.append(structure_one(one, member))
            except Exception as error:
                error.add_note(IterableValidationNote(f"member {index}", index, member))
                wrongs.append(error)
        if wrongs:
            raise IterableValidationError("a list", wrongs, of)  # pyright: ignore[reportCallIssue] -- takes it
        return found

    return structure


def is_words(value: list[Any]) -> bool:
    """Whether a list is of the words of one command, and not of several things."""
    return bool(value) and all(isinstance(word, str) for word in value)


def _structure_optional(of: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    """TOML has no null; what there is is of the other kind, or one of the others."""
    kinds = [kind for kind in get_args(of) if kind is not type(None)]
    first = converter.get_structure_hook(kinds[0])
    if len(kinds) == 1:
        return lambda value, _: first(value, kinds[0])
    second = converter.get_structure_hook(kinds[1])

    def structure(value: Any, _: Any) -> Any:  # how a service reloads
        if is_table(value) or is_array(value):
            return first(value, kinds[0])
        return second(value, kinds[1])

    return structure
