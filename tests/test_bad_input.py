"""Wrong arguments: one error, of the right type, that names the argument, and nothing started."""

from __future__ import annotations

import io
import math
import os
import re
import resource
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import field, frozen

import agentsup
from agentsup import (
    PIPE,
    Command,
    Escalation,
    Limits,
    OutputPolicy,
    SpawnError,
    Step,
    Supervisor,
    SupervisorClosed,
    SyncSupervisor,
    UnsupportedPlatform,
)
from agentsup._linux import lifeline
from agentsup._platform import require_linux

Kind = type[Exception]
TRUE = ["true"]
MOST_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@pytest.fixture(autouse=True)
def nothing_is_started(no_leaks: None) -> Iterator[None]:
    yield
    assert lifeline._current is None, "not even the keeper is started for what cannot be"


class Place:
    """A directory with things that cannot be run, entered or read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "file"
        self.file.write_text("#!/bin/sh\n")
        self.file.chmod(0o644)
        self.private = path / "private"
        self.private.mkdir(mode=0)
        self.closed = self.file.open()
        self.closed.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.private.chmod(0o700)


@frozen
class Case:
    """A call that cannot be. An option that is a function is made from the place."""

    id: str
    error: Kind
    says: str
    options: dict[str, Any] = field(factory=dict)
    command: Any = TRUE
    uid: int | None = None  #: as this user, as far as Python can tell

    def check(self, caught: BaseException) -> None:
        if issubclass(self.error, OSError):
            assert isinstance(caught, SpawnError)
            assert isinstance(caught, self.error)
        else:
            assert type(caught) is self.error
        assert re.search(self.says, str(caught))
        assert caught.__cause__ is None
        assert caught.__suppress_context__ or caught.__context__ is None, "one error, not two"


def each(name: str, error: Kind, says: str, *values: Any, uid: int | None = None) -> list[Case]:
    return [
        Case(f"{name}={value!r:.50} {uid or ''}", error, says, {name: value}, uid=uid)
        for value in values
    ]


COMMANDS = [
    Case(id, error, f"^(.Errno.*. )?command{says}", command=words)
    for id, error, says, words in [
        ("no words", ValueError, " is empty", []),
        ("an empty Command", ValueError, " is empty", Command(())),
        ("a str", TypeError, r" .*not str; .*agentsup\.shell", "ls -l"),
        ("bytes", TypeError, " .*not bytes", b"ls"),
        ("a bytearray", TypeError, " ", bytearray(b"ls")),
        ("None", TypeError, " .*None", None),
        ("an int", TypeError, " .*5", 5),
        ("an int in it", TypeError, " .*'sleep', 5", ["sleep", 5]),
        ("None in it", TypeError, " ", ["sleep", None]),
        ("a list in it", TypeError, " ", [["sleep", "1"]]),
        ("NUL in an argument", ValueError, r"\[1\] holds a NUL", ["echo", "a\0b"]),
        ("NUL in the program", ValueError, r"\[0\] holds a NUL", [b"a\0b"]),
        ("what has no encoding", ValueError, " cannot be encoded", ["echo", "\ud800"]),
        ("an empty program", ValueError, r"\[0\] is empty", ["", "x"]),
        ("a missing file", FileNotFoundError, ": .*'/no/such'", ["/no/such"]),
        ("a directory", IsADirectoryError, ": .*directory.*'/usr'", ["/usr"]),
        ("below a file", NotADirectoryError, ": .*'/etc/passwd/x'", ["/etc/passwd/x"]),
        ("a device", PermissionError, ": .*not a regular file", ["/dev/null"]),
    ]
]

LOOK_UP = [
    Case(
        "not in PATH",
        FileNotFoundError,
        "command: program not found in PATH=/nowhere:/neither: 'no-such-tool'",
        {"env": {"PATH": "/nowhere:/neither"}},
        ["no-such-tool"],
    ),
    Case(
        "not in the default PATH",
        FileNotFoundError,
        "command: program not found in the default PATH=/usr/local/bin:/usr/bin:/bin",
        {"env": {}},
        ["no-such-tool"],
    ),
    Case(
        "not executable",
        PermissionError,
        "command: .*not executable.*'./file'",
        {"cwd": lambda place: place.path},
        ["./file"],
    ),
    Case(
        "not executable in PATH",
        PermissionError,
        "command: .*not executable.*/file'",
        {"env": lambda place: {"PATH": str(place.path)}},
        ["file"],
    ),
    Case(
        "a directory in PATH",
        FileNotFoundError,
        "command: program not found",
        {"env": {"PATH": "/"}},
        ["usr"],
    ),
    Case(
        "a step's program",
        FileNotFoundError,
        "program not found .*'no-such-tool'",
        {"escalation": Escalation(Step(["no-such-tool"]))},
    ),
]

DIRECTORIES = [
    Case("cwd missing", FileNotFoundError, "cwd: .*'/no/such'", {"cwd": "/no/such"}),
    Case("cwd empty", FileNotFoundError, "cwd: ", {"cwd": ""}),
    Case("cwd with NUL", ValueError, "cwd holds a NUL", {"cwd": "a\0b"}),
    Case("cwd an int", TypeError, "cwd must be .*not int", {"cwd": 3}),
    Case("cwd without encoding", ValueError, "cwd cannot be encoded", {"cwd": "\ud800"}),
    Case("cwd a file", NotADirectoryError, "cwd: not a dir", {"cwd": lambda place: place.file}),
    Case("cwd private", PermissionError, "cwd: no perm", {"cwd": lambda place: place.private}),
    Case(
        "spill_dir missing",
        FileNotFoundError,
        r"output\.spill_dir: .*'/no/such'",
        {"output": OutputPolicy(spill_dir="/no/such")},
    ),
    Case(
        "spill_dir a file",
        NotADirectoryError,
        r"output\.spill_dir: not a directory",
        {"output": lambda place: OutputPolicy(spill_dir=place.file)},
    ),
    Case(
        "spill_dir private",
        PermissionError,
        r"output\.spill_dir: no permission",
        {"output": lambda place: OutputPolicy(spill_dir=place.private)},
    ),
]

ENVIRONMENTS = [
    Case(f"{name}: {id}", error, f"^{name}{says}", {name: value})
    for name in ("env", "extend_env")
    for id, error, says, value in [
        ("a list", TypeError, " must be a mapping( or .minimal.)?, not list", ["A=1"]),
        ("a str", TypeError, " must be a mapping( or .minimal.)?, not str", "A=1"),
        ("an int for a value", TypeError, r"\['A'\] must be a str, not 1", {"A": 1}),
        ("None for a value", TypeError, r"\['A'\] must be a str, not None", {"A": None}),
        ("an int for a name", TypeError, r"\[1\] must be a str", {1: "A"}),
        ("= in a name", ValueError, ": 'A=B' cannot be the name", {"A=B": "1"}),
        ("an empty name", ValueError, ": '' cannot be the name", {"": "1"}),
        ("NUL in a value", ValueError, r"\['A'\] holds a NUL", {"A": "\0"}),
        ("NUL in a name", ValueError, r"\['\\x00'\] holds a NUL", {"\0": "A"}),
        ("no encoding", ValueError, r"\['A'\] cannot be encoded", {"A": "\ud800"}),
    ]
]

NUMBERS = [
    case
    for name in ("timeout", "idle_timeout", "grace")
    for case in [
        *each(name, TypeError, f"^{name} must be a number of seconds", "1", True, [1]),
        *each(name, ValueError, f"^{name} must be ", -1, -0.5, math.nan, -math.inf),
        *each(name, ValueError, f"^{name} is too large", 10**400),
    ]
]

OTHERS = [
    *each("timeout", ValueError, "^timeout must be more than zero", 0, 0.0),
    *each("idle_timeout", ValueError, "^idle_timeout must be more than zero", 0),
    *each("grace", ValueError, "^grace must be finite", None, math.inf),
    *each("escalation", TypeError, r"escalation must be an agentsup\.Escalation", "TERM", 15),
    *each("escalation", TypeError, "escalation must be", [Step("TERM")], Step("TERM")),
    *each("stdin", TypeError, "stdin must be bytes, not str: encode it", "text"),
    *each("stdin", TypeError, "stdin must be bytes", True, 1.5, [b"x"]),
    Case("stdin a memoryview", TypeError, "stdin must be bytes", {"stdin": memoryview(b"x")}),
    Case("stdin not a real file", TypeError, "stdin must be bytes", {"stdin": io.BytesIO()}),
    *each("stdin", ValueError, "stdin is not an open file", -1, 10**6, 10**30),
    Case("stdin closed", ValueError, "stdin .*closed", {"stdin": lambda place: place.closed}),
    *each("limits", TypeError, r"limits must be an agentsup\.Limits", {"memory": 1}, 5),
    Case(
        "limits beyond our own",
        ValueError,
        rf"limits\.open_files: .*not exceed {MOST_FILES}",
        {"limits": Limits(open_files=MOST_FILES + 1)},
    ),
    *[
        Case(
            f"a limit that does not bind {user}",
            ValueError,
            r"limits\.processes .*root",
            {"limits": Limits(processes=5), "user": user},
            uid=0,
        )
        for user in (None, "root", 0)
    ],
    *each("user", ValueError, "user: there is no user", "no-such-user", "", "a\0b", -1, 10**30),
    *each("user", TypeError, "user must be a name or a number", True, 1.5, b"root"),
    *each("user", PermissionError, "user: only root .*'root'", "root", 0, uid=12345),
    *each("output", TypeError, r"output must be an agentsup\.OutputPolicy", 5, "all"),
    *each("leftovers", ValueError, "leftovers must be 'kill' or", "keep", None, True, []),
    *each("name", TypeError, "name must be a str", 5, b"x"),
    *each("timeuot", TypeError, "unknown argument 'timeuot'", 5),
    *each("shell", TypeError, "unknown argument 'shell'", True),
]

CASES = [*COMMANDS, *LOOK_UP, *DIRECTORIES, *ENVIRONMENTS, *NUMBERS, *OTHERS]
every_case = pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])


@pytest.fixture
def options(case: Case, place: Place, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    if "private" in case.id and os.geteuid() == 0:
        pytest.skip("root may do that")
    if case.uid is not None:
        monkeypatch.setattr(os, "geteuid", lambda: case.uid)
    return {
        name: value(place) if callable(value) else value for name, value in case.options.items()
    }


@every_case
@pytest.mark.anyio
async def test_on_an_event_loop(case: Case, options: dict[str, Any]) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 -- the case looks at it
        await agentsup.run(case.command, **options)
    case.check(caught.value)
    async with Supervisor() as sup:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            await sup.run(case.command, **options)
        case.check(caught.value)
        with pytest.raises(Exception) as caught:  # noqa: PT011
            async with sup.open(case.command, **options):
                raise AssertionError("it was started")
        case.check(caught.value)
        assert sup.tree() == ()


@every_case
def test_without_an_event_loop(case: Case, options: dict[str, Any]) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 -- the case looks at it
        agentsup.run_sync(case.command, **options)
    case.check(caught.value)
    with SyncSupervisor() as sup:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            sup.run(case.command, **options)
        case.check(caught.value)


async def nothing() -> AsyncIterator[bytes]:
    yield b""


class TestWhereItDoesNotBelong:
    @pytest.mark.anyio
    async def test_only_open_has_a_pipe(self) -> None:
        with pytest.raises(ValueError, match=r"stdin=PIPE is for open\(\)"):
            await agentsup.run(TRUE, stdin=PIPE)
        async with Supervisor() as sup:
            with pytest.raises(ValueError, match=r"stdin=PIPE is for open\(\)"):
                await sup.run(TRUE, stdin=PIPE)

    @pytest.mark.anyio
    async def test_open_takes_no_iterable(self) -> None:
        async with Supervisor() as sup:
            with pytest.raises(ValueError, match="stdin"):
                async with sup.open(TRUE, stdin=nothing()):
                    raise AssertionError("it was started")

    @pytest.mark.anyio
    async def test_adoption_needs_a_supervisor(self) -> None:
        with pytest.raises(ValueError, match=r"leftovers='adopt' needs an agentsup\.Supervisor"):
            await agentsup.run(TRUE, leftovers="adopt")

    @pytest.mark.parametrize(
        ("options", "error", "says"),
        [
            ({"stdin": PIPE}, TypeError, "stdin must be .* without an event loop"),
            ({"stdin": nothing()}, TypeError, "stdin must be .* without an event loop"),
            ({"leftovers": "adopt"}, ValueError, "leftovers='adopt' needs"),
        ],
        ids=["a pipe", "an async iterable", "adoption"],
    )
    def test_without_an_event_loop(self, options: dict[str, Any], error: Kind, says: str) -> None:
        with pytest.raises(error, match=says):
            agentsup.run_sync(TRUE, **options)
        with SyncSupervisor() as sup, pytest.raises(error, match=says):
            sup.run(TRUE, **options)


@pytest.mark.parametrize("kind", [Supervisor, SyncSupervisor])
class TestSupervisors:
    @pytest.mark.parametrize(
        ("value", "error"),
        [(0, ValueError), (-1, ValueError), (True, TypeError), ("2", TypeError), (1.5, TypeError)],
    )
    def test_concurrency_is_a_number_of_calls(
        self, kind: Callable[..., object], value: object, error: Kind
    ) -> None:
        with pytest.raises(error, match=r"^max_concurrency must be "):
            kind(max_concurrency=value)

    @pytest.mark.parametrize(
        ("value", "error"),
        [
            ("cgroup", TypeError),
            (2, TypeError),
            (None, TypeError),
        ],
        ids=repr,
    )
    def test_containment_that_is_not_to_be_had_is_refused(
        self, kind: Callable[..., object], value: object, error: Kind
    ) -> None:
        with pytest.raises(error, match=r"^containment"):
            kind(containment=value)


class TestSupervisorStates:
    @pytest.mark.anyio
    async def test_a_supervisor_starts_things_only_within_its_block(self) -> None:
        sup = Supervisor()
        with pytest.raises(SupervisorClosed, match="not been entered: use 'async with'"):
            await sup.run(TRUE)
        async with sup:
            pass
        with pytest.raises(SupervisorClosed, match="has been left"):
            await sup.run(TRUE)
        with pytest.raises(SupervisorClosed, match="has been left"):
            async with sup.open(TRUE):
                raise AssertionError("it was started")

    @pytest.mark.anyio
    async def test_a_supervisor_is_entered_once(self) -> None:
        sup = Supervisor()
        async with sup:
            with pytest.raises(RuntimeError, match="only once"):
                await sup.__aenter__()
        with pytest.raises(RuntimeError, match="only once"):
            await sup.__aenter__()

    def test_a_sync_supervisor_starts_things_only_within_its_block(self) -> None:
        sup = SyncSupervisor()
        with pytest.raises(SupervisorClosed, match="not been entered: use 'with'"):
            sup.run(TRUE)
        with sup:
            pass
        with pytest.raises(SupervisorClosed, match="has been left"):
            sup.run(TRUE)

    def test_a_sync_supervisor_is_entered_once(self) -> None:
        sup = SyncSupervisor()
        with sup, pytest.raises(RuntimeError, match="only once"):
            sup.__enter__()
        with pytest.raises(RuntimeError, match="only once"):
            sup.__enter__()


@pytest.fixture
def elsewhere() -> Iterator[None]:
    require_linux.cache_clear()
    yield
    require_linux.cache_clear()


@pytest.mark.usefixtures("elsewhere")
class TestPlatform:
    @pytest.mark.anyio
    async def test_all_ways_to_start_something_ask(self, monkeypatch: pytest.MonkeyPatch) -> None:
        says = "on Linux only, not on win32"
        with monkeypatch.context() as patch:
            patch.setattr(sys, "platform", "win32")
            with pytest.raises(UnsupportedPlatform, match=says):
                await agentsup.run(TRUE)
            with pytest.raises(UnsupportedPlatform, match=says):
                await Supervisor().__aenter__()
            with pytest.raises(UnsupportedPlatform, match=says):
                agentsup.run_sync(TRUE)
            with pytest.raises(UnsupportedPlatform, match=says):
                SyncSupervisor().__enter__()

    @pytest.mark.parametrize("release", ["2.6.32-754.el6", "4.19.0", "5.8.18-200.fc32"])
    def test_an_old_kernel_is_refused(self, release: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=release))
        with pytest.raises(UnsupportedPlatform, match=rf"5\.9 or newer; this is {release}"):
            agentsup.run_sync(TRUE)

    @pytest.mark.parametrize(
        "release", ["5.9.0", "5.10.0+", "5.15.90.1-microsoft-standard", "6.18", "10.0.1-rc1"]
    )
    def test_a_newer_kernel_will_do(self, release: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=release))
        require_linux()

    @pytest.mark.parametrize(("name", "value"), [("executable", ""), ("frozen", True)])
    def test_a_host_that_is_no_interpreter_is_refused(
        self, name: str, value: object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, name, value, raising=False)
        with pytest.raises(UnsupportedPlatform, match=r"sys\.executable"):
            agentsup.run_sync(TRUE)

    def test_a_system_without_proc_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os.path, "exists", lambda path: not str(path).startswith("/proc"))
        with pytest.raises(UnsupportedPlatform, match="/proc"):
            agentsup.run_sync(TRUE)

    def test_what_is_missing_is_looked_for_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "platform", "darwin")
            with pytest.raises(UnsupportedPlatform):
                require_linux()
        require_linux()
