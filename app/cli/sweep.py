"""`flask sweep`: the sweeper's process."""

import signal
import threading

import click
from flask.cli import with_appcontext

from app.cli.context import plain_errors, wiring


@click.command("sweep")
@with_appcontext
@plain_errors
def sweep() -> None:
    """Publish operations whose message was lost, until stopped."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    wiring().sweeper.run(stop)
    wiring().close()
