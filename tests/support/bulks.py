"""Runs bulks as sweeper and workers do, over rows and providers in memory."""

import uuid

from app.bulk.service import BulkService
from app.domain.operations import BulkStatus, ItemStatus
from tests.support.saga import Saga

PASSES = 20
"""Passes after which a bulk that has not ended is stuck."""


def run_bulk(saga: Saga, bulk_id: uuid.UUID) -> BulkStatus:
    """Run a bulk to its end; return how it ended."""
    bulks, advance = BulkService(saga.sessions, saga.rows), saga.sweeper.dispatcher.advance
    for _ in range(PASSES):
        advance()
        while saga.publisher.adoptions:
            saga.sweeper.dispatcher.start_adoptions(saga.publisher.adoptions.pop())
        for item in bulks.items(bulk_id):
            if item.status is ItemStatus.RUNNING and item.operation_id:
                saga.drive(item.operation_id)
        if bulks.get(bulk_id).status.is_final:
            return bulks.get(bulk_id).status
    raise AssertionError(f"stuck: {[(one.kind, one.status) for one in bulks.items(bulk_id)]}")
