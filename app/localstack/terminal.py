"""What a person sees while the stack starts: one aligned line for each part, a spinner where it takes time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

LABEL_WIDTH = 12
"""Columns of the first word of a line."""

NOTABLE_S = 0.1
"""Seconds from which the time that a part took is worth a mention."""


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
