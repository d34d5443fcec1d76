"""The installation on this machine: its settings, database and application, for commands that go to no server."""

import functools
import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.cli.client import program, refusal
from app.cli.output import CommandError, command_error, print_line
from app.domain.errors import RefusedError
from app.observability.logs import configure
from app.providers.errors import ProviderError
from app.settings import ENV_FILE, SettingsError, load_settings
from app.wiring import Wiring, build

if TYPE_CHECKING:
    from flask import Flask

INSTALLATION = "trunkline.installation"
"""Key in `app.extensions` of what the commands of `flask --app app …` work on, and in the root context's `meta`."""

ELSEWHERE = (
    "Settings are also read from .env in this folder, and there is none. To use a server elsewhere instead, set "
    "TRUNKLINE_URL and TRUNKLINE_KEY."
)
"""What is said where nothing at all is set: the wrong folder, or a machine that only asks a server."""


class Installation:
    """What commands work on: the wiring and the application of a process, built when a command first needs them."""

    def __init__(self, given: "Flask | None" = None, wiring: Callable[[], Wiring] | None = None) -> None:
        self.log_level = logging.INFO
        self.wiring = wiring or functools.cache(self._build)
        build_once: Callable[[], Flask] = functools.cache(self._build_application)
        self.application: Callable[[], Flask] = functools.partial(_same, given) if given and wiring else build_once

    def _build_application(self) -> "Flask":
        from app.api.application import build_application  # noqa: PLC0415  # not every command asks it

        application = build_application(self.wiring())
        logging.getLogger().setLevel(self.log_level)
        return application

    def _build(self) -> Wiring:
        settings = load_settings()
        configure(settings.log_format)
        logging.getLogger().setLevel(self.log_level)
        return build(settings)


def _same(application: "Flask") -> "Flask":
    return application


class SettingsProblemError(CommandError):
    """Ends a command with a line for each setting that is wrong."""

    code = "settings_invalid"

    def __init__(self, error: SettingsError) -> None:
        super().__init__(str(error))
        fix = "flask --app app doctor" if program() == "flask" else "trunkline doctor"
        elsewhere = [ELSEWHERE] if "DATABASE_URL: missing" in error.problems and not ENV_FILE.is_file() else []
        self._lines = (*error.problems, f"How to fix them: {fix}", *elsewhere)

    def show(self, file: object = None) -> None:
        """Print them on stderr."""
        del file
        for line in self._lines:
            print_line(line, err=True)


def installation() -> Installation:
    """Return what this command works on: flask's application has it, and `trunkline` makes it."""
    root = click.get_current_context().find_root()
    if root.obj is not None:
        found: Installation = root.obj.load_app().extensions[INSTALLATION]
        return found
    made: Installation = root.meta.setdefault(INSTALLATION, Installation())
    return made


def wiring() -> Wiring:
    """Return the process's wiring; if the settings are wrong, end the command with each problem."""
    try:
        return installation().wiring()
    except SettingsError as error:
        raise SettingsProblemError(error) from error


def application() -> "Flask":
    """Return the application that commands call in this process; log only errors from now on."""
    quieten()
    wiring()
    return installation().application()


def quieten() -> None:
    """Log only errors: a command's own output says the rest."""
    installation().log_level = logging.ERROR
    logging.getLogger().setLevel(logging.ERROR)


@contextmanager
def expected_errors() -> Iterator[None]:
    """Report expected errors as one line, not as a traceback, and log only errors."""
    quieten()
    try:
        yield
    except SettingsError as error:
        raise SettingsProblemError(error) from error
    except (RefusedError, ProviderError) as error:
        raise refusal(error.code, error.detail, error.errors if isinstance(error, RefusedError) else {}) from error
    except (DBAPIError, PoolTimeoutError) as error:
        raise command_error(f"Database error: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """Return the first line of a driver's message: it has the host and user, never the password."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def run_audit(audit_id: str) -> None:
    """Run an audit that was requested, unless a worker has it already: without workers there is one all the same."""
    with expected_errors():
        wiring().audits.run_audit(uuid.UUID(audit_id))
