"""What a supervisor held, and what its services printed, as sections of a failed test's report."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .._services.handle import ServiceHandle
    from .._tree.supervisor import Node
    from .plugin import Section

_CHARACTERS = 4000  # of the output of a service
_SERVICES = 20
_LINES = 100


def describe(services: Mapping[ServiceHandle, str], tree: Iterable[Node]) -> list[str]:
    """A line for each service that there was, and for each call that there is now."""
    return [
        *(
            _line("service", name, one.state.value, one.pid, one.status_text)
            for one, name in services.items()
        ),
        *_calls(tree),
    ]


def _calls(nodes: Iterable[Node], above: str = "") -> Iterator[str]:
    for node in nodes:
        if node.kind in ("call", "adopted"):
            yield _line(node.kind, above + node.name, "", node.pid, shlex.join(node.argv))
            for one in node.adopted:
                yield f"  pid {one.pid}: {shlex.join(one.argv)}"
        yield from _calls(node.children, f"{above}{node.name}/")


def _line(kind: str, name: str, state: str, pid: int | None, rest: str) -> str:
    notes = ", ".join(filter(None, [f"pid {pid}" if pid else "", rest]))
    return f"{kind} {name}{state and f': {state}'}{notes and f' ({notes})'}"


def sections(services: Mapping[ServiceHandle, str], lines: list[str]) -> Iterator[Section]:
    """What there was, and the last that each of these services has printed."""
    if lines:
        yield "the supervisor", _shortened(lines)
    for service, name in list(services.items())[-_SERVICES:]:
        if output := service.output:
            yield f"service {name}", output[-_CHARACTERS:]


def _shortened(lines: list[str]) -> str:
    left_out = len(lines) - _LINES
    return "\n".join([*lines[:_LINES], *([f"… {left_out} more"] if left_out > 0 else [])])
