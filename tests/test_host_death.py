"""However the host dies, nothing that it started lives on."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import agentsup
from agentsup._linux import lifeline, records

TREE = (
    "import os, sys; marker = sys.argv[1]\n"
    "for _ in range(5): os.spawnlp(os.P_NOWAIT, 'sleep', 'sleep', marker)\n"
    "for _ in range(5):\n"
    "    if os.fork() == 0:\n"
    "        os.setsid()\n"
    "        if os.fork() == 0:\n"
    "            os.closerange(0, 100); os.execve('/bin/sleep', ['sleep', marker], {})\n"
    "        os._exit(0)\n"
    "os.execlp('sleep', 'sleep', marker)"
)
HOST = """
import os, signal, sys, threading, time
import anyio
import agentsup
tree, marker, how, backend = sys.argv[1:]

def ready():
    return sum(line.split() == ["sleep", marker] for line in os.popen("ps -eo args=")) == 22

def die():
    if how == "exit":
        sys.exit(3)
    if how == "exception":
        raise LookupError
    if how == "_exit":
        os._exit(3)
    os.kill(os.getpid(), getattr(signal, how))
    if how != "SIGINT":
        time.sleep(60)

command = [sys.executable, "-I", "-S", "-c", tree, marker]

async def main():
    async with agentsup.Supervisor() as sup, anyio.create_task_group() as tasks:
        tasks.start_soon(sup.run, command)
        async with sup.open(command):
            while not ready():
                await anyio.sleep(0.02)
            die()

if backend == "sync":
    for _ in range(2):
        threading.Thread(target=agentsup.run_sync, args=(command,), daemon=True).start()
    while not ready():
        time.sleep(0.02)
    die()
else:
    anyio.run(main, backend=backend)
"""


def host(source, *args, stdin=None, start_new_session=False, **variables):
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return subprocess.run(
        [sys.executable, "-c", source, *map(str, args)],
        env={**os.environ, "PYTHONPATH": path, **variables},
        capture_output=True,
        timeout=120,
        check=False,
        stdin=stdin,
        start_new_session=start_new_session,
    )


WAYS = ["SIGKILL", "SIGTERM", "SIGINT", "SIGSEGV", "exit", "exception", "_exit"]


@pytest.mark.parametrize("backend", ["asyncio", "trio", "sync"])
@pytest.mark.parametrize("how", WAYS)
def test_host_dies(how, backend, marker, until):
    done = host(HOST, TREE, marker, how, backend)
    assert done.returncode != 0
    until(lambda: not marker.pids())


def test_fork_of_the_host_does_not_hold_the_tools(marker, until):
    """It has copies of every descriptor, and lives on."""
    source = """
import os, signal, sys, agentsup
def strike(stream, line):
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(1), os.close(2)
        os.read(0, 1)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
sleep = "sleep " + os.environ["MARKER"]
script = f"{sleep} & (setsid {sleep} &); echo on; {sleep}"
agentsup.run_sync(agentsup.shell(script), output=agentsup.OutputPolicy(on_line=strike))
"""
    read_end, write_end = os.pipe()
    try:
        host(source, stdin=read_end, MARKER=marker)
        until(lambda: not marker.pids())
    finally:
        os.close(write_end)
        os.close(read_end)


STROKE = """
import os, signal, sys, agentsup
from agentsup._linux import lifeline
def strike(stream, line):
    os.kill(lifeline._current.pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
script = f"sleep {sys.argv[1]} & (env -i setsid sleep {sys.argv[1]} &); sleep .1; echo; sleep 99"
agentsup.run_sync(agentsup.shell(script), output=agentsup.OutputPolicy(on_line=strike))
"""


def test_host_and_keeper_die_at_one_stroke(marker, until):
    """The next start of any host of the same user finds what they left."""
    host(STROKE, marker)
    until(marker.pids)
    before = set(records.runtime_directory().iterdir())

    def swept():
        lifeline.shut_down()
        assert agentsup.run_sync(["true"]).ok
        return not marker.pids()

    until(swept)  # not at once: the keeper may hold its record while it is dying
    after = set(records.runtime_directory().iterdir())
    ours = [path for path in after - before if path.name.startswith(f"{os.getpid()}-")]
    assert len(ours) == 1
    assert before - after  # theirs


def test_record_that_was_cut_short():
    assert agentsup.run_sync(["true"]).ok
    path = records.runtime_directory() / "1-cut"
    for content in ("", "12 34", "x y z"):
        path.write_text(content)
        records.sweep_dead()
        assert not path.exists()


@pytest.mark.filterwarnings("ignore:agentsup keeps no record:RuntimeWarning")
def test_no_place_for_the_record(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(records, "runtime_directory", lambda: tmp_path / "file" / "x")
    with pytest.warns(RuntimeWarning, match="keeps no record"):
        assert agentsup.run_sync(["true"]).ok


def test_another_users_directory_is_not_trusted(monkeypatch, tmp_path):
    tmp_path.chmod(0o777)
    monkeypatch.setattr(records, "runtime_directory", lambda: tmp_path)
    with pytest.warns(RuntimeWarning, match="not a private directory"):
        assert agentsup.run_sync(["true"]).ok


@pytest.mark.skipif(
    os.geteuid() != 0
    or shutil.which("unshare") is None
    or subprocess.run(["unshare", "-pf", "--mount-proc", "true"], check=False).returncode != 0,
    reason="needs root and PID namespaces",
)
def test_host_is_pid_1(marker, until):
    source = """
import os, sys, agentsup
assert os.getpid() == 1
script = f"setsid sleep {sys.argv[1]} & (env -i setsid sleep {sys.argv[1]} &); sleep .1; echo on"
result = agentsup.run_sync(agentsup.shell(script))
assert result.leftover_count == 2, result
assert result.stdout.text == "on\\n"
assert agentsup.run_sync(["sleep", "99"], timeout=0.2).outcome.name == "TIMED_OUT"
"""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    done = subprocess.run(
        ["unshare", "-pf", "--mount-proc", sys.executable, "-c", source, marker],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    until(lambda: not marker.pids())


def test_signal_to_the_whole_process_group(marker, until):
    """As ^C in a terminal: it is the host's to handle; the keeper goes on."""
    source = """
import os, signal, sys, agentsup
seen = []
signal.signal(signal.SIGINT, lambda *_: seen.append(1))
def strike(stream, line):
    os.killpg(0, signal.SIGINT)
script = "trap 'echo caught' INT; echo on; sleep 0.2; exit 5"
result = agentsup.run_sync(agentsup.shell(script), output=agentsup.OutputPolicy(on_line=strike))
assert seen and result.exit_code == 5 and result.stdout.text == "on\\n", result
"""
    done = host(source, start_new_session=True)
    assert done.returncode == 0, done.stderr


def test_signals_to_the_keeper_are_ignored():
    assert agentsup.run_sync(["true"]).ok
    from agentsup._linux import lifeline

    keeper = lifeline._current.pid
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE):
        os.kill(keeper, number)
    assert agentsup.run_sync(["true"]).ok
    assert lifeline._current.pid == keeper


def test_a_host_that_cannot_be_looked_at_is_not_taken_for_dead(monkeypatch):
    """Else a host without descriptors would kill everybody's keepers."""
    assert agentsup.run_sync(["true"]).ok
    keeper = lifeline._current.pid

    def no_descriptors(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    monkeypatch.setattr(Path, "read_bytes", no_descriptors)
    records.sweep_dead()
    assert agentsup.run_sync(["true"]).ok
    assert lifeline._current.pid == keeper


def test_a_record_says_when_its_host_started_or_is_not_there(monkeypatch):
    """Else the next host of this user would take this one for dead."""
    opened = os.open

    def no_descriptors(path, *arguments, **options):
        if str(path).endswith("/stat"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        return opened(path, *arguments, **options)

    def no_content(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    monkeypatch.setattr(os, "open", no_descriptors)
    monkeypatch.setattr(Path, "read_bytes", no_content)
    with pytest.warns(RuntimeWarning, match="keeps no record"):
        assert agentsup.run_sync(["true"]).ok
    monkeypatch.undo()
    keeper = lifeline._current.pid
    records.sweep_dead()
    assert agentsup.run_sync(["true"]).ok
    assert lifeline._current.pid == keeper
