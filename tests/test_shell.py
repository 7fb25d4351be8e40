"""A shell session: what a command leaves for the next, and how one that hangs is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import pytest

import agentsup
from agentsup import Escalation, Outcome, OutputPolicy, Step, Supervisor
from agentsup._levels import missing
from agentsup.shells import Shell, ShellResult

pytestmark = pytest.mark.anyio

LOOPS = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
FIRST = os.environ.get("AGENTSUP_TEST_LOOPS", "asyncio").split(",")[0]

#: What the shell does, and not the loop.
one_loop = pytest.mark.parametrize("anyio_backend", [pytest.param(LOOPS[FIRST], id=FIRST)])
both_shells = pytest.mark.parametrize("shell", ["bash", "sh"], indirect=True)


@pytest.fixture
async def sup() -> AsyncIterator[Supervisor]:
    async with Supervisor() as supervisor:
        yield supervisor


@pytest.fixture
async def shell(sup: Supervisor, request: pytest.FixtureRequest) -> AsyncIterator[Shell]:
    async with Shell(sup, executable=getattr(request, "param", "bash")) as shell:
        yield shell


async def run(shell: Shell, command: str, **options: object) -> ShellResult:
    """And it says that it lives on."""
    result = await shell.run(command, **options)  # type: ignore[arg-type]
    assert not result.shell_ended, result
    return result


async def hang(
    shell: Shell, command: str, patience: tuple[float, ...], **options: object
) -> ShellResult:
    """Once it has begun, it is late."""
    for timeout in patience:
        result = await shell.run(f"echo begun; {command}", timeout=timeout, **options)  # type: ignore[arg-type]
        if result.stdout.text:
            return result
    raise AssertionError(f"has not begun: {result}")


# --- what stays -------------------------------------------------------------------------------


@both_shells
async def test_a_directory_variables_functions_and_the_status_stay(
    shell: Shell, tmp_path: Path
) -> None:
    first = await run(shell, f"cd {tmp_path}; X=5; f() {{ echo f $1; }}; false")
    assert (first.outcome, first.exit_code, first.cwd) == (Outcome.EXITED, 1, str(tmp_path))
    second = await run(shell, 'echo "$? $X $PWD"; f 7; (exit 4)')
    assert (second.exit_code, second.stdout.text) == (4, f"1 5 {tmp_path}\nf 7\n")
    assert (await run(shell, "echo $?")).stdout.text == "4\n"


@both_shells
async def test_streams_are_apart_or_merged(shell: Shell) -> None:
    apart = await run(shell, "echo err >&2; echo out")
    assert (apart.stdout.text, apart.stderr.text) == ("out\n", "err\n")
    merged = await run(
        shell, "echo 1 >&2; echo 2; echo 3 >&2", output=OutputPolicy(merge_stderr=True)
    )
    assert (merged.stdout.text, merged.stderr.text) == ("1\n2\n3\n", "")


TEXTS = {
    "nothing": ("", 0, ""),
    "a comment": ("# nothing", 0, ""),
    "an open quote": ('echo "a', 2, ""),
    "an open bracket": ("{ echo a", 2, ""),
    "a here-document": ("cat <<A\none\ntwo\nA\necho three", 0, "one\ntwo\nthree\n"),
    "a here-document without an end": ("cat <<A\none", 0, "one\n"),
    "no line end": ("printf abc", 0, "abc"),
    "trailing lines": ("echo a\n\n\n", 0, "a\n"),
    "quotes of all kinds": ("""echo 'a"b' "c'd" \\$x""", 0, "a\"b c'd $x\n"),
    "break": ("break 2>/dev/null; echo on", 0, "on\n"),
    "exec with a redirection": ("exec >/dev/null; echo gone", 0, ""),
    "standard input": ("read x; echo $?; cat", 0, "1\n"),
    "a closed output": ("exec >&- 2>&-; true", 0, ""),
    "no UTF-8": ("printf '%s' '\udcff\udcfe' | od -An -tx1", 0, " ff fe\n"),
    "a signal to the process group": ("kill 0; echo on", 0, "on\n"),
    "its own name for an end": ("cat <<__agentsup\none\n__agentsup\n", 0, "one\n"),
    "no program can be found": ("PATH=; echo on; PATH=/usr/bin:/bin", 0, "on\n"),
    "history": ("echo a!b !!", 0, "a!b !!\n"),
    "the shell's own descriptors": (
        'for fd in 6 7 64 65; do (eval "echo 0 0 >&$fd") 2>/dev/null || echo none; done',
        0,
        "none\nnone\nnone\nnone\n",
    ),
}


@one_loop
@both_shells
async def test_a_text_is_run_as_it_is(shell: Shell) -> None:
    for name, (text, status, printed) in TEXTS.items():
        result = await run(shell, text)
        assert (result.exit_code, result.stdout.text) == (status, printed), name
        after = await run(shell, "echo after")
        assert (after.exit_code, after.stdout.text, after.stderr.text) == (0, "after\n", ""), name


async def test_no_output_can_pass_for_an_end(shell: Shell) -> None:
    forged = await run(shell, r"printf '0 %s\n' 1 2 3 4; printf 'a\0b\377\n'; seq 100000; false")
    assert forged.exit_code == 1
    assert forged.stdout.head.startswith(b"0 1\n0 2\n0 3\n0 4\na\0b\xff\n1\n")
    assert forged.stdout.tail.endswith(b"\n100000\n")
    assert (await run(shell, "true")).stdout.total_bytes == 0


@one_loop
async def test_one_that_looks_for_the_status_pipe_does_no_harm(shell: Shell) -> None:
    """A shell has what is redirected as numbers from 10 on meanwhile."""
    pipes = "for fd in /proc/$$/fd/1?; do test -p $fd && printf 'x 1\\n0 99999\\n' >$fd; done"
    forged = await run(shell, f"{pipes}; (exit 3)")
    assert forged.exit_code == 3
    assert (await run(shell, "echo on")).stdout.text.endswith("on\n")


@one_loop
async def test_what_the_user_redefines_is_not_used(shell: Shell) -> None:
    await run(shell, "read() { :; }; eval() { :; }; printf() { :; }; alias eval=false read=false")
    await run(shell, "PS1=prompt PROMPT_COMMAND='echo prompt'; set -u")
    result = await run(shell, "echo on")
    assert (result.exit_code, result.stdout.text, result.stderr.text) == (0, "on\n", "")


@one_loop
async def test_what_is_traced_and_remembered_is_the_users(shell: Shell) -> None:
    traced = await run(shell, "set -x; echo hi")
    assert traced.stderr.text == "++ echo hi\n"
    assert (await run(shell, "set +x; history")).stdout.text == ""


@one_loop
async def test_descriptors_and_coprocesses_stay(shell: Shell, tmp_path: Path) -> None:
    # It does not end: bash would close its descriptors then.
    up = 'coproc UP { while read -r word; do echo "${word^^}"; done; }'
    await run(shell, f"cd {tmp_path}; exec {{lock}}>lock 9>nine; {up}")
    await run(shell, "echo 1 >&$lock; echo 2 >&9; echo x >&${UP[1]}")
    read = "read -r word <&${UP[0]}; cat lock nine <(echo $word)"
    assert (await run(shell, read)).stdout.text == "1\n2\nX\n"


@both_shells
async def test_a_command_in_the_background_goes_on(shell: Shell) -> None:
    started = await run(shell, "(sleep 0.2; echo late; exec sleep 1000) & echo $!")
    printed = ""
    with anyio.fail_after(60):
        while "late" not in printed:
            printed += (await run(shell, "sleep 0.05")).stdout.text
    assert os.path.exists(f"/proc/{int(started.stdout.text)}")
    waited = await run(shell, "(sleep 0.1; exit 7) & wait $!")
    assert waited.exit_code == 7


@one_loop
async def test_more_output_than_a_pipe_holds_by_a_job_blocks_nothing(
    shell: Shell, tmp_path: Path
) -> None:
    await run(shell, f"(head -c 1000000 /dev/zero; touch {tmp_path}/done) &")
    with anyio.fail_after(60):
        while not (tmp_path / "done").exists():
            await anyio.sleep(0.01)
    result = await run(shell, "echo here")
    assert result.stdout.text.endswith("here\n")
    assert result.stdout.total_bytes < 10_000  # what came between is kept in bounds


async def test_output_ends_where_the_command_does(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 2**20)
    await run(shell, f"cd {tmp_path}; (while :; do echo noise >&2; sleep 0.001; done) &")
    for number in range(40):
        result = await run(shell, f"cat large; (exit {number})")
        assert (result.exit_code, result.stdout.total_bytes) == (number, 2**20)


@one_loop
async def test_so_it_does_in_a_pipe_that_the_command_has_enlarged(
    shell: Shell, python_file: Callable[[str], str], tmp_path: Path
) -> None:
    write = "import fcntl, os, time; fcntl.fcntl(1, 1031, 2**20); os.write(1, b'y' * 2**20)"
    enlarge = python_file(f"{write}; open('{tmp_path}/done', 'w')")

    async def be_busy() -> None:
        await shell.expect("begun")
        while not (tmp_path / "done").exists():
            time.sleep(0.01)
        time.sleep(0.1)  # all of it, and the end, are there at once

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(be_busy)
        result = await run(shell, f"echo begun; {sys.executable} {enlarge}")
    assert result.stdout.total_bytes == 2**20 + len("begun\n")
    assert (await run(shell, "true")).stdout.total_bytes == 0


# --- the end of the shell ---------------------------------------------------------------------

ENDS = {
    "exit": ("exit 3", 3, None),
    "set -e": ("set -e; false; echo not", 1, None),
    "exec": ("exec sh -c 'exit 5'", 5, None),
    "killed": ("kill -KILL $$", None, signal.SIGKILL),
    "with its process group": ("kill -KILL 0", None, signal.SIGKILL),
}


@one_loop
@both_shells
async def test_the_next_command_gets_a_new_shell(shell: Shell, tmp_path: Path) -> None:
    for name, (text, status, number) in ENDS.items():
        await run(shell, f"cd {tmp_path}; X=1")
        ended = await shell.run(text)
        assert ended.shell_ended, name
        assert (ended.exit_code, ended.signal) == (status, number), name
        assert ended.reason.endswith("; the shell has ended with it")
        new = await run(shell, 'echo "$PWD $X"')
        assert new.stdout.text == f"{tmp_path} \n"
        assert new.new_shell
        assert new.reason == "exited with status 0; in a new shell, for the last one had ended"
        assert not (await run(shell, "true")).new_shell


async def test_one_that_has_ended_between_two_commands_is_told(
    shell: Shell, eventually: Callable[..., Awaitable[None]]
) -> None:
    await run(shell, "X=1; (sleep 0.05; kill -KILL $$) &")
    await eventually(lambda: shell.pid is None)
    result = await run(shell, "echo $X")
    assert (result.new_shell, result.stdout.text) == (True, "\n")


@one_loop
async def test_a_trap_for_its_end_is_heard(shell: Shell) -> None:
    ended = await shell.run("trap 'echo bye; echo err >&2' EXIT; exit 2")
    assert (ended.exit_code, ended.stdout.text, ended.stderr.text) == (2, "bye\n", "exit\nerr\n")


@one_loop
async def test_a_directory_that_is_gone(shell: Shell, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    await run(shell, f"cd {gone}")
    gone.rmdir()
    await shell.run("exit 0")
    assert (await run(shell, "pwd")).stdout.text.strip() == os.getcwd()


# --- hung and flooding commands ---------------------------------------------------------------

HUNG = {
    "a program": "sleep 1000",
    "a loop of programs": "while :; do sleep 1000; done",
    "a pipeline": "sleep 1000 | sleep 1000 | cat",
    "the shell itself": "while :; do :; done",
    "a function": "f() { sleep 1000; echo not; }; f",
    "subshells": " | ".join(["(sleep 1000; echo not >&2)"] * 12),
    "a program of a program": "sh -c 'sleep 1000; echo not'; echo not",
    "what ignores an interrupt": "sh -c 'trap \"\" INT; sleep 1000 & wait'",
    "what ignores all": "sh -c 'trap \"\" INT TERM HUP; while :; do sleep 0.1; done'",
    "a session of its own": "setsid sh -c 'trap \"\" INT; sleep 1000'",
    "an interrupt to itself": "sleep 0.1; kill -INT $$; sleep 1000",
}


@one_loop
@both_shells
async def test_it_is_interrupted_and_the_shell_lives_on(
    shell: Shell, patience: tuple[float, ...]
) -> None:
    for name, text in HUNG.items():
        await run(shell, "X=1; sleep 1000 & Y=$!")
        hung = await hang(shell, text, patience, grace=0.2)
        assert not hung.shell_ended, name
        assert hung.stdout.text == "begun\n", name
        assert "not" not in hung.stderr.text, name
        if hung.outcome is not Outcome.EXITED:  # bash has done that by itself
            assert hung.outcome is Outcome.TIMED_OUT, name
            assert hung.escalation[0].action == "SIGINT"
        after = await run(shell, "echo $X; kill -0 $Y && echo job")
        assert after.stdout.text.split() == ["1", "job"], name
        assert count(shell) == 1, name
        await run(shell, "kill -KILL $Y; wait $Y 2>/dev/null; true")


def count(shell: Shell) -> int:
    """Of the processes that it has started, and that run."""
    assert shell._session
    return len(shell._session.members())


async def test_it_is_interrupted_on_each_loop(shell: Shell, patience: tuple[float, ...]) -> None:
    await run(shell, "X=1")
    hung = await hang(shell, HUNG["what ignores all"], patience, grace=0.1)
    assert [step.action for step in hung.escalation] == ["SIGINT", "SIGTERM", "SIGKILL"]
    assert hung.leftover_count == len(hung.leftovers) >= 1
    assert (await run(shell, "echo $X")).stdout.text == "1\n"


@both_shells
async def test_one_that_ends_as_it_is_interrupted(shell: Shell) -> None:
    """The interrupt comes to a shell that waits for its next command, or has half read it."""
    for number in range(40):
        result = await run(shell, "sleep 0.01", timeout=0.008 + number % 20 / 4000)
        assert result.outcome in (Outcome.EXITED, Outcome.TIMED_OUT)
        after = await run(shell, f"echo {number}; (exit 3)")
        assert (after.exit_code, after.stdout.text) == (3, f"{number}\n")


@one_loop
async def test_what_a_job_starts_meanwhile_is_spared(shell: Shell, tmp_path: Path) -> None:
    wait = "while [ ! -e {} ]; do sleep 0.01; done"
    await run(shell, f"cd {tmp_path}; ({wait.format('go')}; sleep 1000 & >gone; wait) &")
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(shell.run, f"touch go; {wait.format('gone')}; echo begun; sleep 1000")
            assert await shell.expect("begun")
            scope.cancel()
    assert count(shell) == 2  # the job, and what it has started


@one_loop
async def test_one_that_does_not_come_back_is_replaced(
    shell: Shell, tmp_path: Path, patience: tuple[float, ...]
) -> None:
    await run(shell, f"cd {tmp_path}; X=1; trap '' INT")
    stuck = await hang(shell, "while :; do :; done", patience, grace=0.1)
    assert stuck.outcome is Outcome.TIMED_OUT
    assert stuck.shell_ended
    assert [step.action for step in stuck.escalation] == ["SIGINT", "SIGTERM", "SIGKILL"]
    assert (await run(shell, 'echo "$PWD $X"')).stdout.text == f"{tmp_path} \n"


@one_loop
async def test_what_it_has_left_in_the_background_ends_with_one_that_is_interrupted(
    shell: Shell, patience: tuple[float, ...]
) -> None:
    hung = await hang(shell, "sleep 1000 & sleep 1001", patience)
    assert ("sleep", "1000") in [leftover.argv for leftover in hung.leftovers]
    assert (await run(shell, "jobs -r")).stdout.text == ""


@one_loop
async def test_silence_and_floods(shell: Shell) -> None:
    silent = await run(shell, "echo a; sleep 1000", idle_timeout=1)
    assert silent.outcome is Outcome.IDLE
    flood = await run(shell, "yes", output=OutputPolicy(limit=1_000_000))
    assert flood.outcome is Outcome.OUTPUT_LIMIT
    assert (await run(shell, "echo on")).stdout.text == "on\n"


@one_loop
async def test_other_steps(shell: Shell, patience: tuple[float, ...]) -> None:
    steps = Escalation(Step(signal.SIGTERM, 30.0))
    hung = await hang(shell, "sleep 1000; echo $?", patience, escalation=steps)
    assert [step.action for step in hung.escalation] == ["SIGTERM"]
    assert hung.stdout.text == "begun\n143\n"


async def test_cancelled_it_is_interrupted_first(
    shell: Shell, eventually: Callable[..., Awaitable[None]]
) -> None:
    await run(shell, "X=1")
    caught: list[BaseException] = []

    async def call() -> None:
        try:
            await shell.run("echo begun; sleep 1000")
        except BaseException as exc:
            caught.append(exc)
            raise

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await eventually(lambda: shell.peek() == "begun\n")
        tasks.cancel_scope.cancel()
    partial = agentsup.last_partial(caught[0])
    assert partial
    assert (partial.outcome, partial.stdout.text) == (Outcome.STOPPED, "begun\n")
    assert shell.peek() == ""
    assert (await run(shell, "echo $X; jobs")).stdout.text == "1\n"


async def test_a_line_callback_that_raises_ends_the_command_and_not_the_shell(shell: Shell) -> None:
    def on_line(stream: str, line: str) -> None:
        raise ZeroDivisionError(line)

    with pytest.raises(ZeroDivisionError, match="first"):
        await shell.run("echo first; sleep 1000", output=OutputPolicy(on_line=on_line))
    assert (await run(shell, "echo on")).stdout.text == "on\n"


async def test_one_can_wait_for_what_it_prints(shell: Shell) -> None:
    seen: dict[str, bool] = {}

    async def expect(text: str) -> None:
        seen[text] = await shell.expect(text)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(expect, "begun")
        tasks.start_soon(expect, "at the end")
        tasks.start_soon(expect, "never")
        await anyio.wait_all_tasks_blocked()
        await shell.run("echo begun; sleep 0.05; echo at the end")
    assert seen == {"begun": True, "at the end": True, "never": False}


# --- several, and the end ---------------------------------------------------------------------


async def test_commands_wait_in_line(shell: Shell) -> None:
    async def append(number: int) -> None:
        await shell.run(f"X=${{X}}{number}; sleep 0.01; X=${{X}}-")

    await shell.run("X=")
    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(append, number)
    printed = (await shell.run("echo $X")).stdout.text
    assert sorted(printed.strip().split("-")) == ["", "0", "1", "2", "3", "4"]


async def test_nothing_is_left_of_it(sup: Supervisor) -> None:
    async with Shell(sup) as shell:
        pids = (await shell.run("sleep 1000 & setsid sleep 1000 & echo $! $$")).stdout.text.split()
        assert sup.tree()[0].name == "bash"
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert not sup.tree()
    with pytest.raises(agentsup.SupervisorClosed, match="this Shell has been left"):
        await shell.run("true")


async def test_it_ends_with_its_supervisor(
    eventually: Callable[..., Awaitable[None]],
) -> None:
    results: list[ShellResult] = []
    async with anyio.create_task_group() as tasks, Supervisor() as sup:
        shell = await Shell(sup).__aenter__()
        pid = shell.pid

        async def call() -> None:
            results.append(await shell.run("echo begun; sleep 1000"))

        tasks.start_soon(call)
        await eventually(lambda: shell.peek())
    assert not os.path.exists(f"/proc/{pid}")
    with pytest.raises(agentsup.SupervisorClosed):
        await shell.run("true")
    await shell.__aexit__(None, None, None)
    assert results[0].shell_ended
    assert results[0].outcome is Outcome.STOPPED


# --- what it is made of -----------------------------------------------------------------------


@one_loop
async def test_bad_input(sup: Supervisor) -> None:
    with pytest.raises(agentsup.SpawnError, match="program not found"):
        Shell(sup, executable="no-such-shell")
    with pytest.raises(TypeError, match="timeout is not an option of a shell"):
        Shell(sup, timeout=1)
    with pytest.raises(agentsup.SpawnError, match="not a shell"):
        await Shell(sup, executable="true").__aenter__()
    with pytest.raises(agentsup.SupervisorClosed, match="has not been entered"):
        await Shell(sup).run("true")
    group = Supervisor(containment=agentsup.Containment.PROCESS_GROUP)
    with pytest.raises(ValueError, match="containment is more than a group"):
        Shell(group)
    async with Shell(sup) as shell:
        for bad, error, text in (
            (b"ls", TypeError, "command must be a str of shell code, not bytes"),
            ("a\0b", ValueError, "command holds a NUL byte"),
            ("#" * 200_000, ValueError, "command has 200000 bytes, and 131072 are the most"),
        ):
            with pytest.raises(error, match=text):
                await shell.run(bad)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="the steps for a shell's command are signals"):
            await shell.run("true", escalation=Escalation(Step(agentsup.CLOSE_STDIN, 1)))
        with pytest.raises(ValueError, match="timeout must be more than zero"):
            await shell.run("true", timeout=0)
        with pytest.raises(agentsup.ToolFailed):
            await shell.run("false", check=True)
        with pytest.raises(RuntimeError, match=r"only from a Shell\(terminal=…\)"):
            await shell.send("y")
        with pytest.raises(RuntimeError, match="entered only once"):
            await shell.__aenter__()


@one_loop
@both_shells
async def test_a_long_command(shell: Shell) -> None:
    result = await run(shell, "X=" + "a" * 100_000 + "; echo ${#X}")
    assert result.stdout.text == "100000\n"


@one_loop
async def test_the_options_of_a_run(sup: Supervisor, tmp_path: Path) -> None:
    options = {"env": {"PATH": os.defpath, "A": "1"}, "secrets": {"TOKEN": "abcdefgh"}}
    async with Shell(sup, cwd=tmp_path, name="mine", **options) as shell:  # type: ignore[arg-type]
        result = await shell.run("echo $PWD $A $HOME; echo $TOKEN | tr a-h A-H; echo $TOKEN")
        printed = f"{tmp_path} 1\nABCDEFGH\n********\n"
        assert (result.name, result.stdout.text) == ("mine", printed)


@one_loop
@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
async def test_another_user(sup: Supervisor, patience: tuple[float, ...]) -> None:
    async with Shell(sup, user="nobody", cwd="/") as shell:
        result = await run(shell, "id -un >/dev/stdout")
        assert result.stdout.text == "nobody\n"
        assert (await hang(shell, "sleep 1000", patience)).outcome is Outcome.TIMED_OUT
        assert (await run(shell, "echo on")).stdout.text == "on\n"


@one_loop
async def test_a_sh_that_is_bash(sup: Supervisor, tmp_path: Path) -> None:
    (tmp_path / "sh").symlink_to("/bin/bash")
    (tmp_path / "rc").write_text("echo read; X=read\n")
    async with Shell(sup, executable=f"{tmp_path}/sh", env={"ENV": f"{tmp_path}/rc"}) as shell:
        result = await run(shell, "sh -c 'kill -9 $$'; echo $? $X $BASH")
        assert (result.stdout.text, shell.name) == (f"137 {tmp_path}/sh\n", "sh")
        assert "tcsetattr" not in result.stderr.text


@one_loop
async def test_in_a_namespace(patience: tuple[float, ...]) -> None:
    level = agentsup.Containment.PID_NAMESPACE
    if missing(level) is not None:
        pytest.skip("not to be had")
    async with Supervisor(containment=level) as sup, Shell(sup) as shell:
        await run(shell, "sleep 1000 &")
        hung = await hang(shell, "setsid sh -c 'trap \"\" INT; sleep 1001'", patience, grace=0.2)
        assert hung.outcome is Outcome.TIMED_OUT
        assert count(shell) == 1
        assert (await shell.run("exit 3")).exit_code == 3


def test_the_example() -> None:
    example = Path(__file__).parent.parent / "examples" / "shell_session.py"
    root = str(Path(agentsup.__file__).parent.parent)
    printed = subprocess.run(
        [sys.executable, example],
        env={**os.environ, "PYTHONPATH": root},
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    ).stdout
    for text in (
        "hello world\n/tmp 5\n[exited with status 1]",
        "[timed out after 1.",
        "[output limit after ",
        "5 is still there\n",
        "[exited with status 3; the shell has ended with it]",
        "unset, but still in /tmp\n[exited with status 0; in a new shell",
        "Overwrite? [y/n] y\nthe answer was y\n[exited with status 0]",
    ):
        assert text in printed
