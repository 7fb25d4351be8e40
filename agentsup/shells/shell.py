"""A shell that lives on between commands, and is interrupted without being lost.

A command is a *turn* of the shell's process (``session.py``).  When it is stopped, and how, is
decided by the rule of any call (``_rules/call.py``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from typing import TYPE_CHECKING

import anyio
from attrs import evolve, frozen

from .._calls.lookup import check_directory
from .._calls.spec import to_escalation
from .._errors import SpawnError, SupervisorClosed, attach_partial
from .._platform import require_linux
from .._rules.call import CallRule, Do, SendSignal, Terms
from .._rules.secrets import mask, mask_result
from .._shielded import to_the_end
from .._values.escalation import Escalation, Step
from .._values.number import seconds
from .._values.output import OutputPolicy
from .._values.result import Containment, Outcome, Result, Usage
from .dialects import BASH, POSIX
from .terminal import Terminal
from .turn import Turn

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self, Unpack

    from .._calls.spec import CallOptions, Spec
    from .._rules.call import Action
    from .._tree.supervisor import Supervisor
    from .session import Session

#: Seconds that a shell has to end when it is no longer needed.
_ENDING = 1.0
#: Seconds between interrupts that may be lost.
_INSISTING = (0.06, 0.2, 1.0)
#: Bytes of a command: about what the kernel lets ``bash -c`` have (MAX_ARG_STRLEN).
COMMAND_MAX = 128 * 1024
_OF_A_SHELL = (
    *("cwd", "env", "extend_env", "secrets", "limits", "name"),
    *("user", "group", "extra_groups", "umask", "no_new_privs", "capabilities"),
)


@frozen(kw_only=True)
class ShellResult(Result):
    """What came of one command. A command that was ended has the status that the shell gave it."""

    #: The shell is gone: the command ended it (``exit``, ``exec``, a signal), or it did not come
    #: back from the command. The next one gets a new shell, in the same directory, and what was
    #: set is lost.
    shell_ended: bool = False
    #: The command was the first of a new shell, for the one that the last command had was gone.
    new_shell: bool = False
    #: Where the shell was afterwards, if that can be told.
    cwd: str | None = None

    @property
    def reason(self) -> str:
        reason = super().reason
        if self.new_shell:
            reason += "; in a new shell, for the last one had ended"
        return f"{reason}; the shell has ended with it" if self.shell_ended else reason


class Shell:
    """A shell session for an agent: ``async with agentsup.shells.Shell(sup) as shell:``.

    The directory, variables, functions, options and background jobs of one command are there for
    the next. Commands run one at a time; a second task waits in line. Each reads ``/dev/null``, and
    what it redirects by ``exec`` is so until its end. Job control is off.

    Leaving the block ends the shell and all that its commands have left; so does leaving the
    supervisor.

    :param supervisor: holds it.
    :param executable: ``"bash"``, or any POSIX shell, by name or path.
    :param terminal: give its commands a terminal, for programs that demand one; stdout and stderr
        are then one, and what they read is what is sent by :meth:`send`.
    :param options: ``cwd``, ``env``, ``extend_env``, ``secrets``, ``limits``, ``user``, ``group``,
        ``extra_groups``, ``umask``, ``no_new_privs``, ``capabilities`` and ``name``, as for
        :meth:`agentsup.Supervisor.run`.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        executable: str = "bash",
        terminal: Terminal | None = None,
        **options: Unpack[CallOptions],
    ) -> None:
        require_linux()
        if unknown := options.keys() - set(_OF_A_SHELL):
            raise TypeError(f"{min(unknown)} is not an option of a shell: give it to its run()")
        if terminal is not None:
            if not isinstance(terminal, Terminal):  # pyright: ignore[reportUnnecessaryIsInstance] -- input
                raise TypeError(f"terminal must be a shells.Terminal, not {terminal!r}")
            terminal.check()
        self._supervisor = supervisor
        self._terminal = terminal
        options.setdefault("name", os.path.basename(executable))
        self._spec = self._make_spec(executable, options)
        self._executable = executable
        self._cwd = self._spec.cwd
        self._lock = anyio.Lock()
        self._session: Session | None = None
        self._new_shell = False
        self._turn: Turn | None = None
        self._under_way = anyio.Event()  # set while there is a turn
        self._last_status = 0
        self._entered = self._left = False

    def _make_spec(self, executable: str, options: CallOptions) -> Spec:
        end = Escalation(Step(signal.SIGHUP, _ENDING))  # an interactive shell ignores SIGTERM
        make_spec = self._supervisor._make_spec  # pyright: ignore[reportPrivateUsage] -- of one package
        output = OutputPolicy(head=0, tail=0)
        spec = make_spec([executable], {**options, "escalation": end, "output": output})
        if spec.make_hold or spec.containment is Containment.PROCESS_GROUP:
            raise ValueError("a Shell needs a supervisor whose containment is more than a group")
        # On many systems sh(1) is bash.
        real = os.path.basename(os.path.realpath(spec.program))
        self._dialect = BASH if real.startswith(b"bash") else POSIX
        spec.argv += map(os.fsencode, self._dialect.arguments)
        spec.terms = evolve(spec.terms, linger=0.0)
        return spec

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError("a Shell can be entered only once")
        self._entered = True
        async with self._lock:
            await self._begin()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._left = True
        if (late := await self._end_shielded()) is not None:
            raise late

    @property
    def name(self) -> str:
        return self._spec.name

    @property
    def pid(self) -> int | None:
        """The shell's process; None while there is none."""
        return self._session.pid if self._session and not self._session.ended else None

    # --- a command ----------------------------------------------------------------------------

    async def run(
        self,
        command: str,
        *,
        timeout: float | None = None,
        idle_timeout: float | None = None,
        grace: float = 2.0,
        escalation: Escalation | None = None,
        output: OutputPolicy | None = None,
        check: bool = False,
    ) -> ShellResult:
        """Have the shell run ``command``, any number of lines, and return what came of it.

        A command that is to end, or is cancelled, gets SIGINT as from a keyboard, as does the
        shell: each process of it, but not what commands before it have left in the background. The
        shell then goes on; if it does not, it is replaced, which the result says.

        :param timeout: seconds until it is stopped with ``Outcome.TIMED_OUT``.
        :param idle_timeout: seconds without output until it is stopped with ``Outcome.IDLE``.
        :param grace: seconds between SIGINT and SIGTERM, and between that and SIGKILL.
        :param escalation: other signals than these.
        :param output: what is kept of what it prints, and of what was printed since the last
            command by what that left in the background.
        :param check: raise :exc:`agentsup.ToolFailed` unless its status is 0.
        :raises SpawnError: there is no shell, and none could be started.
        :raises KeeperLost: the keeper died, and the shell with it.
        :raises SupervisorClosed: the shell or its supervisor has been left.
        """
        text = _encode(command)
        terms = Terms(
            escalation=_steps(escalation, grace),
            timeout=seconds("timeout", timeout, zero=False),
            idle_timeout=seconds("idle_timeout", idle_timeout, zero=False),
            output_limit=output.limit if output else None,
        )
        policy = output or OutputPolicy()
        async with self._lock:
            session = await self._begin()
            turn = self._next_turn(session, terms, policy)
            try:
                session.send(turn, text, self._last_status, merge_stderr=policy.merge_stderr)
                await self._drive(session, turn)
            except BaseException as exc:
                turn.stop(Outcome.STOPPED)
                late = await to_the_end(
                    lambda: self._drive(session, turn), lambda: turn.rule.finished
                )
                turn.close()
                attach_partial(exc, self._result(session, turn, command))
                if late is not None:
                    raise late from None
                raise
            finally:
                self._end_turn(session, turn)
            result = self._result(session, turn, command)
        if turn.failure is not None:
            raise turn.failure
        if session.call.error is not None:
            attach_partial(session.call.error, result)
            raise session.call.error
        return result.check() if check else result

    async def send(self, text: str) -> None:
        """Type ``text`` on the terminal of the command that runs: ``"y\\n"``; ``"\\x03"`` is
        Ctrl+C, ``"\\x04"`` the end of its input.

        What the command does not read is forgotten at its end.
        """
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] -- input
            raise TypeError(f"text must be a str, not {type(text).__name__}")
        if self._terminal is None:
            raise RuntimeError("a command reads what is sent only from a Shell(terminal=…)")
        session, turn = self._session, self._turn
        if session is None or turn is None:
            raise RuntimeError("there is no command under way that could read this")
        await session.type(turn, text.encode())

    async def expect(self, text: str) -> bool:
        """Wait until the command that runs, or else the next one, has printed ``text``; False if
        it ends without."""
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] -- input
            raise TypeError(f"text must be a str, not {type(text).__name__}")
        await self._under_way.wait()
        turn = self._turn
        assert turn
        while text not in turn.text:
            if turn is not self._turn:
                return False
            await turn.more()
        return True

    def peek(self) -> str:
        """What the command that runs has printed so far; nothing if none does."""
        text = self._turn.text if self._turn else ""
        if secrets := self._spec.secrets:
            return mask(text.encode(), secrets, begins=False, ends=False).decode("utf-8", "replace")
        return text

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size. What runs in it is told, by SIGWINCH."""
        if self._terminal is None:
            raise RuntimeError("only a Shell(terminal=…) has a size")
        self._terminal = evolve(self._terminal, columns=columns, lines=lines)
        if self._turn:
            self._turn.resize(columns, lines)
        if self._session:
            self._session.resize(self._terminal)

    def _next_turn(self, session: Session, terms: Terms, output: OutputPolicy) -> Turn:
        rule = CallRule(terms, time.monotonic())
        before = frozenset(session.members())
        text_filter = self._terminal.make_filter() if self._terminal else None
        turn = self._turn = Turn(session.last_said + 1, rule, output, before, text_filter)
        turn.new_shell, self._new_shell = self._new_shell, False
        self._under_way.set()
        return turn

    async def _drive(self, session: Session, turn: Turn) -> None:
        """Until the turn is over, in whatever way."""
        rule = turn.rule
        while not rule.finished:
            for action in rule.take():
                try:
                    await self._carry_out(action, session, turn)
                except OSError:  # no descriptors: the keeper has its own
                    turn.lose_shell()
            if turn.status is not None and not turn.shell_ended:
                await self._settle(session, turn)
            now = time.monotonic()
            if turn.shell_ended:
                session.give_up()
                await session.end()
                rule.empty(now)
            elif turn.status is not None:
                rule.exited(now, live=False)
            else:
                await turn.wait(rule.deadline)
                rule.tick(time.monotonic())

    async def _carry_out(self, action: Action, session: Session, turn: Turn) -> None:
        if isinstance(action, SendSignal):
            heard = session.signal(turn, action.signal)
            if not heard and action.signal == signal.SIGINT:
                await self._insist(session, turn)
        elif action is Do.KILL:
            if not (await session.kill(turn) and await session.come_back()):
                turn.lose_shell()
        elif action is Do.LOSE:
            turn.lose_shell()

    async def _insist(self, session: Session, turn: Turn) -> None:
        """An interrupt may be lost on what is about to begin."""
        for wait in _INSISTING:
            if turn.rule.deadline is not None:
                await turn.wait(min(time.monotonic() + wait, turn.rule.deadline))
            if turn.over or session.signal(turn, signal.SIGINT):
                return

    async def _settle(self, session: Session, turn: Turn) -> None:
        """Have nothing left of a command that was ended, and all read that the shell was told."""
        try:
            if turn.rule.outcome is not None and not await session.kill(turn):
                turn.lose_shell()
        except OSError:
            turn.lose_shell()
        if not await session.come_back():
            turn.lose_shell()

    def _end_turn(self, session: Session, turn: Turn) -> None:
        self._turn = None
        self._under_way = anyio.Event()
        turn.close()
        session.end_turn(turn)
        if turn.shell_ended or not turn.rule.finished:
            session.give_up()
            self._new_shell = True
        else:
            self._last_status = turn.status or 0
            self._cwd = session.cwd() or self._cwd

    def _result(self, session: Session, turn: Turn, command: str) -> ShellResult:
        rule = turn.rule
        exit_code, number, outcome = turn.status, None, rule.outcome or Outcome.EXITED
        if turn.shell_ended:
            end = session.call.result()
            exit_code, number, outcome = end.exit_code, end.signal, rule.outcome or end.outcome
        ended_at = rule.ended_at or time.monotonic()
        result = ShellResult(
            argv=(self._executable, "-c", command),
            name=self._spec.name,
            outcome=outcome,
            exit_code=exit_code,
            signal=number,
            stdout=turn.output("stdout"),
            stderr=turn.output("stderr"),
            duration=ended_at - rule.started_at,
            queued=0.0,
            usage=Usage(),
            escalation=tuple(rule.taken),
            leftovers=turn.leftovers(),
            leftover_count=len(turn.killed),
            containment=self._spec.containment,
            pid=session.pid,
            shell_ended=turn.shell_ended,
            new_shell=turn.new_shell,
            cwd=os.fsdecode(self._cwd),
        )
        return mask_result(result, self._spec.secrets) if self._spec.secrets else result

    # --- the shell ----------------------------------------------------------------------------

    async def _begin(self) -> Session:
        """The shell, a new one if there is none; to be called with the lock."""
        if self._left or not self._entered:
            state = "has been left" if self._left else "has not been entered: use 'async with'"
            raise SupervisorClosed(f"this Shell {state}")
        if self._session is not None:
            if not self._session.ended:
                return self._session
            self._new_shell = True
            await self._end()
        from .session import Session

        spec = evolve(self._spec)
        with contextlib.suppress(SpawnError):  # it is gone
            check_directory("cwd", self._cwd)
            spec.cwd = self._cwd
        session = Session(spec, self._dialect, self._terminal)
        self._session = session
        host = self._supervisor._host  # pyright: ignore[reportPrivateUsage] -- of one package
        try:
            if not await session.begin(host):
                not_a_shell = SpawnError(errno.ENOEXEC, "executable: not a shell", self._executable)
                raise session.call.error or not_a_shell
        except BaseException:
            session.give_up()
            await self._end_shielded()
            raise
        self._last_status = 0
        return session

    async def _end(self) -> None:
        if session := self._session:
            await session.end()
            session.close()
            self._session = None

    async def _end_shielded(self) -> BaseException | None:
        return await to_the_end(self._end, lambda: self._session is None)


def _encode(command: str) -> bytes:
    if not isinstance(command, str):  # pyright: ignore[reportUnnecessaryIsInstance] -- input
        raise TypeError(f"command must be a str of shell code, not {type(command).__name__}")
    try:
        text = os.fsencode(command)
    except UnicodeEncodeError as error:
        raise ValueError(f"command cannot be encoded: {error}") from None
    if b"\0" in text:
        raise ValueError("command holds a NUL byte, which no shell takes")
    if len(text) > COMMAND_MAX:
        size = f"{len(text)} bytes, and {COMMAND_MAX} are the most"
        raise ValueError(f"command has {size}: write it to a file and run that")
    return text


def _steps(escalation: Escalation | None, grace: float) -> Escalation:
    steps = to_escalation(escalation, grace, signal.SIGINT, signal.SIGTERM)
    if not all(isinstance(step.action, signal.Signals) for step in steps.steps):
        raise ValueError("escalation: the steps for a shell's command are signals")
    return steps
