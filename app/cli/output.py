"""How commands print: tables that fit the terminal and lines that fit a pipe, JSON in the words of the API."""

import json
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click
from apiflask import Schema
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

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


def out() -> Console:
    """Return the console of results; NO_COLOR and TERM are rich's to read."""
    console = Console(highlight=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, emoji=False, width=PIPE_WIDTH)


def say(*parts: RenderableType) -> None:
    """Print a result; in a pipe without the blanks that a table puts at the ends of its lines."""
    console = out()
    with console.capture() as captured:
        console.print(*parts, markup=False)
    text = captured.get()
    click.echo(text if console.is_terminal else "\n".join(line.rstrip() for line in text.split("\n")), nl=False)


def progress_console() -> Console:
    """Return the console of what is under way: stderr, so that a pipe gets results only."""
    console = Console(stderr=True, highlight=False, emoji=False)
    return console if console.is_terminal else Console(stderr=True, highlight=False, emoji=False, width=PIPE_WIDTH)


def print_json(body: Any, schema: Schema | None = None) -> None:
    """Print one JSON document, in the words of `schema` where there is one."""
    click.echo(json.dumps(schema.dump(body) if schema else body, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
    """Print rows under their headings."""
    table = Table(*columns, box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    say(table)


def print_pairs(pairs: Sequence[tuple[str, str | Text | None]]) -> None:
    """Print a name and its value on each line; what has no value is left out."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        if value:
            table.add_row(name, Text(value) if isinstance(value, str) else value)
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
