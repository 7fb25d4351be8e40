"""The project's tasks; `python -m nox --list` names them."""

import functools
import os
import shutil
import subprocess
import sys
import tempfile

import nox

PYPROJECT = nox.project.load_toml()
PYTHONS = nox.project.python_versions(PYPROJECT)

nox.options.sessions = ["tests", "lint", "types"]
# tests_all skips a Python that is not installed, on CI too.
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False


def group(name: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(PYPROJECT, name)


@nox.session(reuse_venv=True)
def demo(session: nox.Session) -> None:
    """Show an agent's session and what is left of it."""
    session.install(".[cli]")
    session.run("python", "examples/agent_session", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Test on the Python that runs nox."""
    session.install(".[cli,daemon,testing]", *group("test"))
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS)
def tests_all(session: nox.Session) -> None:
    """Test on every supported Python that is installed."""
    tests(session)


@nox.session(python=False)
def tests_unprivileged(session: nox.Session) -> None:
    """Test as nobody, on a Python and a copy that nobody can read."""
    run_as_nobody(session, "pytest", *session.posargs)


@nox.session
def escapes(session: nox.Session) -> None:
    """Show which programs get away from which end of a host, as root and as nobody."""
    session.install(".[testing]")
    table = ("python", "tests/escapes/table.py")
    if os.geteuid() != 0 or session.posargs:
        session.run(*table, *session.posargs)
        if os.geteuid() == 0:
            run_as_nobody(session, *table, *session.posargs)
    else:
        with tempfile.TemporaryDirectory() as shared:
            os.chmod(shared, 0o777)
            results = [f"{shared}/{user}" for user in ("root", "nobody")]
            session.run(*table, "--save", results[0])
            run_as_nobody(session, *table, "--save", results[1])
            session.run("python", "tests/escapes/page.py", "docs/containment.md", *results)


def run_as_nobody(session: nox.Session, *command: str) -> None:
    if shutil.which("setpriv") is None or os.geteuid() != 0:
        session.skip("only root can become nobody, and needs setpriv for it")
    # setpriv starts its program with root's capabilities still on, `env` starts the next without.
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env"]

    def runs_as_nobody(python: str) -> bool:
        check = [*as_nobody, python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        return subprocess.run(check, capture_output=True).returncode == 0

    names = ["python3", *(f"python{version}" for version in PYTHONS)]
    pythons = [os.path.join(folder, name) for folder in os.get_exec_path() for name in names]
    python = next(filter(runs_as_nobody, pythons), None)
    if python is None:
        session.skip("nobody can run none of the Pythons in $PATH")

    # Apart, for pytest looks above a folder for its configuration.
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as tmp:
        scripts = f"{home}/venv/bin"
        run = functools.partial(session.run, external=True)
        run(sys.executable, "-m", "virtualenv", "-q", "-p", python, f"{home}/venv")
        run(f"{scripts}/pip", "install", "-q", ".[cli,daemon,testing]", *group("test"))
        copied = "README.md", "benchmarks", "docs", "examples", "pyproject.toml", "tests"
        run("cp", "-R", *copied, home)
        run("chown", "-R", "65534:65534", home, tmp)
        env = ["-i", f"HOME={home}", f"TMPDIR={tmp}", f"PATH={scripts}:{os.defpath}"]
        env += [f"{name}={value}" for name, value in os.environ.items() if "AGENTSUP_" in name]
        with session.chdir(home):
            run(*as_nobody, *env, *command)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy and pyright."""
    frameworks = "inspect,langchain,mcp,openai-agents,pty,pydantic-ai"
    session.install(f".[cattrs,cli,daemon,otel,testing,{frameworks}]", *group("types"))
    session.run("mypy")
    session.run("pyright")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure what a call and its containment cost, beside their peers."""
    session.install(".[daemon]", *group("bench"))
    names = "call_latency containment services activation checkpoint ledger telemetry shell daemon"
    for name in names.split():
        session.run("python", f"benchmarks/{name}.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    session.install(".[testing]", *group("docs"))
    session.run("sphinx-build", "--fresh-env", "--fail-on-warning", "docs", "docs/_build")
