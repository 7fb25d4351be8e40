"""The client of the control API beside daemons that do not behave, and what it prints."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsup.cli import tables
from agentsup.cli.app import invoke
from agentsup.cli.ctl_status import quick
from agentsup.daemon.client import Client, ControlError, NotRunning, UnknownName, named

AGENTSUP = [sys.executable, "-m", "agentsup"]

SERVICE = {
    "path": "workers/a",
    "state": "active",
    "ready": True,
    "pid": 4711,
    "uptime": 3725.9,
    "restarts": 0,
    "next_start_in": None,
    "status_text": "",
    "autostart": True,
    "groups": ["front"],
    "argv": ["sleep", "9"],
    "supervisor": "workers",
}
WAITING = {
    **SERVICE,
    "path": "b",
    "state": "backoff",
    "ready": False,
    "pid": None,
    "uptime": None,
    "restarts": 3,
    "next_start_in": 1.25,
    "groups": [],
}


def answer(value: object, status: str = "200 OK") -> bytes:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def chunked(*chunks: bytes, end: bool = True) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head + body + (b"0\r\n\r\n" if end else b"")


def status_of(*services: dict[str, Any]) -> dict[str, Any]:
    return {"daemon": {"pid": 1, "failed": False}, "services": list(services)}


def read_request(connection: socket.socket) -> bytes:
    request = b""
    while b"\r\n\r\n" not in request:
        request += connection.recv(65536)
    head = request.partition(b"\r\n\r\n")[0].lower()
    length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
    while len(request) < len(head) + 4 + length:
        request += connection.recv(65536)
    return request


class Daemon:
    """Answers each connection with the next of :attr:`answers`, and keeps what it was asked."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.answers: list[bytes] = []
        self.asked: list[bytes] = []

    def serve(self) -> None:
        with contextlib.suppress(OSError):  # it is closed, which is the end
            while True:
                connection, _ = self.listener.accept()
                with connection:
                    self.asked.append(read_request(connection))
                    connection.sendall(self.answers.pop(0))


@contextlib.contextmanager
def serving(listener: socket.socket) -> Iterator[Daemon]:
    daemon = Daemon(listener)
    thread = threading.Thread(target=daemon.serve)
    thread.start()
    try:
        yield daemon
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[str]:
    """A path that is short enough, whatever the directory of the test."""
    link = Path("/tmp") / f"ctl-{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path)
    yield str(link / "s")
    link.unlink()


@pytest.fixture
def daemon(place: str) -> Iterator[Daemon]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen()
    with serving(listener) as daemon:
        yield daemon


def ctl(*words: str) -> int:
    return invoke(["ctl", *words])


# --- one answer -------------------------------------------------------------------------------


def test_names_are_quoted_and_bodies_are_sent(place: str, daemon: Daemon) -> None:
    daemon.answers = [answer({"services": []}), answer({"results": []})]
    assert Client(place).get(named("/v1/status", ["a b", "w/*", "@ü&"])) == {"services": []}
    assert Client(place).post("/v1/start", {"names": ["ü"]}) == {"results": []}
    first, second = daemon.asked
    assert first.startswith(
        b"GET /v1/status?name=a%20b&name=w%2F%2A&name=%40%C3%BC%26 HTTP/1.1\r\n"
    )
    assert second.startswith(b"POST /v1/start HTTP/1.1\r\n")
    assert json.loads(second.partition(b"\r\n\r\n")[2]) == {"names": ["ü"]}


@pytest.mark.parametrize(
    ("answered", "error", "text"),
    [
        (answer({"error": "no 'x'", "unknown": ["x"]}, "404 No"), UnknownName, "no 'x'"),
        (answer({"error": "another user's daemon"}, "403 No"), ControlError, "another user's"),
        (answer({"error": "a bug", "unknown": None}, "500 No"), ControlError, "a bug"),
        (answer({}, "503 No"), ControlError, "status 503"),
        (answer(b"<html>"), ControlError, "is not agentsup up"),
        (answer(["no object"]), ControlError, "is not agentsup up"),
        (answer({"a": 1})[:-1], ControlError, "without an answer: agentsup up has just ended"),
        (b"", ControlError, "without an answer: agentsup up has just ended"),
        (b"220 mail.example\r\n", ControlError, "without an answer: agentsup up has just ended"),
    ],
)
def test_what_is_no_answer_is_told_apart(
    place: str, daemon: Daemon, answered: bytes, error: type[ControlError], text: str
) -> None:
    daemon.answers = [answered]
    with pytest.raises(error, match=text) as caught:
        Client(place).get("/v1/tree")
    assert type(caught.value) is error


def test_errors_of_the_file_are_a_line_each(
    place: str, daemon: Daemon, capfd: pytest.CaptureFixture[str]
) -> None:
    errors = [
        {"file": "/x/agentsup.toml", "line": 3, "key": "service.web.redy", "reason": "unknown"},
        {"file": "/x/agentsup.toml", "line": None, "key": "", "reason": "no services"},
    ]
    daemon.answers = [answer({"error": "the file is wrong", "errors": errors}, "422 No")]
    assert ctl("--socket", place, "reread") == 1
    assert capfd.readouterr() == (
        "",
        "Error: /x/agentsup.toml:3: service.web.redy: unknown\n/x/agentsup.toml: no services\n",
    )


def test_a_refusal_is_read_though_nobody_has_read_the_request(place: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    ours.sendall(b"what is not read makes the end a reset")
    theirs.sendall(answer({"error": "another user's daemon"}, "403 No"))
    theirs.close()
    client = Client(place)
    client._connected = lambda timeout: ours  # type: ignore[method-assign]  # no race who is first
    with pytest.raises(ControlError, match="another user's daemon"):
        client.post("/v1/start", {"names": ["x" * 500_000]})


def test_one_that_is_stopped_is_not_waited_for_endlessly(place: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen()
        with pytest.raises(ControlError, match=r"does not answer at .*: it is stopped or stuck"):
            Client(place).get("/v1/status", timeout=0.1)
    with pytest.raises(NotRunning, match=f"nobody listens at {place}"):  # its file is still there
        Client(place).get("/v1/status")
    with pytest.raises(NotRunning):
        Client(str(tmp_path / "none")).get("/v1/status")
    with pytest.raises(ControlError, match=r"cannot be reached: .*path too long"):
        Client("/tmp/" + "x" * 200).get("/v1/status")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_socket_of_another_user_is_not_one_that_is_not_there(place: str, daemon: Daemon) -> None:
    os.chmod(place, 0)
    with pytest.raises(ControlError, match=r"not allowed to use .*: be the user") as caught:
        Client(place).get("/v1/status")
    assert not isinstance(caught.value, NotRunning)


def test_by_tcp_with_a_token(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # is not to see the token
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    listener = socket.create_server(("127.0.0.1", 0))
    words = ["--url", f"http://127.0.0.1:{listener.getsockname()[1]}", "--token-file", str(token)]
    with serving(listener) as daemon:
        daemon.answers = [
            answer(status_of(SERVICE)),
            answer({"error": "a token is required"}, "401 No"),
            chunked(b'{"stream": "stdout", "message": "hi"}\n'),
        ]
        assert ctl(*words, "status") == 0
        assert b"\r\nauthorization: bearer 0123456789abcdef\r\n" in daemon.asked[0].lower()
        assert ctl(*words, "status") == 1
        assert ctl(*words, "tail", "a") == 0
        out, err = capfd.readouterr()
        assert out.splitlines() == ["workers/a\tactive\tyes\t4711\t3725\t0\t-", "hi"]
        assert err == "Error: a token is required\n"
    assert ctl(*words, "status") == 3
    assert "nobody listens at http://127.0.0.1" in capfd.readouterr().err


# --- streams ----------------------------------------------------------------------------------


def test_a_stream_is_cut_at_line_ends_only(place: str, daemon: Daemon) -> None:
    daemon.answers = [chunked(b'{"a', b'": "\xe2\x80', b'\xa8\x0c"}\n{"b": 2}\n', b"{", b"}\n")]
    lines = [line for lines in Client(place).stream("/v1/logs/a") for line in lines]
    assert lines == ['{"a": "\u2028\f"}'.encode(), b'{"b": 2}', b"{}"]


def test_tail_prints_what_was_printed(
    place: str, daemon: Daemon, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    records: list[dict[str, Any]] = [
        {"stream": "stdout", "message": "grün"},
        {"stream": "stderr", "message": "\ufffd", "raw": base64.b64encode(b"\xff").decode()},
        {"stream": "stdout", "message": "long", "continues": True},
        {"stream": "stdout", "message": "er"},
        {"stream": "daemon", "message": "failed: exit-code", "service": "a"},
    ]
    daemon.answers = [chunked(*(json.dumps(record).encode() + b"\n" for record in records))] * 2
    assert ctl("--socket", place, "tail", "-n", "4", "workers/a") == 0
    assert daemon.asked[0].startswith(b"GET /v1/logs/workers/a?lines=4&follow=false ")
    assert capfdbinary.readouterr() == (
        "grün\n".encode() + b"\xff\nlonger\n",
        b"agentsup: a: failed: exit-code\n",
    )
    assert ctl("--socket", place, "tail", "--json", "workers/a") == 0
    out = capfdbinary.readouterr()[0]
    assert [json.loads(line) for line in out.splitlines()] == records


@pytest.mark.parametrize("whole", [True, False], ids=["closed", "killed"])
@pytest.mark.parametrize("words", [["events", "-f"], ["tail", "-f", "a"]])
def test_the_end_of_the_daemon_is_not_taken_for_the_end_of_a_stream(
    place: str, daemon: Daemon, capfd: pytest.CaptureFixture[str], words: list[str], whole: bool
) -> None:
    daemon.answers = [chunked(b'{"hello": {}}\n', b'{"half', end=whole)]
    assert ctl("--socket", place, *words) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert "agentsup up" in err
    assert err.count("\n") == 1


def test_events_are_rows(
    place: str,
    daemon: Daemon,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    event = {
        "service": "a",
        "state": "failed",
        "previous": "active",
        "reason": "ended\tby 9",
        "time": 1764489600.5,
        "pid": None,
    }
    daemon.answers = [
        chunked(*(json.dumps(line).encode() + b"\n" for line in ({"dropped": 7}, event)))
    ]
    assert ctl("--socket", place, "events") == 1
    out, err = capfd.readouterr()
    assert out.partition("\t")[2] == "a\tactive\tfailed\t-\tended\ufffdby 9\n"
    assert err.startswith("7 more were lost")


def test_a_reader_that_goes_away_is_no_error(place: str, daemon: Daemon) -> None:
    daemon.answers = [answer(status_of(SERVICE))] * 2 + [
        chunked(b'{"stream": "stdout", "message": "hi"}\n')
    ]
    fast = [
        sys.executable,
        "-c",
        "import sys; from agentsup.cli.ctl_status import quick; sys.exit(quick(sys.argv[1:]))",
    ]
    place_words = ["--socket", place]
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    for command in (
        [*AGENTSUP, "ctl", *place_words, "status"],
        [*fast, *place_words, "status"],
        [*AGENTSUP, "ctl", *place_words, "tail", "a"],
    ):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = subprocess.run(
                command, stdout=writer, stderr=subprocess.PIPE, timeout=60, env=buffered
            )
        finally:
            os.close(writer)
        assert (done.returncode, done.stderr) == (1, b"")


# --- what is printed --------------------------------------------------------------------------


def test_the_quick_way_prints_the_same(
    place: str, daemon: Daemon, capfd: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ["status"],
        ["status", "--json", "b"],
        ["status", "b", "workers/a"],
        ["status", "x"],
    ):
        last: bytes = answer(status_of(SERVICE, WAITING))
        if "x" in words:
            last = answer({"error": "no 'x'", "unknown": ["x"]}, "404 No")
        daemon.answers = [last, last]
        results = []
        for call in (quick, lambda words: ctl(*words)):
            results.append((call(["--socket", place, *words]), capfd.readouterr()))
        assert results[0] == results[1]
        assert daemon.asked[-1].partition(b" HTTP")[0] == daemon.asked[-2].partition(b" HTTP")[0]
        assert results[0][0] == {1: 0, 3: 3, 2: 4}[len(words)]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["start", "a"],
        ["status", "--jsn"],
        ["status", "-h"],
        ["status", "--", "a"],
        ["-f"],
        ["-f", "x"],
        ["-f", "--socket", "status"],
        ["--socket", "x", "-f", "y", "status"],
        ["--url", "x", "status"],
    ],
)
def test_the_quick_way_leaves_the_rest_to_click(words: list[str]) -> None:
    assert quick(words) is None


def test_columns_for_awk_are_never_empty_and_have_no_tabs_in_them() -> None:
    assert list(tables.rows([SERVICE, WAITING, {**SERVICE, "status_text": "a\tb\n\x1b[2J"}])) == [
        "workers/a\tactive\tyes\t4711\t3725\t0\t-",
        "b\tbackoff\tno\t-\t-\t3\tnext start in 1.2 s",
        "workers/a\tactive\tyes\t4711\t3725\t0\ta\ufffdb\ufffd\ufffd[2J",
    ]


@given(st.text())
def test_no_text_of_a_service_breaks_a_row(text: str) -> None:
    row = tables.fields("a", text, None)
    assert len(row.split("\t")) == 3
    assert len(row.splitlines()) == 1
    row.encode()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.9, "0s"),
        (59.9, "59s"),
        (60, "1m 00s"),
        (3599, "59m 59s"),
        (3725, "1h 02m"),
        (86400 + 7200, "1d 02h"),
        (1e7, "115d 17h"),
    ],
)
def test_spans(seconds: float | None, text: str) -> None:
    assert tables.span(seconds) == text


def test_trees(place: str, daemon: Daemon, capfd: pytest.CaptureFixture[str]) -> None:
    def leaf(name: str, state: str, pid: int | None) -> dict[str, Any]:
        return {"name": name, "kind": "service", "state": state, "pid": pid, "children": []}

    workers = {"name": "workers", "kind": "supervisor", "state": "active", "pid": None}
    root = {
        "name": "agentsup.toml",
        "children": [
            leaf("a", "active", 7),
            {**workers, "children": [leaf("b", "failed", None), leaf("c", "active", 9)]},
            leaf("d", "inactive", None),
        ],
    }
    daemon.answers = [answer(root)]
    assert ctl("--socket", place, "tree") == 0
    drawn = capfd.readouterr().out
    assert drawn.splitlines() == [
        "agentsup.toml",
        "├─a active 7",
        "├─workers active",
        "│ ├─b failed",
        "│ └─c active 9",
        "└─d inactive",
    ]
    assert tables.in_charset("│ └─├", "ascii") == "| `-|"


# --- misuse -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--socket", "x", "--url", "http://x", "--token-file", __file__, "tree"], "exclude each"),
        (["--url", "http://x", "tree"], "--url and --token-file go together"),
        (["--token-file", __file__, "tree"], "--url and --token-file go together"),
        (["--url", "localhost:1", "--token-file", __file__, "tree"], "write http://localhost:1"),
        (["--url", "http://localhost:1", "--token-file", os.devnull, "tree"], "is empty"),
        (["stop"], "Missing argument"),
        (["signal", "HUP"], "Missing argument"),
        (["tail", "-n", "-1", "x"], "-n"),
        (["no-such"], "No such command"),
    ],
)
def test_misuse(words: list[str], text: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert ctl(*words) == 125
    assert text in capfd.readouterr().err


def test_no_file_here(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for call in (quick, lambda words: ctl(*words)):
        assert call(["status"]) == 125
        assert "agentsup.toml: there is no such file" in capfd.readouterr().err


@pytest.fixture
def complete(place: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    def ask(*words: str) -> list[str]:
        environment = {
            **os.environ,
            "_AGENTSUP_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["agentsup", "ctl", *words]),
            "COMP_CWORD": str(len(words) + 1),
        }
        done = subprocess.run(
            AGENTSUP, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return [line.partition(",")[2] for line in done.stdout.split()]

    return ask


def test_completion(place: str, daemon: Daemon, complete: Callable[..., list[str]]) -> None:
    daemon.answers = [answer(status_of(SERVICE, WAITING))] * 4
    where = ["--socket", place]
    assert complete(*where, "stop", "") == ["@front", "b", "workers", "workers/a"]
    assert complete(*where, "tail", "w") == ["workers/a"]
    assert complete(*where, "signal", "HUP", "@") == ["@front"]
    assert complete("--socket", place + "none", "stop", "") == []
    assert complete("wa") == ["wait-ready"]
