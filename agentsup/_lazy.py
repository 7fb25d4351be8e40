"""Names of a package that are imported when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def load(namespace: dict[str, Any], homes: Mapping[str, str], name: str) -> Any:
    """The attribute ``name`` of the package with this namespace, which keeps it.

    :param homes: the modules of its names, relative to it.
    """
    package = namespace["__name__"]
    if name not in homes:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    value = namespace[name] = getattr(importlib.import_module(f".{homes[name]}", package), name)
    return value
