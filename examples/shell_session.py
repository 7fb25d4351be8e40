"""A shell session as an agent has one, and what its model is told of each command.

    python examples/shell_session.py

One command hangs, one floods, one ends the shell, and one asks a question on its terminal.
"""

from __future__ import annotations

import anyio

from agentsup import OutputPolicy, Supervisor
from agentsup.shells import Shell, Terminal

COMMANDS = [
    "cd /tmp && X=5 && greet() { echo hello $1; }",
    "greet world; echo $PWD $X; false",
    "sleep 1000 & echo in the background",
    "echo working; (sleep 1000; echo never) | cat",
    "yes",
    "jobs -r | wc -l; echo $X is still there",
    "exit 3",
    "echo ${X-unset}, but still in $PWD",
]
ASK = "printf 'Overwrite? [y/n] '; read answer; echo the answer was $answer; test -t 1"


async def main() -> None:
    async with Supervisor() as sup:
        async with Shell(sup) as shell:
            for command in COMMANDS:
                print(f"$ {command}")
                policy = OutputPolicy(head=20, tail=20, limit=100_000, merge_stderr=True)
                result = await shell.run(command, timeout=1, output=policy)
                print(result.for_model())
        async with Shell(sup, terminal=Terminal()) as shell, anyio.create_task_group() as tasks:
            tasks.start_soon(answer, shell)
            print(f"$ {ASK}")
            result = await shell.run(ASK, timeout=60)
            print(result.for_model())


async def answer(shell: Shell) -> None:
    await shell.expect("[y/n]")
    await shell.send("y\n")


if __name__ == "__main__":
    anyio.run(main)
