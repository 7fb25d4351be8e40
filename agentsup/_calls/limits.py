"""What a tool may use: what the keeper does for that, and the level that it takes."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from .._errors import UnsupportedPlatform
from .._levels import require
from .._values.result import Containment

if TYPE_CHECKING:
    from .._values.limits import Limits

_GROUP_ONLY = ("memory_high", "cpu_quota", "io_weight")


def level_for(limits: Limits, level: Containment) -> Containment:
    """The level for a call with these limits; UnsupportedPlatform if it is not to be had."""
    for name in _GROUP_ONLY:
        if getattr(limits, name) is not None:
            if level is Containment.PROCESS_GROUP:
                raise UnsupportedPlatform(
                    f"limits.{name} needs a control group, and there is none with "
                    "containment=PROCESS_GROUP"
                )
            require(Containment.CGROUP, f"limits.{name} needs containment=CGROUP, which")
            level = max(level, Containment.CGROUP)
    return level


def limit_steps(limits: Limits, user: str | int | None, level: Containment) -> list[str]:
    """The keeper's options: those of a control group for what it can keep, and rlimits."""
    steps: list[str] = []
    kept: dict[str, list[str]] = {}
    if level >= Containment.CGROUP:
        from .._levels import cgroup

        kept = cgroup.settings(limits)
        steps += [f"leaf={setting}" for files in kept.values() for setting in files]
        if kept and level > Containment.CGROUP:
            steps += cgroup.options()
    return steps + _rlimits(limits, user, kept)


def _rlimits(limits: Limits, user: str | int | None, kept: dict[str, list[str]]) -> list[str]:
    import resource

    processes = None if "processes" in kept else limits.processes
    if processes is not None and user in (None, 0, "root") and os.geteuid() == 0:
        raise ValueError(
            "limits.processes does not bind root (setrlimit(2)): give another user= too"
        )
    memory = None if "memory" in kept else limits.memory
    cpu = None if limits.cpu_time is None else math.ceil(limits.cpu_time)
    wanted = [
        ("memory", resource.RLIMIT_AS, memory, memory),
        ("cpu_time", resource.RLIMIT_CPU, cpu, None if cpu is None else cpu + 1),
        ("processes", resource.RLIMIT_NPROC, processes, processes),
        ("open_files", resource.RLIMIT_NOFILE, limits.open_files, limits.open_files),
        ("file_size", resource.RLIMIT_FSIZE, limits.file_size, limits.file_size),
    ]
    steps: list[str] = []
    for name, number, soft, hard in wanted:
        if soft is None or hard is None:
            continue
        most = resource.getrlimit(number)[1]
        if most != resource.RLIM_INFINITY and hard > most:
            raise ValueError(f"limits.{name}: this process itself may not exceed {most}")
        steps.append(f"limit={number}:{soft}:{hard}")
    return steps
