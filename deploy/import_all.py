"""Imports every module that production runs, with whatever packages this Python has; prints how many were imported.

So an image or an environment shows while it is made that its packages suffice, and has bytecode of all that is used: a
third of the bytecode of all that is installed. Run it as `python -m deploy.import_all` in the project's folder.
"""

import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator

from app.dev import sandbox

SETTINGS = {
    "DATABASE_URL": "postgresql://nobody@127.0.0.1/none",
    "REDIS_URL": "redis://127.0.0.1/0",
    "TWILIO_ACCOUNT_SID": sandbox.ACCOUNT_SID,
    "TWILIO_AUTH_TOKEN": sandbox.AUTH_TOKEN,
    "LIVEKIT_URL": "http://127.0.0.1",
    "LIVEKIT_API_KEY": sandbox.LIVEKIT_API_KEY,
    "LIVEKIT_API_SECRET": sandbox.LIVEKIT_API_SECRET,
    "LIVEKIT_SIP_URI": f"sip:{sandbox.SIP_HOST}",
}
"""Celery reads its settings on import; nothing is called."""

PROGRAMS = (
    *("alembic.config", "celery.bin.celery", "flower.command", "gunicorn.app.wsgiapp"),
    *("celeryconfig", "flowerconfig"),
)
"""What the lines of the Procfile and the migrations start, beside our own packages."""

OURS = ("app", "tasks")

LEFT_OUT = "app.dev.localstack"
"""What ./run.py starts on a developer's machine needs more packages."""


def modules() -> Iterator[str]:
    """Yield the names of all modules, ours first."""
    for name in OURS:
        package = importlib.import_module(name)
        yield name
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not found.name.startswith(LEFT_OUT):
                yield found.name
    yield from PROGRAMS


def main() -> None:
    """Import them; the first that cannot be imported ends it with its traceback."""
    os.environ.update(SETTINGS)
    for name in modules():
        importlib.import_module(name)
    sys.stdout.write(f"{len(sys.modules)} modules imported\n")


if __name__ == "__main__":
    main()
