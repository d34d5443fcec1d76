"""An undo that keeps failing is seen by people, tried again now and then, and ends by itself or by a person's hand."""

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import structlog
from flask.testing import FlaskClient
from sqlalchemy import func, select, text
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from app import create_app
from app.access import KeyService, Scope
from app.db.models import Operation
from app.domain.events import Origin
from app.domain.statuses import OperationStatus, PhoneStatus
from app.saga import runner
from tests.support.saga import END_OF_RESTS
from tests.support.stage import Stage

SOON = timedelta(seconds=10)
"""Less than any rest of an undo that was refused: 15 to 30 s."""

GAUGE = 'trunkline_operations{kind="deprovision",status="needs_attention"} '


@pytest.fixture
def client(stage: Stage) -> FlaskClient:
    """A client with a key that may read."""
    client = create_app(stage.wiring).test_client()
    key = KeyService(stage.wiring.sessions).create("tests", [Scope.READ])[1]
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {key}"
    return client


@pytest.fixture
def listed(client: FlaskClient) -> Callable[[], list[str]]:
    """List what needs attention, as a client does."""

    def listed() -> list[str]:
        answer = client.get("/api/operations?status=needs_attention")
        assert answer.status_code == 200
        return [item["id"] for item in answer.json["items"]]

    return listed


def _get_stuck(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> tuple[uuid.UUID, list[Any]]:
    """Let Twilio refuse to delete the trunk, and try to deprovision; the operation, and what was logged."""
    stage.sandbox.fault("twilio.delete_trunk", "reject", times=None, status=400, code=20001)
    operation = stage.wiring.provisioning.deprovision(stage.agent_id, origin=Origin())
    assert operation is not None
    # A logger that was used before keeps the processors of that time.
    monkeypatch.setattr(runner, "log", structlog.get_logger(runner.__name__))
    with capture_logs(processors=[merge_contextvars]) as lines:
        stage.drive()
        _let_rests_end(stage)
        stage.wiring.sweeper.sweep()
        stage.drive()
    return operation.id, lines


def _let_rests_end(stage: Stage) -> None:
    with stage.wiring.sessions.begin() as session:
        session.execute(text(END_OF_RESTS))
        session.execute(text("UPDATE operations SET wake_at = now() - interval '1 s' WHERE wake_at IS NOT NULL"))


def _status(stage: Stage, operation_id: uuid.UUID) -> OperationStatus:
    return stage.wiring.provisioning.wait(operation_id, timedelta()).status


def test_it_is_listed_counted_and_told_once_as_an_error(
    stage: Stage, client: FlaskClient, listed: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    operation_id, lines = _get_stuck(stage, monkeypatch)
    assert listed() == [str(operation_id)]
    assert f"{GAUGE}1.0" in client.get("/metrics").text
    errors = [line for line in lines if line["log_level"] == "error"]
    assert [(line["event"], line["operation_id"], line["step"], line["code"]) for line in errors] == [
        ("operation_needs_attention", str(operation_id), "twilio_trunk", "twilio_rejected")
    ]
    assert len([line for line in lines if line["event"] == "step_call_failed"]) == 2


def test_it_is_tried_again_slowly_and_closes_by_itself(
    stage: Stage, listed: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    operation_id, _ = _get_stuck(stage, monkeypatch)
    with stage.wiring.sessions.begin() as session:
        wakes_late = select(Operation.wake_at > func.now() + SOON).where(Operation.id == operation_id)
        assert session.scalar(wakes_late)
    assert stage.wiring.sweeper.sweep() == 0
    stage.sandbox.clear_faults()
    _let_rests_end(stage)
    stage.wiring.sweeper.sweep()
    stage.drive()
    assert _status(stage, operation_id) is OperationStatus.SUCCEEDED
    assert stage.agent.phone_provisioning_status is PhoneStatus.NOT_PROVISIONED
    assert listed() == []


def test_a_person_ends_it_at_once_by_a_command(
    stage: Stage, listed: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    operation_id, _ = _get_stuck(stage, monkeypatch)
    stage.sandbox.clear_faults()
    command = create_app(stage.wiring).test_cli_runner().invoke(args=["operations", "retry", str(operation_id)])
    # 3: queued again, and it still needs attention (docs/cli.md).
    assert (command.exit_code, str(operation_id) in command.stdout) == (3, True)
    stage.drive()
    assert _status(stage, operation_id) is OperationStatus.SUCCEEDED
    assert listed() == []
