"""The file of a checkpoint: whatever is done to its bytes is noticed."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsup._errors import FormatTooNew
from agentsup.checkpoint import Retention, format, generations
from agentsup.checkpoint.retention import Generation, surplus

PAYLOAD = b'{"line":"one\ntwo"}'


def file_of(number: int, payload: bytes) -> bytes:
    return format.encode(number, payload) + payload


def file_of_version(version: int, rest: bytes) -> bytes:
    """As the contract between all versions has it, with anything between."""
    start = b"agentsup-checkpoint/%d %s " % (version, rest)
    return start + hashlib.sha256(start + PAYLOAD).hexdigest().encode() + b"\n" + PAYLOAD


@given(number=st.integers(1, 10**12 - 1), payload=st.binary())
def test_what_goes_in_comes_out(number: int, payload: bytes) -> None:
    assert format.decode(number, file_of(number, payload)) == payload


def test_a_file_that_was_cut_short_at_any_byte() -> None:
    whole = file_of(7, PAYLOAD)
    for length in range(len(whole)):
        with pytest.raises(format.Damaged):
            format.decode(7, whole[:length])


def test_any_bit_that_was_flipped() -> None:
    whole = file_of(7, PAYLOAD)
    for place in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            with pytest.raises(format.Damaged):
                format.decode(7, bytes(changed))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (bytes(100), "has no header"),
        (file_of(7, PAYLOAD)[:-5], "has 13 bytes after its header instead of 18"),
        (file_of(7, PAYLOAD) + b"more", "has 22 bytes after its header instead of 18"),
        (file_of(7, PAYLOAD).replace(b"one", b"One"), "does not match its checksum"),
        (file_of(8, PAYLOAD), "is another generation by its header: 8 18"),
        (file_of_version(1, b"anything"), "is another generation"),
    ],
)
def test_says_what_is_wrong(content: bytes, reason: str) -> None:
    with pytest.raises(format.Damaged, match=reason):
        format.decode(7, content)


def test_a_newer_version_is_believed_with_its_checksum_only() -> None:
    newer = file_of_version(2, b"fields of which nobody knows yet")
    assert format.version_of(newer[: format.HEADER_MAX]) == 2
    with pytest.raises(FormatTooNew, match="has format 2, and this version of agentsup knows 1"):
        format.decode(7, newer)
    with pytest.raises(format.Damaged):
        format.decode(7, newer.replace(b"nobody", b"nobodY"))


def test_what_is_somebody_elses_is_no_generation(tmp_path) -> None:
    for name in ("a.1", "a.20250101", "a.tmp", "a.lock", "a.0000000000001", "b.000000000001"):
        (tmp_path / name).touch()
    for number in (2, 10, 9):
        (tmp_path / f"a.{number:012}").touch()
    found = generations.find(str(tmp_path / "a"))
    assert [generation.number for generation in found] == [10, 9, 2]


# --- retention --------------------------------------------------------------------------------

LISTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=8)
BOUNDS = st.none() | st.integers(0, 20)


@given(values=LISTS, keep=st.integers(1, 9), max_bytes=BOUNDS, max_age=BOUNDS)
def test_what_is_kept(values, keep, max_bytes, max_age) -> None:
    found = [Generation(9 - i, size, at) for i, (size, at) in enumerate(values)]
    dropped = surplus(found, keep, Retention(max_bytes=max_bytes, max_age=max_age), now=10.0)
    kept = [generation for generation in found if generation not in dropped]
    assert kept[:1] == found[:1], "the newest, always"
    assert len(kept) <= keep
    older = kept[1:]
    assert max_age is None or all(10 - generation.written_at <= max_age for generation in older)
    assert max_bytes is None or not older or sum(g.size for g in kept) <= max_bytes
    assert dropped == sorted(dropped, key=lambda generation: generation.number)
    if max_bytes is max_age is None:
        assert len(kept) == min(keep, len(found)), "and nothing without a reason"


def test_a_clock_that_was_set_back_drops_nothing() -> None:
    found = [Generation(2, 1, 10.0), Generation(1, 1, 9e9)]
    assert surplus(found, 3, Retention(max_age=60), now=20.0) == []


@pytest.mark.parametrize(
    ("bounds", "kind", "message"),
    [
        ({"max_bytes": -1}, ValueError, "Retention.max_bytes"),
        ({"max_bytes": "1M"}, TypeError, "Retention.max_bytes"),
        ({"max_age": -1}, ValueError, "Retention.max_age"),
        ({"max_age": True}, TypeError, "Retention.max_age"),
    ],
)
def test_bounds_that_are_none(bounds, kind, message) -> None:
    with pytest.raises(kind, match=message):
        Retention(**bounds)
