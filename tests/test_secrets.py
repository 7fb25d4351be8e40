"""Secrets are kept out of arguments, and out of what came of a call."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import re
from types import SimpleNamespace

import anyio
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

import agentsup
from agentsup import OutputPolicy
from agentsup._calls.capture import Capture
from agentsup._rules.secrets import SHORTEST, hidden_parts, mask, mask_result
from agentsup._tree.job import Job

from_here = pytest.mark.anyio
PIECE = 4

# --- the rule ---------------------------------------------------------------------------------


@st.composite
def leaks(draw):
    """Secrets, and what somebody has printed who has them. Of few letters: they overlap, with
    others and with themselves."""
    secret = st.text("abc", min_size=SHORTEST, max_size=14).map(str.encode)
    hidden = draw(st.lists(secret, min_size=1, max_size=3))
    other = st.text("abcx", max_size=9).map(str.encode)
    pieces = draw(st.lists(st.one_of(st.sampled_from(hidden), other), max_size=12))
    return tuple(hidden), b"".join(pieces)


def occurrences(hidden, printed):
    for one, place in itertools.product(hidden, range(len(printed))):
        if printed.startswith(one, place):
            yield place, place + len(one)


def all_masked(hidden, printed):
    masked = bytearray(printed)
    for first, last in occurrences(hidden, printed):
        masked[first:last] = b"*" * (last - first)
    return bytes(masked)


def check_hidden(shown, start, hidden, printed):
    """``shown`` is what was printed from ``start`` on, and no piece of a secret is in it."""
    for first, last in occurrences(hidden, printed):
        seen = shown[max(first - start, 0) : max(last - start, 0)]
        assert len(seen) < PIECE or set(seen) == {ord("*")}
    whole = printed[start : start + len(shown)]
    assert all(new in (old, ord("*")) for new, old in zip(shown, whole, strict=True))


@given(leaks())
def test_uncut_each_byte_of_a_secret_is_masked_and_nothing_else(leak):
    hidden, printed = leak
    assert mask(printed, hidden) == all_masked(hidden, printed)


@given(leaks(), st.data())
def test_of_a_cut_secret_no_piece_is_left(leak, data):
    hidden, printed = leak
    start = data.draw(st.integers(0, len(printed)))
    end = data.draw(st.integers(start, len(printed)))
    shown = mask(printed[start:end], hidden, begins=start == 0, ends=end == len(printed))
    assert len(shown) == end - start
    check_hidden(shown, start, hidden, printed)


@given(leaks(), st.integers(0, 40), st.integers(0, 40), st.integers(1, 20))
def test_head_and_tail_of_a_result(leak, head, tail, chunk):
    hidden, printed = leak
    capture = Capture("stdout", OutputPolicy(head=head, tail=tail))
    for place in range(0, len(printed), chunk):
        capture.feed(memoryview(printed)[place : place + chunk])
    kept = capture.output()
    out = mask_result(evolve(a_result(), stdout=kept), hidden).stdout
    assert (len(out.head), len(out.tail)) == (len(kept.head), len(kept.tail))
    if out.truncated:
        check_hidden(out.head, 0, hidden, printed)
        check_hidden(out.tail, len(printed) - len(out.tail), hidden, printed)
    else:
        assert out.head + out.tail == all_masked(hidden, printed)


@functools.cache
def a_result():
    return agentsup.run_sync(["true"])


@given(leaks(), st.data())
def test_what_is_read_of_a_job_adds_up_to_the_masked_whole(leak, data):
    hidden, printed = leak
    read = ""
    place = 0
    with a_job(hidden) as job:
        while place < len(printed):
            size = data.draw(st.integers(1, 8))
            job.take(memoryview(printed)[place : place + size])
            place += size
            if data.draw(st.booleans()):
                read += job.read_new(data.draw(st.integers(1, 12)))
        job.over.set()
        while job.unread:
            read += job.read_new(data.draw(st.integers(1, 12)))
    assert read == all_masked(hidden, printed).decode()


@given(leaks(), st.data())
def test_the_tail_of_a_job_shows_no_piece(leak, data):
    hidden, printed = leak
    place = data.draw(st.integers(0, len(printed)))
    size = data.draw(st.integers(1, 20))
    with a_job(hidden) as job:
        job.take(memoryview(printed)[:place])
        shown = job.tail(1, max_bytes=size).encode()
    check_hidden(shown, place - len(shown), hidden, printed)


@given(leaks(), st.integers(4, 40), st.integers(1, 20))
def test_what_is_left_of_a_job_shows_no_piece(leak, keep, size):
    hidden, printed = leak
    with a_job(hidden, keep) as job:
        job.take(memoryview(printed))
        job.over.set()
        read = ""
        while job.unread:
            read += job.read_new(size)
    note, shown = re.fullmatch(r"(\n\[… \d+ bytes lost …\]\n)?(.*)", read).groups()
    lost = int(note.split()[1]) if note else 0
    assert lost + len(shown) == len(printed)
    check_hidden(shown.encode(), lost, hidden, printed)


def a_job(hidden, keep=1 << 20):
    call = SimpleNamespace(spec=SimpleNamespace(secrets=hidden))
    return contextlib.closing(Job("job-1", call, keep))


def test_the_lines_of_a_secret_are_hidden_one_by_one():
    assert hidden_parts(b"hunter22\n") == [b"hunter22"]
    key = b"-----BEGIN KEY-----\r\n  abcdefgh\n=\n-----END KEY-----\n"
    assert hidden_parts(key) == [b"-----BEGIN KEY-----", b"abcdefgh", b"-----END KEY-----"]
    assert hidden_parts(b"short") == hidden_parts(b" short \n\n") == []


# --- end to end -------------------------------------------------------------------------------

KEY = "sk-s3cr3t-0123456789"
STARS = "*" * len(KEY)
LEAKY = 'echo "out $KEY"; echo "err $KEY" >&2; '


def everything(result):
    """All that a result has to say."""
    return f"{result} {json.dumps(result.to_dict())} {result.for_model()}"


def test_a_result():
    result = agentsup.run_sync(agentsup.shell(LEAKY + "exit 3"), secrets={"KEY": f"{KEY}\n"})
    assert result.stdout.text == f"out {STARS}\n\n"  # the newline of the secret is printed, too
    assert result.stderr.text == f"err {STARS}\n\n"
    assert STARS in result.for_model()
    with pytest.raises(agentsup.ToolFailed) as failed:
        result.check()
    assert STARS in str(failed.value)
    assert KEY not in everything(result) + str(failed.value) + repr(failed.value)


@pytest.mark.parametrize("size", [26, 30, 32])
def test_a_result_that_was_cut(size):
    script = "for i in 1 2 3; do echo $KEY; done"
    policy = OutputPolicy(head=size, tail=size)
    result = agentsup.run_sync(agentsup.shell(script), secrets={"KEY": KEY}, output=policy)
    assert result.stdout.truncated == (size < 32)
    assert len(result.stdout.head + result.stdout.tail) == min(2 * size, 3 * len(KEY) + 3)
    assert not set(result.stdout.head + result.stdout.tail) - set(b"*\n")


def in_arguments(marker):
    """It ends with a process whose arguments hold the secret."""
    script = f'sh -c ": >ready; sleep {marker}; :" "--token=$KEY" >/dev/null 2>&1 &'
    return agentsup.shell(script + "until [ -e ready ]; do sleep 0.02; done")


@from_here
async def test_arguments_that_a_shell_has_made_of_it(marker, tmp_path):
    options = {"cwd": tmp_path, "secrets": {"KEY": KEY}}
    result = await agentsup.run(in_arguments(marker), **options)
    assert any(f"--token={STARS}" in left.argv for left in result.leftovers)
    assert KEY not in everything(result)
    (tmp_path / "ready").unlink()
    async with agentsup.Supervisor() as sup:
        result = await sup.run(in_arguments(marker), leftovers="adopt", **options)
        (node,) = sup.tree()
        for adopted in (result.adopted, node.adopted):
            assert any(f"--token={STARS}" in left.argv for left in adopted)
        assert KEY not in f"{everything(result)} {node}"


@from_here
async def test_what_a_cancelled_call_has_come_to(eventually, tmp_path):
    caught = []

    async def call():
        try:
            await agentsup.run(
                agentsup.shell(LEAKY + ": >ready; sleep 600"),
                cwd=tmp_path,
                secrets={"KEY": KEY},
            )
        except BaseException as error:
            caught.append(error)
            raise

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await eventually((tmp_path / "ready").exists)
        tasks.cancel_scope.cancel()
    partial = agentsup.last_partial(caught[0])
    assert partial.stdout.text == f"out {STARS}\n"
    assert KEY not in everything(partial)


@from_here
async def test_streams_are_what_was_printed_and_the_result_is_not():
    async with agentsup.Supervisor() as sup:
        command = agentsup.shell("echo $KEY")
        async with sup.open(command, secrets={"KEY": KEY}) as process:
            assert [line async for line in process.lines()] == [KEY]
            result = await process.wait()
    assert result.stdout.text == f"{STARS}\n"


@from_here
async def test_a_job_that_prints_it_in_two_parts(eventually, tmp_path):
    half = len(KEY) // 2
    script = f"""
        printf 'key: %s' {KEY[:half]}
        until [ -e go ]; do sleep 0.02; done
        echo "${{KEY#{KEY[:half]}}}"
    """
    async with agentsup.Supervisor() as sup:
        job = await sup.background(agentsup.shell(script), cwd=tmp_path, secrets={"KEY": KEY})
        await eventually(lambda: job.unread == len("key: ") + half)
        assert job.read_new() == "key: "
        assert job.tail() == "key: " + "*" * half
        (tmp_path / "go").touch()
        result = await job.wait()
        assert job.read_new() == STARS + "\n"
        assert job.tail() == result.stdout.text == f"key: {STARS}\n"
        assert KEY not in everything(result)


@from_here
async def test_a_shell():
    from agentsup.shells import Shell

    async with agentsup.Supervisor() as sup, Shell(sup, secrets={"KEY": KEY}) as shell:
        result = await shell.run(LEAKY + f": {KEY}; false")
        assert result.stdout.text == f"out {STARS}\n"
        assert result.stderr.text == f"err {STARS}\n"
        assert not result.ok
        assert KEY not in everything(result)


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secrets", "error", "message"),
    [
        ({"KEY": "hunter"}, ValueError, r"command\[1\] holds the secret 'KEY'"),
        ({"KEY": "hunter\n"}, ValueError, r"command\[1\] holds the secret 'KEY'"),
        ({"KEY": "hunt"}, ValueError, r"secrets\['KEY'\] is shorter than 6 bytes"),
        ({"KEY": "abc\n  def  \n"}, ValueError, "shorter than 6 bytes"),
        ({"KEY": 1234567}, TypeError, r"secrets\['KEY'\] must be a str, not 1234567"),
        ({"K=Y": "hunter22"}, ValueError, "secrets: 'K=Y' cannot be the name of a variable"),
        ({"KEY": "hunter\0002"}, ValueError, r"secrets\['KEY'\] holds a NUL byte"),
        (["hunter22"], TypeError, "secrets must be a mapping, not list"),
    ],
)
def test_bad_secrets(secrets, error, message):
    with pytest.raises(error, match=message) as caught:
        agentsup.run_sync(["echo", "--password=hunter"], secrets=secrets)
    assert "hunter" not in str(caught.value) or "hunter" not in str(secrets)


def test_it_is_in_the_environment_in_the_place_of_another():
    for options in ({}, {"env": {"KEY": "no"}}, {"env": {}, "extend_env": {"KEY": "no"}}):
        printed = agentsup.run_sync(["/usr/bin/env"], secrets={"KEY": KEY}, **options).stdout.text
        assert [line for line in printed.splitlines() if "KEY=" in line] == [f"KEY={STARS}"]
