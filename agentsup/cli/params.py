"""The kinds of values that options take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .._values.units import parse_duration, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable

    _ParamType = click.ParamType[float]
else:
    _ParamType = click.ParamType  # generic since click 8.4 only


class _Quantity(_ParamType):
    def __init__(self, name: str, parse: Callable[[str], float]) -> None:
        self.name = name
        self._parse = parse

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]  # a default
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = _Quantity("duration", parse_duration)
SIZE = _Quantity("size", parse_size)
