"""An agent of Pydantic AI whose tools are supervised: it starts a server, asks it, and goes.

No network and no key: a script plays the model. In its place put any other, by its name.
Needs ``pip install 'agentsup[pydantic-ai]'``.
"""

from __future__ import annotations

import sys

import anyio

import agentsup

try:
    from agentsup.ext.pydantic_ai import toolset
except ModuleNotFoundError as missing:
    sys.exit(str(missing))

from pydantic_ai import Agent
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    RetryPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel

from agentsup.ext.toolbox import Toolbox

SERVER = """
import http.server
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
open("port", "w").write(str(server.server_port))
server.serve_forever()
"""
ASK = """
import urllib.request
with urllib.request.urlopen("http://127.0.0.1:" + open("port").read()) as page:
    print("the server has answered", page.status)
"""
#: What the model asks for, turn by turn.
SCRIPT = [
    ("bash", {"command": "cd $(mktemp -d); X=kept; pwd >/dev/null"}),
    ("bash", {"command": f"cat >server.py <<'END'{SERVER}END\ncat >ask.py <<'END'{ASK}END"}),
    ("bash", {"command": f"{sys.executable} server.py 2>/dev/null &"}),
    ("bash", {"command": f"until [ -s port ]; do sleep 0.1; done; {sys.executable} ask.py"}),
    ("bash", {"command": "echo the variable was $X; sleep 1000", "timeout": 0.5}),
    ("start", {"command": "exec sleep 1000"}),
    ("run", {"argv": ["no-such-program"]}),
    ("bash", {"command": "rm -r $PWD; cd /"}),
]


def play(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """The next call, or the end."""
    answers = [
        str(part.content)
        for message in messages
        for part in message.parts
        if isinstance(part, (ToolReturnPart, RetryPromptPart))
    ]
    if answers:
        print(answers[-1][:200])
    if len(answers) == len(SCRIPT):
        return ModelResponse(parts=[TextPart("All is done.")])
    name, arguments = SCRIPT[len(answers)]
    print(f"\n> {name} {' '.join(map(str, arguments.values())).splitlines()[0]}")
    return ModelResponse(parts=[ToolCallPart(name, arguments)])


async def main() -> None:
    agent = Agent(FunctionModel(play))
    async with agentsup.Supervisor() as sup, Toolbox(sup) as toolbox:
        result = await agent.run("Try your tools.", toolsets=[toolset(toolbox)])
        print(f"\n{result.output}")
        print("Still there:", ", ".join(node.name for node in sup.tree()))
    print("Left behind:", ", ".join(node.name for node in sup.tree()) or "nothing")


anyio.run(main)
