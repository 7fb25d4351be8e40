"""Results in words: a reason for every end, text for a model, JSON for a log."""

from __future__ import annotations

import json
import signal

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

import agentsup
from agentsup import (
    Containment,
    Found,
    Leftover,
    Outcome,
    Output,
    Result,
    TakenStep,
    ToolFailed,
    Usage,
)


def output(text: str | bytes) -> Output:
    data = text.encode() if isinstance(text, str) else text
    return Output(data, b"", len(data))


RESULT = Result(
    argv=("tool", "-v"),
    name="tool",
    outcome=Outcome.EXITED,
    exit_code=0,
    signal=None,
    stdout=Output(),
    stderr=Output(),
    duration=1.26,
    queued=0.0,
    usage=Usage(0.1, 0.2, 1024),
    escalation=(),
    leftovers=(),
    leftover_count=0,
    containment=Containment.SUBREAPER,
    pid=7,
)
STOPPED_BY_US = [o for o in Outcome if o not in (Outcome.EXITED, Outcome.SIGNALED)]
ANY_END = st.builds(
    lambda outcome, code, number: evolve(RESULT, outcome=outcome, exit_code=code, signal=number),
    st.sampled_from(Outcome),
    st.none() | st.integers(0, 255),
    st.none() | st.sampled_from(signal.Signals) | st.just(40),
)


@pytest.mark.parametrize(
    ("outcome", "exit_code", "number", "reason"),
    [
        (Outcome.EXITED, 0, None, "exited with status 0"),
        (Outcome.EXITED, 3, None, "exited with status 3"),
        (Outcome.SIGNALED, None, signal.SIGSEGV, "killed by SIGSEGV"),
        (Outcome.SIGNALED, None, 40, "killed by signal 40"),
        (Outcome.TIMED_OUT, None, signal.SIGKILL, "timed out after 1.3 s, ended by SIGKILL"),
        (Outcome.TIMED_OUT, 0, None, "timed out after 1.3 s, then exited with status 0"),
        (Outcome.IDLE, None, None, "idle after 1.3 s"),
        (Outcome.STOPPED, None, 40, "stopped after 1.3 s, ended by signal 40"),
    ],
)
def test_the_reason_says_why_and_how(
    outcome: Outcome, exit_code: int | None, number: signal.Signals | int | None, reason: str
) -> None:
    result = evolve(RESULT, outcome=outcome, exit_code=exit_code, signal=number)
    assert result.reason == reason


def test_a_signal_without_a_name_is_a_signal() -> None:
    result = agentsup.run_sync(agentsup.shell("kill -40 $$"))
    assert (result.outcome, result.signal) == (Outcome.SIGNALED, 40)


@pytest.mark.parametrize("outcome", STOPPED_BY_US)
def test_the_reason_names_what_stopped_it(outcome: Outcome) -> None:
    assert evolve(RESULT, outcome=outcome, exit_code=None).reason == f"{outcome.value} after 1.3 s"


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("exit_code", [None, 0, 1])
def test_only_an_exit_by_itself_with_status_0_is_ok(
    outcome: Outcome, exit_code: int | None
) -> None:
    result = evolve(RESULT, outcome=outcome, exit_code=exit_code)
    assert result.ok == (outcome is Outcome.EXITED and exit_code == 0)
    if result.ok:
        assert result.check() is result
    else:
        with pytest.raises(ToolFailed) as caught:
            result.check()
        assert caught.value.result is result


class TestForModel:
    @given(
        result=ANY_END,
        out=st.text(max_size=60),
        err=st.text(max_size=60),
        out_times=st.sampled_from([1, 3, 100]),
        err_times=st.sampled_from([1, 3, 100]),
        leftovers=st.sampled_from([0, 1, 12345]),
        room=st.sampled_from([200, 201, 250, 1000, 8000]),
    )
    def test_it_fits_and_ends_with_the_reason(
        self,
        result: Result,
        out: str,
        err: str,
        out_times: int,
        err_times: int,
        leftovers: int,
        room: int,
    ) -> None:
        out, err = out * out_times, err * err_times
        result = evolve(
            result,
            stdout=output(out.encode(errors="replace")),
            stderr=output(err.encode(errors="replace")),
            leftover_count=leftovers,
        )
        text = result.for_model(room)
        assert len(text) <= room
        assert text.splitlines()[-1].startswith(f"[{result.reason}")
        told = {0: "]", 1: "one other process", 12345: "12345 other processes"}[leftovers]
        assert told in text.splitlines()[-1]

    def test_what_fits_is_given_whole(self) -> None:
        result = evolve(RESULT, stdout=output("one\n"), stderr=output("two"))
        assert result.for_model() == "one\n[stderr]\ntwo\n[exited with status 0]"

    @pytest.mark.parametrize(
        ("out", "err", "text"),
        [
            ("", "", "[exited with status 0]"),
            ("out", "", "out\n[exited with status 0]"),
            ("out\n", "", "out\n[exited with status 0]"),
            ("", "err", "err\n[exited with status 0]"),
        ],
    )
    def test_one_stream_needs_no_title(self, out: str, err: str, text: str) -> None:
        assert evolve(RESULT, stdout=output(out), stderr=output(err)).for_model() == text

    @pytest.mark.parametrize("room", [200, 300, 1000])
    def test_what_does_not_fit_keeps_its_beginning_and_its_end(self, room: int) -> None:
        result = evolve(
            RESULT,
            stdout=output("FIRST" + "o" * 5000 + "LAST"),
            stderr=output("WORST" + "e" * 5000 + "DONE"),
        )
        text = result.for_model(room)
        assert [word for word in ("FIRST", "LAST", "WORST", "DONE") if word not in text] == []
        assert len(text) > room - 5, "the room is used"

    def test_a_short_error_is_whole_beside_a_long_output(self) -> None:
        result = evolve(RESULT, stdout=output("o" * 5000), stderr=output("no such table: users"))
        assert "[stderr]\nno such table: users\n" in result.for_model(400)

    def test_a_short_output_is_whole_beside_a_long_error(self) -> None:
        result = evolve(RESULT, stdout=output("42 rows"), stderr=output("e" * 5000))
        text = result.for_model(400)
        assert text.startswith("42 rows\n[stderr]\ne")
        assert len(text) > 395, "the error has all the room that is left"

    def test_bytes_that_were_dropped_earlier_are_admitted(self) -> None:
        result = evolve(RESULT, stdout=Output(b"head", b"tail", 1008))
        assert "head\n[… 1000 bytes omitted …]\ntail\n" in result.for_model()

    @pytest.mark.parametrize("room", [199, 0, -1])
    def test_too_little_room_is_refused_by_name(self, room: int) -> None:
        with pytest.raises(ValueError, match=f"max_chars must be at least 200, not {room}"):
            RESULT.for_model(room)


class TestToDict:
    @given(ANY_END, st.binary(max_size=20))
    def test_every_end_is_plain_json(self, result: Result, data: bytes) -> None:
        result = evolve(
            result,
            stdout=output(data),
            stderr=Output(b"a", b"b", 100, spill_path="/x", spill_error="full"),
            escalation=(TakenStep("SIGTERM", 0.5),),
            leftovers=(Leftover(8, ("sleep", "9"), Found.ORPHAN, killed=False),),
            leftover_count=1,
        )
        told = result.to_dict()
        assert json.loads(json.dumps(told)) == told
        assert told["reason"] == result.reason
        assert told["stdout"]["text"] == result.stdout.text
        assert told["stderr"] == {
            "text": result.stderr.text,
            "total_bytes": 100,
            "truncated": True,
            "spill_path": "/x",
            "spill_error": "full",
        }
        assert told["escalation"] == [{"action": "SIGTERM", "at": 0.5}]
        assert told["leftovers"] == [
            {"pid": 8, "argv": ["sleep", "9"], "found": "ORPHAN", "killed": False}
        ]

    def test_it_has_every_field_of_the_result(self) -> None:
        fields = set(Result.__slots__) - {"__weakref__"}
        assert fields <= RESULT.to_dict().keys()

    @pytest.mark.parametrize(
        ("number", "told"), [(None, None), (signal.SIGTERM, "SIGTERM"), (40, "signal 40")], ids=repr
    )
    def test_a_signal_goes_by_its_name(self, number: int | None, told: str | None) -> None:
        assert evolve(RESULT, signal=number).to_dict()["signal"] == told
