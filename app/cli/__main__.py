"""The `trunkline` command, also run as `python -m app.cli`."""

import gc
import io
import sys

import click

from app.cli.commands import COMMANDS

HELP = "Connect Twilio numbers to LiveKit voice agents, and keep them connected."

NEW_OBJECTS = 50_000
"""New objects after which garbage is looked for. What is imported lives to the end: at Python's own 700, looking
through it was a tenth of the CPU of a command."""


def main() -> None:
    """Run the command line; settings come from the environment, or from `.env` in the working directory."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # If the terminal's encoding lacks our symbols, print a replacement character instead of a traceback.
            stream.reconfigure(errors="replace")
    gc.set_threshold(NEW_OBJECTS)
    click.Group("trunkline", commands=COMMANDS, help=HELP)(prog_name="trunkline")


if __name__ == "__main__":
    main()
