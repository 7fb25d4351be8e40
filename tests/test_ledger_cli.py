"""``agentsup ledger``: as a table, and as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from agentsup.checkpoint import Ledger


def agentsup(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agentsup", "ledger", *map(str, words)]
    environment = {**os.environ, "TZ": "UTC"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def output(*words: object) -> str:
    done = agentsup(*words)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


async def fail(text: str) -> None:
    raise ValueError(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Steps that are planned (1), done (2 and 3), failed (4, 5) and interrupted (6)."""

    async def fill() -> None:
        async with Ledger(path) as ledger:
            await ledger.plan("later")
            await ledger.run("fetch", lambda: {"text": "ü[red]" + "x" * 500})
            await ledger.run("fetch", lambda number: number, 7)
            for name in ("send", "clean"):
                with pytest.raises(ValueError, match="no"):
                    await ledger.run(name, fail, "no [bold]route")
            with anyio.CancelScope() as scope:
                async with ledger.step("report", key="r-1"):
                    scope.cancel()
                    await anyio.sleep_forever()

    path = tmp_path / "ledger"
    anyio.run(fill)
    return path


def states(path: Path) -> dict[int, str]:
    return {step["id"]: step["state"] for step in json.loads(output("history", path, "--json"))}


def rows(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_show(path: Path) -> None:
    first, table = output("show", path).split("\n", 1)
    assert first == "1 planned, 2 done, 2 failed, 1 interrupted"
    assert [row[:4] for row in rows(table)] == [
        ["1", "later", "planned", "0"],
        ["4", "send", "failed", "1"],
        ["5", "clean", "failed", "1"],
        ["6", "report", "interrupted", "1"],
    ]
    assert rows(table)[1][-1] == "ValueError: no [bold]route"
    found = json.loads(output("show", "--json", path))
    assert found["counts"] == {
        "planned": 1,
        "running": 0,
        "done": 2,
        "failed": 2,
        "interrupted": 1,
    }
    assert [step["id"] for step in found["steps"]] == [1, 4, 5, 6]


def test_history(path: Path) -> None:
    table = rows(output("history", path))
    assert [row[0] for row in table] == list("123456")
    assert table[1][-1].startswith('{"text": "ü[red]xxx')
    assert table[1][-1].endswith("x…")
    assert table[2][-1] == "7"


def test_export(path: Path) -> None:
    exported: list[dict[str, Any]] = list(map(json.loads, output("export", path).splitlines()))
    assert exported == json.loads(output("history", "--json", path))
    assert exported[1]["result"] == {"text": "ü[red]" + "x" * 500}
    assert (exported[5]["key"], exported[5]["error"]) == ("r-1", "CancelledError")


def test_retry_everything(path: Path) -> None:
    assert output("retry", path).splitlines() == [
        "4 send: was failed, is planned",
        "5 clean: was failed, is planned",
        "6 report: was interrupted, is planned",
    ]
    assert set(states(path).values()) == {"planned", "done"}
    assert output("retry", path) == ""


def test_retry_some(path: Path) -> None:
    output("retry", path, "clean", "6")
    assert states(path) == dict(
        enumerate(["planned", "done", "done", "failed", "planned", "planned"], 1)
    )
    output("retry", path, "fetch")
    assert states(path)[2] == "done"
    retried = json.loads(output("retry", "--json", "--done", path, "3"))
    assert [step["id"] for step in retried] == [3]
    assert [states(path)[number] for number in (2, 3)] == ["done", "planned"]


def test_what_runs_is_not_retried(path: Path) -> None:
    async def run() -> None:
        async with Ledger(path) as ledger:
            async with ledger.step("report", key="r-1"):
                assert output("retry", path, "report") == ""
            assert states(path)[6] == "done"

    anyio.run(run)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["show", "nothing"], "'nothing' does not exist"),
        (["retry", "PATH", "nobody"], "no step is called 'nobody' or has that number"),
        (["retry", "PATH", "--done"], "--done takes the steps that are meant"),
        (["export", __file__], "test_ledger_cli.py is damaged: file is not a database"),
    ],
)
def test_misuse(path: Path, words: list[str], told: str) -> None:
    done = agentsup(*(str(path) if word == "PATH" else word for word in words))
    assert done.returncode == 125
    assert told in done.stderr
    assert "Traceback" not in done.stderr
