"""How a tool result says that its call ended, reduced to what two runs of it have in common."""

from __future__ import annotations

import re

from agentsup import Outcome

_STOPPED = "|".join(re.escape(outcome.value) for outcome in Outcome)
_ENDING = re.compile(
    rf"""\[(?P<how> exited\ with\ status\ \d+
                  | killed\ by\ \w+
                  | not\ started | keeper\ lost
                  | (?:{_STOPPED})(?=\ after)
         )
         (?:\ after\ [\d.]+\ s)?
         (?P<then>,[^;]*)?
         (?:[;:].*)?\]""",
    re.VERBOSE,
)


def ending(text: str) -> str | None:
    """The last line of ``Result.for_model()`` without its time and what was left over.

    None if ``text`` ends otherwise: it was recorded with something else than agentsup.
    """
    found = _ENDING.fullmatch(text.rstrip().rpartition("\n")[2])
    return found["how"] + (found["then"] or "") if found else None
