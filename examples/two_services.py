"""Two services under one supervisor: a web server, whose health is checked, and a ticker.

    python examples/two_services.py [--for SECONDS]

Kill one of them with -9: it runs again within milliseconds, and the other does not notice.
Ctrl-C or SIGTERM to this program ends both.
"""

from __future__ import annotations

import argparse
import signal
import socket
import sys
from datetime import datetime
from functools import partial
from pathlib import Path

import anyio

from agentsup import EventStream, HealthCheck, HttpProbe, Service, ServiceState, Supervisor, shell


async def main(seconds: float | None) -> None:
    port = free_port()
    answers = partial(
        HealthCheck,
        HttpProbe(f"http://127.0.0.1:{port}/", method="HEAD"),
        interval=2.0,
        start_period=10.0,  # in it, failures do not count, and it is asked more often:
        start_interval=0.05,
    )
    web = Service(
        "web",
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
        cwd=Path(__file__).parent,
        health=[
            answers(role="liveness"),  # or it is restarted
            answers(role="readiness"),  # or it is of no use just now
        ],
    )
    ticker = Service("ticker", shell("while :; do date; sleep 1; done"))

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks, Supervisor() as supervisor:
            tasks.start_soon(show, supervisor.events())
            await supervisor.start(web, ticker)
            print(f"http://127.0.0.1:{port}/ is served; Ctrl-C ends it", flush=True)
            with anyio.move_on_after(seconds):
                async for number in signals:
                    print(f"{number.name}: stopping", flush=True)
                    break


async def show(events: EventStream) -> None:
    """Print what happens, until the supervisor has been left."""
    ended_at: dict[str, float] = {}
    async for event in events:
        time = datetime.fromtimestamp(event.time).time().isoformat("milliseconds")
        reason = event.reason
        if event.state is ServiceState.BACKOFF:
            ended_at[event.service] = event.monotonic
        elif event.state is ServiceState.ACTIVE and event.service in ended_at:
            milliseconds = 1000 * (event.monotonic - ended_at.pop(event.service))
            reason += f" again, {milliseconds:.1f} ms later"
        state, pid = event.state.value, event.pid or "-"
        print(f"{time}  {event.service:7} {state:13} pid {pid:<8} {reason}", flush=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--for", dest="seconds", type=float, help="end by itself after so long")
    anyio.run(main, parser.parse_args().seconds)
