"""``agentsup ctl`` beside ``agentsup up``: what it does, what it says, and its exit status."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import psutil
import pytest

from agentsup.cli.app import invoke
from agentsup.cli.ctl_status import quick

AGENTSUP = [sys.executable, "-m", "agentsup"]
UP = [*AGENTSUP, "up", "-f"]
PATIENCE = 120  # seconds, on a busy machine

WEB = """
import signal
signal.signal(signal.SIGHUP, lambda *_: print("hup", flush=True))
print("one\\ntwo\\nthree", flush=True)
while True:
    signal.pause()
"""

SERVICES = f"""
[service.web]
command = ["{sys.executable}", "web.py"]
ready = {{output = "three"}}
groups = ["front"]
reload = "HUP"

[service.spare]
command = ["sleep", "1000"]
autostart = false
groups = ["front"]

[service.broken]
command = ["false"]
autostart = false
restart = "temporary"
ready = {{output = "never"}}

[supervisor.workers.service.a]
command = ["sleep", "1000"]

[supervisor.workers.service.b]
command = ["sleep", "1000"]
"""


class Done(NamedTuple):
    status: int
    out: str
    err: str


Ctl = Callable[..., Done]


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current one, with a short path, as it will have a socket in it."""
    path = Path(tempfile.mkdtemp(prefix="ctl-", dir="/tmp"))
    (path / "web.py").write_text(WEB)
    (path / "agentsup.toml").write_text(SERVICES)
    monkeypatch.chdir(path)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def up(directory: Path, until: Callable[..., None], ctl: Ctl) -> Iterator[subprocess.Popen[bytes]]:
    with (
        open("up.log", "wb") as log,
        subprocess.Popen([*UP, "agentsup.toml"], stdout=log, stderr=log) as process,
    ):
        try:
            until(lambda: ctl("status").status == 0 or process.poll() is not None)
            assert process.poll() is None, Path("up.log").read_text()
            assert ctl("wait-ready", "web", "workers").status == 0
            yield process
        finally:
            process.terminate()
            process.wait(PATIENCE)


@pytest.fixture
def ctl(capfd: pytest.CaptureFixture[str]) -> Ctl:
    def run(*words: str) -> Done:
        capfd.readouterr()
        status = invoke(["ctl", *words])
        return Done(status, *capfd.readouterr())

    return run


def states(ctl: Ctl, *names: str) -> dict[str, str]:
    found = json.loads(ctl("status", "--json", *names).out)
    return {service["path"]: service["state"] for service in found["services"]}


@contextlib.contextmanager
def started(*words: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "bufsize": 0, **options}
    with subprocess.Popen([*AGENTSUP, "ctl", *words], **options) as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(stream: IO[bytes] | None) -> bytes:
    assert stream
    assert select.select([stream], [], [], PATIENCE)[0], "nothing was printed"
    return stream.readline()


@pytest.mark.usefixtures("up")
def test_looking(ctl: Ctl, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = ctl("status")
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert (done.status, done.err) == (0, "")
    assert [row[:3] for row in rows] == [
        ["web", "active", "yes"],
        ["spare", "inactive", "no"],
        ["broken", "inactive", "no"],
        ["workers/a", "active", "yes"],
        ["workers/b", "active", "yes"],
    ]
    pids = {row[0]: int(row[3]) for row in rows if row[3] != "-"}
    assert psutil.Process(pids["web"]).cmdline() == [sys.executable, "web.py"]
    assert psutil.Process(pids["workers/a"]).cmdline() == ["sleep", "1000"]

    assert ctl("status", "web", "workers/*").status == 0
    spare = ctl("status", "@front")
    assert (spare.status, spare.out.count("\n")) == (3, 2)
    unknown = ctl("status", "web", "wep")
    assert (unknown.status, unknown.out) == (4, "")
    assert "'wep'; did you mean 'web'?" in unknown.err

    assert ctl("pid", "workers") == (0, f"{pids['workers/a']}\n{pids['workers/b']}\n", "")
    assert ctl("pid", "web", "spare") == (3, f"{pids['web']}\n", "spare does not run\n")
    assert json.loads(ctl("pid", "@front", "--json").out) == {"web": pids["web"], "spare": None}

    drawn = ctl("tree").out.splitlines()
    assert f"├─web active {pids['web']}" in drawn
    assert drawn[-1] == f"  └─b active {pids['workers/b']}"
    assert [child["name"] for child in json.loads(ctl("tree", "--json").out)["children"]] == [
        "web",
        "spare",
        "broken",
        "workers",
    ]

    monkeypatch.chdir("/")
    assert ctl("status").status == 125
    for place in (
        ["-f", str(directory / "agentsup.toml")],
        ["--socket", f"{directory}/.agentsup/control.sock"],
    ):
        assert ctl(*place, "status", "web").status == quick([*place, "status", "web"]) == 0


def test_doing(ctl: Ctl, up: subprocess.Popen[bytes]) -> None:
    assert int(ctl("pid").out) == up.pid
    assert ctl("stop", "workers", "@front").status == 0
    assert set(states(ctl, "workers", "@front").values()) == {"inactive"}
    assert ctl("start", "web") == (0, "web: active\n", "")
    assert states(ctl, "web", "spare") == {"web": "active", "spare": "inactive"}

    before = ctl("pid", "web").out
    assert ctl("restart", "web").status == 0
    assert ctl("pid", "web").out not in ("", before)

    done = ctl("start", "broken", "spare")
    assert (done.status, done.out) == (1, "spare: active\n")
    assert done.err.startswith("broken: ")
    assert done.err.count("\n") == 1

    assert ctl("stop", "web", "wep").status == 4
    assert states(ctl, "web") == {"web": "active"}  # nothing is done by half
    assert ctl("signal", "NOSUCH", "web").status == 1
    done = ctl("signal", "HUP", "web", "workers/a", "--json")
    assert done.status == 1
    assert [(result["name"], result["ok"]) for result in json.loads(done.out)] == [
        ("web", True),
        ("workers/a", False),
    ]


@pytest.mark.usefixtures("up")
def test_waiting(ctl: Ctl, until: Callable[..., None]) -> None:
    assert ctl("wait-ready", "spare") == (1, "", "spare: not started\n")
    Path("web.py").write_text(WEB.replace("three", "four"))
    assert ctl("restart", "--no-wait", "web").status == 0
    done = ctl("wait-ready", "web", "workers", "--timeout", "300ms")
    assert (done.status, done.out) == (1, "workers/a: active\nworkers/b: active\n")
    assert done.err.startswith("web: ")
    assert ctl("restart", "web", "--timeout", "300ms").status == 1
    assert ctl("stop", "--no-wait", "web").status == 0
    until(lambda: states(ctl, "web") == {"web": "inactive"})


@pytest.mark.usefixtures("up")
def test_tail(ctl: Ctl) -> None:
    done = ctl("tail", "-n", "3", "web")
    assert (done.status, done.out) == (0, "two\nthree\n")
    assert done.err == "agentsup: web: active: ready\n"
    assert ctl("tail", "spare") == (0, "", "")
    assert ctl("tail", "wep").status == 4
    record, _ = map(json.loads, ctl("tail", "--json", "-n", "2", "web").out.splitlines())
    assert (record["service"], record["stream"], record["message"]) == ("web", "stdout", "three")
    with started("tail", "-f", "-n", "2", "web") as tail:
        assert read_line(tail.stdout) == b"three\n"
        assert ctl("reload", "web").status == 0
        assert read_line(tail.stdout) == b"hup\n"
        tail.send_signal(signal.SIGINT)
        out, err = tail.communicate(timeout=PATIENCE)
        assert (tail.returncode, out) == (130, b"")
        assert all(line.startswith(b"agentsup: web: ") for line in err.splitlines())


def test_events(ctl: Ctl, up: subprocess.Popen[bytes]) -> None:
    with started("events", "-f", "--json") as lines, started("events", "-f") as rows:
        assert "hello" in json.loads(read_line(lines.stdout))
        assert ctl("stop", "web").status == 0
        previous = "active"
        while previous != "inactive":
            event = json.loads(read_line(lines.stdout))
            assert (event["service"], event["previous"]) == ("web", previous)
            previous = event["state"]
        up.kill()  # its services end as well: the keeper sees to it
        assert lines.wait(PATIENCE) == rows.wait(PATIENCE) == 1
        _, err = lines.communicate()
        assert err.startswith(b"Error: ")
        assert err.count(b"\n") == 1
    done = ctl("status")
    assert (done.status, done.out) == (3, "")
    assert "agentsup up is not running" in done.err
    assert ctl("pid", "web").status == 3
    assert ctl("stop", "web").status == 1


@pytest.mark.usefixtures("up")
def test_the_file_changes(ctl: Ctl) -> None:
    file = Path("agentsup.toml")
    pids = ctl("pid", "web", "workers/a").out
    file.write_text(
        SERVICES.replace("[supervisor.workers.service.b]", "[supervisor.workers.service.c]")
        + 'cwd = "/"\n'
    )
    text = "workers/c: added\nworkers/b: removed\n"
    assert ctl("reread") == (0, text, "")
    assert "workers/c" not in states(ctl)
    assert ctl("reload") == (0, text, "")
    assert ctl("wait-ready", "workers/c").status == 0
    assert ctl("status", "workers/b").status == 4
    assert ctl("pid", "web", "workers/a").out == pids
    assert json.loads(ctl("update", "--json").out)["added"] == []

    file.write_text(SERVICES + "commnd = 1\n")
    for word in ("reread", "update"):
        done = ctl(word)
        assert (done.status, done.out) == (1, "")
        assert f"{file}:{SERVICES.count(os.linesep) + 1}: " in done.err
    assert ctl("pid", "web", "workers/a").out == pids


def test_shutdown(ctl: Ctl, up: subprocess.Popen[bytes]) -> None:
    pid = int(ctl("pid", "web").out)
    assert ctl("shutdown") == (0, "", "")
    assert up.wait(PATIENCE) == 0
    assert not psutil.pid_exists(pid)
    assert ctl("status").status == 3


@pytest.mark.usefixtures("up")
def test_a_table_for_a_terminal(ctl: Ctl) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, b"\x18\0\x50\0\0\0\0\0")  # 24 x 80
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    with started("status", stdout=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # its end is an error, where there was a terminal
            while part := os.read(ours, 4096):
                shown += part
        os.close(ours)
        assert process.wait(PATIENCE) == 0
    title, web, *_ = shown.decode().splitlines()
    words = title.replace("\x1b[1m", "").replace("\x1b[0m", "").split()
    assert words == ["service", "state", "pid", "uptime", "restarts"]
    assert "\t" not in web
    assert "\x1b[32mactive" in web  # green
