"""How commands print: tables that fit the terminal and lines that fit a pipe, JSON in the words of the API.

Names, details and addresses are other people's text: nothing of it reaches a terminal but as what can be read.
"""

import json
import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import click
from apiflask import Schema
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from app.domain.texts import escaped

PIPE_WIDTH = 1000
"""Columns where standard output is no terminal: nothing is folded, so that every row is one line."""

SHORT_ID = 8
"""Characters of an id on a narrow terminal; any command takes them for the whole while they are unambiguous."""

WIDE = 120
"""Columns from which a terminal has room for whole ids."""

GOOD, MOVING, BAD = "green", "yellow", "red"
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
"""Word of a closed list -> its colour; the others are under way."""


class PlainConsole(Console):
    """A console on which text is text: whatever a terminal would obey is written out, but for rich's own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, emoji=False, markup=False, **options)

    def render_str(self, text: str, **more: Any) -> Text:
        """Make a text of a string, as wide as it will be."""
        return super().render_str(escaped(text, keep="\n"), **more)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what rich would print, harmless."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=escaped(segment.text, keep="\n"))


def out(*, err: bool = False) -> PlainConsole:
    """Return the console of results, or of stderr; NO_COLOR and TERM are rich's to read."""
    console = PlainConsole(stderr=err)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def tell(line: object, *, err: bool = False) -> None:
    """Print one line."""
    click.echo(escaped(str(line)), err=err)


def failure(message: str) -> click.ClickException:
    """Build the error that ends a command with one line."""
    return click.ClickException(escaped(message))


def confirm(question: str) -> None:
    """End the command unless the person at the terminal says yes."""
    click.confirm(escaped(question), abort=True, err=True)


def say(*parts: RenderableType) -> None:
    """Print a result; in a pipe without the blanks that a table puts at the ends of its lines."""
    console = out()
    with console.capture() as captured:
        console.print(*parts)
    text = captured.get()
    click.echo(text if console.is_terminal else "\n".join(line.rstrip() for line in text.split("\n")), nl=False)


def progress_console() -> PlainConsole:
    """Return the console of what is under way: stderr, so that a pipe gets results only."""
    return out(err=True)


def print_json(body: Any, schema: Schema | None = None) -> None:
    """Print one JSON document, in the words of `schema` where there is one."""
    # All that is escaped stands in strings, where JSON has the same escapes.
    click.echo(escaped(json.dumps(schema.dump(body) if schema else body, ensure_ascii=False)))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
    """Print rows under their headings."""
    table = Table(*columns, box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    say(table)


def print_pairs(pairs: Sequence[tuple[str, str | Text | None]]) -> None:
    """Print a name and its value on each line; what has no value is left out."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        if value:
            table.add_row(name, value)
    say(table)


def coloured(word: str) -> Text:
    """Return a word of a closed list in its colour."""
    return Text(word, COLOURS.get(word, MOVING))


def short(row_id: uuid.UUID | str | None) -> str:
    """Return an id as there is room for it: whole in a pipe and on a wide terminal, else its beginning."""
    console = out()
    text = str(row_id or "")
    return text if not console.is_terminal or console.width >= WIDE else text[:SHORT_ID]


def moment(at: datetime | None) -> str:
    """Return a time to the second, UTC."""
    return f"{at:%Y-%m-%d %H:%M:%S}" if at else ""
