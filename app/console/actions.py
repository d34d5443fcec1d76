"""Which buttons an agent's or an operation's page offers: what the services would accept at this moment."""

from dataclasses import dataclass

from app.api.operation_views import PhoneView
from app.db.bulks import Bulk
from app.db.models import Agent, Operation
from app.domain.findings import KINDS as FINDINGS
from app.domain.findings import FindingCode, Health, Mend
from app.domain.statuses import OperationKind, OperationStatus, PhoneStatus

_EMPTY = {PhoneStatus.NOT_PROVISIONED, PhoneStatus.FAILED}
_COMING = {PhoneStatus.PENDING, PhoneStatus.PROVISIONING}


@dataclass(frozen=True, slots=True)
class AgentActions:
    """What can be done to an agent now."""

    provision: bool
    clear: bool
    """Forget a failure: the agent is as new."""
    cancel: bool
    verify: bool
    repair: bool
    repair_first: bool
    """Whether repair is what is called for."""
    repair_takes_over: bool
    """Whether a repair must take the number back from somebody else's trunk."""
    move: bool
    deprovision: bool


@dataclass(frozen=True, slots=True)
class BulkActions:
    """What can be done to a bulk now."""

    cancel: bool
    resume: bool


def agent_actions(phone: PhoneView, *, may_write: bool) -> AgentActions:
    """Read off the rows what can be done; nothing for a key that only reads."""
    agent, operation = phone.agent, phone.operation
    status = agent.phone_provisioning_status
    is_busy = operation is not None and not operation.row.status.is_final
    stands = may_write and status is PhoneStatus.PROVISIONED
    kind = operation.row.kind if is_busy and operation else None
    moves = {FINDINGS[FindingCode(finding["code"])].mend for finding in agent.health_findings or []}
    return AgentActions(
        provision=may_write and not is_busy and status in _EMPTY,
        clear=may_write and not is_busy and status is PhoneStatus.FAILED,
        cancel=may_write and status in _COMING and kind is OperationKind.PROVISION,
        verify=stands,
        repair=stands and not is_busy,
        repair_first=agent.health_state is Health.DRIFTED,
        repair_takes_over=Mend.TAKE_BACK in moves,
        move=stands and not is_busy,
        deprovision=stands and kind in {None, OperationKind.REPAIR},
    )


def bulk_actions(bulk: Bulk, waiting: int, *, may_write: bool) -> BulkActions:
    """Read off the counts what can be done: what has not begun can be cancelled, what did not succeed tried again."""
    return BulkActions(may_write and waiting > 0, may_write and bulk.failed + bulk.cancelled > 0)


def can_retry(operation: Operation, agent: Agent, *, may_write: bool) -> bool:
    """Say whether a re-enqueue makes sense: of what is open, or of a provisioning that failed and left nothing."""
    if not operation.status.is_final:
        return may_write
    ended_badly = operation.status in {OperationStatus.FAILED, OperationStatus.CANCELLED}
    is_free = agent.phone_provisioning_status in _EMPTY
    return may_write and ended_badly and operation.kind is OperationKind.PROVISION and is_free
