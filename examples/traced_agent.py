"""An agent whose tools are traced, and one tool that traces itself: all of it in one tree.

python examples/traced_agent.py

Needs the SDK of OpenTelemetry: pip install 'agentsup[otel]'.

The agent exports its spans to the screen. Each tool call has one, made by agentsup. The tool is
this same file: it finds the context of its call in TRACEPARENT, which agentsup has put into its
environment, and sends its own spans to the agent as JSON lines on stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import anyio

import agentsup

try:
    from opentelemetry import propagate, trace
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
except ImportError as error:
    sys.exit(f"this example traces, and {error}: pip install 'agentsup[otel]'")


# --- the agent --------------------------------------------------------------------------------


class Tree(SpanExporter):
    """Keeps spans as JSON, of this process and of others, and prints what hangs below what."""

    def __init__(self) -> None:
        self._below: defaultdict[str | None, list[dict[str, Any]]] = defaultdict(list)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            self.add(span.to_json())
        return SpanExportResult.SUCCESS

    def add(self, line: str) -> None:
        span = json.loads(line)
        self._below[span["parent_id"]].append(span)

    def show(self, parent: str | None = None, indent: str = "") -> None:
        for span in sorted(self._below[parent], key=lambda span: span["start_time"]):
            description = span["status"].get("description")
            print(f"{indent}{span['name']}{f': {description}' if description else ''}")
            for event in span["events"]:
                values = ", ".join(map(str, event["attributes"].values()))
                print(f"{indent}    · {event['name']}: {values}")
            self.show(span["context"]["span_id"], indent + "    ")


async def main(tree: Tree) -> None:
    tool = [sys.executable, __file__, "--tool"]

    def on_line(stream: str, line: str) -> None:
        if stream == "stderr" and line.startswith("{"):
            tree.add(line)

    reports = agentsup.OutputPolicy(on_line=on_line)
    async with agentsup.Supervisor() as supervisor:
        with trace.get_tracer("agent").start_as_current_span("agent"):
            with agentsup.tool_call("search", id="call_1"):
                await supervisor.run([*tool, "structured concurrency"], output=reports)
            with agentsup.tool_call("build", id="call_2"):
                await supervisor.run(["sh", "-c", "exit 3"])
            with agentsup.tool_call("watch", id="call_3"):
                await supervisor.run(["sleep", "1000"], timeout=0.2)


# --- the tool ---------------------------------------------------------------------------------


class Lines(SpanExporter):
    """One JSON object a line, on stderr."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            print(span.to_json(indent=None), file=sys.stderr, flush=True)
        return SpanExportResult.SUCCESS


def search(what: str) -> None:
    carrier = {name.lower(): value for name, value in os.environ.items()}
    tracer = trace.get_tracer("tool")
    with tracer.start_as_current_span("search the index", context=propagate.extract(carrier)):
        with tracer.start_as_current_span("rank what was found"):
            time.sleep(0.01)
        print(f"3 pages about {what}")


# --- both -------------------------------------------------------------------------------------


def trace_to(exporter: SpanExporter) -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--tool"]:
        trace_to(Lines())
        search(sys.argv[2])
    else:
        tree = Tree()
        trace_to(tree)
        anyio.run(main, tree)
        tree.show()
