"""The files of a ledger: damaged, strange, newer, on a full disk, or not to be had."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

sys.path.insert(0, str(Path(__file__).parent / "faults"))

from hosts import available, run_host

from agentsup._errors import FormatTooNew, LedgerCorrupt
from agentsup.checkpoint import Ledger
from agentsup.checkpoint.history import history

STEPS = 30


async def work(number: int) -> str:
    return f"{number}" * 100


def run_all(path: Path, work: Callable[[int], object] = work) -> list[object]:
    async def run() -> list[object]:
        async with Ledger(path) as ledger:
            return [await ledger.run("step", work, number) for number in range(STEPS)]

    return anyio.run(run)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A ledger's file, with 30 done steps."""
    path = tmp_path_factory.mktemp("good") / "ledger"
    run_all(path)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a ledger has been."""
    path = tmp_path / "ledger"
    Path(f"{path}-agents").write_bytes(b"\0" * 17)
    return path


def never(number: int) -> None:
    raise AssertionError(f"step {number} is done")


def test_what_is_read_is_what_was_written(path: Path, good: bytes) -> None:
    path.write_bytes(good)
    assert run_all(path, never) == [f"{number}" * 100 for number in range(STEPS)]


@pytest.mark.parametrize("part", [0, 1, 15, 16, 100, 511, 512, 4095, 4096, 8192, 0.5, 0.99])
def test_a_truncated_ledger_is_not_taken_for_another(path: Path, good: bytes, part: float) -> None:
    cut = good[: int(len(good) * part)] if 0 < part < 1 else good[: int(part)]
    path.write_bytes(cut)
    with pytest.raises(LedgerCorrupt) as told:
        run_all(path, never)
    assert str(path) in str(told.value)
    assert path.read_bytes() == cut, "it is left as it is"


def test_a_page_that_is_cut_gives_no_wrong_result(path: Path, good: bytes) -> None:
    path.write_bytes(good[:-1])
    try:
        assert run_all(path, never) == [f"{number}" * 100 for number in range(STEPS)]
    except LedgerCorrupt:
        pass


@pytest.mark.parametrize("page", [0, 1, 2, 3])
def test_a_page_of_nonsense(path: Path, good: bytes, page: int) -> None:
    start = page * 4096
    path.write_bytes(good[:start] + b"\xa5" * 4096 + good[start + 4096 :])
    with pytest.raises(LedgerCorrupt, match=r"ledger is damaged"):
        run_all(path, never)


@pytest.mark.parametrize(
    "damage", ["result = 'no'", "result = X'80'", "result = '1'", "state = 'strange'"]
)
def test_a_row_of_nonsense(path: Path, good: bytes, damage: str) -> None:
    path.write_bytes(good)
    connection = sqlite3.connect(path)
    connection.execute(f"UPDATE steps SET {damage} WHERE id = 7")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerCorrupt, match=r"ledger is damaged: .*"):
        run_all(path, never)
    with pytest.raises(LedgerCorrupt, match=r"ledger is damaged: .*"):
        list(history(str(path)))


@pytest.mark.parametrize("content", [b"just a text\n" * 100, b"\0" * 4096])
def test_no_database(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(LedgerCorrupt, match="is damaged"):
        run_all(path)
    assert path.read_bytes() == content


def alter(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_another_database(path: Path) -> None:
    alter(path, "CREATE TABLE steps (id INTEGER PRIMARY KEY)")
    before = path.read_bytes()
    for use in (run_all, lambda path: list(history(str(path)))):
        with pytest.raises(ValueError, match=r"ledger is a database, but not a ledger"):
            use(path)
    assert path.read_bytes() == before


def test_a_newer_ledger(path: Path, good: bytes) -> None:
    path.write_bytes(good)
    alter(path, "PRAGMA user_version = 2")
    for use in (run_all, lambda path: list(history(str(path)))):
        with pytest.raises(FormatTooNew, match=r"ledger of version 2, .* up to 1: take a newer"):
            use(path)


def test_an_empty_file_is_a_new_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    path.touch()
    assert len(run_all(path)) == STEPS


def test_a_ledger_that_was_removed_is_a_new_one(path: Path) -> None:
    assert len(run_all(path)) == STEPS


def test_names_and_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a b?mode=memory#c", ":memory:", "file:x"):
        run_all(Path(name))
        assert len(list(history(os.path.realpath(name)))) == STEPS
    Path("link").symlink_to("file:x")
    run_all(Path("link"), never)
    assert Path("link").is_symlink()


def test_where_it_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none/ledger"):
        run_all(tmp_path / "none" / "ledger")
    with pytest.raises(FileNotFoundError, match="nothing"):
        list(history(str(tmp_path / "nothing")))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_what_may_not_be_written(path: Path, good: bytes) -> None:
    path.write_bytes(good)
    path.chmod(0o400)
    with pytest.raises(PermissionError, match="ledger"):
        run_all(path)
    path.chmod(0o600)
    path.parent.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="other"):
            run_all(path.parent / "other")
    finally:
        path.parent.chmod(0o700)


# --- a full disk ------------------------------------------------------------------------------

UNSHARE = ("unshare", "-m") if os.geteuid() == 0 else ("unshare", "-Urm")
MOUNT = 'mount -t tmpfs -o size=16m none "$1" && shift && exec "$@"'

FULL = """
import os, sqlite3, sys, anyio
from agentsup._errors import DiskFull
from agentsup.checkpoint import Ledger, Retention

folder, bounded = sys.argv[1], sys.argv[2] == "bounded"
path, ballast = f"{folder}/ledger", f"{folder}/ballast"
steps, part = 900, 400

async def work(number):
    return str(number) * 2000

async def never(number):
    raise AssertionError(number)

def fill():
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass

def make_old():
    connection = sqlite3.connect(path)
    connection.execute("UPDATE steps SET ended_at = ended_at - 9000")
    connection.commit()
    connection.close()

async def main():
    done, kept = [], 0
    async with Ledger(path, retention=Retention(max_age=3600) if bounded else None) as ledger:
        try:
            for number in range(steps):
                if number == part:
                    make_old()
                    fill()
                await ledger.run("step", work, number)
                done.append(number)
        except DiskFull as error:
            print("full", error.filename == path)
        if bounded:
            kept = part
        for number in done[kept:]:
            assert await ledger.run("step", never, number) == str(number) * 2000
    os.unlink(ballast)
    async with Ledger(path) as ledger:
        for number in done[kept:]:
            await ledger.run("step", never, number)
        await ledger.run("step", work, done[-1] + 1)
        assert {step.state.value for step in ledger.history()} == {"done"}
    print("all" if len(done) == steps else "some" if len(done) >= part else "few")

anyio.run(main)
"""


@pytest.mark.skipif(not available(*UNSHARE), reason="needs a mount namespace of its own")
@pytest.mark.parametrize(("bounded", "told"), [("bounded", "all\n"), ("not", "full True\nsome\n")])
def test_the_disk_gets_full(tmp_path: Path, bounded: str, told: str) -> None:
    """What is too old to be kept makes room."""
    before = (*UNSHARE, "sh", "-c", MOUNT, "sh", str(tmp_path))
    assert run_host(FULL, tmp_path, bounded, before=before).stdout == told
