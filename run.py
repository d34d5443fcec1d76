#!/usr/bin/env python3
"""Runs Trunkline on this machine: ./run.py starts everything, ./run.py test runs the tests, ./run.py check the tools.

Makes .venv from requirements.lock when needed, then hands over to app.dev.localstack. Only the checks run from here: a
module that cannot be imported must not stop the tools that say why. Standard library only; parses on any Python 3, so
that an old one gets a sentence instead of a syntax error.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
RUNTIME_LOCK = ROOT / "requirements-runtime.lock"
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

SYSTEM_ROOTS = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
)
"""Files of the certificates that the machine trusts, a company's own among them. uv and pip before 24.2 bring their own
list instead, with which every download fails in a network that inspects TLS."""

REASON_LINES = 12
"""Lines of a failure that are shown: pip names the requirement and where it comes from below its error."""

COMMANDS = ("serve", "test", "soak", "bench")
"""What app.dev.localstack offers; a new one needs its name here and a line in USAGE."""

PRODUCTION_CODE = ("app", "tasks", "migrations", "celeryconfig.py", "flowerconfig.py")
"""What the processes import; beside it they need the Procfile, and pyproject.toml for Alembic's settings."""

CHECKS = {
    "format": ("ruff", "format", "--check", "--quiet", "--diff", "."),
    "lint": ("ruff", "check", "--quiet", "."),
    "types": ("mypy",),
    "imports": ("lint-imports",),
}
"""What must hold before a commit, apart from the tests: name -> the tool of .venv/bin and its arguments. The only
list; .ci/run and .pre-commit-config.yaml call `./run.py check`."""

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
       ./run.py test --livekit URL KEY SECRET
       ./run.py test --twilio-emulator URL [ACCOUNT_SID AUTH_TOKEN]
                                run what they say of a provider against another server than the sandbox; what
                                others have there is left alone, and nothing of the tests stays
       ./run.py check            check format, lint, types and imports, side by side; for every commit
       ./run.py soak [--operations N] [--seed S] [--json]
                                500 operations under faults and kills, on a stack of its own; exit 0 if all is well
       ./run.py bench [NAMES...] [--json] [--quick]
                                measure accept, one, many, status, steps, growth, bulk, accounts beside their
                                floors, and take 10,000 numbers up and down (pool)
       ./run.py prepare          only make .venv, with the command line .venv/bin/trunkline
       ./run.py install          the same with what production needs, and no more (docs/deployment.md)

  -v, --verbose   show every log line, not only warnings and errors (all are in DATA_DIR/logs)

Settings come from the environment or from .env (see .env.example). Set DATABASE_URL, REDIS_URL or the
providers' credentials, and yours are used instead of the embedded stores and the sandbox.
State lies in .data (DATA_DIR) and survives a restart; the API listens on port 8080 (PORT).
"""


class PrepareError(Exception):
    """The environment cannot be made; the user sees the message."""


def main(arguments: list[str]) -> int:
    """Prepare the environment and become the command; return only when there is nothing to become."""
    _repair_streams()
    if arguments[:1] in (["-h"], ["--help"], ["help"]):
        sys.stdout.write(USAGE)
        return 0
    command = "serve" if not arguments or arguments[0].startswith("-") else arguments[0]
    rest = arguments[1:] if arguments[:1] == [command] else arguments
    if command not in (*COMMANDS, "check", "prepare", "install"):
        sys.stderr.write(f"unknown command {command!r}\n{USAGE}")
        return 2
    try:
        _end_on_signals()
        return _perform(command, rest)
    except PrepareError as error:
        sys.stderr.write(f"run.py: {error}\n")
        return 1
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        sys.stderr.write(f"run.py: {error.strerror or error}{where}\n")
        _drop_output()
        return 1
    except KeyboardInterrupt:
        return 130


def _perform(command: str, arguments: list[str]) -> int:
    if command == "install":
        return install()
    prepare()
    if command == "check":
        return check()
    if command != "prepare":
        become(command, arguments)
    return 0


def _repair_streams() -> None:
    """Let output fail on no character, and open /dev/null for each standard stream that the caller has closed.

    A file that is opened later would get the number of a closed one, and with it what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # both are what Python opened


def _drop_output() -> None:
    """Let the interpreter exit without a second error where standard output cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _end_on_signals() -> None:
    """Exit on SIGTERM and SIGHUP as on Ctrl-C: an installer that goes on alone would damage the next one's .venv."""
    for signum in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, lambda number, _: sys.exit(128 + number))


def become(command: str, arguments: list[str]) -> NoReturn:
    """Replace this process by the environment's Python: the process id stays, so signals need no relay."""
    os.chdir(ROOT)
    sys.stdout.flush()
    # Bytecode lies in ignored folders; without it every process compiles all it imports: a start takes 16 s, not 4.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.execv(PYTHON, [str(PYTHON), "-m", "app.dev.localstack", command, *arguments])  # noqa: S606 - our own interpreter


def check() -> int:
    """Run all checks side by side; print a line for each, then the output of the failed ones. 1 if one failed."""
    started = time.monotonic()
    with contextlib.ExitStack() as ended:
        running = {name: ended.enter_context(_started(arguments)) for name, arguments in CHECKS.items()}
        for process in running.values():
            ended.callback(process.kill)  # one that has ended is left alone
        outputs = {name: process.communicate()[0] for name, process in running.items()}
    failed = [name for name, process in running.items() if process.returncode]
    for name, arguments in CHECKS.items():
        _say(f"{'FAILED' if name in failed else 'ok':<6}  {name:<7}  {' '.join(arguments)}")
    for name in failed:
        _say(f"\n== {name}: .venv/bin/{' '.join(CHECKS[name])}\n{outputs[name].rstrip()}")
    _say(f"\n{len(failed)} of {len(CHECKS)} failed" if failed else f"all passed in {time.monotonic() - started:.1f} s")
    return 1 if failed else 0


def _started(arguments: Sequence[str]) -> subprocess.Popen[str]:
    program, *rest = arguments
    return subprocess.Popen(  # noqa: S603 - a tool of the environment
        [VENV / "bin" / program, *rest],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )


def install() -> int:
    """Make what a production host runs: .venv with what it needs, and bytecode, which its processes may not write."""
    prepare(RUNTIME_LOCK)
    code = [str(path) for path in map(ROOT.joinpath, PRODUCTION_CODE) if path.exists()]
    done = _run([str(PYTHON), "-m", "compileall", "-q", *code], os.environ)
    if done.returncode:
        raise PrepareError(f"cannot compile: {_reason(done)}")
    return 0


def prepare(requirements: Path = LOCK) -> None:
    """Make or refresh .venv unless it is up to date with its lock of requirements; one run at a time."""
    if sys.version_info < OLDEST_PYTHON:
        wanted, found = ".".join(map(str, OLDEST_PYTHON)), sys.version.split()[0]
        raise PrepareError(f"needs Python {wanted} or newer; {sys.executable} is {found}. Try: python{wanted} run.py")
    if os.pathsep in str(ROOT):
        raise PrepareError(f"cannot run in a folder whose path has a {os.pathsep!r}: PATH ends there. Move {ROOT}")
    stamp = _stamp(requirements)
    if _is_current(stamp):
        _write_launcher()
        return
    with Path(__file__).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_current(stamp):
            started = time.monotonic()
            _say("Preparing .venv (first run or new requirements)")
            _make_venv()
            _install(requirements)
            _write_launcher()
            STAMP.write_text(stamp, encoding="utf-8")
            _say(f"  ready after {time.monotonic() - started:.1f} s")


def _write_launcher() -> None:
    """Write `trunkline` into .venv/bin unless it is up to date; atomically, by a rename."""
    if LAUNCHER.exists() and LAUNCHER.read_text(encoding="utf-8") == LAUNCHER_TEXT:
        return
    fresh = LAUNCHER.with_name(f".trunkline.{os.getpid()}")
    fresh.write_text(LAUNCHER_TEXT, encoding="utf-8")
    fresh.chmod(0o755)
    fresh.replace(LAUNCHER)


def _stamp(requirements: Path) -> str:
    """Return what the environment depends on; its path too, since the scripts in it contain it."""
    made_of = [hashlib.sha256(requirements.read_bytes()).hexdigest(), sys.version, sys.base_prefix, str(VENV)]
    return "\n".join(made_of) + "\n"


def _is_current(stamp: str) -> bool:
    try:
        return STAMP.read_text(encoding="utf-8") == stamp and PYTHON.exists()
    except OSError:
        return False


def _make_venv() -> None:
    """Make the environment without pip: Debian's python3 has no ensurepip."""
    done = _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(VENV)], os.environ)
    if done.returncode:
        raise PrepareError(f"cannot make {VENV}: {_reason(done)}")


def _install(requirements: Path) -> None:
    """Install what is locked, every file by hash: with uv, which takes a tenth of the time, or else with pip."""
    text = requirements.read_text(encoding="utf-8")
    count = len(re.findall(r"(?m)^[a-z0-9][^[=]*==", text))
    _check_pip()
    configured = _run([sys.executable, "-m", "pip", "config", "list"], os.environ).stdout
    environ = installer_environment(os.environ, configured)
    uv = _install_uv(text, environ)
    if uv:
        _say(f"  installing {count} packages")
        command = [str(uv), "pip", "install", "--python", str(PYTHON), "--require-hashes", "-r", str(requirements)]
        done = _run(command, environ)
        if not done.returncode:
            return
        _say(f"  uv could not: {_reason(done)}\n  trying pip")
    _say(f"  installing {count} packages with pip; this takes about half a minute")
    done = _run([*_pip(), "install", "--require-hashes", "-r", str(requirements)], environ)
    if done.returncode:
        raise PrepareError(f"cannot install the requirements: {_reason(done)}")


def _check_pip() -> None:
    done = _run([sys.executable, "-m", "pip", "--version"], os.environ)
    found = re.match(r"pip (\d+)\.(\d+)", done.stdout)
    if done.returncode or not found:
        raise PrepareError(f"{sys.executable} has no pip. On Debian: apt-get install python3-pip")
    if tuple(map(int, found.groups())) < OLDEST_PIP:
        raise PrepareError(f"needs pip {'.'.join(map(str, OLDEST_PIP))} or newer; found {'.'.join(found.groups())}")


def installer_environment(environ: Mapping[str, str], configured: str) -> dict[str, str]:
    """Return the environment of pip and uv, in which both trust the same certificates and use the same index.

    What the user has named for one of them holds for both, in the environment or in pip's settings (`configured`, as
    `pip config list` prints them); else the machine's own certificates do.
    """
    of_pip = dict(re.findall(r"(?m)^(?:global|install|:env:)\.(cert|index-url)='(.*)'$", configured))
    named = map(environ.get, ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"))
    roots = next(filter(None, [of_pip.get("cert"), *named, *filter(os.path.exists, SYSTEM_ROOTS)]), None)
    added = {"PIP_CERT": roots, "SSL_CERT_FILE": roots} if roots else {"UV_SYSTEM_CERTS": "true"}
    index = of_pip.get("index-url") or environ.get("PIP_INDEX_URL")
    if index:
        added["UV_DEFAULT_INDEX"] = index
    return {**added, **environ}


def _install_uv(lock: str, environ: Mapping[str, str]) -> Path | None:
    """Put the locked uv into the environment; None when the lock has none or it does not install here."""
    entry = re.search(r"(?m)^uv==(?:.*\\\n)*.*\n", lock)
    if entry is None:
        return None
    # Not in the folder for temporary files: it may be full, or not ours to write.
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8", dir=VENV) as only_uv:
        only_uv.write(entry.group())
        only_uv.flush()
        done = _run([*_pip(), "install", "--require-hashes", "-r", only_uv.name], environ)
    uv = VENV / "bin" / "uv"
    return uv if not done.returncode and uv.exists() else None


def _pip() -> list[str]:
    return [sys.executable, "-m", "pip", "--python", str(PYTHON), "--disable-pip-version-check", "--no-input"]


def _run(command: list[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    # VIRTUAL_ENV or PYTHONPATH would lead pip and uv astray.
    kept = {name: value for name, value in environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    return subprocess.run(  # noqa: S603 - our own commands
        command, env=kept, capture_output=True, encoding="utf-8", errors="replace", check=False
    )


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Return the reason: no network, or the output from the first error on, since what follows names the cause."""
    if UNREACHABLE.search(done.stderr):
        return "the package index cannot be reached (network, proxy or certificates)"
    lines = [line.rstrip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    first = next((at for at, line in enumerate(lines) if line.lower().startswith("error")), 0)
    return "\n    ".join(lines[first:][:REASON_LINES]) or "no reason given"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
