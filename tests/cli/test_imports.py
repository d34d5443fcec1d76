"""What the command line imports, which is most of what a command costs: counted by modules, since times vary."""

import os
import subprocess
import sys

import pytest

from app.cli.commands import COMMANDS
from tests.support.servers import ROOT

RUN = """
import sys
from app.cli.__main__ import main
sys.argv = ["trunkline", *sys.argv[1:]]
try:
    main()
finally:
    print(*sorted(sys.modules), file=sys.stderr)
"""

HEAVY = frozenset({"aiohttp", "apiflask", "celery", "flask", "livekit", "pydantic", "rich", "sqlalchemy", "twilio"})


def imported(*words: str, **environment: str) -> tuple[str, set[str]]:
    """Run a command; return what it prints, and the packages that it has imported, ours with their modules."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", RUN, *words],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
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
    assert modules & HEAVY == set()
    assert {name for name in modules if name.startswith("app.")} == {"app.cli", "app.cli.__main__", "app.cli.commands"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_the_first_word_imports_no_command(shell: str) -> None:
    given = {"COMP_WORDS": "trunkline st", "COMP_CWORD": "st" if shell == "fish" else "1"}

    shown, modules = imported(_TRUNKLINE_COMPLETE=f"{shell}_complete", **given)

    assert "status" in shown
    assert "agents" not in shown
    assert modules & HEAVY == set()
