"""The tools that a model is offered, whatever the framework: text in, text out.

What goes wrong with a command is told to the model, which can do something about it.  What goes
wrong with the supervisor is raised: that is the host's affair.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import TYPE_CHECKING

import anyio

from .._errors import SpawnError, SupervisorClosed
from .._values.command import shell
from .._values.number import seconds, whole
from .._values.render import shorten
from ..shells.shell import Shell

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType
    from typing import Self

    from .._calls.spec import CallOptions
    from .._tree.job import Job
    from .._tree.supervisor import Supervisor
    from .._values.output import OutputPolicy
    from .._values.result import Result
    from ..shells.shell import ShellResult


#: Characters of the name of a job, and of what is said of its state beside its output.
_NAME_MOST, _STATE_MOST = 60, 120


class Refused(str):
    """An answer that says why a tool has done nothing, for frameworks that mark such ones."""


class Toolbox:
    """A shell, programs and background jobs: ``async with Toolbox(sup) as tools:``.

    Each method is a tool. They may be called at the same time; commands of the shell wait in line.

    :param supervisor: runs them. Leaving the block ends the shell; jobs go on to the supervisor's
        end.
    :param timeout: seconds for a command where the model does not say.
    :param max_timeout: the most that the model may say.
    :param max_chars: the most characters of an answer.
    :param executable: the shell.
    :param options: for all that is started, what :class:`agentsup.shells.Shell` takes: ``env``,
        ``extend_env``, ``secrets``, ``cwd``, ``limits``, ``user`` and the like.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        timeout: float = 120.0,
        max_timeout: float = 3600.0,
        max_chars: int = 8000,
        executable: str = "bash",
        options: CallOptions | None = None,
    ) -> None:
        self.supervisor = supervisor
        self._timeout = seconds("timeout", timeout, zero=False)
        self._max_timeout = seconds("max_timeout", max_timeout, zero=False)
        self.max_chars = whole("max_chars", max_chars, "characters", least=200) or 8000
        self._executable = executable
        #: For whatever else is run for the model.
        self.options: CallOptions = options or {}
        self._shell: Shell | None = None
        self._changing = anyio.Lock()
        self._open = False
        self._new_shell()  # for its errors

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open = False
        with anyio.CancelScope(shield=True):  # ending a shell is bounded
            await self._end_shell()

    @property
    def tools(self) -> tuple[Callable[..., Awaitable[str]], ...]:
        """What a model is offered; each has its name, its signature and its words."""
        return self.bash, self.run, self.start, self.read, self.stop, self.jobs

    async def bash(
        self, command: str | None = None, timeout: float | None = None, restart: bool = False
    ) -> str:
        """Run a command in a shell session that keeps its directory and variables.

        :param command: shell code, any number of lines.
        :param timeout: seconds until it is interrupted.
        :param restart: begin with a new shell.
        """
        try:
            if restart:
                await self._end_shell()
            if command is None:
                return "[the shell is new]" if restart else Refused("error: command is missing")
            result = await self.in_shell(command, timeout)
        except (SpawnError, TypeError, ValueError) as error:
            return _error(error)
        return self._answer(result)

    async def in_shell(
        self, command: str, timeout: float | None = None, output: OutputPolicy | None = None
    ) -> ShellResult:
        """As :meth:`bash`, for the result itself; bad input is an error."""
        bound = self.bound(timeout)
        while True:
            shell = await self._current_shell()
            try:
                return await shell.run(command, timeout=bound, output=output)
            except SupervisorClosed:
                if shell is self._shell:
                    raise
                # It was in line, and another one has asked for a new shell.

    async def _current_shell(self) -> Shell:
        async with self._changing:  # tools may be called at the same time, the first time too
            if not self._open:
                raise SupervisorClosed("this Toolbox is not open: use it within 'async with'")
            if self._shell is None:
                self._shell = await self._new_shell().__aenter__()
            return self._shell

    def _new_shell(self) -> Shell:
        return Shell(self.supervisor, executable=self._executable, **self.options)

    async def _end_shell(self) -> None:
        async with self._changing:
            shell, self._shell = self._shell, None
            if shell:
                await shell.__aexit__(None, None, None)

    async def run(self, argv: list[str], stdin: str = "", timeout: float | None = None) -> str:
        """Run a program without a shell.

        :param argv: the program and its arguments.
        :param stdin: what it reads.
        :param timeout: seconds until it is stopped.
        """
        try:
            bound = self.bound(timeout)
            options: CallOptions = {**self.options, "stdin": stdin.encode(), "timeout": bound}
            result = await self.supervisor.run(argv, **options)
        except (SpawnError, TypeError, ValueError) as error:
            return _error(error)
        return self._answer(result)

    async def start(self, command: str) -> str:
        """Start a command in the background, for a server or anything that takes long.

        :param command: shell code.
        """
        try:
            words = shell(command, executable=self._executable)
            name = textwrap.shorten(command, _NAME_MOST, placeholder=" …")
            options: CallOptions = {"name": name, **self.options}
            job = await self.supervisor.background(words, **options)
        except (SpawnError, TypeError, ValueError) as error:
            return _error(error)
        return f"[{job.id} runs, pid {job.pid}]"

    async def read(self, job_id: str, wait: float = 0.0, lines: int | None = None) -> str:
        """What a background job has printed since it was last read.

        :param job_id: its id.
        :param wait: seconds to wait for its end first.
        :param lines: only its last so many lines, whether they were read or not.
        """
        job = self.supervisor.jobs.get(job_id)
        if job is None:
            return self._no_such(job_id)
        try:
            if wait:
                await job.wait(self.bound(wait))
            room = self.max_chars - _STATE_MOST
            text = job.read_new(room) if lines is None else job.tail(lines, room)
        except (TypeError, ValueError) as error:
            return _error(error)
        if text and not text.endswith("\n"):
            text += "\n"
        more = f"; {job.unread} bytes more to read" if job.unread and lines is None else ""
        return f"{text}[{job.id}: {job.state}{more}]"

    async def stop(self, job_id: str) -> str:
        """Stop a background job, and all that it has started.

        :param job_id: its id.
        """
        job = self.supervisor.jobs.get(job_id)
        if job is None:
            return self._no_such(job_id)
        await job.stop()
        return await self.read(job_id)

    async def jobs(self) -> str:
        """The background jobs: those that run, and the last ones that have ended."""
        lines = "\n".join(map(_line, self.supervisor.jobs.values()))
        return shorten(lines, self.max_chars) or "[no jobs]"

    def bound(self, timeout: float | None) -> float | None:
        """Seconds for a command, where the model says so many."""
        if timeout is None:
            return self._timeout
        bounds = seconds("timeout", timeout), self._max_timeout
        return min((bound for bound in bounds if bound is not None), default=None)

    def _answer(self, result: Result) -> str:
        return result.for_model(self.max_chars)

    def _no_such(self, job_id: object) -> str:
        known = ", ".join(self.supervisor.jobs) or "there are none"
        return Refused(f"error: no job {job_id!r}: {known}")


def described(tool: Callable[..., Awaitable[str]]) -> tuple[str, dict[str, str]]:
    """What a model is told of a tool, and of each of its parameters."""
    text, *parts = re.split(r"^:param (\w+): ", inspect.getdoc(tool) or "", flags=re.M)
    texts = [" ".join(part.split()) for part in parts[1::2]]
    return text.strip(), dict(zip(parts[::2], texts, strict=True))


def _error(error: Exception) -> Refused:
    return Refused(f"error: {error}")


def _line(job: Job) -> str:
    silence = "has printed nothing"
    if job.silence is not None:
        silence = f"last output {job.silence:.0f} s ago"
    return f"{job.id}: {job.name}: {job.state}; started {job.age:.0f} s ago, {silence}"
