"""`flask operations`: re-enqueue by hand."""

import uuid

import click
from flask.cli import AppGroup

from app.cli.context import plain_errors, wiring
from app.provisioning.transitions import Origin

operations = AppGroup("operations", help="Operations: retry.")


@operations.command("retry")
@click.argument("operation_id", type=click.UUID)
@plain_errors
def retry_operation(operation_id: uuid.UUID) -> None:
    """Queue an open operation again; start a failed or cancelled provisioning afresh."""
    operation = wiring().provisioning.retry(operation_id, origin=Origin(requested_by="flask operations retry"))
    click.echo(f"Operation {operation.id} is {operation.status}.")
