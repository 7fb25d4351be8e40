"""The contract that ships for any supervisor, on ours, with processes and without."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

import agentsup
from agentsup import Containment
from agentsup.testing.contract import SupervisorContract
from agentsup.testing.fake import FakeSupervisor
from agentsup.testing.script import Script

_numbers = itertools.count()


class TestSupervisor(SupervisorContract):
    pass


class TestProcessGroups(SupervisorContract):
    """The level that has no keeper."""

    adopts = False

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    def supervisor(self, **options: Any) -> agentsup.Supervisor:
        return agentsup.Supervisor(containment=Containment.PROCESS_GROUP, **options)


class TestFakeSupervisor(SupervisorContract):
    def supervisor(self, **options: Any) -> FakeSupervisor:
        return FakeSupervisor(**options)

    def command(self, supervisor: FakeSupervisor, script: Script) -> list[str]:
        command = ["program", str(next(_numbers))]
        supervisor.on(command, script)
        return command
