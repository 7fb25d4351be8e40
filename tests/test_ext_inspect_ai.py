"""The sandbox type: Inspect's own checks of a sandbox, and evals with its fake model."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

pytest.importorskip("inspect_ai")

from inspect_ai.util import OutputLimitExceededError, SandboxUserUnsupportedError
from inspect_ai.util._concurrency import init_concurrency
from inspect_ai.util._sandbox import self_check
from inspect_ai.util._sandbox.limits import (
    override_max_exec_output_size,
    override_max_read_file_size,
)
from inspect_ai.util._subprocess import init_max_subprocesses

from agentsup import KeeperLost, SupervisorClosed
from agentsup._linux import lifeline
from agentsup.ext.inspect_ai import AgentsupSandbox

pytestmark = pytest.mark.anyio

EVALS = Path(__file__).parent / "inspect_evals.py"

AS_ROOT = os.geteuid() == 0
CHECKS: dict[str, Callable[..., Any]] = {
    name: check for name, check in vars(self_check).items() if name.startswith("test_")
}
#: It makes a user on this machine.
del CHECKS["test_exec_as_user"]
if AS_ROOT:  # whom no mode of a file holds up
    for name in [name for name in CHECKS if "not_allowed" in name or "without_permiss" in name]:
        del CHECKS[name]


@pytest.fixture(autouse=True)
def own_limits() -> None:
    """The limits of an eval belong to its event loop."""
    init_concurrency()


@contextlib.asynccontextmanager
async def living() -> AsyncIterator[AgentsupSandbox]:
    environments = await AgentsupSandbox.sample_init("task", None, {})
    try:
        yield environments["default"].as_type(AgentsupSandbox)
    finally:
        await AgentsupSandbox.sample_cleanup("task", None, environments, False)


@pytest.fixture
async def sandbox() -> AsyncIterator[AgentsupSandbox]:
    async with living() as sandbox:
        yield sandbox


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # they take their time
async def test_inspects_own_checks(monkeypatch: pytest.MonkeyPatch, anyio_backend) -> None:
    """All at once, each in a sandbox of its own."""

    async def at_once(seconds: float) -> None:
        """They give a killed process time to go; here it is gone when the call returns."""

    monkeypatch.setattr(self_check, "anyio", SimpleNamespace(sleep=at_once))
    failed: dict[str, BaseException] = {}

    async def check(name: str) -> None:
        try:
            async with living() as sandbox:
                await CHECKS[name](sandbox)
        except Exception as error:
            failed[name] = error

    async with anyio.create_task_group() as tasks:
        for name in CHECKS:
            tasks.start_soon(check, name)
    assert not failed
    assert len(CHECKS) > 35


async def test_what_is_left_in_the_background_ends_with_the_sample(marker) -> None:
    async with living() as sandbox:
        directory = sandbox.directory
        await sandbox.exec(["sh", "-c", f"nohup sleep {marker} >/dev/null 2>&1 & echo $!"])
        assert (await sandbox.exec(["pgrep", "-f", f"^sleep {marker}"])).success
        await sandbox.write_file("file", "text")
        assert os.listdir(directory) == ["file"]
    assert not marker.pids()
    assert not os.path.exists(directory)


async def test_a_program_that_is_not_there_is_a_failed_command(sandbox: AgentsupSandbox) -> None:
    result = await sandbox.exec(["no-such-program"])
    assert (result.success, result.returncode) == (False, 127)
    assert "no-such-program" in result.stderr
    assert (await sandbox.exec(["echo", "\0"])).returncode == 126
    assert (await sandbox.exec(["pwd"], cwd="no/such")).returncode == 127


async def test_too_much_output(sandbox: AgentsupSandbox) -> None:
    with override_max_exec_output_size(1000):
        assert len((await sandbox.exec(["head", "-c1000", "/dev/zero"])).stdout) == 1000
        for command in (["yes"], ["head", "-c1001", "/dev/zero"], ["sh", "-c", "yes >&2"]):
            with pytest.raises(OutputLimitExceededError) as caught:
                await sandbox.exec(command)
            assert caught.value.truncated_output
            assert len(caught.value.truncated_output) == 1000


async def test_users(sandbox: AgentsupSandbox) -> None:
    own = pwd.getpwuid(os.geteuid())
    for user in (own.pw_name, str(own.pw_uid)):
        assert (await sandbox.exec(["id", "-u"], user=user)).stdout == f"{own.pw_uid}\n"
    for user in ("no-such-user", "4294967296999"):
        with pytest.raises(SandboxUserUnsupportedError, match="there is no user"):
            await sandbox.exec(["true"], user=user)
    other = pwd.getpwnam("nobody" if AS_ROOT else "root")
    if AS_ROOT:
        result = await sandbox.exec(["sh", "-c", "id -u; pwd"], user=other.pw_name)
        assert result.stdout == f"{other.pw_uid}\n{sandbox.directory}\n"
    else:
        with pytest.raises(SandboxUserUnsupportedError, match="only root"):
            await sandbox.exec(["true"], user=other.pw_name)


async def test_the_keys_of_the_host_are_not_in_the_environment(
    sandbox: AgentsupSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "secret")
    printed = (await sandbox.exec(["env"], env={"OWN": "5"})).stdout
    assert "SOME_API_KEY" not in printed
    assert "OWN=5\n" in printed
    assert "PATH=" in printed


async def test_files_that_would_hold_up_the_event_loop(sandbox: AgentsupSandbox) -> None:
    os.mkfifo(os.path.join(sandbox.directory, "pipe"))
    assert await sandbox.read_file("pipe") == ""
    with pytest.raises(OSError, match="pipe"):
        await sandbox.write_file("pipe", "text")
    with override_max_read_file_size(1000), pytest.raises(OutputLimitExceededError):
        await sandbox.read_file("/dev/zero")


async def test_cancelled_while_a_command_hangs(
    sandbox: AgentsupSandbox, marker, eventually
) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sandbox.exec, ["sh", "-c", f"sleep {marker} & sleep {marker}"])
        await eventually(lambda: len(marker.pids()) >= 2)
        tasks.cancel_scope.cancel()
    assert not marker.pids()


async def test_what_goes_wrong_with_the_supervisor_is_raised(marker, eventually) -> None:
    async with living() as sandbox:

        async def hang() -> None:
            with pytest.raises(KeeperLost):
                await sandbox.exec(["sleep", marker])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hang)
            await eventually(marker.pids)
            assert lifeline._current
            os.kill(lifeline._current.pid, signal.SIGKILL)
        await eventually(lambda: not marker.pids())
    with pytest.raises(SupervisorClosed):
        await sandbox.exec(["true"], cwd="/")


async def test_the_eval_says_how_many_may_run(sandbox: AgentsupSandbox, marker, eventually) -> None:
    init_max_subprocesses(1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sandbox.exec, ["sleep", marker])
        await eventually(marker.pids)
        with anyio.move_on_after(0.3) as waiting:
            await sandbox.exec(["true"])
        assert waiting.cancelled_caught
        assert (await sandbox.exec(["true"], concurrency=False)).success
        tasks.cancel_scope.cancel()


async def test_cancelled_before_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with anyio.CancelScope() as scope:
        scope.cancel()
        await AgentsupSandbox.sample_init("task", None, {})
    assert scope.cancelled_caught
    assert not os.listdir(tmp_path)


async def test_a_supervisor_that_cannot_be_is_an_error_of_the_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/no/such/directory")
    with pytest.raises(FileNotFoundError):
        await AgentsupSandbox.sample_init("task", None, {})


def test_evals(tmp_path: Path, marker) -> None:
    own = {"HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"}
    done = subprocess.run(
        [sys.executable, str(EVALS), str(tmp_path), marker],
        cwd=tmp_path,
        env={**os.environ, **dict.fromkeys(own, str(tmp_path)), "INSPECT_LOG_DIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0
    session, late, lost = map(json.loads, done.stdout.splitlines())
    assert (session["status"], session["error"]) == ("success", None)
    given, started, found = session["told"]
    assert given == "from the sample\n5\n"
    assert found == started, "it was there for the next command"
    assert (late["status"], late["limit"]) == ("success", "time")
    assert lost["status"] == "error"
    assert "KeeperLost" in lost["error"]
    assert not session["left"] + late["left"] + lost["left"]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai.util", None)
    monkeypatch.delitem(sys.modules, "agentsup.ext.inspect_ai")
    with pytest.raises(ModuleNotFoundError, match=r"inspect_ai .* 'agentsup\[inspect\]'"):
        importlib.import_module("agentsup.ext.inspect_ai")
