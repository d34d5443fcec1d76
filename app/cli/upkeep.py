"""`credentials` and `sweep`: what only the installation itself can do, with its settings and its database."""

import logging
import signal
import threading

import click

from app.cli.context import json_option, server_command
from app.cli.installation import wiring
from app.cli.output import command_error, print_json, print_line
from app.sealing import SealError

credentials = click.Group("credentials", help="Stored secrets: seal them, or wrap them by a new key.")


@credentials.command("rewrap")
@json_option
@server_command
def rewrap_credentials(is_json: bool) -> None:
    """Seal every stored secret by the first of CREDENTIAL_KEYS; then the other keys are not needed any more."""
    if not wiring().settings.sealing_keys:
        raise command_error("CREDENTIAL_KEYS is not set. Make a key with: openssl rand -base64 32")
    try:
        count = wiring().stored_secrets.rewrap()
    except SealError as error:
        raise command_error(f"{error} Nothing was changed.") from error
    if is_json:
        print_json({"changed": count})
        return
    print_line(f"{count} secrets sealed by the first key." if count else "Every stored secret is sealed by it already.")


@click.command("sweep")
@server_command
def sweep() -> None:
    """Publish operations whose message was lost, until stopped."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    sweeper = wiring().sweeper
    # A process that runs for months logs what it does.
    logging.getLogger().setLevel(logging.INFO)
    sweeper.run(stop)
    wiring().close()
