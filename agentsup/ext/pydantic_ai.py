"""The tools for Pydantic AI: ``agent.run(…, toolsets=[toolset(toolbox)])``.

It runs tools as asyncio tasks, so trio is out of its reach.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._extra import extra

with extra("pydantic-ai"):
    from pydantic_ai.toolsets import FunctionToolset

if TYPE_CHECKING:
    from .toolbox import Toolbox


def toolset(toolbox: Toolbox, *, id: str | None = None) -> FunctionToolset[object]:
    """The tools of ``toolbox``, for as long as its block lasts: one agent run, or many.

    Cancelling the run ends what its tools have started. Arguments that do not fit are told to the
    model; what goes wrong with the supervisor comes out of the run.

    :param id: names it among the toolsets of an agent.
    """
    return FunctionToolset(toolbox.tools, docstring_format="sphinx", id=id)
