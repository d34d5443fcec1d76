"""Plans, applies and exports declarations of a workspace's agents and numbers."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import flag_modified

from app.accounts.choice import choice_for
from app.bulk import queries
from app.bulk.items import MixedItem
from app.bulk.service import BulkService, agent_columns
from app.db.access import record_activity
from app.db.engine import Sessions
from app.db.models import Agent, Bulk, Workspace
from app.db.visibility import home_workspace
from app.declared.planner import (
    Change,
    ChangeKind,
    Conflict,
    Declared,
    Plan,
    declared_of,
    plan_changes,
    pointer_to,
)
from app.declared.standing import holders_of, read_standing
from app.domain.errors import ErrorCode, RefusedError, validation_failed
from app.domain.events import Action, Origin
from app.domain.operations import MAX_ITEMS, ItemKind, TrunkMode
from app.domain.workspaces import AccountIds
from app.numbers.agents import UNIQUE_EXTERNAL_ID, constraint_of, delete_agent

log = structlog.get_logger(__name__)

TRIES = 5
"""Plans of one request, each because somebody has changed an agent meanwhile."""

AT_ONCE = (ChangeKind.UPDATE, ChangeKind.DELETE)
"""Changes of rows that stand; made in the transaction where they are not queued."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What comes of a declaration: the plan, and the bulk that does what needs the providers, if anything does."""

    plan: Plan
    bulk: Bulk | None = None


@dataclass(frozen=True)
class DeclarationService:
    """Makes the agents of the present workspace what a declaration says."""

    sessions: Sessions
    bulks: BulkService

    def preview(self, declared: Sequence[Declared], *, prune: bool = False) -> Plan:
        """Return what `apply` would do now, and what stands in its way; 422 for an account that is not to be had."""
        with self.sessions() as session:
            _check_accounts(session, declared)
            return _plan(session, declared, prune=prune)

    def apply(
        self,
        declared: Sequence[Declared],
        *,
        prune: bool = False,
        origin: Origin,
        charge: Callable[[int], None] = lambda _: None,
    ) -> Applied:
        """Make it so: rows at once, the rest as one bulk, in one transaction; `charge` hears how many changes.

        One at a time in a workspace: of two at once the second plans what the first has left. Refused, with nothing
        changed: 409 `operation_in_progress` where something is under way that leads elsewhere, 409
        `declaration_conflict` for any other conflict, 422 `validation_failed`.
        """
        for _ in range(TRIES):
            try:
                with self.sessions.begin() as session:
                    applied = self._apply(session, declared, prune=prune, origin=origin, charge=charge)
            except IntegrityError as error:
                # Somebody has given an agent one of the external ids just now: it is there in the next plan.
                if constraint_of(error) != UNIQUE_EXTERNAL_ID:
                    raise
                continue
            if applied is not None:
                return applied
        raise RefusedError(ErrorCode.OPERATION_IN_PROGRESS, "Somebody else changes these agents just now: apply again.")

    def export(self) -> list[Declared]:
        """Return a declaration of what stands, and of what is under way; to apply it changes nothing."""
        with self.sessions() as session:
            return declared_of(read_standing(session, home_workspace()), _default(session))

    def _apply(
        self,
        session: Session,
        declared: Sequence[Declared],
        *,
        prune: bool,
        origin: Origin,
        charge: Callable[[int], None],
    ) -> Applied | None:
        """Apply in this transaction; None where an agent was changed by somebody else meanwhile."""
        workspace_id = home_workspace()
        session.execute(select(func.pg_advisory_xact_lock(func.hashtext(f"trunkline declaration {workspace_id}"))))
        _check_accounts(session, declared)
        plan = _plan(session, declared, prune=prune)
        locked = _lock(session, _at_once(plan))
        if locked:
            plan = _plan(session, declared, prune=prune)
            if not _at_once(plan) <= locked:
                return None
        refuse_conflicts(plan)
        if len(plan.queued) > MAX_ITEMS:
            detail = (
                f"need {len(plan.queued):,} changes at the providers, and a bulk does {MAX_ITEMS:,}: declare fewer."
            )
            raise validation_failed({pointer_to(None): [detail]})
        if not plan.changes:
            return Applied(plan)
        charge(len(plan.changes))
        created = _write(session, plan, origin)
        items = _items(plan, created)
        bulk = self.bulks.add_mixed(session, workspace_id, items, origin=origin) if items else None
        counts = {kind.value: sum(1 for one in plan.changes if one.kind is kind) for kind in ChangeKind}
        told: dict[str, Any] = {"changes": {kind: count for kind, count in counts.items() if count}, "prune": prune}
        subject = bulk.id if bulk else workspace_id
        record_activity(session, origin, Action.DECLARATION_APPLY, subject, workspace_id, **told)
        log.info("declaration_applied", bulk_id=str(bulk.id) if bulk else None, **told)
        return Applied(plan.with_ids(created), bulk)


def refuse_conflicts(plan: Plan) -> None:
    """Raise the 409 for what stands in the way of a plan, each with where it stands in the declaration."""
    found = plan.conflicts
    if not found:
        return
    errors: dict[str, list[str]] = {}
    for one in found:
        errors.setdefault(one.pointer, []).append(f"{one.external_id}: {one.detail}")
    codes = {one.code for one in found}
    is_busy = codes == {ErrorCode.OPERATION_IN_PROGRESS}
    code = ErrorCode.OPERATION_IN_PROGRESS if is_busy else ErrorCode.DECLARATION_CONFLICT
    count = len({one.external_id for one in found})
    them = "1 agent stands" if count == 1 else f"{count:,} agents stand"
    detail = f"Nothing was changed: {them} in the way. The first, {_first(found[0])}"
    raise RefusedError(code, detail, errors=errors)


def _first(conflict: Conflict) -> str:
    return f"{conflict.external_id}: {conflict.detail}"


def _plan(session: Session, declared: Sequence[Declared], *, prune: bool) -> Plan:
    workspace_id = home_workspace()
    standing = read_standing(session, workspace_id)
    wanted = [one.number for one in declared if one.number]
    taken = holders_of(session, wanted, workspace_id, [one.agent_id for one in standing])
    return plan_changes(declared, standing, default=_default(session), taken=taken, prune=prune)


def _default(session: Session) -> AccountIds:
    home = session.get_one(Workspace, home_workspace())
    return AccountIds(home.carrier_account_id, home.voice_project_id)


def _check_accounts(session: Session, declared: Sequence[Declared]) -> None:
    """Raise the 422 for accounts that are not the workspace's to use; nobody deletes the others meanwhile."""
    named = [one for one in declared if one.carrier_account_id or one.voice_project_id]
    if not named:
        return
    choice = choice_for(
        session,
        {one.carrier_account_id for one in named if one.carrier_account_id},
        {one.voice_project_id for one in named if one.voice_project_id},
    )
    wrong = {
        pointer_to(one.place, at): [problem]
        for one in named
        for at, problem in choice.problems(one.carrier_account_id, one.voice_project_id).items()
    }
    if wrong:
        raise validation_failed(wrong)


def _at_once(plan: Plan) -> set[uuid.UUID]:
    return {one.agent_id for one in plan.changes if one.kind in AT_ONCE and not one.is_queued and one.agent_id}


def _lock(session: Session, agent_ids: set[uuid.UUID]) -> set[uuid.UUID]:
    """Lock these agents, always in the same order; return those that there still are."""
    if not agent_ids:
        return set()
    wanted = select(Agent.id).where(Agent.id.in_(agent_ids), Agent.deleted_at.is_(None))
    return set(session.scalars(wanted.order_by(Agent.id).with_for_update()))


def _write(session: Session, plan: Plan, origin: Origin) -> dict[str, uuid.UUID]:
    """Make the changes of rows; return the ids of the agents that are new."""
    creations = [one for one in plan.changes if one.kind is ChangeKind.CREATE]
    rows = [_agent_row(one) for one in creations]
    queries.insert_agents(session, rows)
    workspace_id = home_workspace()
    for row in rows:
        record_activity(session, origin, Action.AGENT_CREATE, row["id"], workspace_id)
    at_once = [one for one in plan.changes if one.kind is ChangeKind.UPDATE and not one.is_queued]
    updates = {one.agent_id: one for one in at_once if one.agent_id}
    if updates:
        for agent in session.scalars(select(Agent).where(Agent.id.in_(updates))):
            _update(agent, updates[agent.id].after)
            names = sorted(updates[agent.id].after)
            record_activity(session, origin, Action.AGENT_CHANGE, agent.id, workspace_id, fields=names)
    for one in plan.changes:
        if one.kind is ChangeKind.DELETE and one.agent_id:
            if one.is_queued:
                # By whom it goes is known now: the item that deletes it is nobody's request.
                record_activity(session, origin, Action.AGENT_DELETE, one.agent_id, workspace_id)
            else:
                delete_agent(session, one.agent_id, origin)
    return {one.external_id: row["id"] for one, row in zip(creations, rows, strict=True)}


def _agent_row(change: Change) -> dict[str, Any]:
    if change.accounts is None:
        raise ValueError("an agent is created in accounts")
    return agent_columns(change.external_id, change.after, change.accounts)


def _update(agent: Agent, after: Mapping[str, Any]) -> None:
    for name, value in after.items():
        column = "agent_metadata" if name == "metadata" else name
        setattr(agent, column, TrunkMode(value) if name == "trunk_mode" else value)
        # SQLAlchemy compares as Python does, which takes true for 1.
        flag_modified(agent, column)
    agent.version += 1


def _items(plan: Plan, created: Mapping[str, uuid.UUID]) -> list[MixedItem]:
    positions = plan.queued
    ids = {one.external_id: one.agent_id or created[one.external_id] for one in plan.changes}
    found = []
    for index in positions:
        change = plan.changes[index]
        agent_id, target = ids[change.external_id], None
        if change.from_agent_id is not None:
            agent_id, target = change.from_agent_id, agent_id
        found.append(
            MixedItem(
                ItemKind(change.kind.value),
                agent_id,
                change.number or "",
                takeover=change.takeover,
                target_agent_id=target,
                wanted=change.after or None,
                waits_for=tuple(positions[one] for one in change.waits_for),
            )
        )
    return found
