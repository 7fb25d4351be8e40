"""``agentsup logs``, as it is called."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentsup.cli import main
from agentsup.cli.log_lines import LONGEST, form, harmless
from agentsup.daemon.logs.reading import Entry
from agentsup.daemon.logs.record import Record, directory_of, dump, segment_name

NOON = 1795690800.0  # 2026-11-26 11:00:00 UTC
PROGRAM = [sys.executable, "-m", "agentsup", "logs"]


def record(
    message: str = "",
    at: float = NOON,
    *,
    service: str = "web",
    stream: str = "stdout",
    priority: int = 6,
    partial: bool = False,
    continues: bool = False,
    raw: bytes | None = None,
) -> bytes:
    return dump(
        Record(at, service, 123, stream, priority, "c", message, partial, continues, raw=raw)
    )


def write(logs: Path, *records: bytes, service: str = "web", segment: int = 1) -> Path:
    path = logs / directory_of(service) / segment_name(segment)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(b"".join(records))
    return path


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Of a tree whose file is in the current directory."""
    (tmp_path / "agentsup.toml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    logs = tmp_path / ".agentsup" / "logs"
    write(logs, record("first"), record("second <b>", NOON + 61, priority=3))
    write(logs, record("third", NOON + 30, service="jobs/a"), service="jobs/a")
    yield logs
    monkeypatch.undo()
    time.tzset()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> tuple[int, str, str]:
        status = main(["logs", *words])
        out, err = capfd.readouterr()
        return status, out, err

    return run


def test_all_of_them_by_time(logs: Path, run: Run) -> None:
    assert run() == (
        0,
        "Nov 26 11:00:00 web[123]: first\n"
        "Nov 26 11:00:30 jobs/a[123]: third\n"
        "Nov 26 11:01:01 web[123]: second <b>\n",
        "",
    )


def test_what_the_daemon_says_is_not_taken_for_the_services(logs: Path, run: Run) -> None:
    write(logs, record("active: ready", NOON + 90, stream="daemon"))
    write(logs, record("up", NOON + 91, service="@daemon", stream="daemon"), service="@daemon")
    assert run("-n", "2")[1] == (
        "Nov 26 11:01:30 agentsup[123]: web: active: ready\nNov 26 11:01:31 agentsup[123]: up\n"
    )


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["-n", "2"], ["third", "second <b>"]),
        (["-n", "0"], []),
        (["-n", "all"], ["first", "third", "second <b>"]),
        (["-u", "web"], ["first", "second <b>"]),
        (["-u", "jobs"], ["third"]),
        (["-u", "jobs/*", "-u", "w?b", "-n", "1"], ["second <b>"]),
        (["--since", "2026-11-26 11:00:10"], ["third", "second <b>"]),
        (["--until", "2026-11-26 11:00:30"], ["first", "third"]),
        (["--since", "10 min ago"], []),
        (["--priority", "err"], ["second <b>"]),
        (["--priority", "info..info", "-n", "1"], ["third"]),
        (["--grep", "^.ir"], ["first"]),
        (["--grep", "FIRST"], []),
    ],
)
def test_what_is_asked_for(logs: Path, run: Run, words: list[str], shown: list[str]) -> None:
    assert run("-o", "cat", *words) == (0, "".join(f"{line}\n" for line in shown), "")


def test_records(logs: Path, run: Run) -> None:
    _, out, _ = run("-o", "json", "-n", "1")
    assert out.encode() == record("second <b>", NOON + 61, priority=3)


def test_another_place(logs: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    file = logs.parent.parent / "agentsup.toml"
    monkeypatch.chdir("/")
    for where in (["--file", str(file)], ["--dir", str(logs)]):
        assert run(*where, "-n", "1", "-o", "cat") == (0, "second <b>\n", "")
    status, out, err = run()
    assert (status, out) == (125, "")
    assert "there is no agentsup.toml here: name one by --file" in err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["-u", "wbe"], "nothing has been logged by 'wbe': did you mean 'web'?"),
        (["web"], "'web' is no command: for the log of a service write -u web"),
        (["-n", "-1"], "'-1' is not a number of lines"),
        (["--since", "whenever"], "'whenever' is not a time"),
        (["--priority", "loud"], "'loud' is not a priority"),
        (["--grep", "("], "'(' is not a regular expression"),
        (["-f", "--until", "now"], "--follow has no end"),
        (["--file", "x", "--dir", "."], "two ways to say one thing"),
        (["--dir", "missing"], "there is no directory 'missing'"),
        (["--file", "missing"], "missing"),
        (["vacuum"], "say what is to stay"),
        (["vacuum", "--max-size", "much"], "'much' is not a size"),
        (["--file", "missing", "vacuum", "--max-size", "0"], "missing"),
        (["disk-usage", "-u", "nothing"], "nothing has been logged by 'nothing'"),
    ],
)
def test_misuse_is_told_in_a_line(logs: Path, run: Run, words: list[str], reason: str) -> None:
    status, out, err = run(*words)
    assert (status, out) == (125, "")
    assert reason in err.splitlines()[-1]


def test_nothing_was_ever_logged(tmp_path: Path, run: Run) -> None:
    (tmp_path / "agentsup.toml").touch()
    assert run("--file", str(tmp_path / "agentsup.toml")) == (0, "", "")


def test_how_much_and_less(logs: Path, run: Run) -> None:
    for segment in (2, 3):
        write(logs, record("x" * 2000), segment=segment)
    sizes = [sum(file.stat().st_size for file in one.iterdir()) for one in sorted(logs.iterdir())]
    _, out, _ = run("disk-usage", "--json")
    assert json.loads(out) == {
        "services": {
            "jobs/a": {"bytes": sizes[0], "segments": 1},
            "web": {"bytes": sizes[1], "segments": 3},
        },
        "total": sum(sizes),
    }
    _, out, _ = run("-u", "web", "disk-usage")
    assert [line.split() for line in out.splitlines()] == [
        ["4.3K", "web", "(3", "segments)"],
        ["4.3K", "in", "all"],
    ]
    _, out, _ = run("vacuum", "--max-size", "1B")
    assert [line.split() for line in out.splitlines()] == [
        ["2.3K", "web", "(2", "segments)"],
        ["2.3K", "freed"],
    ]
    assert sorted(os.listdir(logs / "web")) == [segment_name(3)]


# --- how it is shown ------------------------------------------------------------------------------


def shown(name: str, *records: bytes, terminal: bool = False, colours: bool = False) -> bytes:
    out = form(name, terminal=terminal, colours=colours)
    entries = [Entry(NOON, one.rstrip()) for one in records]
    return b"".join(out.show(entry) for entry in entries) + out.finish()


def test_the_message_exactly(logs: Path) -> None:
    bad = b"\xff\x1b[31m\r"
    records = [record("é"), record("�\x1b[31m\r", raw=bad), record("rest", partial=True)]
    assert shown("cat", *records) == "é\n".encode() + bad + b"\nrest"


def test_pieces_are_put_together() -> None:
    records = [
        record("1", continues=True),
        record("a", stream="stderr", continues=True),
        record("2", continues=True),
        record("b", stream="stderr"),
        record("3"),
        record("4", continues=True),
    ]
    assert shown("cat", *records) == b"ab\n123\n4"
    assert [line.split(b": ")[1] for line in shown("short", *records).splitlines()] == [
        b"ab", b"123", b"4"]  # fmt: skip


def test_a_line_without_an_end_is_bounded() -> None:
    piece = "x" * 64 * 1024
    pieces = [record(piece, continues=True)] * 20
    out = form("cat", terminal=False, colours=False)
    sizes = [len(out.show(Entry(NOON, one.rstrip()))) for one in pieces]
    assert max(sizes) == LONGEST
    other = out.show(Entry(NOON, record("other", stream="stderr").rstrip()))
    assert other == b"\nother\n"
    assert len(out.finish()) == len(piece) * 20 - LONGEST


def test_a_terminal_is_not_told_what_to_do() -> None:
    nasty = "a\x1b]0;title\x07\x1b[2J\x9b1m\u202e\r\tb\x1b[31mred"
    escaped = "a\\x1b]0;title\\x07\\x1b[2J\\x9b1m\\u202e\\x0d\tb"
    assert harmless(nasty) == f"{escaped}red"
    assert harmless(nasty, colours=True) == f"{escaped}\x1b[31mred\x1b[0m"
    assert shown("cat", record(nasty), terminal=True) == f"{escaped}red\n".encode()
    short = shown("short", record(nasty, service="w\x1b[2J"))
    assert short.endswith(f"w\\x1b[2J[123]: {escaped}red\n".encode())
    line = shown("json", record(nasty), terminal=True).decode()
    assert json.loads(line)["message"] == nasty
    assert line.rstrip("\n").isprintable()


def test_what_is_urgent_stands_out() -> None:
    line = shown("short", record("bad", priority=3), record("good"), terminal=True, colours=True)
    bad, good = line.splitlines()
    assert bad.endswith(b": \x1b[1;31mbad\x1b[0m")
    assert good.endswith(b": good")


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_are_for_terminals(logs: Path, environment: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as screen:
        env = {**os.environ, "TERM": "xterm", "NO_COLOR": "", **environment}
        subprocess.run([*PROGRAM, "-p", "err"], stdout=theirs, env=env, check=True)
        os.close(theirs)
        shown = screen.read(4096)
    assert (b"\x1b" in shown) is not bool(environment)


# --- a follow -------------------------------------------------------------------------------------


@contextlib.contextmanager
def follow(*words: str) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    program = [*PROGRAM, "-o", "cat", *words]
    with subprocess.Popen(program, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout
    return [process.stdout.readline().rstrip("\n") for _ in range(count)]


def test_follow(logs: Path) -> None:
    write(logs, *(record(f"{number}", NOON + 100 + number) for number in range(20)))
    with follow("-f") as process:
        assert lines(process, 10) == [f"{number}" for number in range(10, 20)]
        write(logs, record("more"))
        assert lines(process, 1) == ["more"]
        write(logs, record("new", service="new"), service="new")
        assert lines(process, 1) == ["new"]
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 130


def test_follow_before_there_is_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "agentsup.toml").touch()
    monkeypatch.chdir(tmp_path)
    with follow("-F", "-u", "web", "--since", "yesterday") as process:
        write(tmp_path / ".agentsup" / "logs", record("first", 9e9))
        assert lines(process, 1) == ["first"]


def test_a_partial_line_is_shown_when_nobody_will_go_on(logs: Path) -> None:
    write(logs, record("partial", NOON + 100, partial=True))
    with follow("-f", "-n", "1") as process:
        assert process.stdout
        assert process.stdout.read(7) == "partial"
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(".agentsup/control.sock")
        daemon.listen()
        with follow("-f", "-n", "1") as process:
            assert lines(process, 1) == ["second <b>"]


@pytest.mark.parametrize("words", [[], ["-f"]])
def test_whoever_has_seen_enough_may_go(logs: Path, words: list[str]) -> None:
    write(logs, *[record("x" * 1000)] * 500)
    with follow("-n", "all", *words) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.read(1)
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == ""


def test_a_follow_ends_with_its_reader(logs: Path) -> None:
    """Though there is nothing more to print."""
    with follow("-f", "-n", "1") as process:
        assert lines(process, 1) == ["second <b>"]
        assert process.stdout
        process.stdout.close()
        assert process.wait(60) == 0
