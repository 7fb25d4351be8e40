"""What a tool may use, and as whom it runs."""

from __future__ import annotations

import os
import pwd
import resource
import signal
import sys

import pytest

import agentsup
from agentsup import Limits, Outcome

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
NOBODY = "nobody"


def test_memory():
    source = "try: x = bytearray(1 << 30)\nexcept MemoryError: print('refused')"
    command = [sys.executable, "-c", source]
    result = agentsup.run_sync(command, limits=Limits(memory=300 << 20))
    assert result.stdout.text == "refused\n"


def test_memory_too_little_to_start():
    try:
        result = agentsup.run_sync(["true"], limits=Limits(memory=1))
    except agentsup.SpawnError:
        pass
    else:
        assert not result.ok
    assert (agentsup.run_sync(["true"])).ok


@pytest.mark.parametrize("ignored", [False, True])
def test_cpu_time(ignored):
    """Whether SIGXCPU ends it or, where that is ignored, SIGKILL."""
    trap = "trap '' XCPU; " if ignored else ""
    script = f"{trap}while :; do :; done"
    result = agentsup.run_sync(agentsup.shell(script), limits=Limits(cpu_time=0.5), timeout=600)
    assert result.outcome is Outcome.CPU_LIMIT
    assert result.signal is (signal.SIGKILL if ignored else signal.SIGXCPU)


def test_killed_otherwise_is_no_cpu_limit():
    limits = Limits(cpu_time=10)
    result = agentsup.run_sync(agentsup.shell("kill -9 $$"), limits=limits)
    assert result.outcome is Outcome.SIGNALED


def test_open_files():
    result = agentsup.run_sync(agentsup.shell("ulimit -n"), limits=Limits(open_files=17))
    assert result.stdout.text == "17\n"
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] != 17


def test_file_size(tmp_path):
    limits = Limits(file_size=5000)
    result = agentsup.run_sync(
        ["dd", "if=/dev/zero", "of=big", "bs=1000", "count=10"], cwd=tmp_path, limits=limits
    )
    assert result.signal is signal.SIGXFSZ
    assert (tmp_path / "big").stat().st_size == 5000


def test_limits_reach_the_whole_tree():
    result = agentsup.run_sync(["sh", "-c", "sh -c 'ulimit -n'"], limits=Limits(open_files=21))
    assert result.stdout.text == "21\n"


@root
def test_processes():
    source = (
        "import os, time\n"
        "try:\n  while True:\n    if not os.fork(): time.sleep(99)\n"
        "except BlockingIOError: print('refused')"
    )
    command = ["/usr/bin/python3", "-I", "-S", "-c", source]
    limits = Limits(processes=20)
    result = agentsup.run_sync(command, limits=limits, user="daemon", cwd="/", timeout=300)
    assert result.stdout.text == "refused\n"
    assert 0 < result.leftover_count <= 20
    with pytest.raises(ValueError, match="root"):
        agentsup.run_sync(["true"], limits=limits)


@root
def test_user():
    entry = pwd.getpwnam(NOBODY)
    for user in (NOBODY, entry.pw_uid):
        result = agentsup.run_sync(["sh", "-c", "id -u; id -g; id -G"], user=user, cwd="/")
        uid, gid, groups = result.stdout.text.splitlines()
        assert (int(uid), int(gid)) == (entry.pw_uid, entry.pw_gid)
        assert set(map(int, groups.split())) == set(os.getgrouplist(NOBODY, entry.pw_gid))
    assert 0 not in map(int, groups.split())


@root
def test_another_users_tool_is_killed(marker):
    script = f"trap '' TERM; (setsid sleep {marker} &); sleep {marker}"
    result = agentsup.run_sync(["sh", "-c", script], user=NOBODY, cwd="/", timeout=0.2, grace=0.05)
    assert result.outcome is Outcome.TIMED_OUT
    assert all(left.killed for left in result.leftovers)
    assert not marker.pids()


@root
def test_user_in_a_directory_that_is_closed_to_them(tmp_path):
    script = tmp_path / "tool"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o700)
    with pytest.raises(PermissionError):
        agentsup.run_sync([script], user=NOBODY)
    assert (agentsup.run_sync(["true"])).ok


@pytest.mark.skipif(os.geteuid() == 0, reason="root may")
def test_user_without_privilege():
    with pytest.raises(PermissionError, match="root"):
        agentsup.run_sync(["true"], user="root")
    assert (agentsup.run_sync(["true"], user=os.geteuid())).ok
