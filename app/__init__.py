"""Trunkline: connects Twilio numbers to LiveKit voice agents, and keeps them connected."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.wiring import Wiring

GUNICORN_BOOT_FAILED = 3
"""The exit code at which gunicorn stops; after any other it restarts the failing worker for ever."""


def create_app(wiring: "Wiring | None" = None) -> "Flask":
    """Build the web application, with `wiring` or from the settings; a server's has no commands.

    Invalid settings end the process with one line each on stderr and no traceback, except under the `flask` command:
    `doctor` must run then, too.
    """
    # Imported here: worker, sandbox and ./run.py import this package too, and need no web framework.
    from app.api.application import build_application  # noqa: PLC0415
    from app.cli.context import has_loaded_dotenv, is_command_lookup, make_misconfigured_app  # noqa: PLC0415
    from app.console.application import register_console  # noqa: PLC0415
    from app.domain.texts import escaped  # noqa: PLC0415
    from app.settings import SettingsError, load_settings, unset_parent_env_files  # noqa: PLC0415
    from app.wiring import build, build_web  # noqa: PLC0415

    if has_loaded_dotenv():
        unset_parent_env_files()
    is_server = "gunicorn.arbiter" in sys.modules
    app: Flask
    try:
        app = build_application(wiring or (build_web if is_server else build)(load_settings()))
        register_console(app)
    except SettingsError as error:
        if not is_command_lookup():
            sys.stderr.write("".join(f"{escaped(problem)}\n" for problem in error.problems))
            raise SystemExit(GUNICORN_BOOT_FAILED if is_server else 1) from None
        app = make_misconfigured_app(error.problems)
    if not is_server:
        _register_commands(app)
    return app


def _register_commands(app: "Flask") -> None:
    """Add the commands of `flask`; a server saves their memory."""
    from app.cli.commands import COMMANDS  # noqa: PLC0415

    for command in COMMANDS:
        app.cli.add_command(command)
