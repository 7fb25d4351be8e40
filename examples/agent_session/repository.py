"""A small git repository to work in: the same commits, to the byte, on every machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import agentsup

#: Two authors, three branches and a tag, written by ``git fast-export --all``.
HISTORY = Path(__file__).with_name("pantry.fast-import")
BRANCH = "main"


def environment(home: Path) -> dict[str, str]:
    """This process's environment, without what the user's git would add to it."""
    # GIT_DIR and its like are set in a git hook, and would lead into the user's own repository.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    who = {
        f"GIT_{role}_{field}": value
        for role in ("AUTHOR", "COMMITTER")
        for field, value in (
            ("NAME", "Agent"),
            ("EMAIL", "agent@example.org"),
            ("DATE", "2024-03-15T09:00:00 +0000"),
        )
    }
    return {
        **kept,
        **who,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "HOME": str(home),
        "PATH": os.pathsep.join(path),
        # A fix of the same size in the same second would go on with the bytecode of before.
        "PYTHONDONTWRITEBYTECODE": "1",
    }


async def prepare(sup: agentsup.Supervisor, folder: Path, env: dict[str, str]) -> None:
    """Make the repository in ``folder``, which is empty."""

    async def git(*words: str, stdin: bytes | None = None) -> None:
        command = ["git", "-C", str(folder), *words]
        await sup.run(command, stdin=stdin, env=env, timeout=30, check=True)

    await git("init", "--quiet", "--initial-branch", BRANCH)
    await git("fast-import", "--quiet", stdin=HISTORY.read_bytes())
    await git("reset", "--quiet", "--hard")
