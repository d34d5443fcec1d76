"""`trunkline`, and the same without its launcher: `python -m app.cli`."""

import io
import sys

import click
from flask.cli import ScriptInfo

from app import create_app
from app.cli.commands import COMMANDS

HELP = "Connect Twilio numbers to LiveKit voice agents, and keep them connected."


def main() -> None:
    """Run the command line; settings come from the environment, or from `.env` in the working directory."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without our marks in its encoding gets another character, not a traceback.
            stream.reconfigure(errors="replace")
    group = click.Group("trunkline", commands=list(COMMANDS), help=HELP)
    group(prog_name="trunkline", obj=ScriptInfo(create_app=create_app, load_dotenv_defaults=False))


if __name__ == "__main__":
    main()
