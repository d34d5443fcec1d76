"""The task that sends an endpoint's due deliveries."""

import uuid

from tasks import app
from tasks.steps import wiring


@app.task(name="webhooks.deliver")
def deliver(endpoint_id: str) -> None:
    """Start sending what is due at one endpoint, in a thread of its own: a slow receiver occupies no worker thread."""
    wiring().deliveries.start(uuid.UUID(endpoint_id))
