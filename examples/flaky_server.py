"""A server that falls ill after some seconds, and a supervisor that sees it and restarts it.

    python examples/flaky_server.py [--hang] [--after SECONDS] [--for SECONDS]

Its /health turns 503, or with --hang it does not answer at all. Two failed checks, and it is
restarted. Ctrl-C or SIGTERM to this program ends it.
"""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import anyio

from agentsup import EventStream, HealthCheck, HttpProbe, Service, Supervisor


async def supervise(options: argparse.Namespace) -> None:
    port = free_port()
    health = HttpProbe(f"http://127.0.0.1:{port}/health")
    flaky = Service(
        "flaky",
        [sys.executable, __file__, *sys.argv[1:], "--serve", str(port)],
        ready=health,
        health=HealthCheck(health, interval=0.5, timeout=0.5, failures=2),
    )
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks, Supervisor() as supervisor:
            tasks.start_soon(log, supervisor.events())
            await supervisor.start(flaky)
            with anyio.move_on_after(options.seconds):
                async for number in signals:
                    logging.info("%s: stopping", number.name)
                    break


async def log(events: EventStream) -> None:
    """Until the supervisor has been left. What the checks come to is logged without our doing."""
    async for event in events:
        state, pid = event.state.value, event.pid or "-"
        logging.info("%s: %s, pid %s: %s", event.service, state, pid, event.reason)


def serve(options: argparse.Namespace) -> None:
    """The server itself: one request at a time, and well only for so long."""
    asked_first = 0.0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal asked_first
            asked_first = asked_first or time.monotonic()
            well = time.monotonic() < asked_first + options.after
            if options.hang and not well:
                time.sleep(3600)
            self.send_response(200 if well else 503)
            self.end_headers()

    HTTPServer(("127.0.0.1", options.serve), Handler).serve_forever()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hang", action="store_true", help="fall silent, instead of ill")
    parser.add_argument("--after", type=float, default=3.0, help="seconds until then")
    parser.add_argument("--for", dest="seconds", type=float, help="end by itself after so long")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options)
    else:
        logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
        anyio.run(supervise, options)
