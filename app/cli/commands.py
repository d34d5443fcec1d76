"""The commands, as `flask --app app …` and as `trunkline …`; they act through the same services as the API."""

import click

from app.cli.activity import activity
from app.cli.agents import agents
from app.cli.audit import audit
from app.cli.bulk import import_file, provision
from app.cli.care import repair, verify
from app.cli.doctor.command import doctor
from app.cli.keys import keys
from app.cli.numbers import numbers
from app.cli.operations import operations
from app.cli.phones import deprovision, move, status
from app.cli.sweep import sweep
from app.cli.webhooks import webhooks

COMMANDS: tuple[click.Command, ...] = (
    doctor,
    agents,
    numbers,
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
    keys,
    sweep,
)
