"""One process of a shell: its descriptors, and what goes through them.

It is one call of the supervisor, which carries it on in the background.  A turn begins and ends by
what goes through its input and its status pipe (``dialects.py``).
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import sys
from typing import TYPE_CHECKING

import anyio
from attrs import evolve

from .._calls.call import Call
from .._calls.spec import with_variables
from .._errors import AgentsupError, os_error
from .._levels.hold import words
from .._rules.call import KILL_BOUND
from .._values.result import Outcome
from .dialects import WITH_TERMINAL
from .terminal import Pty

if sys.platform == "linux":  # elsewhere this can be imported, and a Shell says the rest
    from .._linux.keeper import command_line
    from .._linux.members import age, ended, living, newer, signal_together

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._calls.spec import Spec
    from .._linux.members import Member
    from .dialects import Dialect
    from .terminal import Terminal
    from .turn import Turn

#: Seconds that a shell has to begin, and to say what a terminal has to say at its end.
_BEGINNING, _DRAINING = 60.0, 5.0
#: Seconds to come back after all that it waited for was killed; it is asked again after each.
_COMING_BACK = (0.1, 0.4, 1.5)
#: Seconds in which a process may still be the shell's copy, which takes note of an interrupt and
#: then becomes a program that has not.
_YOUTH = 0.05
#: Of processes that start new ones as fast as they are killed.
_WAVES = 20
_KEPT_BETWEEN = 8192


class Session:
    """Made, it has not been started; closed, it must have ended."""

    def __init__(self, spec: Spec, dialect: Dialect, terminal: Terminal | None) -> None:
        self.turn: Turn | None = None
        #: Of the last line that says a status.
        self.last_said = -1
        self._last_heard = -1
        self._heard = anyio.Event()
        self._statuses: dict[int, int] = {}  # whose marks are still to come
        self._dialect = dialect
        self._over = anyio.Event()
        self._started = self._given_up = False
        self._between = {"stdout": bytearray(), "stderr": bytearray()}
        self._pty: Pty | None = None
        self._fds: list[int] = []  # ours
        self._passed: list[int] = []  # ours until it has been started
        try:
            self.call = Call(self._equip(spec, terminal), eager=True)
        except OSError as error:
            self.close()
            if isinstance(error, AgentsupError):
                raise
            raise os_error(error, "the shell's descriptors could not be made") from None
        self.call.on_change = self._on_change
        self.call.watch(self._status_fd, self._on_status)
        if self._pty:
            self.call.watch(self._pty.near, self._on_terminal)

    def _equip(self, spec: Spec, terminal: Terminal | None) -> Spec:
        dialect = self._dialect
        self._command_fd = os.memfd_create("agentsup-command")
        self._fds.append(self._command_fd)
        stdin, self._input_fd = os.pipe()
        self._fds.append(self._input_fd)
        self._passed.append(stdin)
        self._status_fd, status = os.pipe()
        self._fds.append(self._status_fd)
        self._passed.append(status)
        os.set_blocking(self._input_fd, False)
        os.set_blocking(self._status_fd, False)
        passed = [(self._command_fd, dialect.command), (status, dialect.status)]
        variables: dict[bytes, bytes | None] = {b"ENV": None}  # what an interactive sh(1) reads
        if terminal:
            uid = re.search(rb"(?:^|\0)uid=(\d+)", spec.options)
            self._pty = Pty(terminal, int(uid[1]) if uid else None)
            variables[b"TERM"] = terminal.name.encode()
        spec = evolve(spec, stdin=stdin, env=with_variables(spec.env, variables))
        if dialect.terminal is not None:
            near, far = os.openpty()
            self._fds.append(near)
            self._passed.append(far)
            passed.append((far, dialect.terminal))
            script = WITH_TERMINAL.format(dialect.terminal).encode()
            spec.argv = [b"/bin/sh", b"-c", script, b"sh", spec.program, *spec.argv[1:]]
            spec.program = spec.argv[0]
        spec.passed = tuple(passed)
        return spec

    async def begin(self, host: Callable[[Call, anyio.Event], Awaitable[object]]) -> bool:
        """Have ``host`` carry it on; whether it is a shell, that is, answers."""
        await host(self.call, self._over)
        self._started = True
        for stream, reader in zip(("stdout", "stderr"), self.call.readers, strict=False):
            reader.sink = functools.partial(self._on_output, stream)
        self._close_passed()
        with contextlib.suppress(OSError):  # it has ended
            path = self._pty.path if self._pty else None
            os.write(self._input_fd, self._dialect.opening(path).encode())
            self.say()
        with anyio.move_on_after(_BEGINNING):
            await self._hear(self.last_said)
        for printed in self._between.values():
            printed.clear()  # of no command
        return self._last_heard == self.last_said and not self.ended

    @property
    def ended(self) -> bool:
        """There will be no more turns."""
        return self._given_up or self.call.finished

    @property
    def pid(self) -> int | None:
        return self.call.pid

    def cwd(self) -> bytes | None:
        """Where it is, if that can be told."""
        try:
            return os.fsencode(os.readlink(f"/proc/{self.pid}/cwd"))
        except OSError:
            return None

    # --- what it is told ----------------------------------------------------------------------

    def send(self, turn: Turn, text: bytes, last_status: int, *, merge_stderr: bool) -> None:
        """Have it run this. It reads it when it comes to that."""
        self.turn = turn
        for stream, printed in self._between.items():
            if printed:
                turn.feed(stream, bytes(printed))
                printed.clear()
        merge_stderr = merge_stderr or self._pty is not None
        line = self._dialect.turn(
            last_status, merge_stderr=merge_stderr, terminal=self._pty is not None
        )
        try:
            os.ftruncate(self._command_fd, 0)
            os.pwrite(self._command_fd, text + self._dialect.end, 0)
            os.lseek(self._command_fd, 0, os.SEEK_SET)
            os.write(self._input_fd, line.encode() + self._next_line())
        except OSError:  # it is gone
            turn.lose_shell()

    def say(self) -> None:
        """Have it say its status once more: it may have forgotten what it has read before."""
        with contextlib.suppress(OSError):
            os.write(self._input_fd, self._next_line())

    def _next_line(self) -> bytes:
        self.last_said += 1
        mark = self._pty.mark(self.last_said) if self._pty else None
        return self._dialect.say(self.last_said, mark).encode()

    async def type(self, turn: Turn, data: bytes) -> None:
        """On its terminal, as far as the turn lasts."""
        assert self._pty
        if b"\x03" in data:
            self.say()  # after an interrupt
        near = os.dup(self._pty.near)
        try:
            while data and self.turn is turn:
                try:
                    data = data[os.write(near, data) :]
                except BlockingIOError:
                    await anyio.wait_writable(near)
                except OSError:
                    break  # it is gone
        finally:
            os.close(near)

    def resize(self, terminal: Terminal) -> None:
        if self._pty:
            self._pty.resize(terminal)

    # --- what it says -------------------------------------------------------------------------

    def _on_output(self, stream: str, chunk: bytes | memoryview) -> None:
        if self.turn:
            self.turn.feed(stream, chunk)
        else:
            printed = self._between[stream]
            printed += chunk
            del printed[:-_KEPT_BETWEEN]

    def _on_status(self) -> None:
        try:
            said = os.read(self._status_fd, 4096)
        except BlockingIOError:
            return
        if not said:  # it has closed its end
            self.call.unwatch(self._status_fd)
        for line in said.split(b"\n"):
            # A command that looks for it can write here, too.
            found = re.fullmatch(rb"(\d{1,9}) (\d{1,18})", line)
            if found and self._last_heard < int(found[2]) <= self.last_said:
                self._statuses[int(found[2])] = int(found[1])
        if not self._pty:
            for number in sorted(self._statuses):
                self._on_said(number)

    def _on_terminal(self) -> None:
        assert self._pty
        try:
            self._pty.read(functools.partial(self._on_output, "stdout"), self._on_mark)
        except OSError:  # hung up
            self.call.unwatch(self._pty.near)

    def _on_mark(self, number: int) -> None:
        self._on_status()  # it was said before
        self._on_said(number)

    def _on_said(self, number: int) -> None:
        status = self._statuses.pop(number, None)
        self._last_heard = number
        turn = self.turn
        if turn and turn.status is None and number >= turn.number and status is not None:
            for reader in list(self.call.readers):
                reader.read_rest()  # what it has printed is in the pipe, for it came before this
            turn.ended(status)
        self._tell()

    def _on_change(self) -> None:
        if self.call.finished:
            self._tell()
            if self.turn:
                self.turn.lose_shell()

    def _tell(self) -> None:
        self._heard.set()
        self._heard = anyio.Event()

    async def _hear(self, number: int) -> None:
        while self._last_heard < number and not self.ended:
            await self._heard.wait()

    async def come_back(self) -> bool:
        """Whether it has said all that it was asked: a signal may have made it forget that."""
        for seconds in _COMING_BACK:
            with anyio.move_on_after(seconds):
                await self._hear(self.last_said)
                return True
            self.say()
        return False

    def end_turn(self, turn: Turn) -> None:
        """It is over, whichever way."""
        self.turn = None
        if self._pty:
            self._pty.reset(modes=turn.rule.outcome is not None)

    # --- what it has started ------------------------------------------------------------------

    def members(self) -> list[Member]:
        """The processes of its tree but itself, parents before children."""
        return living(pid for pid in self.call.members() if pid != self.pid)

    def signal(self, turn: Turn, number: int) -> bool:
        """Signal what the command has started; the shell as well, if it is a SIGINT.

        False if it may be lost, on a shell or a process that is about to begin with something.
        OSError if it cannot be done."""
        if number == signal.SIGINT:
            with contextlib.suppress(ProcessLookupError):
                self.call.signal_main(number)
            self.say()
        found = signal_together(lambda: self._started_by(turn), number)
        return bool(found) and all(age(member) > _YOUTH for member in found)

    async def kill(self, turn: Turn) -> bool:
        """SIGKILL to what the command has started, until nothing of it is left; whether that is so.

        OSError if that cannot be done."""

        def look() -> list[Member]:
            members = self._started_by(turn)
            for member in members:
                turn.note_killed(member, words(command_line(member.pid)))
            return members

        with anyio.move_on_after(KILL_BOUND):
            for _ in range(_WAVES):
                found = look()
                if not found:
                    return True
                ours = signal_together(look, signal.SIGKILL)
                turn.spared.update(member for member in found if member not in ours)
                for member in ours:
                    await ended(member)
        return False

    def _started_by(self, turn: Turn) -> list[Member]:
        members = newer(self.members(), turn.before)
        return [member for member in members if member not in turn.spared]

    # --- its end ------------------------------------------------------------------------------

    def give_up(self) -> None:
        """It is of no use any more."""
        self._given_up = True
        if self._started and not self.call.finished:
            self.call.stop(Outcome.STOPPED, within=0.0)

    async def end(self) -> None:
        """End it by its escalation, or at once if it was given up, and hear the last of it."""
        if not self._started:
            return
        if not self.call.finished:
            self.call.stop(Outcome.STOPPED)
        await self._over.wait()
        if self._pty and self.turn:
            self.last_said += 1
            with contextlib.suppress(OSError), anyio.move_on_after(_DRAINING):
                self._pty.print_mark(self.last_said)
                while self._last_heard < self.last_said:
                    await anyio.wait_readable(self._pty.near)
                    self._on_terminal()

    def close(self) -> None:
        """Let go of the descriptors. May be repeated."""
        self._close_passed()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        pty, self._pty = self._pty, None
        if pty:
            pty.close()

    def _close_passed(self) -> None:
        for fd in self._passed:
            os.close(fd)
        self._passed.clear()
