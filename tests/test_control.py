"""The control API over a tree of real processes, by its Unix socket."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from attrs import define, field

from agentsup.config import load
from agentsup.daemon.control import LARGEST, ROUTES, make_app
from agentsup.daemon.logs.store import LogStore
from agentsup.daemon.server import serve
from agentsup.daemon.tree import Tree

# uvicorn is asyncio's alone; uvloop has its turn in test_control_server.py.
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

FILE = """
[daemon]
state_dir = "state"
[service.web]
command = ["sleep", "1000"]
groups = ["front"]
[service.late]
command = ["sleep", "1000"]
autostart = false
[service.slow]
command = ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"]
ready = {output = "up"}
grace = "1min"
[service.never]
command = ["sleep", "1000"]
ready = {output = "nothing"}
start_timeout = "1min"
[supervisor.workers.service.a]
command = ["sleep", "1000"]
"""


@define
class Daemon:
    """What a test has of it."""

    file: Path
    tree: Tree
    client: httpx.AsyncClient
    wants_to_end: anyio.Event = field(factory=anyio.Event)

    async def post(self, path: str, body: object = None, status: int = 200) -> Any:
        answer = await self.client.post(f"/v1/{path}", json={} if body is None else body)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def get(self, path: str, status: int = 200) -> Any:
        answer = await self.client.get(f"/v1/{path}")
        assert answer.status_code == status, answer.text
        return answer.json()

    def state(self, name: str) -> str:
        return next(one.state for one in self.tree.status() if one.path == name)

    @asynccontextmanager
    async def lines(self, path: str) -> AsyncIterator[AsyncIterator[Any]]:
        async with self.client.stream("GET", f"/v1/{path}") as answer:
            assert answer.headers["content-type"] == "application/x-ndjson"
            yield (json.loads(line) async for line in answer.aiter_lines())


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="agentsup-", dir="/tmp") as made:
        yield Path(made)


@pytest.fixture
def running(directory: Path) -> Any:
    @asynccontextmanager
    async def run(text: str = FILE, *, logs: bool = False) -> AsyncIterator[Daemon]:
        file = directory / "agentsup.toml"
        file.write_text(text)
        config = load(file)
        async with contextlib.AsyncExitStack() as stack:
            kept = LogStore(config.logs, config.daemon.state_dir / "logs") if logs else None
            if kept:
                await stack.enter_async_context(kept)
            tree = await stack.enter_async_context(Tree(config, kept))
            tasks = await stack.enter_async_context(anyio.create_task_group())
            wants_to_end = anyio.Event()
            app = make_app(tree, tasks, shut_down=wants_to_end.set)
            transport = httpx.AsyncHTTPTransport(uds=str(config.daemon.socket))
            client = httpx.AsyncClient(transport=transport, base_url="http://agentsup", timeout=60)
            async with serve(app, config.daemon.socket), client:
                yield Daemon(file, tree, client, wants_to_end)
            tasks.cancel_scope.cancel()
            tree.kill()

    return run


async def test_status_says_how_things_are(running: Any, eventually: Any) -> None:
    async with running() as daemon:
        await eventually(lambda: daemon.state("web") == daemon.state("workers/a") == "active")
        said = await daemon.get("status")
        assert said["daemon"]["pid"] == os.getpid()
        assert said["daemon"]["config"] == str(daemon.file)
        services = {one["path"]: one for one in said["services"]}
        assert list(services) == ["web", "late", "slow", "never", "workers/a"]
        assert services["late"]["state"] == "inactive"
        os.kill(services["web"]["pid"], 0)
        assert services["workers/a"]["supervisor"] == "workers"
        said = await daemon.get("status?name=@front&name=workers/*&name=web")
        assert [one["path"] for one in said["services"]] == ["web", "workers/a"]


async def test_names_that_there_are_not_are_all_told(running: Any) -> None:
    async with running() as daemon:
        said = await daemon.get("status?name=web&name=wbe&name=@no", 404)
        assert said["unknown"] == ["wbe", "@no"]
        assert "'web'" in said["error"]
        said = await daemon.post("stop", {"names": ["web", "nix"]}, 404)
        assert said["unknown"] == ["nix"]
        assert "inactive" not in daemon.state("web"), "nothing is done then"


async def test_operations_do_what_they_say(running: Any) -> None:
    async with running() as daemon:
        [said] = (await daemon.post("start", {"names": ["late"]}))["results"]
        assert said == {"name": "late", "ok": True, "error": None, "state": "active"}
        first = daemon.tree.services["late"].pid
        await daemon.post("restart", {"names": ["late"]})
        second = daemon.tree.services["late"].pid
        assert second not in (None, first)
        await daemon.post("signal", {"names": ["late"], "signal": "9"})
        [said] = (await daemon.post("reload", {"names": ["late"]}))["results"]
        assert not said["ok"]
        assert "Service.reload" in said["error"]
        said = (await daemon.post("stop", {"names": ["late", "workers"]}))["results"]
        assert [(one["name"], one["ok"], one["state"]) for one in said] == [
            ("late", True, "inactive"),
            ("workers/a", True, "inactive"),
        ]
        [said] = (await daemon.post("signal", {"names": ["late"], "signal": "HUP"}))["results"]
        assert not said["ok"]
        assert "does not run" in said["error"]


async def test_only_the_waiting_ends_when_its_time_is_over(running: Any, eventually: Any) -> None:
    async with running() as daemon:
        await eventually(lambda: daemon.state("slow") == "active")
        [said] = (await daemon.post("stop", {"names": ["slow"], "timeout": 0.05}))["results"]
        assert not said["ok"]
        assert "goes on" in said["error"]
        assert said["state"] == daemon.state("slow") == "deactivating"
        os.kill(daemon.tree.services["slow"].pid, signal.SIGKILL)
        await eventually(lambda: daemon.state("slow") == "inactive")
        [said] = (await daemon.post("start", {"names": ["never"], "wait": False}))["results"]
        assert said["ok"]
        assert daemon.state("never") == "activating"


async def test_a_client_that_goes_away_stops_nothing_midway(running: Any, eventually: Any) -> None:
    async with running() as daemon:
        await eventually(lambda: daemon.state("slow") == "active")
        pid = daemon.tree.services["slow"].pid
        with anyio.move_on_after(60) as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(daemon.post, "restart", {"names": ["slow"]})
                await eventually(lambda: daemon.state("slow") == "deactivating")
                scope.cancel()
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: daemon.state("slow") == "active")
        assert daemon.tree.services["slow"].pid != pid


async def test_wait_ready(running: Any) -> None:
    async with running() as daemon:
        said = (await daemon.post("wait-ready", {"names": ["web", "slow"]}))["results"]
        assert [(one["ok"], one["state"]) for one in said] == [(True, "active")] * 2
        said = (await daemon.post("wait-ready", {"timeout": 0.05}))["results"]
        wrong = {one["name"]: one["error"] for one in said if not one["ok"]}
        assert wrong == {"never": "is not ready yet"}  # late is for somebody to start
        [late] = (await daemon.post("wait-ready", {"names": ["late"]}))["results"]
        assert late["error"] == "late: not started"


async def test_events_come_as_they_happen(running: Any) -> None:
    async with running() as daemon, daemon.lines("events") as lines:
        assert (await anext(lines))["hello"]["pid"] == os.getpid()
        await daemon.post("start", {"names": ["late"]})
        async for event in lines:
            if event["service"] == "late" and event["state"] == "active":
                break
        assert event["previous"] == "activating"
        assert event["pid"] == daemon.tree.services["late"].pid


async def test_a_stream_ends_with_its_client(running: Any, eventually: Any) -> None:
    async with running() as daemon:
        listening = daemon.tree._supervisor._services().events._streams
        async with daemon.lines("events") as lines:
            await anext(lines)
            assert len(listening) == 1
        await eventually(lambda: not len(listening))


async def test_who_does_not_read_loses_the_oldest_and_holds_nobody(running: Any) -> None:
    async with running() as daemon, daemon.lines("events") as lines:
        await anext(lines)
        for number in range(20_000):
            daemon.tree.services["web"].on_health(True, "again")
            if number % 100 == 0:
                await anyio.sleep(0)
        await daemon.get("status?name=web")
        async for line in lines:
            if "dropped" in line:
                break
        assert line["dropped"] > 0


async def test_reread_and_update(running: Any, eventually: Any) -> None:
    text = """
        [daemon]
        state_dir = "state"
        [service.web]
        command = "sleep 1000"
        [service.late]
        command = "sleep 1000"
        [service.more]
        command = "sleep 1000"
        """
    async with running(text.replace("more", "less")) as daemon:
        await eventually(lambda: daemon.state("web") == daemon.state("late") == "active")
        kept = daemon.tree.services["web"].pid
        daemon.file.write_text(text.replace("[service.late]", "[service.late]\ngrace = 1"))
        differs = {"added": ["more"], "changed": ["late"], "removed": ["less"]}
        differs |= {"daemon_changed": []}
        assert await daemon.post("reread") == differs
        assert "more" not in daemon.tree.services
        assert await daemon.post("update") == differs
        assert daemon.tree.services["web"].pid == kept
        await eventually(lambda: daemon.state("more") == daemon.state("late") == "active")
        assert await daemon.post("update") == {key: [] for key in differs}


async def test_a_file_with_errors_changes_nothing(running: Any) -> None:
    async with running() as daemon:
        daemon.file.write_text(FILE + "[service.x]\ncomand = []\n")
        for path in ("reread", "update"):
            said = await daemon.post(path, status=422)
            assert {one["key"] for one in said["errors"]} >= {"service.x.comand"}
            assert all(one["file"] == str(daemon.file) for one in said["errors"])
        daemon.file.unlink()
        assert (await daemon.post("update", status=422))["errors"]
        assert daemon.state("web")


async def test_the_tree_is_nested(running: Any, eventually: Any) -> None:
    async with running() as daemon:
        await eventually(lambda: daemon.state("workers/a") == "active")
        root = await daemon.get("tree")
        assert (root["name"], root["kind"]) == (str(daemon.file), "supervisor")
        assert [one["name"] for one in root["children"]] == [
            *("web", "late", "slow", "never"),
            "workers",
        ]
        [below] = root["children"][-1]["children"]
        assert (below["name"], below["path"], below["state"]) == ("a", "workers/a", "active")
        assert below["pid"] == daemon.tree.services["workers/a"].pid


async def test_shutdown_is_passed_on(running: Any) -> None:
    async with running() as daemon:
        assert not daemon.wants_to_end.is_set()
        await daemon.post("shutdown", status=202)
        assert daemon.wants_to_end.is_set()


@pytest.mark.parametrize(
    ("path", "body", "fields"),
    [
        ("start", "{}", {"names"}),
        ("start", '{"names": []}', {"names"}),
        ("stop", '{"names": "web", "wait": 1, "timeout": -1, "x": 1}', None),
        ("stop", '{"names": ["web"], "timeout": NaN}', {"timeout"}),
        ("stop", '{"names": ["web"], "timeout": 1e999}', {"timeout"}),
        ("restart", '{"names": ["web", 1]}', {"names"}),
        ("signal", '{"names": ["web"], "signal": "NIX"}', {"signal"}),
        ("signal", '{"names": ["web"], "signal": "99999999999999999999"}', {"signal"}),
        ("signal", '{"names": ["web"]}', {"signal"}),
        ("wait-ready", '{"timeout": true}', {"timeout"}),
        ("update", '{"names": []}', {"names"}),
        ("start", "[]", {"body"}),
        ("start", "{", {"body"}),
        ("start", "[" * 100_000, {"body"}),
        ("start", "\udcff", {"body"}),
    ],
)
async def test_bad_requests_say_what_is_wrong(
    running: Any, path: str, body: str, fields: set[str] | None
) -> None:
    async with running('[service.web]\ncommand = "sleep 1000"\n') as daemon:
        answer = await daemon.client.post(
            f"/v1/{path}",
            content=body.encode("utf-8", "surrogateescape"),
            headers={"content-type": "application/json; charset=utf-8"},
        )
        assert answer.status_code == 422, answer.text
        said = answer.json()
        assert said["fields"].keys() == (fields or {"names", "wait", "timeout", "x"})
        assert all(f"{name}: {why}" in said["error"] for name, why in said["fields"].items())
        assert daemon.state("web") != "inactive"


async def test_what_no_client_of_ours_would_send(running: Any) -> None:
    async with running('[service.web]\ncommand = "sleep 1000"\n') as daemon:
        for method, path, options, status in [
            ("GET", "/", {}, 404),
            ("GET", "/v1/nix", {}, 404),
            ("DELETE", "/v1/status", {}, 405),
            ("HEAD", "/v1/events", {}, 405),
            ("GET", "/v1/status?nmae=web", {}, 422),
            ("GET", "/v1/logs/web?lines=-1", {}, 422),
            ("GET", "/v1/logs/web?lines=99999", {}, 422),
            ("GET", "/v1/logs/web?follow=perhaps", {}, 422),
            ("GET", "/v1/logs/nix", {}, 404),
            ("GET", "/v1/logs/..%2F..%2Fetc", {}, 404),
            ("POST", "/v1/shutdown", {"content": b"{}"}, 415),
            ("POST", "/v1/shutdown", {"data": {"a": "b"}}, 415),
            ("POST", "/v1/shutdown", {"json": {}, "headers": {"Origin": "http://x"}}, 403),
            ("GET", "/v1/status", {"headers": {"Sec-Fetch-Site": "same-origin"}}, 403),
            ("POST", "/v1/stop", {"json": {"names": ["x" * LARGEST]}}, 413),
        ]:
            answer = await daemon.client.request(method, path, **options)
            assert answer.status_code == status, (method, path, answer.text)
            assert method == "HEAD" or answer.json()["error"]
        assert not daemon.wants_to_end.is_set()
        assert (await daemon.get("status"))["services"]


async def test_a_bug_is_told_and_takes_nothing_with_it(
    running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running('[service.web]\ncommand = "sleep 1000"\n') as daemon:

        async def fail(_: str) -> None:
            raise ZeroDivisionError("a bug")

        monkeypatch.setattr(daemon.tree, "stop", fail)
        [said] = (await daemon.post("stop", {"names": ["web"]}))["results"]
        assert "a bug" in said["error"]
        monkeypatch.setattr(daemon.tree, "status", lambda: 1 // 0)
        assert "ZeroDivisionError" in (await daemon.get("status", 500))["error"]
        monkeypatch.undo()
        await daemon.get("status")


async def test_answers_are_as_they_are_described(running: Any, eventually: Any) -> None:
    import jsonschema

    async with running() as daemon:
        await eventually(lambda: daemon.state("web") == "active")
        openapi = await daemon.get("openapi.json")
        described = {
            (method.upper(), path) for path, one in openapi["paths"].items() for method in one
        }
        assert described == {(one.method, one.path.replace(":path", "")) for one in ROUTES}

        def check(method: str, path: str, status: str, value: Any) -> None:
            [answer] = openapi["paths"][path][method]["responses"][status]["content"].values()
            schema = answer["schema"] | {"components": openapi["components"]}
            jsonschema.Draft202012Validator.check_schema(schema)
            jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator)

        check("get", "/v1/status", "200", await daemon.get("status"))
        check("get", "/v1/tree", "200", await daemon.get("tree"))
        some = {"names": ["web", "workers", "late"]}
        for name in ("start", "restart", "reload", "stop"):
            check("post", f"/v1/{name}", "200", await daemon.post(name, some))
        check("post", "/v1/signal", "200", await daemon.post("signal", some | {"signal": "9"}))
        waited = await daemon.post("wait-ready", {"timeout": 0})
        check("post", "/v1/wait-ready", "200", waited)
        check("post", "/v1/stop", "default", await daemon.post("stop", {"names": ["x"]}, 404))
        check("post", "/v1/stop", "default", await daemon.post("stop", {}, 422))
        check("post", "/v1/reread", "200", await daemon.post("reread"))
        check("post", "/v1/update", "200", await daemon.post("update"))
        check("post", "/v1/shutdown", "202", await daemon.post("shutdown", status=202))
        async with daemon.lines("events") as lines:
            await anext(lines)
            await daemon.post("start", {"names": ["late"]})
            check("get", "/v1/events", "200", await anext(lines))
        daemon.file.write_text("nix")
        check("post", "/v1/update", "422", await daemon.post("update", status=422))


async def test_logs_are_to_be_had(directory: Path, running: Any, eventually: Any) -> None:
    text = """
        [daemon]
        state_dir = "state"
        [service.talker]
        shell = "echo one; echo two; echo three; exec sleep 1000"
        [service.quiet]
        command = "sleep 1000"
        """
    async with running(text, logs=True) as daemon:
        await eventually(lambda: daemon.state("talker") == "active")
        async with daemon.lines("logs/talker?lines=2&follow=true") as lines:
            found: list[str] = []
            while found[-1:] != ["three"]:
                found.append((await anext(lines))["message"])
        assert [one async for one in _messages(daemon, "talker?lines=2")] == ["two", "three"]
        assert [one async for one in _messages(daemon, "talker?lines=0")] == []
        assert [one async for one in _messages(daemon, "quiet")] == []


async def _messages(daemon: Daemon, path: str) -> AsyncIterator[str]:
    async with daemon.lines(f"logs/{path}") as lines:
        async for line in lines:
            yield line["message"]
