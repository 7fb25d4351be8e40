"""``anyio.open_process`` and the like under a supervisor, on asyncio, uvloop and trio.

On trio, its processes are built on ``subprocess.Popen``; on asyncio, see ``asyncio.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from . import asyncio as on_asyncio
from ._async_block import hold

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from .._tree.supervisor import Supervisor
    from .._values.limits import Limits


@contextlib.asynccontextmanager
async def install(
    supervisor: Supervisor, *, grace: float = 5.0, limits: Limits | None = None
) -> AsyncGenerator[None]:
    """As :func:`agentsup.ext.asyncio.install`, on trio too: there, what ``trio.run_process``,
    ``trio.lowlevel.open_process`` and anyio's start in the block runs under ``supervisor``."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        holding = hold(supervisor, grace, limits)
    else:
        holding = on_asyncio.install(supervisor, grace=grace, limits=limits)
    async with holding:
        yield
