"""Each call in a PID namespace of its own: nothing in it sees, signals or outlives what is outside.

The keeper makes it with CAP_SYS_ADMIN, or inside a user namespace, where that is allowed.
"""

from __future__ import annotations

import errno
import os

from .._linux import lifeline
from .._linux.keeper import read_proc
from .._linux.namespace import needs_user_namespace
from . import Missing

_OPTIONS = ("namespace=1",)
_works: set[int] = set()  # the processes that have seen it work


def missing() -> Missing | None:
    if os.getpid() not in _works:
        number, step = lifeline.try_out(_OPTIONS)
        if step != "exec":
            return _explain(number, step)
        _works.add(os.getpid())
    return None


def options() -> tuple[str, ...]:
    return _OPTIONS


def _explain(number: int, step: str) -> Missing:
    if not needs_user_namespace():
        what = "the kernel refuses a PID namespace"
    else:
        what = "without CAP_SYS_ADMIN it takes a user namespace, and the kernel refuses one"
    return Missing(f"{what} ({step}: {os.strerror(number)})", _remedy(number, step))


def _remedy(number: int, step: str) -> str:
    if _setting("kernel/unprivileged_userns_clone") == 0:
        return "sysctl kernel.unprivileged_userns_clone=1"
    if _setting("kernel/apparmor_restrict_unprivileged_userns") == 1:
        return (
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with "
            "'userns,' for this interpreter"
        )
    for name in ("user", "pid", "mnt"):
        if number == errno.ENOSPC or _setting(f"user/max_{name}_namespaces") == 0:
            return f"raise the sysctls user.max_*_namespaces (user.max_{name}_namespaces)"
    if step == "mount /proc":
        return (
            "a container that hides parts of its /proc cannot mount another: start it with "
            "--security-opt systempaths=unconfined (Docker) or unmask=ALL (Podman)"
        )
    if b"Seccomp:\t2" in read_proc("/proc/self/status"):
        return (
            "a seccomp filter is in force: start the container with --cap-add SYS_ADMIN, or with "
            "--security-opt seccomp=PROFILE for one that allows clone3(2) and mount(2)"
        )
    if number == errno.EINVAL:
        return "use a kernel with CONFIG_PID_NS and CONFIG_USER_NS"
    return "run as root with CAP_SYS_ADMIN"


def _setting(name: str) -> int | None:
    text = read_proc(f"/proc/sys/{name}").strip()
    return int(text) if text.isdigit() else None
