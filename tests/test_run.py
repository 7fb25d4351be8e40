"""One call, on the real kernel, with programs that behave and programs that do not."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

import anyio
import pytest
from anyio import wait_all_tasks_blocked

import agentsup
from agentsup import CLOSE_STDIN, Escalation, Found, Outcome, OutputPolicy, Step
from agentsup._calls.call import Call
from agentsup._calls.spec import make_spec

IGNORE_TERM = agentsup.shell("trap '' TERM; echo on; sleep 99")


def python(source, *args):
    return [sys.executable, "-I", "-S", "-c", source, *args]


def steps(result):
    return [step.action for step in result.escalation]


# --- how it ends ------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("code", [0, 1, 255])
async def test_exit_code(code):
    result = await agentsup.run(["sh", "-c", f"exit {code}"])
    assert (result.outcome, result.exit_code, result.signal) == (Outcome.EXITED, code, None)
    assert result.ok == (code == 0)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("number", "expected"),
    [(9, signal.SIGKILL), (15, signal.SIGTERM), (11, signal.SIGSEGV), (34, 34), (40, 40), (64, 64)],
)
async def test_signal(number, expected):
    """Realtime signals have no name in Python, but tools can die of them."""
    result = await agentsup.run(python(f"import os; os.kill(os.getpid(), {number})"))
    assert (result.outcome, result.exit_code) == (Outcome.SIGNALED, None)
    assert result.signal == expected
    assert result.to_dict()["signal"]
    assert "killed by" in result.for_model()


@pytest.mark.anyio
async def test_check():
    with pytest.raises(agentsup.ToolFailed) as caught:
        await agentsup.run(["sh", "-c", "echo why >&2; exit 3"], check=True)
    assert caught.value.result.exit_code == 3
    assert "why" in str(caught.value)
    assert (await agentsup.run(["true"], check=True)).ok


@pytest.mark.anyio
async def test_result_fields():
    burn = "import time\nwhile time.process_time() < .2: pass"
    result = await agentsup.run(python(burn), name="burner")
    assert result.name == "burner"
    assert result.argv[0] == sys.executable
    assert result.usage.user_cpu + result.usage.system_cpu >= 0.19
    assert 1 << 20 < result.usage.max_rss < 1 << 30
    assert 0.19 < result.duration < 300
    assert result.queued == 0
    assert result.pid > 0
    assert result.leftovers == ()
    assert result.containment is agentsup.Containment.SUBREAPER
    assert (await agentsup.run(["true"])).name == "true"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("command", "error"),
    [
        (["/nonexistent/x"], FileNotFoundError),
        (["no-such-program-at-all"], FileNotFoundError),
        (["/etc/passwd"], PermissionError),
        (["/"], IsADirectoryError),
    ],
)
async def test_cannot_start(command, error):
    with pytest.raises(agentsup.SpawnError) as caught:
        await agentsup.run(command)
    assert isinstance(caught.value, error)


@pytest.mark.anyio
@pytest.mark.parametrize("content", ["#!/no/such/interpreter\n", "neither script nor binary\n"])
async def test_cannot_exec(tmp_path, content):
    path = tmp_path / "tool"
    path.write_text(content)
    path.chmod(0o755)
    with pytest.raises(agentsup.SpawnError, match=r"interpreter|not a program"):
        await agentsup.run([path])
    assert (await agentsup.run(["true"])).ok


# --- stdin ------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize(
    "data", [b"", b"0123456789", bytes(range(256)) * 20480], ids=["0", "10B", "5MiB"]
)
async def test_stdin_bytes(data, tmp_path):
    result = await agentsup.run(["cat"], stdin=data, output=OutputPolicy(spill_dir=tmp_path))
    assert Path(result.stdout.spill_path).read_bytes() == data


@pytest.mark.anyio
@pytest.mark.parametrize("script", ["true", "exec <&-; sleep 0.05", "head -c 1"])
async def test_stdin_that_is_not_read(script):
    assert (await agentsup.run(agentsup.shell(script), stdin=b"x" * 5_000_000)).ok


@pytest.mark.anyio
async def test_stdin_file(tmp_path):
    path = tmp_path / "input"
    path.write_bytes(b"abcdef")
    with path.open("rb", buffering=0) as file:
        file.seek(2)
        assert (await agentsup.run(["cat"], stdin=file)).stdout.text == "cdef"
        file.seek(4)
        assert (await agentsup.run(["cat"], stdin=file.fileno())).stdout.text == "ef"


@pytest.mark.anyio
async def test_stdin_default_is_empty():
    result = await agentsup.run(["sh", "-c", "readlink /proc/self/fd/0; cat"], timeout=60)
    assert result.stdout.text == "/dev/null\n"


async def source_of(*chunks, delay=0.0):
    for chunk in chunks:
        await anyio.sleep(delay)
        yield chunk


@pytest.mark.anyio
async def test_stdin_iterable():
    slow = source_of(b"one ", b"two ", b"", b"three", delay=0.02)
    result = await agentsup.run(["cat"], stdin=slow)
    assert result.stdout.text == "one two three"


@pytest.mark.anyio
async def test_stdin_iterable_endless():
    async def endless():
        while True:
            yield b"y\n" * 10000

    result = await agentsup.run(["head", "-n", "2"], stdin=endless())
    assert result.stdout.text == "y\ny\n"
    assert result.ok


@pytest.mark.anyio
async def test_stdin_iterable_silent():
    """The producer has nothing to say when the tool has ended."""
    result = await agentsup.run(["true"], stdin=source_of(b"x", delay=600))
    assert result.ok
    assert result.duration < 300


@pytest.mark.anyio
async def test_stdin_iterable_raises(marker):
    async def broken():
        yield b"a"
        raise LookupError("the producer")

    with pytest.raises(LookupError, match="the producer"):
        await agentsup.run(["sleep", marker], stdin=broken())
    assert not marker.pids()


# --- what the tool finds ----------------------------------------------------------------------


def test_cwd(tmp_path):
    (tmp_path / "here").write_text("#!/bin/sh\npwd; echo $0")
    (tmp_path / "here").chmod(0o755)
    shown = f"{tmp_path}\n./here\n"
    for cwd in (str(tmp_path), tmp_path, os.fsencode(tmp_path)):
        result = agentsup.run_sync(["./here"], cwd=cwd)
        assert result.stdout.text == shown
    os.chdir(tmp_path)
    assert (agentsup.run_sync(["./here"])).stdout.text == shown
    with pytest.raises(NotADirectoryError):
        agentsup.run_sync(["true"], cwd=tmp_path / "here")


def test_environment(monkeypatch):
    show = ["sh", "-c", 'echo "$A-$B-$C"']
    monkeypatch.setenv("A", "host")
    assert (agentsup.run_sync(show, extend_env={"B": "b"})).stdout.text == "host-b-\n"
    assert (agentsup.run_sync(show, env={"C": "ü=\n"})).stdout.text == "--ü=\n\n"
    assert (agentsup.run_sync(["/usr/bin/env"], env={})).stdout.text == ""
    monkeypatch.setenv("A", "changed")
    assert (agentsup.run_sync(show)).stdout.text == "changed--\n"


@pytest.mark.skipif(not hasattr(os.environb, "_data"), reason="needs os.environ's own mapping")
def test_environment_with_an_empty_name(monkeypatch):
    """execve(2) lets a process have one."""
    monkeypatch.setitem(os.environb._data, b"", b"x")
    assert (agentsup.run_sync(["true"])).ok


def test_large_argv_and_environment():
    words = [f"{n:07}" for n in range(65536)]
    env = {f"V{n}": "x" * 1000 for n in range(300)}
    count = (
        "import os, sys\n"
        "sizes = [len(value) for name, value in os.environ.items() if name[0] == 'V']\n"
        "print(len(sys.argv), sys.argv[-1], sum(sizes))"
    )
    result = agentsup.run_sync(python(count, *words), env=env)
    assert result.stdout.text == "65537 0065535 300000\n"
    with pytest.raises(agentsup.SpawnError, match="too long"):
        agentsup.run_sync(["true", "x" * 200_000])


def test_request_at_the_packet_boundary():
    """One byte more, and the request goes through a file in memory."""
    for size in range((1 << 16) - 99, (1 << 16) - 49):
        result = agentsup.run_sync(["/bin/sh", "-c", "echo ${#A}"], env={"A": "x" * size})
        assert result.stdout.text == f"{size}\n"


def test_umask():
    for mask in (0o022, 0o077, 0o000):
        old = os.umask(mask)
        try:
            result = agentsup.run_sync(["sh", "-c", "umask"])
        finally:
            os.umask(old)
        assert int(result.stdout.text, 8) == mask


SIGNAL_STATE = "grep -E 'Sig(Blk|Ign)' /proc/self/status"


def signal_state(result):
    """The masks, without the two signals of the C library, which its posix_spawn(3) ignores."""
    masks = [int(line.split()[1], 16) for line in result.stdout.text.splitlines()]
    assert len(masks) == 2
    return {mask & ~(3 << 31) for mask in masks}


def test_signal_state():
    """Whatever the host has done to its own signals."""
    numbers = [signal.SIGPIPE, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]
    old = {n: signal.signal(n, signal.SIG_IGN) for n in numbers}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})
    try:
        from agentsup._linux import lifeline

        lifeline.shut_down()  # the keeper itself is to be started under these
        result = agentsup.run_sync(["sh", "-c", SIGNAL_STATE])
        assert signal_state(result) == {0}
        result = agentsup.run_sync(
            ["sh", "-c", SIGNAL_STATE], limits=agentsup.Limits(open_files=64)
        )
        assert signal_state(result) == {0}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for n, handler in old.items():
            signal.signal(n, handler)


def test_own_session():
    show = "import os; print(os.getpid() == os.getsid(0) == os.getpgid(0))"
    assert (agentsup.run_sync(python(show))).stdout.text == "True\n"


@pytest.mark.anyio
@pytest.mark.parametrize("limits", [None, agentsup.Limits(open_files=64)])
async def test_no_other_descriptors(limits):
    """Not the host's inheritable ones, and none of the keeper's, on either way to spawn."""
    with tempfile.TemporaryFile() as file:
        os.set_inheritable(file.fileno(), True)
        from agentsup._linux import lifeline

        lifeline.shut_down()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(agentsup.run, ["sleep", "0.2"])
            result = await agentsup.run(
                python("import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))"),
                limits=limits,
            )
    assert result.stdout.text == "[0, 1, 2, 3]\n"  # 3 is the listing's own


# --- time limits and escalation ---------------------------------------------------------------


@pytest.mark.anyio
async def test_timeout(patience):
    for timeout in patience:
        result = await agentsup.run(["sh", "-c", "echo before; sleep 99"], timeout=timeout)
        if result.stdout.text:
            break
    assert (result.outcome, result.exit_code) == (Outcome.TIMED_OUT, None)
    assert result.signal is signal.SIGTERM
    assert steps(result) == ["SIGTERM"]
    assert result.stdout.text == "before\n"
    assert timeout <= result.duration < timeout + 60


@pytest.mark.anyio
async def test_idle_timeout(patience):
    for timeout in patience:
        talk = f"for i in 1 2 3 4 5 6; do sleep {timeout / 3}; echo $i >&2; done; exec sleep 99"
        result = await agentsup.run(agentsup.shell(talk), idle_timeout=timeout)
        if result.stderr.text.endswith("6\n"):
            break
    assert result.outcome is Outcome.IDLE
    assert result.stderr.text.split() == list("123456")
    assert 3 * timeout <= result.duration < 3 * timeout + 60


@pytest.mark.anyio
async def test_time_in_the_queue_is_not_idle_time(patience):
    async with agentsup.Supervisor(max_concurrency=1) as sup, anyio.create_task_group() as tasks:
        for timeout in patience:
            tasks.start_soon(sup.run, ["sleep", str(timeout + 0.2)])
            await wait_all_tasks_blocked()
            result = await sup.run(["sleep", "0.05"], idle_timeout=timeout, timeout=timeout)
            if result.ok and result.queued > timeout:
                break
    assert result.outcome is Outcome.EXITED
    assert result.queued > timeout


@pytest.mark.anyio
async def test_grace_then_kill(patience):
    for timeout in patience:
        result = await agentsup.run(IGNORE_TERM, timeout=timeout, grace=0.3)
        if result.stdout.text:
            break
    assert steps(result) == ["SIGTERM", "SIGKILL"]
    assert result.signal is signal.SIGKILL
    assert 0.29 < result.escalation[1].at - result.escalation[0].at < 60


@pytest.mark.anyio
async def test_grace_is_the_whole_trees(tmp_path, patience):
    """The wrapper dies at once, the one that has to clean up is its child."""
    child = (
        "import signal, sys, time\n"
        "def stop(*_): time.sleep(.3); open('clean', 'w').close(); sys.exit()\n"
        "signal.signal(15, stop); print('on', flush=True); time.sleep(99)"
    )
    wrapper = 'python=$1; shift; "$python" "$@" & wait'
    command = ["sh", "-c", wrapper, "sh", *python(child)]
    for timeout in patience:
        result = await agentsup.run(command, timeout=timeout, grace=60, cwd=tmp_path)
        if result.stdout.text:
            break
    assert (tmp_path / "clean").exists()
    assert steps(result) == ["SIGTERM"]
    assert result.leftover_count == 0


@pytest.mark.anyio
async def test_stopped_tool_is_ended():
    result = await agentsup.run(["sh", "-c", "kill -STOP $$"], timeout=0.2, grace=60)
    assert (result.outcome, result.signal) == (Outcome.TIMED_OUT, signal.SIGTERM)
    assert result.duration < 50


@pytest.mark.anyio
async def test_escalation_steps_in_order(tmp_path):
    note = ["sh", "-c", "echo $MAINPID > noted"]
    tool = (
        "import signal, sys, time\n"
        "for n in 2, 15: signal.signal(n, lambda n, _: print(n, flush=True))\n"
        "print('on', flush=True)\n"
        "print(sys.stdin.read() + 'eof', flush=True)\n"
        "while 1: time.sleep(9)"
    )
    options = {"stdin": agentsup.PIPE, "cwd": tmp_path}
    for wait in (0.1, 1.0, 10.0):  # for the tool to answer each of them
        actions = CLOSE_STDIN, "INT", note, signal.SIGTERM
        escalation = Escalation(*(Step(action, wait) for action in actions))
        async with (
            agentsup.Supervisor() as sup,
            sup.open(python(tool), escalation=escalation, **options) as process,
        ):
            assert await process.stdout.receive() == b"on\n"
            process.stop()
            result = await process.wait()
        if result.stdout.text.split() == ["on", "eof", "2", "15"] and len(result.escalation) == 5:
            break
    assert result.outcome is Outcome.STOPPED
    assert result.stdout.text.split() == ["on", "eof", "2", "15"]
    names = ["close stdin", "SIGINT", "run sh -c 'echo $MAINPID > noted'", "SIGTERM", "SIGKILL"]
    assert steps(result) == names
    assert (tmp_path / "noted").read_text() == f"{result.pid}\n"
    times = [step.at for step in result.escalation]
    assert times == sorted(times)
    assert times[-1] - times[0] >= 3.9 * wait


def test_pre_stop_command_is_not_run_for_an_unknown_pid(tmp_path):
    """Else its MAINPID would be 0, which kill(1) takes for its own process group."""
    ran = tmp_path / "ran"
    escalation = Escalation(Step(["touch", str(ran)], 0.1))
    call = Call(make_spec(["sleep", "99"], {"escalation": escalation}))
    call.prepare()
    try:
        assert call.send()
        call.stop(Outcome.STOPPED)  # before the keeper's word has come
        while not call.finished:
            call.step(None)
        steps = [step.action for step in call.result().escalation]
    finally:
        call.close()
    assert [step.split(":")[-1].split(",")[0] for step in steps[1:]] == [" not run", "SIGKILL"]
    assert not ran.exists()


@pytest.mark.anyio
async def test_pre_stop_command_is_bounded(marker, eventually, patience):
    """Killed at the end of its time, said in the result, and nothing spins meanwhile."""
    escalation = Escalation(Step(["sleep", marker], 0.2), Step("TERM", 0.8))
    for timeout in patience:
        before = time.process_time()
        result = await agentsup.run(IGNORE_TERM, timeout=timeout, escalation=escalation)
        used = time.process_time() - before
        if result.stdout.text:
            break
    assert used < 0.4
    run, told, term, kill = result.escalation
    assert run.action == f"run sleep {marker}"
    assert {told.action, term.action} >= {"SIGTERM"}
    assert any("timed out" in step.action for step in (told, term))
    assert told.at - run.at < 60
    assert kill.action == "SIGKILL"
    await eventually(lambda: not marker.pids())  # the command is let go of, not waited for


@pytest.mark.anyio
@pytest.mark.parametrize("command", [["false"], ["/nonexistent/x"]])
async def test_pre_stop_command_fails(command, patience):
    if command == ["false"]:
        for timeout in patience:
            escalation = Escalation(Step(command, timeout), Step("TERM", 60))
            result = await agentsup.run(["sleep", "99"], timeout=timeout, escalation=escalation)
            if "false: exited with status 1" in steps(result)[:2]:
                break
        assert steps(result) == ["run false", "false: exited with status 1", "SIGTERM"]
    else:
        escalation = Escalation(Step(command, 0.2), Step("TERM", 60))
        with pytest.raises(FileNotFoundError):
            await agentsup.run(["sleep", "99"], timeout=0.1, escalation=escalation)


@pytest.mark.anyio
async def test_no_escalation_is_kill_at_once():
    result = await agentsup.run(["sleep", "99"], timeout=0.1, escalation=Escalation())
    assert steps(result) == ["SIGKILL"]


# --- many -------------------------------------------------------------------------------------


LET_GO = "until [ -e go ]; do sleep 0.02; done"


@pytest.mark.anyio
@pytest.mark.parametrize("limit", [1, 3])
async def test_max_concurrency_is_first_come_first_served(eventually, limit, tmp_path):
    arrived, order, running, most = [], [], 0, 0

    async def call(number):
        nonlocal running, most
        arrived.append(number)
        async with sup.open(agentsup.shell(LET_GO), cwd=tmp_path) as process:
            running += 1
            most = max(most, running)
            order.append(number)
            await process.wait()
            running -= 1

    async with (
        agentsup.Supervisor(max_concurrency=limit) as sup,
        anyio.create_task_group() as tasks,
    ):
        for number in range(10):
            tasks.start_soon(call, number)
            await eventually(lambda: len(arrived) > number)  # noqa: B023
        await eventually(lambda: running == limit)
        (tmp_path / "go").touch()
    # Those whose turn has come at the same time may overtake each other while they start.
    assert all(abs(place - number) < limit for place, number in enumerate(order))
    assert most == limit


@pytest.mark.anyio
async def test_cancelled_in_the_queue_loses_no_slot(tmp_path):
    async with agentsup.Supervisor(max_concurrency=1) as sup, anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(lambda: sup.run(agentsup.shell(LET_GO), cwd=tmp_path))
        await wait_all_tasks_blocked()
        for delay in (0, 0.03, 0.05):
            with anyio.move_on_after(delay) as scope:
                await sup.run(["sleep", "99"], output=OutputPolicy(spill_dir=tmp_path))
            assert scope.cancelled_caught
        (tmp_path / "go").touch()
        assert (await sup.run(["true"], timeout=60)).ok


@pytest.mark.anyio
async def test_many_at_once():
    results = []

    async def call(number):
        results.append(await agentsup.run(["sh", "-c", f"echo {number}; exit {number % 7}"]))

    with anyio.fail_after(600):
        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(call, number)
    assert sorted(int(result.stdout.text) for result in results) == list(range(200))
    assert all(result.exit_code == int(result.stdout.text) % 7 for result in results)


@pytest.mark.anyio
async def test_tree(eventually, marker):
    async with agentsup.Supervisor() as sup, anyio.create_task_group() as tasks:
        assert sup.tree() == ()
        tasks.start_soon(lambda: sup.run(["sleep", marker], name="napper"))
        await eventually(lambda: sup.tree() and sup.tree()[0].pid)
        (node,) = sup.tree()
        assert (node.name, node.kind, node.argv) == ("napper", "call", ("sleep", marker))
        assert marker.pids() == [node.pid]
        node.stop()
    assert sup.tree() == ()


@pytest.mark.anyio
async def test_supervisor_states():
    sup = agentsup.Supervisor()
    with pytest.raises(agentsup.SupervisorClosed, match="not been entered"):
        await sup.run(["true"])
    async with sup:
        pass
    with pytest.raises(agentsup.SupervisorClosed, match="has been left"):
        await sup.run(["true"])
    with pytest.raises(RuntimeError):
        await sup.__aenter__()


# --- containment ------------------------------------------------------------------------------

DAEMON = """
import os, sys, time, resource
read_end, write_end = os.pipe()
if os.fork():
    os.close(write_end)
    os.read(read_end, 1)  # until it has become another program
    os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
for fd in range(100):
    if fd != write_end:
        try: os.close(fd)
        except OSError: pass
if "soft" in sys.argv:
    resource.setrlimit(resource.RLIMIT_RTTIME, (10**6, resource.getrlimit(15)[1]))
os.execve("/bin/sleep", ["sleep", sys.argv[1]], {})
"""


def sh(script):
    return ["sh", "-c", script]


def until_asleep(marker, number=1):
    """In a script: wait until so many have become ``sleep``."""
    return f"until [ $(pgrep -fxc 'sleep {marker}') = {number} ]; do sleep 0.01; done"


ESCAPES = {
    "daemon": lambda m: [*python(DAEMON, m)],
    "soft limit": lambda m: [*python(DAEMON, m, "soft")],
    "setsid": lambda m: sh(f"setsid sleep {m} & sleep {m} & {until_asleep(m, 2)}"),
    "nohup": lambda m: sh(f"nohup env -i sleep {m} >/dev/null 2>&1 & {until_asleep(m)}"),
    "subshells": lambda m: sh(f"( ( ( sleep {m} & ) & ) & ) >/dev/null 2>&1; {until_asleep(m)}"),
}


@pytest.mark.anyio
@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize("end", ["exit", "timeout"])
async def test_escape(escape, end, marker, eventually):
    command = ESCAPES[escape](marker)
    if end == "timeout":
        command = ["sh", "-c", '"$@"; exec sleep 99', "sh", *command]
    result = await agentsup.run(command, timeout=0.5 if end == "timeout" else None, grace=0.05)
    assert not marker.pids()
    if end == "exit":
        found = {leftover.argv[-1]: leftover for leftover in result.leftovers}
        assert found[marker].killed
        assert found[marker].found in (Found.ORPHAN, Found.DESCENDANT)
        assert result.leftover_count == len(result.leftovers) >= 1
        assert result.ok


@pytest.mark.anyio
async def test_leftover_of_one_call_is_not_another_calls(marker, eventually):
    """Orphans of two calls at the same keeper; each ends with its own."""
    quick = ["sh", "-c", f"setsid sleep {marker} >/dev/null 2>&1 & sleep 0.05"]
    slow = ["sh", "-c", f"(setsid sleep {marker}1 &); cat"]
    async with agentsup.Supervisor() as sup, sup.open(slow, stdin=agentsup.PIPE):
        for _ in range(3):
            result = await sup.run(quick)
            (left,) = result.leftovers
            assert marker in " ".join(left.argv)  # on a busy machine it may still be the shell
        await eventually(lambda: len(marker.pids()) == 2)  # the shell's script names it too
    assert not marker.pids()


@pytest.mark.anyio
async def test_held_pipe_does_not_delay_the_result(marker):
    script = f"echo done; sleep {marker} & {until_asleep(marker)}; exit 4"
    result = await agentsup.run(sh(script))
    assert (result.exit_code, result.stdout.text) == (4, "done\n")
    (left,) = result.leftovers
    assert left.argv == ("sleep", marker)
    assert result.duration < 60
    assert not marker.pids()


@pytest.mark.anyio
async def test_fork_bomb(marker, patience):
    bomb = (
        "import os, signal, time\nsignal.signal(15, 1)\n"
        "for _ in range(7): os.fork() or os.setsid()\ntime.sleep(99)"
    )
    for timeout in patience:
        result = await agentsup.run(python(bomb, marker), timeout=timeout, grace=0)
        assert not marker.pids()
        if result.leftover_count >= 10:
            break
    assert 10 <= result.leftover_count <= 127
    assert len(result.leftovers) <= 64
    assert result.duration < 60


CHAIN = """
import os
while True:
    if os.fork(): os._exit(0)
"""


@pytest.mark.anyio
async def test_fork_chain(marker):
    """Each one starts its successor and is gone."""
    result = await agentsup.run(
        ["sh", "-c", '"$@"; sleep 99', "sh", *python(CHAIN, marker)], timeout=0.3, grace=0
    )
    assert not marker.pids()
    assert result.outcome is Outcome.TIMED_OUT
    assert all(left.killed for left in result.leftovers)
    assert result.duration < 60


STUBBORN = """
import os, signal, sys, time
signal.signal(15, signal.SIG_IGN)
for _ in range(200):
    if not os.fork():
        os.setsid(); time.sleep(99); os._exit(0)
print("on", flush=True)
time.sleep(99)
"""


@pytest.mark.anyio
async def test_200_stubborn_sessions(marker):
    async with agentsup.Supervisor() as sup:
        async with sup.open(python(STUBBORN, marker), grace=0.1) as process:
            assert await process.stdout.receive() == b"on\n"
            assert len(marker.pids()) == 201
        result = await process.wait()
    assert not marker.pids()
    assert result.leftover_count == 200
    assert steps(result) == ["SIGTERM", "SIGKILL"]


DEAD_LEADER = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(99,)).start()
ctypes.CDLL(None).syscall(60, 0)  # exit of this thread alone
"""


@pytest.mark.anyio
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of the system call")
async def test_main_thread_is_gone():
    """It shows as a zombie, but its other thread runs."""
    result = await agentsup.run(python(DEAD_LEADER), timeout=0.5, grace=0.1)
    assert not Path(f"/proc/{result.pid}").exists()
    assert result.outcome is Outcome.TIMED_OUT


NESTED = """
import sys
path, depth, marker, options = eval(sys.argv[1])
sys.path[:0] = path
import agentsup
if depth:
    inner = repr((path, depth - 1, marker, options))
    result = agentsup.run_sync([sys.executable, "-c", sys.argv[2], inner, sys.argv[2]])
else:
    script = f"setsid sleep {marker} & (env -i setsid sleep {marker} &); echo deep; exec sleep 99"
    for timeout in options.pop("patience"):
        result = agentsup.run_sync(["sh", "-c", script], timeout=timeout, **options)
        if result.stdout.text:
            break
print(result.stdout.text, result.outcome.name, flush=True)
"""


@pytest.mark.anyio
@pytest.mark.parametrize("end", ["inner timeout", "outer cancel"])
async def test_nested_hosts(marker, eventually, patience, end):
    options = {"patience": [None]}
    if end == "inner timeout":
        options = {"patience": patience, "grace": 0.1}
    path = [entry or os.getcwd() for entry in sys.path]
    argument = repr((path, 3, str(marker), options))
    command = [sys.executable, "-c", NESTED, argument, NESTED]

    def sleepers():
        return [pid for pid in marker.pids() if command_name(pid) == "sleep"]

    if end == "inner timeout":
        result = await agentsup.run(command)
        assert result.stdout.text.split() == ["deep", "TIMED_OUT", *["EXITED"] * 3]
        assert result.leftover_count == 0
        assert not marker.pids()
    else:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: agentsup.run(command, grace=0))
            await eventually(lambda: len(sleepers()) == 2)
            tasks.cancel_scope.cancel()
        assert not marker.pids()


def command_name(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


@pytest.mark.anyio
async def test_tool_kills_its_keeper(marker, eventually):
    script = f"setsid sleep {marker} & sleep 0.1; kill -9 $PPID; sleep {marker}"
    with pytest.raises(agentsup.KeeperLost) as caught:
        await agentsup.run(["sh", "-c", f"echo partial; {script}"])
    assert caught.value.partial.stdout.text == "partial\n"
    await eventually(lambda: not marker.pids())
    assert (await agentsup.run(["true"])).ok


@pytest.mark.anyio
async def test_host_limit_is_untouched():
    before = resource.getrlimit(resource.RLIMIT_RTTIME)
    await agentsup.run(["true"])
    assert resource.getrlimit(resource.RLIMIT_RTTIME) == before
