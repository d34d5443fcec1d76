"""The `trunkline` command, also run as `python -m app.cli`."""

import io
import sys

import click

from app.cli.commands import COMMANDS

HELP = "Connect Twilio numbers to LiveKit voice agents, and keep them connected."


def main() -> None:
    """Run the command line; settings come from the environment, or from `.env` in the working directory."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # If the terminal's encoding lacks our symbols, print a replacement character instead of a traceback.
            stream.reconfigure(errors="replace")
    click.Group("trunkline", commands=COMMANDS, help=HELP)(prog_name="trunkline")


if __name__ == "__main__":
    main()
