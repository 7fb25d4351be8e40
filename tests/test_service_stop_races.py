"""A stop that takes its time, and what others ask for meanwhile; found by ``test_daemon_churn``."""

from __future__ import annotations

import os
import signal

import anyio
import pytest

from agentsup import Escalation, OutputMatches, Service, ServiceState, Step, Supervisor

pytestmark = pytest.mark.anyio

SLOW = """
trap 'while [ ! -e "$0" ]; do sleep 0.02; done; exit' TERM
echo on
while :; do sleep 0.02; done
"""


@pytest.fixture
def slow(tmp_path):
    """Makes services that end when the file is there, however kindly they are asked before."""
    file = tmp_path / "end"

    def make(name, **options):
        patient = Escalation(Step(signal.SIGTERM, 120))
        argv = ["sh", "-c", SLOW, str(file)]
        return Service(name, argv, ready=OutputMatches("on"), escalation=patient, **options)

    make.end = file.touch
    return make


def sleeper(name, **options):
    return Service(name, ["sleep", "1000"], **options)


async def test_started_again_while_what_requires_it_stops(slow, eventually):
    """The stop that is under way does not concern its next life."""
    async with Supervisor(max_restarts=None) as sup:
        one, other = await sup.start(sleeper("one"), slow("other", after=["one"], requires=["one"]))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.stop)
            await eventually(lambda: other.state is ServiceState.DEACTIVATING)
            os.kill(one.pid, signal.SIGKILL)
            await eventually(lambda: one.state is ServiceState.FAILED)
            await one.start()
            slow.end()
        assert other.state is ServiceState.INACTIVE
        assert one.state is ServiceState.ACTIVE


async def test_called_off_while_another_waits_for_it(slow, eventually):
    """With one_for_all a sibling's restart would have started it again, and then the other."""
    async with Supervisor(strategy="one_for_all", max_restarts=None) as sup:
        one, late, killed, last = await sup.start(
            sleeper("one"), slow("late"), sleeper("killed"), sleeper("last")
        )
        await one.stop()
        os.kill(killed.pid, signal.SIGKILL)
        await eventually(lambda: late.state is ServiceState.DEACTIVATING)
        await last.stop()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(last.start)
            tasks.cancel_scope.deadline = anyio.current_time() + 60
            await eventually(lambda: last.state is ServiceState.ACTIVATING)
            await one.stop()
            slow.end()
        assert one.state is ServiceState.INACTIVE
        assert last.state is ServiceState.ACTIVE
