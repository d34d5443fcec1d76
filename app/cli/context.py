"""What every command shares: the wiring, how a person names things, JSON on request, exit codes, errors as one line."""

import functools
import logging
import re
import sys
import uuid
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import click
from flask import Flask, current_app
from flask.cli import AppGroup, FlaskGroup, ScriptInfo
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.access import KeyRefusedError
from app.cli.output import failure, tell
from app.db import queries
from app.db.models import Agent, Operation
from app.domain.errors import RefusedError, agent_not_found, operation_not_found
from app.domain.events import Channel, Origin
from app.domain.numbers import InvalidNumberError, parse_e164
from app.domain.texts import InvalidTextError, visible_line
from app.providers.errors import ProviderError
from app.settings import SettingsError
from app.views.fields import WHOLE_NUMBER
from app.views.reader import Reader
from app.web.context import WIRING, web_services
from app.wiring import Wiring

DONE = 0
"""It was done, or there was nothing to do."""

FAILED = 1
"""It was refused, or it failed."""

USAGE = 2
"""The command line cannot be read: click's own."""

ATTENTION = 3
"""It was done, and something is left that a person should look at: drift, part of a bulk, a doctor's warning."""

INTERRUPTED = 130
"""Ctrl-C, as of any shell: only the looking ended."""


PROBLEMS = "trunkline.problems"
"""Where the lines that say what is wrong with the settings are kept."""


def is_for_a_command() -> bool:
    """Say whether `flask` is only looking for a command of ours; its own, like `flask run`, need the whole."""
    context = click.get_current_context(silent=True)
    return context is not None and isinstance(context.command, FlaskGroup)


def has_read_files() -> bool:
    """Say whether `flask` has put `.env` into the environment, as it does unless FLASK_SKIP_DOTENV is set."""
    context = click.get_current_context(silent=True)
    return context is not None and isinstance(context.obj, ScriptInfo) and context.obj.load_dotenv_defaults


def make_unwired(problems: Sequence[str]) -> Flask:
    """Build an application that serves nothing; every command but `doctor` ends with these lines."""
    app = Flask("app", static_folder=None)
    app.extensions[PROBLEMS] = tuple(problems)
    return app


class DefaultGroup(AppGroup):
    """Takes a first word that is none of its commands for the first argument of `default`."""

    def __init__(self, *args: Any, default: str, **more: Any) -> None:
        super().__init__(*args, **more)
        self._default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default's name before what belongs to it."""
        if args and args[0] not in {*self.commands, *self.get_help_option_names(ctx)}:
            args = [self._default, *args]
        return super().parse_args(ctx, args)


_BEGINNING = re.compile(r"[0-9a-f]{8,31}", re.IGNORECASE)
"""The beginning of an id, without its dashes."""

SHOWN = 5
"""Rows named where a name is ambiguous."""

Row = TypeVar("Row", Agent, Operation)


class PhoneNumber(click.ParamType[str]):
    """A number in E.164, refused at the command line like any wrong argument."""

    name = "number"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the number unchanged."""
        try:
            return parse_e164(value)
        except InvalidNumberError as error:
            self.fail(f"{value!r} {error}.", param, ctx)


class WholeNumber(click.IntRange):
    """An integer in plain digits; click's own also takes blanks, `_`, `+` and the digits of every script."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        if isinstance(value, str) and not WHOLE_NUMBER.fullmatch(value):
            self.fail(f"{value!r} is not a whole number.", param, ctx)
        return int(super().convert(value, param, ctx))


def agent_named(text: str) -> Agent:
    """Return the agent with this id, name, or unambiguous beginning of an id."""
    if row_id := _id(text):
        return wiring().agents.get(row_id)
    try:
        visible_line(text)
    except InvalidTextError as error:
        raise agent_not_found(text) from error
    with wiring().sessions() as session:
        found = queries.agents_named(session, text, SHOWN + 1)
        found = found or _beginning(text, lambda low, high: queries.agents_between(session, low, high, SHOWN + 1))
    return _only(found, agent_not_found(text), f"agents called {text!r}")


def operation_named(text: str) -> uuid.UUID:
    """Return the id of the operation with this id, or unambiguous beginning of one."""
    if row_id := _id(text):
        return row_id
    with wiring().sessions() as session:
        found = _beginning(text, lambda low, high: queries.operations_between(session, low, high, SHOWN + 1))
    return _only(found, operation_not_found(text), f"operations {text}…").id


def _id(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def _beginning(text: str, look: Callable[[uuid.UUID, uuid.UUID], Sequence[Row]]) -> Sequence[Row]:
    digits = text.replace("-", "")
    if not _BEGINNING.fullmatch(digits):
        return ()
    return look(uuid.UUID(digits.ljust(32, "0")), uuid.UUID(digits.ljust(32, "f")))


def _only(found: Sequence[Row], missing: Exception, what: str) -> Row:
    if not found:
        raise missing
    if len(found) > 1:
        ids = ", ".join(str(row.id) for row in found[:SHOWN]) + (", …" if len(found) > SHOWN else "")
        raise failure(f"There are several {what}: give the id ({ids}).")
    return found[0]


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
        tell(f"How to fix them: {hint('doctor')}", err=True)
        sys.exit(FAILED)
    found: Wiring = current_app.extensions[WIRING]
    return found


def reader() -> Reader:
    """Return the reads that the API shows, too."""
    wiring()
    return web_services().reader


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
