"""Hosts of their own, for what changes or ends a whole process."""

from __future__ import annotations

import os
import subprocess
import sys


def environment(**variables: str) -> dict[str, str]:
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, **variables}


def run_host(
    source: str,
    *args: object,
    before: tuple[str, ...] = (),
    status: int | None = 0,
    **options: object,
) -> subprocess.CompletedProcess[str]:
    """Run a program that embeds agentsup, by way of the command ``before``; check its status."""
    command = [*before, sys.executable, "-c", source, *map(str, args)]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=300, **options
    )
    assert status is None or done.returncode == status, f"{done.returncode}: {done.stderr}"
    assert "struct.error" not in done.stderr
    return done


def available(*command: str) -> bool:
    """Whether this machine lets this user run ``command``."""
    try:
        return subprocess.run([*command, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False
