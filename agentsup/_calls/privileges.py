"""As whom a tool runs: what the keeper does for that between fork and exec."""

from __future__ import annotations

import errno
import os

from .._errors import SpawnError


def user_steps(user: str | int) -> list[str]:
    import pwd

    if isinstance(user, bool) or not isinstance(user, (str, int)):
        raise TypeError(f"user must be a name or a number, not {user!r}")
    try:
        entry = pwd.getpwnam(user) if isinstance(user, str) else pwd.getpwuid(user)
    except (KeyError, ValueError, OverflowError):
        raise ValueError(f"user: there is no user {user!r} on this system") from None
    if os.geteuid() != 0:
        if entry.pw_uid == os.geteuid():
            return []
        raise SpawnError(errno.EPERM, f"user: only root can run a program as {entry.pw_name!r}")
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return [
        f"groups={','.join(map(str, groups))}",
        f"gid={entry.pw_gid}",
        f"uid={entry.pw_uid}",
    ]
