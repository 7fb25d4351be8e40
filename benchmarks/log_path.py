"""Is anything of what services print at full speed lost, and what does a line cost?

    python benchmarks/log_path.py [--seconds 10] [--services 20] [--line 100] [--block 65536]

Each service writes lines, ``--block`` bytes with a number at a time, until it is asked to stop;
then it leaves the checksum of all that it has written, to be compared with that of the segments.
The supervisor and its logs have this process for themselves: its CPU time and its memory are
theirs.  ``--rate`` MiB a second, all together, is what the writers hold back to.
"""

from __future__ import annotations

import argparse
import gzip
import resource
import sys
import tempfile
import time
import zlib
from pathlib import Path

import anyio

from agentsup import Escalation, Service, Step, Supervisor
from agentsup.config.values import LogsConfig
from agentsup.daemon.logs.record import parse
from agentsup.daemon.logs.store import LogStore

WRITER = """
import os, signal, sys, time, zlib
size, block, rate, report = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
stopping = []
signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
filler = (b'the quick "brown" fox ' * size)[: size - 14]
lines = max(1, block // size)
others = (b"the others are alike " * size)[: size - 1] + b"\\n"
others *= lines - 1
number = total = crc = 0
began = time.monotonic()
while not stopping:
    data = b"%012d %b\\n" % (number, filler) + others
    number += lines
    view = memoryview(data)
    while view:
        view = view[os.write(1, view):]
    crc = zlib.crc32(data, crc)
    total += len(data)
    if rate and (ahead := began + total / rate - time.monotonic()) > 0:
        time.sleep(ahead)
with open(report, "w") as file:
    file.write(f"{crc} {total} {number}")
"""


def checksum(directory: Path) -> tuple[int, int]:
    crc = total = 0
    for path in sorted(directory.iterdir()):
        with (gzip.open if path.suffix == ".gz" else open)(path) as file:
            for line in file:
                record = parse(line)
                assert record, line
                data = record.content + b"\n"
                crc = zlib.crc32(data, crc)
                total += len(data)
    return crc, total


async def measure(options: argparse.Namespace, place: Path) -> None:
    program = place / "writer.py"
    program.write_text(WRITER)
    names = [f"s{number}" for number in range(options.services)]
    config = LogsConfig(max_size=None, total_size=None, compress=options.compress)
    stop = Escalation(Step("TERM", 60.0))
    rate = options.rate * 1024**2 / options.services
    async with LogStore(config, place / "logs") as logs, Supervisor() as supervisor:
        supervisor._make_log = logs.sink_for
        services = [
            Service(
                name,
                [
                    *(sys.executable, str(program), str(options.line), str(options.block)),
                    *(str(rate), str(place / name)),
                ],
                escalation=stop,
            )
            for name in names
        ]
        await supervisor.start(*services)
        cpu, began = time.process_time(), time.monotonic()
        await anyio.sleep(options.seconds / 5)
        early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await anyio.sleep(options.seconds * 4 / 5)
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    late = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = lines = 0
    lost: list[str] = []
    for name in names:
        crc, total, count = map(int, (place / name).read_text().split())
        size, lines = size + total, lines + count
        if options.check and checksum(place / "logs" / name) != (crc, total):
            lost.append(name)
    print(f"{size / seconds / 1024**2:.0f} MiB/s, {lines / seconds / 1e6:.3f} million lines/s")
    print(f"{cpu / lines * 1e6:.3f} µs of CPU a line; busy {100 * cpu / seconds:.0f} %")
    print(f"memory at most {early / 1024:.1f} MiB after a fifth, {late / 1024:.1f} MiB in the end")
    verdict = f"LOST of {lost}" if lost else "nothing lost" if options.check else "not compared"
    print(f"{len(names)} services, {lines} lines: {verdict}")
    sys.exit(bool(lost))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--services", type=int, default=20)
    parser.add_argument("--line", type=int, default=100, help="bytes")
    parser.add_argument("--block", type=int, default=65536, help="bytes of a write")
    parser.add_argument(
        "--rate", type=float, default=0.0, help="MiB/s of all together; 0: no bound"
    )
    parser.add_argument("--compress", action="store_true")
    parser.add_argument("--no-check", dest="check", action="store_false")
    parser.add_argument("--directory", default=None, help="on the disk to be written to")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as place:
        anyio.run(measure, options, Path(place))


if __name__ == "__main__":
    main()
