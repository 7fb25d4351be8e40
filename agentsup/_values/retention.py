"""How much of the past is kept."""

from __future__ import annotations

from attrs import Attribute, field, frozen

from .number import seconds, whole


def _check_bytes(_: Retention, attribute: Attribute[int | None], value: int | None) -> None:
    whole(f"Retention.{attribute.name}", value, "bytes")


def _check_age(_: Retention, attribute: Attribute[float | None], value: float | None) -> None:
    seconds(f"Retention.{attribute.name}", value)


def _check_files(_: Retention, attribute: Attribute[int | None], value: int | None) -> None:
    whole(f"Retention.{attribute.name}", value, "files", least=1)


@frozen
class Retention:
    """Bounds for what is kept of the past; the newest is always kept. None is no bound.

    :param max_bytes: bytes, over all files together.
    :param max_age: seconds, by the clock on the wall.
    :param max_files: files. A ledger is one, whatever it holds.
    """

    max_bytes: int | None = field(default=None, kw_only=True, validator=_check_bytes)
    max_age: float | None = field(default=None, kw_only=True, validator=_check_age)
    max_files: int | None = field(default=None, kw_only=True, validator=_check_files)
