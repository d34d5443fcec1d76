"""Prints tables, lines and JSON for all commands.

Names, details and addresses are untrusted text: control characters in them are escaped before they reach a terminal.
"""

import json
import sys
import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from app.domain.texts import escaped

PIPE_WIDTH = 1000
"""Columns where standard output is not a terminal: nothing is wrapped, so that every row is one line."""

SHORT_ID = 8
"""Characters of an id on a narrow terminal; commands accept them while they are unambiguous."""

WIDE = 120
"""Columns from which a terminal has space for full ids."""

GOOD, WARNING, IN_PROGRESS, BAD = "green", "yellow", "yellow", "red"
COLOURS = {
    "PROVISIONED": GOOD,
    "IN_SYNC": GOOD,
    "succeeded": GOOD,
    "free": GOOD,
    "FAILED": BAD,
    "DRIFTED": BAD,
    "failed": BAD,
    "needs_attention": BAD,
    "NOT_PROVISIONED": "dim",
    "UNKNOWN": "dim",
    "cancelled": "dim",
    "no_voice": "dim",
}
"""Status -> its colour; the statuses that are not listed are in progress."""


class EscapingConsole(Console):
    """A console that escapes control characters in text; only rich's own control codes reach the terminal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, emoji=False, markup=False, **options)

    def render_str(self, text: str, **more: Any) -> Text:
        """Escape a string before it is measured, so that columns have the right width."""
        return super().render_str(escaped(text, keep="\n"), **more)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield rich's segments with their text escaped."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=escaped(segment.text, keep="\n"))


def make_console(*, err: bool = False) -> EscapingConsole:
    """Return a console on stdout or stderr; rich reads NO_COLOR and TERM."""
    console = EscapingConsole(stderr=err)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def print_line(line: object, *, err: bool = False) -> None:
    """Print one line, escaped."""
    click.echo(escaped(str(line)), err=err)


class CommandError(click.ClickException):
    """Ends a command with one line, or with one JSON document where that was asked for, and exit code 1."""

    code = "command_failed"

    def as_problem(self) -> dict[str, Any]:
        """Return the error as problem details (RFC 9457)."""
        return {
            "type": f"urn:trunkline:problem:{self.code}",
            "title": "The command failed",
            "detail": self.message,
            "code": self.code,
        }


def command_error(message: str) -> CommandError:
    """Build the error that ends a command with one line and exit code 1."""
    return CommandError(escaped(message))


class Interrupted(click.ClickException):
    """Ends a command that Ctrl-C has stopped, with the exit code of shells: 128 + SIGINT."""

    exit_code = 130

    def __init__(self) -> None:
        super().__init__("Stopped by Ctrl-C. What was asked for before may still be done.")


class Unconfirmed(click.ClickException):
    """Ends a command whose question was not answered with yes."""

    def __init__(self) -> None:
        super().__init__("Stopped before it was done.")


def as_click_error(error: Exception) -> click.ClickException:
    """Return why a command ended: click says the same of Ctrl-C and of a question without a yes, and nothing of files.

    An `OSError` that comes here is of a file that was to be written, or of standard output.
    """
    if isinstance(error, click.ClickException):
        return error
    if isinstance(error, OSError):
        where = "The output" if error.filename is None else error.filename
        return command_error(f"{where} cannot be written: {error.strerror or error}.")
    return Interrupted() if isinstance(error.__context__, KeyboardInterrupt) else Unconfirmed()


def print_error(error: click.ClickException, *, is_json: bool) -> int:
    """Print on stderr why a command ended; return its exit code."""
    if is_json:
        click.echo(escaped(json.dumps(_as_problem(error), ensure_ascii=False)), err=True)
    elif isinstance(error, Unconfirmed):
        click.echo("Aborted!", err=True)
    else:
        error.show()
    return error.exit_code


_STOPPED = {
    Interrupted: ("interrupted", "The command was interrupted"),
    Unconfirmed: ("aborted", "The command was stopped"),
}


def _as_problem(error: click.ClickException) -> dict[str, Any]:
    if isinstance(error, CommandError):
        return error.as_problem()
    code, title = _STOPPED.get(type(error), ("usage", "The command line is wrong"))
    return {"type": f"urn:trunkline:problem:{code}", "title": title, "detail": error.format_message(), "code": code}


def confirm(question: str) -> None:
    """Ask for confirmation; abort the command unless the answer is yes."""
    click.confirm(escaped(question), abort=True, err=True)


def choose(question: str, choices: Iterable[str]) -> str:
    """Ask for one of these; abort the command where nobody can be asked."""
    return str(click.prompt(escaped(question), type=click.Choice(list(choices)), err=True))


def read_secret() -> str:
    """Ask for a secret without showing it, or take the first line of a pipe."""
    if sys.stdin.isatty():
        return str(click.prompt("Secret", hide_input=True, err=True))
    return sys.stdin.readline().strip()


def print_result(*parts: RenderableType) -> None:
    """Print a result; in a pipe without the trailing blanks that tables have."""
    console = make_console()
    with console.capture() as captured:
        console.print(*parts)
    text = captured.get()
    click.echo(text if console.is_terminal else "\n".join(line.rstrip() for line in text.split("\n")), nl=False)


def progress_console() -> EscapingConsole:
    """Return the console for progress: stderr, so that a pipe gets only results."""
    return make_console(err=True)


def print_json(body: Any) -> None:
    """Print one JSON document."""
    # Only characters in strings are escaped, and JSON has the same escapes.
    click.echo(escaped(json.dumps(body, ensure_ascii=False)))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
    """Print a table."""
    table = Table(*columns, box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    print_result(table)


def print_pairs(pairs: Sequence[tuple[str, str | Text | None]]) -> None:
    """Print a name and its value on each line; empty values are left out."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        if value:
            table.add_row(name, value)
    print_result(table)


def print_blocks(blocks: Iterable[tuple[Text, Sequence[str]]]) -> None:
    """Print a coloured word with lines beside it, for each block; in a pipe each block is one line."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    separator = "\n" if make_console().is_terminal else "  "
    for word, lines in blocks:
        table.add_row(word, separator.join(line for line in lines if line))
    print_result(table)


def coloured(status: str) -> Text:
    """Return a status in its colour."""
    return Text(status, COLOURS.get(status, IN_PROGRESS))


def short_id(row_id: uuid.UUID | str | None) -> str:
    """Return an id in full in a pipe or on a wide terminal, else its first characters."""
    console = make_console()
    text = str(row_id or "")
    return text if not console.is_terminal or console.width >= WIDE else text[:SHORT_ID]


def format_time(at: str | None) -> str:
    """Format a time of the API, which is UTC, to the second; empty for None."""
    return f"{datetime.fromisoformat(at):%Y-%m-%d %H:%M:%S}" if at else ""
