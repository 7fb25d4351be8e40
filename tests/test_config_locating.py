"""In which line of a TOML document each key is."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsup.config.locating import locate

STRINGS = [
    '"a # [b]"',
    "'a # \"[b]'",
    '"\\"]\\\\"',
    '""',
    "''",
    '"""\none\n"two" \\"""\n"""',
    '"""x""""',
    "'''\n[table]\nkey = 1\n'''",
    "''''x'''''",
    '"""\\\n   \\\n"""',
]
OTHERS = ["1", "0x1F", "1e3", "inf", "true", "1979-05-27 07:32:00Z", "07:32:00", "1_000"]
BLANKS = ["", " ", "\t"]
BREAKS = ["\n", "\n\n", ' # a ] } comment = "\n', "\r\n"]


class Writer:
    """A document with a key of its own in every place, written in one of many ways."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.count = 0

    def choose(self, among: list[str]) -> str:
        return self.draw(st.sampled_from(among))

    def key(self) -> str:
        self.count += 1
        name = f"k{self.count}k"
        return self.choose([name, f'"{name}"', f"'{name}'", f'"\\u006b{self.count}k"'])

    def dotted(self) -> str:
        gap = f"{self.choose(BLANKS)}.{self.choose(BLANKS)}"
        return gap.join(self.key() for _ in range(self.draw(st.integers(1, 3))))

    def value(self, depth: int = 0) -> str:
        kind = self.draw(st.integers(0, 3 if depth < 3 else 1))
        if kind == 2:
            gap = lambda: self.choose([*BLANKS, *BREAKS])  # noqa: E731
            some = [f"{gap()}{self.value(depth + 1)}{gap()}" for _ in self.several()]
            end = self.choose(["", f",{gap()}"]) if some else gap()
            return f"[{','.join(some)}{end}]"
        if kind == 3:
            some = [f" {self.dotted()} = {self.value(depth + 1)} " for _ in self.several()]
            return f"{{{','.join(some)}}}"
        return self.choose(STRINGS if kind else OTHERS)

    def several(self) -> range:
        return range(self.draw(st.integers(0, 3)))

    def pairs(self) -> str:
        blank = self.choose(BLANKS)
        return "".join(
            f"{blank}{self.dotted()}{blank}={blank}{self.value()}{self.choose(BREAKS)}"
            for _ in self.several()
        )

    def document(self) -> str:
        text = self.choose(["", "\n", "# first\n"]) + self.pairs()
        headers: list[str] = []
        for _ in self.several():
            below = self.choose(headers) + "." if headers and self.draw(st.booleans()) else ""
            name = below + self.dotted()
            many = self.draw(st.booleans())
            for _ in range(self.draw(st.integers(1, 3)) if many else 1):
                text += f"[[{name}]]\n" if many else f"[ {name} ] # x\n"
                text += self.pairs()
            headers.append(name)
        return text


def paths(value: Any, at: tuple[str | int, ...] = ()) -> Any:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in inner:
        yield (*at, key)
        if isinstance(one, (dict, list)):
            yield from paths(one, (*at, key))


@given(st.data())
def test_each_key_is_in_the_line_where_it_first_stands(data: Any) -> None:
    text = Writer(data.draw).document()
    said = tomllib.loads(text)
    lines = locate(text)
    split = text.split("\n")
    for path in paths(said):
        assert path in lines, (text, path)
        if isinstance(path[-1], str):  # however it is quoted
            assert path[-1].removeprefix("k") in split[lines[path] - 1], (text, path)


DOCUMENT = """\
top = 1

[service.web]          # 3
command = [
  "a",                 # 5
  # no member
  "]",
]
text = '''
[service.hidden]
x = 1
'''
env = {A = "1", B = {c = 2}}   # 13

[service]              # explicitly, after what is below it: 15
"dotted.key".'x y' = 1

[[health]]             # 18
tcp = 1
[[health]]
tcp = 2                # 21
[health.below]
z = 3
[[health.many]]
[[health.many]]        # 25
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 1),
        (("service", "web"), 3),
        (("service", "web", "command"), 4),
        (("service", "web", "command", 0), 5),
        (("service", "web", "command", 1), 7),
        (("service", "web", "env"), 13),
        (("service", "web", "env", "B", "c"), 13),
        (("service",), 15),
        (("service", "dotted.key"), 16),
        (("service", "dotted.key", "x y"), 16),
        (("health",), 18),
        (("health", 0), 18),
        (("health", 0, "tcp"), 19),
        (("health", 1), 20),
        (("health", 1, "tcp"), 21),
        (("health", 1, "below", "z"), 23),
        (("health", 1, "many"), 24),
        (("health", 1, "many", 1), 25),
    ],
)
def test_where_it_is(path: tuple[str | int, ...], line: int) -> None:
    assert locate(DOCUMENT)[path] == line


def test_nothing_is_found_within_a_string() -> None:
    assert not any("hidden" in path or "x" in path for path in locate(DOCUMENT))


def test_a_line_can_end_as_on_windows() -> None:
    assert locate('a = """\r\n"""\r\nb = 1\r\n') == {("a",): 1, ("b",): 3}
