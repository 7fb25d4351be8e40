"""What a call's processes orphan comes to the keeper, and is known by its tag.

All of it is in the keeper itself, and any user may have it.
"""

from __future__ import annotations

from .._errors import UnsupportedPlatform
from .._platform import require_linux
from . import Missing


def missing() -> Missing | None:
    try:
        require_linux()
    except UnsupportedPlatform as error:
        return Missing(str(error), "PROCESS_GROUP is what there is")
    return None


def options() -> tuple[str, ...]:
    return ()
