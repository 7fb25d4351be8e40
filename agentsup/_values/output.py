"""What is kept of what a tool prints."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeAlias

from attrs import Attribute, field, frozen

from .number import whole
from .retention import Retention

OnLine: TypeAlias = Callable[[str, str], object]

#: Room for hours of ordinary output, and no danger to an ordinary disk.
_SPILL_LIMIT = 256 * 1024**2
_SPILL_RETENTION = Retention(max_bytes=1024**3, max_files=4000)


def _bytes(default: int | None, *, or_none: bool = False) -> int:
    def check(_: OutputPolicy, attribute: Attribute[int | None], value: int | None) -> None:
        if value is None and not or_none:
            raise TypeError(f"OutputPolicy.{attribute.name} must be a number of bytes, not None")
        whole(f"OutputPolicy.{attribute.name}", value, "bytes")

    # None only with `or_none`, where the annotation says so.
    return field(default=default, kw_only=True, validator=check)  # type: ignore[return-value]


def _must(be: str, check: Callable[[Any], bool]) -> Callable[..., None]:
    def validate(_: OutputPolicy, attribute: Attribute[Any], value: Any) -> None:
        if not check(value):
            raise TypeError(f"OutputPolicy.{attribute.name} must be {be}, not {value!r}")

    return validate


_is_path = _must(
    "a str or a path object",
    lambda value: (
        value is None
        or (isinstance(value, (str, os.PathLike)) and isinstance(os.fspath(value), str))
    ),
)
_is_bool = _must("a bool", lambda value: isinstance(value, bool))
_is_retention = _must("a Retention", lambda value: value is None or isinstance(value, Retention))
_is_callable = _must("callable", lambda value: value is None or callable(value))


@frozen
class OutputPolicy:
    """How output is kept: the first and the last of it, in memory whose size does not depend on
    how much comes.

    :param head: bytes kept from the beginning of each stream.
    :param tail: bytes kept from its end.
    :param spill_dir: a directory for files that hold all of it, one a stream.
    :param spill_limit: bytes that one of these files may have, 256 MiB by default: it holds the
        beginning then, and ``Output.spill_error`` says that it was cut. None is no bound.
    :param spill_retention: bounds for all of these files in the directory, those of other calls
        and processes included: a new one makes the oldest go, but never one that is being
        written. 1 GiB in 4,000 files by default; None drops nothing, even when the disk is full.
    :param limit: bytes over both streams; one more ends the call with ``Outcome.OUTPUT_LIMIT``.
    :param merge_stderr: send stderr into stdout, in true order; ``result.stderr`` is then empty.
    :param on_line: called in the event loop with (``"stdout"`` or ``"stderr"``, the line without
        its end) for every line. Must not block. What it raises ends the call and goes on to the
        caller; it is not called again then. A line of more than 64 KiB comes in pieces of that
        size, or up to three bytes less, so that no character is cut.
    """

    head: int = _bytes(64 * 1024)
    tail: int = _bytes(64 * 1024)
    spill_dir: str | os.PathLike[str] | None = field(default=None, kw_only=True, validator=_is_path)
    spill_limit: int | None = _bytes(_SPILL_LIMIT, or_none=True)
    spill_retention: Retention | None = field(
        default=_SPILL_RETENTION, kw_only=True, validator=_is_retention
    )
    limit: int | None = _bytes(None, or_none=True)
    merge_stderr: bool = field(default=False, kw_only=True, validator=_is_bool)
    on_line: OnLine | None = field(default=None, kw_only=True, validator=_is_callable)


@frozen
class Output:
    """What was kept of one stream.

    If nothing was dropped, ``tail`` goes on where ``head`` ends.
    """

    head: bytes = b""
    tail: bytes = b""
    total_bytes: int = 0
    #: The file with all of it, where one was asked for.
    spill_path: str | None = None
    #: Why the file does not hold all of it (``spill_limit``, a full disk, …), or None.
    spill_error: str | None = None

    @property
    def truncated(self) -> bool:
        """Whether bytes between head and tail were dropped."""
        return self.total_bytes > len(self.head) + len(self.tail)

    @property
    def omitted_bytes(self) -> int:
        """How many bytes between head and tail were dropped."""
        return self.total_bytes - len(self.head) - len(self.tail)

    @property
    def text(self) -> str:
        """What was kept as text: UTF-8, with U+FFFD for what is not, and a note at the gap."""
        if not self.truncated:
            return (self.head + self.tail).decode("utf-8", "replace")
        gap = f"\n[… {self.omitted_bytes} bytes omitted …]\n"
        return decode_before_cut(self.head) + gap + decode_after_cut(self.tail)


def whole_characters(data: bytes) -> bytes:
    """``data`` without the first part of a character at its end."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:  # a leading byte: does all of its character stand before the cut?
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return data[:-back] if back < length else data
        if byte < 0x80:
            break
    return data


def decode_before_cut(data: bytes) -> str:
    """Decode bytes whose end may be the first part of a character."""
    return whole_characters(data).decode("utf-8", "replace")


def decode_after_cut(data: bytes) -> str:
    """Decode bytes that may begin in the middle of a character."""
    start = 0
    while start < min(3, len(data)) and 0x80 <= data[start] < 0xC0:
        start += 1
    return data[start:].decode("utf-8", "replace")
