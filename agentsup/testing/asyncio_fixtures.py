"""The supervisor of tests that pytest-asyncio runs, in any of its loops.

Registered where that plugin takes part: its fixtures are made with its own decorator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from typing import Any, Literal, TypeAlias

    from .. import Supervisor

    Scope: TypeAlias = Literal["function", "class", "module", "package", "session"]


def _in_loop_of(scope: Scope) -> Any:
    @pytest_asyncio.fixture(loop_scope=scope, name=f"_agentsup_supervisor_{scope}")
    async def supervisor(request: pytest.FixtureRequest) -> AsyncGenerator[Supervisor]:
        from .hosting import hosted

        async with hosted(request.node) as supervisor:
            yield supervisor

    return supervisor


of_function = _in_loop_of("function")
of_class = _in_loop_of("class")
of_module = _in_loop_of("module")
of_package = _in_loop_of("package")
of_session = _in_loop_of("session")
