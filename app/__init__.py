"""Trunkline: connects Twilio numbers to LiveKit voice agents, and keeps them connected."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask

    from app.wiring import Wiring

GUNICORN_BOOT_FAILED = 3
"""The exit code at which gunicorn stops; after any other it restarts the failing worker for ever."""


def create_app(wiring: "Wiring | None" = None) -> "Flask":
    """Build the web application, with `wiring` or from the settings; a server's has no commands.

    Invalid settings end the process with one line each on stderr and no traceback. Where the `flask` command only looks
    one of ours up, there is nothing but the commands: they read the settings themselves, and `doctor` takes wrong ones.
    """
    # Imported here, and below: worker, sandbox and ./run.py import this package too, and need no web framework.
    import click  # noqa: PLC0415
    from flask import Flask  # noqa: PLC0415
    from flask.cli import FlaskGroup, ScriptInfo  # noqa: PLC0415

    context = click.get_current_context(silent=True)
    if context and isinstance(context.obj, ScriptInfo) and context.obj.load_dotenv_defaults:
        from app.settings import unset_parent_env_files  # noqa: PLC0415

        unset_parent_env_files()  # flask has loaded them, unless FLASK_SKIP_DOTENV is set
    is_server = "gunicorn.arbiter" in sys.modules
    if wiring is None and context and isinstance(context.command, FlaskGroup):
        return _with_commands(Flask("app", static_folder=None), None)
    from app.web.context import WIRING  # noqa: PLC0415

    app = _build_application(wiring, is_server=is_server)
    return app if is_server else _with_commands(app, lambda: app.extensions[WIRING])


def _build_application(wiring: "Wiring | None", *, is_server: bool) -> "Flask":
    from app.api.application import build_application  # noqa: PLC0415
    from app.console.application import register_console  # noqa: PLC0415
    from app.domain.texts import escaped  # noqa: PLC0415
    from app.settings import SettingsError, load_settings  # noqa: PLC0415
    from app.wiring import build, build_web  # noqa: PLC0415

    try:
        app = build_application(wiring or (build_web if is_server else build)(load_settings()))
    except SettingsError as error:
        sys.stderr.write("".join(f"{escaped(problem)}\n" for problem in error.problems))
        raise SystemExit(GUNICORN_BOOT_FAILED if is_server else 1) from None
    register_console(app)
    return app


def _with_commands(app: "Flask", wiring: "Callable[[], Wiring] | None") -> "Flask":
    """Add the commands of `flask`; a server saves their memory."""
    from app.cli.commands import COMMANDS  # noqa: PLC0415
    from app.cli.installation import INSTALLATION, Installation  # noqa: PLC0415

    app.extensions[INSTALLATION] = Installation(app, wiring)
    for command in COMMANDS:
        app.cli.add_command(command)
    return app
