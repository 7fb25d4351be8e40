"""`agentsup up`: a real daemon, from its file to its end."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

Until = Callable[..., None]
HERE = Path(__file__).parents[1]


class Place:
    """A directory with an ``agentsup.toml``, and what runs there."""

    def __init__(self, directory: Path, until: Until) -> None:
        self.path = directory
        self.file = directory / "agentsup.toml"
        self.state = directory / ".agentsup"
        self._until = until
        path = os.pathsep.join([str(HERE), *filter(None, sys.path)])
        self.env = {**os.environ, "PYTHONPATH": path}

    @contextlib.contextmanager
    def up(self, *options: str, before: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
        command = [*before, sys.executable, "-m", "agentsup", "up", *options]
        pipe = subprocess.PIPE
        with (
            open(self.path / "said", "a") as said,
            subprocess.Popen(
                command, cwd=self.path, env=self.env, stderr=said, stdout=pipe, text=True
            ) as daemon,
        ):
            try:
                yield daemon
            finally:
                daemon.kill()

    def start(self, *options: str) -> subprocess.CompletedProcess[str]:
        """One that ends by itself."""
        command = [sys.executable, "-m", "agentsup", "up", *options]
        return subprocess.run(
            command, cwd=self.path, env=self.env, capture_output=True, text=True, timeout=60
        )

    @property
    def said(self) -> str:
        return (self.path / "said").read_text()

    def wait_for(self, text: str, times: int = 1) -> None:
        self._until(lambda: self.said.count(text) >= times)

    def pid(self, service: str) -> int | None:
        pids: list[int | None] = [one["pid"] for one in self.status() if one["path"] == service]
        return pids[0]

    def status(self) -> list[dict[str, Any]]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.state / "control.sock"))
            connection.sendall(b"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        found: list[dict[str, Any]] = json.loads(answer.partition(b"\r\n\r\n")[2])["services"]
        return found

    def log(self, service: str) -> list[dict[str, Any]]:
        lines: list[bytes] = []
        for path in sorted((self.state / "logs" / service).glob("*.jsonl*")):
            data = path.read_bytes()
            lines += (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def place(until: Until) -> Iterator[Place]:
    """Its path is short, for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="up") as directory:
        yield Place(Path(directory), until)


TWO = """
[service.db]
command = ["sleep", "1000"]
[service.web]
command = ["sh", "-c", "echo well; exec sleep 1000"]
after = ["db"]
ready = {output = "well"}
"""


def test_it_stops_its_services_in_reverse_order_and_exits_with_0(place: Place) -> None:
    place.file.write_text(TWO)
    with place.up() as daemon:
        place.wait_for("agentsup: up: 2 of 2 services are ready")
        assert place.state.stat().st_mode & 0o777 == 0o700
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(60) == 0
    order = [line for line in place.said.splitlines() if line.endswith("inactive: stopped")]
    assert order == ["agentsup: web: inactive: stopped", "agentsup: db: inactive: stopped"]
    said = [(one["stream"], one["message"]) for one in place.log("web")]
    assert ("stdout", "well") in said
    assert ("daemon", "inactive: stopped") in said
    assert not (place.state / "control.sock").exists()


def test_a_second_one_is_refused(place: Place) -> None:
    place.file.write_text(TWO)
    with place.up() as daemon:
        place.wait_for("agentsup: up: ")
        second = place.start()
        assert second.returncode == 125
        assert f"held by process {daemon.pid}" in second.stderr
        assert second.stderr.count("\n") == 1
        assert place.pid("web")  # the socket is the first one's still
        daemon.send_signal(signal.SIGINT)
        assert daemon.wait(60) == 0


def test_all_that_is_wrong_is_said_and_nothing_is_started(place: Place) -> None:
    place.file.write_text(
        '[service.a]\ncommand = 3\n[service.b]\ncommand = ["x"]\nautorestrat = 1\n'
    )
    refused = place.start()
    assert refused.returncode == 125
    lines = refused.stderr.splitlines()
    assert [line.partition("agentsup.toml:")[2][:2] for line in lines] == ["2:", "5:"]
    assert not place.state.exists()
    missing = place.start("-f", "missing.toml")
    assert missing.returncode == 125
    assert missing.stderr.count("\n") == 1


def test_what_cannot_be_had_is_said_in_one_line(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        tcp = f'[daemon.tcp]\nlisten = "{address}"\ntoken_file = "token"\n'
        (place.path / "token").write_text("0123456789abcdef")
        (place.path / "token").chmod(0o600)
        place.file.write_text(tcp + TWO)
        refused = place.start()
    assert refused.returncode == 125
    assert address in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "web" not in refused.stderr  # it has not even been started


def test_after_kill_9_nothing_is_left_and_the_next_one_comes_up(place: Place, until: Until) -> None:
    place.file.write_text(TWO)
    with place.up() as daemon:
        place.wait_for("agentsup: up: ")
        before = [psutil.Process(one["pid"]) for one in place.status()]
        daemon.kill()
        daemon.wait()
        until(lambda: not any(process.is_running() for process in before))
    with place.up() as daemon:
        place.wait_for("agentsup: up: ", 2)
        assert all(one["ready"] for one in place.status())
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(60) == 0
    assert [one["message"] for one in place.log("web")].count("well") == 2


def test_hup_takes_over_what_has_changed_and_an_error_changes_nothing(place: Place) -> None:
    place.file.write_text(TWO)
    with place.up() as daemon:
        place.wait_for("agentsup: up: ")
        web = place.pid("web")
        place.file.write_text(TWO + '[service.more]\ncommand = ["sleep", "1000"]\n')
        daemon.send_signal(signal.SIGHUP)
        place.wait_for("reloaded: 1 added, 0 changed, 0 removed")
        assert place.pid("web") == web
        place.file.write_text(TWO + "[service.more]\ncommand = 3\n")
        daemon.send_signal(signal.SIGHUP)
        place.wait_for("not reloaded: ")
        assert "more.command" in place.said
        assert [one["path"] for one in place.status()] == ["db", "web", "more"]
        place.file.write_text('[daemon]\nstate_dir = "other"\n' + TWO)
        daemon.send_signal(signal.SIGHUP)
        place.wait_for("daemon.state_dir has changed")
        assert (place.pid("web"), len(place.status())) == (web, 2)
        daemon.send_signal(signal.SIGUSR1)
        daemon.send_signal(signal.SIGQUIT)
        assert daemon.wait(60) == 0
    assert len(list((place.state / "logs" / "web").iterdir())) == 2  # by USR1


STUBBORN = """
[service.stubborn]
command = ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"]
ready = {output = "up"}
grace = 1000
[service.below]
command = ["sleep", "1000"]
after = ["stubborn"]
"""


def test_a_second_signal_kills_what_is_left(place: Place) -> None:
    place.file.write_text(STUBBORN)
    with place.up() as daemon:
        place.wait_for("agentsup: up: 2 of 2")
        daemon.send_signal(signal.SIGTERM)
        place.wait_for("stubborn: deactivating")
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(60) == 1
    assert "SIGTERM once more" in place.said


def test_a_stop_has_its_budget(place: Place) -> None:
    place.file.write_text("[daemon]\nstop_timeout = 0.3\n" + STUBBORN)
    with place.up() as daemon:
        place.wait_for("agentsup: up: 2 of 2")
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(60) == 1
    assert "stop_timeout is over" in place.said


def test_one_that_has_failed_exits_with_1(place: Place) -> None:
    bad = '[daemon]\nmax_restarts = 2\n[service.bad]\ncommand = "false"\nbackoff = 0.01\n'
    place.file.write_text(bad)
    ended = place.start()
    assert ended.returncode == 1
    assert "it has failed: bad: more than 2 restarts" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_quiet_says_errors_only(place: Place) -> None:
    place.file.write_text(
        '[daemon]\nmax_restarts = 0\n[service.bad]\ncommand = "false"\nbackoff = 0.01\n'
    )
    ended = place.start("--quiet")
    assert ended.returncode == 1
    assert "it has failed" in ended.stderr
    assert "backoff" not in ended.stderr
    assert "bad" in {one["service"] for one in place.log("bad") if one["stream"] == "daemon"}


def test_a_manager_is_told(place: Place, until: Until) -> None:
    place.file.write_text(TWO)
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place.path / "notify"))
        manager.setblocking(False)

        def hears(word: str) -> bool:
            with contextlib.suppress(BlockingIOError):
                while True:
                    heard.extend(manager.recv(4096).decode().splitlines())
            return word in heard

        place.env |= {"NOTIFY_SOCKET": str(place.path / "notify"), "WATCHDOG_USEC": "200000"}
        with place.up() as daemon:
            until(lambda: hears("READY=1"))
            assert "STATUS=2 of 2 services are ready" in heard
            until(lambda: hears("WATCHDOG=1"))
            heard.clear()
            daemon.send_signal(signal.SIGHUP)
            until(lambda: hears("READY=1"))
            assert heard.index("RELOADING=1") < heard.index("READY=1")
            assert any(line.startswith("MONOTONIC_USEC=") for line in heard)
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(60) == 0
            assert hears("STOPPING=1")


# --- as PID 1 -----------------------------------------------------------------------------------

UNSHARE = (
    "unshare",
    "--user",
    "--map-root-user",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)


def can_unshare() -> bool:
    if not shutil.which("unshare"):
        return False
    # To another user, this interpreter may be out of reach in there.
    return subprocess.run([*UNSHARE, sys.executable, "-c", ""], capture_output=True).returncode == 0


def first_of(unshare: int) -> psutil.Process:
    [child] = psutil.Process(unshare).children()
    return child


def zombies_below(process: psutil.Process) -> list[int]:
    found: list[int] = []
    for one in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [one.pid] * (one.status() == psutil.STATUS_ZOMBIE)
    return found


@pytest.mark.skipif(not can_unshare(), reason="no PID namespaces here")
def test_as_pid_1_it_reaps_what_comes_to_it_and_ends_on_a_signal(
    place: Place, until: Until
) -> None:
    place.file.write_text(TWO)
    with place.up(before=UNSHARE) as unshare:
        place.wait_for("agentsup: up: 2 of 2")
        daemon = first_of(unshare.pid)
        # From outside, as `docker exec` does it: its orphan comes to PID 1.
        enter = ("nsenter", "--user", "--preserve-credentials", "--pid", "--mount")
        orphan = "(sleep 0.1; touch ended) & touch begun"
        subprocess.run(
            [*enter, "--target", str(daemon.pid), "sh", "-c", f"cd {place.path}; {orphan}"],
            check=True,
        )
        until(lambda: (place.path / "ended").exists())
        until(lambda: not zombies_below(daemon))
        keeper = daemon.children()
        assert len(keeper) == 1
        assert len(keeper[0].children()) == 2
        keeper[0].kill()  # with it go the services, which are started again
        until(lambda: place.said.count("web: active") == 2)
        until(lambda: not zombies_below(daemon))
        daemon.send_signal(signal.SIGTERM)
        assert unshare.wait(60) == 0
    assert "db: inactive: stopped" in place.said


@pytest.mark.skipif(not can_unshare(), reason="no PID namespaces here")
def test_without_proc_it_says_so(place: Place) -> None:
    place.file.write_text(TWO)
    with place.up(before=UNSHARE[:-1]) as unshare:
        assert unshare.wait(60) == 125
    assert "/proc" in place.said
    assert place.said.count("\n") == 1
