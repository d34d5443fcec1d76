"""What every command shares: the wiring, quiet logs, JSON on request, and errors as one line on stderr."""

import functools
import logging
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click
from flask import current_app
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.access import KeyRefusedError
from app.api.context import WIRING, door
from app.api.reads import Reader
from app.cli.exits import FAILED
from app.cli.output import failure, tell
from app.cli.unwired import PROBLEMS
from app.domain.activity import Channel, Origin
from app.domain.errors import RefusedError
from app.providers.errors import ProviderError
from app.settings import SettingsError
from app.wiring import Wiring

P = ParamSpec("P")
R = TypeVar("R")

as_json = click.option("--json", "is_json", is_flag=True, help="Print JSON.")


def plain_errors(command: Callable[P, R]) -> Callable[P, R]:
    """End a command that cannot be carried out with one line, not a traceback."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except KeyRefusedError as error:
            raise failure(str(error)) from error
        except SettingsError as error:
            raise failure(str(error)) from error
        except (RefusedError, ProviderError) as error:
            raise failure(f"{error.detail} ({error.code})") from error
        except (DBAPIError, PoolTimeoutError) as error:
            raise failure(f"The database refused: {reason_of(error)}") from error

    return wrapper


def for_people(command: Callable[P, R]) -> Callable[P, R]:
    """Show a person what the command says, and of the log only errors; errors as in `plain_errors`."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        logging.getLogger().setLevel(logging.ERROR)
        return command(*args, **kwargs)

    return plain_errors(wrapper)


def reason_of(error: Exception) -> str:
    """Return the first line of what a driver says: it names host and user, never the password."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def wiring() -> Wiring:
    """Return what this process was built on; where the settings are wrong, end it with a line for each."""
    if WIRING not in current_app.extensions:
        for problem in current_app.extensions[PROBLEMS]:
            tell(problem, err=True)
        tell(f"How to mend them: {hint('doctor')}", err=True)
        sys.exit(FAILED)
    found: Wiring = current_app.extensions[WIRING]
    return found


def reader() -> Reader:
    """Return the reads that the API shows, too."""
    wiring()
    return door().reader


def origin() -> Origin:
    """Return what an operation remembers of the command that started it."""
    context = click.get_current_context()
    words = context.command_path.removeprefix(context.find_root().info_name or "").strip()
    return Origin(requested_by=f"{program()} {words}", channel=Channel.COMMAND_LINE)


def program() -> str:
    """Return the name that the command was called by: `flask` or `trunkline`."""
    name = click.get_current_context().find_root().info_name or ""
    return "flask" if name.endswith("flask") else "trunkline"


def hint(words: str) -> str:
    """Return a command line of ours to be typed, in the way that this one was."""
    return f"flask --app app {words}" if program() == "flask" else f"trunkline {words}"
