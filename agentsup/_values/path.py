"""Checks of paths, each with an error that names the argument."""

from __future__ import annotations

import os


def to_path(name: str, value: str | os.PathLike[str]) -> str:
    """``value`` as a path that a file can have."""
    path: object = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise TypeError(f"{name} must be a str or a path object, not {value!r}")
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} cannot be encoded: {error}") from None
    if not encoded or b"\0" in encoded:
        raise ValueError(f"{name} must be the path of a file, not {value!r}")
    return path
