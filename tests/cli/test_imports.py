"""What the command line imports, which is most of what a command costs: counted by modules, since times vary."""

import json
import os
import subprocess
import sys

import pytest

from app.cli.commands import COMMANDS
from tests.support.commands import Shell
from tests.support.servers import ROOT

LOAD = """
import sys
from app.cli.commands import COMMANDS
for command in COMMANDS:
    if command.name != "doctor":
        command.load()
        print(command.name, *{name.partition(".")[0] for name in sys.modules})
"""

RUN = """
import sys
from app.cli.__main__ import main
sys.argv = ["trunkline", *sys.argv[1:]]
try:
    main()
finally:
    print(*sorted(sys.modules), file=sys.stderr)
"""

BARE = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}

OF_OTHERS = frozenset(
    {"aiohttp", "apiflask", "celery", "flask", "google", "limits", "livekit", "redis", "requests", "twilio"}
)
"""What workers, the web or a provider need: no command imports it before it calls, queues or counts something."""

OF_READING = frozenset({"psycopg", "pydantic", "rich", "sqlalchemy"})


def imported(*words: str, **environment: str) -> tuple[str, set[str]]:
    """Run a command; return what it prints, and the packages that it has imported, ours with their modules."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", RUN, *words],
        env={**BARE, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    names = done.stderr.split()
    return done.stdout, {name if name.startswith("app.") else name.partition(".")[0] for name in names}


def test_help_lists_every_command_and_imports_none() -> None:
    shown, modules = imported("--help")

    assert all(f"\n  {command.name} " in shown for command in COMMANDS)
    assert modules & (OF_OTHERS | OF_READING) == set()
    assert {name for name in modules if name.startswith("app.")} == {"app.cli", "app.cli.__main__", "app.cli.commands"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_the_first_word_imports_no_command(shell: str) -> None:
    given = {"COMP_WORDS": "trunkline st", "COMP_CWORD": "st" if shell == "fish" else "1"}

    shown, modules = imported(_TRUNKLINE_COMPLETE=f"{shell}_complete", **given)

    assert "status" in shown
    assert "agents" not in shown
    assert modules & (OF_OTHERS | OF_READING) == set()


def test_a_reading_command_imports_neither_providers_nor_broker_nor_web(shell: Shell) -> None:
    shown, modules = imported("status", str(shell.live.agent_id), "--json", **os.environ)

    assert json.loads(shown)["phoneProvisioningStatus"] == "PROVISIONED"
    assert modules & OF_OTHERS == set()


def test_no_command_but_doctor_brings_providers_broker_or_web_before_it_is_called() -> None:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", LOAD], env=BARE, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    brought = {command: OF_OTHERS.intersection(names) for command, *names in map(str.split, done.stdout.splitlines())}

    assert brought == {str(command.name): set() for command in COMMANDS if command.name != "doctor"}
