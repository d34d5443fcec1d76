"""What all commands share: the wiring, finding rows by id or name, `--json`, exit codes and one-line errors."""

import functools
import logging
import re
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click
from marshmallow import ValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.cli.client import Client
from app.cli.output import command_error, print_line
from app.cli.profiles import find_target
from app.db import queries
from app.db.models import Agent, Operation
from app.db.visibility import seeing
from app.domain.errors import ErrorCode, RefusedError, agent_not_found, operation_not_found
from app.domain.events import Channel, Origin
from app.domain.numbers import InvalidNumberError, parse_e164
from app.domain.texts import InvalidTextError, escaped, visible_line
from app.domain.version import VERSION
from app.domain.workspaces import WORKSPACE_HEADER
from app.observability.logs import configure
from app.providers.errors import ProviderError
from app.settings import SettingsError, load_settings
from app.views.fields import WHOLE_NUMBER, flat_errors
from app.views.reader import Reader
from app.wiring import Wiring, build

if TYPE_CHECKING:
    from flask import Flask

EXIT_OK = 0
"""Done, or nothing to do."""

EXIT_FAILED = 1
"""Refused or failed."""

EXIT_USAGE = 2
"""Invalid command line; set by click."""

EXIT_ATTENTION = 3
"""Done, but something needs attention: drift, failed items of a bulk, a warning of `doctor`."""

EXIT_INTERRUPTED = 130
"""Ctrl-C, 128 + SIGINT as in shells: only the display ended, not the operation."""


INSTALLATION = "trunkline.installation"
"""Key in `app.extensions` of what the commands of `flask --app app …` work on."""


class Installation:
    """What commands work on: the wiring of a process, built of the settings when a command first needs it."""

    def __init__(self, given: Callable[[], Wiring] | None = None) -> None:
        self.log_level = logging.INFO
        self.wiring = given or functools.cache(self._build)
        self.application = functools.cache(self._build_application)

    def _build_application(self) -> "Flask":
        """Build the application that commands call in this process."""
        from app.api.application import build_application  # noqa: PLC0415

        application = build_application(self.wiring())
        logging.getLogger().setLevel(self.log_level)
        return application

    def _build(self) -> Wiring:
        settings = load_settings()
        configure(settings.log_format)
        logging.getLogger().setLevel(self.log_level)
        return build(settings)


def _installation() -> Installation:
    """Return what this command works on: flask's application has it, and `trunkline` makes it."""
    root = click.get_current_context().find_root()
    if root.obj is None:
        root.obj = Installation()
    in_flask = not isinstance(root.obj, Installation)
    found: Installation = root.obj.load_app().extensions[INSTALLATION] if in_flask else root.obj
    return found


class DefaultGroup(click.Group):
    """A group that runs the command `default` when the first word is not one of its commands."""

    def __init__(self, *args: Any, default: str, **more: Any) -> None:
        super().__init__(*args, **more)
        self._default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert the name of the default command where it was left out."""
        if args and args[0] not in {*self.commands, *self.get_help_option_names(ctx)}:
            args = [self._default, *args]
        return super().parse_args(ctx, args)


_ID_PREFIX = re.compile(r"[0-9a-f]{8,31}", re.IGNORECASE)
"""The beginning of an id, without its dashes; at least 8 digits, so that a match is rarely ambiguous."""

MAX_IDS_SHOWN = 5
"""Ids listed when a name is ambiguous."""

Row = TypeVar("Row", Agent, Operation)


class PhoneNumber(click.ParamType[str]):
    """A phone number in E.164; anything else is a usage error."""

    name = "number"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the number unchanged."""
        try:
            return parse_e164(value)
        except InvalidNumberError as error:
            self.fail(f"{value!r} {error}.", param, ctx)


class WholeNumber(click.IntRange):
    """An integer in ASCII digits; click's own also accepts blanks, `_`, `+` and the digits of every script."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        if isinstance(value, str) and not WHOLE_NUMBER.fullmatch(value):
            self.fail(f"{value!r} is not a whole number.", param, ctx)
        return int(super().convert(value, param, ctx))


def find_agent(text: str) -> Agent:
    """Return the agent with this id, name or unambiguous beginning of an id."""
    if row_id := _id(text):
        return wiring().agents.get(row_id)
    try:
        visible_line(text)
    except InvalidTextError as error:
        raise agent_not_found(text) from error
    with wiring().sessions() as session:
        found = queries.agents_named(session, text, MAX_IDS_SHOWN + 1)
        found = found or _find_by_prefix(
            text, lambda low, high: queries.agents_between(session, low, high, MAX_IDS_SHOWN + 1)
        )
    return _exactly_one(found, agent_not_found(text), f"agents called {text!r}")


def find_operation_id(text: str) -> uuid.UUID:
    """Return the id of the operation with this id or unambiguous beginning of an id."""
    if row_id := _id(text):
        return row_id
    with wiring().sessions() as session:
        found = _find_by_prefix(
            text, lambda low, high: queries.operations_between(session, low, high, MAX_IDS_SHOWN + 1)
        )
    return _exactly_one(found, operation_not_found(text), f"operations {text}…").id


def _id(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def _find_by_prefix(text: str, query: Callable[[uuid.UUID, uuid.UUID], Sequence[Row]]) -> Sequence[Row]:
    digits = text.replace("-", "")
    if not _ID_PREFIX.fullmatch(digits):
        return ()
    return query(uuid.UUID(digits.ljust(32, "0")), uuid.UUID(digits.ljust(32, "f")))


def _exactly_one(found: Sequence[Row], missing: Exception, what: str) -> Row:
    if not found:
        raise missing
    if len(found) > 1:
        ids = ", ".join(str(row.id) for row in found[:MAX_IDS_SHOWN]) + (", …" if len(found) > MAX_IDS_SHOWN else "")
        raise command_error(f"There are several {what}: give the id ({ids}).")
    return found[0]


P = ParamSpec("P")
R = TypeVar("R")

json_option = click.option("--json", "is_json", is_flag=True, help="Print JSON.")


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Decorate a command to report expected errors as one line, not as a traceback."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except SettingsError as error:
            raise command_error(str(error)) from error
        except (RefusedError, ProviderError) as error:
            errors = error.errors if isinstance(error, RefusedError) else {}
            said = _errors_in_words(errors) if errors else error.detail
            raise command_error(f"{said} ({error.code}){takeover_hint(error.code)}") from error
        except (DBAPIError, PoolTimeoutError) as error:
            raise command_error(f"Database error: {reason_of(error)}") from error

    return wrapper


def usage_error(error: ValidationError) -> click.UsageError:
    """Build the error for options that a body of the API would be refused for: exit code 2."""
    return click.UsageError(escaped(_errors_in_words(flat_errors(error.messages))))


def _errors_in_words(errors: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{field} {' '.join(messages)}" for field, messages in errors.items())


def takeover_hint(code: str) -> str:
    """Return what to add after an error, or an obstacle, that a takeover overcomes, if this command has the option."""
    options = click.get_current_context().command.params
    has_option = any(option.name == "takeover" for option in options)
    return " Add --takeover." if code == ErrorCode.NUMBER_ALREADY_ROUTED and has_option else ""


def installation_command(command: Callable[P, R]) -> Callable[P, R]:
    """Decorate a command to log only errors, and to report expected errors as in `one_line_errors`."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        _installation().log_level = logging.ERROR
        logging.getLogger().setLevel(logging.ERROR)
        return command(*args, **kwargs)

    return one_line_errors(wrapper)


def user_command(command: Callable[P, R]) -> Callable[P, R]:
    """Decorate a command as `installation_command` does, and to see and create only in the workspace that it names."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        slug = click.get_current_context().meta.get(WORKSPACE_OPTION)
        if slug is None:
            return command(*args, **kwargs)
        with seeing(wiring().workspaces.named(slug).id):
            return command(*args, **kwargs)

    return _workspace_option(installation_command(wrapper))


WORKSPACE_OPTION = "trunkline.workspace"
"""Key in a command's context of the slug that was given; the option is not passed to the command."""


def _keep_slug(context: click.Context, _parameter: click.Parameter, slug: str | None) -> None:
    context.meta[WORKSPACE_OPTION] = slug


_workspace_option = click.option(
    "--workspace",
    metavar="SLUG",
    expose_value=False,
    callback=_keep_slug,
    help="See only what is in this workspace, and create in it; without it, see all.",
)


def reason_of(error: Exception) -> str:
    """Return the first line of a driver's message: it has the host and user, never the password."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def wiring() -> Wiring:
    """Return the process's wiring; if the settings are wrong, print each problem and exit."""
    try:
        return _installation().wiring()
    except SettingsError as error:
        for problem in error.problems:
            print_line(problem, err=True)
        print_line(f"How to fix them: {command_line('doctor')}", err=True)
        sys.exit(EXIT_FAILED)


def connect() -> Client:
    """Return a client of the server that is set, or of the application in this process."""
    context = click.get_current_context()
    root = context.find_root()
    target = None
    if program() != "flask":
        target = find_target(root.params.get("profile"), is_local=root.params.get("is_local", False))
    slug = context.meta.get(WORKSPACE_OPTION) or (target.workspace if target else None)
    headers = {"User-Agent": f"trunkline/{VERSION}", **({WORKSPACE_HEADER: slug} if slug else {})}
    if target is not None:
        from app.cli.remote import Remote  # noqa: PLC0415

        return Client(Remote(target), headers)
    from app.cli.local import Local  # noqa: PLC0415

    wiring()  # says what is wrong with the settings
    return Client(Local(_installation().application(), str(origin().requested_by)), headers)


def reader() -> Reader:
    """Return the reader that the API also uses."""
    return Reader(wiring().sessions, wiring().settings.trunk_max_numbers)


def origin() -> Origin:
    """Return the origin that operations record for this command."""
    context = click.get_current_context()
    command = context.command_path.removeprefix(context.find_root().info_name or "").strip()
    return Origin(requested_by=f"{program()} {command}", channel=Channel.COMMAND_LINE)


def program() -> str:
    """Return the program's name as it was called: `flask` or `trunkline`."""
    name = click.get_current_context().find_root().info_name or ""
    return "flask" if name.endswith("flask") else "trunkline"


def command_line(arguments: str) -> str:
    """Return a full command line for these arguments, to be shown to a person, with this program's name."""
    return f"flask --app app {arguments}" if program() == "flask" else f"trunkline {arguments}"
