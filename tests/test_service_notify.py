"""What services say of themselves: ``systemd-notify``, ``agentsup.notify`` and bare sockets."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import agentsup
from agentsup import Containment, Outcome, Supervisor
from agentsup._calls import on_loop
from agentsup._calls.call import Call
from agentsup._calls.spec import make_spec
from agentsup._levels import missing
from agentsup._services.notices import Notices
from agentsup._values.command import Command
from agentsup._values.heartbeat import FileHeartbeat, NotifyHeartbeat
from agentsup._values.hook import Hook
from agentsup._values.service import Service
from agentsup._values.state import ServiceState

pytestmark = pytest.mark.anyio

one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])
systemd_notify = pytest.mark.skipif(
    shutil.which("systemd-notify") is None, reason="systemd-notify is not installed"
)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root")

LONG = 600.0  # seconds, which no test lasts
#: As root it speaks for its parent, else for itself.
PARENT = "main" if os.geteuid() == 0 else "all"

Eventually = Callable[..., Awaitable[None]]

# Does what it is told, line by line.
PUPPET = """
import os, signal, socket, subprocess, sys, time
def notify(text, *fds):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.connect(os.environ["NOTIFY_SOCKET"])
        socket.send_fds(s, [text.encode()], fds)
def fork(function, status=0):
    if pid := os.fork():
        return pid
    try:
        function()
    finally:
        os._exit(status)
def sleep():
    time.sleep(999)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
strings = open(int(os.open(sys.argv[1], os.O_RDWR)), "rb", buffering=0)
notify("READY=1\\nSTATUS=listens")
while True:
    exec(strings.readline())
"""


class Puppet:
    """The command of a service, and what it is to do."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR)
        self._path = path

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-I", "-S", "-c", PUPPET, str(self._path)]

    def do(self, line: str) -> None:
        os.write(self._fd, line.encode() + b"\n")

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def puppet(tmp_path: Path) -> Iterator[Puppet]:
    with contextlib.closing(Puppet(tmp_path / "strings")) as found:
        yield found


def service(puppet: Puppet, **options: Any) -> Service:
    options.setdefault("grace", 2.0)
    return Service("puppet", puppet.command, type="notify", **options)


def said(handle: Any, text: str) -> Callable[[], bool]:
    return lambda: handle.status_text.partition(";")[0] == text  # and how often it was restarted


async def end_of(handle: Any) -> ServiceState:
    with anyio.fail_after(60):
        return await handle.wait()


def complained(caplog: pytest.LogCaptureFixture, text: str) -> Callable[[], bool]:
    return lambda: any(text in record.getMessage() for record in caplog.records)


def require(level: Containment) -> None:
    if lacking := missing(level):
        pytest.skip(lacking.reason)


# --- real clients -------------------------------------------------------------------------------


@systemd_notify
async def test_systemd_notify_says_that_it_is_ready(eventually: Eventually) -> None:
    script = "systemd-notify --ready --status='all is well'; exec sleep 999"
    async with Supervisor() as supervisor:
        handle = await supervisor.start(
            Service("a", ["sh", "-c", script], type="notify", notify_access=PARENT)
        )
        assert handle.state is ServiceState.ACTIVE
        await eventually(said(handle, "all is well"))


@systemd_notify
@one_loop
async def test_systemd_notify_in_hooks_is_heard_at_once(
    eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits for 5 s to be read, and says nothing of it if it has not been."""
    access = "exec" if os.geteuid() == 0 else "all"
    speak = Hook(["sh", "-c", 'systemd-notify --status="$1"', "sh", "before"], timeout=4.5)
    silent = Service("silent", ["sleep", "999"], notify_access="main", pre_start=speak)
    heard = Service("heard", ["sleep", "999"], notify_access=access, pre_start=speak)
    async with Supervisor() as supervisor:
        handles = await supervisor.start(silent, heard)
        assert handles[1].status_text == "before"
        assert handles[0].status_text != "before"
        assert complained(caplog, "silent: a message from process")()
        assert not complained(caplog, "heard:")()


@one_loop
async def test_our_own_client(eventually: Eventually, tmp_path: Path) -> None:
    source = (
        "import os, time; from agentsup import notify\n"
        "kept = dict((name, fd) for fd, name in notify.listen_fds())\n"
        "if kept:\n"
        "    notify.ready('kept ' + os.pread(kept['memory'], 99, 0).decode()); time.sleep(999)\n"
        "fd = os.memfd_create('x'); os.write(fd, b'a word')\n"
        "assert notify.fdstore([fd], 'memory') and notify.watchdog() and notify.barrier(None)\n"
        "assert notify.watchdog_interval() == 600.0\n"
        "notify.ready('first')\n"
        "while not os.path.exists('end'): time.sleep(.01)\n"
    )
    async with Supervisor() as supervisor:
        handle = await supervisor.start(
            Service(
                "client",
                [sys.executable, "-c", source],
                type="notify",
                fd_store=1,
                heartbeat=NotifyHeartbeat(LONG),
                cwd=tmp_path,
                extend_env={"PYTHONPATH": str(Path(agentsup.__file__).parent.parent)},
            )
        )
        assert handle.status_text == "first"
        (tmp_path / "end").touch()
        await eventually(said(handle, "kept a word"), 30)


# --- who may ------------------------------------------------------------------------------------


@one_loop
@pytest.mark.parametrize("access", ["main", "exec", "all"])
async def test_who_is_listened_to(
    access: str, puppet: Puppet, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    async with Supervisor() as supervisor:
        handle = await supervisor.start(service(puppet, notify_access=access))
        puppet.do("child = fork(lambda: notify('STATUS=a child'))")
        if access == "all":
            await eventually(said(handle, "a child"))
        else:
            await eventually(complained(caplog, f"is ignored: notify_access is '{access}'"))
        puppet.do("notify('STATUS=itself')")
        await eventually(said(handle, "itself"))


@one_loop
async def test_a_stranger_is_refused(
    puppet: Puppet, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    async with Supervisor() as supervisor:
        handle = await supervisor.start(service(puppet, notify_access="all", fd_store=3))
        path = _notices(handle).path
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            stranger.connect(path)
            mine, theirs = os.pipe()
            text = b"STATUS=hacked\nMAINPID=1\nSTOPPING=1\nWATCHDOG=trigger\nFDSTORE=1"
            socket.send_fds(stranger, [text], [theirs])
            os.close(theirs)
            await anyio.wait_readable(mine)  # its descriptor was closed
            os.close(mine)
            await eventually(complained(caplog, f"from process {os.getpid()} of user "))
        assert handle.state is ServiceState.ACTIVE
        assert said(handle, "listens")()
        assert handle.restarts == 0


def _notices(handle: Any) -> Notices:
    found = handle._notices
    assert found
    return found


@one_loop
async def test_without_messages_there_is_no_socket(tmp_path: Path) -> None:
    script = 'test -z "$NOTIFY_SOCKET$WATCHDOG_USEC$WATCHDOG_PID"'
    os.environ.update(NOTIFY_SOCKET="/host", WATCHDOG_USEC="1", WATCHDOG_PID="1")
    try:
        async with Supervisor() as supervisor:
            handle = await supervisor.start(Service("a", ["sh", "-c", script], type="oneshot"))
            assert handle.result.ok
    finally:
        for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
            del os.environ[name]


@one_loop
async def test_nobody_is_heard_before_it_is_known_who_that_is() -> None:
    call = Call(make_spec(Command(["sleep", "999"]), {}, Containment.SUBREAPER), eager=True)
    mine, theirs = os.pipe()
    os.close(theirs)  # it is readable from the beginning
    pids: list[int | None] = []

    def on_readable() -> None:
        pids.append(call.pid)
        call.unwatch(mine)
        call.stop(Outcome.STOPPED)

    call.watch(mine, on_readable)
    try:
        result = await on_loop.run(call)
    finally:
        os.close(mine)
    assert pids == [result.pid]


@as_root
async def test_another_user_is_heard(eventually: Eventually) -> None:
    """One that it is started as, and one that it makes itself."""
    source = PUPPET.partition("strings")[0] + "notify('READY=1\\nSTATUS=%d' % os.getuid()); sleep()"
    command = [sys.executable, "-I", "-S", "-c", source]
    if not _readable_by_all(sys.executable):
        command = ["sh", "-c", "systemd-notify --ready --status=$(id -u); exec sleep 999"]
    async with Supervisor() as supervisor:
        one = Service(
            "a", command, type="notify", user="nobody", notify_access="all", start_timeout=30.0
        )
        handle = await supervisor.start(one)
        assert handle.status_text == "65534"


def _readable_by_all(path: str) -> bool:
    found = Path(path).resolve()
    return all(parent.stat().st_mode & 0o005 == 0o005 for parent in (found, *found.parents))


@as_root
@systemd_notify
@one_loop
async def test_another_user_has_a_heartbeat() -> None:
    script = "systemd-notify WATCHDOG=1 && systemd-notify WATCHDOG=trigger; sleep 999"
    result = await agentsup.run(
        ["sh", "-c", script], user="nobody", heartbeat=NotifyHeartbeat(LONG), timeout=LONG
    )
    assert result.outcome is Outcome.HEARTBEAT_LOST


# --- what it says -------------------------------------------------------------------------------


async def test_status_and_error(puppet: Puppet, eventually: Eventually) -> None:
    async with Supervisor() as supervisor:
        handle = await supervisor.start(service(puppet))
        assert said(handle, "listens")()
        puppet.do("notify('STATUS=serves \\u00e4')")
        await eventually(said(handle, "serves ä"))
        puppet.do("notify('STATUS=\\nERRNO=2\\nEXIT_STATUS=3')")
        await eventually(said(handle, "No such file or directory"))
        assert handle.restarts == 0


@one_loop
async def test_nonsense_is_complained_of(
    puppet: Puppet, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    async with Supervisor() as supervisor:
        handle = await supervisor.start(service(puppet))
        puppet.do("notify('MAINPID=-1\\nERRNO=x\\nSTATUS=still')")
        await eventually(said(handle, "still"))
        assert complained(caplog, "MAINPID=-1")()
        assert complained(caplog, "ERRNO=x")()
        puppet.do("notify('x' * 5000); notify('STATUS=after')")
        await eventually(said(handle, "after"))
        assert complained(caplog, "longer than 4096")()


@one_loop
async def test_a_barrier_comes_after_all_before_it(puppet: Puppet, eventually: Eventually) -> None:
    async with Supervisor() as supervisor:
        handle = await supervisor.start(service(puppet))
        words: list[str] = []
        for word in ("one", "two"):
            words.append(word)
            puppet.do(f"r, w = os.pipe(); notify('STATUS={word}'); notify('BARRIER=1', w)")
            # It ends when the last copy of the other end is closed;
            puppet.do("os.close(w); os.read(r, 1); print('read', flush=True)")
            await eventually(lambda: handle.output.count("read") == len(words))
            assert said(handle, word)()


@one_loop
async def test_it_stops_by_itself(puppet: Puppet, eventually: Eventually) -> None:
    async with Supervisor() as supervisor:
        handle = await supervisor.start(service(puppet, restart="temporary", grace=LONG))
        puppet.do("notify('STOPPING=1\\nSTATUS=goes')")
        await eventually(lambda: handle.state is ServiceState.DEACTIVATING)
        puppet.do("sys.exit(0)")
        assert await end_of(handle) is ServiceState.INACTIVE
        assert handle.result.exit_code == 0
        assert handle.result.escalation == ()


@one_loop
async def test_it_reloads_by_itself(puppet: Puppet, eventually: Eventually) -> None:
    async with Supervisor() as supervisor:
        handle = await supervisor.start(service(puppet))
        puppet.do("notify('RELOADING=1\\nMONOTONIC_USEC=%d' % (time.monotonic_ns() // 1000))")
        await eventually(lambda: handle.state is ServiceState.RELOADING)
        puppet.do("notify('READY=1')")
        await eventually(lambda: handle.state is ServiceState.ACTIVE)


@one_loop
async def test_more_time_to_start(puppet: Puppet, eventually: Eventually) -> None:
    """As much as it says, from when it says it; less than it has is nothing."""
    command = [word.replace("READY=1", "X_READY=0") for word in puppet.command]
    async with Supervisor() as supervisor:
        handle = supervisor.start_soon(Service("slow", command, type="notify", start_timeout=LONG))
        await eventually(said(handle, "listens"))
        scope = handle._run._bound._scope
        before = scope.deadline
        puppet.do("notify('EXTEND_TIMEOUT_USEC=1000000\\nSTATUS=less')")
        await eventually(said(handle, "less"))
        assert scope.deadline == before
        puppet.do("notify('EXTEND_TIMEOUT_USEC=9000000000'); notify('STATUS=more')")
        await eventually(said(handle, "more"))
        assert scope.deadline > before + LONG
        puppet.do(f"notify('EXTEND_TIMEOUT_USEC={2**64 - 1}'); notify('READY=1')")
        await handle.wait_ready()


@one_loop
@pytest.mark.parametrize("microseconds", [9_000_000_000, 2**64 - 1])
async def test_more_time_to_stop(microseconds: int, puppet: Puppet, eventually: Eventually) -> None:
    async with Supervisor() as supervisor:
        handle = await supervisor.start(service(puppet, grace=LONG))
        puppet.do("signal.signal(signal.SIGTERM, lambda *_: print('TERM', flush=True))")
        puppet.do("notify('STATUS=set')")
        await eventually(said(handle, "set"))
        rule = handle._run.call.rule
        handle.stop_soon()
        await eventually(lambda: "TERM" in handle.output)
        before = rule.deadline
        puppet.do(f"notify('EXTEND_TIMEOUT_USEC={microseconds}')")
        await eventually(lambda: rule.deadline > before + LONG)
        puppet.do("os._exit(9)")
        await end_of(handle)
    assert handle.result.exit_code == 9
    assert [step.action for step in handle.result.escalation] == ["SIGTERM"]


# --- progress -----------------------------------------------------------------------------------


@one_loop
async def test_one_that_falls_silent_is_restarted(puppet: Puppet, eventually: Eventually) -> None:
    async with Supervisor() as supervisor:
        handle = await supervisor.start(service(puppet, heartbeat=NotifyHeartbeat(0.3)))
        before = handle.pid
        await eventually(lambda: handle.restarts)
        await eventually(lambda: handle.pid not in (None, before))
        assert handle.result.outcome is Outcome.HEARTBEAT_LOST


@one_loop
async def test_one_that_knows_is_restarted(puppet: Puppet, eventually: Eventually) -> None:
    async with Supervisor() as supervisor:
        handle = await supervisor.start(service(puppet, heartbeat=NotifyHeartbeat(LONG)))
        puppet.do("notify('WATCHDOG=trigger'); sleep()")
        await eventually(lambda: handle.restarts)
        assert handle.result.outcome is Outcome.HEARTBEAT_LOST


@one_loop
async def test_it_says_how_often(puppet: Puppet, eventually: Eventually) -> None:
    def due() -> float | None:
        return handle._run.call.rule.deadline

    async with Supervisor() as supervisor:
        handle = await supervisor.start(service(puppet, heartbeat=NotifyHeartbeat(LONG)))
        await eventually(lambda: due() is not None)
        first = due()
        puppet.do("notify('WATCHDOG=1')")
        await eventually(lambda: due() > first)
        puppet.do("notify('WATCHDOG_USEC=0')")
        await eventually(lambda: due() is None)
        puppet.do("notify('WATCHDOG_USEC=300000000')")
        await eventually(lambda: due() is not None)
        assert due() < first
        puppet.do("notify('WATCHDOG_USEC=100000'); sleep()")
        await eventually(lambda: handle.restarts)


@one_loop
async def test_what_it_says_before_it_is_ready_holds_from_then_on(
    puppet: Puppet, eventually: Eventually
) -> None:
    command = [word.replace("READY=1", "READY=1\\nWATCHDOG_USEC=0") for word in puppet.command]
    async with Supervisor() as supervisor:
        handle = await supervisor.start(
            Service("a", command, type="notify", heartbeat=NotifyHeartbeat(LONG))
        )
        assert handle._run.call.rule.deadline is None


@one_loop
async def test_messages_are_no_sign_of_life_where_a_file_is(
    puppet: Puppet, eventually: Eventually, tmp_path: Path
) -> None:
    async with Supervisor() as supervisor:
        beat = FileHeartbeat(tmp_path / "beat", LONG)
        handle = await supervisor.start(service(puppet, heartbeat=beat))
        due = handle._run.call.rule.deadline
        puppet.do("notify('WATCHDOG=1\\nWATCHDOG_USEC=0\\nSTATUS=said')")
        await eventually(said(handle, "said"))
        assert handle._run.call.rule.deadline == due


# --- another main process -----------------------------------------------------------------------

# Nothing of its output is left to wait for.
QUIET = "null = os.open('/dev/null', os.O_RDWR); os.dup2(null, 1); os.dup2(null, 2)"


@one_loop
async def test_another_main_process(puppet: Puppet, eventually: Eventually) -> None:
    """It goes on when the first ends; how it ends is the end of the service."""
    async with Supervisor() as supervisor:
        handle = await supervisor.start(service(puppet, restart="temporary"))
        first = handle.pid
        puppet.do("pid = fork(lambda: os.setsid() or sleep())")
        puppet.do("notify('MAINPID=%d\\nSTATUS=%d' % (pid, pid))")
        await eventually(lambda: handle.pid != first)
        second = handle.pid
        assert handle.status_text == str(second)
        puppet.do("sys.exit(3)")
        await eventually(lambda: not _exists(first))
        await eventually(lambda: handle._run.call.rule.adopting)
        assert handle.state is ServiceState.ACTIVE
        os.kill(second, signal.SIGKILL)
        assert await end_of(handle) is ServiceState.FAILED
        assert "SIGKILL" in handle.status_text


def _exists(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


@one_loop
@pytest.mark.parametrize("quiet", [False, True])
async def test_handed_over_in_its_last_breath(
    quiet: bool, puppet: Puppet, eventually: Eventually
) -> None:
    """The messages of the new one, which come at once, are the main process's then."""
    async with Supervisor() as supervisor:
        handle = await supervisor.start(service(puppet, heartbeat=NotifyHeartbeat(LONG)))
        first = handle.pid
        for n in range(3):
            if quiet:
                puppet.do(QUIET)
            puppet.do(
                "old = os.getpid(); pid = os.fork(); "
                "pid and (notify('MAINPID=%d' % pid), os._exit(3)); "
                "[time.sleep(.001) for _ in iter(lambda: os.getppid() == old, False)]; "
                f"notify('STATUS=I am {n}')"
            )
            before = handle.pid
            await eventually(said(handle, f"I am {n}"), 20)
            await eventually(lambda before=before: handle.pid not in (None, before))
            assert handle.restarts == 0
        assert handle.pid != first
        await eventually(lambda: handle._run.call.rule.adopting)
        # Its heartbeat goes on.
        puppet.do("notify('WATCHDOG_USEC=100000'); sleep()")
        await eventually(lambda: handle.restarts)


@one_loop
async def test_a_wrong_one_is_named_before_the_right_one(
    puppet: Puppet, eventually: Eventually, until: Callable[..., None]
) -> None:
    """Its end is known before that has an answer, and while the other waits for it."""
    async with Supervisor() as supervisor:
        handle = await supervisor.start(service(puppet))
        for n in range(2):
            old = handle.pid
            puppet.do(
                "pid = os.fork(); "
                "pid and (notify('MAINPID=1'), notify('MAINPID=%d' % pid), os._exit(3))"
            )
            until(lambda old=old: not _exists(old))  # while nothing else is done here
            puppet.do(f"notify('STATUS=I am {n}')")
            await eventually(said(handle, f"I am {n}"), 20)
            assert handle.restarts == 0


@one_loop
async def test_the_new_one_ends_before_the_old_one(puppet: Puppet, eventually: Eventually) -> None:
    async with Supervisor() as supervisor:
        handle = await supervisor.start(service(puppet, restart="temporary"))
        first = handle.pid
        puppet.do("pid = fork(sleep); notify('MAINPID=%d' % pid)")
        await eventually(lambda: handle.pid != first)
        os.kill(handle.pid, signal.SIGKILL)
        await end_of(handle)
        assert not _exists(first)


@one_loop
@pytest.mark.parametrize("who", ["a stranger", "nobody"])
async def test_a_main_process_that_is_none_of_it(
    who: str, puppet: Puppet, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    async with Supervisor() as supervisor:
        handle = await supervisor.start(service(puppet, restart="temporary"))
        pid, named = handle.pid, os.getpid() if who == "a stranger" else 2**31 - 1
        puppet.do(f"notify('MAINPID={named}')")
        puppet.do("notify('STATUS=went on')")
        await eventually(complained(caplog, f"MAINPID={named} is ignored"))
        await eventually(said(handle, "went on"))
        assert handle.pid == pid
        # In its last breath: it is no reason for anything to stay.
        puppet.do(QUIET)
        puppet.do(f"fork(sleep); notify('MAINPID={named}'); os._exit(4)")
        await end_of(handle)
        assert handle.result.exit_code == 4


@one_loop
async def test_a_process_group_has_no_other(
    puppet: Puppet, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    async with Supervisor(containment=Containment.PROCESS_GROUP) as supervisor:
        handle = await supervisor.start(service(puppet, notify_access="all"))
        puppet.do("pid = fork(sleep); notify('MAINPID=%d' % pid)")
        await eventually(complained(caplog, "is ignored"))
        puppet.do("fork(lambda: notify('STATUS=goes on'))")
        await eventually(said(handle, "goes on"))


@one_loop
async def test_in_a_namespace(
    puppet: Puppet, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    """Who sends is known out here, and who is named is named as in there."""
    require(Containment.PID_NAMESPACE)
    async with Supervisor(containment=Containment.PID_NAMESPACE) as supervisor:
        handle = await supervisor.start(service(puppet, notify_access="all"))
        first = handle.pid
        puppet.do("fork(lambda: notify('STATUS=%d' % os.getppid()))")
        await eventually(said(handle, "2"))
        puppet.do("pid = fork(sleep); notify('MAINPID=%d' % pid)")
        await eventually(lambda: handle.pid != first)
        puppet.do("os._exit(0)")
        await eventually(lambda: handle._run.call.rule.adopting)
        assert handle.state is ServiceState.ACTIVE
        assert not complained(caplog, "puppet")()


# --- descriptors that it leaves -----------------------------------------------------------------

# Says what it finds kept, and leaves more.
STORE = (
    "count = int(os.environ.get('LISTEN_FDS', 0)); names = os.environ.get('LISTEN_FDNAMES');"
    "notify('STATUS=%s %s' % (names, [os.pread(3 + n, 9, 0).decode() for n in range(count)]))"
)


async def test_descriptors_stay_over_a_violent_end(puppet: Puppet, eventually: Eventually) -> None:
    async with Supervisor() as supervisor:
        handle = await supervisor.start(service(puppet, fd_store=2))
        puppet.do("fd = os.memfd_create('x'); os.write(fd, b'one')")
        puppet.do("notify('FDSTORE=1\\nFDNAME=first', fd); os.ftruncate(fd, 0)")
        puppet.do("os.pwrite(fd, b'two', 0); notify('FDSTORE=1', os.memfd_create('y'))")
        puppet.do("os.kill(os.getpid(), 9)")
        puppet.do(STORE)
        await eventually(said(handle, "first:stored ['two', '']"))
        assert handle.restarts == 1
        puppet.do("notify('FDSTOREREMOVE=1\\nFDNAME=first'); os.kill(os.getpid(), 9)")
        puppet.do(STORE)
        await eventually(said(handle, "stored ['']"))


@one_loop
async def test_no_more_of_them_than_there_is_room_for(
    puppet: Puppet, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    async with Supervisor() as supervisor:
        handle = await supervisor.start(service(puppet, fd_store=1))
        puppet.do("fds = [os.memfd_create(n) for n in 'abc']; notify('FDSTORE=1', *fds)")
        await eventually(complained(caplog, "no room for 2 of 3"))
        puppet.do("os.kill(os.getpid(), 9)")
        puppet.do(STORE)
        await eventually(said(handle, "stored ['']"))


@one_loop
async def test_they_are_closed_when_the_service_is_forgotten(
    puppet: Puppet, eventually: Eventually
) -> None:
    async with Supervisor() as supervisor:
        handle = await supervisor.start(service(puppet, fd_store=1, restart="temporary"))
        puppet.do("notify('FDSTORE=1', os.memfd_create('x'))")
        await eventually(lambda: handle._store.entries())
        puppet.do("os._exit(0)")
        await end_of(handle)
        assert handle._store.entries() == []
    assert not Path(_notices(handle).path).exists()


@one_loop
async def test_last_words(
    puppet: Puppet,
    eventually: Eventually,
    until: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of them, though its end is known before they have been read."""
    monkeypatch.setattr("agentsup._services.notices.AT_ONCE", 1)
    async with Supervisor() as supervisor:
        handle = await supervisor.start(service(puppet, fd_store=5))
        pid = handle.pid
        puppet.do("[notify('FDSTORE=1', os.memfd_create('x')) for _ in range(5)]; os._exit(0)")
        until(lambda: not _exists(pid))  # while nothing else is done here
        puppet.do(STORE)
        await eventually(said(handle, f"{':'.join(['stored'] * 5)} {[''] * 5}"))


# --- a flood ------------------------------------------------------------------------------------


@one_loop
@pytest.mark.parametrize(
    "message",
    ["STATUS=x", "MAINPID=1", "RELOADING=1", "nonsense=", "WATCHDOG=1", "FDSTORE=1", "READY=x"],
)
async def test_a_flood_keeps_nobody_from_anything(
    message: str, puppet: Puppet, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    async with Supervisor() as supervisor:
        handle = await supervisor.start(service(puppet, grace=0.2, fd_store=1))
        puppet.do("signal.signal(signal.SIGTERM, signal.SIG_IGN)")
        puppet.do("s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)")
        puppet.do("s.connect(os.environ['NOTIFY_SOCKET']); print('flood', flush=True)")
        puppet.do(f"while True: socket.send_fds(s, [b{message!r}], [0])")
        await eventually(lambda: "flood" in handle.output)
        other = await supervisor.start(Service("other", ["sleep", "999"]))
        await other.stop()
        await handle.stop()
        assert [step.action for step in handle.result.escalation] == ["SIGTERM", "SIGKILL"]
    assert len(caplog.records) <= 10


# --- by itself ----------------------------------------------------------------------------------


def test_what_goes_wrong_leaves_no_descriptor() -> None:
    class Broken:
        call = hook = None

        def complain(self, text: str) -> None:
            raise RuntimeError(text)

    notices = Notices("all")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(notices.path)
            for _ in range(2):
                with open(os.devnull, "rb") as file:
                    socket.send_fds(sender, [b"STATUS=x"], [file.fileno()])
        before = os.listdir("/proc/self/fd")
        with pytest.raises(RuntimeError, match="is ignored"):
            notices._read(Broken(), 16)  # type: ignore[arg-type]  # as much of it as is used
        assert os.listdir("/proc/self/fd") == before
        assert select.select([notices._socket.fd], [], [], 0)[0]  # the second one waits
    finally:
        notices.close()
