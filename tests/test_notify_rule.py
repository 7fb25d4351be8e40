"""What is understood of a notification, without a socket."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsup._rules.notify import Message, parse

VALID = {
    "status": st.text(st.characters(exclude_characters="\n\0", codec="utf-8")),
    "errno": st.integers(0, 4095),
    "exit_status": st.integers(0, 255),
    "mainpid": st.integers(1, 2**31 - 1),
    "watchdog_usec": st.integers(0, 2**64 - 1),
    "extend_timeout_usec": st.integers(0, 2**64 - 1),
    "monotonic_usec": st.integers(0, 2**64 - 1),
    "fdname": st.text(
        st.characters(min_codepoint=32, max_codepoint=126, exclude_characters=":"),
        min_size=1,
        max_size=255,
    ),
}
messages = st.fixed_dictionaries({}, optional=VALID)
foreign = st.lists(st.from_regex(rb"\A(X_[A-Z]+=[ -~]*|[a-z ]*)\Z"), max_size=3)


def lines_of(said: dict[str, object]) -> list[bytes]:
    return [f"{name.upper()}={value}".encode() for name, value in said.items()]


@given(messages, foreign)
def test_what_is_said_is_understood(said: dict[str, object], others: list[bytes]) -> None:
    message = parse(b"\n".join([*others, *lines_of(said), *others]))
    assert message == Message(**said)


@given(messages, messages)
def test_the_first_line_of_a_name_counts(
    first: dict[str, object], second: dict[str, object]
) -> None:
    message = parse(b"\n".join(lines_of(first) + lines_of(second)))
    assert message == Message(**{**second, **first})


@given(st.binary(max_size=200))
def test_nonsense_is_survived(data: bytes) -> None:
    parse(data)


NAMES = [field.name.upper().encode() for field in attrs.fields(Message)]


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=30)), max_size=6))
def test_nonsense_in_known_names_is_survived(lines: list[tuple[bytes, bytes]]) -> None:
    message = parse(b"\n".join(name + b"=" + value for name, value in lines))
    assert message.ready + message.reloading + message.stopping <= 1
    if message.fdstore or message.fdstoreremove:
        assert message.fdname


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", {}),
        (b"READY=1", {"ready": True}),
        (b"READY=1\n", {"ready": True}),
        (b"READY=1\0", {"ready": True}),
        (b"RELOADING=1\nMONOTONIC_USEC=007", {"reloading": True, "monotonic_usec": 7}),
        (
            b"STOPPING=1\nEXTEND_TIMEOUT_USEC=5000000",
            {"stopping": True, "extend_timeout_usec": 5000000},
        ),
        (b"RELOADING=1\nREADY=1", {"ready": True}),
        (b"STOPPING=1\nREADY=1\nSTOPPING=1", {"stopping": True}),
        (b"WATCHDOG=1", {"watchdog": "ping"}),
        (b"WATCHDOG=trigger", {"watchdog": "trigger"}),
        (b"STATUS=", {"status": ""}),
        (b"STATUS=a=b \xe2\x9c\x93", {"status": "a=b ✓"}),
        (b"FDSTORE=1", {"fdstore": True, "fdname": "stored"}),
        (
            b"FDSTORE=1\nFDNAME=web\nFDPOLL=0",
            {"fdstore": True, "fdname": "web", "fdpoll": False},
        ),
        (b"FDSTOREREMOVE=1\nFDNAME=web", {"fdstoreremove": True, "fdname": "web"}),
        (
            b"FDSTORE=1\nFDSTOREREMOVE=1\nFDNAME=web",
            {"fdstoreremove": True, "fdname": "web"},
        ),
        (b"BARRIER=1", {"barrier": True}),
        (b"ready=1\nREADY =1\n READY=1\nREADY\nSTATUS", {}),
    ],
)
def test_meanings(data: bytes, said: dict[str, object]) -> None:
    assert parse(data) == Message(**said)


@pytest.mark.parametrize(
    "line",
    [
        b"READY=0",
        b"READY=",
        b"STOPPING=yes",
        b"STATUS=\xff",
        b"ERRNO=-1",
        b"ERRNO=4096",
        b"ERRNO=ENOENT",
        b"EXIT_STATUS=256",
        b"MAINPID=0",
        b"MAINPID=",
        b"MAINPID= 1",
        b"MAINPID=1_0",
        b"MAINPID=2147483648",
        b"MAINPID=" + b"9" * 4000,
        b"WATCHDOG=0",
        b"WATCHDOG_USEC=1.5",
        b"WATCHDOG_USEC=18446744073709551616",
        b"EXTEND_TIMEOUT_USEC=\xd9\xa1",  # a digit, but not ours
        b"FDNAME=a:b",
        b"FDNAME=",
        b"FDNAME=" + b"x" * 256,
        b"FDNAME=\x7f",
        b"FDPOLL=2",
        b"FDSTOREREMOVE=1",
        b"BARRIER=2",
    ],
)
def test_a_bad_line_is_complained_of_and_the_rest_holds(line: bytes) -> None:
    message = parse(b"WATCHDOG=1\n" + line + b"\nX_OTHER=1")
    assert attrs.evolve(message, complaints=()) == Message(watchdog="ping")
    (complaint,) = message.complaints
    assert line.partition(b"=")[0].decode() in complaint
    assert len(complaint) < 200


def test_the_store_has_a_name_when_the_given_one_is_bad() -> None:
    assert parse(b"FDSTORE=1\nFDNAME=a:b").fdname == "stored"


def test_a_barrier_stands_alone() -> None:
    message = parse(b"BARRIER=1\nREADY=1")
    assert (message.barrier, message.ready, len(message.complaints)) == (True, False, 1)


def test_a_nul_spoils_the_whole_message() -> None:
    message = parse(b"READY=1\0\nSTATUS=x")
    assert not message.ready
    assert len(message.complaints) == 1
