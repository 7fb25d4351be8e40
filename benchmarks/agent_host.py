"""The host of ``agent_session.py``: an agent that calls rude tools by every door at once.

    python benchmarks/agent_host.py ours|stock asyncio|trio CALLS SEED MARKER [DOOR ...]

Each door is a task that makes its calls one after another.  What they start sleeps for a number of
seconds that begins with MARKER and ends with the place of the door, so that it can be counted from
outside.  Prints a line of JSON for each call, and one at the end.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import random
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

import anyio
import anyio.to_thread

#: Seconds that a tool may take, and that the door has beyond that to come back.
TIMEOUT, LATE = 0.5, 8.0
_GRACE = 0.2

#: Shell code, and how often it comes.
BEHAVIOURS = {
    "ends": (8, "echo done"),
    "hangs": (2, "sleep {m}"),
    "daemonizes": (1, "setsid -f sh -c 'sleep {m} & sleep {m}' >/dev/null 2>&1 </dev/null"),
    "hides": (1, "env -i setsid -f sleep {m} >/dev/null 2>&1 </dev/null; echo gone"),
    "keeps the pipe": (1, "setsid sleep {m} & echo started"),
    "floods": (1, "yes | head -c 4000000"),
    "forks": (1, "for i in 1 2 3 4; do (sleep {m}; :) & done; wait"),
    "ignores TERM": (1, "trap '' INT TERM; sleep {m}; sleep {m}"),
    "crashes": (1, "sleep {m} & kill -9 $$"),
}

# Without the SDK, which takes half a second to import. A tool that hangs leaves it deaf to the end
# of its input, as a thread does that nobody joins.
MCP_SERVER = r"""
import json, os, signal, subprocess, sys, threading
lock = threading.Lock()
def say(id, **message):
    with lock:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": id, **message}) + "\n")
        sys.stdout.flush()
def work(id, code):
    done = subprocess.run(["sh", "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    say(id, result={"content": [{"type": "text", "text": done.stdout.decode()}]})
for line in sys.stdin:
    message = json.loads(line)
    method, id = message.get("method"), message.get("id")
    if method == "initialize":
        say(id, result={
            "protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
            "serverInfo": {"name": "rude", "version": "1"},
        })
    elif method == "tools/list":
        say(id, result={"tools": [{"name": "do", "inputSchema": {"type": "object"}}]})
    elif method == "tools/call":
        given = message["params"]["arguments"]
        if given["behaviour"] == "crashes":
            subprocess.Popen(["sh", "-c", given["code"]])
            os._exit(7)
        if given["behaviour"] == "ignores TERM":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Thread(target=work, args=(id, given["code"])).start()
    elif id is not None:
        say(id, result={})
"""


class Call(NamedTuple):
    number: int
    behaviour: str
    code: str


class Door:
    """One way to a tool. What it opens in ``prepare`` outlives the time limit of a call."""

    def __init__(self, host: Host) -> None:
        self.host = host

    async def open(self) -> None:
        """Once, at the beginning."""

    async def prepare(self) -> None:
        """Before each call."""

    async def close(self) -> None:
        """Once, at the end."""

    async def call(self, call: Call) -> object:
        raise NotImplementedError


class Host:
    """What the doors share: of ours, a supervisor."""

    supervisor: Any = None

    def __init__(self, marker: str, *, trio: bool) -> None:
        self.marker = marker
        self.trio = trio

    async def attend(self, door: Door, name: str, calls: list[Call]) -> None:
        await door.open()
        try:
            for call in calls:
                await door.prepare()
                began, error = time.monotonic(), None
                with anyio.move_on_after(TIMEOUT + LATE) as scope:
                    try:
                        await door.call(call)
                    except Exception as caught:  # as a tool's error is told to the model
                        error = f"{type(caught).__name__}: {caught}"[:200]
                say(
                    door=name,
                    behaviour=call.behaviour,
                    seconds=round(time.monotonic() - began, 3),
                    in_time=not scope.cancelled_caught,
                    error=error,
                )
        finally:
            await door.close()


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


async def run_sync(code: str) -> None:
    """As in many an agent's own tool."""
    words: dict[str, Any] = {"shell": True, "capture_output": True, "timeout": TIMEOUT}
    await anyio.to_thread.run_sync(
        lambda: subprocess.run(code, **words),
        abandon_on_cancel=True,
        limiter=anyio.CapacityLimiter(1),
    )


# --- ours -------------------------------------------------------------------------------------


class OurShell(Door):
    async def open(self) -> None:
        from agentsup.shells import Shell

        self._shell = Shell(self.host.supervisor)
        await self._shell.__aenter__()

    async def call(self, call: Call) -> object:
        return await self._shell.run(call.code, timeout=TIMEOUT, grace=_GRACE)

    async def close(self) -> None:
        await self._shell.__aexit__(None, None, None)


class OurRun(Door):
    async def call(self, call: Call) -> object:
        words = ["bash", "-c", call.code]
        return await self.host.supervisor.run(words, timeout=TIMEOUT, grace=_GRACE)


class OurJobs(Door):
    async def call(self, call: Call) -> object:
        job = await self.host.supervisor.background(["bash", "-c", call.code], grace=_GRACE)
        await job.wait(TIMEOUT)
        if call.number % 2:
            await job.stop()
        return job.read_new()


class OurWrapped(Door):
    """The same code as the stock one, in a block."""

    async def open(self) -> None:
        from agentsup.ext.anyio import install

        self._block = install(self.host.supervisor, grace=_GRACE)
        await self._block.__aenter__()

    async def call(self, call: Call) -> object:
        return await run_sync(call.code)

    async def close(self) -> None:
        await self._block.__aexit__(None, None, None)


class _Mcp(Door):
    """A session with a server, and another one when that is gone."""

    _stack: contextlib.AsyncExitStack | None = None

    def transport(self, server: Any) -> Any:
        raise NotImplementedError

    async def prepare(self) -> None:
        if self._stack is not None:
            return
        from mcp import ClientSession
        from mcp.client.stdio import StdioServerParameters

        arguments = ["-I", "-S", "-c", MCP_SERVER, f"{self.host.marker}mcp"]
        server = StdioServerParameters(command=sys.executable, args=arguments)
        self._stack = stack = contextlib.AsyncExitStack()
        read, write = await stack.enter_async_context(self.transport(server))
        self._session = await stack.enter_async_context(ClientSession(read, write))
        await self._session.initialize()

    async def call(self, call: Call) -> object:
        given = {"behaviour": call.behaviour, "code": call.code}
        return await self._session.call_tool("do", given, read_timeout_seconds=TIMEOUT)

    async def close(self) -> None:
        stack, self._stack = self._stack, None
        if stack:
            with contextlib.suppress(Exception):  # of a server that has crashed
                await stack.aclose()


class OurMcp(_Mcp):
    def transport(self, server: Any) -> Any:
        from tenacity import stop_never

        from agentsup import RestartPolicy
        from agentsup.ext.mcp import stdio_client

        policy = RestartPolicy(restart="permanent", give_up=stop_never)
        return stdio_client(server, supervisor=self.host.supervisor, restart=policy)


class _Toolbox(Door):
    """A shell of its own for each agent."""

    async def open(self) -> None:
        from agentsup.ext.toolbox import Toolbox

        self.toolbox = Toolbox(self.host.supervisor)
        await self.toolbox.__aenter__()

    async def close(self) -> None:
        await self.toolbox.__aexit__(None, None, None)


class OurAnthropic(_Toolbox):
    async def call(self, call: Call) -> object:
        from agentsup.ext.anthropic import handle

        given = {"command": call.code, "timeout": TIMEOUT}
        block = {"type": "tool_use", "id": str(call.number), "name": "bash", "input": given}
        return await handle(self.toolbox, block)


class _PydanticAI(Door):
    """A run of an agent for each call: a script plays the model, and asks for one tool."""

    async def open(self) -> None:
        from pydantic_ai import Agent
        from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
        from pydantic_ai.models.function import FunctionModel

        def play(messages: Any, info: object) -> ModelResponse:
            if len(messages) > 1:
                return ModelResponse(parts=[TextPart("done")])
            given = json.loads(messages[0].parts[0].content)
            return ModelResponse(parts=[ToolCallPart(given.pop("tool"), given)])

        self._agent = Agent(FunctionModel(play), **self.tools())

    def tools(self) -> dict[str, Any]:
        raise NotImplementedError

    async def call(self, call: Call) -> object:
        given: dict[str, object] = {"tool": "bash", "command": call.code, "timeout": TIMEOUT}
        return await self._agent.run(json.dumps(given))


class OurPydanticAI(_PydanticAI, _Toolbox):
    async def open(self) -> None:
        await _Toolbox.open(self)
        await _PydanticAI.open(self)

    def tools(self) -> dict[str, Any]:
        from agentsup.ext.pydantic_ai import toolset

        return {"toolsets": [toolset(self.toolbox)]}


class OurOpenAI(_Toolbox):
    async def call(self, call: Call) -> object:
        from agents import Agent, RunConfig, Runner
        from agents.testing.model import ScriptedModel, assistant_message, function_call

        from agentsup.ext.openai_agents import tools

        given = json.dumps({"argv": ["bash", "-c", call.code], "stdin": "", "timeout": TIMEOUT})
        model = ScriptedModel([[function_call("run", given)], [assistant_message("done")]])
        agent = Agent("tester", model=model, tools=list(tools(self.toolbox)))
        return await Runner.run(agent, "go", run_config=RunConfig(tracing_disabled=True))


class OurLangChain(_Toolbox):
    async def call(self, call: Call) -> object:
        from agentsup.ext.langchain import tools

        by_name = {tool.name: tool for tool in tools(self.toolbox)}
        return await by_name["bash"].ainvoke({"command": call.code, "timeout": TIMEOUT})


class _Inspect(Door):
    async def open(self) -> None:
        made = await self.kind().sample_init("task", None, {})
        self._sandboxes = made

    def kind(self) -> Any:
        raise NotImplementedError

    async def call(self, call: Call) -> object:
        words = ["bash", "-c", call.code]
        (sandbox,) = self._sandboxes.values()
        return await sandbox.exec(words, timeout=1, timeout_retry=False, concurrency=False)

    async def close(self) -> None:
        await self.kind().sample_cleanup("task", None, self._sandboxes, False)


class OurInspect(_Inspect):
    def kind(self) -> Any:
        from agentsup.ext.inspect_ai import AgentsupSandbox

        return AgentsupSandbox


# --- the stock ones ---------------------------------------------------------------------------


class StockShell(Door):
    """A bash whose commands end with a line that nobody else prints; hopefully."""

    _bash: anyio.abc.Process | None = None

    async def prepare(self) -> None:
        if self._bash is None:
            self._bash = await anyio.open_process(["bash"], stderr=subprocess.STDOUT)

    async def call(self, call: Call) -> object:
        assert self._bash
        assert self._bash.stdin
        assert self._bash.stdout
        try:
            with anyio.fail_after(TIMEOUT):
                await self._bash.stdin.send(f"{call.code}\necho '<<over>>'\n".encode())
                said = b""
                while b"<<over>>" not in said:
                    said = said[-20:] + await self._bash.stdout.receive()
        except (TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError):
            await self.close()
            raise

    async def close(self) -> None:
        bash, self._bash = self._bash, None
        if bash:
            await _end(bash)


async def _end(process: anyio.abc.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    with anyio.move_on_after(1.0):
        await process.wait()
    with anyio.move_on_after(5.0):
        await process.aclose()  # which kills


class StockRun(Door):
    async def call(self, call: Call) -> object:
        words = ["bash", "-c", call.code]
        if self.host.trio:
            with anyio.fail_after(TIMEOUT):
                return await anyio.run_process(words)
        import asyncio

        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*words, stdout=pipe, stderr=pipe)
        try:
            return await asyncio.wait_for(process.communicate(), TIMEOUT)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise


class StockJobs(Door):
    async def open(self) -> None:
        self._stack = contextlib.ExitStack()
        self._jobs: list[anyio.abc.Process] = []

    async def call(self, call: Call) -> object:
        file = tempfile.TemporaryFile()  # noqa: SIM115 -- it stays open with the job
        output = self._stack.enter_context(file)
        words = ["bash", "-c", call.code]
        job = await anyio.open_process(words, stdin=subprocess.DEVNULL, stdout=output)
        self._jobs.append(job)
        with anyio.move_on_after(TIMEOUT):
            await job.wait()
        if call.number % 2:
            await _end(self._jobs.pop())
        output.seek(0)
        return output.read()

    async def close(self) -> None:
        for job in self._jobs:
            await _end(job)
        self._stack.close()


class StockWrapped(Door):
    async def call(self, call: Call) -> object:
        return await run_sync(call.code)


class StockMcp(_Mcp):
    def transport(self, server: Any) -> Any:
        from mcp.client.stdio import stdio_client

        return stdio_client(server)

    async def call(self, call: Call) -> object:
        try:
            return await super().call(call)
        except Exception as error:
            if "Connection closed" in str(error):
                self._gone = True
            raise

    _gone = False

    async def prepare(self) -> None:
        if self._gone:
            self._gone = False
            await self.close()
        await super().prepare()


class StockPydanticAI(_PydanticAI):
    """It has no shell tool of its own: this is a function, as in its documentation."""

    def tools(self) -> dict[str, Any]:
        async def bash(command: str, timeout: float) -> str:
            await run_sync(command)
            return "done"

        return {"tools": [bash]}


class StockOpenAI(Door):
    """The SDK's own local sandbox."""

    async def open(self) -> None:
        from agents.sandbox.sandboxes.unix_local import UnixLocalSandboxClient

        self._client = UnixLocalSandboxClient()
        self._session = await self._client.create()
        await self._session.start()

    async def call(self, call: Call) -> object:
        return await self._session.exec("bash", "-c", call.code, shell=False, timeout=TIMEOUT)

    async def close(self) -> None:
        await self._session.aclose()
        await self._client.delete(self._session)


class StockInspect(_Inspect):
    """Its sandbox "local"."""

    def kind(self) -> Any:
        from inspect_ai.util._sandbox.local import LocalSandboxEnvironment

        return LocalSandboxEnvironment


class Way(NamedTuple):
    """A door, ours and the stock one beside it, what both need, and whether trio will do."""

    ours: type[Door]
    stock: type[Door] | None
    packages: tuple[str, ...] = ()
    trio: bool = True

    def load(self) -> None:
        """Imports that take seconds, before any time is taken; ModuleNotFoundError."""
        for name in self.packages:
            importlib.import_module(name)


DOORS = {
    "shell": Way(OurShell, StockShell),
    "run": Way(OurRun, StockRun),
    "jobs": Way(OurJobs, StockJobs),
    "subprocess.run": Way(OurWrapped, StockWrapped),
    "MCP": Way(OurMcp, StockMcp, ("mcp.client.stdio", "agentsup.ext.mcp")),
    "Anthropic bash": Way(OurAnthropic, None, ("agentsup.ext.anthropic",)),
    "Pydantic AI": Way(
        OurPydanticAI,
        StockPydanticAI,
        ("pydantic_ai.models.function", "agentsup.ext.pydantic_ai"),
        trio=False,
    ),
    "OpenAI Agents": Way(
        OurOpenAI,
        StockOpenAI,
        (
            "agents.testing.model",
            "agents.sandbox.sandboxes.unix_local",
            "agentsup.ext.openai_agents",
        ),
        trio=False,
    ),
    "LangChain": Way(OurLangChain, None, ("agentsup.ext.langchain",), trio=False),
    "Inspect AI": Way(
        OurInspect,
        StockInspect,
        ("inspect_ai.util._sandbox.local", "agentsup.ext.inspect_ai"),
    ),
}


def code_of(behaviour: str, marker: str) -> str:
    return BEHAVIOURS[behaviour][1].format(m=marker)


def calls_of(door: str, count: int, seed: int, marker: str) -> list[Call]:
    """The same for ours and the stock one."""
    place = list(DOORS).index(door)
    weights = [weight for weight, _ in BEHAVIOURS.values()]
    chosen = random.Random(seed * 100 + place).choices(list(BEHAVIOURS), weights, k=count)
    return [Call(at, name, code_of(name, f"{marker}{place}")) for at, name in enumerate(chosen)]


def shares(count: int, doors: list[str]) -> dict[str, int]:
    """How many of the calls each makes."""
    return {
        door: count // len(doors) + (place < count % len(doors)) for place, door in enumerate(doors)
    }


async def session(
    style: str, loop: str, count: int, seed: int, marker: str, names: list[str]
) -> None:
    host = Host(marker, trio=loop == "trio")
    async with contextlib.AsyncExitStack() as stack:
        if style == "ours":
            from agentsup import Supervisor

            host.supervisor = await stack.enter_async_context(Supervisor(max_jobs=1000))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        for name, share in shares(count, names).items():
            door = DOORS[name].ours if style == "ours" else DOORS[name].stock
            assert door
            tasks.start_soon(host.attend, door(host), name, calls_of(name, share, seed, marker))


def main() -> None:
    style, loop, count, seed, marker, *names = sys.argv[1:]
    for name in names:
        DOORS[name].load()
    anyio.run(session, style, loop, int(count), int(seed), marker, names, backend=loop)
    say(end=True)


if __name__ == "__main__":
    main()
