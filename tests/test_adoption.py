"""What outlives its call on purpose."""

from __future__ import annotations

import anyio
import pytest

import agentsup

pytestmark = pytest.mark.anyio


def server(marker, before=""):
    return agentsup.shell(f"{before} (setsid sleep {marker} &) ; echo started")


async def nothing():
    await anyio.sleep(0)
    yield b""


@pytest.mark.parametrize("how", ["run", "fed", "open"])
async def test_adopted(how, marker):
    async with agentsup.Supervisor() as sup:
        if how == "open":
            async with sup.open(server(marker), leftovers="adopt") as process:
                result = await process.wait()
        else:
            stdin = nothing() if how == "fed" else None
            result = await sup.run(server(marker), leftovers="adopt", stdin=stdin)
        assert result.ok
        assert result.stdout.text == "started\n"
        (node,) = sup.tree()
        assert node.kind == "adopted"
        assert len(marker.pids()) == 1
        await anyio.sleep(0.1)
        assert len(marker.pids()) == 1
    assert not marker.pids()
    assert sup.tree() == ()


async def test_nothing_left_to_adopt():
    async with agentsup.Supervisor() as sup:
        assert (await sup.run(["true"], leftovers="adopt")).ok
        assert sup.tree() == ()


async def test_stopped_by_hand(marker, eventually):
    async with agentsup.Supervisor() as sup:
        await sup.run(server(marker), leftovers="adopt")
        sup.tree()[0].stop()
        await eventually(lambda: not sup.tree())
        assert not marker.pids()
        assert (await sup.run(["true"])).ok


LET_GO = "until [ -e go ]; do sleep 0.02; done"


async def test_ends_by_itself(tmp_path, eventually):
    async with agentsup.Supervisor() as sup:
        await sup.run(["sh", "-c", f"({LET_GO}) & exit 3"], leftovers="adopt", cwd=tmp_path)
        assert len(sup.tree()) == 1
        (tmp_path / "go").touch()
        await eventually(lambda: not sup.tree())


async def test_output_goes_on_being_read(tmp_path, eventually):
    """It prints more than a pipe holds, and is not blocked by that."""
    script = f"({LET_GO}; seq 200000; touch done) & echo started"
    async with agentsup.Supervisor() as sup:
        result = await sup.run(["sh", "-c", script], leftovers="adopt", cwd=tmp_path)
        assert result.stdout.text == "started\n"
        (tmp_path / "go").touch()
        await eventually((tmp_path / "done").exists)


async def test_block_ends_by_exception_or_cancellation(marker):
    with pytest.raises(KeyError):
        async with agentsup.Supervisor() as sup:
            await sup.run(server(marker, "trap '' TERM;"), leftovers="adopt", grace=0.1)
            raise KeyError
    assert not marker.pids()
    with anyio.CancelScope() as scope:
        async with agentsup.Supervisor() as sup:
            await sup.run(server(marker, "trap '' TERM;"), leftovers="adopt", grace=0.1)
            scope.cancel()
            await anyio.sleep_forever()
    assert not marker.pids()


async def test_frees_its_turn(marker):
    async with agentsup.Supervisor(max_concurrency=1) as sup:
        await sup.run(server(marker), leftovers="adopt")
        with anyio.fail_after(60):
            assert (await sup.run(["true"])).ok


async def test_needs_a_supervisor():
    with pytest.raises(ValueError, match="Supervisor"):
        await agentsup.run(["true"], leftovers="adopt")
    with pytest.raises(ValueError, match="Supervisor"):
        agentsup.run_sync(["true"], leftovers="adopt")
