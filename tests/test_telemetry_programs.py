"""Whole programs: with OpenTelemetry, without it, and with it too late."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "traced_agent.py"

CALLS = """
import anyio, sys
import agentsup


async def main():
    async with agentsup.Supervisor() as supervisor:
        print((await supervisor.run(["sh", "-c", "echo $TRACEPARENT"])).stdout.text.strip())
        await supervisor.start(agentsup.Service("web", ["sleep", "100"]))


anyio.run(main, backend=sys.argv[1])
agentsup.run_sync(["true"])
"""

NOTHING_IS_IMPORTED = (
    CALLS
    + """
print([name for name in sys.modules if "opentelemetry" in name or "_telemetry.spans" in name])
"""
)

THE_SDK_COMES_LATE = (
    "import opentelemetry.trace\n"
    + CALLS
    + """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

provider = TracerProvider()
exporter = ConsoleSpanExporter(formatter=lambda span: span.name + "; ")
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
print(len(agentsup.run_sync(["sh", "-c", "echo $TRACEPARENT"]).stdout.text.strip()))
"""
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_nothing_is_imported_where_nobody_traces(backend: str) -> None:
    program = run("-c", NOTHING_IS_IMPORTED, backend)
    assert (program.stdout, program.stderr) == ("\n[]\n", "")


def test_the_sdk_comes_late() -> None:
    program = run("-c", THE_SDK_COMES_LATE, "asyncio")
    assert (program.stdout, program.stderr) == ("\nexecute_tool sh; 55\n", "")


def test_the_example() -> None:
    """The tool's own spans are below the call that it is run by."""
    program = run(str(EXAMPLE))
    assert (program.returncode, program.stderr) == (0, "")
    assert program.stdout.startswith(
        "agent\n"
        "    execute_tool search\n"
        "        search the index\n"
        "            rank what was found\n"
        "    execute_tool build: exited with status 3\n"
        "    execute_tool watch: timed out after "
    )
    assert program.stdout.endswith(
        "        · agentsup.limit_reached: timed_out\n        · agentsup.escalation: SIGTERM\n"
    )


def test_the_example_needs_the_sdk() -> None:
    hidden = f"""
import runpy, sys
sys.modules["opentelemetry.sdk"] = None
runpy.run_path({str(EXAMPLE)!r}, run_name="__main__")
"""
    program = run("-c", hidden)
    assert program.returncode == 1
    assert program.stdout == ""
    assert len(program.stderr.splitlines()) == 1
    assert "pip install 'agentsup[otel]'" in program.stderr
