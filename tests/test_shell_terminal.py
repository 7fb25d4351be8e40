"""A shell whose commands have a terminal, and the text that is made of what they do to it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentsup import Outcome, OutputPolicy, Supervisor
from agentsup.shells import Shell, ShellResult, Terminal
from agentsup.shells.ansi import Plain, Screen

LOOPS = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
FIRST = os.environ.get("AGENTSUP_TEST_LOOPS", "asyncio").split(",")[0]

#: What the shell does, and not the loop.
one_loop = pytest.mark.parametrize("anyio_backend", [pytest.param(LOOPS[FIRST], id=FIRST)])
both_shells = pytest.mark.parametrize("shell", ["bash", "sh"], indirect=True)


# --- the text ---------------------------------------------------------------------------------

PLAIN = {
    "text": ("a\tb ü\n", "a\tb ü\n"),
    "line ends": ("a\r\nb\r\n", "a\nb\n"),
    "colours": ("\x1b[1;31mred\x1b[0m \x1b[38;5;4mblue\x1b[m\n", "red blue\n"),
    "a title": ("\x1b]0;title\x07a\x1b]2;title\x1b\\b\n", "ab\n"),
    "a device control string": ("\x1bP1$r0m\x1b\\a\n", "a\n"),
    "a string that is broken off": ("\x1b]0;ti\x18a\n", "a\n"),
    "character sets and modes": ("\x1b(B\x1b)0\x1b=\x1b[?25la\x1b7\n", "a\n"),
    "a progress bar": ("10%\r 50%\r100%\n", "100%\n"),
    "one that gets shorter": ("Downloading\rDone\x1b[K\n", "Done\n"),
    "without that": ("Downloading\rDone\n", "Doneloading\n"),
    "a line erased": ("abc\x1b[2K\rd\n", "d\n"),
    "its beginning": ("abc\b\x1b[1K\n", "  c\n"),
    "a spinner": ("a |\b/\b-\b\\\n", "a \\\n"),
    "columns": ("abcdef\x1b[3Gx\x1b[2Dyz\x1b[2C!\n", "ayzde!\n"),
    "a bell": ("a\x07\x00\n", "a\n"),
    "no line end": ("$ ", "$ "),
    "an unfinished sequence": ("a\x1b[1;", "a"),
}


@pytest.mark.parametrize(("printed", "text"), PLAIN.values(), ids=PLAIN)
def test_what_a_line_shows(printed: str, text: str) -> None:
    plain = Plain()
    assert (plain.feed(printed.encode()) + plain.rest()).decode() == text


_pieces = st.one_of(
    st.binary(max_size=8),
    st.text(max_size=8).map(str.encode),
    st.sampled_from([printed.encode() for printed, _ in PLAIN.values()]),
    st.sampled_from([b"\x1b", b"\x1b[", b"\x1b]", b"\x1b\\", b"\r", b"\b", b"K", b"99999999999C"]),
)


@given(st.lists(_pieces, max_size=20), st.lists(st.integers(0, 100), max_size=5))
@example([b"\x1b[", b"9" * 5000, b"m\n"], [])
@example([b"\x1b]", b"x" * 5000, b"\n"], [])
def test_it_is_the_same_however_it_comes_in(pieces: list[bytes], cuts: list[int]) -> None:
    data = b"".join(pieces)
    plain, other = Plain(), Plain()
    whole = plain.feed(data) + plain.rest()
    places = sorted(min(cut, len(data)) for cut in cuts)
    parts = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
    assert b"".join([other.feed(part) for part in parts]) + other.rest() == whole
    assert not any(byte in whole for byte in b"\x1b\r\b\x07\x00\x7f")


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_text_is_left_alone(text: str) -> None:
    plain = Plain()
    assert (plain.feed(text.encode()) + plain.rest()).decode() == text


@settings(max_examples=40)
@given(st.lists(_pieces, max_size=20))
@example([b"\x1b[3K"])  # which pyte fails at
@example(["⼀\x9b".encode()])
@example([b"\t       ", b"\x1b]0;ti\x18a\n"])
def test_no_output_is_too_odd_for_a_screen(pieces: list[bytes]) -> None:
    screen = Screen(10, 3)
    for piece in pieces:
        screen.feed(piece)
    screen.rest()
    screen.feed(b"\x18\x1bc\x1b\\on")
    assert b"on" in screen.rest().replace(b"\n", b"")  # it may come to the end of a line


# --- a shell ----------------------------------------------------------------------------------


@pytest.fixture
async def sup() -> AsyncIterator[Supervisor]:
    async with Supervisor() as supervisor:
        yield supervisor


@pytest.fixture
async def shell(sup: Supervisor, request: pytest.FixtureRequest) -> AsyncIterator[Shell]:
    executable = getattr(request, "param", "bash")
    async with Shell(sup, executable=executable, terminal=Terminal()) as shell:
        yield shell


@asynccontextmanager
async def under_way(shell: Shell, command: str, sees: str) -> AsyncIterator[list[ShellResult]]:
    """It has printed this; its result is there after the block."""
    results: list[ShellResult] = []

    async def call() -> None:
        results.append(await shell.run(command, timeout=60))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        with anyio.fail_after(60):
            assert await shell.expect(sees)
        yield results


@pytest.mark.anyio
@both_shells
async def test_it_is_a_terminal_for_each_command(shell: Shell) -> None:
    size = await shell.run("stty size; echo $TERM; tty; tty </dev/tty >&2; false")
    assert size.exit_code == 1
    lines = size.stdout.text.splitlines()
    assert lines[:2] == ["24 80", "xterm"]
    assert lines[2].startswith("/dev/pts/")
    assert lines[3] == "/dev/tty"
    isatty = "import os; print([os.isatty(fd) for fd in (0, 1, 2)])"
    result = await shell.run(f'{sys.executable} -c "{isatty}"')
    assert (result.stdout.text, result.stderr.text) == ("[True, True, True]\n", "")


@pytest.mark.anyio
async def test_output_ends_where_the_command_does(shell: Shell) -> None:
    for number in range(0, 2000, 40):
        result = await shell.run(f"seq {number}; (exit {number % 200})")
        assert result.stdout.text == "".join(f"{n}\n" for n in range(1, number + 1))
        assert result.exit_code == number % 200
    ended = await shell.run(
        "trap 'seq 3' EXIT; seq 3000; exit 2", output=OutputPolicy(head=0, tail=6)
    )
    assert (ended.exit_code, ended.shell_ended, ended.stdout.tail) == (2, True, b"1\n2\n3\n")
    assert (await shell.run("printf '\\036123'; printf on")).stdout.text == "123on"


@pytest.mark.anyio
@one_loop
@both_shells
async def test_a_password_is_asked_for(shell: Shell) -> None:
    ask = 'import getpass; print("got", getpass.getpass())'
    async with under_way(shell, f"{sys.executable} -c '{ask}'", "Password: ") as results:
        await shell.send("secret\n")
    assert results[0].stdout.text == "Password: \ngot secret\n"


@pytest.mark.anyio
async def test_input_and_its_end(shell: Shell) -> None:
    async with under_way(shell, "echo begun; cat; echo $?", "begun") as results:
        await shell.send("hello\n")
        await shell.send("\x04")
    assert results[0].stdout.text == "begun\nhello\nhello\n0\n"
    with pytest.raises(RuntimeError, match="no command under way"):
        await shell.send("y")
    async with under_way(shell, "stty -echo; echo begun; read x; stty echo", "begun"):
        await shell.send("one\ntwo\n")
    # What was not read is forgotten.
    assert (await shell.run("read -t 0 && echo there")).stdout.text == ""


@pytest.mark.anyio
@both_shells
async def test_control_c(shell: Shell) -> None:
    command = "sh -c 'echo begun; exec sleep 1000'; echo not"
    async with under_way(shell, command, "begun") as results:
        await shell.send("\x03")
    assert (results[0].outcome, results[0].exit_code) == (Outcome.EXITED, 130)
    assert results[0].stdout.text == "begun\n^C"
    assert (await shell.run("echo on")).stdout.text == "on\n"


@pytest.mark.anyio
@one_loop
async def test_its_modes_are_restored_after_one_that_is_ended(
    shell: Shell, patience: tuple[float, ...]
) -> None:
    for timeout in patience:
        hung = await shell.run("stty raw -echo; echo begun; sleep 1000", timeout=timeout)
        if hung.stdout.text:
            break
    assert (hung.outcome, hung.shell_ended) == (Outcome.TIMED_OUT, False)
    assert (await shell.run("stty -a | grep -cw -e -icanon -e -echo")).stdout.text == "0\n"


@pytest.mark.anyio
@one_loop
async def test_another_size(shell: Shell) -> None:
    command = "sh -c 'trap \"stty size; exit 3\" WINCH; echo begun; while :; do sleep 0.01; done'"
    async with under_way(shell, command, "begun") as results:
        shell.resize(100, 30)
    assert (results[0].exit_code, results[0].stdout.text) == (3, "begun\n30 100\n")
    await shell.run("exit")
    assert (await shell.run("stty size")).stdout.text == "30 100\n"


@pytest.mark.anyio
@one_loop
async def test_the_ways_of_its_text(sup: Supervisor) -> None:
    text = r"printf '\033[31m10%%\r100%%\033[m\n'"
    for ansi, printed in (
        ("strip", "100%\n"),
        ("keep", "\x1b[31m10%\r100%\x1b[m\r\n"),
        ("screen", "100%"),
    ):
        async with Shell(sup, terminal=Terminal(ansi=ansi)) as shell:  # type: ignore[arg-type]
            assert (await shell.run(text)).stdout.text == printed


@pytest.mark.anyio
@one_loop
async def test_a_program_that_takes_the_whole_screen(sup: Supervisor, tmp_path: Path) -> None:
    less = shutil.which("less")
    if less is None:
        pytest.skip("less is not installed")
    numbers = tmp_path / "numbers"
    numbers.write_text("".join(f"line {number}\n" for number in range(100)))
    async with (
        Shell(sup, terminal=Terminal(40, 10, ansi="screen")) as shell,
        under_way(shell, f"seq 3; {less} {numbers}; echo done", "line 8") as results,
    ):
        await shell.send("G")
        with anyio.fail_after(60):
            assert await shell.expect("line 99")
        shown = shell.peek().splitlines()
        assert "line 99" in shown
        assert "line 50" not in shown
        await shell.send("q")
    assert results[0].stdout.text.endswith("done")


@pytest.mark.anyio
@one_loop
@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
async def test_another_users(sup: Supervisor) -> None:
    async with Shell(sup, user="nobody", cwd="/", terminal=Terminal()) as shell:
        result = await shell.run("id -un >/dev/tty; stat -c %U $(tty)")
        assert result.stdout.text == "nobody\nnobody\n"


@pytest.mark.anyio
@one_loop
async def test_bad_input(sup: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"Terminal\.columns must be at least 1 columns"):
        Terminal(columns=0)
    with pytest.raises(ValueError, match="must be 'strip', 'keep' or 'screen'"):
        Terminal(ansi="no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a terminal's name such as 'xterm'"):
        Terminal(term="a\0b")
    with pytest.raises(TypeError, match=r"terminal must be a shells\.Terminal"):
        Shell(sup, terminal=True)  # type: ignore[arg-type]
    async with Shell(sup) as shell:
        with pytest.raises(RuntimeError, match=r"only a Shell\(terminal=…\) has a size"):
            shell.resize(80, 24)
    async with Shell(sup, terminal=Terminal()) as shell:
        with pytest.raises(TypeError, match="text must be a str"):
            await shell.send(b"y")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "pyte", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'agentsup\[pty\]'"):
        Shell(sup, terminal=Terminal(ansi="screen"))
