"""run.py: what it tells pip and uv, and what it tells a person."""

import fcntl
import importlib.util
import os
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
