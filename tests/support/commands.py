"""Runs commands in this process; workers run in the pauses between two reads."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from app import create_app
from app.cli import progress
from tests.support.sandbox_app import SandboxApp


class Shell:
    """A command line over a `SandboxApp`; `meanwhile` runs in every pause of a command that waits."""

    def __init__(self, live: SandboxApp) -> None:
        self.live = live
        self._app = create_app(live.wiring)
        self.meanwhile: Callable[[], Any] = live.drive

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
def shell(live: SandboxApp, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A command line over the application."""
    shell = Shell(live)
    monkeypatch.setattr(progress.time, "sleep", lambda _seconds: shell.meanwhile())
    monkeypatch.setenv("COLUMNS", "200")
    return shell
