"""``agentsup doctor``: what this host can hold, why not more, and what would give more."""

from __future__ import annotations

import json
import os
import platform
import textwrap
from typing import Any

import click

from .._values.result import Containment
from .params import LEVELS

_WIDTH = 18  # of the first column
_CAP_KILL = 5

_EPILOG = """\
Levels, from the weakest to the strongest: process-group, subreaper, cgroup, pid-namespace.

\b
Exit status:
  0    the level that is required (subreaper by default) is to be had
  1    it is not
  125  agentsup itself failed or was misused
"""


@click.command(epilog=_EPILOG)
@click.option(
    "--require",
    "wanted",
    type=click.Choice(list(LEVELS)),
    default="subreaper",
    help="Fail unless this level is to be had (default: subreaper).",
)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def command(wanted: str, as_json: bool) -> int:
    """Say what this host can hold, why not more, and what would give more."""
    findings = examine()
    if as_json:
        click.echo(json.dumps(findings, indent=2))
    else:
        for line in _lines(findings):
            click.echo(line)
    return 0 if findings["levels"][LEVELS[wanted].name]["available"] else 1


def examine() -> dict[str, Any]:
    """All that is to be known, as plain JSON types. Each level is really tried out."""
    from .._levels import AUTO

    return {
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "uid": os.geteuid(),
        "auto": AUTO.name,
        "levels": {level.name: _level(level) for level in Containment},
        "limits_of_a_tree": _tree_limits(),
        "notes": _notes(),
    }


def _level(containment: Containment) -> dict[str, Any]:
    from .._levels import missing

    lacking = missing(containment)
    if lacking is None:
        return {"available": True}
    return {"available": False, "missing": lacking.what, "remedy": lacking.remedy}


def _tree_limits() -> dict[str, Any]:
    """Which controllers a call's control group would have."""
    from .._levels import Missing, cgroup

    home = cgroup.find_home()
    if isinstance(home, Missing):
        return {"controllers": [], "missing": "there is no control group for a call"}
    return {"controllers": sorted(home.controllers), "missing": home.why_not_all}


def _notes() -> dict[str, str]:
    """What is not a level, but decides what can be held."""
    import resource

    from .._linux import records
    from .._linux.namespace import has_capability
    from .._rules.tags import tag_range

    notes: dict[str, str] = {}
    if not has_capability(_CAP_KILL):
        notes["other users"] = (
            "what becomes another user, by a setuid program, only a control group can kill: "
            "no_new_privs=True keeps tools from that"
        )
    if not tag_range(resource.getrlimit(resource.RLIMIT_RTTIME)[1], 0).stride:
        notes["tags"] = (
            "RLIMIT_RTTIME is taken (by somebody's limit, or by three hosts that this one is "
            "nested in): orphans end with the last call that could own them"
        )
    try:
        records.own_directory()
    except OSError as error:
        notes["after a crash"] = (
            f"no record of what runs can be kept ({error}): if host and keeper are killed at one "
            "stroke, the next start does not find what they left"
        )
    return notes


# --- for people -------------------------------------------------------------------------------


def _lines(findings: dict[str, Any]) -> list[str]:
    lines = [f"{findings['system']}, Python {findings['python']}, uid {findings['uid']}", ""]
    for name, found in findings["levels"].items():
        state = "yes" if found["available"] else f"no: {found['missing']}"
        if name == findings["auto"]:
            state += ' (what "auto" takes)'
        lines += _entry(name.lower().replace("_", " "), state)
        if not found["available"]:
            lines += _entry("", f"to get it: {found['remedy']}")
    limits = findings["limits_of_a_tree"]
    lines += _entry("limits of a tree", ", ".join(limits["controllers"]) or "none")
    if limits["missing"]:
        lines += _entry("", limits["missing"])
    for name, text in findings["notes"].items():
        lines += _entry(name, text)
    return lines


def _entry(title: str, text: str) -> list[str]:
    wrapped = textwrap.wrap(text, 100 - _WIDTH, break_long_words=False, break_on_hyphens=False)
    first, *rest = wrapped
    return [f"{title:{_WIDTH}}{first}", *(" " * _WIDTH + line for line in rest)]
