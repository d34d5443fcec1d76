"""What all commands share: finding agents and operations by id or name, `--json`, exit codes, where a command works.

A command of the installation itself also uses `app.cli.installation`, which brings the database and the settings.
"""

import functools
import os
import re
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from app.cli.client import OPERATORS, WORKSPACE_OPTION, ProblemError, client, command_path, program, remote_target
from app.cli.output import command_error
from app.domain.errors import TAKEOVER_HINT, ErrorCode, RefusedError, agent_not_found, operation_not_found
from app.domain.texts import InvalidTextError, visible_line

EXIT_OK = 0
"""Done, or nothing to do."""

EXIT_FAILED = 1
"""Refused or failed."""

EXIT_USAGE = 2
"""Invalid command line; set by click, and for what the application calls invalid."""

EXIT_ATTENTION = 3
"""Done, but something needs attention: drift, failed items of a bulk, a warning of `doctor`."""

EXIT_INTERRUPTED = 130
"""Ctrl-C, 128 + SIGINT as in shells: only the display ended, not the operation."""


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


WHOLE_NUMBER = re.compile(r"-?[0-9]{1,9}", re.ASCII)
"""An integer in ASCII digits; `int()` would also take blanks, `_`, `+` and digits of other scripts."""

ID_PREFIX = re.compile(r"[0-9a-f]{8,31}")
"""The beginning of an id, without its dashes; at least 8 digits, so that a match is rarely ambiguous."""

MAX_IDS_SHOWN = 5
"""Ids listed when a name is ambiguous."""

Row = dict[str, Any]
"""What the API shows of one row."""


class PhoneNumber(click.ParamType[str]):
    """A phone number in E.164; anything else is a usage error."""

    name = "number"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the number unchanged."""
        # Imported where a number is given: it brings the numbering plans of all countries.
        from app.domain.numbers import InvalidNumberError, parse_e164  # noqa: PLC0415

        try:
            return parse_e164(value)
        except InvalidNumberError as error:
            self.fail(f"{value!r} {error}.", param, ctx)


class NewFile(click.Path):
    """A file to be written at the end: that its folder is missing is found out before the work, not after it."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, writable=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.parent.is_dir():
            self.fail(f"There is no folder {path.parent}.", param, ctx)
        return path


class WholeNumber(click.IntRange):
    """An integer in ASCII digits; click's own also accepts blanks, `_`, `+` and the digits of every script."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        if isinstance(value, str) and not WHOLE_NUMBER.fullmatch(value):
            self.fail(f"{value!r} is not a whole number.", param, ctx)
        return int(super().convert(value, param, ctx))


def find_agent(text: str) -> Row:
    """Return the agent with this id, name or unambiguous beginning of an id."""
    if row_id := _id(text):
        return dict(client().get(f"/api/agents/{row_id}"))
    try:
        visible_line(text)
    except InvalidTextError as error:
        raise not_found(agent_not_found(text)) from error
    found = client().get("/api/agents", name=text, limit=MAX_IDS_SHOWN + 1)["items"]
    found = found or _find_by_prefix("/api/agents", text)
    return exactly_one(found, not_found(agent_not_found(text)), f"agents called {text!r}")


def find_operation_id(text: str) -> str:
    """Return the id of the operation with this id or unambiguous beginning of an id."""
    if row_id := _id(text):
        return str(row_id)
    found = _find_by_prefix("/api/operations", text)
    return str(exactly_one(found, not_found(operation_not_found(text)), f"operations {text}…")["id"])


def not_found(error: RefusedError) -> ProblemError:
    """Return the error for something that the application was not even asked for."""
    return ProblemError(error.code, error.detail, status=404)


def _id(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def _find_by_prefix(path: str, text: str) -> list[Row]:
    digits = text.replace("-", "").lower()
    if not ID_PREFIX.fullmatch(digits):
        return []
    return list(client().get(path, idPrefix=digits, limit=MAX_IDS_SHOWN + 1)["items"])


def exactly_one(found: Sequence[Row], missing: Exception, what: str) -> Row:
    """Return the only one of these; raise `missing` where there is none, and an error with the ids of several."""
    if not found:
        raise missing
    if len(found) > 1:
        ids = ", ".join(str(row["id"]) for row in found[:MAX_IDS_SHOWN]) + (", …" if len(found) > MAX_IDS_SHOWN else "")
        raise command_error(f"There are several {what}: give the id ({ids}).")
    return found[0]


P = ParamSpec("P")
R = TypeVar("R")

json_option = click.option("--json", "is_json", is_flag=True, help="Print JSON.")


def takeover_hint(code: str) -> str:
    """Return what to add after an error, or an obstacle, that a takeover overcomes, if this command has the option."""
    options = click.get_current_context().command.params
    has_option = any(option.name == "takeover" for option in options)
    return " Add --takeover." if code == ErrorCode.NUMBER_ALREADY_ROUTED and has_option else ""


def without_hint(detail: str) -> str:
    """Return a detail without what the API adds for its own clients."""
    return detail.removesuffix(TAKEOVER_HINT).rstrip()


def operator_command(command: Callable[P, R]) -> Callable[P, R]:
    """Decorate a command about what is the installation's and no workspace's."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        click.get_current_context().meta[OPERATORS] = True
        return command(*args, **kwargs)

    return wrapper


def user_command(command: Callable[P, R]) -> Callable[P, R]:
    """Decorate a command to see and create only in the workspace that it names, and to hint at its own options."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except ProblemError as error:
            hint = takeover_hint(error.code)
            if not hint:
                raise
            raise ProblemError(
                error.code,
                without_hint(error.detail),
                error.errors,
                status=error.status,
                problem=error.problem,
                advice=hint.strip(),
            ) from error

    return _workspace_option(wrapper)


def _keep_slug(context: click.Context, _parameter: click.Parameter, slug: str | None) -> None:
    context.meta[WORKSPACE_OPTION] = slug


_workspace_option = click.option(
    "--workspace",
    metavar="SLUG",
    expose_value=False,
    callback=_keep_slug,
    help="See only what is in this workspace, and create in it; without it, see all.",
)


def server_command(command: Callable[P, R]) -> Callable[P, R]:
    """Decorate a command that works on the installation itself: it is refused where commands go to a server.

    It logs only errors, and reports expected ones as one line.
    """

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if target := remote_target():
            name = command_path().partition(" ")[2]
            raise command_error(
                f"{name} must run on the server itself, where its settings are, and commands go to {target.url}: log "
                f"in there, or call {command_line(f'--local {name}')}."
            )
        # Imported where it is needed: it brings settings and database.
        from app.cli.installation import expected_errors  # noqa: PLC0415

        with expected_errors():
            return command(*args, **kwargs)

    return wrapper


def command_line(arguments: str) -> str:
    """Return a full command line for these arguments, to be shown to a person, with this program's name."""
    return f"flask --app app {arguments}" if program() == "flask" else f"trunkline {arguments}"
