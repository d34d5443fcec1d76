"""The `trunkline` command, also run as `python -m app.cli`."""

import gc
import io
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from app.cli.commands import COMMANDS
from app.domain.version import VERSION

HELP = """Connect Twilio numbers to LiveKit voice agents, and keep them connected.

Commands go to the server that TRUNKLINE_URL names, with the API key TRUNKLINE_KEY; or to that of a profile in
~/.config/trunkline/config.toml; or else they work on the installation on this machine.
"""

NEW_OBJECTS = 50_000
"""New objects after which garbage is looked for. What is imported lives to the end: at Python's own 700, looking
through it was a tenth of the CPU of a command."""


class Trunkline(click.Group):
    """All commands; with `--json` an error is one JSON document on stderr too."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **extra: Any) -> NoReturn:
        """Run one command and exit."""
        given = sys.argv[1:] if args is None else list(args)
        extra["standalone_mode"] = False
        try:
            sys.exit(super().main(given, *more, **extra))
        except (click.Abort, click.ClickException, OSError) as raised:
            error = raised
        # Imported for an error only: what prints is half of what help costs.
        from app.cli.output import as_click_error, print_error  # noqa: PLC0415

        sys.exit(print_error(as_click_error(error), is_json="--json" in given))


def _print_version(context: click.Context, _parameter: click.Parameter, is_asked: bool) -> None:
    if is_asked and not context.resilient_parsing:
        sys.stdout.write(f"trunkline {VERSION}\n")
        context.exit()


def trunkline() -> Trunkline:
    """Return the group of all commands."""
    return Trunkline(
        "trunkline",
        commands=COMMANDS,
        help=HELP,
        params=[
            click.Option(["--profile"], metavar="NAME", help="The profile to use; also TRUNKLINE_PROFILE."),
            click.Option(
                ["--local", "is_local"], is_flag=True, help="Work on the installation on this machine, whatever is set."
            ),
            click.Option(
                ["--version"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_print_version,
                help="Show the version and exit.",
            ),
        ],
    )


def main() -> None:
    """Run the command line; settings come from the environment, or from `.env` in the working directory."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # If the terminal's encoding lacks our symbols, print a replacement character instead of a traceback.
            stream.reconfigure(errors="replace")
    gc.set_threshold(NEW_OBJECTS)
    trunkline().main(prog_name="trunkline")


if __name__ == "__main__":
    main()
