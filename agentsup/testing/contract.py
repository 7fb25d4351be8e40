"""What holds for any supervisor, whatever holds its processes: tests to be subclassed.

What a program does is said by a :class:`Script`; a subclass has its supervisor do that, by a real
program or not.
"""

from __future__ import annotations

import contextlib
import errno
import marshal
import math
import signal
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from .._calls.spec import PIPE
from .._errors import (
    NotReady,
    RestartLimitReached,
    SpawnError,
    SupervisorClosed,
    ToolFailed,
    last_partial,
)
from .._tree.supervisor import Supervisor
from .._values.escalation import CLOSE_STDIN, Escalation, Step
from .._values.output import OutputPolicy
from .._values.readiness import OutputMatches
from .._values.result import Outcome
from .._values.service import Service
from .._values.state import ServiceState
from .script import Script, make_script

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager
    from typing import Unpack

    from anyio.abc import TaskStatus

    from .._calls.process import Process
    from .._values.result import Result
    from .script import ScriptOptions

_PLAY = str(Path(__file__).with_name("play.py"))
_NO_PROGRAM = "/nonexistent/agentsup/program"
_LEFTOVER = ("sleep", "3600")


def program(script: Script) -> list[str]:
    """The command of a real program that does what ``script`` says.

    Of ``raises`` it takes ENOENT only; ``answer`` is a method of bytes, as ``bytes.upper``; and it
    has no ``outcome``. What it prints to stderr comes after what it prints to stdout.
    """
    if script.raises == errno.ENOENT:
        return [_NO_PROGRAM]
    packed = zlib.compress(marshal.dumps(_plain(script)))  # an argument has 128 KiB at most
    return [sys.executable, "-I", "-S", _PLAY, packed.hex()]


def _plain(script: Script) -> dict[str, Any]:
    name: str | None = getattr(script.answer, "__name__", None)
    if script.raises or script.outcome or (name and not hasattr(bytes, name)):
        raise ValueError(f"no program does this by itself: {script!r}")
    printed = {1: script.stdout, 2: script.stderr, **script.writes}
    return {
        "printed": list(printed.items()),
        "exit_code": script.exit_code,
        "signal": int(script.signal or 0),
        "after": script.after,
        "ignores": [int(number) for number in script.ignores],
        "on_signal": [(int(number), _plain(other)) for number, other in script.on_signal.items()],
        "answer": name,
        "leftovers": script.leftovers,
        "notify": script.notify,
    }


def _steps(result: Result) -> list[str]:
    return [step.action for step in result.escalation]


class SupervisorContract:
    """Tests that a supervisor passes: ``class TestMine(SupervisorContract): …``.

    They are async tests for anyio's pytest plugin, on the event loops of the fixture
    ``anyio_backend``.
    """

    pytestmark = pytest.mark.anyio

    #: Seconds that a test may take.
    patience = 60.0
    #: It finds and kills what outlives a main process.
    finds_leftovers = True
    #: It knows ``leftovers="adopt"``.
    adopts = True
    #: It hears what a service says of itself (``READY=1``).
    hears_notifications = True

    # --- to be overridden ---------------------------------------------------------------------

    def supervisor(self, **options: Any) -> AbstractAsyncContextManager[Supervisor]:
        """A new one, with what :class:`Supervisor` takes."""
        return Supervisor(**options)

    def command(self, supervisor: Any, script: Script) -> list[str]:
        """A command that does what ``script`` says; by default one of a real program.

        :param supervisor: what ``async with self.supervisor()`` has given.
        """
        return program(script)

    # --- the means ----------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _entered(self, **options: Any) -> AsyncGenerator[Supervisor]:
        with anyio.fail_after(self.patience):
            async with self.supervisor(**options) as supervisor:
                yield supervisor

    def _that(self, supervisor: Supervisor, **script: Unpack[ScriptOptions]) -> list[str]:
        return self.command(supervisor, make_script(script))

    def _server(self, supervisor: Supervisor, **script: Unpack[ScriptOptions]) -> Service:
        script = {"stdout": "up\n", "after": math.inf, **script}
        return Service("server", self._that(supervisor, **script), ready=OutputMatches("^up$"))

    @contextlib.asynccontextmanager
    async def _running(
        self, supervisor: Supervisor, script: ScriptOptions, **options: Any
    ) -> AsyncGenerator[Process]:
        """What is up, and has set up its signals."""
        script = {"stdout": "up\n", "after": math.inf, **script}
        async with supervisor.open(self._that(supervisor, **script), **options) as process:
            assert await process.lines().__anext__() == "up"
            yield process

    # --- results ------------------------------------------------------------------------------

    async def test_exit_status_and_output(self) -> None:
        async with self._entered() as sup:
            command = self._that(sup, stdout="out\n", stderr=b"err\xff\n", exit_code=3)
            result = await sup.run(command, name="tool")
        assert (result.outcome, result.exit_code, result.signal) == (Outcome.EXITED, 3, None)
        assert (result.stdout.text, result.stderr.text) == ("out\n", "err\ufffd\n")
        assert (result.argv, result.name, result.ok) == (tuple(command), "tool", False)
        assert result.escalation == ()
        assert result.duration >= 0.0

    async def test_end_by_a_signal(self) -> None:
        async with self._entered() as sup:
            result = await sup.run(self._that(sup, stdout="last words", signal="USR1"))
        assert (result.outcome, result.signal) == (Outcome.SIGNALED, signal.SIGUSR1)
        assert result.exit_code is None
        assert result.stdout.text == "last words"

    async def test_check(self) -> None:
        async with self._entered() as sup:
            assert (await sup.run(self._that(sup, stdout="fine"), check=True)).ok
            with pytest.raises(ToolFailed, match="exited with status 7") as failure:
                await sup.run(self._that(sup, stderr="why", exit_code=7), check=True)
        assert failure.value.result.stderr.text == "why"

    async def test_a_program_that_cannot_be_started(self) -> None:
        async with self._entered() as sup:
            command = self._that(sup, raises=errno.ENOENT)
            with pytest.raises(SpawnError) as failure:
                await sup.run(command)
            with pytest.raises(FileNotFoundError):
                async with sup.open(command):
                    pass
            with pytest.raises(SpawnError):
                await sup.start(Service("none", command))
            assert sup.tree() == ()
        assert failure.value.errno == errno.ENOENT

    async def test_much_output_is_kept_at_both_ends(self) -> None:
        async with self._entered() as sup:
            command = self._that(sup, stdout=["begin", "x" * 1_000_000, "end"])
            output = (await sup.run(command, output=OutputPolicy(head=5, tail=3))).stdout
        assert (output.head, output.tail, output.total_bytes) == (b"begin", b"end", 1_000_008)

    async def test_lines_are_told_as_they_come(self) -> None:
        lines: list[tuple[str, str]] = []
        policy = OutputPolicy(on_line=lambda stream, line: lines.append((stream, line)))
        async with self._entered() as sup:
            await sup.run(self._that(sup, stdout=["a\nb", 0.01, "c\nd"]), output=policy)
        assert lines == [("stdout", line) for line in ("a", "bc", "d")]

    async def test_merged_output(self) -> None:
        async with self._entered() as sup:
            command = self._that(sup, stdout="out\n", stderr=[0.01, "err\n"])
            result = await sup.run(command, output=OutputPolicy(merge_stderr=True))
        assert (result.stdout.text, result.stderr.text) == ("out\nerr\n", "")

    async def test_bytes_as_input(self) -> None:
        async with self._entered() as sup:
            result = await sup.run(self._that(sup, answer=bytes.upper), stdin=b"a\nb")
            assert result.stdout.text == "A\nB"
            assert (await sup.run(self._that(sup, answer=bytes.upper))).stdout.text == ""

    async def test_input_as_it_comes(self) -> None:
        async def lines() -> AsyncGenerator[bytes]:
            yield b"a"
            yield b"b\nc\n"

        async with self._entered() as sup:
            result = await sup.run(self._that(sup, answer=bytes.upper), stdin=lines())
        assert result.stdout.text == "AB\nC\n"

    # --- its end ------------------------------------------------------------------------------

    async def test_timeout(self) -> None:
        async with self._entered() as sup:
            result = await sup.run(self._that(sup, after=math.inf), timeout=0.05)
        assert (result.outcome, result.signal) == (Outcome.TIMED_OUT, signal.SIGTERM)
        assert _steps(result) == ["SIGTERM"]
        assert result.duration >= 0.05

    async def test_idle_timeout(self) -> None:
        async with self._entered() as sup:
            command = self._that(sup, stdout=["x", 0.01] * 5, after=math.inf)
            result = await sup.run(command, idle_timeout=0.1)
        assert (result.outcome, _steps(result)) == (Outcome.IDLE, ["SIGTERM"])

    async def test_output_limit(self) -> None:
        async with self._entered() as sup:
            command = self._that(sup, stdout="x" * 5000, after=math.inf)
            assert (await sup.run(command, output=OutputPolicy(limit=4999))).outcome is (
                Outcome.OUTPUT_LIMIT
            )

    async def test_a_program_that_ignores_sigterm_is_killed(self) -> None:
        async with (
            self._entered() as sup,
            self._running(sup, {"ignores": "TERM"}, grace=0.05) as process,
        ):
            process.stop()
            result = await process.wait()
        assert (result.outcome, result.signal) == (Outcome.STOPPED, signal.SIGKILL)
        assert _steps(result) == ["SIGTERM", "SIGKILL"]
        assert result.escalation[1].at - result.escalation[0].at >= 0.05

    async def test_a_program_that_ends_in_its_own_way(self) -> None:
        bye = Script(stdout="bye\n", exit_code=3)
        script: ScriptOptions = {"on_signal": {"TERM": bye}}
        async with self._entered() as sup, self._running(sup, script) as process:
            process.stop()
            result = await process.wait()
        assert (result.outcome, result.exit_code) == (Outcome.STOPPED, 3)
        assert result.stdout.text == "up\nbye\n"

    async def test_other_steps(self) -> None:
        steps = Escalation(Step("HUP", 0.05), Step("INT"))
        async with (
            self._entered() as sup,
            self._running(sup, {"ignores": "HUP"}, escalation=steps) as process,
        ):
            process.stop()
            result = await process.wait()
        assert (result.signal, _steps(result)) == (signal.SIGINT, ["SIGHUP", "SIGINT"])

    async def test_closed_input_as_a_step(self) -> None:
        script: ScriptOptions = {"answer": bytes.upper, "after": 0.0}
        steps = Escalation(Step(CLOSE_STDIN, 60))
        async with (
            self._entered() as sup,
            self._running(sup, script, stdin=PIPE, escalation=steps) as process,
        ):
            process.stop()
            result = await process.wait()
        assert (result.exit_code, _steps(result)) == (0, ["close stdin"])

    async def test_cancellation(self) -> None:
        up = anyio.Event()
        policy = OutputPolicy(on_line=lambda stream, line: up.set())
        caught: list[BaseException] = []

        async def run() -> None:
            try:
                await sup.run(command, output=policy)
            except BaseException as error:
                caught.append(error)
                raise

        async with self._entered() as sup:
            command = self._that(sup, stdout="up\n", after=math.inf)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                await up.wait()
                tasks.cancel_scope.cancel()
            assert sup.tree() == ()
        partial = last_partial(caught[0])
        assert partial is not None
        assert (partial.outcome, partial.signal) == (Outcome.STOPPED, signal.SIGTERM)
        assert partial.stdout.text == "up\n"

    async def test_leaving_the_block_stops_what_runs(self) -> None:
        results: list[Result] = []

        async def run(sup: Supervisor, command: list[str]) -> None:
            policy = OutputPolicy(on_line=lambda stream, line: up.set())
            results.append(await sup.run(command, output=policy))

        up = anyio.Event()
        async with anyio.create_task_group() as tasks:
            async with self._entered() as sup:
                command = self._that(sup, stdout="up\n", after=math.inf)
                tasks.start_soon(run, sup, command)
                await up.wait()
            assert sup.tree() == ()
        assert [result.outcome for result in results] == [Outcome.STOPPED]

    # --- a program to talk to -----------------------------------------------------------------

    async def test_talking(self) -> None:
        async with self._entered() as sup:
            command = self._that(sup, answer=bytes.upper, exit_code=5)
            async with sup.open(command, stdin=PIPE) as process:
                assert process.stdin
                for word in (b"one\n", b"two\n"):
                    await process.stdin.send(word)
                    assert await process.stdout.receive() == word.upper()
                await process.stdin.aclose()
                result = await process.wait()
                with pytest.raises(anyio.EndOfStream):
                    await process.stdout.receive()
        assert (result.exit_code, result.stdout.text) == (5, "ONE\nTWO\n")

    async def test_a_program_waits_for_its_reader(self) -> None:
        size = 1_000_000
        async with self._entered() as sup:
            command = self._that(sup, stdout="x" * size)
            async with sup.open(command) as process:
                assert sum([len(chunk) async for chunk in process.stdout]) == size
                assert (await process.wait()).stdout.total_bytes == size

    async def test_a_signal_to_the_main_process(self) -> None:
        script: ScriptOptions = {"on_signal": {"USR1": Script(stdout="again\n", after=math.inf)}}
        async with self._entered() as sup, self._running(sup, script) as process:
            process.send_signal("USR1")
            assert await process.lines().__anext__() == "again"
            process.send_signal("KILL")
            result = await process.wait()
            with pytest.raises(ProcessLookupError):
                process.send_signal("USR1")
        assert (result.outcome, result.signal) == (Outcome.SIGNALED, signal.SIGKILL)

    async def test_leaving_its_block_ends_it(self) -> None:
        async with self._entered() as sup:
            async with self._running(sup, {}) as process:
                pass
            assert (await process.wait()).outcome is Outcome.STOPPED
            assert sup.tree() == ()

    # --- the supervisor -----------------------------------------------------------------------

    async def test_the_tree(self) -> None:
        async with self._entered() as sup:
            assert sup.tree() == ()
            async with self._running(sup, {}, name="tool") as process:
                (node,) = sup.tree()
                assert (node.name, node.kind, node.pid) == ("tool", "call", process.pid)
                node.stop()
                assert (await process.wait()).outcome is Outcome.STOPPED
            assert sup.tree() == ()

    async def test_first_come_first_served(self) -> None:
        lines: list[str] = []
        queued: list[float] = []
        policy = OutputPolicy(on_line=lambda stream, line: lines.append(line))

        async def run(number: int, *, task_status: TaskStatus[None]) -> None:
            command = self._that(sup, stdout=[f"{number} begins\n", 0.01, f"{number} ends\n"])
            task_status.started()
            queued.append((await sup.run(command, output=policy)).queued)

        async with self._entered(max_concurrency=1) as sup, anyio.create_task_group() as tasks:
            for number in range(3):
                await tasks.start(run, number)
        assert lines == [f"{number} {what}" for number in range(3) for what in ("begins", "ends")]
        assert queued == sorted(queued)

    async def test_a_closed_supervisor(self) -> None:
        async with self._entered() as sup:
            command = self._that(sup)
            service = self._server(sup)
        with pytest.raises(SupervisorClosed):
            await sup.run(command)
        with pytest.raises(SupervisorClosed):
            async with sup.open(command):
                pass
        with pytest.raises(SupervisorClosed):
            await sup.start(service)

    async def test_a_supervisor_below(self) -> None:
        async with self._entered() as sup:
            async with sup.child("below") as below, self._running(sup, {}):
                result = await below.run(self._that(sup, stdout="x"))
                assert {node.kind for node in sup.tree()} == {"supervisor", "call"}
            assert result.stdout.text == "x"
            assert sup.tree() == ()

    # --- leftovers ----------------------------------------------------------------------------

    async def test_what_outlives_its_program_is_killed(self) -> None:
        if not self.finds_leftovers:
            pytest.skip("this supervisor does not find them")
        async with self._entered() as sup:
            result = await sup.run(self._that(sup, leftovers=[_LEFTOVER, _LEFTOVER]))
        assert (result.outcome, result.exit_code) == (Outcome.EXITED, 0)
        assert [(one.argv, one.killed) for one in result.leftovers] == 2 * [(_LEFTOVER, True)]
        assert result.leftover_count == 2
        assert _steps(result) == ["SIGKILL"]

    async def test_what_outlives_its_program_is_adopted(self) -> None:
        if not self.adopts:
            pytest.skip("this supervisor does not adopt")
        async with self._entered() as sup:
            command = self._that(sup, leftovers=[_LEFTOVER])
            result = await sup.run(command, leftovers="adopt")
            (adopted,) = result.adopted
            assert (adopted.argv, adopted.killed) == (_LEFTOVER, False)
            (node,) = sup.tree()
            assert (node.kind, [one.pid for one in node.adopted]) == ("adopted", [adopted.pid])
            node.stop()
            while sup.tree():  # noqa: ASYNC110
                await anyio.sleep(0.005)  # nothing tells of it
        assert (result.outcome, result.leftovers) == (Outcome.EXITED, ())

    # --- services -----------------------------------------------------------------------------

    async def test_a_service(self) -> None:
        async with self._entered() as sup:
            events = sup.events()
            handle = await sup.start(self._server(sup))
            assert handle.ready
            (node,) = sup.tree()
            assert (node.name, node.kind, node.pid) == ("server", "service", handle.pid)
            first = handle.pid
            await handle.restart()
            assert handle.pid not in (None, first)
            await handle.stop()
            assert handle.pid is None
            assert handle.result is not None
            assert handle.result.outcome is Outcome.STOPPED
            await handle.start()
        states = [event.state async for event in events]
        up = [ServiceState.ACTIVATING, ServiceState.ACTIVE]
        down = [ServiceState.DEACTIVATING, ServiceState.INACTIVE]
        assert states == 3 * (up + down)

    async def test_a_service_that_fails_before_it_is_ready(self) -> None:
        async with self._entered() as sup:
            service = self._server(sup, stdout="no\n", after=0.0, exit_code=1)
            with pytest.raises(NotReady, match="status 1") as failure:
                await sup.start(service)
            assert sup.tree() == ()
        assert failure.value.output == "no\n"

    async def test_a_service_that_fails_is_restarted(self) -> None:
        async with self._entered(max_restarts=1000) as sup:
            handle = await sup.start(self._server(sup, after=0.01, exit_code=1))
            async for _ in sup.events():
                if handle.restarts >= 2:
                    break
            await handle.stop()
            assert handle.state is ServiceState.INACTIVE

    async def test_a_service_that_fails_too_often(self) -> None:
        with pytest.raises(ExceptionGroup) as group:
            async with self._entered(max_restarts=1) as sup:
                await sup.start(self._server(sup, after=0.0, exit_code=1))
                await anyio.sleep_forever()
        (failure,) = group.value.exceptions
        assert isinstance(failure, RestartLimitReached)
        assert failure.service == "server"

    async def test_a_service_that_says_that_it_is_ready(self) -> None:
        if not self.hears_notifications:
            pytest.skip("this supervisor does not hear notifications")
        async with self._entered() as sup:
            script: ScriptOptions = {"notify": ["STATUS=warm\nREADY=1"], "after": math.inf}
            handle = await sup.start(Service("server", self._that(sup, **script), ready="notify"))
            assert handle.state is ServiceState.ACTIVE
            assert handle.status_text == "warm"
