"""``asyncio``'s processes under a supervisor: what code starts with them in a block is held.

asyncio's own transport is used, over a ``subprocess.Popen`` that is held; how that has ended is
told by the call, in the place of asyncio's child watcher. uvloop has a transport of its own, which
forks by itself: it has asyncio's in the block.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from asyncio.base_subprocess import BaseSubprocessTransport
from typing import TYPE_CHECKING, Any

from ._async_block import hold
from ._shim import Block, held_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from .._tree.supervisor import Supervisor
    from .._values.limits import Limits

    Loop = asyncio.AbstractEventLoop
    Start = Callable[..., Awaitable[tuple[asyncio.SubprocessTransport, Any]]]


@contextlib.asynccontextmanager
async def install(
    supervisor: Supervisor, *, grace: float = 5.0, limits: Limits | None = None
) -> AsyncGenerator[None]:
    """In the block, ``asyncio.create_subprocess_exec`` and the like run under ``supervisor``.

    So do anyio's, and ``subprocess``'s own: see :func:`agentsup.ext.subprocess.install`. It holds
    for the code that the block calls, and for the tasks and ``to_thread`` calls that this starts,
    as long as the block lasts. What they have started ends with the block.

    :param grace: seconds between SIGTERM and SIGKILL at the end of the block.
    :param limits: what each program may use.
    """
    loop = asyncio.get_running_loop()
    async with hold(supervisor, grace, limits):
        _patch(loop)
        try:
            yield
        finally:
            _restore(loop)


_METHODS = {"subprocess_exec": False, "subprocess_shell": True}
_blocks: dict[Loop, int] = {}


def _patch(loop: Loop) -> None:
    _blocks[loop] = _blocks.get(loop, 0) + 1
    if _blocks[loop] == 1:
        for name, shell in _METHODS.items():
            setattr(loop, name, _starter(loop, shell, getattr(loop, name)))


def _restore(loop: Loop) -> None:
    _blocks[loop] -= 1
    if not _blocks[loop]:
        del _blocks[loop]
        for name in _METHODS:
            delattr(loop, name)


def _starter(loop: Loop, shell: bool, original: Start) -> Start:
    async def start(
        protocol_factory: Callable[[], Any], *words: Any, **options: Any
    ) -> tuple[asyncio.SubprocessTransport, Any]:
        if Block.current() is None:
            return await original(protocol_factory, *words, **options)
        if shell:
            (command,) = words
            if not isinstance(command, (str, bytes)):
                raise ValueError("cmd must be a string")
            return await _start(loop, protocol_factory, command, shell, options)
        return await _start(loop, protocol_factory, words, shell, options)

    return start


_PIPES = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
_FIXED = {
    "universal_newlines": False,
    "bufsize": 0,
    "text": False,
    "encoding": None,
    "errors": None,
}


async def _start(
    loop: Loop,
    protocol_factory: Callable[[], Any],
    command: Any,
    shell: bool,
    options: dict[str, Any],
) -> tuple[asyncio.SubprocessTransport, Any]:
    for name, only in {**_FIXED, "shell": shell}.items():
        if options.pop(name, only) not in (only, None):
            raise ValueError(f"{name} must be {only}")
    protocol = protocol_factory()
    waiter: asyncio.Future[None] = loop.create_future()
    options = {**_PIPES, **options, "shell": shell, "bufsize": 0, "waiter": waiter}
    transport = _Transport(loop, protocol, command, **options)
    try:
        await waiter
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException:
        transport.close()
        await transport._wait()
        raise
    return transport, protocol


class _Transport(BaseSubprocessTransport):
    def _start(
        self,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        **options: Any,
    ) -> None:
        pipes = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        self._proc = subprocess.Popen(args, shell=shell, bufsize=bufsize, **pipes, **options)
        held = held_of(self._proc)
        assert held
        held.on_exit = self._process_exited
