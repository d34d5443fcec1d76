"""Resources that carry our mark but that no row knows: found by the audit, deleted only when that is certain."""

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import structlog
from sqlalchemy import func, or_, select, update

from app.db.engine import Sessions
from app.db.models import Agent, Resource
from app.domain.findings import Finding, FindingCode
from app.providers.errors import ProviderError
from app.provisioning.context import (
    DISPATCH_RULE,
    INBOUND_TRUNK,
    ORIGINATION_URL,
    TRUNK,
    StepContext,
    Toolbox,
)
from app.provisioning.snapshot import AgentPath, Snapshot, metadata_owner, tag_owner
from app.provisioning.steps import STEP_BY_NAME, STEPS
from app.provisioning.transitions import is_open_for

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Rows:
    """What the database knew at one moment: the paths that stand, and the agents on whom an operation works."""

    paths: Mapping[str, AgentPath]
    open_agents: frozenset[str]
    at: datetime


class Marked(NamedTuple):
    """A resource with our mark: its kind (step name), id, parent, agent, and when it was made."""

    kind: str
    external_id: str
    parent_id: str | None
    agent_id: str
    created_at: datetime | None
    number: str | None = None


def find_orphans(snapshot: Snapshot, rows: tuple[Rows, Rows], tools: Toolbox, grace: timedelta) -> list[Finding]:
    """Say which marked resources no path holds, in the order in which they are to be deleted.

    Left out: those of an agent with an operation open before or after the lists were read, and the young.
    """
    before, after = rows
    held = {one for side in rows for path in side.paths.values() for one in _ids(path)}
    findings = []
    for marked in _marked(snapshot, tools.instance):
        is_busy = marked.agent_id in before.open_agents | after.open_agents
        is_young = marked.created_at is None or marked.created_at > before.at - grace
        if marked.external_id in held or is_busy or is_young:
            continue
        code = FindingCode.TWIN if marked.agent_id in after.paths else FindingCode.ORPHAN
        resource = (marked.kind, marked.external_id)
        number = marked.number or ""
        findings.append(Finding(code, marked.agent_id, resource, parent_id=marked.parent_id, phone_number=number))
    return findings


def _ids(path: AgentPath) -> tuple[str, ...]:
    return path.trunk_sid, path.url_sid, path.inbound_trunk_id, path.rule_id


def _marked(snapshot: Snapshot, instance: str) -> Iterator[Marked]:
    for rule in snapshot.rules.values():
        owner = metadata_owner(rule.metadata, instance)
        if owner:
            yield Marked(DISPATCH_RULE, rule.id, None, owner, _made_at(rule.metadata))
    for inbound in snapshot.inbound_trunks.values():
        owner = metadata_owner(inbound.metadata, instance)
        if owner:
            number = inbound.numbers[0] if inbound.numbers else None
            yield Marked(INBOUND_TRUNK, inbound.id, None, owner, _made_at(inbound.metadata), number)
    for urls in snapshot.urls.values():
        for url in urls:
            owner = tag_owner(url.tag, instance)
            if owner:
                yield Marked(ORIGINATION_URL, url.sid, url.trunk_sid, owner, url.created_at)
    for trunk in snapshot.trunks.values():
        owner = tag_owner(trunk.tag, instance)
        if owner:
            yield Marked(TRUNK, trunk.sid, None, owner, trunk.created_at)


def _made_at(metadata: str) -> datetime | None:
    """Read when we made it: LiveKit's own server never fills in `created_at` (livekit.md 1)."""
    values: dict[str, Any] = json.loads(metadata)
    try:
        return datetime.fromisoformat(str(values.get("createdAt")))
    except ValueError:
        return None


def delete_orphan(sessions: Sessions, tools: Toolbox, finding: Finding) -> str:
    """Delete one, by its step's own undo, after one more look at the rows; say what came of it."""
    if finding.resource is None or finding.agent_id is None:
        return ""
    kind, external_id = finding.resource
    if _is_known(sessions, finding.agent_id, external_id):
        return "kept: a row knows it now"
    step = STEP_BY_NAME[kind]
    try:
        if step.undo:
            step.undo(_context(tools, finding), external_id)
    except ProviderError as error:
        log.warning("orphan_not_deleted", kind=kind, external_id=external_id, code=error.code)
        return f"not deleted: {error.code}"
    with sessions.begin() as session:
        gone = (Resource.external_id == external_id, Resource.deleted_at.is_(None))
        session.execute(update(Resource).where(*gone).values(deleted_at=func.now()))
    log.info("orphan_deleted", kind=kind, external_id=external_id)
    return "deleted"


def _is_known(sessions: Sessions, agent_id: str, external_id: str) -> bool:
    columns = [getattr(Agent, step.column) for step in STEPS if step.column]
    with sessions.begin() as session:
        holds = or_(*(column == external_id for column in columns))
        if session.scalar(select(Agent.id).where(holds, Agent.twilio_phone_number.is_not(None)).limit(1)):
            return True
        try:
            return session.scalar(select(func.count()).where(is_open_for(uuid.UUID(agent_id)))) != 0
        except ValueError:
            return False  # a mark like ours, written by hand


def _context(tools: Toolbox, finding: Finding) -> StepContext:
    kind, external_id = finding.resource or ("", "")
    return StepContext(
        tools=tools,
        agent_id=uuid.UUID(int=0),
        operation_id=uuid.UUID(int=0),
        phone_number=finding.phone_number,
        takeover=False,
        agent_name="",
        job_metadata="{}",
        ids={},
        parents={external_id: finding.parent_id} if finding.parent_id else {},
        ledger={kind: (external_id,)},
        previous_routing=None,
        is_uncertain=True,
        started=tools.clock(),
    )
