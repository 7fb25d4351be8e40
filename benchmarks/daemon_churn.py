"""Services that are killed, rewritten and ordered about at random: state and reality agree.

    python benchmarks/daemon_churn.py [--seconds 300] [--services 200] [--clients 50] [--seed N]

In rounds: all of it at once, then a pause in which it settles. Then what ``agentsup up`` says is
compared with what is there; all is started again, and what the daemon holds is measured. At the end
it is told to stop, started again, killed, and started once more; and all that was printed is
looked for in the logs.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx

AGENTSUP = [sys.executable, "-m", "agentsup"]
BOUND = 60.0  # seconds for anything to settle
GROWTH = 8 * 1024  # KiB that the memory may grow after the first round
KEPT = 32 * 4  # descriptors of as many channels as it keeps at most
MARKER = "AGENTSUP_CHURN"
#: Lines that a "burst" prints before it rests.
LINES = 200

BURST = f'n=0; while [ $n -lt {LINES} ]; do echo "line $n"; n=$((n+1)); done; sleep 1000000 & wait'
TICKER = 'n=0; while :; do echo "line $n"; n=$((n+1)); sleep 0.3; done'

#: What there is for every twenty services. Nobody but the killer touches those that are steady.
KINDS = [*["steady"] * 4, "idle", *["burst"] * 4, "ticker", *["sleeper"] * 6]
KINDS += ["crew/burst", "crew/sleeper", "brittle/sleeper", "brittle/sleeper"]
SUPERVISORS = {
    "crew": 'strategy = "one_for_all"\nmax_restarts = 1000\nwithin = "1s"',
    "brittle": 'max_restarts = 2\nwithin = "1s"',
}


# --- the file ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A service of the file; its arguments end with its generation."""

    kind: str
    generation: int = 0
    group: str = "all"

    @property
    def argv(self) -> list[str]:
        number = str(self.generation)
        if self.kind in ("burst", "ticker"):
            return ["sh", "-c", BURST if self.kind == "burst" else TICKER, "sh", number]
        return ["sleep", "1000000", number]


Plan = dict[str, Entry]


def first_plan(services: int) -> Plan:
    plan = {}
    for n in range(services):
        supervisor, _, kind = KINDS[n % len(KINDS)].rpartition("/")
        path = f"{supervisor}-{n // 80}/{kind}-{n}" if supervisor else f"{kind}-{n}"
        # Who is steady has a number of its own, by which the killer knows it.
        plan[path] = Entry(kind, 1000 + n if kind == "steady" else 0)
    return plan


def as_file(plan: Plan, socket: str, token: str) -> str:
    parts = [
        f'[daemon]\nsocket = "{socket}"\nenv = {{{MARKER} = "{token}"}}\n'
        '[logs]\nsegment_size = "64K"\nmax_size = "64M"\n'
    ]
    for supervisor in dict.fromkeys(path.split("/")[0] for path in plan if "/" in path):
        parts.append(f"[supervisor.{supervisor}]\n{SUPERVISORS[supervisor.rsplit('-')[0]]}\n")
    for path, entry in plan.items():
        table = "service." + path
        if "/" in path:
            table = "supervisor.{}.service.{}".format(*path.split("/"))
        parts.append(
            f"[{table}]\ncommand = {json.dumps(entry.argv)}\ngroups = [{json.dumps(entry.group)}]\n"
            f"autostart = {str(entry.kind != 'idle').lower()}\n"
            'backoff = {initial = "0.02s", max = "0.2s", factor = 2}\n'
        )
    return "\n".join(parts)


# --- what is there ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """A process that has the marker."""

    parent: int
    argv: list[str]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_marked(pid: str | int, token: str) -> bool:
    """It has it in its environment; one that has ended has none."""
    environ = Path(f"/proc/{pid}/environ").read_bytes()
    return f"{MARKER}={token}".encode() in environ.split(b"\0")


def marked(token: str) -> dict[int, Found]:
    """All processes that are."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if is_marked(name, token):
                argv = Path(f"/proc/{name}/cmdline").read_bytes().decode().split("\0")[:-1]
                if argv:
                    found[int(name)] = Found(parent_of(int(name)), argv)
    return found


def ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        yield pid
        try:
            pid = parent_of(pid)
        except OSError:
            return


def children(pid: int) -> list[int]:
    """Of all its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


@dataclass(frozen=True)
class Holdings:
    """What the daemon and its keeper hold."""

    files: int
    memory: int  # KiB

    @classmethod
    def of(cls, pid: int, token: str) -> Holdings:
        services = marked(token)
        own = [pid, *(child for child in children(pid) if child not in services)]
        files = sum(len(os.listdir(f"/proc/{one}/fd")) for one in own)
        status = [Path(f"/proc/{one}/status").read_text() for one in own]
        memory = sum(int(text.partition("VmRSS:")[2].split()[0]) for text in status)
        return cls(files, memory)


# --- the daemon -------------------------------------------------------------------------------


@dataclass
class Run:
    """What has been done, and what was found."""

    counts: Counter[str] = field(default_factory=Counter)
    holdings: list[Holdings] = field(default_factory=list)
    #: Of the services that are steady, in the life of this daemon.
    kills: Counter[str] = field(default_factory=Counter)


class Disagreement(AssertionError):
    """State and reality."""


class Churn:
    """One ``agentsup up``, and those who trouble it."""

    def __init__(self, folder: Path, services: int, clients: int, seed: int) -> None:
        self.folder = folder
        self.clients = clients
        self.choice = random.Random(seed)
        self.token = f"{os.getpid()}-{seed}-{os.urandom(4).hex()}"
        self.first = first_plan(services)
        self.plan = dict(self.first)
        self.run = Run()
        self.until = 0.0  # the end of this round
        self.events: dict[str, str] = {}  # the last state of each that the watcher was told
        self.socket = str(folder / "s")
        self.log = folder / "daemon.log"
        self.write()

    # --- its life -------------------------------------------------------------------------

    def write(self) -> None:
        file = self.folder / "agentsup.toml"
        Path(f"{file}.new").write_text(as_file(self.plan, self.socket, self.token))
        os.replace(f"{file}.new", file)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(
                [*AGENTSUP, "up", "-f", str(self.folder / "agentsup.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.run.kills.clear()

    def client(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=self.socket, verify=False)
        return httpx.AsyncClient(transport=transport, base_url="http://daemon", timeout=BOUND)

    async def eventually(self, what: Callable[[], Any], bound: float = BOUND) -> None:
        """Wait until ``what`` has nothing to say against it."""
        deadline = time.monotonic() + bound
        while True:
            wrong = what()
            if not isinstance(wrong, list):
                wrong = await wrong
            if not wrong:
                return
            if self.daemon.poll() is not None and self.daemon.returncode != 0:
                wrong.append(f"the daemon has ended with {self.daemon.returncode}")
            if time.monotonic() > deadline:
                raise Disagreement("\n".join([f"{len(wrong)} after {bound:g} s:", *wrong[:20]]))
            await anyio.sleep(0.05)

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    # --- state and reality ----------------------------------------------------------------

    async def services(self, client: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
        answer = (await client.get("/v1/status")).raise_for_status().json()
        return {one["path"]: one for one in answer["services"]}

    async def disagreements(self, client: httpx.AsyncClient) -> list[str]:
        try:
            before = await self.services(client)
            found = marked(self.token)
            said = await self.services(client)
        except httpx.TransportError as error:
            return [f"there is no answer: {error!r}"]
        if {p: (one["pid"], one["state"]) for p, one in before.items()} != {
            p: (one["pid"], one["state"]) for p, one in said.items()
        }:
            return ["it has not settled"]
        wrong = []
        if set(said) != set(self.plan):
            wrong.append(f"status and the file differ in {sorted(set(said) ^ set(self.plan))}")
        pids = {one["pid"]: path for path, one in said.items() if one["pid"]}
        for path, one in said.items():
            if path in self.plan:
                wrong += self._wrong_with(path, one, found)
        for pid, process in found.items():
            if not any(one in pids for one in ancestors(pid)):
                wrong.append(f"nobody has {pid}: {process}")
        return wrong

    def _wrong_with(
        self, path: str, said: dict[str, Any], found: dict[int, Found]
    ) -> Iterator[str]:
        state, pid = said["state"], said["pid"]
        if state not in ("active", "inactive", "failed"):
            yield f"{path} is {state}: {said['status_text']}"
        if (state == "active") != (pid is not None):
            yield f"{path} is {state} with the pid {pid}"
        if pid is not None:
            if pid not in found:
                return (yield f"{path} is to have {pid}, which is not there")
            if not found[pid].argv == list(said["argv"]) == self.plan[path].argv:
                yield f"{path} is {found[pid].argv}, says {said['argv']}"
            if self.daemon.pid not in ancestors(pid):
                yield f"{path}: {pid} is not below the daemon"
        if self.events.get(path, state) != state:
            yield f"{path} is {state}, the last event was {self.events[path]}"
        if self.plan[path].kind == "steady":
            if state != "active":
                yield f"{path} is {state}, and nobody has asked for that"
            if said["restarts"] != self.run.kills[path]:
                yield f"{path}: {said['restarts']} restarts, {self.run.kills[path]} kills"

    async def all_active(self, client: httpx.AsyncClient) -> list[str]:
        try:
            said = await self.services(client)
        except httpx.TransportError as error:
            return [f"there is no answer: {error!r}"]
        return [
            f"{path} is {one['state']}: {one['status_text']}"
            for path, one in said.items()
            if one["state"] != "active"
        ]

    async def check(self) -> None:
        """It settles; then from the first file again, with all of it running."""
        async with self.client() as client:
            await self.eventually(partial(self.disagreements, client))
            self.plan = dict(self.first)
            self.write()
            await self.update(client)
            left = (await self.ask(client, "POST", "/v1/reread", {})).json()
            if any(left.values()):
                raise Disagreement(f"after an update a reread says {left}")
            await self.start_all(client)
            await self.eventually(partial(self.disagreements, client))
        self.run.counts["checks"] += 1

    async def start_all(self, client: httpx.AsyncClient) -> None:
        body = {"names": ["*"], "timeout": BOUND}
        results = (await self.ask(client, "POST", "/v1/start", body)).json()["results"]
        if bad := [one for one in results if not one["ok"]]:
            raise Disagreement(f"it does not start: {bad}")
        await self.eventually(partial(self.all_active, client))

    async def measure(self) -> Holdings:
        """What it holds when all runs and nobody asks; not more than after the first round, but
        for channels of calls, of which it keeps as many as it has needed at a time."""
        held: list[Holdings] = []

        def growth() -> list[str]:
            now = Holdings.of(self.daemon.pid, self.token)
            held.append(now)
            first = self.run.holdings[0] if self.run.holdings else now
            if now.files > first.files + KEPT or now.memory > first.memory + GROWTH:
                return [f"it held {first}, and now {now}"]
            return []

        await self.eventually(growth)
        self.run.holdings.append(held[-1])
        return held[-1]

    # --- those who trouble it -------------------------------------------------------------

    async def ask(
        self, client: httpx.AsyncClient, method: str, path: str, body: object = None
    ) -> httpx.Response:
        answer = await client.request(method, path, json=body)
        route = "/".join(path.partition("?")[0].split("/")[:3])
        self.run.counts[f"{answer.status_code} {route}"] += 1
        if answer.status_code >= 500 or "internal error" in answer.text:
            raise Disagreement(f"{method} {path} {body}: {answer.status_code} {answer.text}")
        if answer.is_error and not answer.json().get("error"):
            raise Disagreement(f"{method} {path} {body}: {answer.status_code} says no error")
        return answer

    @property
    def over(self) -> bool:
        return time.monotonic() > self.until

    async def round(self, seconds: float) -> None:
        self.until = time.monotonic() + seconds
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.killer)
            tasks.start_soon(self.editor)
            for n in range(self.clients):
                tasks.start_soon(self.one_client, random.Random(self.choice.random()), n)

    async def killer(self) -> None:
        """kill -9 for whatever is there, one after another."""
        while not self.over:
            found = marked(self.token)
            for pid in self.choice.sample(
                sorted(found), min(len(found), self.choice.randint(1, 8))
            ):
                await self.kill(pid)
            await anyio.sleep(self.choice.expovariate(10))

    async def kill(self, pid: int) -> None:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            if not is_marked(pid, self.token):
                return  # it has ended, and its pid may be another's by now
            path = self.steady_service_of(pid)
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            if path:
                self.run.kills[path] += 1
            self.run.counts["kill -9"] += 1
            await anyio.wait_readable(fd)
        except OSError:
            pass  # it has ended by itself
        finally:
            os.close(fd)

    def steady_service_of(self, pid: int) -> str | None:
        """Each has a generation of its own in the file. A zombie has no arguments."""
        last = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[-2:-1]
        for path, entry in self.first.items():
            if entry.kind == "steady" and last == [entry.argv[-1].encode()]:
                return path
        return None

    async def editor(self) -> None:
        """Rewrites the file, and has it read."""
        async with self.client() as client:
            while not self.over:
                self.rewrite()
                self.write()
                way = self.choice.random()
                if way < 0.6:
                    await self.ask(client, "POST", "/v1/reread", {})
                    await self.update(client)
                elif way < 0.8:
                    self.daemon.send_signal(signal.SIGHUP)
                    self.run.counts["SIGHUP"] += 1
                else:
                    await self.broken_file(client)
                await anyio.sleep(self.choice.expovariate(1))
            await self.update(client)

    async def update(self, client: httpx.AsyncClient) -> None:
        answer = await self.ask(client, "POST", "/v1/update", {})
        if answer.is_error:
            raise Disagreement(f"an update: {answer.status_code} {answer.text}")

    async def broken_file(self, client: httpx.AsyncClient) -> None:
        with (self.folder / "agentsup.toml").open("a") as file:
            file.write("\n[service.broken]\ncomand = 1\n")
        answer = await self.ask(client, "POST", "/v1/update", {})
        if answer.status_code != 422 or not answer.json()["errors"]:
            raise Disagreement(f"a broken file: {answer.status_code} {answer.text}")
        self.write()

    def rewrite(self) -> None:
        choice = self.choice
        paths = [path for path, entry in self.first.items() if entry.kind != "steady"]
        for path in choice.sample(paths, max(1, len(paths) // 20)):
            entry = self.plan.get(path)
            if entry is None:
                self.plan[path] = self.first[path]
            elif choice.random() < 0.3:
                del self.plan[path]
            elif choice.random() < 0.3:
                self.plan[path] = replace(entry, group=choice.choice(["all", "some"]))
            else:
                self.plan[path] = replace(entry, generation=choice.randint(1, 9))
        # In the order of the first, so that one can come back.
        self.plan = {path: self.plan[path] for path in self.first if path in self.plan}

    async def one_client(self, choice: random.Random, number: int) -> None:
        async with self.client() as client:
            while not self.over:
                await self.one_request(client, choice)
                await anyio.sleep(choice.expovariate(4))

    async def one_request(self, client: httpx.AsyncClient, choice: random.Random) -> None:
        names = self.some_names(choice)
        ask = partial(self.ask, client)
        body = {"names": names, "wait": choice.random() < 0.7, "timeout": choice.choice([5.0, 0.1])}
        match choice.choices(
            ["status", "operate", "signal", "wait-ready", "tree", "logs", "events", "bad", "gone"],
            [40, 30, 8, 5, 4, 4, 4, 2, 3],
        )[0]:
            case "status":
                query = f"?name={choice.choice(names)}".replace("@", "%40")
                await ask("GET", "/v1/status" + choice.choice(["", query]))
            case "operate":
                does = choice.choice(["start", "start", "stop", "restart", "reload"])
                await ask("POST", f"/v1/{does}", body)
            case "signal":
                which = choice.choice(["HUP", "TERM", "SIGKILL", "CONT", "10"])
                await ask("POST", "/v1/signal", {"names": names, "signal": which})
            case "wait-ready":
                await ask("POST", "/v1/wait-ready", {"names": names, "timeout": 0.5})
            case "tree":
                await ask("GET", "/v1/tree")
            case "logs":
                name = choice.choice([path for path in self.first if "burst" in path])
                await ask("GET", f"/v1/logs/{name}?lines={choice.randint(0, 300)}")
            case "events":
                with anyio.move_on_after(choice.uniform(0, 2)):
                    await self.watch(client)
            case "bad":
                refused = await ask("POST", "/v1/start", {"names": ["no-such"], "extra": 1})
                assert 400 <= refused.status_code < 500, refused
            case _:  # it goes before it has the answer
                with anyio.move_on_after(choice.uniform(0, 0.02)):
                    await ask("POST", "/v1/restart", body)

    def some_names(self, choice: random.Random) -> list[str]:
        """Nothing that is steady; now and then one that is not in the file."""
        if choice.random() < 0.1:
            return [choice.choice(["idle-*", "ticker-*", "brittle-0", "crew-0", "@some"])]
        return choice.sample([p for p, one in self.first.items() if one.kind != "steady"], 2)

    async def watch(
        self, client: httpx.AsyncClient, seen: Callable[[dict[str, Any]], None] = lambda _: None
    ) -> None:
        """What happens, each from the state in which the one before has left it."""
        last: dict[str, str] = {}
        async with client.stream("GET", "/v1/events", timeout=None) as answer:
            async for line in answer.aiter_lines():
                event = json.loads(line)
                self.run.counts["events"] += 1
                if "dropped" in event:
                    last.clear()
                    self.events.clear()
                    self.run.counts["dropped events"] += event["dropped"]
                elif "service" in event:
                    path, state, previous = event["service"], event["state"], event["previous"]
                    # Who is started anew, after its supervisor or by an update, begins there.
                    if previous not in ("inactive", last.get(path, previous)):
                        raise Disagreement(f"{path} was {last[path]}, and then: {event}")
                    last[path] = state
                    seen(event)

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """One who looks at events all the time."""

        def seen(event: dict[str, Any]) -> None:
            self.events[event["service"]] = event["state"]

        async with self.client() as client, anyio.create_task_group() as tasks:
            tasks.start_soon(self.watch, client, seen)
            yield
            tasks.cancel_scope.cancel()
        self.events.clear()


# --- logs -------------------------------------------------------------------------------------


def segment_lines(path: Path) -> list[bytes]:
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).splitlines()


def records(directory: Path) -> Iterator[dict[str, Any]]:
    """Of one service, oldest first; a daemon that was killed leaves half of one at most."""
    for path in sorted(directory.glob("*.jsonl*")):
        if path.suffix == ".gz" and path.with_suffix("").exists():
            continue
        lines = segment_lines(path)
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError:
                    if number < len(lines):
                        raise Disagreement(f"{path}:{number}: {line[:300]!r}") from None


def check_logs(logs: Path) -> Counter[str]:
    """Every run has numbered its lines; none is missing, none is there twice."""
    counts: Counter[str] = Counter()
    for directory in logs.iterdir():
        if directory.name.startswith(("%40", "@")):
            continue  # the daemon's own
        runs: dict[str, list[int]] = defaultdict(list)
        for record in records(directory):
            if record["stream"] == "stdout" and not record.get("partial"):
                word, number = record["message"].split()
                assert word == "line", record
                runs[record["call_id"]].append(int(number))
        for run, numbers in runs.items():
            if numbers != list(range(len(numbers))):
                raise Disagreement(f"{directory}: the run {run} has {numbers}")
            counts["lines"] += len(numbers)
        counts["runs"] += len(runs)
        counts["segments"] += len(list(directory.glob("*.jsonl*")))
    return counts


async def until_printed(churn: Churn, client: httpx.AsyncClient) -> list[str]:
    """The last line of every burst that runs."""
    wrong = []
    for path, entry in churn.plan.items():
        if entry.kind == "burst":
            answer = await churn.ask(client, "GET", f"/v1/logs/{path}?lines=1")
            said = [json.loads(line).get("message") for line in answer.text.splitlines()]
            if f"line {LINES - 1}" not in said:
                wrong.append(f"{path} has {said}")
    return wrong


# --- all of it --------------------------------------------------------------------------------


async def churn_for(churn: Churn, seconds: float, rounds: int, tell: Callable[[str], None]) -> Run:
    churn.start()
    try:
        async with churn.client() as client:
            await churn.eventually(partial(churn.disagreements, client))
            await churn.start_all(client)
        for number in range(rounds):
            async with churn.watched():
                await churn.round(seconds / rounds)
                await churn.check()
            held = await churn.measure()
            counts = churn.run.counts
            requests = sum(n for name, n in counts.items() if "/v1/" in name)
            tell(
                f"round {number + 1}: {counts['kill -9']} kills, {requests} requests, "
                f"{counts['events']} events; {held.files} files, {held.memory / 1024:.1f} MiB"
            )
        await stop(churn)
        tell("stopped: nothing is left")
        await killed_and_back(churn)
        tell("killed: nothing was left, and it came back")
        churn.run.counts += check_logs(churn.folder / ".agentsup" / "logs")
    finally:
        churn.daemon.kill()
        churn.daemon.wait()
        await churn.eventually(lambda: [str(one) for one in marked(churn.token).items()])
    if "Traceback" in churn.log.read_text(errors="replace"):
        raise Disagreement(churn.last_words())
    return churn.run


async def stop(churn: Churn) -> None:
    """With SIGTERM, once every burst has been read to its end."""
    async with churn.client() as client:
        await churn.eventually(partial(until_printed, churn, client))
    churn.daemon.terminate()
    await anyio.to_thread.run_sync(churn.daemon.wait, BOUND)
    if churn.daemon.returncode != 0:
        raise Disagreement(f"SIGTERM: {churn.daemon.returncode}\n{churn.last_words()}")
    if left := marked(churn.token):
        raise Disagreement(f"stopped, and there is still {left}")


async def killed_and_back(churn: Churn) -> None:
    churn.start()
    async with churn.client() as client:
        await churn.eventually(partial(churn.disagreements, client))
    churn.daemon.kill()
    churn.daemon.wait()
    await churn.eventually(lambda: [str(one) for one in marked(churn.token).items()])
    churn.start()
    async with churn.client() as client:
        await churn.eventually(partial(churn.disagreements, client))
        await churn.start_all(client)
    await stop(churn)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--services", type=int, default=200)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    arguments = parser.parse_args()
    print(f"--seed {arguments.seed}", flush=True)
    folder = Path(tempfile.mkdtemp())
    churn = Churn(folder, arguments.services, arguments.clients, arguments.seed)
    tell = partial(print, flush=True)
    try:
        run = anyio.run(churn_for, churn, arguments.seconds, arguments.rounds, tell)
    except (Disagreement, ExceptionGroup) as error:
        print(f"The file and the logs are in {folder}")
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        raise error from None
    shutil.rmtree(folder)
    for what, count in sorted(run.counts.items()):
        print(f"  {what:<34} {count:>8}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
