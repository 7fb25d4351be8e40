"""``subprocess`` under a supervisor: what code starts with it in a block is held, as it is."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from .._tree.blocking import SyncSupervisor
from ._shim import Block

if TYPE_CHECKING:
    from collections.abc import Generator

    from .._values.limits import Limits


@contextlib.contextmanager
def install(
    supervisor: SyncSupervisor, *, grace: float = 5.0, limits: Limits | None = None
) -> Generator[None]:
    """In the block, ``subprocess.run``, ``Popen`` and the like run under ``supervisor``.

    It holds for the code that the block calls, in this thread. What that has started ends with the
    block: its whole tree, and what outlives a main process soon after that one. An argument that
    cannot be had under a supervisor is a ValueError: ``preexec_fn``, ``close_fds=False``,
    ``restore_signals=False``, ``process_group`` of others.

    :param grace: seconds between SIGTERM and SIGKILL at the end of the block.
    :param limits: what each program may use.
    """
    if not isinstance(supervisor, SyncSupervisor):  # pyright: ignore[reportUnnecessaryIsInstance] -- input
        kind = type(supervisor).__name__
        hint = ": use agentsup.ext.asyncio or .anyio" if kind == "Supervisor" else ""
        raise TypeError(f"supervisor must be an agentsup.SyncSupervisor, not {kind}{hint}")
    check_open = supervisor._check_open  # pyright: ignore[reportPrivateUsage] -- of one package
    make_spec = supervisor._make_spec  # pyright: ignore[reportPrivateUsage] -- of one package
    block = Block(check_open, make_spec, grace, limits)
    block.open()
    try:
        yield
    finally:
        block.close()
        _end(block)


def _end(block: Block) -> None:
    held = list(block.running)
    try:
        for each in held:
            each.stop()
        for each in held:
            each.wait_over()
    finally:
        for each in held:
            each.abandon()
        block.forget()
