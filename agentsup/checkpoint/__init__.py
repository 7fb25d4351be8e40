"""What an agent still knows after it was killed: checkpoints of its state, a ledger of its steps,
the services that it had.

The names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._lazy import load

if TYPE_CHECKING:
    from .._rules.ledger import StepState
    from .._values.retention import Retention
    from .codecs import AttrsCodec, BytesCodec, Codec, JsonCodec
    from .file import Checkpoint
    from .history import LedgerStep
    from .ledger import Ledger, OpenStep
    from .tree import Tree, resume

__all__ = [
    "AttrsCodec",
    "BytesCodec",
    "Checkpoint",
    "Codec",
    "JsonCodec",
    "Ledger",
    "LedgerStep",
    "OpenStep",
    "Retention",
    "StepState",
    "Tree",
    "resume",
]

_MODULES = {
    "codecs": ["AttrsCodec", "BytesCodec", "Codec", "JsonCodec"],
    "file": ["Checkpoint"],
    "history": ["LedgerStep"],
    "ledger": ["Ledger", "OpenStep"],
    "tree": ["Tree", "resume"],
    "._rules.ledger": ["StepState"],
    "._values.retention": ["Retention"],
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    return load(globals(), _HOMES, name)


def __dir__() -> list[str]:
    return __all__
