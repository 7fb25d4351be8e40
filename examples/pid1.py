"""A program as PID 1 that has made no arrangements for it, and the same one under agentsup init.

    python examples/pid1.py [--wait SECONDS]

Each runs in a PID namespace of its own and gets SIGTERM, then SIGKILL if it is still there after
the wait: 10 seconds, as ``docker stop`` has it. The kernel drops signals to PID 1 that it does not
handle. Not as root, this takes a system that lets users make namespaces.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = [sys.executable, "-c", "import time; print(flush=True); time.sleep(1000)"]
INIT = [sys.executable, "-m", "agentsup", "init", "--"]


def stop(name: str, command: list[str], wait: float) -> str:
    user = [] if os.geteuid() == 0 else ["-r"]
    unshare = ["unshare", *user, "--pid", "--fork", "--mount-proc", *command]
    with subprocess.Popen(unshare, stdout=subprocess.PIPE) as process:
        assert process.stdout
        if not process.stdout.readline():
            raise SystemExit("no PID namespace: run it as root")
        (pid_1,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        began = time.monotonic()
        os.kill(int(pid_1), signal.SIGTERM)
        try:
            process.wait(wait)
            how = "ended"
        except subprocess.TimeoutExpired:
            os.kill(int(pid_1), signal.SIGKILL)
            process.wait()
            how = "killed"
    return f"{name:<14}{how} after {time.monotonic() - began:.2f} s"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wait", type=float, default=10.0, help="seconds until SIGKILL")
    options = parser.parse_args()
    print(stop("python", PROGRAM, options.wait), flush=True)
    print(stop("agentsup init", [*INIT, *PROGRAM], options.wait))
