"""What a person sees while the stack starts: one aligned line for each part, a spinner where it takes time."""

import codecs
import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.markup import escape

LABEL_WIDTH = 12
"""Columns of the first word of a line."""

NOTABLE_S = 0.1
"""Seconds from which the time that a part took is worth a mention."""

PLAIN = {"✓": "+", "✗": "x", "↶": "<", "·": "-", "…": "...", "→": "->"}
"""Our marks where the terminal's encoding has none of them."""

ERRORS = "trunkline.plain"
"""The name of the rule for characters that the terminal's encoding lacks."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(each, "?") for each in error.object[error.start : error.end]), error.end


codecs.register_error(ERRORS, _plain)


class _LastingFile(io.FileIO):
    """Standard output; once nobody takes what is written it is dropped, and `on_loss` is called."""

    def __init__(self, on_loss: Callable[[OSError], None]) -> None:
        super().__init__(1, "w", closefd=False)
        self._on_loss: Callable[[OSError], None] | None = on_loss

    def write(self, data: object) -> int:
        """Write, or drop what cannot be written."""
        try:
            return super().write(data)  # type: ignore[arg-type]  # whatever the buffer above holds
        except OSError as error:
            told, self._on_loss = self._on_loss, None
            if told:
                told(error)
            return len(data)  # type: ignore[arg-type]


def lasting_output(on_loss: Callable[[OSError], None]) -> TextIO:
    """Return a standard output on which no print fails: not for a character, nor for a reader that has gone."""
    raw = io.BufferedWriter(_LastingFile(on_loss))
    return io.TextIOWrapper(raw, encoding=sys.stdout.encoding, errors=ERRORS, line_buffering=True)


class Terminal:
    """Prints the progress of a start; plain lines where standard output is not a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)

    @contextmanager
    def stage(self, label: str, doing: str) -> Iterator[Callable[[str], None]]:
        """Show `doing` while the block runs, then its line with what the block reported and the time it took."""
        details: list[str] = []
        started = time.monotonic()
        with self.console.status(escape(f"{label:<{LABEL_WIDTH}} {doing}")):
            yield details.append
        took = time.monotonic() - started
        self.line(label, " ".join(details), f"{took:.1f} s" if took >= NOTABLE_S else "")

    def line(self, label: str, text: str, aside: str = "") -> None:
        """Print one aligned line."""
        end = f"  [dim]{escape(aside)}[/]" if aside else ""
        self.console.print(f"  [bold]{label:<{LABEL_WIDTH}}[/] {escape(text)}{end}")

    def heading(self, text: str) -> None:
        """Print a line that starts a new part."""
        self.console.print(f"\n[bold]{escape(text)}[/]")

    def plain(self, text: str = "") -> None:
        """Print text to be copied: no markup, no folding."""
        self.console.print(text, markup=False)

    def problem(self, text: str) -> None:
        """Print what went wrong."""
        self.console.print(f"[bold red]{escape(text)}[/]")
