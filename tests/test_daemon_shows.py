"""What a newcomer does first: ``agentsup up``, and in other terminals what looks at it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO

import pytest

Until = Callable[..., None]
HERE = Path(__file__).parents[1]
AGENTSUP = [sys.executable, "-m", "agentsup"]
PATIENCE = 120  # seconds, on a busy machine


class Place:
    """A directory with an ``agentsup.toml``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "agentsup.toml"
        found = os.pathsep.join([str(HERE), *filter(None, sys.path)])
        self.env = {**os.environ, "PYTHONPATH": found}

    @contextlib.contextmanager
    def started(
        self, *words: str, out: int = subprocess.PIPE
    ) -> Generator[subprocess.Popen[bytes]]:
        with subprocess.Popen(
            [*AGENTSUP, *words],
            cwd=self.path,
            env=self.env,
            stdout=out,
            stderr=subprocess.PIPE,
            bufsize=0,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, *words: str, cwd: Path | None = None) -> tuple[int, str, str]:
        done = subprocess.run(
            [*AGENTSUP, *words],
            cwd=cwd or self.path,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        return done.returncode, done.stdout, done.stderr

    def ctl(self, *words: str) -> str:
        status, out, err = self.run("ctl", *words)
        assert status == 0, err
        return out


@pytest.fixture
def place() -> Iterator[Place]:
    """Its path is short, for the socket in it."""
    with tempfile.TemporaryDirectory(prefix="shows", dir="/tmp") as directory:
        yield Place(Path(directory))


def read_until(stream: IO[bytes] | None, text: bytes) -> None:
    assert stream
    read = b""
    while text not in read:
        assert select.select([stream], [], [], PATIENCE)[0], read
        part = os.read(stream.fileno(), 4096)
        assert part, read
        read += part


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_the_shows(place: Place) -> None:
    shutil.copytree(HERE / "examples" / "web_and_ticker", place.path, dirs_exist_ok=True)
    place.env["PORT"] = str(free_port())
    ours, theirs = pty.openpty()
    with (
        os.fdopen(ours, "rb", buffering=0) as terminal,
        place.started("ctl", "wait-ready", "--timeout", "2min") as wait,
    ):
        read_until(wait.stderr, b"agentsup up is not there yet\n")
        with (
            place.started("up", "-f", str(place.file)) as up,
            place.started("logs", "-f", out=theirs) as logs,
        ):
            os.close(theirs)
            assert wait.communicate(timeout=PATIENCE)[0] == b"web: active\nticker: active\n"
            read_until(up.stderr, b"agentsup: up: 2 of 2 services are ready\n")
            read_until(terminal, f"agentsup[{up.pid}]: ticker: active: running\r\n".encode())

            rows = [line.split("\t") for line in place.ctl("status").splitlines()]
            assert [row[:3] for row in rows] == [[x, "active", "yes"] for x in ("web", "ticker")]
            other = place.run("ctl", "-f", str(place.file), "status", "--json", cwd=Path("/"))
            assert [one["path"] for one in json.loads(other[1])["services"]] == ["web", "ticker"]

            with place.started("ctl", "tail", "-f", "ticker") as tail:
                read_until(tail.stdout, b"tick 1\n")
                os.kill(int(place.ctl("pid", "ticker")), signal.SIGKILL)
                read_until(terminal, b"backoff: killed by SIGKILL")
                read_until(tail.stdout, b"tick 1\n")  # it has begun anew
            assert place.ctl("tree").count("active") == 2

            text = place.file.read_text()
            place.file.write_text(text + '\n[service.more]\ncommand = ["sleep", "1000"]\n')
            assert place.ctl("reread") == place.ctl("update") == "more: added\n"
            place.file.write_text(text + "\n[service.more]\ncomand = 3\n")
            up.send_signal(signal.SIGHUP)
            read_until(up.stderr, b"not reloaded: ")
            assert place.run("ctl", "status", "more")[0] == 0
            place.file.write_text(text)
            place.ctl("shutdown")
            assert up.wait(PATIENCE) == 0
            read_until(terminal, b"web: inactive: stopped\r\n")
            logs.send_signal(signal.SIGINT)
            assert logs.wait(PATIENCE) == 130
    status, out, err = place.run("ctl", "status")
    assert (status, out, err.count("\n")) == (3, "", 1)


SLOW = """
[daemon.tcp]
listen = "127.0.0.1:PORT"
token_file = "token"
[service.slow]
command = ["sh", "-c", "trap 'exec sleep 1000' TERM; echo up; while :; do sleep 0.1; done"]
ready = {output = "up"}
grace = 1000
[service.never]
command = ["sleep", "1000"]
ready = "notify"
start_timeout = 1000
[service.spare]
command = ["sleep", "1000"]
autostart = false
"""


def test_while_it_stops_it_answers_but_does_nothing_more(place: Place, until: Until) -> None:
    port = str(free_port())
    place.file.write_text(SLOW.replace("PORT", port))
    (place.path / "token").write_text("0123456789abcdef\n")
    (place.path / "token").chmod(0o600)
    url = ("--url", f"http://127.0.0.1:{port}", "--token-file", "token")
    with place.started("up") as up:
        assert place.ctl("wait-ready", "slow", "--timeout", "2min") == "slow: active\n"
        assert place.ctl(*url, "signal", "CONT", "slow") == "slow: active\n"
        status, _, err = place.run("ctl", *url, "wait-ready", "--timeout", "0")
        assert status == 1
        assert err == "never: is not ready yet\n"  # and spare is nobody's concern
        with place.started("ctl", *url, "start", "never", "spare") as start:
            until(lambda: place.run("ctl", "status", "spare")[0] == 0)
            up.send_signal(signal.SIGTERM)
            _, said = start.communicate(timeout=PATIENCE)
        assert (start.returncode, said) == (1, b"never: agentsup up is stopping\n")
        assert place.ctl("status").startswith("slow\tdeactivating\t")
        for words in (("restart", "slow"), ("update",), ("wait-ready",)):
            done = place.run("ctl", *url, *words)
            assert done == (1, "", "Error: agentsup up is stopping\n")
        place.ctl("shutdown", "--no-wait")
        up.send_signal(signal.SIGTERM)
        assert up.wait(PATIENCE) == 1


@pytest.mark.parametrize("package", ["cattrs", "starlette", "uvicorn"])
def test_without_the_extra_one_line_says_what_to_install(place: Place, package: str) -> None:
    place.file.write_text("")
    program = f"import sys; sys.modules[{package!r}] = None; from agentsup.cli import main; "
    command = [sys.executable, "-c", f"{program}sys.exit(main(['up']))"]
    done = subprocess.run(
        command, cwd=place.path, env=place.env, capture_output=True, timeout=PATIENCE
    )
    line = f"agentsup: {package} is not installed: pip install 'agentsup[daemon]'\n"
    assert (done.returncode, done.stderr.decode()) == (125, line)


def test_what_a_variable_holds_that_is_no_text_is_shown_all_the_same(place: Place) -> None:
    place.file.write_text('[service.odd]\ncommand = ["sh", "-c", "exec sleep 1000", "${ODD}"]\n')
    place.env["ODD"] = os.fsdecode(b"\xff")
    with place.started("up") as up:
        place.ctl("wait-ready", "--timeout", "2min")
        [odd] = json.loads(place.ctl("status", "--json"))["services"]
        assert odd["argv"][-1] == r"\xff"
        place.ctl("shutdown")
        assert up.wait(PATIENCE) == 0
