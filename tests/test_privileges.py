"""As whom a tool runs, what it may get, and that it is killed all the same."""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attr
import attrs
import pytest

import agentsup
from agentsup import Found, Limits, Outcome, Result, SpawnError
from agentsup._calls.privileges import CAPABILITIES
from agentsup._linux import lifeline

IS_ROOT = os.geteuid() == 0
root = pytest.mark.skipif(not IS_ROOT, reason="only root can become somebody else")
not_root = pytest.mark.skipif(IS_ROOT, reason="root may")
NOBODY = pwd.getpwnam("nobody")
CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def status(**options: Any) -> dict[str, list[str]]:
    """What the kernel says about a tool that runs with these options (proc_pid_status(5))."""
    result = agentsup.run_sync(["cat", "/proc/self/status"], cwd="/", **options)
    lines = (line.split() for line in result.check().stdout.text.splitlines())
    return {name.rstrip(":"): values for name, *values in lines}


def ids(found: dict[str, list[str]]) -> tuple[set[int], set[int], set[int]]:
    """User and group numbers: real, effective, saved and of the file system; and the others."""
    return tuple(set(map(int, found[name])) for name in ("Uid", "Gid", "Groups"))


def held(found: dict[str, list[str]]) -> dict[str, int]:
    return {name: int(found[name][0], 16) for name in CAPABILITY_SETS}


def mask(*names: str) -> int:
    return sum(1 << CAPABILITIES.index(name) for name in names)


# --- user and groups --------------------------------------------------------------------------


@root
@pytest.mark.parametrize("user", ["nobody", NOBODY.pw_uid, "mail"])
def test_a_user_comes_with_its_groups(user: str | int) -> None:
    entry = pwd.getpwnam(user) if isinstance(user, str) else pwd.getpwuid(user)
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    assert ids(status(user=user)) == ({entry.pw_uid}, {entry.pw_gid}, set(groups))


@root
@pytest.mark.parametrize("group", ["daemon", grp.getgrnam("daemon").gr_gid])
def test_another_group_than_the_users(group: str | int) -> None:
    gid = grp.getgrnam("daemon").gr_gid
    uids, gids, groups = ids(status(user="nobody", group=group))
    assert (uids, gids) == ({NOBODY.pw_uid}, {gid})
    assert groups == set(os.getgrouplist("nobody", gid))


@root
def test_a_group_without_a_user_keeps_no_other() -> None:
    assert ids(status(group=1234)) == ({0}, {1234}, set())


@root
def test_extra_groups_are_instead_of_the_users() -> None:
    expected = {grp.getgrnam("daemon").gr_gid, 54321}
    assert ids(status(user="nobody", extra_groups=["daemon", 54321]))[2] == expected
    assert ids(status(extra_groups=["daemon", 54321])) == ({0}, {os.getegid()}, expected)
    assert ids(status(user="nobody", extra_groups=()))[2] == set()


@root
def test_a_number_without_an_entry_needs_a_group() -> None:
    assert ids(status(user=54321, group=1234)) == ({54321}, {1234}, set())
    with pytest.raises(ValueError, match=r"^user: there is no user 54321 .*group= too"):
        agentsup.run_sync(["true"], user=54321)


@not_root
def test_whoever_is_not_root_may_name_itself() -> None:
    uid, gid = os.geteuid(), os.getegid()
    for options in ({"user": uid}, {"group": gid}, {"user": uid, "group": gid}):
        assert ids(status(**options))[:2] == ({uid}, {gid})
    assert ids(status(extra_groups=os.getgroups()))[2] == set(os.getgroups())


@not_root
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"user": "root"}, "user: only root can run a program as 'root'"),
        ({"user": 54321, "group": 54321}, "user: only root can run a program as 54321"),
        ({"group": "daemon"}, "group: only root"),
        ({"extra_groups": ["daemon"]}, "extra_groups: only root"),
    ],
)
def test_whoever_is_not_root_may_not_name_others(options: dict[str, Any], says: str) -> None:
    with pytest.raises(PermissionError, match=says):
        agentsup.run_sync(["true"], **options)


@root
def test_limits_come_before_the_user_and_its_privileges() -> None:
    found = status(
        limits=Limits(open_files=50),
        user="nobody",
        group="daemon",
        extra_groups=["mail"],
        umask=0o077,
        no_new_privs=True,
        capabilities=["kill"],
    )
    assert ids(found)[0] == {NOBODY.pw_uid}
    assert found["Umask"] == ["0077"]
    assert found["NoNewPrivs"] == ["1"]
    assert held(found) == dict.fromkeys(CAPABILITY_SETS, 0) | {"CapBnd": mask("KILL")}


@root
def test_a_stop_command_runs_as_the_same_user(patience: tuple[float, ...]) -> None:
    steps = agentsup.Escalation(
        agentsup.Step(agentsup.shell('kill -"$(id -u)" $MAINPID; id -u'), 60)
    )
    for timeout in patience:
        result = agentsup.run_sync(
            ["sleep", "99"], user=10, group=10, timeout=timeout, escalation=steps, cwd="/"
        )
        if result.pid:  # else there was nobody to stop yet
            break
    assert result.signal == 10


@root
def test_another_user_can_open_its_own_output_again() -> None:
    script = "echo out >/dev/stdout; echo err | tee /dev/stderr"
    result = agentsup.run_sync(agentsup.shell(script), user="nobody", cwd="/")
    assert result.ok
    assert (result.stdout.text, result.stderr.text) == ("out\nerr\n", "err\n")


# --- umask, no_new_privs, capabilities --------------------------------------------------------


@pytest.mark.parametrize("umask", [0, 0o027, 0o777])
def test_umask(umask: int) -> None:
    before = status()["Umask"]
    assert status(umask=umask)["Umask"] == [f"{umask:04o}"]
    assert status()["Umask"] == before, "neither the host nor the keeper keeps any of it"


def test_no_new_privs() -> None:
    assert status(no_new_privs=True)["NoNewPrivs"] == ["1"]
    assert status(no_new_privs=False)["NoNewPrivs"] == status()["NoNewPrivs"]


@root
@pytest.mark.parametrize("names", [(), ("CHOWN", "KILL"), ("SETPCAP",)])
def test_capabilities_of_root_are_bounded(names: tuple[str, ...]) -> None:
    """All that exec gives to root comes out of the bounding and the inheritable set."""
    own = int(status()["CapBnd"][0], 16)
    found = held(status(capabilities=names))
    assert found["CapBnd"] == found["CapPrm"] == found["CapEff"] == own & mask(*names)
    assert found["CapInh"] == found["CapAmb"] == 0


@root
@pytest.mark.parametrize("name", ["CHOWN", "CAP_CHOWN", "cap_chown", "Chown"])
def test_spellings_of_a_capability(name: str) -> None:
    assert held(status(capabilities=[name]))["CapBnd"] == mask("CHOWN")


@root
def test_capabilities_bound_what_another_user_may_ever_have() -> None:
    found = held(status(user="nobody", capabilities=["NET_BIND_SERVICE"]))
    assert found == dict.fromkeys(CAPABILITY_SETS, 0) | {"CapBnd": mask("NET_BIND_SERVICE")}


AMBIENT = """
import sys, agentsup
names = sys.argv[1:]
print(agentsup.run_sync(["cat", "/proc/self/status"], capabilities=names).check().stdout.text)
"""


@root
def test_inheritable_and_ambient_capabilities_are_bounded() -> None:
    sets = ["--inh-caps=+chown,+kill", "--ambient-caps=+chown,+kill"]
    done = subprocess.run(
        ["setpriv", *sets, sys.executable, "-c", AMBIENT, "KILL"],
        capture_output=True,
        text=True,
        check=True,
        env=with_this_path(),
    )
    found = held({line.split(":")[0]: line.split()[1:] for line in done.stdout.split("\n") if line})
    assert set(found.values()) <= {0, mask("KILL")}
    assert found["CapInh"] == mask("KILL")


def with_this_path() -> dict[str, str]:
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path}


def test_the_names_are_the_kernels() -> None:
    header = Path("/usr/include/linux/capability.h")
    if not header.exists():
        pytest.skip("the kernel's headers are not installed")
    names = re.findall(r"^#define\s+CAP_(\w+)\s+(\d+)$", header.read_text(), re.MULTILINE)
    known = [(name, int(number)) for name, number in names if int(number) < len(CAPABILITIES)]
    assert len(known) > 30
    assert all(CAPABILITIES[number] == name for name, number in known)


@not_root
def test_capabilities_without_root() -> None:
    with pytest.raises(PermissionError, match=r"^.*capabilities: .*SETPCAP.*no_new_privs=True"):
        agentsup.run_sync(["true"], capabilities=())
    assert agentsup.run_sync(["true"], capabilities=CAPABILITIES).ok, "there is nothing to drop"


# --- wrong arguments --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "error", "says"),
    [
        ("user", "no-such-user", ValueError, "user: there is no user 'no-such-user'"),
        ("user", -1, ValueError, "user: there is no user -1: numbers are from 0 to 4294967294"),
        ("user", 2**32 - 1, ValueError, "user: there is no user 4294967295: numbers"),
        ("user", True, TypeError, "user must be a name or a number, not True"),
        ("group", "no-such-group", ValueError, "group: there is no group 'no-such-group'"),
        ("group", "a\0b", ValueError, "group: there is no group"),
        ("group", -1, ValueError, "group: there is no group -1: numbers are from 0"),
        ("group", False, TypeError, "group must be a name or a number, not False"),
        ("group", 1.0, TypeError, "group must be a name or a number, not 1.0"),
        ("extra_groups", "mail", TypeError, "extra_groups must be a sequence of names or numbers"),
        ("extra_groups", 1, TypeError, "extra_groups must be a sequence"),
        ("extra_groups", [None], TypeError, "extra_groups must be a name or a number, not None"),
        ("extra_groups", ["no-such"], ValueError, "extra_groups: there is no group 'no-such'"),
        ("extra_groups", [2**32], ValueError, "extra_groups: there is no group 4294967296"),
        ("extra_groups", [5, 6, 5], ValueError, "extra_groups names the group 5 twice"),
        ("extra_groups", range(70_000), ValueError, "extra_groups: .* 65536 groups at most"),
        ("umask", -1, ValueError, "umask must be from 0 to 0o777, not -0o1"),
        ("umask", 0o1000, ValueError, "umask must be from 0 to 0o777, not 0o1000"),
        ("umask", True, TypeError, "umask must be a number, as 0o022, not True"),
        ("umask", "022", TypeError, "umask must be a number, as 0o022, not '022'"),
        ("no_new_privs", 1, TypeError, "no_new_privs must be True or False, not 1"),
        ("no_new_privs", None, TypeError, "no_new_privs must be True or False, not None"),
        ("capabilities", "kill", TypeError, "capabilities must be a sequence of names"),
        ("capabilities", 5, TypeError, "capabilities must be a sequence of names"),
        ("capabilities", [5], TypeError, "capabilities must be names, not 5"),
        ("capabilities", ["fly"], ValueError, "capabilities: there is no capability 'fly'"),
        ("capabilities", ["CAP_"], ValueError, "capabilities: there is no capability 'CAP_'"),
        ("capabilities", ["kill", "CAP_KILL"], ValueError, "capabilities names 'CAP_KILL' twice"),
    ],
)
def test_one_error_that_names_the_argument(
    option: str, value: object, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=f"^{says}") as caught:
        agentsup.run_sync(["true"], **{option: value})
    assert caught.value.__suppress_context__ or caught.value.__context__ is None, "one, not two"
    assert lifeline._current is None, "nothing was started"


IN_A_NAMESPACE = """
import sys, agentsup
try:
    agentsup.run_sync(["true"], user="nobody")
except agentsup.SpawnError as error:
    print(error)
"""


def explained(*prefix: str) -> str:
    command = [*prefix, sys.executable, "-c", IN_A_NAMESPACE]
    done = subprocess.run(command, capture_output=True, text=True, env=with_this_path())
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-r", "true"], check=False).returncode != 0,
    reason="no user namespaces for this user",
)
def test_root_of_a_user_namespace_knows_only_itself() -> None:
    assert f"user: this user namespace has no number {NOBODY.pw_uid}" in explained("unshare", "-r")


@root
def test_root_that_could_not_kill_another_users_processes() -> None:
    assert "lacks: CAP_KILL\n" in explained("setpriv", "--bounding-set=-kill")
    assert "lacks: CAP_SETGID, CAP_SETUID, CAP_KILL\n" in explained(
        "setpriv", "--bounding-set=-kill,-setuid,-setgid"
    )


# --- killed all the same ----------------------------------------------------------------------


DAEMONS = """
trap '' TERM
(setsid sleep {0} &)
(env -i setsid sleep {0} &)
{1} sleep {0} &
until [ "$(pgrep -fxc 'sleep {0}')" = 3 ]; do sleep 0.01; done
echo on
wait
"""


End = Callable[..., Result]


@pytest.fixture
def end(patience: tuple[float, ...]) -> End:
    """Run DAEMONS until all of them are there."""

    def run(script: str, **options: Any) -> Result:
        command = agentsup.shell(script)
        for timeout in patience:
            result = agentsup.run_sync(command, cwd="/", timeout=timeout, grace=0.05, **options)
            if result.stdout.text:
                break
        return result

    return run


@root
@pytest.mark.parametrize(
    "become",
    ["", "setpriv --reuid=daemon --clear-groups", "su -s /bin/sh mail -c 'setsid \"$@\"' -- x"],
    ids=["root", "setpriv", "su"],
)
def test_a_tool_that_changes_its_user_itself(become: str, marker: Any, end: End) -> None:
    result = end(DAEMONS.format(marker, become))
    assert result.outcome is Outcome.TIMED_OUT
    assert result.leftover_count >= 3
    assert all(left.killed for left in result.leftovers)
    assert not marker.pids()


@root
@pytest.mark.parametrize("options", [{}, {"no_new_privs": True, "capabilities": ()}])
def test_daemons_of_another_user(options: dict[str, Any], marker: Any, end: End) -> None:
    result = end(DAEMONS.format(marker, ""), user="nobody", **options)
    assert sorted(left.found.name for left in result.leftovers) == ["DESCENDANT"] + ["ORPHAN"] * 2
    assert all(left.killed for left in result.leftovers)
    assert not marker.pids()


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that everybody can read; the test's own is private."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        if os.statvfs(name).f_flag & os.ST_NOSUID:
            pytest.skip(f"{name} is on a file system without setuid programs")
        yield Path(name)


@pytest.fixture(scope="module")
def to_root(place: Path) -> str:
    """A setuid program that makes root of anybody, wholly: setpriv(1), set loose."""
    program = shutil.which("setpriv")
    if program is None:
        pytest.skip("setpriv is not installed")
    copy = shutil.copy(program, place / "to-root")
    os.chmod(copy, 0o4755)
    return f"{copy} --reuid=0 --regid=0 --clear-groups"


@root
def test_no_new_privs_disarms_a_setuid_program(to_root: str) -> None:
    script = agentsup.shell(f"{to_root} id -u")
    assert agentsup.run_sync(script, user="nobody", cwd="/").stdout.text == "0\n"
    result = agentsup.run_sync(script, user="nobody", cwd="/", no_new_privs=True)
    assert not result.ok
    assert not result.stdout.text


@root
def test_capabilities_disarm_a_setuid_program(to_root: str) -> None:
    """It is root then, but root can do nothing."""
    script = f"{to_root} true"
    result = agentsup.run_sync(agentsup.shell(script), user="nobody", cwd="/", capabilities=())
    assert not result.ok


@root
def test_a_setuid_program_of_another_users_tree(to_root: str, marker: Any, end: End) -> None:
    result = end(DAEMONS.format(marker, to_root), user="nobody")
    assert result.leftover_count == 3
    assert all(left.killed for left in result.leftovers)
    assert not marker.pids()


Nobody = Callable[..., Result]


@pytest.fixture(scope="module")
def nobody(place: Path) -> Nobody:
    """Run Python code that can import agentsup as nobody, who cannot read this environment."""
    for package in (agentsup, attr, attrs):
        assert package.__file__
        source = Path(package.__file__).parent
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, place / "modules" / source.name, ignore=ignored)
    env = {"PATH": os.defpath, "PYTHONPATH": f"{place}/modules", "TMPDIR": "/nonexistent"}
    check = "import sys; sys.exit(sys.version_info < (3, 11))"

    def run(python: str, source: str, *words: str, **options: Any) -> Result:
        command = [python, "-c", source, *words]
        return agentsup.run_sync(command, user="nobody", cwd="/", env=env, **options)

    for folder in os.get_exec_path():
        python = os.path.join(folder, "python3")
        try:
            if run(python, check).ok:
                return lambda *words, **options: run(python, *words, **options)
        except SpawnError:
            pass
    pytest.skip("nobody can run none of the Pythons in $PATH")


NOBODYS_HOST = """
import os, sys
from pathlib import Path
import agentsup
from agentsup._linux import records
records.runtime_directory = lambda: Path(sys.argv[2])
assert os.geteuid() != 0
result = agentsup.run_sync(agentsup.shell(sys.argv[1]), timeout=120)
for left in result.leftovers:
    print(left.argv[0], left.found.name, left.killed, flush=True)
os._exit(0)  # the keeper would try for a while
"""


@root
def test_what_a_keeper_that_is_not_root_cannot_kill(
    nobody: Nobody, place: Path, to_root: str, marker: Any
) -> None:
    """The call ends all the same and says so; the keeper of its own host, which is root, can."""
    run = place / "run"
    run.mkdir()
    os.chown(run, NOBODY.pw_uid, NOBODY.pw_gid)
    run.chmod(0o700)
    sleep = shutil.copy(shutil.which("sleep") or "", place / "sleep-as-root")
    os.chmod(sleep, 0o4755)
    script = f"""
    {to_root} sleep {marker} & until [ "$(cat /proc/$!/comm)" = sleep ]; do :; done
    {sleep} {marker} & until [ "$(cat /proc/$!/comm)" = sleep-as-root ]; do :; done
    setsid sleep {marker} & until [ "$(cat /proc/$!/comm)" = sleep ]; do :; done
    """
    result = nobody(NOBODYS_HOST, script, str(run), timeout=240)
    assert result.stderr.text == ""
    # Where the real user is still its own, it may signal even a program that is root otherwise.
    assert sorted(result.stdout.text.splitlines()) == [
        f"{sleep} ORPHAN True",
        "sleep ORPHAN False",
        "sleep ORPHAN True",
    ]
    assert [left for left in result.leftovers if left.argv == ("sleep", marker)]
    assert all(left.killed for left in result.leftovers)
    assert all(left.found is not Found.UNATTRIBUTED for left in result.leftovers)
    assert not marker.pids()


# --- the command line -------------------------------------------------------------------------


def cli(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agentsup", "run", "--cwd", "/", *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=with_this_path()
    )


@root
def test_cli_user_and_groups() -> None:
    words = ["--user", "nobody", "--group", "54321", "--extra-groups", "daemon,12345"]
    done = cli(*words, "--", "sh", "-c", "id -u; id -g; id -G")
    daemon = grp.getgrnam("daemon").gr_gid
    uid, gid, groups = done.stdout.splitlines()
    assert (int(uid), int(gid)) == (NOBODY.pw_uid, 54321)
    assert set(map(int, groups.split())) == {54321, daemon, 12345}
    assert cli("--user", "nobody", "--extra-groups", "", "id", "-G").stdout == f"{NOBODY.pw_gid}\n"


@root
def test_cli_capabilities() -> None:
    for given, expected in (("none", 0), ("kill,CAP_CHOWN", mask("KILL", "CHOWN"))):
        done = cli("--capabilities", given, "grep", "CapEff", "/proc/self/status")
        assert int(done.stdout.split()[1], 16) == expected


def test_cli_umask_and_no_new_privs() -> None:
    fields = "^(Umask|NoNewPrivs)"
    done = cli("--umask", "027", "--no-new-privs", "grep", "-E", fields, "/proc/self/status")
    assert done.stdout.split() == ["Umask:", "0027", "NoNewPrivs:", "1"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--group", "no-such"], "--group: there is no group 'no-such'"),
        (["--user", "54321"], "--user: there is no user 54321 .*give --group too"),
        (["--extra-groups", "a,b"], "--extra-groups: there is no group 'a'"),
        (["--umask", "9"], "--umask must be octal, as 022, not '9'"),
        (["--umask", "1000"], "--umask must be from 0 to 0o777, not 0o1000"),
        (["--capabilities", "fly"], "--capabilities: there is no capability 'fly'"),
    ],
)
def test_cli_misuse_names_the_option(words: list[str], told: str) -> None:
    done = cli(*words, "true")
    assert done.returncode == 125
    assert re.search(told, done.stderr), done.stderr


@not_root
def test_cli_without_root() -> None:
    done = cli("--capabilities", "none", "true")
    assert done.returncode == 125
    assert "--no-new-privs" in done.stderr
    assert "no_new_privs" not in done.stderr
