"""What deploy/ runs against a real database: the migration, and the query that workers are scaled by."""

import os
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert

from app.db.models import Bulk, Operation
from app.domain.operations import OperationKind, OperationStatus
from app.domain.queues import QueueName
from app.domain.workspaces import DEFAULT_WORKSPACE
from app.observability.metrics import OPERATION_QUEUES, oldest_queued
from tests.integration.test_migrations import put_agent, tables
from tests.support.saga import E164, Saga
from tests.support.servers import ROOT

QUERY = ROOT / "deploy" / "helm" / "trunkline" / "queries" / "oldest_queued_operation.sql"


def test_the_migration_needs_the_databases_url_and_no_other_setting(empty_database_url: str, tmp_path: Path) -> None:
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}"
    environ = {"DATABASE_URL": empty_database_url, "DATA_DIR": str(tmp_path), "PATH": programs}

    done = subprocess.run(  # noqa: S603 - ours
        [ROOT / "deploy" / "start", "migrate"], env=environ, capture_output=True, text=True, check=False
    )

    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert {"agents", "operations"} <= tables(empty_database_url)


def queued(saga: Saga, kind: OperationKind, age_s: int, status: OperationStatus, bulk_id: uuid.UUID | None) -> None:
    values = {"id": uuid.uuid4(), "agent_id": put_agent(saga), "workspace_id": DEFAULT_WORKSPACE, "kind": kind}
    values |= {"phone_number": E164, "status": status, "takeover": False, "epoch": 0, "idle_kicks": 0}
    values |= {"bulk_id": bulk_id, "created_at": datetime.now(UTC) - timedelta(seconds=age_s)}
    with saga.sessions.begin() as session:
        session.execute(insert(Operation).values(values))


def asked(saga: Saga, queue: QueueName) -> int:
    """Ask as KEDA does: the chart puts the queue into the query by Helm's `printf`."""
    with saga.sessions() as session:
        answer = session.connection().exec_driver_sql(QUERY.read_text(encoding="utf-8") % queue.value).scalar_one()
    assert isinstance(answer, int)
    return answer


def test_workers_are_scaled_by_the_metric_of_the_oldest_queued_operation(saga: Saga) -> None:
    assert [asked(saga, queue) for queue in OPERATION_QUEUES] == [0, 0, 0]
    bulk_id = uuid.uuid4()
    with saga.sessions.begin() as session:
        session.execute(insert(Bulk).values({"id": bulk_id, "total": 2, "pending": 2}))
    for kind, age_s, status, bulk in (
        (OperationKind.PROVISION, 40, OperationStatus.QUEUED, None),
        (OperationKind.REPAIR, 90, OperationStatus.QUEUED, None),
        (OperationKind.PROVISION, 5000, OperationStatus.RUNNING, None),
        (OperationKind.PROVISION, 700, OperationStatus.QUEUED, bulk_id),
        (OperationKind.DEPROVISION, 300, OperationStatus.QUEUED, None),
        (OperationKind.DEPROVISION, 200, OperationStatus.QUEUED, bulk_id),
    ):
        queued(saga, kind, age_s, status, bulk)

    found = {queue: asked(saga, queue) for queue in OPERATION_QUEUES}

    with saga.sessions() as session:
        metric = oldest_queued(session)
    assert found == pytest.approx(metric, abs=5)
    assert found == pytest.approx({QueueName.PROVISION: 90, QueueName.BULK: 700, QueueName.ROLLBACK: 300}, abs=5)
