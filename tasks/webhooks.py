"""The hint that an endpoint has something to be told."""

import uuid

from tasks import app
from tasks.worker import wiring


@app.task(name="webhooks.deliver")
def deliver(endpoint_id: str) -> None:
    """Send what is due at one endpoint; does nothing where nothing is, and no harm to a worker that is at it."""
    wiring().deliveries.deliver(uuid.UUID(endpoint_id))
