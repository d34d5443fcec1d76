"""Trunkline: connects Twilio numbers to LiveKit voice agents, and keeps them connected."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apiflask import APIFlask

    from app.wiring import Wiring

GUNICORN_BOOT_FAILED = 3
"""Exit code at which gunicorn halts; with any other it starts the failing worker again, for ever."""


def create_app(wiring: "Wiring | None" = None) -> "APIFlask":
    """Build the web application, on `wiring` or on what the settings say.

    Wrong settings end the process with one line each on stderr, and no traceback.
    """
    # Imported late: worker, sandbox and ./run.py import this package too, and need no web framework.
    from app.api.application import build_application  # noqa: PLC0415
    from app.console.registration import register_console  # noqa: PLC0415
    from app.settings import SettingsError, load_settings  # noqa: PLC0415
    from app.wiring import build, build_web  # noqa: PLC0415

    is_server = "gunicorn.arbiter" in sys.modules
    try:
        app = build_application(wiring or (build_web if is_server else build)(load_settings()))
    except SettingsError as error:
        sys.stderr.write("".join(f"{problem}\n" for problem in error.problems))
        raise SystemExit(GUNICORN_BOOT_FAILED if is_server else 1) from None
    register_console(app)
    return app
