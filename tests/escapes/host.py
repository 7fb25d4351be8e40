"""A host that runs one program in a scope and ends that scope: ``host.py LEVEL END PROGRAM …``.

It makes the file ``ended`` when the scope has been left, then lives on until its stdin ends, so
that what is alive in between has outlived the scope, and not only the host.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from signal import SIGKILL, SIGTERM

CELL = Path(os.environ["ESCAPE_CELL"])
TIMEOUT = float(os.environ["ESCAPE_TIMEOUT"])
GRACE = 0.2
AT_LAST = 3.0  # seconds; for a program whose end does not depend on a timeout

LEVEL, END, *PROGRAM = sys.argv[1:]


def by_process_group() -> None:
    """What one writes without agentsup: a new session, and killpg at the end."""
    process = subprocess.Popen(
        PROGRAM, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + (TIMEOUT if END == "timeout" else AT_LAST)
    until_ready = END in ("cancel", "exception")
    while process.poll() is None and time.monotonic() < deadline:
        if until_ready and (CELL / "ready").exists():
            break
        time.sleep(0.01)
    for number in (SIGTERM, SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)


async def by_agentsup() -> None:
    from agentsup import Containment, KeeperLost, Supervisor
    from agentsup._linux import records

    # Else the next start of any host of this user would sweep what this one has left.
    assert records.runtime_directory()
    records.runtime_directory = lambda: CELL / "run"
    level = LEVEL if LEVEL == "auto" else Containment[LEVEL]
    timeout = TIMEOUT if END == "timeout" else AT_LAST
    with contextlib.suppress(KeeperLost, InTheScope):
        async with Supervisor(containment=level) as supervisor:
            if END == "exception":
                async with supervisor.open(PROGRAM, grace=GRACE, timeout=timeout) as process:
                    await first_of(process.wait, ready)
                    raise InTheScope

            async def run() -> None:
                result = await supervisor.run(PROGRAM, grace=GRACE, timeout=timeout)
                assert level in (result.containment, "auto")

            await (first_of(run, ready) if END == "cancel" else run())


class InTheScope(Exception):
    pass


async def ready() -> None:
    import anyio

    while not (CELL / "ready").exists():
        await anyio.sleep(0.01)


async def first_of(*functions) -> None:
    """Cancel the others when one of them has ended."""
    import anyio

    from agentsup import KeeperLost

    async def run(function) -> None:
        with contextlib.suppress(KeeperLost):
            await function()
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for function in functions:
            tasks.start_soon(run, function)


def enter_own_cgroup() -> None:
    """So that whatever agentsup makes is in the cell's folder, which is removed in the end."""
    root = Path("/sys/fs/cgroup")
    if not (root / "cgroup.controllers").exists():
        root /= "unified"
    home = root / os.environ["ESCAPE_CGROUP"].strip("/") / f"escape-{CELL.name}"
    with contextlib.suppress(OSError):
        home.mkdir(exist_ok=True)
        (home / "cgroup.procs").write_text("0")


def main() -> None:
    if LEVEL == "CGROUP":
        enter_own_cgroup()
    if LEVEL == "killpg":
        by_process_group()
    else:
        import anyio

        anyio.run(by_agentsup, backend=os.environ["ESCAPE_BACKEND"])
    (CELL / "ended").touch()
    sys.stdin.read()


if __name__ == "__main__":
    main()
