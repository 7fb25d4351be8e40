"""As whom a tool runs, and what it may get: what the keeper does for that between fork and exec."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, TypeAlias

from .._errors import SpawnError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    #: A name, or a number.
    Account: TypeAlias = str | int

#: By their numbers in linux/capability.h.
CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"),
    *("SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW"),
    *("IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT"),
    *("SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD"),
    *("LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG"),
    *("WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE"),
)
_LAST_ID = 2**32 - 2  # setresuid(2) takes the next one as "no change"


def privilege_steps(
    user: Account | None,
    group: Account | None,
    extra_groups: Sequence[Account] | None,
    umask: int | None,
    no_new_privs: bool,
    capabilities: Sequence[str] | None,
) -> list[str]:
    """In the order in which it can be done: only root gives up capabilities or changes groups."""
    steps = [] if capabilities is None else [f"capabilities={_bound(capabilities)}"]
    if not (user is group is extra_groups is None):
        steps += _identity_steps(user, group, extra_groups)
    if umask is not None:
        if isinstance(umask, bool) or not isinstance(umask, int):
            raise TypeError(f"umask must be a number, as 0o022, not {umask!r}")
        if not 0 <= umask <= 0o777:
            raise ValueError(f"umask must be from 0 to 0o777, not {umask:#o}")
        steps.append(f"umask={umask}")
    if not isinstance(no_new_privs, bool):  # pyright: ignore[reportUnnecessaryIsInstance] -- input
        raise TypeError(f"no_new_privs must be True or False, not {no_new_privs!r}")
    if no_new_privs:
        steps.append("no_new_privs=1")
    return steps


# --- user and groups --------------------------------------------------------------------------


def _identity_steps(
    user: Account | None, group: Account | None, extra_groups: Sequence[Account] | None
) -> list[str]:
    uid = gid = name = None
    if user is not None:
        uid, gid, name = _look_up_user(user)
    if group is not None:
        gid = _look_up_group("group", group)
    elif user is not None and gid is None:
        raise ValueError(
            f"user: there is no user {user!r} on this system: for the bare number, give group= too"
        )
    if extra_groups is not None:
        groups = _look_up_groups(extra_groups)
    else:
        groups = [] if name is None or gid is None else os.getgrouplist(name, gid)
    if os.geteuid() != 0:
        _check_own(name or user, uid, gid, None if extra_groups is None else groups)
        return []
    _check_may_become(user, uid, gid, groups)
    steps = [f"groups={','.join(map(str, groups))}"]
    if gid is not None:
        steps.append(f"gid={gid}")
    if uid is not None:
        steps.append(f"uid={uid}")
    return steps


def _look_up_user(user: Account) -> tuple[int, int | None, str | None]:
    """Its number, and group and name if it has an entry."""
    import pwd

    _check_account("user", user)
    try:
        entry = pwd.getpwnam(user) if isinstance(user, str) else pwd.getpwuid(user)
    except (KeyError, ValueError):
        if isinstance(user, int):
            return user, None, None
        raise ValueError(f"user: there is no user {user!r} on this system") from None
    return entry.pw_uid, entry.pw_gid, entry.pw_name


def _look_up_group(argument: str, group: Account) -> int:
    import grp

    _check_account(argument, group)
    if isinstance(group, int):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        raise ValueError(f"{argument}: there is no group {group!r} on this system") from None


def _look_up_groups(extra_groups: Sequence[Account]) -> list[int]:
    _check_sequence("extra_groups", extra_groups, "names or numbers of groups")
    groups: dict[int, Account] = {}
    for group in extra_groups:
        gid = _look_up_group("extra_groups", group)
        if gid in groups:
            raise ValueError(f"extra_groups names the group {group!r} twice")
        groups[gid] = group
    most = os.sysconf("SC_NGROUPS_MAX")
    if len(groups) > most:
        raise ValueError(f"extra_groups: a process has {most} groups at most, not {len(groups)}")
    return list(groups)


def _check_account(argument: str, account: Account) -> None:
    if isinstance(account, bool) or not isinstance(account, (str, int)):
        raise TypeError(f"{argument} must be a name or a number, not {account!r}")
    if isinstance(account, int) and not 0 <= account <= _LAST_ID:
        kind = "user" if argument == "user" else "group"
        raise ValueError(
            f"{argument}: there is no {kind} {account}: numbers are from 0 to {_LAST_ID}"
        )


def _check_own(
    user: Account | None, uid: int | None, gid: int | None, groups: list[int] | None
) -> None:
    """Whoever is not root may name what it is already."""
    if uid not in (None, os.geteuid()):
        raise SpawnError(errno.EPERM, f"user: only root can run a program as {user!r}")
    if gid not in (None, os.getegid()):
        raise SpawnError(errno.EPERM, "group: only root can run a program in another group")
    own = os.getegid()
    if groups is not None and {own, *groups} != {own, *os.getgroups()}:
        raise SpawnError(errno.EPERM, "extra_groups: only root can change a program's groups")


def _check_may_become(
    user: Account | None, uid: int | None, gid: int | None, groups: list[int]
) -> None:
    """Root in a container may lack what it takes, and know fewer users than there are."""
    argument = "group" if user is None else "user"
    needed = ["SETGID"] if uid in (None, 0) else ["SETGID", "SETUID", "KILL"]
    held = _own_bounding_set()
    missing = [f"CAP_{name}" for name in needed if not held >> CAPABILITIES.index(name) & 1]
    if missing:
        raise SpawnError(
            errno.EPERM,
            f"{argument}: to change it, and to kill what another user runs, takes capabilities "
            f"that this process lacks: {', '.join(missing)}",
        )
    unmapped = _unmapped("uid_map", [uid]) + _unmapped("gid_map", [gid, *groups])
    if unmapped:
        raise SpawnError(
            errno.EINVAL,
            f"{argument}: this user namespace has no number {unmapped[0]} (user_namespaces(7))",
        )


def _unmapped(name: str, numbers: Iterable[int | None]) -> list[int]:
    with open(f"/proc/self/{name}") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    return [
        number
        for number in numbers
        if number is not None
        and not any(first <= number < first + count for first, _, count in ranges)
    ]


# --- capabilities -----------------------------------------------------------------------------


def _bound(capabilities: Sequence[str]) -> int:
    """The set as a number, once it is certain that everything else can be given up."""
    _check_sequence("capabilities", capabilities, "names, as CAP_NET_BIND_SERVICE")
    bound = 0
    for name in capabilities:
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] -- input
            raise TypeError(f"capabilities must be names, not {name!r}")
        try:
            bit = 1 << CAPABILITIES.index(name.upper().removeprefix("CAP_"))
        except ValueError:
            raise ValueError(
                f"capabilities: there is no capability {name!r} (see capabilities(7))"
            ) from None
        if bound & bit:
            raise ValueError(f"capabilities names {name!r} twice")
        bound |= bit
    held = _own_bounding_set()
    may = os.geteuid() == 0 and held >> CAPABILITIES.index("SETPCAP") & 1
    if held & ~bound and not may:
        raise SpawnError(
            errno.EPERM,
            "capabilities: to give some up for good takes root and CAP_SETPCAP; "
            "what keeps a program from gaining any, without root, is no_new_privs=True",
        )
    return bound


def _own_bounding_set() -> int:
    """What root is given when it executes a program, as the keeper was and the tool will be."""
    with open("/proc/self/status") as file:
        return next(int(line[7:], 16) for line in file if line.startswith("CapBnd:"))


def _check_sequence(argument: str, values: object, what: str) -> None:
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise TypeError(f"{argument} must be a sequence of {what}, not {values!r}")
