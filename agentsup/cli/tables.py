"""Services and trees as text: for people, and for awk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

COLOURS = {
    "active": "green",
    "reloading": "cyan",
    "activating": "cyan",
    "deactivating": "cyan",
    "backoff": "yellow",
    "failed": "red",
    "inactive": "bright_black",
}

_ASCII = str.maketrans({"├": "|", "└": "`", "│": "|", "─": "-"})


def rows(services: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A line each: service, state, ready, pid, seconds up, restarts, remark; ``-`` for none."""
    for service in services:
        up = service["uptime"]
        yield fields(
            service["path"],
            service["state"],
            "yes" if service["ready"] else "no",
            service["pid"],
            None if up is None else int(up),
            service["restarts"],
            _remark(service),
        )


def fields(*values: object) -> str:
    """Values with a tab between them, and none of them empty."""
    return "\t".join(printable(str("" if value is None else value)) or "-" for value in values)


def show_services(services: Iterable[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("service", "state", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for title in ("pid", "uptime", "restarts"):
        table.add_column(title, justify="right")
    table.add_column("", overflow="ellipsis", no_wrap=True)
    for service in services:
        state = service["state"]
        if state == "active" and not service["ready"]:
            state = "active, not ready"
        row = (service["pid"], span(service["uptime"]), service["restarts"], _remark(service))
        table.add_row(
            Text(service["path"]),
            Text(state, COLOURS.get(service["state"], "")),
            *(Text("" if value is None else printable(str(value))) for value in row),
        )
    Console().print(table)


def branches(node: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every node of a tree, after the lines that lead to it."""
    yield "", node
    children = node.get("children", ())
    for child in children[:-1]:
        yield from _led(child, "├─", "│ ")
    for child in children[-1:]:
        yield from _led(child, "└─", "  ")


def _led(node: Mapping[str, Any], first: str, rest: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    lead = first
    for lines, below in branches(node):
        yield lead + lines, below
        lead = rest


def in_charset(lines: str, encoding: str) -> str:
    """The lines of a tree as this encoding can show them."""
    try:
        lines.encode(encoding)
    except UnicodeEncodeError:
        return lines.translate(_ASCII)
    return lines


def span(seconds: float | None) -> str:
    """A time in its two largest units: ``1h 02m``."""
    if seconds is None:
        return ""
    whole = int(seconds)
    for size, unit, part, smaller in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // part:02}{smaller}"
    return f"{whole}s"


def printable(text: str) -> str:
    """Text of a service, without what would move the cursor or end the row."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def _remark(service: Mapping[str, Any]) -> str:
    if service["next_start_in"] is not None:
        return f"next start in {service['next_start_in']:.1f} s"
    return service["status_text"] or ""
