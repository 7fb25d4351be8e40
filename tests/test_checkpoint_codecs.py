"""Values as bytes: what is taken comes back equal, and what would not is refused."""

from __future__ import annotations

import json
import math
import sys
from collections import OrderedDict, namedtuple

import pytest
from attrs import define, frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsup.checkpoint import AttrsCodec, BytesCodec, JsonCodec

JSON = JsonCodec()
Point = namedtuple("Point", "x y")

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Surrogates too: file names have them.
    | st.text(st.characters(codec=None, exclude_categories=())),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(max_examples=50)
@given(VALUES)
def test_json_comes_back(value) -> None:
    assert JSON.decode(JSON.encode(value)) == value


def test_json_can_be_read_by_anybody() -> None:
    assert (
        JSON.encode({"name": "Zoë", "steps": [1, None]})
        == '{"name":"Zoë","steps":[1,null]}'.encode()
    )
    assert json.loads(JSON.encode(OrderedDict(a=1))) == {"a": 1}


def nested(depth: int) -> object:
    value: object = None
    for _ in range(depth):
        value = [value]
    return value


def circle() -> object:
    value: list[object] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (math.nan, ValueError, "not JSON compliant"),
        ({"loss": [-math.inf]}, ValueError, "not JSON compliant"),
        ((1, 2), ValueError, r"^value: JSON would turn \(1, 2\) into \[1, 2\]"),
        ({"at": [0, Point(1, 2)]}, ValueError, r"^value\['at'\]\[1\]: .* into \[1, 2\]"),
        ({1: "a"}, ValueError, r"^value: JSON would turn {1: 'a'} into {'1': 'a'}"),
        ({"a": {None: 1}}, ValueError, r"^value\['a'\]: .* into {'null': 1}"),
        ({"1": "a", 1: "b"}, ValueError, "^value"),
        ({1, 2}, TypeError, "set"),
        (b"bytes", TypeError, "bytes"),
        (object(), TypeError, "object"),
        (nested(sys.getrecursionlimit() * 200), ValueError, "nested too deeply"),
        (circle(), ValueError, "Circular"),
    ],
)
def test_json_refuses_what_would_not_come_back(value, kind, message) -> None:
    with pytest.raises(kind, match=message):
        JSON.encode(value)


def test_a_message_has_no_whole_state_in_it() -> None:
    with pytest.raises(ValueError, match="JSON would turn") as caught:
        JSON.encode({"history": ("word",) * 10_000})
    assert len(str(caught.value)) < 300


def test_bytes_are_taken_as_they_are() -> None:
    assert BytesCodec().decode(BytesCodec().encode(b"\0\xff")) == b"\0\xff"
    with pytest.raises(TypeError, match="value must be bytes, not str"):
        BytesCodec().encode("text")  # type: ignore[arg-type] # which is what is tested


# --- attrs ------------------------------------------------------------------------------------


@frozen
class Step:
    name: str
    size: tuple[int, int]
    data: bytes = b""


@define
class State:
    steps: list[Step]
    by_number: dict[int, Step]


@define
class Larger(State):
    more: int = 0


STATE = State([Step("fetch", (1, 2), b"\0\xff")], {7: Step("send", (3, 4))})


class TestAttrs:
    @pytest.fixture
    def codec(self) -> AttrsCodec[State]:
        pytest.importorskip("cattrs")
        return AttrsCodec(State)

    def test_comes_back(self, codec) -> None:
        data = codec.encode(STATE)
        assert json.loads(data)["steps"][0]["name"] == "fetch"
        assert codec.decode(data) == STATE

    def test_a_converter_of_ones_own(self) -> None:
        converter = pytest.importorskip("cattrs.preconf.json").make_converter()
        converter.register_unstructure_hook(Step, lambda step: [step.name, *step.size])
        converter.register_structure_hook(Step, lambda data, _: Step(data[0], (data[1], data[2])))
        codec = AttrsCodec(Step, converter)
        assert codec.encode(Step("fetch", (1, 2))) == b'["fetch",1,2]'
        with pytest.raises(ValueError, match="cattrs would turn Step"):
            codec.encode(Step("fetch", (1, 2), b"is forgotten"))

    @pytest.mark.parametrize(
        ("value", "kind", "message"),
        [
            ({"steps": []}, TypeError, "must be an object of State"),
            (Larger([], {}, 1), ValueError, "cattrs would turn Larger"),
            (State([Step("x", (1, 2, 3))], {}), ValueError, "cattrs would turn State"),
            (State([Step("x", ("a", 2))], {}), ValueError, "cannot structure State"),
            (State([Step("x", (math.inf, 2))], {}), ValueError, "not JSON compliant"),
        ],
    )
    def test_refuses_what_would_not_come_back(self, codec, value, kind, message) -> None:
        with pytest.raises(kind, match=message):
            codec.encode(value)

    def test_takes_attrs_classes_only(self) -> None:
        for other in (int, STATE, "State"):
            with pytest.raises(TypeError, match="cls must be an attrs class"):
                AttrsCodec(other)

    def test_says_what_to_install(self, monkeypatch) -> None:
        for name in [name for name in sys.modules if name.startswith("cattrs")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "cattrs", None)
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'agentsup\[cattrs\]'"):
            AttrsCodec(State)
