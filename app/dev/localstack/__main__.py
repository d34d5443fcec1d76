"""What ./run.py runs once the environment is there: the whole stack, the tests, a soak or the benchmarks."""

import argparse
import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

# Until everything is imported, Ctrl-C ends the process at once: nothing is started yet.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import psycopg  # noqa: E402
import redis  # noqa: E402

from app.dev.localstack.demo import Demo, provider_check  # noqa: E402
from app.dev.localstack.host import StackError, describe_error  # noqa: E402
from app.dev.localstack.stack import (  # noqa: E402
    Stack,
    read_user_settings,
    running_stack,
)
from app.dev.localstack.supervision import LogFiles, run_procfile  # noqa: E402
from app.dev.localstack.terminal import ERRORS, Terminal, robust_output  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
"""The project: where the Procfile lies."""

CONTRACT_TESTS = "tests/contract"
"""Where the tests lie that can ask other servers than the sandbox."""

PACKAGES = {"bench": "tests.benchmarks", "soak": "tests.soak"}
"""Command -> the package that reads the rest of its arguments."""


def main() -> int:
    """Run the command that ./run.py was given; return its exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors=ERRORS)  # type: ignore[union-attr]  # both are what Python opened
    parser = argparse.ArgumentParser(prog="run.py")
    commands = parser.add_subparsers(dest="command", required=True)
    serve_parser = commands.add_parser("serve")
    serve_parser.add_argument("-v", "--verbose", action="store_true")
    _add_test_parser(commands)
    commands.add_parser("bench", add_help=False)
    commands.add_parser("soak", add_help=False)
    arguments, rest = parser.parse_known_args()
    if arguments.command == "test":
        run_tests(rest, _other_servers(arguments))
    if arguments.command in PACKAGES:
        run_package(PACKAGES[arguments.command], rest)
    if rest:
        parser.error(f"unknown argument: {rest[0]}")
    return serve(verbose=arguments.verbose)


def serve(*, verbose: bool) -> int:
    """Run the stack until a signal ends it (0) or something fails (1)."""
    lost: list[OSError] = []

    def stop_without_reader(error: OSError) -> None:
        # Stop as on a signal: without a reader nobody sees the key, nor that the stack runs.
        lost.append(error)
        os.kill(os.getpid(), signal.SIGTERM)

    sys.stdout = robust_output(stop_without_reader)
    code = _serve(Terminal(), verbose=verbose)
    if lost:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"run.py: nobody reads the output ({describe_error(lost[0])}): everything is stopped\n")
    return 1 if lost else code


def _serve(terminal: Terminal, *, verbose: bool) -> int:
    # Until honcho handles signals, each of them raises KeyboardInterrupt, so that everything is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        # nohup ignores it.
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        terminal.heading("Trunkline")
        with running_stack(read_user_settings(ROOT), terminal) as stack:
            _run_processes(stack, terminal, verbose=verbose)
            terminal.plain("\nstopping the stores ...")
        failure = ""
    except StackError as error:
        failure = str(error)
    except (OSError, UnicodeError, psycopg.Error, redis.RedisError) as error:
        failure = f"the start failed: {describe_error(error)}"
    except KeyboardInterrupt:
        failure = ""
        terminal.plain("\nstopped")
    # Everything has been stopped.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if failure:
        terminal.error_line(f"\n{failure}")
    return 1 if failure else 0


def run_tests(arguments: list[str], other_servers: list[str]) -> None:
    """Become pytest; the user's arguments come last, so that they win."""
    os.execv(sys.executable, [sys.executable, *_pytest_arguments(arguments, other_servers)])  # noqa: S606 - our own interpreter


def _pytest_arguments(arguments: list[str], other_servers: list[str]) -> list[str]:
    """Return Python's arguments for the whole suite, three tests at a time: on two cores one of them mostly waits.

    With options of `other_servers` only the contract tests are collected, and run one at a time: what others have on
    those servers is compared before the first test and after the last.
    """
    if not other_servers:
        return ["-m", "pytest", "-n", "3", "--dist", "worksteal", *arguments]
    names_files = any(Path(argument.partition("::")[0]).exists() for argument in arguments)
    # An option behind the servers: else pytest would read a path as part of a login.
    return ["-m", "pytest", *other_servers, "-n", "0", *([] if names_files else [CONTRACT_TESTS]), *arguments]


def _add_test_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "test",
        allow_abbrev=False,
        usage="./run.py test [--livekit URL KEY SECRET] [--twilio-emulator URL [ACCOUNT_SID AUTH_TOKEN]] [ARGS]",
        description="Run the tests; ARGS go to pytest, paths relative to the project.",
        epilog="With --livekit or --twilio-emulator only those tests run that say how a provider behaves, the same as "
        "against the sandbox otherwise. They make what they need, delete it, and leave alone what others have "
        "there (docs/CONTRIBUTING.md). Exit code 2: the server cannot be asked, for the reason given.",
    )
    parser.add_argument(
        "--livekit",
        nargs=3,
        metavar=("URL", "KEY", "SECRET"),
        help="a LiveKit server with Redis, such as http://127.0.0.1:7880 devkey secret",
    )
    parser.add_argument(
        "--twilio-emulator",
        nargs="+",
        metavar=("URL", "ACCOUNT_SID AUTH_TOKEN"),
        help="an emulator of Twilio on one port; without a login, the sandbox's account and token are sent",
    )


def _other_servers(arguments: argparse.Namespace) -> list[str]:
    """Return pytest's options for the servers that are named instead of the sandbox."""
    options = (("--livekit", arguments.livekit), ("--twilio-emulator", arguments.twilio_emulator))
    return [part for option, values in options if values for part in (option, *values)]


def run_package(package: str, arguments: list[str]) -> None:
    """Become the benchmarks or the soak, which lie among the tests, not in the application."""
    os.execv(sys.executable, [sys.executable, "-m", package, *arguments])  # noqa: S606 - our own interpreter


def _run_processes(stack: Stack, terminal: Terminal, *, verbose: bool) -> None:
    logs = LogFiles(stack.data_dir / "logs", terminal, verbose=verbose)
    try:
        run_procfile(ROOT / "Procfile", stack.environ, logs, lambda stopping: _after_start(stack, terminal, stopping))
    finally:
        logs.close()


def _after_start(stack: Stack, terminal: Terminal, stopping: threading.Event) -> None:
    """Wait for the API, provision the demo number on the sandbox, and print where everything is."""
    demo = Demo(stack, terminal, stopping)
    is_ready = True
    try:
        with provider_check(stack, terminal, stopping) as findings:
            is_ready = findings()
            demo.wait_for_web()
        if stopping.is_set():
            return
        key = demo.development_key()
        agent_id = None
        if stack.sandbox_url:
            agent_id = demo.provision(key)
            demo.show_call()
    except OSError as error:
        if stopping.is_set():
            return
        raise StackError(f"the API stopped answering: {error}") from error
    if not stopping.is_set():
        _print_addresses(stack, terminal, key, demo.sign_in_link(key), agent_id)
        terminal.plain("\nREADY" if is_ready else "\nREADY, but no number can be connected: see above (✗)")


def _print_addresses(stack: Stack, terminal: Terminal, key: str, sign_in: str, agent_id: str | None) -> None:
    terminal.heading("Where everything is")
    terminal.line("Console", f"{stack.api_url}/", "sign in with the key below")
    terminal.line("Sign in", sign_in, "once, within ten minutes")
    terminal.line("API", f"{stack.api_url}/api/agents")
    terminal.line("Docs", f"{stack.api_url}/docs")
    terminal.line("Flower", f"http://127.0.0.1:{stack.flower_port}", stack.environ["FLOWER_BASIC_AUTH"])
    if stack.sandbox_url:
        terminal.line("Sandbox", f"{stack.sandbox_url}/sandbox/state")
    terminal.line("Logs", str(stack.data_dir / "logs"))
    terminal.line("Key", key)
    path = f"agents/{agent_id}/phone-status" if agent_id else "agents"
    terminal.plain(f'\ncurl -H "Authorization: Bearer {key}" {stack.api_url}/api/{path}')


if __name__ == "__main__":
    sys.exit(main())
