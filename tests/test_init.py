"""``agentsup init`` as PID 1 and below another init; and tini and dumb-init, on the same cases.

The others are run where they are on PATH; docs/daemon/container.md says of them what is found here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from attrs import frozen

from agentsup._linux.keeper import children_of, stat_fields

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="agentsup init is for Linux")

ROOT = Path(__file__).parent.parent
AGENTSUP = (sys.executable, "-m", "agentsup", "init")
UNSHARE = ("unshare", *(() if os.geteuid() == 0 else ("-r",)), "-pf", "--mount-proc")
PATIENCE = 120  # seconds, on a busy machine
Until = Callable[..., None]


@frozen
class Program:
    """One of the inits, and how it writes the options; None for what it cannot do."""

    name: str
    words: tuple[str, ...]
    child_only: tuple[str, ...] | None = ()
    group: tuple[str, ...] | None = ("-g",)
    rewrite: tuple[str, ...] | None = ("-r",)
    remap: tuple[str, ...] | None = ("-e",)
    not_found: int = 127
    not_executable: int = 126

    def before(self, *options: str) -> tuple[str, ...]:
        """What comes before the command."""
        return (*self.words, *options, "--")

    def option(self, name: str) -> tuple[str, ...]:
        words: tuple[str, ...] | None = getattr(self, name)
        if words is None:
            pytest.skip(f"{self.name} has no such option")
        return words


PROGRAMS = (
    Program("agentsup", AGENTSUP),
    Program("tini", ("tini",), rewrite=None),
    Program(
        "dumb-init",
        ("dumb-init",),
        child_only=("-c",),
        group=(),
        remap=None,
        not_found=2,
        not_executable=2,
    ),
)


@pytest.fixture(params=PROGRAMS, ids=lambda program: program.name)
def program(request: pytest.FixtureRequest) -> Program:
    found: Program = request.param
    if shutil.which(found.words[0]) is None:
        pytest.skip(f"{found.name} is not on PATH")
    return found


@pytest.fixture
def as_pid_1() -> tuple[str, ...]:
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not create a PID namespace here")
    return UNSHARE


class Container:
    """Something that runs, and where its first words come out."""

    def __init__(self, words: tuple[str, ...], **options: object) -> None:
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            words, stdout=subprocess.PIPE, bufsize=0, **options
        )

    def line(self) -> str:
        return read_line(self.process.stdout)

    @property
    def init(self) -> int:
        """Its PID 1, as it is called out here; without a namespace, itself."""
        if self.process.args[0] != "unshare":
            return self.process.pid
        (pid,) = children_of(self.process.pid)
        return pid

    @property
    def child(self) -> int:
        return children_of(self.init)[0]

    def signal(self, number: int) -> None:
        os.kill(self.init, number)

    def status(self) -> int:
        return self.process.wait(PATIENCE)


def read_line(stream: IO[bytes] | None) -> str:
    assert stream
    assert select.select([stream], [], [], PATIENCE)[0], "nothing was printed"
    return stream.readline().decode().strip()


@contextlib.contextmanager
def started(*words: str, **options: object) -> Iterator[Container]:
    container = Container(words, **options)
    process = container.process
    try:
        yield container
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(container.init, signal.SIGKILL)
            process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def run(*words: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(words, capture_output=True, timeout=PATIENCE, check=False, **options)


def state(pid: int) -> bytes:
    return stat_fields(pid)[0]


def blocked(pid: int) -> int:
    """The signals that it has blocked, a bit each."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigBlk:"):
            return int(line.split()[1], 16)
    return 0


# Not a shell: one that is stopped in vfork(2) is in no state to be told from outside.
READER = (
    sys.executable,
    "-c",
    "import signal, sys\n"
    "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
    "print('ready', flush=True)\n"
    "if sys.argv[1:]: print('got', input(), flush=True)\n"
    "signal.sigwait([signal.SIGINT])\n"
    "sys.exit(6)\n",
)


# --- as PID 1: the cases of docs/daemon/container.md ------------------------------------------


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -9 $$", 137)])
def test_it_exits_as_the_child(
    program: Program, as_pid_1: tuple[str, ...], script: str, status: int
) -> None:
    done = run(*as_pid_1, *program.before(), "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (status, b"", b"")


def test_a_command_that_is_not_there(program: Program, as_pid_1: tuple[str, ...]) -> None:
    done = run(*as_pid_1, *program.before(), "no-such-program")
    assert done.returncode == program.not_found
    assert b"no-such-program" in done.stderr


def test_a_command_that_cannot_be_executed(
    program: Program, as_pid_1: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("no program")
    done = run(*as_pid_1, *program.before(), str(tmp_path / "text"))
    assert done.returncode == program.not_executable


def test_a_status_that_is_expected(program: Program, as_pid_1: tuple[str, ...]) -> None:
    words = (*as_pid_1, *program.before(*program.option("remap"), "143"))
    assert run(*words, "sh", "-c", "kill -TERM $$").returncode == 0
    assert run(*words, "sh", "-c", "exit 7").returncode == 7


ALL = [n for n in range(1, 32) if n not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD)]
LISTENER = """
import signal
numbers = {numbers}
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
print("ready", flush=True)
while (number := signal.sigwait(numbers)) != signal.SIGTERM:
    print(number.value, flush=True)
"""
# What they keep for themselves: a fault of their own, and what the terminal does.
NOT_PASSED_ON = {
    "agentsup": {signal.SIGTTIN, signal.SIGTTOU},
    "tini": {
        *(signal.SIGTTIN, signal.SIGTTOU, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV),
        *(signal.SIGBUS, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS),
    },
    "dumb-init": {signal.SIGTTIN, signal.SIGTTOU, signal.SIGTSTP},  # they become STOP
}


def test_every_signal_is_passed_on(program: Program, as_pid_1: tuple[str, ...]) -> None:
    listener = (sys.executable, "-c", LISTENER.format(numbers=ALL))
    with started(*as_pid_1, *program.before(), *listener) as container:
        assert container.line() == "ready"
        for number in ALL:
            if number != signal.SIGTERM and number not in NOT_PASSED_ON[program.name]:
                container.signal(number)
                assert container.line() == str(number)
        container.signal(signal.SIGTERM)
        assert container.status() == 0


# Of two traps that are due, dash and bash take the lower number first: TERM, then WINCH.
FAMILY = """
trap 'kill -WINCH $!; wait $!; exit $?' TERM
sh -c 'trap "exit 8" TERM; trap "exit 9" WINCH; echo ready; while :; do sleep 0.05; done' &
wait
"""


@pytest.mark.parametrize(("to", "status"), [("child_only", 9), ("group", 8)])
def test_to_the_child_or_to_its_group(
    program: Program, as_pid_1: tuple[str, ...], to: str, status: int
) -> None:
    words = (*program.before(*program.option(to)), "sh", "-c", FAMILY)
    with started(*as_pid_1, *words) as container:
        assert container.line() == "ready"
        container.signal(signal.SIGTERM)
        assert container.status() == status


WAIT = "echo ready; while :; do sleep 0.05; done"


def test_another_signal_in_its_place(program: Program, as_pid_1: tuple[str, ...]) -> None:
    option = program.option("rewrite")
    words = program.before(*option, "15:3", *option, "1:0")
    with started(*as_pid_1, *words, "sh", "-c", f"trap 'exit 4' QUIT; {WAIT}") as container:
        assert container.line() == "ready"
        container.signal(signal.SIGHUP)
        container.signal(signal.SIGTERM)
        assert container.status() == 4


def test_a_child_that_ignores_term(program: Program, as_pid_1: tuple[str, ...]) -> None:
    script = f"trap 'echo asked' TERM; trap 'exit 5' INT; {WAIT}"
    with started(*as_pid_1, *program.before(), "sh", "-c", script) as container:
        assert container.line() == "ready"
        for _ in range(2):
            container.signal(signal.SIGTERM)
            assert container.line() == "asked"
        container.signal(signal.SIGINT)
        assert container.status() == 5


# The subshell ends at once, so that sleep is an orphan; and so is its own child's child.
ORPHANS = """
(sleep 0.1 & (sleep 0.2 & echo $!); echo $!) | while read pid; do
    until [ ! -e /proc/$pid ]; do sleep 0.02; done
done
grep -l "^State:.Z" /proc/[0-9]*/status && exit 1
exit 0
"""


def test_orphans_are_reaped(program: Program, as_pid_1: tuple[str, ...]) -> None:
    done = run(*as_pid_1, *program.before(), "sh", "-c", ORPHANS)
    assert (done.returncode, done.stdout) == (0, b"")


def test_it_ends_when_the_child_does(
    program: Program, as_pid_1: tuple[str, ...], marker, until: Until
) -> None:
    script = f"trap '' TERM; setsid sleep {marker} & sleep {marker} & exit 3"
    assert run(*as_pid_1, *program.before(), "sh", "-c", script).returncode == 3
    until(lambda: not marker.pids())


def test_a_child_that_is_stopped(program: Program, as_pid_1: tuple[str, ...], until: Until) -> None:
    with started(*as_pid_1, *program.before(), *READER) as container:
        assert container.line() == "ready"
        child = container.child
        container.signal(signal.SIGTSTP)
        until(lambda: state(child) == b"T")
        container.signal(signal.SIGCONT)
        until(lambda: state(child) != b"T")
        container.signal(signal.SIGINT)
        assert container.status() == 6


def test_a_terminal_is_the_childs(program: Program, as_pid_1: tuple[str, ...]) -> None:
    # As a container's terminal: PID 1 is the leader of its session.
    words = (*as_pid_1, "setsid", "--ctty", *program.before(), *READER, "read")
    with terminal() as (master, slave), started(*words, stdin=slave, start_new_session=True) as it:
        assert it.line() == "ready"
        os.write(master, b"this\n")
        assert it.line() == "got this"
        os.write(master, b"\x03")
        assert it.status() == 6


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    master, slave = pty.openpty()
    try:
        yield master, slave
    finally:
        os.close(master)
        os.close(slave)


# --- what is not to be seen of us -------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGCHLD, signal.SIGTTOU])
def test_the_child_has_the_signals_that_we_were_given(number: int) -> None:
    def prepare() -> None:
        signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, number])

    look = ("grep", "Sig[BI]", "/proc/self/status")
    wanted = run(*look, preexec_fn=prepare)
    done = run(*AGENTSUP, *look, preexec_fn=prepare)
    assert done.returncode == 0
    assert wanted.stdout.count(b"\n") == 2
    assert done.stdout == wanted.stdout


def test_a_signal_that_was_there_before_the_child() -> None:
    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        os.kill(os.getpid(), signal.SIGUSR1)

    wait = "import signal; print(signal.sigwait([signal.SIGUSR1]).name)"
    done = run(*AGENTSUP, sys.executable, "-c", wait, preexec_fn=prepare)
    assert (done.returncode, done.stdout) == (0, b"SIGUSR1\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGPIPE])
def test_a_signal_that_comes_while_the_child_is_started(number: int, until: Until) -> None:
    with started(*AGENTSUP, "sleep", "1000") as it:
        # While it waits for them, the kernel shows them as not blocked.
        until(lambda: blocked(it.init) >> number - 1 & 1 or children_of(it.init))
        it.signal(number)
        assert it.status() == 128 + number


def test_it_is_small() -> None:
    look = (
        "import sys; from agentsup.cli import main; main(['init', '--', 'true']);"
        "print(*{'anyio', 'asyncio', 'attr', 'attrs', 'httpx', 'rich'} & set(sys.modules))"
    )
    assert run(sys.executable, "-c", look).stdout == b"\n"


def test_nobody_reads_what_it_says() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writing, b"." * 65536):
            pass
    os.set_blocking(writing, True)
    try:
        with started(*AGENTSUP, "-v", "true", stderr=writing) as it:
            assert it.status() == 0
        os.close(reading)
        with started(*AGENTSUP, "-v", "sh", "-c", "exit 7", stderr=writing) as it:
            assert it.status() == 7  # and not by a SIGPIPE of ours, passed on
    finally:
        os.close(writing)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), b"Missing argument"),
        (("-r", "KILL:TERM", "true"), b"no process can catch KILL"),
        (("-r", "TERM", "true"), b"is not a rewrite"),
        (("-e", "256", "true"), b"256"),
        (("-p", "NONE", "true"), b"is not a signal"),
        (("--kill-leftovers=soon", "true"), b"is not a duration"),
    ],
)
def test_misuse(words: tuple[str, ...], told: bytes) -> None:
    done = run(*AGENTSUP, *words)
    assert done.returncode == 125
    assert told in done.stderr
    assert b"Traceback" not in done.stderr


# --- below another init -----------------------------------------------------------------------


def test_orphans_come_to_a_subreaper() -> None:
    done = run(*AGENTSUP, "-w", "sh", "-c", ORPHANS.replace("grep -l", "false #"))
    assert done.returncode == 0
    assert done.stderr.count(b"which was left behind") >= 2


TREE = """
sh -c 'sh -c "trap \\"echo asked\\" TERM; echo ready; while sleep .1; do :; done" {marker} & wait' &
(setsid sh -c 'trap "" TERM; echo ready; sleep {marker} & wait' &)
read line
exit 4
"""


def test_leftovers_are_asked_and_then_killed(marker) -> None:
    words = (*AGENTSUP, "--kill-leftovers=0.2", "sh", "-c", TREE.format(marker=marker))
    with started(*words, stdin=subprocess.PIPE) as it:
        assert [it.line(), it.line()] == ["ready", "ready"]
        assert it.process.stdin
        it.process.stdin.close()
        assert it.status() == 4
        assert not marker.pids()
        assert it.line() == "asked"


def test_who_asks_again_does_not_wait_for_leftovers(marker) -> None:
    words = (*AGENTSUP, "--kill-leftovers=1h", "sh", "-c", TREE.format(marker=marker))
    with started(*words, stdin=subprocess.PIPE) as it:
        assert [it.line(), it.line()] == ["ready", "ready"]
        assert it.process.stdin
        it.process.stdin.close()
        assert it.line() == "asked"
        it.signal(signal.SIGTERM)
        assert it.status() == 4
        assert not marker.pids()


def test_leftovers_of_pid_1(as_pid_1: tuple[str, ...], marker) -> None:
    words = (*AGENTSUP, "--kill-leftovers", "--", "sh", "-c")
    script = "(setsid sh -c 'trap \"echo asked; exit\" TERM; echo; sleep 1000 & wait' &); read line"
    with started(*as_pid_1, *words, script, stdin=subprocess.PIPE) as it:
        it.line()
        assert it.process.stdin
        it.process.stdin.close()
        assert it.line() == "asked"
        assert it.status() == 1  # of read


def test_leftovers_live_on_unless_they_are_to_be_killed(marker, until: Until) -> None:
    assert run(*AGENTSUP, "sh", "-c", f"sleep {marker} >/dev/null 2>&1 & exit 3").returncode == 3
    (pid,) = marker.pids()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not marker.pids())


def test_the_end_of_the_parent(until: Until) -> None:
    words = [*AGENTSUP, "-p", "TERM", "sh", "-c", "echo $$; trap 'echo asked; exit' TERM; " + WAIT]
    with started("sh", "-c", '"$@" & wait', "sh", *words) as it:
        child = int(it.line())
        assert it.line() == "ready"
        it.process.kill()
        assert it.line() == "asked"
        until(lambda: not stat_fields(child) or state(child) == b"Z")


def test_a_job_of_a_shell_is_stopped_and_goes_on(until: Until) -> None:
    with (
        terminal() as (master, slave),
        started(
            *AGENTSUP,
            *READER,
            stdin=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        ) as it,
    ):
        assert it.line() == "ready"
        child = it.child
        assert os.tcgetpgrp(master) == child
        for _ in range(2):
            os.write(master, b"\x1a")
            until(lambda: state(child) == b"T" and state(it.init) == b"T")
            assert os.tcgetpgrp(master) == it.init
            it.signal(signal.SIGCONT)
            until(lambda: state(child) != b"T" and os.tcgetpgrp(master) == child)
        os.write(master, b"\x03")
        assert it.status() == 6


# --- the example ------------------------------------------------------------------------------


def test_the_example(as_pid_1: tuple[str, ...]) -> None:
    done = run(sys.executable, str(ROOT / "examples" / "pid1.py"), "--wait", "1")
    assert done.returncode == 0, done.stderr
    plain, init = done.stdout.decode().splitlines()
    assert "killed after" in plain
    assert "ended after" in init
