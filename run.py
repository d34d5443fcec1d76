#!/usr/bin/env python3
"""Runs Trunkline on this machine: ./run.py starts everything, ./run.py test runs the tests.

Makes .venv from requirements.lock when needed, then hands over to app.localstack. Standard library only; parses on any
Python 3, so that an old one gets a sentence instead of a syntax error.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
STAMP = VENV / "trunkline.stamp"
PYTHON = VENV / "bin" / "python"
LAUNCHER = VENV / "bin" / "trunkline"

OLDEST_PYTHON = (3, 11)
"""The version that Debian 12 ships, and the oldest that the requirements are locked for."""

OLDEST_PIP = (22, 3)
"""The first pip that can install into another environment (--python)."""

UNREACHABLE = re.compile(
    "NewConnectionError|Failed to establish a new connection|Name or service not known|CERTIFICATE_"
)
"""What pip writes before it claims that no version of a package exists."""

COMMANDS = ("serve", "test", "soak", "bench")
"""What app.localstack offers; a new one needs its name here and a line in USAGE."""

LAUNCHER_TEXT = """\
#!/bin/sh
# The command line of Trunkline (docs/cli.md), from any folder; made by ./run.py prepare.
bin=$(dirname "$(readlink -f "$0")")
PYTHONPATH="$bin/../..${PYTHONPATH:+:$PYTHONPATH}" exec "$bin/python" -P -m app.cli "$@"
"""
"""Trunkline is not installed as a package, so that no installer writes this for us."""

USAGE = """\
usage: ./run.py [-v]             start everything and provision a demo number; Ctrl-C ends it
       ./run.py test [ARGS]      run the tests; ARGS go to pytest, paths relative to the project
       ./run.py soak [--operations N] [--seed S] [--json]
                                500 operations under faults and kills, on a stack of its own; exit 0 if all is well
       ./run.py bench [NAMES...] [--json] [--quick]
                                measure accept, one, many, status, steps, growth, bulk beside their floors
       ./run.py prepare          only make .venv, with the command line .venv/bin/trunkline

  -v, --verbose   show every log line, not only warnings and errors (all are in DATA_DIR/logs)

Settings come from the environment or from .env (see .env.example). Set DATABASE_URL, REDIS_URL or the
providers' credentials, and yours are used instead of the embedded stores and the sandbox.
State lies in .data (DATA_DIR) and survives a restart; the API listens on port 8080 (PORT).
"""


class PrepareError(Exception):
    """The environment cannot be made; the message is the one line that the user sees."""


def main(arguments: list[str]) -> int:
    """Prepare the environment and become the command; return only when there is nothing to become."""
    if arguments[:1] in (["-h"], ["--help"], ["help"]):
        sys.stdout.write(USAGE)
        return 0
    command = "serve" if not arguments or arguments[0].startswith("-") else arguments[0]
    rest = arguments[1:] if arguments[:1] == [command] else arguments
    if command not in (*COMMANDS, "prepare"):
        sys.stderr.write(f"unknown command {command!r}\n{USAGE}")
        return 2
    try:
        prepare()
    except PrepareError as error:
        sys.stderr.write(f"run.py: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    if command != "prepare":
        become(command, rest)
    return 0


def become(command: str, arguments: list[str]) -> NoReturn:
    """Go on as the environment's Python, under the same process id: signals and exit codes need no relay."""
    os.chdir(ROOT)
    sys.stdout.flush()
    # Bytecode lies in ignored folders; without it every process compiles all it imports: a start takes 16 s, not 4.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.execv(PYTHON, [str(PYTHON), "-m", "app.localstack", command, *arguments])  # noqa: S606 - our own interpreter


def prepare() -> None:
    """Make or refresh .venv unless it already is what requirements.lock asks for; one run at a time."""
    if sys.version_info < OLDEST_PYTHON:
        wanted, found = ".".join(map(str, OLDEST_PYTHON)), sys.version.split()[0]
        raise PrepareError(f"needs Python {wanted} or newer; {sys.executable} is {found}. Try: python{wanted} run.py")
    stamp = _stamp()
    if _is_current(stamp):
        _write_launcher()
        return
    with LOCK.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_current(stamp):
            started = time.monotonic()
            _say("Preparing .venv (first run or new requirements)")
            _make_venv()
            _install()
            _write_launcher()
            STAMP.write_text(stamp, encoding="utf-8")
            _say(f"  ready after {time.monotonic() - started:.1f} s")


def _write_launcher() -> None:
    """Put `trunkline` into .venv/bin unless it is there as it should be; whole or not at all."""
    if LAUNCHER.exists() and LAUNCHER.read_text(encoding="utf-8") == LAUNCHER_TEXT:
        return
    fresh = LAUNCHER.with_name(f".trunkline.{os.getpid()}")
    fresh.write_text(LAUNCHER_TEXT, encoding="utf-8")
    fresh.chmod(0o755)
    fresh.replace(LAUNCHER)


def _stamp() -> str:
    """Return what the environment is made of; its path too, since the scripts in it carry theirs."""
    made_of = [hashlib.sha256(LOCK.read_bytes()).hexdigest(), sys.version, sys.base_prefix, str(VENV)]
    return "\n".join(made_of) + "\n"


def _is_current(stamp: str) -> bool:
    try:
        return STAMP.read_text(encoding="utf-8") == stamp and PYTHON.exists()
    except OSError:
        return False


def _make_venv() -> None:
    """Make the environment without pip: Debian's python3 has no ensurepip."""
    done = _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(VENV)])
    if done.returncode:
        raise PrepareError(f"cannot make {VENV}: {_last_line(done)}")


def _install() -> None:
    """Install what is locked, every file by hash: with uv, which takes a tenth of the time, or else with pip."""
    count = len(re.findall(r"(?m)^[a-z0-9]", LOCK.read_text(encoding="utf-8")))
    _check_pip()
    uv = _install_uv()
    if uv:
        _say(f"  installing {count} packages")
        done = _run([str(uv), "pip", "install", "--python", str(PYTHON), "--require-hashes", "-r", str(LOCK)])
        if not done.returncode:
            return
        _say(f"  uv could not ({_last_line(done)}); trying pip")
    _say(f"  installing {count} packages with pip; this takes about half a minute")
    done = _run([*_pip(), "install", "--require-hashes", "-r", str(LOCK)])
    if done.returncode:
        raise PrepareError(f"cannot install the requirements: {_last_line(done)}")


def _check_pip() -> None:
    done = _run([sys.executable, "-m", "pip", "--version"])
    found = re.match(r"pip (\d+)\.(\d+)", done.stdout)
    if done.returncode or not found:
        raise PrepareError(f"{sys.executable} has no pip. On Debian: apt-get install python3-pip")
    if tuple(map(int, found.groups())) < OLDEST_PIP:
        raise PrepareError(f"needs pip {'.'.join(map(str, OLDEST_PIP))} or newer; found {'.'.join(found.groups())}")


def _install_uv() -> Path | None:
    """Put the locked uv into the environment; None when the lock has none or it does not install here."""
    entry = re.search(r"(?m)^uv==(?:.*\\\n)*.*\n", LOCK.read_text(encoding="utf-8"))
    if entry is None:
        return None
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as only_uv:
        only_uv.write(entry.group())
        only_uv.flush()
        done = _run([*_pip(), "install", "--require-hashes", "-r", only_uv.name])
    uv = VENV / "bin" / "uv"
    return uv if not done.returncode and uv.exists() else None


def _pip() -> list[str]:
    return [sys.executable, "-m", "pip", "--python", str(PYTHON), "--disable-pip-version-check", "--no-input"]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    # The caller's own environment is not ours to inherit: VIRTUAL_ENV or PYTHONPATH would lead pip and uv astray.
    environ = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)  # noqa: S603


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the line that says why: no network, the last error, else the last line."""
    if UNREACHABLE.search(done.stderr):
        return "the package index cannot be reached (network, proxy or certificates)"
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines or ["no reason given"])[-1]


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
