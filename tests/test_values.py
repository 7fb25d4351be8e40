"""Values: what they take, what they refuse and by which name, and what they tell."""

from __future__ import annotations

import copy
import math
import pickle
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agentsup
from agentsup import CLOSE_STDIN, Command, Escalation, Limits, Output, OutputPolicy, Step, shell
from agentsup._values.command import encode_argv
from agentsup._values.escalation import to_signal
from agentsup._values.number import seconds, whole

# --- commands -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        (["ls", "-l"], [b"ls", b"-l"]),
        (("ls", b"\xff", Path("/tmp")), [b"ls", b"\xff", b"/tmp"]),
        (["é", "\udcff", ""], ["é".encode(), b"\xff", b""]),
        (Command(("ls", "a b")), [b"ls", b"a b"]),
        (Command(["ls"]), [b"ls"]),  # type: ignore[arg-type]
        (shell("ls | wc"), [b"/bin/sh", b"-c", b"ls | wc"]),
        (shell("ls", executable="/bin/bash"), [b"/bin/bash", b"-c", b"ls"]),
    ],
)
def test_words_become_bytes(command: agentsup.Command | list[str], argv: list[bytes]) -> None:
    assert encode_argv(command) == argv


@pytest.mark.parametrize("make", [encode_argv, Command])
@pytest.mark.parametrize(
    ("command", "says"),
    [("ls -l", r"not str; .*agentsup\.shell"), (b"ls", "not bytes"), (5, "not 5"), (None, "None")],
)
def test_what_is_no_sequence_of_words_is_refused(
    make: Callable[[object], object], command: object, says: str
) -> None:
    with pytest.raises(TypeError, match=f"command must be a sequence of .*{says}"):
        make(command)


@pytest.mark.parametrize("script", [b"ls", ["ls"], None])
def test_a_shell_script_is_a_str(script: object) -> None:
    with pytest.raises(TypeError, match="script must be a str"):
        shell(script)  # type: ignore[arg-type]


def test_a_command_shows_as_a_shell_would_read_it() -> None:
    assert str(Command(("rm", "a b", b"\xff", Path("c")))) == "rm 'a b' '\udcff' c"


def test_a_relative_path_is_looked_up_in_the_directory_that_it_is_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "sub" / "bin" / "tool"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    for path in ("bin", "/nowhere:bin", str(program.parent)):
        result = agentsup.run_sync(["tool"], cwd="sub", env={"PATH": path})
        assert result.stdout.text == "found\n"


# --- escalation -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", ["TERM", "term", "SIGTERM", "sigterm", 15, signal.SIGTERM], ids=repr
)
def test_a_signal_is_known_by_name_and_number(value: str | int) -> None:
    assert to_signal("number", value) is signal.SIGTERM


@pytest.mark.parametrize("value", ["", "SIG", "TERMINATE", "15", 0, -1, 65, 1.5])
def test_an_unknown_signal_is_refused_by_name(value: str | int) -> None:
    with pytest.raises(ValueError, match=r"number: unknown signal .*such as 'TERM'"):
        to_signal("number", value)


@pytest.mark.parametrize(
    ("given_action", "action"),
    [
        ("INT", signal.SIGINT),
        (2, signal.SIGINT),
        (CLOSE_STDIN, CLOSE_STDIN),
        (["stop", "it"], Command(("stop", "it"))),
        (shell("stop"), shell("stop")),
    ],
)
def test_a_step_takes_signals_commands_and_close_stdin(
    given_action: object, action: object
) -> None:
    assert Step(given_action).action == action  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("NOPE",), ValueError, r"Step\.action"),
        ((True,), TypeError, r"Step\.action"),
        ((b"stop",), TypeError, "command"),
        (([],), ValueError, "command is empty"),
        ((None,), TypeError, "command"),
        (("INT", -1), ValueError, r"Step\.wait"),
        (("INT", "1"), TypeError, r"Step\.wait"),
        (("INT", True), TypeError, r"Step\.wait"),
        (("INT", math.nan), ValueError, r"Step\.wait"),
        (("INT", math.inf), ValueError, r"Step\.wait must be finite"),
        (("INT", None), ValueError, r"Step\.wait must be finite"),
    ],
)
def test_a_step_refuses_by_name(
    arguments: tuple[object, ...], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        Step(*arguments)  # type: ignore[arg-type]


def test_an_escalation_takes_steps_alone() -> None:
    with pytest.raises(TypeError, match="Escalation takes Step objects, not 'TERM'"):
        Escalation("TERM")  # type: ignore[arg-type]


def test_escalations_are_values() -> None:
    one, same, other = (Escalation(Step("INT", wait)) for wait in (1.0, 1.0, 2.0))
    assert one == same != other
    assert hash(one) == hash(same)
    assert one != (Step("INT", 1.0),)
    assert pickle.loads(pickle.dumps(one)) == one == copy.deepcopy(one)
    assert repr(one).startswith("Escalation(Step(action=<Signals.SIGINT")


# --- numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "result"), [(None, None), (math.inf, None), (1, 1.0), (0, 0.0), (0.5, 0.5)]
)
def test_seconds_may_be_without_bound(value: float | None, result: float | None) -> None:
    assert seconds("it", value) == result


@pytest.mark.parametrize("timeout", [3e6, 1e12, 1e300, math.inf])
def test_no_timeout_is_too_long(timeout: float) -> None:
    result = agentsup.run_sync(["sleep", "0.05"], timeout=timeout, idle_timeout=timeout)
    assert result.ok  # it was told of the start by then, so only the timeout was left to wait for


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("1", TypeError),
        (True, TypeError),
        (1j, TypeError),
        (-0.1, ValueError),
        (-math.inf, ValueError),
        (math.nan, ValueError),
        (0, ValueError),
        (10**400, ValueError),
    ],
)
def test_seconds_refuse_by_name(value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^it .*seconds"):
        seconds("it", value, zero=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "error"),
    [("1", TypeError), (True, TypeError), (1.0, TypeError), (0, ValueError), (8, ValueError)],
)
def test_whole_numbers_refuse_by_name(value: object, error: type[Exception]) -> None:
    assert whole("it", 1, "calls", least=1, most=7) == 1
    with pytest.raises(error, match=r"^it must be .*calls"):
        whole("it", value, "calls", least=1, most=7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({"memory": 0}, ValueError),
        ({"memory": 1.5}, TypeError),
        ({"memory": 2**63}, ValueError),
        ({"cpu_time": 0}, ValueError),
        ({"cpu_time": -1.0}, ValueError),
        ({"cpu_time": True}, TypeError),
        ({"cpu_time": math.nan}, ValueError),
        ({"cpu_time": 1e300}, ValueError),
        ({"processes": 0}, ValueError),
        ({"open_files": 2}, ValueError),
        ({"file_size": -1}, ValueError),
        ({"cpu_quota": "2"}, TypeError),
        ({"io_weight": 10_001}, ValueError),
    ],
)
def test_limits_refuse_by_name(limits: dict[str, object], error: type[Exception]) -> None:
    (name,) = limits
    with pytest.raises(error, match=rf"^Limits\.{name} "):
        Limits(**limits)  # type: ignore[arg-type]


def test_a_quota_is_counted_in_cpus() -> None:
    with pytest.raises(ValueError, match=r"Limits\.cpu_quota must be more than zero CPUs"):
        Limits(cpu_quota=0)


def test_infinity_is_no_limit() -> None:
    assert Limits(cpu_time=math.inf, cpu_quota=math.inf) == Limits()


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        ({"head": -1}, ValueError),
        ({"head": None}, TypeError),
        ({"tail": 1.5}, TypeError),
        ({"limit": -1}, ValueError),
        ({"limit": True}, TypeError),
        ({"spill_dir": 5}, TypeError),
        ({"spill_dir": b"/tmp"}, TypeError),
        ({"merge_stderr": "no"}, TypeError),
        ({"on_line": "print"}, TypeError),
    ],
)
def test_output_policies_refuse_by_name(policy: dict[str, object], error: type[Exception]) -> None:
    (name,) = policy
    with pytest.raises(error, match=rf"^OutputPolicy\.{name} must be "):
        OutputPolicy(**policy)  # type: ignore[arg-type]


def test_output_policies_take_what_they_should() -> None:
    policy = OutputPolicy(head=0, tail=0, limit=0, spill_dir=Path("/tmp"), on_line=print)
    assert (policy.head, policy.limit, policy.spill_dir) == (0, 0, Path("/tmp"))


# --- output ---------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"))


def kept(data: bytes, head: int, tail: int) -> Output:
    rest = data[head:]
    return Output(data[:head], rest[-tail:] if tail else b"", len(data))


@given(TEXT, st.integers(0, 30), st.integers(0, 30))
def test_a_cut_breaks_no_character(text: str, head: int, tail: int) -> None:
    data = text.encode()
    output = kept(data, head, tail)
    assert output.total_bytes == len(data)
    assert output.truncated == (len(data) > head + tail)
    assert "\ufffd" not in output.text
    if not output.truncated:
        assert output.text == text
    else:
        gap = f"\n[… {len(data) - head - tail} bytes omitted …]\n"
        assert output.omitted_bytes == len(data) - head - tail
        before, _, after = output.text.partition(gap)
        assert text.startswith(before)
        assert text.endswith(after)
        assert len(before.encode()) > head - 4
        assert len(after.encode()) > tail - 4


@given(st.binary(max_size=40), st.integers(0, 12), st.integers(0, 12))
def test_any_bytes_are_text(data: bytes, head: int, tail: int) -> None:
    output = kept(data, head, tail)
    assert isinstance(output.text, str)
    if not output.truncated:
        assert output.text == data.decode("utf-8", "replace")
        assert output.omitted_bytes == 0


def test_what_is_not_utf8_is_marked() -> None:
    assert Output(b"a\xffb", b"\xc3", 4).text == "a\ufffdb\ufffd"


def test_values_are_frozen_and_compare_by_value() -> None:
    assert Output(b"a", b"", 1) == Output(b"a", b"", 1) != Output(b"b", b"", 1)
    with pytest.raises(AttributeError):
        Output().head = b"x"  # type: ignore[misc]
