"""The list of commands for `flask --app app …` and `trunkline …`; they use the same services as the API."""

import signal
import threading

import click
from flask.cli import with_appcontext

from app.cli.accounts import accounts, projects
from app.cli.agents import agents
from app.cli.bulk import import_file, provision
from app.cli.context import one_line_errors, wiring
from app.cli.doctor import doctor
from app.cli.keys import credentials, keys, webhooks
from app.cli.operations import activity, audit, operations
from app.cli.phones import deprovision, move, numbers, repair, status, verify
from app.cli.trunks import trunks
from app.cli.workspaces import workspaces


@click.command("sweep")
@with_appcontext
@one_line_errors
def sweep() -> None:
    """Publish operations whose message was lost, until stopped."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    wiring().sweeper.run(stop)
    wiring().close()


COMMANDS: tuple[click.Command, ...] = (
    doctor,
    agents,
    numbers,
    trunks,
    provision,
    import_file,
    status,
    deprovision,
    move,
    verify,
    repair,
    operations,
    audit,
    activity,
    webhooks,
    workspaces,
    accounts,
    projects,
    keys,
    credentials,
    sweep,
)
