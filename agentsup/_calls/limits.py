"""What a tool may use: what the keeper does for that between fork and exec."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from .._errors import UnsupportedPlatform

if TYPE_CHECKING:
    from .._values.limits import Limits


def limit_steps(limits: Limits, user: str | int | None) -> list[str]:
    import resource

    for name in ("cpu_quota", "io_weight"):
        if getattr(limits, name) is not None:
            raise UnsupportedPlatform(
                f"limits.{name} needs the cgroup level, which this version does not have"
            )
    if limits.processes is not None and user in (None, 0, "root") and os.geteuid() == 0:
        raise ValueError(
            "limits.processes does not bind root (setrlimit(2)): give another user= too"
        )
    cpu = None if limits.cpu_time is None else math.ceil(limits.cpu_time)
    wanted = [
        ("memory", resource.RLIMIT_AS, limits.memory, limits.memory),
        ("cpu_time", resource.RLIMIT_CPU, cpu, None if cpu is None else cpu + 1),
        ("processes", resource.RLIMIT_NPROC, limits.processes, limits.processes),
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
