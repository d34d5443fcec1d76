"""The evening of a hostile day: everything is healed, and then rows and providers must agree about everything."""

from sqlalchemy import func, or_, select

from app.db.models import Event, Operation, OperationStep
from app.domain.errors import ErrorCode
from app.domain.findings import AuditStatus, FindingCode
from app.domain.statuses import OPEN_STATUSES, OperationKind, PhoneStatus
from app.domain.steps import DISPATCH_RULE, INBOUND_TRUNK, ORIGINATION_URL, TRUNK
from tests.e2e.invariants import Assignment, check_call, check_clean, check_path, known_ids, owned, routing_of
from tests.e2e.rows import AgentRows, rows_of
from tests.maintenance.hostile_day import NAMES, NUMBERS, WEBHOOK, HostileDay

AT_REST = {PhoneStatus.PROVISIONED, PhoneStatus.FAILED, PhoneStatus.NOT_PROVISIONED}

ROUNDS = 40
"""Sweeps after which an operation that is still open is stuck: the longest waits out its budget, 900 s."""

STEP_OF = {
    "trunks": TRUNK,
    "originationUrls": ORIGINATION_URL,
    "livekitTrunks": INBOUND_TRUNK,
    "livekitRules": DISPATCH_RULE,
}
"""Kind of object in the sandbox -> the step that makes such."""


def heal(day: HostileDay) -> None:
    """End every fault, let the sweeper bring everything to its end, and fix what is left with one audit."""
    day.fate.heal()
    day.fate.land()
    day.sandbox.clear_faults()
    settle(day)
    check_nothing_unknown(day)
    audit = day.audit(True)
    assert audit is not None
    assert audit.status is AuditStatus.DONE, audit.error_detail
    settle(day)
    for agent in range(len(NAMES)):
        _take_back(day, agent)
    settle(day)


def check(day: HostileDay) -> None:
    """Raise AssertionError unless rows and providers agree about everything."""
    state, held = day.sandbox.state(), set()
    for agent_id, name in zip(day.agents, NAMES, strict=True):
        rows = rows_of(day.plain.sessions, str(agent_id))
        _check_at_rest(rows)
        if rows.agent.phone_provisioning_status is not PhoneStatus.PROVISIONED:
            check_clean(rows, state)
            continue
        number = str(rows.agent.twilio_phone_number)
        held.add(number)
        assert number == WEBHOOK or number in day.taken_over, f"{number} was taken over unasked"
        subject = Assignment(str(agent_id), number, name, {})
        check_path(rows, state, subject)
        check_call(day.sandbox, subject)
    for number in set(NUMBERS) - held:
        routing = routing_of(state, number)
        assert routing in day.routings[number], f"{number} is routed {routing}, was {day.routings[number]}"
    assert day.their_trunk in str(state["trunks"])
    day.foreigners.check()
    with day.plain.sessions.begin() as session:
        query = select(Event.step).where(Event.detail["code"].astext == ErrorCode.INTERNAL_STEP_ERROR)
        assert session.scalars(query).all() == [], "a step met an error of ours"
    audit = day.audit(False)
    assert audit is not None
    assert audit.findings == []


def settle(day: HostileDay) -> None:
    """Let time pass until nothing is open and no message is under way; AssertionError where that never comes."""
    for _ in range(ROUNDS):
        day.work()
        day.pass_time()
        if not day.publisher.plans and not day.publisher.audits and not _open(day):
            return
    raise AssertionError(f"stuck: {_open(day)}")


def _open(day: HostileDay) -> list[tuple[str, ...]]:
    with day.plain.sessions.begin() as session:
        found = session.scalars(select(Operation).where(Operation.status.in_(OPEN_STATUSES))).all()
        return [(each.kind, each.status, str(each.error_code), str(each.error_detail)) for each in found]


def check_nothing_unknown(day: HostileDay) -> None:
    """Raise where something of ours stands that no row knows of: only an audit would find it."""
    state = day.sandbox.state()
    for agent_id in day.agents:
        rows = rows_of(day.plain.sessions, str(agent_id))
        known, doubts = known_ids(rows), _doubts(day, rows)
        unknown = {kind: set(ids) - {known[kind]} for kind, ids in owned(state, str(agent_id)).items()}
        unknown = {kind: ids for kind, ids in unknown.items() if ids and STEP_OF[kind] not in doubts}
        assert not unknown, f"nobody knows {unknown}, rows {known}"


def _doubts(day: HostileDay, rows: AgentRows) -> set[str]:
    """Return the steps of which a repair has left open whether it made something: the next operation looks."""
    if not rows.operations or rows.operation.kind is not OperationKind.REPAIR:
        return set()
    with day.plain.sessions.begin() as session:
        query = select(OperationStep.name).join(Operation, Operation.id == OperationStep.operation_id)
        is_open = or_(func.jsonb_typeof(OperationStep.intent) == "object", OperationStep.unsettled_until.is_not(None))
        return set(session.scalars(query.where(Operation.agent_id == rows.agent.id, is_open)))


def _take_back(day: HostileDay, agent: int) -> None:
    """Take a number back that somebody has moved away: an audit leaves that path to a person."""
    agent_id = day.agents[agent]
    if day.wiring.agents.get(agent_id).phone_provisioning_status is not PhoneStatus.PROVISIONED:
        return
    codes = {finding.code for finding in day.wiring.maintenance.verify(agent_id).findings}
    assert not codes or FindingCode.NUMBER_MOVED in codes, f"not fixed: {codes}"
    if codes:
        day.repair(agent, True)


def _check_at_rest(rows: AgentRows) -> None:
    assert rows.agent.phone_provisioning_status in AT_REST
    for operation in rows.operations:
        assert operation.status.is_final
        assert operation.wake_at is None
        assert operation.finished_at is not None
    assert all(row.lease_token is None for row in rows.steps), "somebody still holds a lease"
