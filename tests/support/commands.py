"""Runs commands in this process; workers run in the pauses between two reads."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result
from flask import Flask

from app import create_app
from app.access import KeyService, Scope
from app.cli import progress
from app.cli.__main__ import trunkline
from tests.support.api import Api
from tests.support.sandbox_app import SandboxApp

MOST_PAUSES = 500
"""Pauses of all commands of a test; the longest has some fifty."""


class CommandLine:
    """The commands of an application, in this process."""

    def __init__(self, application: Flask) -> None:
        self.application = application

    def run(self, *words: str, typed: str = "") -> Result:
        """Run a command, with `typed` on its standard input; a traceback fails the test."""
        result = self.application.test_cli_runner().invoke(args=words, input=typed)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        return result

    def json(self, *words: str, code: int = 0) -> Any:
        """Run a command with --json; return what it printed."""
        result = self.run(*words, "--json")
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)


class Shell(CommandLine):
    """A command line over a `SandboxApp`; `meanwhile` runs in every pause of a command that waits."""

    def __init__(self, live: SandboxApp) -> None:
        super().__init__(create_app(live.wiring))
        self.live = live
        self.meanwhile: Callable[[], Any] = live.drive
        self.pauses = 0

    def pause(self, _seconds: float) -> None:
        """Take the place of `time.sleep`; a command that waits for ever fails its test."""
        self.pauses += 1
        assert self.pauses < MOST_PAUSES, "the command waits for something that does not come"
        self.meanwhile()

    def new_key(self, *scopes: Scope) -> str:
        """Return a new key, an operator's with the scope admin unless said otherwise."""
        return KeyService(self.live.wiring.sessions).create("shell", scopes or [Scope.ADMIN])[1]


class RemoteShell(Shell):
    """The same commands against a server at a URL, with nothing but its key."""

    def __init__(self, live: SandboxApp, url: str) -> None:
        super().__init__(live)
        self.given = {"TRUNKLINE_URL": url, "TRUNKLINE_KEY": self.new_key()}

    def run(self, *words: str, typed: str = "") -> Result:
        """Run a command as `trunkline` does."""
        result = CliRunner().invoke(trunkline(), words, input=typed, env=self.given, prog_name="trunkline")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        return result


@pytest.fixture
def shell(live: SandboxApp, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A command line over the application."""
    shell = Shell(live)
    monkeypatch.setattr(progress.time, "sleep", shell.pause)
    monkeypatch.setenv("COLUMNS", "200")
    return shell


@pytest.fixture
def bare(api: Api, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """A command line without an agent or a worker, for what is refused before it matters: it costs next to nothing."""
    monkeypatch.setenv("COLUMNS", "200")
    return CommandLine(api.app)
