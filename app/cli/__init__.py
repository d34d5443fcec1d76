"""The `flask` commands, one module each; they act through the same services as the API."""

from app.cli.audit import audit
from app.cli.bulk import provision
from app.cli.keys import keys
from app.cli.operations import operations
from app.cli.sweep import sweep

COMMANDS = (keys, provision, operations, sweep, audit)
