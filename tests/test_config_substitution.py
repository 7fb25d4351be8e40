"""Variables in a file, and files of variables."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsup.config.substitution import conceal, expand, expand_words, parse_env_file

VARIABLES = {"PORT": "8000", "EMPTY": "", "WORDS": "one 'two three'  four", "_x1": "y"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("nothing", "nothing"),
        ("${PORT}", "8000"),
        ("a${PORT}b${_x1}", "a8000by"),
        ("${WORDS}", "one 'two three'  four"),
        ("${NONE:-80}", "80"),
        ("${NONE:-}", ""),
        ("${EMPTY:-80}", "80"),
        ("${EMPTY}", ""),
        ("${PORT:-80}", "8000"),
        ("$${PORT}", "${PORT}"),
        ("$$$$", "$$"),
        ("$PORT", "$PORT"),
        ("100$", "100$"),
        ("$(date)", "$(date)"),
        ("${NONE:-a:-b}", "a:-b"),
    ],
)
def test_a_text(text: str, value: str) -> None:
    assert expand(text, VARIABLES) == value


@pytest.mark.parametrize("text", ["${NONE}", "x${NONE}y", "${NONE}${PORT}"])
def test_what_is_not_set_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"\$\{NONE\} is not set"):
        expand(text, VARIABLES)


@pytest.mark.parametrize("text", ["${", "${}", "${1}", "${A-B}", "${PORT", "${ PORT }"])
def test_what_is_no_variable_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="no variable"):
        expand(text, VARIABLES)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["a", "$PORT"], ["a", "8000"]),
        (["$WORDS"], ["one", "two three", "four"]),
        (["${WORDS}"], ["one 'two three'  four"]),
        (["x", "$EMPTY", "${EMPTY}"], ["x", ""]),
        (["a$PORT", "$PORT/b"], ["a$PORT", "$PORT/b"]),
        (["$$PORT"], ["$PORT"]),
    ],
)
def test_words(words: list[str], values: list[str]) -> None:
    assert list(expand_words(words, VARIABLES)) == values


def test_words_that_cannot_be_told_apart_are_not_shown() -> None:
    with pytest.raises(ValueError, match="value of \\$X cannot be split") as caught:
        expand_words(["$X"], {"X": "it's"})
    assert "it's" not in str(caught.value)


@given(st.text())
def test_a_doubled_dollar_is_a_dollar(text: str) -> None:
    assert expand(text.replace("$", "$$"), {}) == text


@given(st.lists(st.text(st.characters(exclude_characters="\0"), min_size=1)))
def test_a_word_alone_is_split_as_a_shell_does(words: list[str]) -> None:
    assert list(expand_words(["$X"], {"X": shlex.join(words)})) == words


# --- what a message does not have -------------------------------------------------------------


@pytest.mark.parametrize("value", ["s3cr3t", "it's", "käse", "tab\there", "two words"])
@pytest.mark.parametrize("show", [str, repr, ascii])
def test_a_value_is_replaced_by_its_name(value: str, show: object) -> None:
    assert callable(show)
    reason = conceal(f"not {show(f'x{value}')}", ["x${KEY}"], {"KEY": value})
    assert value not in reason
    assert "${KEY}" in reason


def test_of_a_value_that_is_split_no_word_is_shown() -> None:
    assert conceal("'secret2'", ["$KEY"], {"KEY": "secret1 secret2"}) == "'${KEY}'"


# --- files, as in systemd.exec(5) -------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("", {}),
        ("A=1", {"A": "1"}),
        ("A=1\nB=2\n", {"A": "1", "B": "2"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("# x\n; A=1\n\n  # B=2\nC=3", {"C": "3"}),
        ("# x \\\nA=1", {"A": "1"}),
        ("no assignment\nA=1", {"A": "1"}),
        ("  A = 1 2  \n", {"A": "1 2"}),
        ("A=", {"A": ""}),
        ("A=\nB=1", {"A": "", "B": "1"}),
        ("A=1\nA=2", {"A": "2"}),
        ("A=x=y", {"A": "x=y"}),
        ("A=x # y", {"A": "x # y"}),
        ("A=$B ${C}", {"A": "$B ${C}"}),
        ("A=x \\\n y", {"A": "x  y"}),
        ("A=a\\bc\\\\d", {"A": "abc\\d"}),
        ("A=x\\ \n", {"A": "x "}),
        ('A=it\'s "so"', {"A": 'it\'s "so"'}),
        ("A='x \\ y' \nB=1", {"A": "x \\ y", "B": "1"}),
        ("A='one\ntwo'\nB=1", {"A": "one\ntwo", "B": "1"}),
        ('A="x \\"y\\" \\$ \\` \\\\ \\n"', {"A": 'x "y" $ ` \\ \\n'}),
        ('A="one \\\ntwo"', {"A": "one two"}),
        ('A="one\ntwo"', {"A": "one\ntwo"}),
        ("A='x'\"y\"z", {"A": "xyz"}),
        ('A="" \n', {"A": ""}),
        ("A=\t'x'", {"A": "x"}),
        ("A=1\\", {"A": "1"}),
    ],
)
def test_a_file(text: str, variables: dict[str, str]) -> None:
    assert parse_env_file(text) == variables


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("A=1\nexport B=secret", "^2: .*leave out 'export'"),
        ("\n\n1A=secret", "^3: .*no name of a variable"),
        ("=secret", "^1: .*no name of a variable"),
        ("secret-secret==", "^1: .*no name of a variable"),
        ("A=1\nB='secret", "^2: B: a quote is not closed"),
        ('B="secret\nC=1', "^1: B: a quote is not closed"),
        ("B=secret\0", "^1: B: .*NUL"),
    ],
)
def test_a_file_that_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse_env_file(text)
    assert "secret" not in str(caught.value)


VALUE = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]))


@given(st.dictionaries(st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_]*\Z"), VALUE))
def test_a_value_in_single_quotes_is_what_it_is(variables: dict[str, str]) -> None:
    quoted = {name: "'" + value.replace("'", "'\"'\"'") + "'" for name, value in variables.items()}
    text = "".join(f"{name}={value}\n" for name, value in quoted.items())
    assert parse_env_file(text) == variables


@given(st.text())
def test_any_text_is_a_file_or_an_error(text: str) -> None:
    try:
        assert "\0" not in "".join(parse_env_file(text).values())
    except ValueError as error:
        if not str(error)[0].isdigit():
            raise
