"""What of the host's environment a tool gets, and that nothing waits for an answer."""

from __future__ import annotations

import os
import sys

import pytest

import agentsup
from agentsup import OutputPolicy, Service
from agentsup.shells import Shell

from_here = pytest.mark.anyio
ENV = "/usr/bin/env"


@pytest.fixture(autouse=True)
def hosts_own(monkeypatch):
    """An environment that has all that is kept, and more."""
    for name in list(os.environ):
        if name.startswith(("LC_", "XDG_")):
            monkeypatch.delenv(name)
    for name in KEPT | {"API_KEY", "LD_PRELOAD_NOT", "LCX", "home", "PATHS", "PYTHONPATH"}:
        monkeypatch.setenv(name, os.environ.get(name, f"some {name}"))
    monkeypatch.setenv("TERM", "xterm")


KEPT = {
    *("HOME", "LANG", "LANGUAGE", "LC_ALL", "LC_TIME", "LOGNAME", "PATH", "SHELL", "TERM"),
    *("TMPDIR", "TZ", "USER"),
}


def variables(text):
    return dict(line.split("=", 1) for line in text.splitlines())


def test_minimal():
    found = variables(agentsup.run_sync([ENV], env="minimal").stdout.text)
    assert found == {name: os.environ[name] for name in KEPT}


def test_what_is_not_there_is_not_made_up(monkeypatch):
    for name in KEPT - {"PATH"}:
        monkeypatch.delenv(name)
    assert variables(agentsup.run_sync([ENV], env="minimal").stdout.text) == {
        "PATH": os.environ["PATH"]
    }


def test_more_on_top():
    result = agentsup.run_sync(
        [ENV], env="minimal", extend_env={"API_KEY": "mine", "HOME": "/elsewhere"}
    )
    found = variables(result.stdout.text)
    assert (found.keys() - KEPT, found["API_KEY"], found["HOME"]) == (
        {"API_KEY"},
        "mine",
        "/elsewhere",
    )


def test_its_path_is_searched(monkeypatch, tmp_path):
    tool = tmp_path / "a-tool"
    tool.symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert agentsup.run_sync(["a-tool"], env="minimal").ok


@from_here
async def test_of_shells_jobs_and_services(eventually):
    lines = []
    policy = OutputPolicy(on_line=lambda stream, line: lines.append(line))
    async with agentsup.Supervisor() as sup:
        async with Shell(sup, env="minimal") as shell:
            found = variables((await shell.run(ENV)).stdout.text)
            assert found.keys() >= KEPT
            assert "API_KEY" not in found
        job = await sup.background([ENV], env="minimal")
        await job.wait()
        assert variables(job.read_new()).keys() == KEPT
        await sup.start(Service("one", [ENV], type="oneshot", env="minimal", output=policy))
        await eventually(lambda: variables("\n".join(lines)).keys() == KEPT)


@pytest.mark.parametrize("env", ["all", "", 3, ["PATH"]])
def test_another_word(env):
    with pytest.raises(TypeError, match="env must be a mapping or 'minimal', not"):
        agentsup.run_sync(["true"], env=env)
    with pytest.raises(TypeError, match="extend_env must be a mapping, not str"):
        agentsup.run_sync(["true"], extend_env="minimal")


def test_the_command_line():
    command = [sys.executable, "-m", "agentsup", "run", "--minimal-env", "--", ENV]
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    printed = agentsup.run_sync(command, extend_env={"PYTHONPATH": path}).check().stdout.text
    assert variables(printed).keys() == KEPT


# --- nothing waits on a prompt ----------------------------------------------------------------


@from_here
async def test_no_input_by_default():
    ask = agentsup.shell('read answer || echo "no answer"; [ -t 0 ] || echo "no terminal"')
    async with agentsup.Supervisor() as sup:
        job = await sup.background(ask)
        await job.wait()
        assert job.read_new() == (await sup.run(ask)).stdout.text == "no answer\nno terminal\n"
        async with Shell(sup) as shell:
            result = await shell.run('read answer || echo "no answer"')
        assert result.stdout.text == "no answer\n"


def test_no_terminal_to_ask_at():
    """A program that asks past its input finds none, for it has a session of its own."""
    result = agentsup.run_sync(agentsup.shell("cat </dev/tty || echo none"))
    assert result.stdout.text == "none\n"
