"""Numbers on shared trunks: what is theirs and what is the pool's, and the rules by which a place is taken."""

import uuid

import pytest

from app.domain.findings import Finding, FindingCode
from app.domain.operations import OperationStatus, PhoneStatus, TrunkMode
from app.numbers.maintenance import MaintenanceService
from tests.support.saga import ORIGIN, Saga

OTHER_E164 = "+15145550002"


@pytest.fixture
def pooled(saga: Saga, number_sid: str) -> Saga:
    """A saga whose agents share trunks."""
    saga.trunk_mode = TrunkMode.SHARED
    saga.world.carrier.own_number(OTHER_E164)
    return saga


def maintenance_of(saga: Saga) -> MaintenanceService:
    return saga.sweeper.audits.maintenance


def repaired(saga: Saga, agent_id: uuid.UUID) -> None:
    """Repair all of the path that a repair can make."""
    findings = [Finding(FindingCode.TRUNK_CHANGED), Finding(FindingCode.ORIGINATION_URL_CHANGED)]
    result = maintenance_of(saga).repair_found(agent_id, findings, takeover=False, origin=ORIGIN)
    assert result.operation is not None
    saga.drive(result.operation.id)
    assert saga.status(result.operation.id) is OperationStatus.SUCCEEDED


def test_a_repair_leaves_a_shared_trunk_out_of_the_ledger(pooled: Saga, number_sid: str) -> None:
    agent_id = pooled.provisioned()
    repaired(pooled, agent_id)
    pooled.assert_provisioned(agent_id, number_sid)


def test_a_move_leaves_a_shared_trunk_out_of_the_ledger(pooled: Saga, number_sid: str) -> None:
    agent_id, target = pooled.provisioned(), pooled.agent("target")
    moved = maintenance_of(pooled).move(agent_id, target, origin=ORIGIN)
    pooled.drive(moved.id)
    assert pooled.status(moved.id) is OperationStatus.SUCCEEDED
    pooled.assert_provisioned(target, number_sid)
    pooled.assert_clean(agent_id, PhoneStatus.NOT_PROVISIONED)
