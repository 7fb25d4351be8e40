"""The demo runs as its user runs it: in a process of its own, here with a pipe for its output."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import psutil
import pytest

import agentsup

pytest.importorskip("rich", reason="the demo's table needs agentsup[cli]")
if shutil.which("git") is None:
    pytest.skip("the demo needs git", allow_module_level=True)

DEMO = Path(__file__).parent.parent / "examples" / "agent_session"

Message: TypeAlias = dict[str, Any]
Write: TypeAlias = Callable[..., Path]


def environment() -> dict[str, str]:
    """Nothing that the demo could lean on, but where to find agentsup."""
    own = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    package = Path(agentsup.__file__).parent
    return {**own, "PYTHONPATH": str(package.parent), "PYTHONIOENCODING": "utf-8"}


def demo(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, DEMO, *words],
        capture_output=True,
        encoding="utf-8",
        env=environment(),
        timeout=300,
    )


def rows(report: str) -> dict[str, str]:
    """The lines of the report by their titles."""
    return {line[:16].strip(): line[16:] for line in report.splitlines() if line[:1].strip()}


def call(command: object, **more: object) -> Message:
    tool = {"type": "tool_use", "id": "1", "name": "bash", "input": {"command": command, **more}}
    return {"role": "assistant", "content": [tool]}


def result(text: str) -> Message:
    block = {"type": "tool_result", "tool_use_id": "1", "content": text}
    return {"role": "user", "content": [block]}


@pytest.fixture
def transcript(tmp_path: Path) -> Write:
    def write(*messages: Message) -> Path:
        path = tmp_path / "transcript.jsonl"
        path.write_text("".join(json.dumps(message) + "\n" for message in messages))
        return path

    return write


# --- the bundled session ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def session() -> subprocess.CompletedProcess[str]:
    return demo()


def test_the_session_ends_as_recorded_and_leaves_nothing(
    session: subprocess.CompletedProcess[str],
) -> None:
    done = session
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    found = rows(done.stdout)
    assert found["as recorded"] == "35 of 35"
    assert found["zombies"] == "0"
    assert found["processes left"] == "0"
    assert "1 adopted, ended with the supervisor" in done.stdout
    assert int(found["left over"].split()[0]) > 50  # the storm
    assert re.search(r"the host ended; \d+ ms later its keeper was gone too: 0 left", done.stdout)
    assert "\x1b" not in done.stdout


def test_two_gib_of_output_take_no_memory(session: subprocess.CompletedProcess[str]) -> None:
    found = rows(session.stdout)
    assert found["output"].startswith("2.00 GiB printed")
    peak, before = re.findall(r"(\d+) MiB", found["host's memory"])
    assert int(peak) - int(before) < 16


# --- other transcripts ------------------------------------------------------------------------


def test_output_as_the_model_would_see_it(transcript: Write) -> None:
    done = demo("--verbose", "--transcript", transcript(call("echo one; echo two >&2; exit 3")))
    assert done.returncode == 0
    for line in ("one", "two", "[exited with status 3]"):
        assert f"│ {line}\n" in done.stdout
    assert "does not say how" in rows(done.stdout)["as recorded"]


def test_another_ending_than_recorded(transcript: Write) -> None:
    path = transcript(call("exit 3"), result("fine\n[exited with status 0]"))
    done = demo("--transcript", path)
    assert done.returncode == 1
    assert "exited with status 3; recorded was: exited with status 0" in done.stdout
    assert rows(done.stdout)["as recorded"] == "0 of 1"


@pytest.mark.parametrize(
    "told", ["", "[1, 2]", "[exited]", "[exited with status 0] or so", "exit code: 1"]
)
def test_results_recorded_by_others_are_not_compared(transcript: Write, told: str) -> None:
    done = demo("--transcript", transcript(call("exit 3"), result(told)))
    assert done.returncode == 0
    assert "does not say how" in rows(done.stdout)["as recorded"]


def test_timeout_and_cwd(transcript: Write, tmp_path: Path) -> None:
    path = transcript(call("pwd; sleep 600"))
    done = demo("--verbose", "--timeout", "0.5", "--cwd", tmp_path, "--transcript", path)
    assert done.returncode == 0
    assert f"│ {tmp_path.resolve()}\n" in done.stdout
    assert "1 timed out" in done.stdout


def test_a_background_call_returns_at_once(transcript: Write) -> None:
    done = demo("--transcript", transcript(call("sleep 600", run_in_background=True)))
    assert done.returncode == 0
    assert "1 adopted" in done.stdout


def test_a_program_that_is_not_there(transcript: Write) -> None:
    done = demo("--transcript", transcript(call(["./no-such-program"])))
    assert done.returncode == 0
    assert "1 not started" in done.stdout


def test_the_openai_form_in_an_array(tmp_path: Path) -> None:
    functions = [
        {"name": "shell", "arguments": json.dumps({"command": ["echo", "hello"]})},
        {"name": "web_search", "arguments": "{}"},
    ]
    calls = [{"id": f["name"], "type": "function", "function": f} for f in functions]
    messages = [
        {"role": "system", "content": "You have a shell."},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "shell", "content": "hello\n[exited with status 0]"},
    ]
    path = tmp_path / "transcript.json"
    path.write_text(json.dumps(messages, indent=2))
    done = demo("--verbose", "--transcript", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "│ hello\n" in done.stdout
    assert "skipped: 'web_search' is not a shell tool" in done.stdout
    assert rows(done.stdout)["as recorded"] == "1 of 1"


def test_a_wrapped_message_and_milliseconds(transcript: Write) -> None:
    message = call("sleep 600", timeout=300)
    message["content"][0]["name"] = "Bash"
    done = demo("--transcript", transcript({"type": "assistant", "message": message}))
    assert done.returncode == 0
    told = re.search(r"SIGTERM at (\d+\.\d)", rows(done.stdout)["escalations"])
    assert told
    assert 0.3 <= float(told[1]) < 100


# --- transcripts that cannot be read ----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", ":1: the file is empty"),
        ('{"role": "user"', ":1: not JSON"),
        ('{"role": "user", "content": "hello"}\n\nhello\n', ":3: not JSON"),
        ('[\n{"role": "user", "content": "hello"},\n{]', ":3: not JSON"),
        ('[\n{"role": "user", "content": "hello"},\n\n{"role": 5}]', ":4: a message: 'role' must"),
        ("[" * 100_000, ":1: not JSON"),
        ("5", ":1: a message must be an object, not a number"),
        ('{"hello": 1}', ":1: a message has no 'role'"),
        ('{"role": "robot", "content": ""}', ":1: unknown role 'robot'"),
        ('{"role": "user"}', ":1: a message has no 'content'"),
        ('{"role": "user", "content": 5}', ":1: 'content' must be a string or an array"),
        ('{"role": "user", "content": ["a"]}', ":1: a content block must be an object"),
        ('{"role": "user", "content": [{}]}', ":1: a content block has no 'type'"),
        ('{"role": "assistant", "content": [{"type": "tool_use"}]}', ":1: tool_use has no 'name'"),
        ('{"role": "assistant", "tool_calls": [5]}', ":1: an item of tool_calls must be"),
        (
            '{"role": "assistant", "tool_calls": [{"function": {"name": "sh", "arguments": "{"}}]}',
            ":1: sh: 'arguments' are not JSON",
        ),
        (json.dumps(call(None)), ":1: bash: 'command' must be a string or an array of strings"),
        (json.dumps(call([])), ":1: bash: 'command' must be a string or an array of strings"),
        (json.dumps(call("a\0b")), ":1: bash: 'command' holds a NUL"),
        (json.dumps(call("\ud800")), ":1: bash: 'command' holds half of a surrogate pair"),
        (json.dumps(call("ls", timeout="5")), ":1: bash: 'timeout' must be a number"),
        (json.dumps(call("ls", timeout=0)), ":1: bash: 'timeout' must be a number above zero"),
        (json.dumps(call("ls", timeout=10**400)), ":1: bash: 'timeout' must be a number"),
        (json.dumps(call("ls", idle_timeout=True)), ":1: bash: 'idle_timeout' must be a number"),
        (json.dumps(call("ls", run_in_background=1)), ":1: bash: 'run_in_background' must be"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "transcript.jsonl"
    path.write_text(text)
    assert_refused(demo("--transcript", path), f"{path}{error}")


def test_an_error_on_the_last_line_starts_nothing(transcript: Write, tmp_path: Path) -> None:
    path = transcript(call(f"touch {tmp_path}/started"), {"role": "robot"})
    assert_refused(demo("--transcript", path), f"{path}:2: unknown role 'robot'")
    assert not (tmp_path / "started").exists()


def test_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "transcript.jsonl"
    path.write_bytes(b'{"role": "user", "content": "hello"}\n"\xff"')
    assert_refused(demo("--transcript", path), f"{path}:2: not UTF-8")


def test_no_file(tmp_path: Path) -> None:
    done = demo("--transcript", tmp_path / "nowhere")
    assert_refused(done, f"{tmp_path}/nowhere: No such file or directory")


@pytest.mark.parametrize(
    "words", [["--timeout", "0"], ["--timeout", "nan"], ["--timeout", "x"], ["--cwd", "/nowhere"]]
)
def test_bad_options(words: list[str]) -> None:
    done = demo(*words)
    assert done.returncode == 2
    assert f"error: argument {words[0]}: " in done.stderr
    assert "_" not in done.stderr.partition("error:")[2]


def assert_refused(done: subprocess.CompletedProcess[str], error: str) -> None:
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(error)
    assert done.stderr.count("\n") == 1


# --- a violent end ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_auditor_finds_nothing_after_a_violent_end(
    transcript: Write, tmp_path: Path, number: signal.Signals
) -> None:
    path = transcript(call(f"setsid sleep 600 & touch {tmp_path}/started; sleep 600", timeout=60))
    with subprocess.Popen(
        [sys.executable, DEMO, "--transcript", path],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env=environment(),
    ) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "started").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        [host] = psutil.Process(process.pid).children()
        host.send_signal(number)
        output, _ = process.communicate(timeout=120)
    assert "its keeper was gone too: 0 left" in output
    assert process.returncode == (130 if number == signal.SIGINT else 1)


def test_the_auditor_finds_what_a_host_has_left() -> None:
    script = """if True:
        import audit, os, pathlib, processes, subprocess
        audit.PATIENCE = 0.2
        def host():
            subprocess.Popen(["setsid", "--fork", "sleep", "600"], cwd="/", env={}).wait()
            while ("sleep", "600") not in (one.argv for one in processes.belonging(signs)):
                pass
            return 0
        signs = processes.Signs(os.getpid(), "no mark", pathlib.Path("/no/folder"))
        verdict = audit.run_audited(host, signs)
        print(verdict.status, *(" ".join(process.argv) for process in verdict.left))
    """
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=DEMO, capture_output=True, encoding="utf-8", timeout=120
    )
    assert done.stdout == "0 sleep 600\n", done.stderr


def test_nobody_reads_the_output(transcript: Write) -> None:
    with subprocess.Popen(
        [sys.executable, DEMO, "--transcript", transcript(call("echo one"), call("sleep 600"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=environment(),
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == -signal.SIGPIPE
