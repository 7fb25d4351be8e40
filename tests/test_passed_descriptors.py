"""Descriptors that a program starts with, at the numbers that it is to have them as."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from attrs import evolve

from agentsup import Containment, Limits, Result, SpawnError, shell
from agentsup._calls import blocking
from agentsup._calls.call import Call
from agentsup._calls.spec import CallOptions, Spec, make_spec
from agentsup._levels import AUTO, level, missing
from agentsup._linux import lifeline
from agentsup._linux.keeper import FDS_SPACE

FAST: CallOptions = {}
PREPARED: CallOptions = {"no_new_privs": True}
each_way = pytest.mark.parametrize("options", [FAST, PREPARED], ids=["fast", "prepared"])
MOST = range(3, 51)


def has(containment: Containment) -> bool:
    return missing(containment) is None


each_level = pytest.mark.parametrize(
    "containment",
    [
        pytest.param(
            containment,
            marks=pytest.mark.skipif(not has(containment), reason="is not to be had"),
            id=containment.name,
        )
        for containment in Containment
        if containment is not Containment.PROCESS_GROUP
    ],
)


def without_interpreter(directory: Path) -> Path:
    """What only exec finds out not to be a program."""
    script = directory / "script"
    script.write_text("#!/nonexistent/interpreter\n")
    script.chmod(0o755)
    return script


@contextlib.contextmanager
def files(contents: Sequence[object]) -> Iterator[list[int]]:
    """One for each, as ``/proc/self/fd`` opens them again, from their beginning."""
    fds = [lifeline.memory_file("passed", f"{content}\n".encode()) for content in contents]
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def cat(*numbers: int) -> list[str]:
    return ["cat", *(f"/proc/self/fd/{number}" for number in numbers)]


def lines(*numbers: int) -> str:
    return "".join(f"{number}\n" for number in numbers)


def run(spec: Spec, *passed: tuple[int, int]) -> Result:
    return blocking.run(Call(evolve(spec, passed=passed)))


def keepers_descriptors() -> list[int]:
    assert run(make_spec(["true"], {})).ok  # what came with the request before it is closed by now
    assert lifeline._current
    return sorted(map(int, os.listdir(f"/proc/{lifeline._current.pid}/fd")))


@each_way
@each_level
def test_all_that_there_is_room_for(containment: Containment, options: CallOptions) -> None:
    """Many of the numbers are, in the host and in the keeper, those of something else."""
    with files(MOST) as fds:
        assert set(fds) & set(MOST)
        spec = make_spec(cat(*MOST), options, containment)
        for passed in (zip(fds, MOST, strict=True), zip(fds[::-1], MOST[::-1], strict=True)):
            result = run(spec, *passed)
            assert (result.stderr.text, result.stdout.text) == ("", lines(*MOST))
            assert result.containment is containment


@each_way
def test_nothing_else_is_there(options: CallOptions) -> None:
    for numbers in [(3,), (4, 3), (50,), (12, 3, 7), (13, 14, 15, 16, 17)]:
        with files(numbers) as fds:
            passed = list(zip(fds, numbers, strict=True))
            assert run(make_spec(cat(*numbers), options), *passed).stdout.text == lines(*numbers)
            result = run(make_spec(["ls", "/proc/self/fd"], options), *passed)
        its_own = min(set(range(3, 60)) - set(numbers))  # of the directory
        assert set(map(int, result.stdout.text.split())) == {0, 1, 2, *numbers, its_own}


@each_way
def test_the_same_one_twice(options: CallOptions) -> None:
    with files(["once"]) as (fd,):
        result = run(make_spec(cat(3, 4), options), (fd, 3), (fd, 4))
    assert result.stdout.text == "once\nonce\n"


@each_way
def test_the_standard_streams_are_what_they_are(options: CallOptions) -> None:
    options = {**options, "stdin": b"in\n"}
    with files(MOST) as fds:
        spec = make_spec(shell("cat; echo out; echo err >&2"), options)
        result = run(spec, *zip(fds, MOST, strict=True))
    assert (result.stdout.text, result.stderr.text) == ("in\nout\n", "err\n")


@each_way
def test_it_stays_the_callers(options: CallOptions) -> None:
    read_end, write_end = os.pipe()
    try:
        assert run(make_spec(shell("echo on >&3"), options), (write_end, 3)).ok
        os.write(write_end, b"still")
        assert os.read(read_end, 100) == b"on\nstill"
    finally:
        os.close(write_end)
        assert os.read(read_end, 1) == b"", "somebody else has kept it"
        os.close(read_end)


@each_way
@each_level
def test_a_failed_exec_is_reported(
    containment: Containment, options: CallOptions, tmp_path: Path
) -> None:
    """What reports it must not have become one of those numbers."""
    spec = make_spec([without_interpreter(tmp_path)], options, containment)
    with files(MOST) as fds:
        for numbers in (MOST[:1], MOST[:9], MOST[::-1]):
            with pytest.raises(FileNotFoundError, match="interpreter"):
                run(spec, *zip(fds, numbers, strict=False))


def test_a_failed_preparation_is_reported() -> None:
    spec = make_spec(["true"], {})
    spec.options = b"limit=%d:2:1" % resource.RLIMIT_NOFILE  # more than the most
    with files(MOST) as fds, pytest.raises(SpawnError, match="Invalid argument"):
        run(spec, *zip(fds, MOST, strict=True))


def test_a_number_beyond_the_limit_of_open_files() -> None:
    """That binds what the program opens, not what it is given."""
    with files(["given"]) as (fd,):
        spec = make_spec(cat(50), {"limits": Limits(open_files=20)})
        assert run(spec, (fd, 50)).stdout.text == "given\n"


def with_own_pid(spec: Spec) -> Spec:
    own_pid = [b"own_pid=ITS_PID"]
    return evolve(spec, options=b"\0".join([spec.options, *own_pid] if spec.options else own_pid))


@each_level
def test_own_pid(containment: Containment) -> None:
    script = shell("echo $$ $ITS_PID $OTHER")
    options: CallOptions = {"extend_env": {"ITS_PID": "1", "OTHER": "same"}}
    for _ in range(2):  # of the variables that the keeper remembers, none has changed
        result = run(with_own_pid(make_spec(script, options, containment)))
        seen, told, other = result.stdout.text.split()
        assert seen == told
        assert other == "same"
        assert (int(seen) == result.pid) is (containment is not Containment.PID_NAMESPACE)
    assert run(make_spec(script, options)).stdout.text.split()[1:] == ["1", "same"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@each_level
def test_another_user(containment: Containment) -> None:
    with files(MOST) as fds:
        for fd in fds:
            os.fchmod(fd, 0o444)
        script = shell("echo $(id -un) $(($$ - ITS_PID)); exec cat $(seq -f /proc/self/fd/%g 3 50)")
        spec = make_spec(script, {"user": "nobody", "cwd": "/"}, containment)
        result = run(with_own_pid(spec), *zip(fds, MOST, strict=True))
    assert (result.stderr.text, result.stdout.text) == ("", "nobody 0\n" + lines(*MOST))


def test_the_keeper_keeps_none(tmp_path: Path) -> None:
    specs = [make_spec(["true"], options) for options in (FAST, PREPARED)]
    broken = [without_interpreter(tmp_path)]
    failing = [make_spec(broken, options) for options in (FAST, PREPARED)]
    specs += [evolve(spec, env=b"X=" + b"x" * 90_000) for spec in specs]  # in a file of its own

    def spawn_all() -> None:
        for spec in specs:
            assert run(spec, *passed).ok
        for spec in failing:
            with pytest.raises(FileNotFoundError):
                run(spec, *passed)

    with files(MOST) as fds:
        passed = list(zip(fds, MOST, strict=True))
        spawn_all()
        before = keepers_descriptors()
        for _ in range(34):  # 204 spawns
            spawn_all()
        assert keepers_descriptors() == before


def test_no_descriptors_left_in_the_keeper() -> None:
    """Not for what it receives, or not for copies above the numbers that they are to have."""
    with files(MOST) as fds:
        passed = list(zip(fds, MOST, strict=True))
        spec = make_spec(["true"], PREPARED)
        assert run(make_spec(["true"], FAST)).ok  # its channel is there
        assert lifeline._current
        keeper = lifeline._current.pid
        received = 1 + 2 + len(fds)  # with the directory and the outputs
        least = keepers_descriptors()[-1] + 1 + received
        limits = resource.prlimit(keeper, resource.RLIMIT_NOFILE)
        for room in (least - 1, least, 100):
            resource.prlimit(keeper, resource.RLIMIT_NOFILE, (room, limits[1]))
            with pytest.raises(SpawnError, match="Too many open files"):
                run(spec, *passed)
        resource.prlimit(keeper, resource.RLIMIT_NOFILE, limits)
        assert run(spec, *passed).ok
        assert lifeline._current.pid == keeper


def test_there_is_room_for_all_of_them() -> None:
    """With the directory, three streams and a file for what is too long."""
    assert socket.CMSG_SPACE(4 * (len(MOST) + 5)) <= FDS_SPACE
    assert level(AUTO).options() == ()
