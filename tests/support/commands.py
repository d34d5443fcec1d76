"""Commands run in this process over a stage: workers run in the pauses between two looks."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from app import create_app
from app.cli import progress
from tests.support.stage import Stage


class Shell:
    """A command line over a stage; `meanwhile` runs in every pause of a command that watches."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._app = create_app(stage.wiring)
        self.meanwhile: Callable[[], Any] = stage.drive

    def run(self, *words: str, typed: str = "") -> Result:
        """Run a command, with `typed` on its standard input; a traceback fails the test."""
        result = self._app.test_cli_runner().invoke(args=words, input=typed)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        return result

    def json(self, *words: str, code: int = 0) -> Any:
        """Run a command with --json; return what it printed."""
        result = self.run(*words, "--json")
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)


@pytest.fixture
def shell(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A command line over the stage."""
    shell = Shell(stage)
    monkeypatch.setattr(progress.time, "sleep", lambda _seconds: shell.meanwhile())
    monkeypatch.setenv("COLUMNS", "200")
    return shell
