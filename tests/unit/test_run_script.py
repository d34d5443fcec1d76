"""run.py: what it tells pip and uv, and what it tells a person."""

import fcntl
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "run.py"

UNPINNED = """\
Collecting pydantic[email]>=2.0
WARNING: Retrying
ERROR: In --require-hashes mode, all requirements must have their versions pinned with ==. These do not:
    pydantic[email]>=2.0 from pydantic-2.14.4-py3-none-any.whl (from apiflask==3.1.2->-r requirements.lock (line 188))
"""


@pytest.fixture(scope="module")
def run_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_whole_reason_of_a_failed_installation_is_told(run_script: ModuleType) -> None:
    told = run_script._reason(subprocess.CompletedProcess([], 1, "", UNPINNED))

    assert told.startswith("ERROR: In --require-hashes mode")
    assert "pydantic[email]>=2.0 from" in told
    assert "Retrying" not in told


def test_a_reason_is_there_even_where_nothing_says_error(run_script: ModuleType) -> None:
    assert run_script._reason(subprocess.CompletedProcess([], 1, "", "  x No solution\n\n")) == "  x No solution"
    assert run_script._reason(subprocess.CompletedProcess([], 1, "", "")) == "no reason given"


@pytest.mark.parametrize(
    ("environ", "configured", "expected"),
    [
        ({}, "", {"PIP_CERT": "/dev/null", "SSL_CERT_FILE": "/dev/null"}),
        ({"SSL_CERT_FILE": "/mine"}, "", {"PIP_CERT": "/mine", "SSL_CERT_FILE": "/mine"}),
        ({"PIP_CERT": "/mine"}, ":env:.cert='/mine'", {"PIP_CERT": "/mine", "SSL_CERT_FILE": "/mine"}),
        ({"REQUESTS_CA_BUNDLE": "/mine"}, "", {"PIP_CERT": "/mine", "SSL_CERT_FILE": "/mine"}),
        ({}, "global.cert='/configured'", {"PIP_CERT": "/configured", "SSL_CERT_FILE": "/configured"}),
        ({"PIP_CERT": "/a", "SSL_CERT_FILE": "/b"}, ":env:.cert='/a'", {"PIP_CERT": "/a", "SSL_CERT_FILE": "/b"}),
        ({}, "install.index-url='https://index.example/simple'", {"UV_DEFAULT_INDEX": "https://index.example/simple"}),
        ({"UV_DEFAULT_INDEX": "https://b.example"}, "global.index-url='x'", {"UV_DEFAULT_INDEX": "https://b.example"}),
    ],
)
def test_pip_and_uv_trust_the_same_certificates_and_use_the_same_index(
    run_script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    environ: Mapping[str, str],
    configured: str,
    expected: Mapping[str, str],
) -> None:
    monkeypatch.setattr(run_script, "SYSTEM_ROOTS", ("/dev/null",))

    assert expected.items() <= run_script.installer_environment(environ, configured).items()


def test_a_machine_without_a_file_of_certificates_leaves_the_choice_to_uv(
    run_script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_script, "SYSTEM_ROOTS", ())

    assert run_script.installer_environment({}, "") == {"UV_SYSTEM_CERTS": "true"}


def _called(*arguments: str, setup: str = "", **options: object) -> subprocess.CompletedProcess[str]:
    """Run the script with its `prepare` replaced by the statement `setup`."""
    code = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('run', sys.argv.pop(1));"
        "run = importlib.util.module_from_spec(spec); spec.loader.exec_module(run);"
        f"run.prepare = lambda: ({setup or None}); sys.exit(run.main(sys.argv[1:]))"
    )
    return subprocess.run(  # noqa: S603 - ours
        [sys.executable, "-c", code, str(SCRIPT), *arguments],
        encoding="utf-8",
        stderr=subprocess.PIPE,
        check=False,
        **{"stdout": subprocess.PIPE, **options},  # type: ignore[call-overload]  # a test's own options
    )


def test_whatever_the_machine_refuses_is_one_sentence() -> None:
    done = _called("prepare", setup="open('/proc/nowhere', 'w')")

    assert (done.returncode, done.stderr) == (1, "run.py: No such file or directory: /proc/nowhere\n")


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1"])
def test_no_character_is_too_much_for_the_terminal(encoding: str) -> None:
    environ = {**os.environ, "PYTHONIOENCODING": encoding}
    done = _called("prepare", setup="run._say('\\u2713 \\u6f22')", env=environ)

    assert (done.returncode, done.stdout, done.stderr) == (0, "\\u2713 \\u6f22\n", "")


def test_an_output_that_takes_nothing_is_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        done = _called("prepare", setup="run._say('x')", stdout=full)

    assert (done.returncode, done.stderr) == (1, "run.py: No space left on device\n")


def test_closed_streams_are_no_reason_to_fail() -> None:
    done = _called("prepare", setup="run._say('x')", stdout=None, preexec_fn=lambda: [os.close(n) for n in (0, 1)])

    assert (done.returncode, done.stderr) == (0, "")


def test_an_installer_ends_with_the_run_that_started_it(run_script: ModuleType, tmp_path: Path) -> None:
    """A child that outlives a SIGTERM would write into the environment that the next run makes."""
    held = tmp_path / "held"
    child = (
        f"import fcntl, time; f = open({str(held)!r}, 'w'); fcntl.flock(f, 2); print('x', flush=True); time.sleep(600)"
    )
    script = (
        "import subprocess, os, signal, threading;"
        "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start();"
        f"run._run([sys.executable, '-c', {child!r}], os.environ)"
    )
    done = _called("prepare", setup=f"exec({script!r}, globals())")

    assert done.returncode == 143
    with held.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_production_is_installed_from_its_own_lock_and_compiled(
    run_script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    taken: list[Path] = []
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "module.py").write_text("")
    for name, value in {"prepare": taken.append, "ROOT": tmp_path, "PYTHON": Path(sys.executable)}.items():
        monkeypatch.setattr(run_script, name, value)

    assert run_script.install() == 0
    assert [lock.name for lock in taken] == ["requirements-runtime.lock"]
    assert [path.name.split(".")[0] for path in tmp_path.rglob("*.pyc")] == ["module"]


def test_code_that_does_not_compile_is_one_sentence(
    run_script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "celeryconfig.py").write_text("x = = 1")
    for name, value in {"prepare": lambda _: None, "ROOT": tmp_path, "PYTHON": Path(sys.executable)}.items():
        monkeypatch.setattr(run_script, name, value)

    with pytest.raises(run_script.PrepareError, match=r"cannot compile: .*celeryconfig\.py"):
        run_script.install()


def test_everything_at_the_top_that_production_imports_is_compiled(run_script: ModuleType) -> None:
    modules = {path.name for path in SCRIPT.parent.glob("*.py")} - {SCRIPT.name}

    assert set(run_script.PRODUCTION_CODE) == {*modules, "app", "tasks", "migrations"}


def _checked(**checks: str) -> subprocess.CompletedProcess[str]:
    """Run `check` with shell commands in place of the tools."""
    replaced = {name: ("sh", "-c", command) for name, command in checks.items()}
    return _called("check", setup=f"setattr(run, 'CHECKS', {replaced!r}), setattr(run, 'VENV', run.Path('/'))")


def test_every_check_that_fails_is_told_whole_and_last() -> None:
    done = _checked(one="echo wrong here; exit 1", two="echo never shown", three="echo and there >&2; exit 3")

    assert done.returncode == 1
    assert [line.split()[:2] for line in done.stdout.splitlines()[:3]] == [
        ["FAILED", "one"],
        ["ok", "two"],
        ["FAILED", "three"],
    ]
    assert re.findall(r"^(?:== \w+|wrong here|and there)", done.stdout, re.MULTILINE) == [
        "== one",
        "wrong here",
        "== three",
        "and there",
    ]
    assert "\nnever shown" not in done.stdout
    assert done.stdout.endswith("\n2 of 3 failed\n")


def test_checks_that_pass_say_no_more_than_that() -> None:
    done = _checked(one="exit 0", two="exit 0")

    assert (done.returncode, len(done.stdout.splitlines())) == (0, 3)
    assert re.search(r"^all passed in \d+\.\d s$", done.stdout, re.MULTILINE)


def test_checks_run_side_by_side(tmp_path: Path) -> None:
    """Each waits for the other: one after the other they would wait until they are ended."""
    wait = f"echo > {tmp_path}/$0; n=0; until [ -e {tmp_path}/{{}} ] || [ $n = 200 ]; do n=$((n+1)); sleep .05; done; "
    wait += f"[ -e {tmp_path}/{{}} ]"
    first, second = (f"sh -c '{wait.format(theirs, theirs)}' {own}" for own, theirs in ("ab", "ba"))

    assert _checked(one=first, two=second).returncode == 0


def test_a_tool_that_is_missing_is_one_sentence() -> None:
    done = _called("check", setup="setattr(run, 'VENV', run.Path('/nowhere'))")

    assert (done.returncode, done.stderr) == (1, "run.py: No such file or directory: /nowhere/bin/ruff\n")


def test_the_build_and_the_hook_call_the_one_list_of_checks(run_script: ModuleType) -> None:
    build = (SCRIPT.parent / ".ci" / "run").read_text(encoding="utf-8")
    hooks = (SCRIPT.parent / ".pre-commit-config.yaml").read_text(encoding="utf-8")

    assert "\nstep check ./run.py check\n" in build
    assert re.findall(r"(?:repo|entry|language): (.+)", hooks) == ["local", "./run.py check", "system"]
    for program, *_ in run_script.CHECKS.values():
        assert not re.search(rf"^step .*\b{program}\b", build, re.MULTILINE)
        assert program not in hooks
