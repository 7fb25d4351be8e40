"""Agents that are killed -9 at any instant: nothing that was acknowledged is lost or done again.

``AGENTSUP_LEDGER_KILLS`` is how many are killed in each test, 25 by default, and
``AGENTSUP_LEDGER_SEED`` where the dice begin.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hosts import environment

KILLS = int(os.environ.get("AGENTSUP_LEDGER_KILLS", "25"))
SEED = int(os.environ.get("AGENTSUP_LEDGER_SEED", "7"))

# Agents are forks, for a new interpreter takes longer than they live.  They write to one file what
# they do, in the order in which they do it: a write to it is there when they are killed.
DRIVER = """
import itertools, json, os, random, signal, sqlite3, sys, time
import anyio, trio
from agentsup.checkpoint import Ledger

folder, agents, kills, seed = sys.argv[1], *map(int, sys.argv[2:])
path, TASKS = f"{folder}/ledger", 3
log = os.open(f"{folder}/log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
dice = random.Random(seed)

def note(word, number):
    os.write(log, f"{word} {number}\\n".encode())

def noted():
    with open(f"{folder}/log") as file:
        return [(word, int(number)) for word, number in map(str.split, file)]

async def work(number):
    note("ran", number)
    await anyio.sleep(0)
    return {"double": 2 * number}

async def agent(start, ready):
    async with Ledger(path) as ledger:
        os.write(ready, b"+")
        async def task(first):
            for number in itertools.count(first, TASKS):
                assert await ledger.run("double", work, number) == {"double": 2 * number}
                note("ack", number)
        async with anyio.create_task_group() as tasks:
            for first in range(start, start + TASKS):
                tasks.start_soon(task, first)

def start():
    acknowledged = [number for word, number in noted() if word == "ack"]
    begin = max(0, max(acknowledged, default=0) - 5)
    backend = dice.choice(["asyncio", "trio"])
    reading, ready = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            anyio.run(agent, begin, ready, backend=backend)
        finally:
            os._exit(3)
    os.close(ready)
    return pid, reading

running = [start() for _ in range(agents)]
for _ in range(kills):
    pid, reading = running.pop(dice.randrange(len(running)))
    if dice.random() < 0.7:
        assert os.read(reading, 1) == b"+"
        time.sleep(dice.uniform(0, 0.03))
    else:
        time.sleep(dice.uniform(0, 0.01))  # while it opens the ledger
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL, "it ended by itself"
    os.close(reading)
    running.append(start())
for pid, reading in running:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reading)

acknowledged, again = set(), []
for word, number in noted():
    if word == "ack":
        acknowledged.add(number)
    elif number in acknowledged:
        again.append(number)

async def done_now(number):
    lost.append(number)

async def last():
    async with Ledger(path) as ledger:
        for number in sorted(acknowledged):
            result = await ledger.run("double", done_now, number)
            assert result == {"double": 2 * number}, (number, result)
        return sum(step.attempts > 1 for step in ledger.history())

lost = []
repeated = anyio.run(last)
[damage] = sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone()
print(json.dumps({"acknowledged": len(acknowledged), "again": again, "lost": lost,
                  "repeated": repeated, "damage": damage}))
"""


@pytest.mark.parametrize("agents", [1, 2])
def test_what_was_acknowledged_is_kept_and_not_done_again(agents: int, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", DRIVER, tmp_path, agents, KILLS, SEED + agents]
    done = subprocess.run(
        [str(word) for word in command],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60 + 5 * KILLS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("acknowledged") > KILLS / 5
    assert found.pop("repeated"), "nobody was killed in the middle of a step"
    assert found == {"again": [], "lost": [], "damage": "ok"}
