"""How much room the logs take, and making some by hand, whether anything runs or not."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from attrs import frozen

from ..._rules.log_rotation import beyond
from ..._values.retention import Retention
from .query import services
from .record import directory_of
from .segments import segments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .segments import Segment


@frozen
class Usage:
    service: str
    segments: int
    bytes: int


def usage(logs: str, patterns: Sequence[str] = ()) -> list[Usage]:
    """Of each service that is meant, by name."""
    found = _segments(logs, patterns)
    return [_used(service, files) for service, files in found.items()]


def vacuum(
    logs: str,
    patterns: Sequence[str] = (),
    *,
    max_size: int | None = None,
    total_size: int | None = None,
    max_age: float | None = None,
) -> list[Usage]:
    """Remove the oldest segments, but of no service the newest, which may be written just now.

    :param max_size: bytes, of each service that is meant.
    :param total_size: bytes, of all of them together.
    :param max_age: seconds since something was last written to it.
    :returns: what has been removed.
    """
    found = _segments(logs, patterns)
    each = dict.fromkeys(found, Retention(max_bytes=max_size, max_age=max_age))
    newest = {files[0] for files in found.values() if files}
    going = beyond(found, each, Retention(max_bytes=total_size), time.time(), newest)
    removed = {
        service: [file for file in files if file in going and _remove(file)]
        for service, files in found.items()
    }
    return [_used(service, files) for service, files in removed.items() if files]


def _segments(logs: str, patterns: Sequence[str]) -> dict[str, list[Segment]]:
    return {
        service: segments(os.path.join(logs, directory_of(service)))
        for service in services(logs, patterns)
    }


def _used(service: str, files: Sequence[Segment]) -> Usage:
    return Usage(service, len(files), sum(file.size for file in files))


def _remove(file: Segment) -> bool:
    try:
        os.unlink(file.path)
    except FileNotFoundError:  # compressed or removed by the daemon, just now
        return False
    return True
