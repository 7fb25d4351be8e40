"""Services in a file: ``agentsup.toml``, as :func:`load` reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._lazy import load as _load

if TYPE_CHECKING:
    from .finding import find_config, place
    from .json_schema import schema
    from .loading import load
    from .values import (
        Config,
        DaemonConfig,
        LogsConfig,
        ServiceConfig,
        SupervisorConfig,
        TcpConfig,
    )

__all__ = [
    "Config",
    "DaemonConfig",
    "LogsConfig",
    "ServiceConfig",
    "SupervisorConfig",
    "TcpConfig",
    "find_config",
    "load",
    "place",
    "schema",
]

_MODULES = {
    "finding": ["find_config", "place"],
    "json_schema": ["schema"],
    "loading": ["load"],
    "values": [
        "Config",
        "DaemonConfig",
        "LogsConfig",
        "ServiceConfig",
        "SupervisorConfig",
        "TcpConfig",
    ],
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    return _load(globals(), _HOMES, name)


def __dir__() -> list[str]:
    return __all__
