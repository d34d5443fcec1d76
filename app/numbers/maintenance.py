"""Maintains a provisioned path: verify it, repair it, move its number to another agent."""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.bulk.items import BulkItemRef
from app.db.engine import Sessions, read_sql
from app.db.models import Agent, Operation, Trunk
from app.domain.errors import ErrorCode, RefusedError, agent_not_found
from app.domain.events import Origin
from app.domain.findings import (
    CHECKS,
    Finding,
    FindingCode,
    Fix,
    Health,
    Severity,
    failed_checks,
    failing_callers,
    finding_json,
    health_of,
    stored_finding,
    worst_first,
)
from app.domain.operations import (
    COLUMNS,
    DISPATCH_RULE,
    LAST,
    NUMBER_ATTACHMENT,
    ORIGINATION_URL,
    STEP_BY_NAME,
    STEPS,
    TRUNK,
    BulkKind,
    OperationKind,
    PhoneStatus,
    TrunkMode,
)
from app.domain.options import job_metadata, options_of, steps_of
from app.numbers.agents import accounts_of, lock_agent, refuse_busy
from app.numbers.service import Publisher, refusal_of
from app.path.compare import compare
from app.path.spec import PathSpec
from app.saga import machine
from app.saga.chain_plan import plan_of
from app.saga.context import adopted_now, read_adopted, spec_of
from app.saga.observing import read_path
from app.saga.rows import Rows, agent_row
from app.saga.state import AgentRow, Saga
from app.trunks.pool import profile_hash
from app.webhooks.announcements import announce_drift

if TYPE_CHECKING:
    from app.saga.context import Toolbox, ToolboxSource

log = structlog.get_logger(__name__)

_SAVE_HEALTH = read_sql(__file__, "save_health.sql")

MOVED_STEPS = frozenset({*(step.name for step in STEPS if step.makes and step.column), LAST})
"""The steps whose resources carry the agent's mark or name; callers reach the new agent as soon as the rule changes."""

TRUNK_STEPS = frozenset({TRUNK, ORIGINATION_URL, NUMBER_ATTACHMENT, LAST})
"""The steps that put a number on its trunk, and look at the whole path last."""

ACCOUNTS_DIFFER = (
    "The agents use different carrier accounts or voice projects, and a number moves within both only. Make an agent "
    "that uses the same as this one, and move the number to it; or deprovision the number, transfer it to the other "
    "Twilio account if that differs, and provision it for the other agent."
)

_OF_BULK = {BulkKind.REPAIR: OperationKind.REPAIR, BulkKind.REHOME: OperationKind.REHOME}
"""Kind of bulk -> the operation that its items open: on the steps of the trunk."""


@dataclass(frozen=True)
class VerifyResult:
    """The result of `verify`: the named checks, and what was found, the worst first."""

    checks: dict[str, bool]
    findings: list[Finding]
    health: Health
    checked_at: datetime


@dataclass(frozen=True)
class RepairResult:
    """What comes of a request to repair: the operation, unless there is nothing to repair, and what it leaves."""

    operation: Operation | None
    left: Sequence[Finding] = ()
    """What differs and no repair can help; where calls fail by it, there is an operation about something else."""


@dataclass(frozen=True)
class MaintenanceService:
    """Verifies, repairs and moves provisioned numbers."""

    sessions: Sessions
    publisher: Publisher
    rows: Rows
    toolboxes: "ToolboxSource"

    def verify(self, agent_id: uuid.UUID) -> VerifyResult:
        """Compare one agent's path with the providers and store the result as its health; 409 `agent_has_no_phone`.

        May raise the providers' errors: nothing is stored then.
        """
        spec, tools, members = self._read(agent_id)
        with tools.noting():
            observed = read_path(tools.carrier, tools.platform, spec)
        found = guarded(partial(compare, spec, observed), spec.agent_id)
        findings = worst_first(with_members(finding, members) for finding in found)
        health = health_of(findings)
        with self.sessions.begin() as session:
            checked_at = save_health(session, {agent_id: findings}).get(agent_id)
        if checked_at is None:
            raise RefusedError(ErrorCode.AGENT_HAS_NO_PHONE, "The number was deprovisioned while it was checked.")
        failed = failed_checks(findings)
        checks = {name: name not in failed for name in CHECKS}
        return VerifyResult(checks, findings, health, checked_at)

    def repair(self, agent_id: uuid.UUID, *, takeover: bool, origin: Origin) -> RepairResult:
        """Queue the repair of what is missing or changed, by the steps of provisioning.

        Refused by `steps_to_repair`.
        """
        findings = self.verify(agent_id).findings
        return self.repair_found(agent_id, findings, takeover=takeover, origin=origin)

    def repair_found(
        self, agent_id: uuid.UUID, findings: list[Finding], *, takeover: bool, origin: Origin
    ) -> RepairResult:
        """Queue the repair of these findings."""
        steps = steps_to_repair(findings, takeover=takeover)
        left = [finding for finding in findings if not finding.steps and finding.severity is not Severity.FOREIGN]
        if not steps:
            return RepairResult(None, left)
        try:
            with self.sessions.begin() as session:
                agent, now = lock_agent(session, agent_id)
                refuse_busy(session, agent_id)
                _check_has_number(agent)
                kind, only, row = OperationKind.REPAIR, steps | {LAST}, agent_row(agent)
                change = machine.open_operation(kind, row, now, origin, takeover=takeover, only=only)
                saga = self.rows.open(change, session)
        except IntegrityError as error:
            raise refusal_of(error) from error
        log.info("repair_queued", operation_id=str(saga.operation.id), steps=sorted(steps))
        return RepairResult(self._publish(saga), left)

    def open_for_bulk(
        self, kind: BulkKind, agent_id: uuid.UUID, phone_number: str, bulk_item: BulkItemRef, *, origin: Origin
    ) -> Operation:
        """Queue what a bulk of repairs or of rehomes does for one agent, and link it to its item.

        Refused with 404 `agent_not_found`, or 409 `operation_in_progress` or `agent_has_no_phone`: that number is not
        its any more; 422 `validation_failed` for the rehome of an agent that is to keep its trunk.
        `ItemTakenError` where another sweeper was faster.
        """
        operation_kind = _OF_BULK[kind]
        try:
            with self.sessions.begin() as session:
                agent, now = lock_agent(session, agent_id)
                bulk_item.check_pending(session)
                refuse_busy(session, agent_id)
                _check_has_number(agent, phone_number)
                row, bulk_id = agent_row(agent), bulk_item.bulk_id
                if operation_kind is OperationKind.REHOME:
                    _check_may_leave(row)
                change = machine.open_operation(operation_kind, row, now, origin, only=TRUNK_STEPS, bulk_id=bulk_id)
                saga = self.rows.open(change, session)
                bulk_item.start(session, saga.operation.id)
        except IntegrityError as error:
            raise refusal_of(error) from error
        log.info("bulk_operation_queued", kind=operation_kind, operation_id=str(saga.operation.id))
        return self._publish(saga)

    def move(
        self,
        agent_id: uuid.UUID,
        to_agent_id: uuid.UUID,
        *,
        origin: Origin,
        phone_number: str | None = None,
        bulk_item: BulkItemRef | None = None,
    ) -> Operation:
        """Queue the move of the number, if given of this one, to another agent, which must have none.

        The dispatch rule is updated in place, so that calls are answered throughout. Undo moves it back the same way.
        409 `accounts_differ` where the agents do not use the same carrier account and voice project.
        An agent of another workspace is 404 `agent_not_found`, for operators too. Where what a shared trunk is set to
        differs between the two, the number goes to another one. 409 `shared_with_others` where the move would change
        what was adopted and other numbers use too. `bulk_item` is the bulk's item that it is for.
        """
        if agent_id == to_agent_id:
            raise RefusedError(ErrorCode.AGENT_HAS_PHONE, "The agent has this number already.")
        tools = self.toolboxes.of(accounts_of(self.sessions, agent_id))
        try:
            with self.sessions.begin() as session:
                # Always in the same order, so that two opposite moves do not deadlock.
                locked = {one: lock_agent(session, one) for one in sorted((agent_id, to_agent_id))}
                (source, now), (target, _) = locked[agent_id], locked[to_agent_id]
                if source.workspace_id != target.workspace_id:
                    raise agent_not_found(to_agent_id)
                if bulk_item is not None:
                    bulk_item.check_pending(session)
                refuse_busy(session, agent_id)
                refuse_busy(session, to_agent_id)
                _check_has_number(source, phone_number)
                if source.accounts != target.accounts:
                    raise RefusedError(ErrorCode.ACCOUNTS_DIFFER, ACCOUNTS_DIFFER)
                if target.phone_provisioning_status is PhoneStatus.PROVISIONED:
                    raise RefusedError(ErrorCode.AGENT_HAS_PHONE, "The other agent has a number: deprovision it first.")
                _refuse_shared(source, target)
                leaves = source.trunk_id is not None and profiles_differ(tools, source.options, target.options)
                change = machine.open_operation(
                    OperationKind.MOVE,
                    agent_row(source),
                    now,
                    origin,
                    target=agent_row(target),
                    only=MOVED_STEPS | TRUNK_STEPS if leaves else MOVED_STEPS,
                    leaves_trunk=leaves,
                    bulk_id=bulk_item.bulk_id if bulk_item else None,
                )
                saga = self.rows.open(change, session)
                if bulk_item is not None:
                    bulk_item.start(session, saga.operation.id)
        except IntegrityError as error:
            raise refusal_of(error) from error
        log.info("move_queued", operation_id=str(saga.operation.id), to_agent_id=str(to_agent_id))
        return self._publish(saga)

    def _publish(self, saga: Saga) -> Operation:
        self.publisher.publish(plan_of(saga))
        with self.sessions() as session:
            return session.get_one(Operation, saga.operation.id)

    def _read(self, agent_id: uuid.UUID) -> "tuple[PathSpec, Toolbox, int]":
        """Return the path as it should be, its toolbox, and how many numbers of its workspace share its trunk."""
        with self.sessions.begin() as session:
            agent = session.scalar(select(Agent).where(Agent.id == agent_id, Agent.deleted_at.is_(None)))
            if agent is None:
                raise agent_not_found(agent_id)
            _check_has_number(agent)
            # The result is stored, and shown to the agent's workspace.
            mates = (Agent.trunk_id == agent.trunk_id, Agent.workspace_id == agent.workspace_id)
            members = select(func.count()).where(*mates)
            sharing = session.scalars(members).one() if agent.trunk_id else 0
        tools = self.toolboxes.of(agent.accounts)
        return spec_from_row(tools, agent), tools, sharing


def profiles_differ(tools: "Toolbox", *options: Mapping[str, Any]) -> bool:
    """Tell whether the numbers of agents with these options, as they are stored, share no trunk."""
    return len({profile_hash(tools.profile.with_options(options_of(one))) for one in options}) > 1


def guarded(check: Callable[[], list[Finding]], agent_id: str | None = None) -> list[Finding]:
    """Return what a check finds; one that raises becomes a finding and a log line, and the others go on."""
    try:
        return check()
    except Exception:
        log.exception("check_broke", agent_id=agent_id)
        detail = "The check failed by an error of ours; see the log."
        return [Finding(FindingCode.UNREADABLE, agent_id, detail=detail)]


def steps_to_repair(findings: Sequence[Finding], *, takeover: bool) -> frozenset[str]:
    """Return the steps that repair these findings; none where nothing is to repair, and no call fails.

    Refused: 422 `number_not_in_account`; 409 `number_already_routed` when the number is routed elsewhere now and
    `takeover` is off; 409 `not_ours_to_repair` when calls fail by nothing that a step could change.
    """
    routed = [finding for finding in findings if finding.fix is Fix.TAKE_BACK and not takeover]
    steps = frozenset(name for finding in findings for name in finding.steps)
    in_the_way = [finding for finding in findings if finding.is_for_a_person]
    gone = [finding for finding in in_the_way if finding.code is FindingCode.NUMBER_GONE]
    if gone:
        raise RefusedError(refusal_code(gone[0]), _instructions(gone))
    if routed:
        raise RefusedError(ErrorCode.NUMBER_ALREADY_ROUTED, _instructions(routed))
    if in_the_way and not steps:
        raise RefusedError(refusal_code(in_the_way[0]), _instructions(in_the_way))
    return steps


def refusal_code(finding: Finding) -> ErrorCode:
    """Return the code with which the repair of a finding is refused that is for a person."""
    is_gone = finding.code is FindingCode.NUMBER_GONE
    return ErrorCode.NUMBER_NOT_IN_ACCOUNT if is_gone else ErrorCode.NOT_OURS_TO_REPAIR


def _instructions(findings: Sequence[Finding]) -> str:
    return " ".join(finding.instruction for finding in findings)


def save_health(session: Session, findings_of: Mapping[uuid.UUID, Sequence[Finding]]) -> Mapping[uuid.UUID, datetime]:
    """Store the findings as the agents' health, and queue webhooks where one begins to drift or calls begin to fail.

    Returns the time by agent, without those whose number is no longer provisioned: nothing is written of them.
    """
    # The row locks let only one of two concurrent checks announce the same drift; always in the same order.
    provisioned = select(Agent).where(
        Agent.id == func.any(list(findings_of)), Agent.phone_provisioning_status == PhoneStatus.PROVISIONED
    )
    agents = session.scalars(provisioned.order_by(Agent.id).with_for_update()).all()
    announce_drift(
        session, {agent: findings_of[agent.id] for agent in agents if _is_news(agent, findings_of[agent.id])}
    )
    found = [findings_of[agent.id] for agent in agents]
    stored = {
        "ids": [agent.id for agent in agents],
        "states": [health_of(one) for one in found],
        "findings": [json.dumps([finding_json(finding) for finding in one]) for one in found],
    }
    rows = session.connection().exec_driver_sql(_SAVE_HEALTH, stored).all() if agents else ()
    return {row.id: row.health_checked_at for row in rows}


def _is_news(agent: Agent, findings: Sequence[Finding]) -> bool:
    """Tell whether the agent begins to drift by these findings, or its calls begin to fail."""
    if health_of(findings) is Health.DRIFTED and agent.health_state is not Health.DRIFTED:
        return True
    before = [stored_finding(one) for one in agent.health_findings or ()]
    return failing_callers(findings) is not None and failing_callers(before) is None


def save_trunk_health(session: Session, findings_of: Mapping[uuid.UUID, Sequence[Finding]]) -> None:
    """Store what was found of trunks that numbers share, by the id of their rows."""
    for trunk_id in sorted(findings_of):
        found = worst_first(findings_of[trunk_id])
        session.execute(
            update(Trunk)
            .where(Trunk.id == trunk_id)
            .values(
                health_state=health_of(found),
                health_checked_at=func.now(),
                # Its agents are those that name it.
                health_findings=[finding_json(replace(one, agent_id=None, agent_ids=())) for one in found],
            )
        )


def with_members(finding: Finding, members: int) -> Finding:
    """Return a finding about a trunk that says how many numbers share that trunk."""
    if not finding.is_about_trunk or members <= 1:
        return finding
    return replace(finding, detail=f"{finding.detail} {members:,} numbers share the trunk.".lstrip())


def spec_from_row(tools: "Toolbox", agent: Agent) -> PathSpec:
    """Build the path that a provisioned agent should have from its row."""
    ids = {step: getattr(agent, column) or "" for step, column in COLUMNS.items()}
    number, trunk_id = agent.twilio_phone_number or "", agent.trunk_id
    return spec_of(
        tools,
        agent.id,
        agent.livekit_agent_name,
        job_metadata(agent.agent_metadata),
        number,
        ids,
        trunk_id,
        options=options_of(agent.options),
        adopted=read_adopted(agent.adopted),
    )


def _check_may_leave(agent: AgentRow) -> None:
    """Raise 422 `validation_failed` where the agent keeps the Twilio trunk that it has."""
    if agent.trunk_mode is TrunkMode.DEDICATED:
        raise RefusedError(ErrorCode.VALIDATION_FAILED, "The agent is to have a trunk of its own.")
    if TRUNK in adopted_now(agent.adopted, agent.ids):
        detail = "Its path was adopted: the number stays on the trunk that it was found on."
        raise RefusedError(ErrorCode.VALIDATION_FAILED, detail)


def _refuse_shared(source: Agent, target: Agent) -> None:
    """Raise 409 `shared_with_others` where a move would change an adopted object that other numbers use too."""
    adopted = adopted_now(source.adopted, agent_row(source).ids)
    changed = steps_of(options_of(source.options).differing(options_of(target.options))) | {DISPATCH_RULE}
    for step in COLUMNS:
        if step in changed and step in adopted and adopted[step].is_shared:
            detail = f"{STEP_BY_NAME[step].label} {adopted[step].id} was adopted, and other numbers use it too."
            raise RefusedError(ErrorCode.SHARED_WITH_OTHERS, detail)


def _check_has_number(agent: Agent, number: str | None = None) -> None:
    """Raise 409 `agent_has_no_phone` unless a number of the agent is provisioned, and it is that `number`, if given."""
    held = agent.twilio_phone_number
    if agent.phone_provisioning_status is not PhoneStatus.PROVISIONED or held is None or (number or held) != held:
        raise RefusedError(ErrorCode.AGENT_HAS_NO_PHONE, "The agent has no number that is provisioned.")
