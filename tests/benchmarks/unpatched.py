"""The application with one of its Celery patches taken out: the other side of `./run.py bench patches`.

`BENCH_WITHOUT` names the patch; without it nothing is taken out. Run as a program it publishes plans, and prints the
milliseconds of CPU that one took.
"""

import os
import sys
import time
import uuid
from collections.abc import Callable, Sequence

from flask import Flask
from kombu.transport import TRANSPORT_ALIASES

import app as application
from app.domain.operations import STEPS, Direction, OperationKind
from app.saga.chain_plan import Plan
from tasks import app, celery_patches
from tasks.steps import chain_of
from tests.benchmarks import patches

WARM_UP = 50
"""Plans published before those that count."""


def _without_templates() -> None:
    from tasks.publisher import ChainPublisher  # noqa: PLC0415

    def publish_all(self: ChainPublisher, plans: Sequence[Plan]) -> bool:
        return self._try(lambda: [chain_of(plan).apply_async(retry=False) for plan in plans])

    ChainPublisher.publish_all = publish_all  # type: ignore[method-assign]


def _without_client() -> None:
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = "kombu.transport.redis:Transport"


def _without_batching() -> None:
    app.steps["consumer"].discard(celery_patches.EventBatching)


WITHOUT: dict[str, Callable[[], None]] = {
    patches.TEMPLATES: _without_templates,
    patches.CLIENT: _without_client,
    patches.BATCHING: _without_batching,
}

if name := os.environ.get("BENCH_WITHOUT"):
    WITHOUT[name]()


def create_app() -> Flask:
    """Build the web application; gunicorn calls it."""
    return application.create_app()


def main() -> None:
    """Publish as many provision plans as the argument says, one by one, after some that do not count."""
    from tasks.publisher import ChainPublisher  # noqa: PLC0415

    publisher, names, count = ChainPublisher(), tuple(step.name for step in STEPS), int(sys.argv[1])
    started = 0.0
    for place in range(WARM_UP + count):
        if place == WARM_UP:
            started = time.process_time()
        if not publisher.publish(Plan(uuid.uuid4(), 0, OperationKind.PROVISION, Direction.DO, names)):
            raise SystemExit("the broker did not take a plan")
    sys.stdout.write(f"{(time.process_time() - started) * 1000 / count}")


if __name__ == "__main__":
    main()
