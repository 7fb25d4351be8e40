"""Whatever a supervisor starts begins within its workspace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import agentsup
from agentsup import Service, SpawnError
from agentsup.shells import Shell

from_here = pytest.mark.anyio
PWD = ["pwd", "-P"]


@pytest.fixture
def place(tmp_path):
    """A workspace with ways out of it."""
    place = tmp_path / "work"
    (place / "below" / "deep").mkdir(parents=True)
    (tmp_path / "workshop").mkdir()  # which begins with the same letters
    (place / "out").symlink_to(tmp_path)
    (place / "out-and-in").symlink_to("../work/below")
    (place / "loop").symlink_to("loop")
    (place / "file").touch()
    return place.resolve()


INSIDE = {
    None: ".",
    ".": ".",
    "below": "below",
    b"below/deep": "below/deep",
    "below/..": ".",
    Path("below"): "below",
    "out-and-in": "below",
    "out/work/below": "below",
}
OUTSIDE = ["..", "/", "out", "out/workshop", "below/../..", b"..", Path(".."), "../workshop"]


@pytest.mark.parametrize("cwd", INSIDE, ids=repr)
def test_inside(cwd, place):
    with agentsup.SyncSupervisor(workspace=place) as sup:
        assert sup.run(PWD, cwd=cwd).stdout.text == f"{(place / INSIDE[cwd]).resolve()}\n"
        assert sup.run(PWD, cwd=place / "below").stdout.text == f"{place}/below\n"


@from_here
@pytest.mark.parametrize("cwd", OUTSIDE, ids=repr)
async def test_outside(cwd, place, tmp_path):
    touch = ["touch", tmp_path / "ran"]
    outside = pytest.raises(ValueError, match=r"cwd: .* is outside of the workspace, ")
    with agentsup.SyncSupervisor(workspace=place) as sup, outside:
        sup.run(touch, cwd=cwd)
    async with agentsup.Supervisor(workspace=place) as sup:
        with pytest.raises(ValueError, match="outside of the workspace"):
            await sup.run(touch, cwd=cwd)
        with pytest.raises(ValueError, match="outside of the workspace"):
            async with sup.open(touch, cwd=cwd):
                pass
        with pytest.raises(ValueError, match="outside of the workspace"):
            await sup.background(touch, cwd=cwd)
        with pytest.raises(ValueError, match="outside of the workspace"):
            await sup.start(Service("one", touch, cwd=cwd))
        with pytest.raises(ValueError, match="outside of the workspace"):
            Shell(sup, cwd=cwd)
        async with sup.child("below") as below:
            with pytest.raises(ValueError, match="outside of the workspace"):
                await below.run(touch, cwd=cwd)
    assert not (tmp_path / "ran").exists()


@from_here
async def test_whatever_it_starts(place, eventually):
    lines = []
    policy = agentsup.OutputPolicy(on_line=lambda stream, line: lines.append(line))
    async with agentsup.Supervisor(workspace=str(place)) as sup:
        async with sup.open(PWD) as process:
            assert [line async for line in process.lines()] == [str(place)]
        job = await sup.background(PWD, cwd="below")
        await job.wait()
        assert job.read_new() == f"{place}/below\n"
        async with Shell(sup, cwd="below") as shell:
            assert (await shell.run("pwd -P")).stdout.text == f"{place}/below\n"
        async with sup.child("child") as child:
            assert (await child.run(PWD, cwd="below")).stdout.text == f"{place}/below\n"
        await sup.start(Service("one", PWD, type="oneshot", cwd="below", output=policy))
        await eventually(lambda: lines == [f"{place}/below"])


def test_relative_ones_are_of_the_time_they_were_given(place, monkeypatch):
    monkeypatch.chdir(place.parent)
    for given in ("work", b"work", Path("work"), "work/out-and-in/.."):
        with agentsup.SyncSupervisor(workspace=given) as sup, monkeypatch.context() as elsewhere:
            elsewhere.chdir("/")
            assert sup.run(PWD).stdout.text == f"{place}\n"


def test_a_program_is_looked_up_from_there(place):
    tool = place / "below" / "tool"
    tool.write_text("#!/bin/sh\npwd -P\n")
    tool.chmod(0o755)
    with agentsup.SyncSupervisor(workspace=place) as sup:
        assert sup.run(["./tool"], cwd="below").stdout.text == f"{place}/below\n"
        assert sup.run(["below/tool"]).stdout.text == f"{place}\n"


def test_the_whole_machine():
    with agentsup.SyncSupervisor(workspace="/") as sup:
        assert sup.run(PWD, cwd="usr").stdout.text == f"{os.path.realpath('/usr')}\n"


@pytest.mark.parametrize(
    ("cwd", "error", "message"),
    [
        (3, TypeError, "cwd must be a str, bytes or a path object, not int"),
        (0, TypeError, "cwd must be"),
        ("a\0b", ValueError, "cwd holds a NUL byte"),
        ("\ud800", ValueError, "cwd cannot be encoded"),
        ("none", FileNotFoundError, "cwd: No such file"),
        ("file", NotADirectoryError, "cwd: not a directory"),
        ("loop", OSError, "cwd: Too many levels of symbolic links"),
    ],
)
def test_no_directory(cwd, error, message, place):
    with agentsup.SyncSupervisor(workspace=place) as sup, pytest.raises(error, match=message):
        sup.run(PWD, cwd=cwd)


@pytest.mark.parametrize("kind", [agentsup.Supervisor, agentsup.SyncSupervisor])
def test_no_workspace(kind, place):
    with pytest.raises(SpawnError, match="workspace: No such file"):
        kind(workspace=place / "none")
    with pytest.raises(SpawnError, match="workspace: not a directory"):
        kind(workspace=place / "file")
    with pytest.raises(TypeError, match="workspace must be a str, bytes or a path object, not int"):
        kind(workspace=3)
    with pytest.raises(ValueError, match="workspace holds a NUL byte"):
        kind(workspace="a\0b")
