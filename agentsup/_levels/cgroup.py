"""Each call in a control group of its own: one write kills all of it, and limits bind the tree.

It takes a version 2 hierarchy and a group that is *delegated* to us: ours to make groups in, with
nobody else's hand in it (systemd's CGROUP_DELEGATION.md).  For limits its controllers have to be
passed on, and then no process may live in the group itself: where all that live in it are ours,
they are moved into a group below it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from attrs import frozen

from .._errors import UnsupportedPlatform
from .._linux import cgroup
from .._linux.keeper import children_of, read_proc
from . import Missing

if TYPE_CHECKING:
    from .._values.limits import Limits

OURS = "agentsup-host"
CONTROLLERS = ("memory", "pids", "cpu", "io")
_PERIOD = 100_000  # µs; the kernel's own default for cpu.max


@frozen
class Home:
    """A delegated group, and the controllers that groups below it have."""

    path: str
    controllers: frozenset[str]
    why_not_all: str


_homes: dict[tuple[int, bytes], Home] = {}  # by process and its groups


def missing() -> Missing | None:
    found = find_home()
    return found if isinstance(found, Missing) else None


def options() -> tuple[str, ...]:
    home = find_home()
    if isinstance(home, Missing):  # it was there when the supervisor was made
        raise UnsupportedPlatform(f"containment=CGROUP: {home}")
    return (f"cgroup={home.path}",)


def find_home() -> Home | Missing:
    home = _homes.get(_place())
    if home is None or not os.path.isdir(home.path):
        found = _delegated(cgroup.own())
        if isinstance(found, Missing):
            return found
        home = Home(found, *_pass_controllers_on(found))
        _homes.clear()
        _homes[_place()] = home  # it may have moved
    return home


def _place() -> tuple[int, bytes]:
    return os.getpid(), read_proc("/proc/self/cgroup")


# --- limits -----------------------------------------------------------------------------------


def settings(limits: Limits) -> dict[str, list[str]]:
    """For each limit that a controller can keep, what to write into the files of the leaf."""
    home = find_home()
    if isinstance(home, Missing):
        return {}
    quota = None if limits.cpu_quota is None else max(1000, round(limits.cpu_quota * _PERIOD))
    table = {
        "memory": ("memory", [f"memory.max={limits.memory}", "memory.oom.group=1"]),
        "memory_high": ("memory", [f"memory.high={limits.memory_high}"]),
        "processes": ("pids", [f"pids.max={limits.processes}"]),
        "cpu_quota": ("cpu", [f"cpu.max={quota} {_PERIOD}"]),
        "io_weight": ("io", [f"io.weight={limits.io_weight}"]),
    }
    found: dict[str, list[str]] = {}
    for name, (controller, files) in table.items():
        if getattr(limits, name) is None:
            continue
        if controller in home.controllers:
            found[name] = files
        elif name not in ("memory", "processes"):  # those have an rlimit as well
            raise UnsupportedPlatform(
                f"limits.{name} needs the controller {controller!r} in {home.path}: "
                f"{home.why_not_all}"
            )
    return found


def _pass_controllers_on(home: str) -> tuple[frozenset[str], str]:
    """Give what there is to the groups below; which are there now, and why others are not."""
    group = cgroup.Group(home)
    there = group.read("cgroup.controllers").decode().split()
    lacking = [name for name in CONTROLLERS if name not in there]
    why = _why_lacking(lacking) if lacking else ""
    for name in CONTROLLERS:
        if name in there and name not in group.read("cgroup.subtree_control").decode().split():
            try:
                _pass_on(group, name)
            except OSError as error:
                why = _why_not(error, home)
    return frozenset(group.read("cgroup.subtree_control").decode().split()), why


def _why_lacking(controllers: list[str]) -> str:
    names = ", ".join(controllers)
    for line in read_proc("/proc/self/cgroup").decode().splitlines():
        if set(line.split(":")[1].split(",")) & set(controllers):  # v1's lines name theirs
            return f"version 1 has {names}: boot with systemd.unified_cgroup_hierarchy=1"
    return (
        f"{names} did not come with the delegation (in systemd, Delegate={' '.join(CONTROLLERS)})"
    )


def _pass_on(group: cgroup.Group, controller: str) -> None:
    # For some controllers the kernel would let us, but make the groups below unusable: cgroups(7),
    # "domain invalid". The root of all is exempt, and has no type.
    if group.read("cgroup.type") and not _move_out(group):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
    group.write("cgroup.subtree_control", f"+{controller}")


def _move_out(group: cgroup.Group) -> bool:
    """Move all that live in the group into one below it; False if they are not all ours."""
    ours = [os.getpid()]
    for pid in ours:  # which grows
        ours += children_of(pid)
    living = [int(pid) for pid in group.read("cgroup.procs").split()]
    if not set(living) <= set(ours):
        return False
    if not living:
        return True
    below = cgroup.Group(f"{group.path}/{OURS}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(below.path)
    for pid in living:
        with contextlib.suppress(ProcessLookupError):
            below.write("cgroup.procs", str(pid))
    return True


def _why_not(error: OSError, home: str) -> str:
    if error.errno == errno.EBUSY:
        return (
            f"{home} holds processes that are not this one's: start this one alone in it, or in a "
            "group below it (DelegateSubgroup=, in systemd)"
        )
    return f"{home}/cgroup.subtree_control: {error.strerror}"


# --- delegation -------------------------------------------------------------------------------


def _delegated(own: str | None) -> str | Missing:
    """The group in which we may do as we like."""
    if own is None:
        return Missing(
            "no cgroup version 2 hierarchy is mounted",
            "mount one, or boot with systemd.unified_cgroup_hierarchy=1",
        )
    parent, name = os.path.split(own)
    if name == OURS or (_is_unit(parent) and not _is_unit(own) and _is_ours(parent)):
        own = parent  # we were moved out of it, or were started with DelegateSubgroup=
    elif not _is_ours(own):
        return Missing(f"{own} is systemd's, and is not delegated", _systemd_run())
    return _try_out(own) or own


def _is_unit(path: str) -> bool:
    return path.endswith((".service", ".scope"))


def _is_marked(path: str) -> bool:
    """Whether a system's systemd says so (251 and newer say it to everybody)."""
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(path, name) == b"1":
                return True
    return False


def _is_ours(path: str) -> bool:
    """A user's systemd marks nothing; but what it starts is in groups that the user owns."""
    if not os.path.isdir("/run/systemd/system"):
        return True
    try:
        if 0 != os.geteuid() == os.stat(f"{path}/cgroup.procs").st_uid:
            return True
    except OSError:
        return False
    while not (marked := _is_marked(path)) and not _is_unit(path) and path != "/":
        path = os.path.dirname(path)  # what is below a group that was given away is, too
    return marked


def _try_out(path: str) -> Missing | None:
    probe = f"{path}/agentsup-probe-{os.getpid()}"
    try:
        os.mkdir(probe)
    except OSError as error:
        return _cannot_make(path, error)
    try:
        if not os.path.exists(f"{probe}/cgroup.kill"):
            return Missing("the kernel has no cgroup.kill", "use Linux 5.14 or newer")
    finally:
        os.rmdir(probe)
    if not os.access(f"{path}/cgroup.procs", os.W_OK):
        return _cannot_make(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    return None


def _cannot_make(path: str, error: OSError) -> Missing:
    if error.errno == errno.EROFS:
        return Missing(
            f"{path} is mounted read-only",
            "start the container with --security-opt writable-cgroups=true (Docker 28) or "
            "--security-opt unmask=/sys/fs/cgroup (Podman)",
        )
    if isinstance(error, PermissionError):
        if os.path.isdir("/run/systemd/system"):
            return Missing(f"{path} is not delegated to this user", _systemd_run())
        return Missing(
            f"{path} is not this user's",
            f"as root, give one away: mkdir {path}/mine; chown {os.geteuid()} {path}/mine "
            f"{path}/mine/cgroup.procs {path}/cgroup.procs; and start this process in it",
        )
    return Missing(f"no group can be made in {path}", error.strerror or str(error))


def _systemd_run() -> str:
    user = "--user " if os.geteuid() else ""
    return (
        f"start this process with systemd-run {user}--scope -p Delegate=yes COMMAND, or with "
        "Delegate=yes in its unit"
    )
