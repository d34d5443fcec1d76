"""What the command line imports, which is most of what a command costs: counted by modules, since times vary."""

import json
import os
import subprocess
import sys

import pytest

from app.cli.commands import COMMANDS
from tests.support.commands import Shell
from tests.support.served_app import served
from tests.support.servers import ROOT

LOAD = """
import sys
from app.cli.commands import COMMANDS
for command in COMMANDS:
    if command.name not in {"doctor", "credentials", "sweep"}:
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

OF_SERVERS = frozenset(
    {"aiohttp", "apiflask", "celery", "flask", "google", "limits", "livekit", "redis", "requests", "twilio"}
    | {"alembic", "psycopg", "pydantic", "sqlalchemy", "werkzeug"}
)
"""What the installation needs: no command imports it that asks a server."""

OF_SHOWING = frozenset({"rich", "urllib3"})

OF_HELP = {"app.cli", "app.cli.__main__", "app.cli.commands", "app.domain", "app.domain.version"}

OF_THE_INSTALLATION = frozenset({"credentials", "doctor", "sweep"})
"""Commands that ask no server."""


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
    assert modules & (OF_SERVERS | OF_SHOWING) == set()
    assert {name for name in modules if name.startswith("app.")} == OF_HELP


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_the_first_word_imports_no_command(shell: str) -> None:
    given = {"COMP_WORDS": "trunkline st", "COMP_CWORD": "st" if shell == "fish" else "1"}

    shown, modules = imported(_TRUNKLINE_COMPLETE=f"{shell}_complete", **given)

    assert "status" in shown
    assert "agents" not in shown
    assert modules & (OF_SERVERS | OF_SHOWING) == set()


def test_a_command_that_asks_a_server_imports_nothing_of_one(shell: Shell) -> None:
    with served(shell.application) as url:
        given = {"TRUNKLINE_URL": url, "TRUNKLINE_KEY": shell.new_key()}
        shown, modules = imported("status", str(shell.live.agent_id), "--json", **given)

    assert json.loads(shown)["phoneProvisioningStatus"] == "PROVISIONED"
    assert modules & OF_SERVERS == set()


def test_no_command_that_asks_a_server_needs_one_to_be_loaded() -> None:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", LOAD], env=BARE, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    brought = {command: OF_SERVERS.intersection(names) for command, *names in map(str.split, done.stdout.splitlines())}

    assert brought == {str(command.name): set() for command in COMMANDS if command.name not in OF_THE_INSTALLATION}
