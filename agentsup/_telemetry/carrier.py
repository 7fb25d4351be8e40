"""The context of a trace in a program's environment: TRACEPARENT, TRACESTATE and BAGGAGE.

As OpenTelemetry has it for environment variables, and by whatever propagator is set there: the
names are those of its headers, in upper case.
"""

from __future__ import annotations

import functools
import os
import re
from typing import TYPE_CHECKING

from opentelemetry import propagate

from .._calls.spec import with_variables

if TYPE_CHECKING:
    from opentelemetry.context import Context

_TRACEPARENT, _TRACESTATE = b"TRACEPARENT", b"TRACESTATE"


def with_context(block: bytes, context: Context | None = None) -> bytes:
    """An environment as a spec has it, with ``context`` in it, or the current one.

    A variable that is not as this process has it was given for this call, and stays as it is.
    """
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context)
    if not carrier:
        return block  # which several calls share
    pairs = [_variable(name) + os.fsencode(value) for name, value in carrier.items()]
    added = b"\0".join(pairs)
    if added.count(b"\0") >= len(pairs):
        raise ValueError("a propagator has written a NUL byte")
    if any(_variable(name) in block for name in carrier):
        return _replaced(block, dict(map(_split, pairs)))
    return block + b"\0" + added if block else added


@functools.cache
def _variable(name: str) -> bytes:
    """As it stands before its value."""
    return re.sub("[^A-Z0-9_]", "_", name.upper()).encode() + b"="


def _split(pair: bytes) -> tuple[bytes, bytes]:
    name, _, value = pair.partition(b"=")
    return name, value


def _replaced(block: bytes, carried: dict[bytes, bytes]) -> bytes:
    given: dict[bytes, bytes | None] = {**carried}
    if _TRACEPARENT in given:  # of which the other one is a part
        given.setdefault(_TRACESTATE, None)
    present = dict(map(_split, block.split(b"\0")))
    explicit = {name for name in present if present[name] != os.environb.get(name)}
    if _TRACEPARENT in explicit:
        explicit.add(_TRACESTATE)
    return with_variables(block, {name: given[name] for name in given if name not in explicit})
