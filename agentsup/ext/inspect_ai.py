"""A sandbox type for Inspect AI: ``Task(…, sandbox="agentsup")``, or ``--sandbox agentsup``.

As Inspect's own ``"local"`` it runs commands on this machine, in a directory of their own, which
nobody is kept from leaving: it holds processes, it is no jail.  What a command has left in the
background (``nohup server &``) is there for the next ones of its sample, and ends with that.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import pwd
import sys
import tempfile
from typing import TYPE_CHECKING, Literal, overload

import anyio

from .._errors import SpawnError
from .._shielded import wait_through
from .._tree.supervisor import Supervisor
from .._values.output import OutputPolicy
from .._values.result import Outcome
from ._extra import extra

with extra("inspect"):
    from inspect_ai.util import (
        ExecResult,
        OutputLimitExceededError,
        SandboxEnvironment,
        SandboxEnvironmentConfigType,
        SandboxEnvironmentLimits,
        SandboxUserUnsupportedError,
        concurrency,
        sandboxenv,
    )
    from inspect_ai.util._subprocess import (
        max_subprocesses_context_var,  # pyright: ignore[reportPrivateUsage] -- of the eval; no other way
    )

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._values.result import Result


class AgentsupSandbox(SandboxEnvironment):
    """The sandbox of one sample: a supervisor and a directory, which both end with it.

    Commands get the environment of ``env="minimal"``: the keys of the model's provider are not in
    it. Another ``user`` takes root. ``timeout_retry`` is not heeded: nothing is lost on the way to
    a command here, so one that has taken too long would do so again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.supervisor = Supervisor()
        self.directory = ""
        self._ready, self._over, self._ended = anyio.Event(), anyio.Event(), anyio.Event()
        self._failure: Exception | None = None
        self._task: object = None

    @classmethod
    async def sample_init(
        cls,
        task_name: str,
        config: SandboxEnvironmentConfigType | None,
        metadata: dict[str, str],
    ) -> dict[str, SandboxEnvironment]:
        sandbox = cls()
        sandbox._task = _start_task(sandbox._live)
        try:
            await sandbox._ready.wait()
        except BaseException:
            await sandbox._end()
            raise
        if sandbox._failure is not None:
            raise sandbox._failure
        return {"default": sandbox}

    @classmethod
    async def sample_cleanup(
        cls,
        task_name: str,
        config: SandboxEnvironmentConfigType | None,
        environments: dict[str, SandboxEnvironment],
        interrupted: bool,
    ) -> None:
        for environment in environments.values():
            await environment.as_type(AgentsupSandbox)._end()

    async def _live(self) -> None:
        """In a task of its own: a sample's beginning and end are not one block."""
        try:
            with tempfile.TemporaryDirectory(prefix="agentsup-", ignore_cleanup_errors=True) as own:
                os.chmod(own, 0o755)  # for `user`
                self.directory = own
                async with self.supervisor:
                    self._ready.set()
                    await self._over.wait()
        except Exception as error:
            self._failure = error
        finally:
            self._ready.set()
            self._ended.set()

    async def _end(self) -> None:
        self._over.set()
        await wait_through(self._ended)

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        most = SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE
        account = None if user is None else _account(user)
        async with _turn() if concurrency else contextlib.nullcontext():
            try:
                result = await self.supervisor.run(
                    cmd,
                    stdin=input.encode() if isinstance(input, str) else input,
                    cwd=self._path(cwd or ""),
                    env="minimal",
                    extend_env=env,
                    user=account,
                    timeout=timeout,
                    output=OutputPolicy(head=most, tail=0, limit=2 * most),
                    leftovers="adopt",
                )
            except PermissionError:
                raise
            except (SpawnError, ValueError) as error:
                return _not_started(error)
        if result.outcome is Outcome.TIMED_OUT:
            raise TimeoutError(f"{result.name}: {result.reason}")
        _check_size(result, most)
        return _exec_result(result)

    async def write_file(self, file: str, contents: str | bytes) -> None:
        data = contents.encode() if isinstance(contents, str) else contents
        _write(self._path(file), data)

    @overload
    async def read_file(self, file: str, text: Literal[True] = True) -> str: ...

    @overload
    async def read_file(self, file: str, text: Literal[False]) -> bytes: ...

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        most = SandboxEnvironmentLimits.MAX_READ_FILE_SIZE
        data = _read(self._path(file), most + 1)
        if len(data) > most:
            raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, None)
        return data.decode() if text else data

    def default_polling_interval(self) -> float:
        return 0.2  # seconds; as for Inspect's local one

    def _path(self, path: str) -> str:
        return os.path.join(self.directory, path)


sandboxenv(name="agentsup")(AgentsupSandbox)  # as a decorator it would hide its type


def _start_task(work: Callable[[], Awaitable[None]]) -> object:
    """A task that nobody's block holds; the event loop ends it at the latest."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        return trio.lowlevel.spawn_system_task(work)
    return asyncio.ensure_future(work())


def _turn() -> contextlib.AbstractAsyncContextManager[object]:
    """A turn among the subprocesses of the eval (``max_subprocesses``)."""
    return concurrency("subprocesses", max_subprocesses_context_var.get(), resizable=True)


def _account(user: str) -> str | None:
    """The name of the user to become; None for the one that we are."""
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, ValueError, OverflowError):
        raise SandboxUserUnsupportedError(f"there is no user {user!r} on this system") from None
    if entry.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise SandboxUserUnsupportedError(f"only root can run a command as {user!r}")
    return entry.pw_name


def _not_started(error: SpawnError | ValueError) -> ExecResult[str]:
    """As a shell says it: what is wrong with a command is for whoever has written it."""
    missing = getattr(error, "errno", None) == errno.ENOENT
    return ExecResult(False, 127 if missing else 126, stdout="", stderr=f"{error}\n")


def _check_size(result: Result, most: int) -> None:
    largest = max(result.stdout, result.stderr, key=lambda output: output.total_bytes)
    if largest.total_bytes > most:
        limit = SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE_STR
        raise OutputLimitExceededError(limit, largest.head.decode("utf-8", "replace"))


def _exec_result(result: Result) -> ExecResult[str]:
    returncode = result.exit_code
    if returncode is None:
        returncode = 128 + (result.signal or 0)
    return ExecResult(result.ok, returncode, result.stdout.text, result.stderr.text)


def _write(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb", opener=_open_at_once) as file:
        file.write(data)


def _read(path: str, most: int) -> bytes:
    with open(path, "rb", opener=_open_at_once) as file:
        return file.read(most)


def _open_at_once(path: str, flags: int) -> int:
    """A pipe that nobody reads or writes would hold up the event loop."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)
