"""Hosts within hosts: every tool that uses agentsup itself has a keeper and numbers of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

Node = dict[str, Any]  # of a tree of hosts, whose leaves are SLEEPERS

# Two daemons that ignore SIGTERM, and a main process that goes on until it is let go.
SLEEPERS = """
trap '' TERM
setsid sleep $2 &
(env -i setsid sleep $2 &)
until [ -e $1/go ]; do sleep 0.02; done
"""

HOST = """
import json, os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import anyio
import agentsup

place, node = sys.argv[1], json.loads(sys.argv[2])
Path(place, node["name"] + ".pid").write_text(str(os.getpid()))

def command(node):
    if node["how"] == "sleepers":
        return ["sh", f"{place}/sleepers.sh", place, node["name"]]
    return [sys.executable, f"{place}/host.py", place, json.dumps(node)]

def told(outcome, result):
    leftovers = [[left.argv, left.found.name, left.killed] for left in result.leftovers]
    inside = json.loads(result.stdout.text or "null")
    return {"outcome": outcome, "ok": result.ok, "leftovers": leftovers, "inside": inside}

def run_sync(node, sup):
    try:
        result = sup.run(command(node), **node["options"])
        return told(result.outcome.name, result)
    except agentsup.KeeperLost as error:
        return told("KeeperLost", error.partial)

async def cancel_when_told(node, scope):
    while not Path(place, "cancel " + node["name"]).exists():
        await anyio.sleep(0.01)
    scope.cancel()

async def run(node, sup, results):
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancel_when_told, node, tasks.cancel_scope)
        try:
            result = await sup.run(command(node), **node["options"])
            results[node["name"]] = told(result.outcome.name, result)
        except agentsup.KeeperLost as error:
            results[node["name"]] = told("KeeperLost", error.partial)
        except anyio.get_cancelled_exc_class() as error:
            results[node["name"]] = told("cancelled", agentsup.last_partial(error))
            raise
        tasks.cancel_scope.cancel()

async def main(results):
    async with agentsup.Supervisor() as sup:
        async with anyio.create_task_group() as tasks:
            for inner in node["inside"]:
                tasks.start_soon(run, inner, sup, results)
        results["more"] = (await sup.run(["true"])).ok

results = {}
if node["how"] == "sync":
    with agentsup.SyncSupervisor() as sup, ThreadPoolExecutor() as pool:
        for inner, result in zip(
            node["inside"], pool.map(run_sync, node["inside"], [sup] * len(node["inside"]))
        ):
            results[inner["name"]] = result
        results["more"] = sup.run(["true"]).ok
else:
    anyio.run(main, results, backend=node["how"])
print(json.dumps(results))
"""


class Tree:
    """A host and all below it, as seen from outside."""

    def __init__(self, place: Path, marker: str) -> None:
        self.place = place
        self.marker = marker
        self.names: list[str] = []  # of all sleepers
        (place / "host.py").write_text(HOST)
        (place / "sleepers.sh").write_text(SLEEPERS)

    def sleepers(self) -> Node:
        """The seconds that they sleep for tell them from all others."""
        self.names.append(f"{self.marker}{len(self.names):02}")
        return {"how": "sleepers", "name": self.names[-1], "options": {}}

    @contextlib.contextmanager
    def started(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        env = {**os.environ, "PYTHONPATH": path, "MARKER": self.marker}
        pipe = subprocess.PIPE
        with subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def host(self, node: Node) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
        return self.started(
            sys.executable, f"{self.place}/host.py", str(self.place), json.dumps(node)
        )

    def let_go(self) -> None:
        (self.place / "go").touch()

    def cancel(self, node: Node) -> None:
        (self.place / f"cancel {node['name']}").touch()

    def keeper_of(self, node: Node) -> int:
        pid = int((self.place / f"{node['name']}.pid").read_text())
        (keeper,) = psutil.Process(pid).children()
        return keeper.pid

    def asleep(self, *names: str) -> bool:
        """Whether the daemons of all of these are there."""
        commands = [read(pid, "cmdline").split(b"\0") for pid in processes()]
        found = Counter(words[1].decode() for words in commands if words[0] == b"sleep")
        return all(found[name] == 2 for name in names or self.names)

    def survivors(self, *words: str) -> list[list[str]]:
        """The arguments of whatever carries one of these words, or else the marker."""
        return [
            read(pid, "cmdline").decode(errors="replace").split("\0") for pid in self.pids(*words)
        ]

    def pids(self, *words: str) -> Iterator[int]:
        """By the arguments or, as with keepers, the environment."""
        wanted = [word.encode() for word in words or (self.marker,)]
        for pid in processes():
            found = read(pid, "cmdline") + read(pid, "environ")
            if any(word in found for word in wanted):
                yield pid


def processes() -> Iterator[int]:
    return map(int, filter(str.isdigit, os.listdir("/proc")))


def read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""  # gone, or another user's


@pytest.fixture
def tree(tmp_path: Path, marker: str, until: Callable[..., None]) -> Iterator[Tree]:
    tree = Tree(tmp_path, marker)
    yield tree
    try:
        until(lambda: not tree.survivors())
    except AssertionError:
        survivors = tree.survivors()
        while pids := list(tree.pids()):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        pytest.fail(f"left behind: {survivors}")


def host(how: str, name: str, *inside: Node, **options: Any) -> Node:
    return {"how": how, "name": name, "inside": inside, "options": options}


def three_deep(tree: Tree, outer: str, middle: str, inner: str) -> tuple[Node, Node, Node]:
    """Several calls in flight at every level; the first host of each is returned."""
    first = host(inner, "inner", tree.sleepers(), tree.sleepers())
    branch = host(middle, "middle", first, tree.sleepers())
    other = host(middle, "other middle", host(inner, "other inner", tree.sleepers()))
    return host(outer, "outer", branch, other, tree.sleepers()), branch, first


def check(node: Node, results: dict[str, Any], ended: Node | None = None) -> None:
    """Each call has ended well, and its leftovers are its own, at every level."""
    assert results["more"]
    for inner in node["inside"]:
        result = results[inner["name"]]
        if inner is ended:
            continue
        assert result["outcome"] == "EXITED"
        assert result["ok"]
        if inner["how"] == "sleepers":
            assert result["leftovers"] == [[["sleep", inner["name"]], "ORPHAN", True]] * 2
        else:
            assert result["leftovers"] == []
            check(inner, result["inside"], ended)


def names_in(node: Node) -> list[str]:
    if node["how"] == "sleepers":
        return [node["name"]]
    return [name for inner in node["inside"] for name in names_in(inner)]


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    results: dict[str, Any] = json.loads(out)
    return results


mixed = pytest.mark.parametrize(
    "hows",
    [("asyncio", "trio", "sync"), ("trio", "sync", "asyncio"), ("sync", "asyncio", "trio")],
    ids="-".join,
)

Until = Callable[..., None]


@mixed
def test_each_level_knows_its_own(hows: tuple[str, str, str], tree: Tree, until: Until) -> None:
    outer, _, _ = three_deep(tree, *hows)
    with tree.host(outer) as process:
        until(tree.asleep, 120)
        tree.let_go()
        check(outer, finish(process))
    assert not tree.survivors()


@mixed
def test_nothing_outlives_the_outermost(
    hows: tuple[str, str, str], tree: Tree, until: Until
) -> None:
    outer, _, _ = three_deep(tree, *hows)
    with tree.host(outer) as process:
        until(tree.asleep, 120)
        process.kill()
        process.wait()
        until(lambda: not tree.survivors())


@mixed
def test_a_middle_host_is_killed(hows: tuple[str, str, str], tree: Tree, until: Until) -> None:
    """Its own keeper ends what it had, and nobody else is touched."""
    outer, middle, _ = three_deep(tree, *hows)
    with tree.host(outer) as process:
        until(tree.asleep, 120)
        os.kill(int((tree.place / "middle.pid").read_text()), signal.SIGKILL)
        goes_on_without(middle, tree, until)
        results = finish(process)
    assert results["middle"]["outcome"] == "SIGNALED"
    check_ended(middle, results["middle"])
    check(outer, results, ended=middle)


@pytest.mark.parametrize("hows", [("sync", "asyncio", "trio"), ("sync", "trio", "asyncio")])
def test_a_middle_call_is_cancelled(hows: tuple[str, str, str], tree: Tree, until: Until) -> None:
    outer, _, inner = three_deep(tree, *hows)
    inner["options"] = {"grace": 0}
    with tree.host(outer) as process:
        until(tree.asleep, 120)
        tree.cancel(inner)
        goes_on_without(inner, tree, until)
        results = finish(process)
    ended = results["middle"]["inside"]["inner"]
    assert ended["outcome"] == "cancelled"
    check_ended(inner, ended)
    check(outer, results, ended=inner)


def test_a_middle_call_is_timed_out(tree: Tree, until: Until) -> None:
    for timeout in (6, 60):  # for all to be there before
        tree.names.clear()
        outer, _, inner = three_deep(tree, "trio", "sync", "asyncio")
        inner["options"] = {"grace": 0, "timeout": timeout}
        with tree.host(outer) as process:
            with contextlib.suppress(AssertionError):
                until(tree.asleep, timeout)
            if tree.asleep():
                goes_on_without(inner, tree, until)
                results = finish(process)
                break
        until(lambda: not tree.survivors())
    ended = results["middle"]["inside"]["inner"]
    assert ended["outcome"] == "TIMED_OUT"
    check_ended(inner, ended)
    check(outer, results, ended=inner)


@mixed
@pytest.mark.parametrize("victim", ["outer", "middle", "inner"])
def test_a_keeper_is_killed(
    victim: str, hows: tuple[str, str, str], tree: Tree, until: Until
) -> None:
    """Its host sweeps what it had and goes on, and nobody else is touched."""
    outer, middle, inner = three_deep(tree, *hows)
    node = {"outer": outer, "middle": middle, "inner": inner}[victim]
    with tree.host(outer) as process:
        until(tree.asleep, 120)
        os.kill(tree.keeper_of(node), signal.SIGKILL)
        goes_on_without(node, tree, until)
        results = finish(process)
    if node is not outer:
        check(outer, results, ended=node)
    for name in {"outer": (), "middle": ["middle"], "inner": ["middle", "inner"]}[victim]:
        results = results[name]["inside"]
    assert results.pop("more")
    assert {result["outcome"] for result in results.values()} == {"KeeperLost"}


def goes_on_without(node: Node, tree: Tree, until: Until) -> None:
    ended = names_in(node)
    until(lambda: not tree.survivors(*(f"sleep\0{name}" for name in ended)))
    others = [name for name in tree.names if name not in ended]
    assert not others or tree.asleep(*others)
    tree.let_go()


def check_ended(node: Node, result: dict[str, Any]) -> None:
    """What had to be killed was all of this call, whoever was quicker: its keeper or ours."""
    assert all(killed for _, _, killed in result["leftovers"])
    sleeping = {argv[1] for argv, _, _ in result["leftovers"] if argv[0] == "sleep"}
    assert sleeping - {"0.02"} <= set(names_in(node))


def chain(tree: Tree, hows: list[str]) -> Node:
    """A host at every level, and sleepers beside it."""
    node = host(hows[-1], f"level {len(hows)}", tree.sleepers(), tree.sleepers())
    for level in range(len(hows) - 1, 0, -1):
        node = host(hows[level - 1], f"level {level}", node, tree.sleepers())
    return node


HOWS = ["asyncio", "trio", "sync", "trio", "asyncio"]


@pytest.mark.parametrize("end", ["orderly", "killed"])
def test_deeper_than_there_are_numbers(end: str, tree: Tree, until: Until) -> None:
    outer = chain(tree, HOWS)
    with tree.host(outer) as process:
        until(tree.asleep, 120)
        if end == "killed":
            process.kill()
            process.wait()
            until(lambda: not tree.survivors())
            return
        tree.let_go()
        results = finish(process)
    assert not tree.survivors()
    found: Counter[str] = Counter()
    node = outer
    for level in range(1, len(HOWS) + 1):
        assert results["more"]
        for inner in node["inside"]:
            result = results[inner["name"]]
            assert result["ok"]
            own = [argv[1] for argv, _, _ in result["leftovers"]]
            # From the fourth host on an orphan ends with the last call that could own it.
            assert level > 3 or own == [inner["name"]] * 2 * (inner["how"] == "sleepers")
            found.update(own)
        node, results = node["inside"][0], results[node["inside"][0]["name"]]["inside"]
    assert found == dict.fromkeys(tree.names, 2)


def on_command_line(tree: Tree, *options: list[str]) -> list[str]:
    """``agentsup run`` for each list of options, one inside the other."""
    sleepers = tree.sleepers()["name"]
    command = ["sh", f"{tree.place}/sleepers.sh", str(tree.place), sleepers]
    for words in reversed(options):
        command = [sys.executable, "-m", "agentsup", "run", *words, "--", *command]
    return command


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_command_line_is_killed(number: int, tree: Tree, until: Until) -> None:
    grace = ["--grace", "0.1s"]
    with tree.started(*on_command_line(tree, grace, [], [])) as process:
        until(tree.asleep, 120)
        process.send_signal(number)
        process.wait(timeout=120)
        until(lambda: not tree.survivors())


def test_command_line_is_timed_out_in_the_middle(tree: Tree) -> None:
    middle = ["--timeout", "1.5s", "--grace", "0.1s"]
    with tree.started(*on_command_line(tree, [], middle, [])) as process:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 124, err
        assert err.count("timed out") == 1
    assert not tree.survivors()


def test_command_line_says_what_was_left_where_it_was_left(tree: Tree, until: Until) -> None:
    with tree.started(*on_command_line(tree, [], [], [])) as process:
        until(tree.asleep, 120)
        tree.let_go()
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert err == "agentsup: sh: killed 2 leftover processes\n"
    assert not tree.survivors()
