"""No planted secret survives, and what is none stays."""

from __future__ import annotations

import json
import re
import shlex
import string
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentsup._rules import redaction
from agentsup._rules.redaction import REDACTED, is_secret, redact, redact_also, redact_argv

NAMES = [
    *("TOKEN", "GITHUB_TOKEN", "GITHUB_TOKEN_2", "token", "access_token", "accessToken"),
    *("x-auth-token", "API_KEY", "apiKey", "x-api-key", "AWS_SECRET_ACCESS_KEY", "client_secret"),
    *("clientSecret", "DB_PASSWORD", "password", "passwd", "passphrase", "DB_PASS", "db-pass"),
    *("PGPASSWORD", "credentials", "private_key", "AccountKey", "SIGNING_KEY", "SOME_KEY"),
]
# It holds one that nothing else does.
MARK = "Qq7Zz"


def planted(before: str, after: str) -> str:
    # Behind an option, "--a" would be the next one.
    return before.removeprefix("--") + MARK + after


WORDS = st.text(string.ascii_letters + string.digits + "_-.+/=%^*!", max_size=12)
SECRETS = st.builds(planted, WORDS, WORDS)
ANY_TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12)
ANY_SECRETS = st.builds(planted, ANY_TEXT, ANY_TEXT)
AROUND = st.sampled_from(["", "a ", "run: ", "\n", "x=1 ", "(", "[", "é "])


@given(st.sampled_from(NAMES), ANY_SECRETS)
@example("password", '-x it\'s "$HOME" \\ {}')
@example("TOKEN", "a;b&c=d?e f\nQq7Zz")
@example("TOKEN", "\rQq7Zz\\")
@example("TOKEN", "\\'Qq7Zz")
def test_a_word_of_a_command_tells_of_its_secret(name: str, secret: str) -> None:
    for argv in (
        ["tool", f"--{name}={secret}", "next"],
        ["tool", f"-{name}={secret}"],
        ["tool", f"--{name}", secret, "next"],
        ["tool", f"-{name}", secret],
        ["env", f"{name}={secret}", "tool"],
        ["kubectl", f"--from-literal={name}={secret}"],
        ["curl", "-H", f"X-Auth-Token: {secret}"],
        ["curl", "-H", f"Authorization: Bearer {secret}"],
        ["curl", f"-HAuthorization: Basic {secret}"],
        ["curl", "-b", "x", "-H", f"Cookie: session={secret}; a=b"],
        ["curl", "-u", f"bob:{secret}", "https://example.org"],
        ["curl", f"--user=bob:{secret}"],
        ["docker", "exec", "db", "/usr/bin/mysql", f"-p{secret}", "base"],
        ["sshpass", "-p", secret, "ssh", "host"],
        ["redis-cli", "-a", secret, "get", "x"],
        ["sh", "-c", f"export {name}={shlex.quote(secret)}; ls"],
        ["sh", "-c", f"tool --{name} {shlex.quote(secret)} | wc"],
    ):
        redacted = redact_argv(argv)
        assert MARK not in "\0".join(redacted)
        assert len(redacted) == len(argv)
        assert [word for word in redacted if word in argv]  # what is no secret


@given(st.sampled_from(NAMES), SECRETS, AROUND)
def test_a_text_tells_of_its_secret(name: str, secret: str, around: str) -> None:
    # Of these, only the one with "=" is told from what anybody might write.
    item = "token" if name in ("DB_PASS", "db-pass", "SOME_KEY") else name
    for text in (
        f"{name}={secret}",
        f"export {name}='{secret} {secret}' && ls",
        f'--{name}="{secret} {secret}"',
        f"tool --{name} {secret}",
        f"{item}: {secret}",
        f"{name} = {secret}",
        repr({item: f"{secret} {secret}"}),
        repr({item.encode(): secret.encode()}),
        json.dumps({item: secret, "other": 1}),
        json.dumps(json.dumps({item: f"{secret} {secret}"})),
        repr(["tool", f"--{name}", f"{secret} {secret}"]),
        repr(["tool", f"--{name}={secret} {secret}"]),
        json.dumps(["tool", f"--{name}", secret], separators=(",", ":")),
        shlex.join(["tool", f"{name}={secret} it's"]).replace("it", secret),
        f"curl -H 'Authorization: Bearer {secret}' https://example.org",
        f"authorization: Basic {secret}",
        f"Cookie: a={secret}; b={secret}",
        f"curl -s -u bob:{secret} https://example.org",
        f"curl -u 'bob:{secret} {secret}' https://example.org",
        f"mysql -h db -p{secret} base",
        f"sshpass -p {secret} ssh host",
        f"redis-cli -h db -a {secret} get x",
        f"postgresql://bob:{quote(secret, safe='')}@db.example.org:5432/base",
        f"redis://:{quote(secret, safe='')}@db",
        f"https://0123456789abcdef{quote(secret, safe='')}@example.org/x.git",
        f"https://example.org/?a=1&{name}={secret}&b=2",
        f"https://example.org/?sig={secret}",
        f"https://example.org/?X-Amz-Signature={secret}#there",
    ):
        assert MARK not in redact(around + text), around + text


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-4fJ2kd93kdKDJ39dkKD93jdkD",
        "sk-ant-api03-4fJ2kd93kdKDJ39dkKD93jdkD-AA",
        "ghp_4fJ2kd93kdKDJ39dkKD93jdkD0123456789a",
        "github_pat_11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz",
        "glpat-4fJ2kd93kdKDJ39dkKD9",
        "xoxb-123456789012-123456789012-abcdefABCDEF",
        "AKIAIOSFODNN7EXAMPLE",
        "AIzaSyA-4fJ2kd93kdKDJ39dkKD93jdkD012345",
        "xapp-1-A0123456789-4fJ2kd93kdKDJ39dkKD",
        "rk_test_4fJ2kd93kdKDJ39dkKD93jdk",
        "ghr_4fJ2kd93kdKDJ39dkKD93jdkD0123456789a",
        "ya29.a0AfH6SMC4fJ2kd93kdKDJ39dkKD93jdk",
        "dop_v1_4fd2ad93adad39dada93dada0123456789",
        "pypi-AgEIcHlwaS5vcmcCJDRmSjJrZDkza2RLREoz",
        "SG.4fJ2kd93kdKDJ39dkKD93j.dkD0123456789a4fJ2kd93kdKDJ39dkKD93",
        "hf_abcdefghijklmnopqrstuvwxyzABCDEF",
        "sk_live_4fJ2kd93kdKDJ39dkKD93jdk",
        "npm_4fJ2kd93kdKDJ39dkKD93jdkD0123456789a",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
        "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgk\nhkiG9w0BAQEFAAS\n-----END PRIVATE KEY-----",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAA",
    ],
)
def test_what_well_known_issuers_give_out_is_found_anywhere(secret: str) -> None:
    for text in (secret, f"got {secret}", f"['{secret}']", f"x={secret}", f"a\\n{secret}"):
        assert secret[-10:] not in redact(text)
        assert REDACTED in redact(text)
    assert redact_argv(["tool", secret]) == ("tool", REDACTED)


def test_what_is_around_it_stays() -> None:
    assert redact("https://hooks.slack.com/services/T0123/B0123/4fJ2kd93kd") == (
        "https://hooks.slack.com/services/[redacted]"
    )
    assert redact("https://bob:pw@db/x?token=a&b=2#f") == (
        "https://bob:[redacted]@db/x?token=[redacted]&b=2#f"
    )
    assert redact(repr({"password": "a b", "x": [1]})) == "{'password': [redacted], 'x': [1]}"
    assert redact('{"apiKey":"a","x":1}') == '{"apiKey":[redacted],"x":1}'
    assert redact("TOKEN='a b' make") == "TOKEN=[redacted] make"
    assert redact("-----BEGIN PRIVATE KEY-----\na\n-----END PRIVATE KEY-----\nb") == "[redacted]\nb"
    assert redact_argv(["sh", "-c", "API_KEY=x pytest -q"]) == (
        *("sh", "-c", "API_KEY=[redacted] pytest -q"),
    )
    assert redact_argv(["psql", "--password", "-h", "db"]) == ("psql", "--password", "-h", "db")


ORDINARY = r"""
git commit -m 'Fix token refresh' --author 'A B <a@example.org>'
git clone git@github.com:owner/name.git
git clone ssh://git@example.org:22/name
git -c credential.helper= push origin HEAD:main
pytest -q tests/test_token.py::TestToken::test_refresh -k 'token and not secret' -p no:cacheprovider
docker run --rm -p 8080:80 -u 1000:1000 --name mysql -e LANG=C -v /a:/b org/secret-service:1.2
docker run --name mysql -p3306:3306 mysql:8
docker login --password-stdin -u bob registry.example.org
psql --no-password base -h localhost -U postgres -c 'select 1'
mysql -u root -p base
python -m http.server 8000 --bind 127.0.0.1
python -c 'import sys; print(sys.argv)'
vllm serve model --max-tokens 4096 --tokenizer name --max-num-batched-tokens=8192
env TOKENIZERS_PARALLELISM=false MAX_TOKENS=4096 PWD=/home/bob OLDPWD=/tmp KEYBOARD=us make
env PASSWORD_FILE=/run/secrets/db SSH_AUTH_SOCK=/tmp/agent TOKEN_URL=https://example.org make
ssh -p 2222 -i /home/bob/.ssh/id_ed25519 -o PasswordAuthentication=no bob@example.org
curl -fsSL -o file https://example.org:8443/path/a@b?page=2&sort=name
curl -u bob https://example.org
rg -n 'password' src
kubectl get secret name -o yaml
vault kv get secret/name
gpg --passphrase-fd 3 --decrypt file
chrome --password-store=basic --headless
find . -name '*.key' -path '*/pass/*'
rsync -auv src host:/path
task-runner disk-usage-of-something risk-assessment-of-everything
sort --key=2 -t : file
ls -la /usr/share/keyrings
make secretary compass=north bypass=1 monkey=2
""".strip().splitlines()


@pytest.mark.parametrize("line", ORDINARY)
def test_ordinary_commands_stay_as_they_are(line: str) -> None:
    argv = shlex.split(line)
    assert redact_argv(argv) == tuple(argv)
    assert redact(line) == line


def test_ordinary_lines_stay_as_they_are() -> None:
    for line in (
        "web: active: ready after 1.2 s",
        "POST http://127.0.0.1:8080/v1/x HTTP/1.1 200, mail to a@example.org",
        "usage: input_tokens=12, output_tokens: 34, max_tokens = 5",
        "[Errno 2] No such file or directory: '/home/bob/tokens'",
        "PASS: 12 tests",
        "the bearer of this is tokenized",
    ):
        assert redact(line) == line


@given(st.text(max_size=200))
@example("token=[redacted]")
def test_twice_is_once(text: str) -> None:
    assert redact(redact(text)) == redact(text)


FRAGMENTS = [
    *("token", "TOKEN=", "'token=", "--token ", "pass:", '"password": "', "://a:", "@", "?key="),
    *(
        "&",
        "'",
        '"',
        "\\",
        '\\"',
        " ",
        "\n",
        "-",
        "--",
        "=",
        ":",
        "a",
        "_",
        "curl -u 'a:",
        "mysql ",
    ),
    *("Bearer ", "Cookie: ", "sk-", "eyJ", "ghp_", "-----BEGIN PRIVATE KEY-----", "sshpass -p"),
]


@given(st.lists(st.sampled_from([*FRAGMENTS, "x1", "/", "xoxb-", "AKIA", "sig=", "PAT=", "pwd="])))
def test_nothing_is_a_secret_that_no_hint_announces(fragments: list[str]) -> None:
    from agentsup._rules.secret_forms import IN_TEXT

    text = "".join(fragments)
    if any(pattern.search(text) for pattern, _ in IN_TEXT):
        assert redaction._hints(text)


def hostile() -> Iterator[str]:
    yield from FRAGMENTS
    for first in FRAGMENTS[::4]:
        for second in FRAGMENTS:
            yield first + second


def test_no_text_takes_forever() -> None:
    # In time by the square of its length, or worse, just one of these would take minutes.
    for seed in hostile():
        redact(seed * (2000 // len(seed)))
    for seed in FRAGMENTS:
        redact(seed * (20_000 // len(seed)))


def test_names_that_are_secret() -> None:
    assert all(map(is_secret, NAMES))
    assert is_secret("Authorization")
    assert is_secret("GITHUB_PAT")
    for name in ("max_tokens", "PATH", "PWD", "token_count", "pass_rate", "author", "key"):
        assert not is_secret(name)


@pytest.fixture
def more() -> Iterator[None]:
    before = list(redaction._also)
    yield
    redaction._also[:] = before


@pytest.mark.usefixtures("more")
def test_more_can_be_made_a_secret() -> None:
    redact_also(r"ACME-\d+")
    redact_also(re.compile("hunter2", re.IGNORECASE))
    redact_also(r"ACME-\d+")
    assert redact("ACME-123 of Hunter2") == "[redacted] of [redacted]"
    assert redact_argv(["tool", "x=ACME-1", "y"]) == ("tool", "x=[redacted]", "y")
    assert len(redaction._also) == 2


@pytest.mark.parametrize(
    ("pattern", "kind", "message"),
    [
        ("(", ValueError, "pattern is not a regular expression: missing"),
        ("x*", ValueError, "pattern matches the empty text"),
        (b"x", TypeError, "pattern must be a str or a compiled one, not b'x'"),
        (re.compile(b"x"), TypeError, "pattern must be a str"),
        (None, TypeError, "pattern must be a str or a compiled one, not None"),
    ],
)
def test_a_bad_pattern_is_one_clear_error(pattern, kind, message) -> None:
    before = list(redaction._also)
    with pytest.raises(kind, match=re.escape(message)):
        redact_also(pattern)
    assert redaction._also == before
