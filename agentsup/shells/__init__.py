"""Shells for agents: what a command changes stays for the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._lazy import load

if TYPE_CHECKING:
    from .shell import Shell, ShellResult
    from .terminal import Terminal

__all__ = ["Shell", "ShellResult", "Terminal"]

_HOMES = {"Shell": "shell", "ShellResult": "shell", "Terminal": "terminal"}


def __getattr__(name: str) -> Any:
    return load(globals(), _HOMES, name)


def __dir__() -> list[str]:
    return __all__
