"""Ends a random day: all faults end, and then rows and providers must agree about everything."""

from sqlalchemy import func, or_, select

from app.db.models import Bulk, Event, Operation, OperationStep
from app.domain.errors import ErrorCode
from app.domain.findings import AuditStatus, FindingCode
from app.domain.operations import (
    DISPATCH_RULE,
    INBOUND_TRUNK,
    OPEN_BULKS,
    OPEN_STATUSES,
    ORIGINATION_URL,
    TRUNK,
    OperationKind,
    PhoneStatus,
)
from tests.e2e.invariants import (
    Assignment,
    check_call,
    check_clean,
    check_path,
    check_pool,
    known_ids,
    owned,
    routing_of,
)
from tests.e2e.rows import AgentRows, rows_of
from tests.maintenance.random_day import NAMES, NUMBERS, WEBHOOK, RandomDay

IDLE_STATUSES = {PhoneStatus.PROVISIONED, PhoneStatus.FAILED, PhoneStatus.NOT_PROVISIONED}

ROUNDS = 40
"""Sweeps after which an operation that is still open is stuck: the longest runs until its budget of 900 s ends."""

STEP_OF = {
    "trunks": TRUNK,
    "originationUrls": ORIGINATION_URL,
    "livekitTrunks": INBOUND_TRUNK,
    "livekitRules": DISPATCH_RULE,
}
"""Kind of object in the sandbox -> the step that creates it."""


def recover(day: RandomDay) -> None:
    """End every fault, let the sweeper finish every operation, and fix what is left with one audit."""
    day.fault_plan.clear()
    day.fault_plan.deliver_late_requests()
    day.sandbox.clear_faults()
    run_until_idle(day)
    check_nothing_unknown(day)
    audit = day.audit(True)
    assert audit is not None
    assert audit.status is AuditStatus.DONE, audit.error_detail
    run_until_idle(day)
    for agent in range(len(NAMES)):
        _take_back(day, agent)
    run_until_idle(day)


def check_consistency(day: RandomDay) -> None:
    """Raise AssertionError unless rows and providers agree about everything."""
    state, held_numbers = day.sandbox.state(), set()
    for agent_id, name in zip(day.agents, NAMES, strict=True):
        rows = rows_of(day.plain.sessions, str(agent_id))
        _check_idle(rows)
        if rows.agent.phone_provisioning_status is not PhoneStatus.PROVISIONED:
            check_clean(rows, state)
            continue
        number = str(rows.agent.twilio_phone_number)
        held_numbers.add(number)
        assert number == WEBHOOK or number in day.taken_over, f"{number} was taken over without takeover"
        subject = Assignment(str(agent_id), number, name, {})
        check_path(rows, state, subject)
        check_call(day.sandbox, subject)
    for number in set(NUMBERS) - held_numbers:
        routing = routing_of(state, number)
        assert routing in day.routings[number], f"{number} is routed {routing}, was {day.routings[number]}"
    assert day.their_trunk in str(state["trunks"])
    day.foreigners.check()
    check_pool(day.plain.sessions, day.sandbox)
    with day.plain.sessions.begin() as session:
        query = select(Event.step).where(Event.detail["code"].astext == ErrorCode.INTERNAL_STEP_ERROR)
        assert session.scalars(query).all() == [], "a step failed by an error of ours"
    audit = day.audit(False)
    assert audit is not None
    assert audit.findings == []


def run_until_idle(day: RandomDay) -> None:
    """Let time pass until no operation, bulk or message is left; AssertionError when that never happens."""
    for _ in range(ROUNDS):
        day.run_messages()
        day.pass_time()
        if not day.publisher.plans and not day.publisher.audits and not _open(day):
            return
    raise AssertionError(f"stuck: {_open(day)}")


def _open(day: RandomDay) -> list[tuple[str, ...]]:
    with day.plain.sessions.begin() as session:
        found = session.scalars(select(Operation).where(Operation.status.in_(OPEN_STATUSES))).all()
        bulks = session.scalars(select(Bulk).where(Bulk.status.in_(OPEN_BULKS))).all()
        return [(each.kind, each.status, str(each.error_code), str(each.error_detail)) for each in found] + [
            ("bulk", each.kind, each.status) for each in bulks
        ]


def check_nothing_unknown(day: RandomDay) -> None:
    """Raise when a resource of ours exists that no row refers to: only an audit would find it."""
    state = day.sandbox.state()
    for agent_id in day.agents:
        rows = rows_of(day.plain.sessions, str(agent_id))
        known, unsettled = known_ids(rows), _unsettled_steps(day, rows)
        unknown = {kind: set(ids) - {known[kind]} for kind, ids in owned(state, str(agent_id)).items()}
        unknown = {kind: ids for kind, ids in unknown.items() if ids and STEP_OF[kind] not in unsettled}
        assert not unknown, f"no row refers to {unknown}, rows {known}"


def _unsettled_steps(day: RandomDay, rows: AgentRows) -> set[str]:
    """Return the steps of a repair with an unknown outcome: the next operation checks them."""
    if not rows.operations or rows.operation.kind is not OperationKind.REPAIR:
        return set()
    with day.plain.sessions.begin() as session:
        query = select(OperationStep.name).join(Operation, Operation.id == OperationStep.operation_id)
        is_open = or_(func.jsonb_typeof(OperationStep.intent) == "object", OperationStep.unsettled_until.is_not(None))
        return set(session.scalars(query.where(Operation.agent_id == rows.agent.id, is_open)))


def _take_back(day: RandomDay, agent: int) -> None:
    """Take a number back that somebody has moved away: an audit does not fix that."""
    agent_id = day.agents[agent]
    if day.wiring.agents.get(agent_id).phone_provisioning_status is not PhoneStatus.PROVISIONED:
        return
    codes = {finding.code for finding in day.wiring.maintenance.verify(agent_id).findings}
    assert not codes or FindingCode.NUMBER_MOVED in codes, f"not fixed: {codes}"
    if codes:
        day.repair(agent, True)


def _check_idle(rows: AgentRows) -> None:
    assert rows.agent.phone_provisioning_status in IDLE_STATUSES
    for operation in rows.operations:
        assert operation.status.is_final
        assert operation.wake_at is None
        assert operation.finished_at is not None
    assert all(row.lease_token is None for row in rows.steps), "somebody still holds a lease"
