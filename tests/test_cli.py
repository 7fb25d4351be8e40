"""``agentsup run``, as a shell, a terminal and a stalled reader see it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

AGENTSUP = [sys.executable, "-m", "agentsup"]
IS_ROOT = os.geteuid() == 0
PATIENCE = 120  # seconds, on a busy machine

# With nothing to look at the output for, it does not go through agentsup at all.
DIRECT: list[str] = []
WATCHED = ["--idle-timeout", "60"]
both_ways = pytest.mark.parametrize("way", [DIRECT, WATCHED], ids=["direct", "watched"])


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*AGENTSUP, "run", *words], capture_output=True, timeout=PATIENCE, check=False, **options
    )


@contextlib.contextmanager
def started(*words: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    # Without a buffer, where a second line would hide from select().
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "bufsize": 0, **options}
    with subprocess.Popen([*AGENTSUP, "run", *words], **options) as process:
        try:
            yield process
        finally:
            process.kill()
            # Only now: a write to a pipe that is still open could go on.
            for stream in (process.stdout, process.stderr):
                if stream:
                    stream.close()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s"
        time.sleep(0.005)


def read_line(stream: IO[bytes] | None) -> bytes:
    assert stream
    assert select.select([stream], [], [], PATIENCE)[0], "nothing was printed"
    return stream.readline()


def pid_on(stream: IO[bytes] | None) -> int:
    return int(read_line(stream))


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# --- exit statuses ----------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "exit 255"], 255),
        (["sh", "-c", "kill -9 $$"], 128 + 9),
        (["sh", "-c", "kill -TERM $$"], 128 + 15),
    ],
)
def test_the_status_is_the_commands(way: list[str], words: list[str], status: int) -> None:
    done = run(*way, "--", *words)
    assert (done.returncode, done.stdout, done.stderr) == (status, b"", b"")


def test_a_command_that_is_not_there() -> None:
    done = run("no-such-program")
    assert done.returncode == 127
    assert done.stderr.startswith(b"agentsup: no-such-program: program not found in PATH=")
    assert run("/no/such/program").returncode == 127


def test_a_command_that_cannot_be_executed(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no program")
    done = run(str(text))
    assert done.returncode == 126
    assert b"not executable" in done.stderr
    assert run(str(tmp_path)).returncode == 126
    text.chmod(0o755)
    assert run(str(text)).returncode == 126


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "Missing argument 'COMMAND"),
        (["--nonsense", "true"], "No such option"),
        (["--timeout", "soon", "true"], "'--timeout': 'soon' is not a duration: write seconds"),
        (["--timeout", "0", "true"], "--timeout must be more than zero"),
        (["--memory", "1GB", "true"], "'--memory': '1GB' is not a size"),
        (["--open-files", "1", "true"], "--open-files must be at least 3"),
        (["--user", "no-such-user", "true"], "--user: there is no user 'no-such-user'"),
        (["--cwd", "/nonexistent", "true"], "--cwd: No such file or directory: '/nonexistent'"),
        (["--result", "-", "true"], "--result: '-' would mix"),
        (["--result", "/nonexistent/r", "true"], "--result: there is no directory"),
        (["--result", "/", "true"], "--result: '/' is a directory"),
    ],
)
def test_misuse_is_125_and_names_the_option(words: list[str], told: str) -> None:
    done = run(*words)
    assert done.returncode == 125
    assert told in done.stderr.decode()
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["nonsense"], ["--nonsense"]])
def test_misuse_of_the_whole_is_125(words: list[str]) -> None:
    done = subprocess.run([*AGENTSUP, *words], capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 125
    assert b"Usage: agentsup" in done.stderr


def test_options_end_where_the_command_begins() -> None:
    done = run("--timeout", "20", "echo", "--timeout", "-h", "--")
    assert done.stdout == b"--timeout -h --\n"


def test_version_and_help() -> None:
    for option, text in [("--version", "agentsup "), ("--help", "Run one command")]:
        done = subprocess.run([*AGENTSUP, option], capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0
        assert text in done.stdout
    assert b"--timeout DURATION" in run("--help").stdout


def test_a_command_is_imported_when_it_is_wanted() -> None:
    program = """if True:
        import sys
        from agentsup.cli import main
        main(["--help"])
        for name in ("agentsup.cli.run", "agentsup._calls.call", "rich"):
            assert name not in sys.modules, name
    """
    subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, timeout=PATIENCE
    )


@pytest.mark.parametrize("package", ["click", "rich"])
def test_without_its_extra_it_says_what_to_install(package: str) -> None:
    program = f"""if True:
        import sys
        sys.modules[{package!r}] = None
        from agentsup.cli import main
        sys.exit(main(["run", "--report", "true"]))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=PATIENCE)
    line = f"agentsup: {package} is not installed: pip install 'agentsup[cli]'\n"
    assert (done.returncode, done.stderr.decode()) == (125, line)


# --- input and output -------------------------------------------------------------------------


@both_ways
def test_every_byte_goes_through(way: list[str]) -> None:
    data = os.urandom(3_000_000)
    done = run(*way, "--", "sh", "-c", "tee /dev/stderr", input=data)
    assert done.stdout == data
    assert done.stderr == data


def test_two_outputs_in_one_pipe_keep_their_order() -> None:
    program = "for i in $(seq 200); do echo out $i; echo err $i >&2; done"
    command = [*AGENTSUP, "run", *WATCHED, "sh", "-c", program]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE
    )
    assert done.stdout.decode().split("\n")[:-1] == [
        f"{stream} {i}" for i in range(1, 201) for stream in ("out", "err")
    ]


@both_ways
def test_a_file_is_appended_to(way: list[str], tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("w") as file:
        file.write("first\n")
        file.flush()
        command = [*AGENTSUP, "run", *way, "echo", "second"]
        subprocess.run(command, stdout=file, check=True, timeout=PATIENCE)
        file.write("third\n")
    assert path.read_text() == "first\nsecond\nthird\n"


@both_ways
def test_a_closed_descriptor_is_harmless(way: list[str], tmp_path: Path) -> None:
    # The next file to be opened would get its number, and then the output.
    command = [*AGENTSUP, "run", *way, "sh", "-c", "cat; echo hello; echo hello >&2"]
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, closed


@both_ways
def test_a_reader_that_leaves_ends_the_tool_as_without_agentsup(way: list[str]) -> None:
    with started(*way, "yes") as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.read(4) == b"y\ny\n"
        process.stdout.close()
        assert process.wait(PATIENCE) == 128 + signal.SIGPIPE
        assert process.stderr.read() == b""


@both_ways
def test_the_timeout_comes_though_the_reader_stalls(way: list[str]) -> None:
    with started(*way, "--timeout", "0.5", "yes") as process:
        assert process.wait(PATIENCE) == 124
        assert process.stderr
        assert re.search(rb"agentsup: yes: timed out after \d+\.\d s", process.stderr.read())


def test_the_timeout_comes_though_the_reader_of_a_socket_stalls() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, started(*WATCHED, "--timeout", "0.5", "yes", stdout=theirs) as process:
        assert process.wait(PATIENCE) == 124


@both_ways
def test_the_timeout_comes_though_stderr_is_full(way: list[str]) -> None:
    with started(*way, "--timeout", "0.5", "sh", "-c", "exec yes >&2") as process:
        assert process.wait(PATIENCE) == 124


def test_a_reader_that_rests_gets_everything_and_is_not_the_tools_idleness(
    patience: tuple[float, ...],
) -> None:
    size = 4 * 1024 * 1024
    for timeout in patience:
        with started(
            "--idle-timeout", str(timeout), "head", "-c", str(size), "/dev/zero"
        ) as process:
            time.sleep(timeout + 0.7)
            rested = process.poll() is None
            assert process.stdout
            got = len(process.stdout.read())
            status = process.wait(PATIENCE)
        if status == 0:
            break  # else it was too busy to print for so long
    assert (rested, got, status) == (True, size, 0)


WAITS_FOR_ITS_READER = f"""
import sys
from agentsup.cli import main, relay
relay.PATIENCE = {PATIENCE}
sys.exit(main(sys.argv[1:]))
"""


def test_what_the_tool_left_is_delivered_to_a_slow_reader(tmp_path: Path) -> None:
    # More than the pipe holds, less than is held for a reader: the tool ends long before.
    path = tmp_path / "result.json"
    words = ["--result", str(path), "head", "-c", "200000", "/dev/zero"]
    with subprocess.Popen(
        [sys.executable, "-c", WAITS_FOR_ITS_READER, "run", *words],
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as process:
        wait_until(path.exists)
        assert json.loads(path.read_text())["exit_code"] == 0
        assert process.stdout
        assert len(process.stdout.read()) == 200_000
        assert process.wait(PATIENCE) == 0


def test_the_callers_pipe_does_not_become_nonblocking() -> None:
    read_end, write_end = os.pipe()
    try:
        with started(*WATCHED, "sh", "-c", "echo ready; sleep 300", stdout=write_end):
            assert os.read(read_end, 10) == b"ready\n"
            assert not fcntl.fcntl(write_end, fcntl.F_GETFL) & os.O_NONBLOCK
    finally:
        os.close(read_end)
        os.close(write_end)


def test_a_full_disk_is_reported() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*AGENTSUP, "run", *WATCHED, "yes"],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
        )
    assert done.returncode == 128 + signal.SIGPIPE
    assert b"No space left on device" in done.stderr


# --- limits -----------------------------------------------------------------------------------


def test_a_timeout_ends_the_whole_tree(patience: tuple[float, ...]) -> None:
    program = 'trap "" TERM; (setsid sleep 300 & echo $!); sleep 300 & echo $$; wait'
    for timeout in patience:
        begun = time.monotonic()
        done = run("--timeout", str(timeout), "--grace", "0.5", "--", "sh", "-c", program)
        assert done.returncode == 124
        assert time.monotonic() - begun >= timeout + 0.5
        if done.stdout.count(b"\n") == 2:
            break
    line = rb"agentsup: sh: timed out after (\d+\.\d) s, killed 2 leftover processes\n"
    told = re.fullmatch(line, done.stderr)
    assert told, done.stderr
    assert float(told[1]) >= timeout
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    assert all(map(gone, pids))


def test_units() -> None:
    assert run("--timeout", "0h 100ms", "sleep", "300").returncode == 124


def test_silence_is_ended_and_output_prolongs(patience: tuple[float, ...]) -> None:
    for timeout in patience:
        program = f"for i in 1 2 3 4 5; do echo $i; sleep {timeout / 3}; done; exec sleep 300"
        done = run("--idle-timeout", str(timeout), "sh", "-c", program)
        assert done.returncode == 124
        if done.stdout.endswith(b"5\n"):
            break
    assert done.stdout == b"1\n2\n3\n4\n5\n"
    told = re.match(rb"agentsup: sh: idle after (\d+\.\d) s", done.stderr)
    assert told, done.stderr
    assert float(told[1]) > 2 * timeout


def test_no_more_than_the_limit_is_passed_on() -> None:
    done = run("--limit-output", "1K", "--grace", "0.2", "sh", "-c", 'trap "" TERM; yes')
    assert done.returncode == 124
    assert done.stdout == b"y\n" * 512
    assert b"output limit" in done.stderr


def test_resource_limits() -> None:
    program = "ulimit -v; ulimit -n; ulimit -f; ulimit -t"
    limits = ["--memory", "1G", "--open-files", "50", "--file-size", "1M", "--cpu-time", "1min"]
    done = run(*limits, "sh", "-c", program)
    blocks = 1024 * 1024 // 512
    assert done.stdout.split() == [b"1048576", b"50", str(blocks).encode(), b"60"]


def test_cpu_time() -> None:
    done = run("--cpu-time", "1", "sh", "-c", "while :; do :; done")
    assert done.returncode == 128 + signal.SIGXCPU
    assert b"cpu limit after" in done.stderr


@pytest.mark.skipif(not IS_ROOT, reason="takes root")
def test_another_user() -> None:
    assert run("--user", "nobody", "id", "-un").stdout == b"nobody\n"
    assert run("--user", "65534", "--processes", "64", "id", "-u").stdout == b"65534\n"
    assert b"give another --user" in run("--processes", "9", "true").stderr


@pytest.mark.skipif(IS_ROOT, reason="root may")
def test_another_user_takes_root() -> None:
    done = run("--user", "root", "true")
    assert done.returncode == 125
    assert b"--user: only root" in done.stderr


def test_a_directory(tmp_path: Path) -> None:
    assert run("--cwd", str(tmp_path), "pwd", "-P").stdout.decode().strip() == os.path.realpath(
        tmp_path
    )


@both_ways
def test_what_is_left_running_is_killed_and_told(way: list[str]) -> None:
    done = run(*way, "sh", "-c", "setsid sleep 300 >/dev/null 2>&1 & echo $!")
    assert done.returncode == 0
    assert done.stderr == b"agentsup: sh: killed 1 leftover process\n"
    assert gone(int(done.stdout))
    quiet = run(*way, "--quiet", "sh", "-c", "sleep 300 & exit 3")
    assert (quiet.returncode, quiet.stderr) == (3, b"")


@both_ways
def test_nothing_outlives_a_kill_minus_9(way: list[str]) -> None:
    program = "(setsid sh -c 'trap \"\" TERM HUP; echo $$; sleep 300' &); echo $$; sleep 300"
    with started(*way, "sh", "-c", program) as process:
        pids = [pid_on(process.stdout), pid_on(process.stdout)]
        assert not any(map(gone, pids))
        process.kill()
        wait_until(lambda: all(map(gone, pids)))


# --- the result -------------------------------------------------------------------------------


def test_the_result_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    done = run("--result", str(path), "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
    result = json.loads(path.read_text())
    assert result["exit_code"] == 3
    assert result["stdout"]["text"] == "out\n"
    assert result["stderr"]["text"] == "err\n"
    assert os.listdir(tmp_path) == ["result.json"]


def test_the_result_file_after_a_timeout(tmp_path: Path, patience: tuple[float, ...]) -> None:
    path = tmp_path / "result.json"
    path.write_text("the one before")
    for timeout in patience:
        options = ["--result", str(path), "--timeout", str(timeout)]
        done = run(*options, "sh", "-c", "echo out; sleep 300")
        assert done.returncode == 124
        if done.stdout:
            break
    result = json.loads(path.read_text())
    assert result["outcome"] == "TIMED_OUT"
    assert result["stdout"]["text"] == "out\n"
    assert result["escalation"][0]["action"] == "SIGTERM"


def test_a_result_that_cannot_be_written(tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    program = f"rmdir {directory}; echo out"
    done = run("--result", str(directory / "result.json"), "sh", "-c", program)
    assert (done.returncode, done.stdout) == (125, b"out\n")
    assert b"--result: " in done.stderr
    assert b"Traceback" not in done.stderr


def test_the_report() -> None:
    done = run("--report", "sh", "-c", "exit 3")
    assert done.returncode == 3
    assert "exited with status 3" in done.stderr.decode()


# --- signals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["TERM", "HUP"])
@both_ways
def test_an_ending_signal_begins_the_escalation(way: list[str], name: str) -> None:
    program = f"trap 'exit 5' {name}; echo $$; while :; do sleep 0.05; done"
    with started(*way, "sh", "-c", program) as process:
        pid_on(process.stdout)
        process.send_signal(signal.Signals[f"SIG{name}"])
        assert process.wait(PATIENCE) == 5


def test_an_ending_signal_ends_what_does_not_heed_it() -> None:
    program = "trap '' TERM; echo $$; sleep 300 & wait; sleep 300"
    with started("--grace", "0.2", "sh", "-c", program) as process:
        tool = pid_on(process.stdout)
        process.terminate()
        assert process.wait(PATIENCE) == 128 + signal.SIGKILL
        assert gone(tool)


@pytest.mark.parametrize("name", ["INT", "QUIT", "USR1", "USR2", "WINCH"])
def test_other_signals_are_passed_on(name: str) -> None:
    program = f"trap 'echo got' {name}; echo $$; while :; do sleep 0.05; done"
    with started("sh", "-c", program) as process:
        pid_on(process.stdout)
        process.send_signal(signal.Signals[f"SIG{name}"])
        assert read_line(process.stdout) == b"got\n"
        assert process.poll() is None
        process.terminate()
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM


def test_a_second_interrupt_at_once_ends_it() -> None:
    program = "trap 'echo got' INT; echo $$; while :; do sleep 0.05; done"
    with started("sh", "-c", program) as process:
        pid_on(process.stdout)
        process.send_signal(signal.SIGINT)
        assert read_line(process.stdout) == b"got\n"
        # Until two of them are close enough to each other, on a busy machine.
        for _ in range(20):
            process.send_signal(signal.SIGINT)
            if read_line(process.stdout) != b"got\n":
                break
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM


def test_an_ignored_signal_stays_ignored() -> None:
    program = "trap 'echo got' USR1; echo $$; while :; do sleep 0.05; done"
    ignoring = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *AGENTSUP, "run", "sh", "-c", program]
    with subprocess.Popen(ignoring, stdout=subprocess.PIPE, bufsize=0) as process:
        pid_on(process.stdout)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGUSR1)
        assert read_line(process.stdout) == b"got\n"
        process.terminate()
        # Not by SIGHUP, which has come long since.
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM


# --- a terminal -------------------------------------------------------------------------------


class Terminal:
    """A pseudoterminal with a session of its own, and what it shows."""

    def __init__(self, *words: str) -> None:
        self.fd, terminal = pty.openpty()
        # A leader of a session without one gets the terminal that it opens.
        script = 'exec "$@" <>"$TERMINAL" >&0 2>&1'
        self.process = subprocess.Popen(
            ["sh", "-c", script, "sh", *words],
            start_new_session=True,
            env={**os.environ, "TERMINAL": os.ttyname(terminal), "PS1": "ready> "},
        )
        self._terminal = terminal  # kept open: there is no end of file before we close it
        self.shown = b""

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def read_until(self, pattern: bytes) -> re.Match[bytes]:
        deadline = time.monotonic() + PATIENCE
        while not (match := re.search(pattern, self.shown)):
            wait = max(0.0, deadline - time.monotonic())
            assert select.select([self.fd], [], [], wait)[0], f"{pattern!r}: {self.shown!r}"
            self.shown += os.read(self.fd, 4096)
        self.shown = self.shown[match.end() :]
        return match

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.fd)
        os.close(self._terminal)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    with contextlib.ExitStack() as stack:

        def open_terminal(*words: str) -> Terminal:
            opened = Terminal(*words)
            stack.callback(opened.close)
            return opened

        yield open_terminal


def test_the_tool_has_the_terminal(terminal: Callable[..., Terminal]) -> None:
    program = "test -t 0 && test -t 1 && test -t 2 && echo all; read line; echo got $line"
    shown = terminal(*AGENTSUP, "run", "sh", "-c", program)
    shown.read_until(rb"all\r\n")
    shown.type(b"some words\n")
    shown.read_until(rb"got some words\r\n")
    assert shown.process.wait(PATIENCE) == 0


def test_watched_output_reaches_a_terminal(terminal: Callable[..., Terminal]) -> None:
    shown = terminal(*AGENTSUP, "run", *WATCHED, "sh", "-c", "seq 5000; echo over")
    shown.read_until(rb"\b4999\r\n5000\r\nover\r\n")
    assert shown.process.wait(PATIENCE) == 0


def test_the_timeout_comes_though_the_terminal_is_held(terminal: Callable[..., Terminal]) -> None:
    shown = terminal(*AGENTSUP, "run", *WATCHED, "--timeout", "0.5", "yes")  # and nobody reads
    assert shown.process.wait(PATIENCE) == 124


@both_ways
def test_interrupt_on_a_terminal(terminal: Callable[..., Terminal], way: list[str]) -> None:
    shown = terminal(*AGENTSUP, "run", *way, "sh", "-c", "echo pid=$$; exec sleep 300")
    tool = int(shown.read_until(rb"pid=(\d+)\r\n")[1])
    shown.type(b"\x03")
    assert shown.process.wait(PATIENCE) == 128 + signal.SIGINT
    assert gone(tool)


def test_suspend_and_continue(terminal: Callable[..., Terminal]) -> None:
    def stopped() -> bool:
        return psutil.Process(tool).status() == psutil.STATUS_STOPPED

    shown = terminal("sh", "-i")
    shown.read_until(b"ready> ")
    command = " ".join([*AGENTSUP, "run", *WATCHED, "sh", "-c"])
    shown.type(f"{command} 'echo pid=$$; exec sleep 300'\n".encode())
    tool = int(shown.read_until(rb"pid=(\d+)\r\n")[1])
    shown.type(b"\x1a")
    shown.read_until(b"ready> ")  # the shell has its terminal back
    wait_until(stopped)
    shown.type(b"fg\n")
    wait_until(lambda: not stopped())
    shown.type(b"\x03")
    shown.read_until(b"ready> ")
    assert gone(tool)
    shown.type(b"echo status=$?\n")
    shown.read_until(rb"status=130\r\n")
    shown.type(b"exit\n")
    assert shown.process.wait(PATIENCE) == 0


def test_suspend_where_nobody_could_continue(terminal: Callable[..., Terminal]) -> None:
    program = "trap 'echo continued' CONT; echo pid=$$; while :; do sleep 0.05; done"
    shown = terminal(*AGENTSUP, "run", "sh", "-c", program)
    tool = int(shown.read_until(rb"pid=(\d+)\r\n")[1])
    shown.type(b"\x1a")
    shown.read_until(rb"continued\r\n")
    shown.process.terminate()
    assert shown.process.wait(PATIENCE) == 128 + signal.SIGTERM
    assert gone(tool)
