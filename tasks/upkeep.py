"""Tasks apart from operations: what people start, from Flower's API or by asking for an audit, and the sweeper."""

import uuid

from tasks import app
from tasks.steps import wiring


@app.task(name="upkeep.kick")
def kick(operation_id: str) -> None:
    """Publish an open operation again; does nothing for one that has ended, and no harm to one that runs."""
    wiring().provisioning.republish(uuid.UUID(operation_id))


@app.task(name="upkeep.audit")
def audit(audit_id: str) -> None:
    """Run an audit that was asked for; does nothing for one that is over or that another worker runs."""
    wiring().audits.run_audit(uuid.UUID(audit_id))


@app.task(name="upkeep.call")
def call(call_id: str) -> None:
    """Place a test call, in a thread of its own; does nothing for one that is over or that another worker places."""
    wiring().calls.start(uuid.UUID(call_id))


@app.task(name="upkeep.retire_trunk")
def retire_trunk(trunk_id: str) -> None:
    """Delete a shared trunk that no number has used for a day; does nothing for any other."""
    wiring().retiring.retire(uuid.UUID(trunk_id))


@app.task(name="upkeep.start_adoptions")
def start_adoptions(bulk_id: str) -> None:
    """Start the next items of a bulk of adoptions; does nothing while another worker does."""
    wiring().dispatcher.start_adoptions(uuid.UUID(bulk_id))
