"""What only a new process can do to itself, between fork and exec: limits and privileges.

This file imports the standard library only: the keeper loads it when a call wants any of it.
"""

from __future__ import annotations

import ctypes
import os
import resource

from .keeper import prctl


def set_groups(value: str) -> None:
    os.setgroups([int(n) for n in value.split(",") if n])


def set_gid(value: str) -> None:
    os.setresgid(int(value), int(value), int(value))


def set_uid(value: str) -> None:
    os.setresuid(int(value), int(value), int(value))


def set_umask(value: str) -> None:
    os.umask(int(value))


def set_capabilities(value: str) -> None:
    """Bound what exec can give: the bounding set, the inheritable one, and with it the ambient."""
    libc = ctypes.CDLL(None, use_errno=True)
    for number in range(64):
        # One that is not there takes privileges to drop as well.
        held = libc.prctl(23, ctypes.c_ulong(number)) == 1  # PR_CAPBSET_READ
        if held and not int(value) >> number & 1:
            prctl(24, number)  # PR_CAPBSET_DROP
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
    # Effective, permitted and inheritable: their lower halves, then their upper ones.
    sets = (ctypes.c_uint32 * 6)()
    failed = libc.capget(header, sets)
    sets[2] &= int(value) & 0xFFFFFFFF
    sets[5] &= int(value) >> 32
    if failed or libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def set_no_new_privs(value: str) -> None:
    prctl(38, int(value))  # PR_SET_NO_NEW_PRIVS


def set_death_signal(value: str) -> None:
    prctl(1, int(value))  # PR_SET_PDEATHSIG; setuid(2) clears it


def set_limit(value: str) -> None:
    number, soft, hard = (int(n) for n in value.split(":"))
    resource.setrlimit(number, (soft, hard))


# The host sends them in this order: what only root may do comes before the uid.
PREPARATIONS = {
    "limit": set_limit,
    "capabilities": set_capabilities,
    "groups": set_groups,
    "gid": set_gid,
    "uid": set_uid,
    "umask": set_umask,
    "no_new_privs": set_no_new_privs,
    "death_signal": set_death_signal,
}
