"""The hint that an endpoint has something to be told."""

import uuid

from tasks import app
from tasks.worker import wiring


@app.task(name="webhooks.deliver")
def deliver(endpoint_id: str) -> None:
    """Begin to send what is due at one endpoint, in a thread apart: a slow receiver holds none of the worker's."""
    wiring().deliveries.start(uuid.UUID(endpoint_id))
