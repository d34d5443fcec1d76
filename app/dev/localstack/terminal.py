"""The output of a start: one aligned line for each part, with a spinner while it takes time."""

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
"""Seconds from which the time that a part took is shown."""

PLAIN = {"✓": "+", "✗": "x", "↶": "<", "·": "-", "…": "...", "→": "->"}
"""Replacements for our symbols where the terminal's encoding lacks them."""

ERRORS = "trunkline.plain"
"""The name of the codec error handler that replaces characters which the terminal's encoding lacks."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(each, "?") for each in error.object[error.start : error.end]), error.end


codecs.register_error(ERRORS, _plain)


class _RobustFile(io.FileIO):
    """Standard output; when it cannot be written any more, output is dropped and `on_loss` is called once."""

    def __init__(self, on_loss: Callable[[OSError], None]) -> None:
        super().__init__(1, "w", closefd=False)
        self._on_loss: Callable[[OSError], None] | None = on_loss

    def write(self, data: object) -> int:
        """Write, or drop what cannot be written."""
        try:
            return super().write(data)  # type: ignore[arg-type]  # whatever the buffer above holds
        except OSError as error:
            on_loss, self._on_loss = self._on_loss, None
            if on_loss:
                on_loss(error)
            return len(data)  # type: ignore[arg-type]


def robust_output(on_loss: Callable[[OSError], None]) -> TextIO:
    """Return a standard output on which no print fails, neither for a character nor for a closed pipe."""
    raw = io.BufferedWriter(_RobustFile(on_loss))
    return io.TextIOWrapper(raw, encoding=sys.stdout.encoding, errors=ERRORS, line_buffering=True)


class Terminal:
    """Prints the progress of a start; plain lines where standard output is not a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)

    @contextmanager
    def progress(self, label: str, doing: str) -> Iterator[Callable[[str], None]]:
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

    def error_line(self, text: str) -> None:
        """Print an error."""
        self.console.print(f"[bold red]{escape(text)}[/]")
