"""The kinds of values that options take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .._values.result import Containment
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


class _Cpus(_ParamType):
    """CPUs, or a percentage of one as systemd has it."""

    name = "cpus"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        text = str(value)
        try:
            return float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            self.fail(f"{text!r} is no number of CPUs, as 0.5 or 50%", param, ctx)


CPUS = _Cpus()
#: As they are written on the command line.
LEVELS = {level.name.lower().replace("_", "-"): level for level in Containment}
DURATION = _Quantity("duration", parse_duration)
SIZE = _Quantity("size", parse_size)
