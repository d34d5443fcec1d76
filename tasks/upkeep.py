"""Tasks that people start: from Flower's API, or by asking for an audit."""

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
