"""A supervisor whose programs are scripts: no process, and all the rest as it is."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import signal
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import agentsup
from agentsup import (
    PIPE,
    Escalation,
    HealthCheck,
    KeeperLost,
    Limits,
    NewlineOn,
    NotifyHeartbeat,
    NotReady,
    Outcome,
    OutputHeartbeat,
    OutputMatches,
    OutputPolicy,
    Service,
    SpawnError,
    Step,
)
from agentsup._linux import lifeline
from agentsup.testing.fake import FakeSupervisor, FakeSyncSupervisor
from agentsup.testing.script import NotScripted, Script

pytestmark = pytest.mark.anyio


@pytest.fixture
async def fake():
    async with FakeSupervisor() as supervisor:
        yield supervisor
    assert lifeline._current is None  # nothing has asked for a process


@pytest.fixture
def sync():
    with FakeSyncSupervisor() as supervisor:
        yield supervisor
    assert lifeline._current is None


# --- what is scripted -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "others"),
    [
        (["git", "status", "-s"], [["git", "status"], ["git", "status", "-s", "."]]),
        ((b"git", Path("status"), "-s"), [["git"]]),
        (["git", "status", ...], [["git", "log"], ["git"]]),
        (["git", ...], [["/bin/git"], ["gitk"]]),
        ("git", [["gitk"], ["sh", "git"]]),
        (agentsup.Command(["git", "status", "-s"]), [["git"]]),
        (lambda argv: "-s" in argv, [["git"]]),
    ],
)
def test_patterns(pattern, others):
    sync = FakeSyncSupervisor()
    sync.on(pattern, stdout="yes")
    with sync:
        assert sync.run(["git", "status", "-s"]).stdout.text == "yes"
    for command in others:
        with pytest.raises(NotScripted), sync_again(pattern) as another:
            another.run(command)


def sync_again(pattern):
    sync = FakeSyncSupervisor()
    sync.on(pattern)
    return sync


def test_a_name_is_that_of_any_path_to_it(sync):
    sync.on("git", stdout="yes")
    assert sync.run(["/usr/bin/git", "log"]).stdout.text == "yes"
    assert sync.run(agentsup.shell("x", executable="git")).stdout.text == "yes"


def test_the_last_one_that_matches_counts(sync):
    sync.on("git", exit_code=1)
    sync.on(["git", "log"], exit_code=2)
    sync.on(["git", "log"], exit_code=3, times=1)
    codes = [sync.run(["git", word]).exit_code for word in ("log", "log", "log", "push")]
    assert codes == [3, 2, 2, 1]


def test_one_after_another(sync):
    sync.on("make", exit_code=1).then(exit_code=2, times=2).then(Script(exit_code=3))
    assert [sync.run(["make"]).exit_code for _ in range(6)] == [1, 2, 2, 3, 3, 3]


def test_so_often_and_no_more():
    with (
        pytest.raises(NotScripted, match=r"\['make'\] .*: make … \(used up\)"),
        FakeSyncSupervisor() as sync,
    ):
        sync.on("make", times=2)
        for _ in range(2):
            sync.run(["make"])
        with pytest.raises(NotScripted):
            sync.run(["make"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exit_code": 256}, "Script.exit_code must be at most 255"),
        ({"exit_code": None}, "Script.exit_code must be a number from 0 to 255"),
        ({"signal": "NOPE"}, "Script.signal: unknown signal 'NOPE'"),
        ({"signal": 9, "exit_code": 1}, "exit_code and signal exclude each other"),
        ({"stdout": [None]}, "Script.stdout must be str, bytes"),
        ({"stderr": [-1.0]}, "Script.stderr must be zero or more seconds"),
        ({"notify": [math.inf]}, "Script.notify: a pause must be finite"),
        ({"writes": {3: [True]}}, r"Script.writes\[3\] must be str"),
        ({"after": "1"}, "Script.after must be a number of seconds"),
        ({"ignores": "TERMINATE"}, "Script.ignores: unknown signal"),
        ({"on_signal": {"TERM": 3}}, "Script.on_signal maps signals to Scripts, not to 3"),
        ({"leftovers": ["sleep 1"]}, "a sequence of words"),
        ({"outcome": Outcome.EXITED}, "EXITED comes of exit_code"),
        ({"outcome": "timeout"}, "Script.outcome must be one of TIMED_OUT"),
        ({"outcome": Outcome.IDLE, "raises": 2}, "outcome and raises exclude each other"),
        ({"raises": FileNotFoundError()}, "Script.raises must be an errno"),
        ({"times": 0}, "times must be at least 1"),
        ({"script": Script(), "exit_code": 1}, "not by both"),
        ({"script": "x"}, "script must be a Script"),
    ],
)
def test_bad_scripts(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        FakeSupervisor().on("x", **options)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", "no program's name"),
        ([], "command is empty"),
        ([...], "command is empty"),
        (["git", ..., "log"], "can only be the last"),
        ([3], "command must be a sequence of"),
    ],
)
def test_bad_patterns(pattern, message):
    with pytest.raises((TypeError, ValueError), match=message):
        FakeSupervisor().on(pattern)


# --- what is not ------------------------------------------------------------------------------


async def test_what_is_not_scripted_is_said_twice():
    """Also where the code under test makes a result of every error."""
    with pytest.raises(NotScripted, match=r"\['git', 'push'\] is not scripted; what is: nothing"):
        async with FakeSupervisor() as fake:
            with pytest.raises(NotScripted):
                await fake.run(["git", "push"])
    with pytest.raises(NotScripted, match=r"what is: \['git', 'log'\], git …, \['a'\] …"):
        async with FakeSupervisor() as fake:
            fake.on(["git", "log"])
            fake.on("git", times=1)
            fake.on(["a", ...])
            async with fake.open(["b"]):
                pass


async def test_another_error_goes_first():
    with pytest.raises(ZeroDivisionError):
        async with FakeSupervisor() as fake:
            with pytest.raises(NotScripted):
                await fake.run(["git"])
            raise ZeroDivisionError


async def test_a_service_that_is_not_scripted():
    with pytest.raises(NotScripted, match="'server'"):
        async with FakeSupervisor() as fake:
            with pytest.raises(NotScripted):
                await fake.start(Service("server", ["server"]))


async def test_a_step_that_is_not_scripted():
    with pytest.raises(NotScripted, match="'stop'"):
        async with FakeSupervisor() as fake:
            fake.on("hangs", after=math.inf)
            await fake.run(["hangs"], timeout=0.01, escalation=Escalation(Step(["stop"], 0.01)))


async def test_checks_that_are_not_of_the_program_are_made(fake, tmp_path):
    fake.on("tool")
    with pytest.raises(TypeError, match="unknown argument 'colour'"):
        await fake.run(["tool"], colour="red")
    with pytest.raises(FileNotFoundError, match="cwd"):
        await fake.run(["tool"], cwd=tmp_path / "none")
    assert fake.calls == []


# --- what was asked for -----------------------------------------------------------------------


async def test_calls(fake, tmp_path):
    fake.on("tool", stdout="x")
    result = await fake.run(
        ["tool", "a"],
        stdin=b"input",
        cwd=tmp_path,
        env={"A": "1=2"},
        timeout=5,
        idle_timeout=4,
        name="it",
    )
    (call,) = fake.calls
    assert (call.argv, call.name, call.stdin) == (("tool", "a"), "it", b"input")
    assert (call.cwd, call.env) == (str(tmp_path), {"A": "1=2"})
    assert (call.timeout, call.idle_timeout) == (5, 4)
    assert (call.result, call.error) == (result, None)
    assert repr(call) == "<FakeCall ['tool', 'a']>"


async def test_calls_that_come_to_no_result(fake, eventually):
    fake.on("none", raises=errno.EACCES)
    fake.on("hangs", after=math.inf)
    with pytest.raises(PermissionError):
        await fake.run(["none"])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fake.run, ["hangs"])
        await eventually(lambda: len(fake.calls) == 2)
        assert fake.calls[1].result is None
        tasks.cancel_scope.cancel()
    none, hangs = fake.calls
    assert (none.result, none.error.errno) == (None, errno.EACCES)
    assert (hangs.result.outcome, hangs.result.signal) == (Outcome.STOPPED, signal.SIGTERM)


async def test_its_pids_are_nobodys(fake):
    fake.on("hangs", after=math.inf)
    async with fake.open(["hangs"]) as process:
        assert process.pid > int(Path("/proc/sys/kernel/pid_max").read_text())
        assert not os.path.exists(f"/proc/{process.pid}")


async def test_a_supervisor_below_has_the_same_scripts(fake):
    fake.on("tool", exit_code=4)
    async with fake.child("below") as below:
        assert (await below.run(["tool"])).exit_code == 4
    assert [call.argv for call in fake.calls] == [("tool",)]


# --- time that nobody waits for ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "options", "seconds"),
    [
        (Outcome.TIMED_OUT, {"timeout": 3600.0, "idle_timeout": 5.0}, 3600.0),
        (Outcome.IDLE, {"idle_timeout": 600.0, "timeout": 3600.0}, 600.0),
        (Outcome.HEARTBEAT_LOST, {"heartbeat": OutputHeartbeat(300.0)}, 300.0),
        (Outcome.OUTPUT_LIMIT, {"output": OutputPolicy(limit=1000)}, 0.0),
    ],
)
async def test_outcomes(fake, outcome, options, seconds):
    fake.on("tool", stdout="so far", outcome=outcome)
    result = await fake.run(["tool"], **options)
    assert (result.outcome, result.signal) == (outcome, signal.SIGTERM)
    assert result.stdout.text == "so far"
    (step,) = result.escalation
    assert step.action == "SIGTERM"
    assert 0 <= step.at - seconds < 60
    assert step.at <= result.duration


async def test_outcomes_of_limits(fake):
    fake.on("tool", outcome=Outcome.MEMORY_LIMIT).then(outcome=Outcome.CPU_LIMIT)
    result = await fake.run(["tool"])
    assert (result.outcome, result.limits_reached) == (Outcome.MEMORY_LIMIT, ("memory",))
    result = await fake.run(["tool"], limits=Limits(cpu_time=10))
    assert (result.outcome, result.signal) == (Outcome.CPU_LIMIT, signal.SIGXCPU)


async def test_a_whole_escalation(fake):
    """As late as it says, and at once; also the pre-stop command is run."""
    fake.on("tool", outcome=Outcome.TIMED_OUT, ignores=["INT", "TERM"], leftovers=[["sleep", "9"]])
    fake.on("stop")
    steps = Escalation(Step(["stop"], 100), Step("INT", 200), Step("TERM", 300))
    result = await fake.run(["tool"], timeout=1000, escalation=steps)
    assert (result.outcome, result.signal) == (Outcome.TIMED_OUT, signal.SIGKILL)
    assert [step.action for step in result.escalation] == [
        "run stop",
        "SIGINT",
        "SIGTERM",
        "SIGKILL",
    ]
    expected = [1000, 1100, 1300, 1600]
    assert all(0 <= step.at - at < 60 for step, at in zip(result.escalation, expected, strict=True))
    assert result.duration >= 1600
    assert [one.argv for one in result.leftovers] == [("sleep", "9")]
    tool, stop = fake.calls
    assert (stop.argv, stop.env["MAINPID"]) == (("stop",), str(tool.pid))
    fake.on("tool", outcome=Outcome.TIMED_OUT, ignores="INT")
    result = await fake.run(["tool"], timeout=1000, escalation=steps)
    assert (result.signal, len(result.escalation)) == (signal.SIGTERM, 3)
    assert result.duration >= 1300


async def test_an_outcome_with_an_end_of_its_own(fake):
    bye = Script(stdout="bye", exit_code=3)
    fake.on("tool", outcome=Outcome.TIMED_OUT, on_signal={signal.SIGTERM: bye})
    result = await fake.run(["tool"], timeout=120)
    assert result.reason == "timed out after 120.0 s, then exited with status 3"
    assert result.stdout.text == "bye"
    fake.on("tool", outcome=Outcome.TIMED_OUT, on_signal={"TERM": Script(after=math.inf)})
    result = await fake.run(["tool"], timeout=120, grace=600)
    assert result.reason == "timed out after 120.0 s, ended by SIGKILL"
    assert result.duration >= 720


@pytest.mark.parametrize(
    ("outcome", "lacking"),
    [
        (Outcome.TIMED_OUT, "timeout"),
        (Outcome.IDLE, "idle_timeout"),
        (Outcome.OUTPUT_LIMIT, "limit of its output"),
        (Outcome.CPU_LIMIT, "limit of CPU seconds"),
    ],
)
async def test_an_outcome_that_the_call_cannot_have(fake, outcome, lacking):
    fake.on("tool", outcome=outcome)
    with pytest.raises(ValueError, match=f"'tool x' .* {outcome}, but the call has no {lacking}$"):
        await fake.run(["tool", "x"])


# --- how it ends ------------------------------------------------------------------------------


async def test_a_lost_keeper(fake):
    fake.on("tool", stdout="so far", raises=KeeperLost("gone"))
    with pytest.raises(KeeperLost, match="gone") as lost:
        await fake.run(["tool"])
    assert lost.value.partial.stdout.text == "so far"


async def test_a_start_that_fails(fake):
    fake.on("tool", raises=errno.ENOENT).then(raises=errno.EAGAIN)
    with pytest.raises(FileNotFoundError, match="command: No such file"):
        await fake.run(["tool"])
    with pytest.raises(SpawnError, match="no more processes"):
        await fake.run(["tool"])


async def test_an_answer_that_raises(fake):
    def answer(line):
        assert line == b"expected\n"

    fake.on("tool", answer=answer)
    with pytest.raises(AssertionError):
        await fake.run(["tool"], stdin=b"other\n")


async def test_what_nobody_reads_is_kept_for_the_reader(fake, eventually):
    """The program waits, and the input that it does not read waits for it."""
    fake.on("tool", stdout="x" * 1_000_000)
    async with fake.open(["tool"], stdin=PIPE) as process:
        await process.stdin.send(b"y" * 1000)
        data = await process.stdout.receive()
        async for chunk in process.stdout:
            data += chunk
    assert data == b"x" * 1_000_000


async def test_no_descriptor_stays_wherever_it_is_cancelled(fake):
    """conftest.py looks."""
    fake.on("tool", stdout="x" * 500_000, answer=lambda line: line, notify="X=1", after=math.inf)

    async def talk():
        async with fake.open(["tool"], stdin=PIPE, heartbeat=NotifyHeartbeat(60)) as process:
            await process.stdin.send(b"a\n" * 100_000)

    before = os.listdir("/proc/self/fd")
    for steps in range(12):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(talk)
            tasks.start_soon(lambda: fake.run(["tool"], stdin=b"a\n"))
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        assert fake.tree() == ()
        assert len(os.listdir("/proc/self/fd")) == len(before)


# --- services ---------------------------------------------------------------------------------


async def test_a_service_that_loses_its_heartbeat(fake):
    fake.on("server", stdout="up\n", outcome=Outcome.HEARTBEAT_LOST).then(
        stdout="up again\n", after=math.inf
    )
    service = Service(
        "server", ["server"], ready=OutputMatches("up"), heartbeat=OutputHeartbeat(600)
    )
    handle = await fake.start(service)
    while "again" not in handle.output:
        await anyio.sleep(0.001)
    await handle.wait_ready()
    assert handle.restarts == 1
    assert fake.calls[0].result.outcome is Outcome.HEARTBEAT_LOST


async def test_a_newline_on_a_descriptor(fake):
    fake.on("server", writes={3: "\n"}, after=math.inf)
    handle = await fake.start(Service("server", ["server"], ready=NewlineOn(3)))
    assert handle.ready
    fake.on("tool", on_signal={"HUP": Script(writes={4: "x"})})
    for name, number in (("server", 3), ("tool", 4)):
        with pytest.raises(
            ValueError, match=f"'{name}' is scripted to write to descriptor {number}"
        ):
            await fake.run([name])


async def test_a_service_that_reloads(fake):
    said = Script(
        stdout="reloaded\n", notify=["RELOADING=1", "STATUS=reloaded\nREADY=1"], after=math.inf
    )
    fake.on("server", notify="READY=1", on_signal={"HUP": said}, after=math.inf)
    handle = await fake.start(Service("server", ["server"], ready="notify", reload=signal.SIGHUP))
    await handle.reload()
    assert handle.status_text == "reloaded"
    await handle.stop()
    assert handle.result.stdout.text == "reloaded\n"


async def test_a_service_that_never_says_that_it_is_ready(fake):
    fake.on("server", notify="STATUS=cold", after=math.inf)
    service = Service("server", ["server"], ready="notify", start_timeout=0.05)
    with pytest.raises(NotReady, match="it has not said READY=1"):
        await fake.start(service)


async def test_a_forking_service(fake):
    fake.on("daemon", leftovers=[["daemon", "--child"]])
    handle = await fake.start(Service("daemon", ["daemon"], type="forking", restart="temporary"))
    assert handle.pid not in (None, fake.calls[0].pid)
    await handle.stop()
    assert fake.calls[0].result.exit_code == 0


async def test_a_daemon_that_its_pid_file_names(fake, tmp_path, eventually):
    fake.on("daemon", leftovers=[["daemon", "--main"], ["daemon", "--worker"]])
    service = Service(
        "daemon",
        ["daemon"],
        type="forking",
        pid_file=tmp_path / "pid",
        restart="temporary",
        reload="USR1",
    )
    handle = fake.start_soon(service)
    await eventually(lambda: fake.calls and fake.calls[0].result)
    main, _ = fake.calls[0].result.adopted
    (tmp_path / "pid").write_text(f"{main.pid}\n")
    await handle.wait_ready()
    assert handle.pid == main.pid
    with contextlib.suppress(NotReady):  # it dies of it, as it knows no better, and so does all
        await handle.reload()
    await handle.wait()
    assert "SIGUSR1" in handle.status_text


async def test_a_service_that_names_a_stranger(fake):
    fake.on("server", notify="MAINPID=1\nREADY=1", stdout=[0.02, "later"])
    handle = await fake.start(Service("server", ["server"], ready="notify", restart="temporary"))
    await handle.wait()
    assert handle.result.stdout.text == "later"


async def test_hooks_and_probes_are_scripted(fake):
    fake.on("server", after=math.inf)
    fake.on(["prepare"])
    fake.on(["check"], exit_code=1).then()
    service = Service(
        "server",
        ["server"],
        pre_start=agentsup.Hook(["prepare"]),
        health=HealthCheck(
            agentsup.CommandProbe(["check"]), role="startup", interval=0.01, timeout=0.01
        ),
    )
    handle = await fake.start(service)
    await handle.wait_ready()
    names = [call.name for call in fake.calls]
    assert (names[:2], names.count("check")) == (["prepare", "server"], 2)


async def test_a_notify_heartbeat(fake):
    fake.on("tool", notify="WATCHDOG=trigger", after=math.inf)
    result = await fake.run(["tool"], heartbeat=NotifyHeartbeat(60))
    assert result.outcome is Outcome.HEARTBEAT_LOST


# --- a script is what comes of it -------------------------------------------------------------

PARTS = st.lists(st.one_of(st.binary(max_size=200), st.sampled_from([0.0, 0.0005])), max_size=5)
ENDS = st.one_of(
    st.fixed_dictionaries({"exit_code": st.integers(0, 255)}),
    st.fixed_dictionaries({"signal": st.sampled_from([signal.SIGKILL, signal.SIGSEGV])}),
)


@given(stdout=PARTS, stderr=PARTS, end=ENDS, words=st.lists(st.text("ab", min_size=1), max_size=2))
def test_the_result_is_what_the_script_says(stdout, stderr, end, words):
    with FakeSyncSupervisor() as fake:
        leftovers = [words] if words else []
        fake.on("tool", stdout=stdout, stderr=stderr, leftovers=leftovers, **end)
        result = fake.run(["tool"])
    for output, parts in ((result.stdout, stdout), (result.stderr, stderr)):
        assert output.head == b"".join(part for part in parts if isinstance(part, bytes))
    assert (result.exit_code, result.signal) == (end.get("exit_code"), end.get("signal"))
    assert [one.argv for one in result.leftovers] == [tuple(words)] * len(leftovers)
    pauses = [part for part in (*stdout, *stderr) if isinstance(part, float)]
    assert (
        result.duration
        >= max(sum(part for part in parts if isinstance(part, float)) for parts in (stdout, stderr))
        or not pauses
    )


@given(st.binary(max_size=300))
def test_every_line_is_answered(given_bytes):
    lines = []
    with FakeSyncSupervisor() as fake:
        fake.on("tool", answer=lines.append)
        assert fake.run(["tool"], stdin=given_bytes).ok
    assert b"".join(lines) == given_bytes
    assert all(line.endswith(b"\n") for line in lines[:-1])
    assert len(lines) == given_bytes.count(b"\n") + bool(given_bytes.rpartition(b"\n")[2])


def test_without_an_event_loop(sync):
    sync.on("tool", stdout=["a", 0.01, "b"], outcome=Outcome.TIMED_OUT)
    result = sync.run(["tool"], timeout=60)
    assert (result.outcome, result.stdout.text) == (Outcome.TIMED_OUT, "ab")
    another = FakeSyncSupervisor()
    with pytest.raises(NotScripted), another, contextlib.suppress(NotScripted):
        another.run(["x"])


async def test_it_has_a_workspace_and_jobs(tmp_path: Path) -> None:
    async with FakeSupervisor(workspace=tmp_path, max_jobs=1) as fake:
        fake.on("server", stdout="listening\n", after=math.inf)
        job = await fake.background(["server"])
        with pytest.raises(agentsup.SpawnError, match="1 jobs run"):
            await fake.background(["server"])
        with pytest.raises(ValueError, match="outside of the workspace"):
            await fake.run(["server"], cwd="/")
        await job.stop()
    assert job.call.result().stdout.text == "listening\n"
    assert fake.calls[0].cwd == str(tmp_path.resolve())
