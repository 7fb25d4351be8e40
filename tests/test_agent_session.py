"""A small session by every door at once, as ``benchmarks/agent_session.py`` has it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mcp")
pytest.importorskip("pydantic_ai")

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import agent_session
from agent_host import BEHAVIOURS, calls_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the keeper is Linux's")

CALLS = 56
SEED = 211  # of the quick ones; every behaviour is in it
DOORS = ["shell", "run", "jobs", "subprocess.run", "MCP", "Anthropic bash", "Pydantic AI"]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a loaded machine all takes longer."""
    for name in ("SETTLING", "LEAVING", "SILENCE"):
        monkeypatch.setattr(agent_session, name, 100.0)


def doors(loop: str) -> list[str]:
    return [name for name in DOORS if name in agent_session.doors_of("ours", loop)]


def test_every_behaviour_is_in_it() -> None:
    calls = [call for door in DOORS for call in calls_of(door, CALLS // len(DOORS), SEED, "9")]
    assert {call.behaviour for call in calls} == set(BEHAVIOURS)


@pytest.mark.parametrize("loop", agent_session.LOOPS)
def test_every_call_returns_and_nothing_is_left(loop: str) -> None:
    ended = agent_session.session("ours", loop, doors(loop), CALLS, seed=SEED)
    assert len(ended.lines) == CALLS, ended.errors
    assert ended.by_itself, ended.errors
    assert not ended.left


@pytest.mark.parametrize("loop", agent_session.LOOPS)
def test_nothing_is_left_of_a_host_that_is_killed(loop: str) -> None:
    ended = agent_session.session("ours", loop, doors(loop), CALLS, seed=SEED, kill=True)
    assert len(ended.lines) == CALLS // 2, ended.errors
    assert not ended.left


def test_what_is_left_is_found(until) -> None:
    """And ended: of an executor that leaves some."""
    marker = agent_session.new_marker()
    subprocess.run(["setsid", "-f", "sleep", f"{marker}1"], check=True)
    environment = {"AGENT_SESSION": marker}
    subprocess.run(["setsid", "-f", "sleep", "1000"], env=environment, check=True)
    until(lambda: sorted(agent_session.find(marker).values()) == ["?", "run"])
    agent_session.kill_all(marker)
    assert not agent_session.find(marker)
