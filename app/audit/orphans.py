"""Orphans: resources with our mark that no row refers to. Found by the audit, deleted only when that is certain."""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from app.db.engine import Sessions
from app.db.models import Agent, Operation, Resource, Trunk
from app.domain.errors import ErrorCode
from app.domain.findings import Finding, FindingCode
from app.domain.operations import (
    DISPATCH_RULE,
    INBOUND_TRUNK,
    ORIGINATION_URL,
    STEPS,
    TRUNK,
    OperationKind,
    TrunkState,
)
from app.domain.workspaces import AccountIds
from app.numbers.agents import is_open_for
from app.path.marks import agent_of, is_pool_tag, mark_in, pool_tag
from app.path.observed import DispatchRule, Observed
from app.path.spec import Adopted, PathSpec
from app.providers.errors import ProviderError
from app.saga.context import StepContext, Toolbox, context_without_rows
from app.saga.steps import ACTIONS
from app.saga.twilio_steps import delete_unused_trunk, delete_url

log = structlog.get_logger(__name__)

LONG_AGO = datetime.min.replace(tzinfo=UTC)
"""Stands for the age of a rule whose trunks are all gone: no call reaches it."""


@dataclass(frozen=True)
class PoolRows:
    """What the rows of shared trunks refer to."""

    sids: frozenset[str] = frozenset()
    """Of trunks and origination URLs."""
    unfinished: frozenset[str] = frozenset()
    """The tags of trunks that are being made or deleted: whoever is at it looks for what carries them."""


@dataclass(frozen=True)
class StoredPaths:
    """The database at one moment: the provisioned paths, the agents with an open operation, and the shared trunks."""

    paths: Mapping[str, PathSpec]
    open_agents: frozenset[str]
    at: datetime
    places: Mapping[str, uuid.UUID] = field(default_factory=dict)
    """Agent id -> the shared trunk that it has a place on, by the id of its row."""
    trunks: Mapping[uuid.UUID, Mapping[str, str]] = field(default_factory=dict)
    """Shared trunks that stand, by the id of their rows -> step -> the sid of trunk and origination URL."""
    trunk_accounts: Mapping[uuid.UUID, tuple[uuid.UUID, str]] = field(default_factory=dict)
    """The same -> the carrier account that it is in, and the hash of its profile."""
    numbers: frozenset[str] = frozenset()
    """The numbers of all agents and open operations, E.164."""
    accounts: Mapping[str, AccountIds] = field(default_factory=dict)
    """Agent id -> where its path is built, of those in `paths`."""
    pool: PoolRows = field(default_factory=PoolRows)
    mates: Mapping[str, int] = field(default_factory=dict)
    """Agent id -> how many numbers of its workspace have a place on its shared trunk."""

    @property
    def shared_trunk_sids(self) -> frozenset[str]:
        """The sids of the shared trunks."""
        return frozenset(ids[TRUNK] for ids in self.trunks.values())


def read_pool(session: Session, instance: str) -> PoolRows:
    """Read the rows of all shared trunks that are not gone."""
    rows = session.scalars(select(Trunk).where(Trunk.state != TrunkState.GONE)).all()
    sids = (sid for row in rows for sid in (row.twilio_trunk_sid, row.twilio_origination_url_sid))
    unfinished = (pool_tag(instance, row.id) for row in rows if row.state is not TrunkState.ACTIVE)
    return PoolRows(frozenset(filter(None, sids)), frozenset(unfinished))


@dataclass(frozen=True)
class MarkedResource:
    """A resource with our mark: its kind (step name), id, parent, agent, and creation time."""

    kind: str
    external_id: str
    parent_id: str | None
    agent_id: str
    created_at: datetime | None
    number: str | None = None


def find_orphans(
    observed: Observed, rows: tuple[StoredPaths, StoredPaths], tools: Toolbox, grace: timedelta
) -> list[Finding]:
    """Return the marked resources that are on no path, in the order in which to delete them.

    Left out are those younger than `grace`, and those of an agent with an operation open before or after the lists were
    read. A rule has no creation time (its name is its whole mark): its age is that of the trunks that it names.
    """
    before, after = rows
    in_use = {one for stored in rows for path in stored.paths.values() for one in ids_of(path)}
    created_before = before.at - grace

    def is_orphan(one: MarkedResource) -> bool:
        is_busy = one.agent_id in before.open_agents | after.open_agents
        is_old = one.created_at is not None and one.created_at <= created_before
        return is_old and not is_busy and one.external_id not in in_use

    trunks = list(_inbound_trunks(observed, tools.instance))
    orphaned = {one.external_id for one in trunks if is_orphan(one)}
    rules = [
        replace(one, created_at=one.created_at or _age_of(rule, one, observed, after, orphaned))
        for rule, one in _rules(observed, tools.instance)
    ]
    findings = []
    for marked in filter(is_orphan, (*rules, *trunks, *_at_twilio(observed, tools.instance))):
        code = FindingCode.TWIN if marked.agent_id in after.paths else FindingCode.ORPHAN
        resource = (marked.kind, marked.external_id)
        number = marked.number or ""
        findings.append(Finding(code, marked.agent_id, resource, parent_id=marked.parent_id, phone_number=number))
    return [*findings, *_of_pool(observed, (before.pool, after.pool), tools.instance, created_before)]


def _of_pool(
    observed: Observed, rows: tuple[PoolRows, PoolRows], instance: str, created_before: datetime
) -> Iterator[Finding]:
    """Yield the trunks with the pool's tag that no row refers to, and the second URLs of those that have one.

    The URLs of a trunk that goes, go with it: deleted before it they would cut off whoever put a number there.
    """
    before, after = rows
    in_use, unfinished = before.sids | after.sids, before.unfinished | after.unfinished
    for trunk in observed.trunks.values():
        if not is_pool_tag(instance, trunk.tag) or trunk.tag in unfinished:
            continue
        if trunk.sid not in in_use:
            if trunk.created_at is not None and trunk.created_at <= created_before:
                yield Finding(FindingCode.ORPHAN, resource=(TRUNK, trunk.sid))
            continue
        for url in observed.urls.get(trunk.sid, ()):
            is_old = url.created_at is not None and url.created_at <= created_before
            if url.tag == trunk.tag and url.sid not in in_use and is_old:
                yield Finding(FindingCode.ORPHAN, resource=(ORIGINATION_URL, url.sid), parent_id=trunk.sid)


def ids_of(path: PathSpec) -> tuple[str, ...]:
    """Return the ids of the resources that were created for a path."""
    return path.trunk_sid, path.url_sid, path.inbound_trunk_id, path.rule_id


def _age_of(
    rule: DispatchRule, marked: MarkedResource, observed: Observed, rows: StoredPaths, orphaned: set[str]
) -> datetime | None:
    """Return a time since which the rule is certainly unused; None when one of its trunks may be in use.

    A trunk that is gone or an orphan brings no calls. On its agent's own trunk the rule is a duplicate, as old as that.
    """
    path = rows.paths.get(marked.agent_id)
    ages = []
    for trunk_id in rule.trunk_ids:
        trunk = observed.inbound_trunks.get(trunk_id)
        if trunk is None and not observed.may_hold(INBOUND_TRUNK, trunk_id):
            continue
        mark = mark_in(trunk.metadata) if trunk else None
        is_own = path is not None and path.inbound_trunk_id == trunk_id
        if mark is None or mark.created_at is None or not (trunk_id in orphaned or is_own):
            return None
        ages.append(mark.created_at)
    return max(ages, default=LONG_AGO)


def _rules(observed: Observed, instance: str) -> Iterator[tuple[DispatchRule, MarkedResource]]:
    for rule in observed.rules.values():
        owner, old_mark = agent_of(instance, rule.name, rule.metadata), mark_in(rule.metadata)
        if owner:
            yield rule, MarkedResource(DISPATCH_RULE, rule.id, None, owner, old_mark.created_at if old_mark else None)


def _inbound_trunks(observed: Observed, instance: str) -> Iterator[MarkedResource]:
    for trunk in observed.inbound_trunks.values():
        mark = mark_in(trunk.metadata)
        if mark and mark.instance == instance:
            number = trunk.numbers[0] if trunk.numbers else None
            yield MarkedResource(INBOUND_TRUNK, trunk.id, None, mark.agent_id, mark.created_at, number)


def _at_twilio(observed: Observed, instance: str) -> Iterator[MarkedResource]:
    for urls in observed.urls.values():
        for url in urls:
            owner = agent_of(instance, url.tag)
            if owner:
                yield MarkedResource(ORIGINATION_URL, url.sid, url.trunk_sid, owner, url.created_at)
    for trunk in observed.trunks.values():
        owner = agent_of(instance, trunk.tag)
        if owner:
            yield MarkedResource(TRUNK, trunk.sid, None, owner, trunk.created_at)


def delete_orphan(sessions: Sessions, tools: Toolbox, finding: Finding) -> str:
    """Delete one by its step's undo, after checking the rows once more; return what was done."""
    if finding.resource is None:
        return ""
    kind, external_id = finding.resource
    try:
        if _is_referenced(sessions, tools, finding):
            return "kept: a row refers to it now"
        unmark, adopted = ACTIONS[kind].unmark, _former_of(sessions, kind, external_id)
        if adopted is not None and unmark is not None and finding.agent_id:
            # Somebody else has made it: our mark was left by a request that landed late.
            unmark(replace(_context(tools, finding), agent_id=uuid.UUID(finding.agent_id)), adopted)
            return "unmarked: somebody else has made it"
        undo = ACTIONS[kind].undo if finding.agent_id else _DELETE_OF_POOL[kind]
        if undo:
            undo(_context(tools, finding), external_id)
    except ProviderError as error:
        log.warning("orphan_not_deleted", kind=kind, external_id=external_id, code=error.code)
        return f"not deleted: {error.code}"
    except Exception:
        log.exception("orphan_delete_broke", kind=kind, external_id=external_id)
        return f"not deleted: {ErrorCode.INTERNAL_ERROR}"
    with sessions.begin() as session:
        gone = (Resource.external_id == external_id, Resource.deleted_at.is_(None))
        session.execute(update(Resource).where(*gone).values(deleted_at=func.now()))
    log.info("orphan_deleted", kind=kind, external_id=external_id)
    return "deleted"


_DELETE_OF_POOL = {TRUNK: delete_unused_trunk, ORIGINATION_URL: delete_url}
"""What deletes an orphan with the pool's tag."""


def _former_of(sessions: Sessions, kind: str, external_id: str) -> Adopted | None:
    """Return what an object was that an adoption has ever been about; None where Trunkline has made it."""
    adopted = Operation.wanted["adopted"][kind]
    of_adoption = (Operation.kind == OperationKind.ADOPT, adopted["id"].astext == external_id)
    with sessions.begin() as session:
        newest = select(adopted).where(*of_adoption).order_by(Operation.created_at.desc()).limit(1)
        found = session.scalar(newest)
    return Adopted(**found) if found else None


def _is_referenced(sessions: Sessions, tools: Toolbox, finding: Finding) -> bool:
    _, external_id = finding.resource or ("", "")
    if finding.agent_id:
        return _is_agents(sessions, finding.agent_id, external_id)
    trunk = tools.carrier.get_trunk(finding.parent_id or external_id)
    with sessions() as session:
        pool = read_pool(session, tools.instance)
    return external_id in pool.sids or (trunk is not None and trunk.tag in pool.unfinished)


def _is_agents(sessions: Sessions, agent_id: str, external_id: str) -> bool:
    columns = [getattr(Agent, step.column) for step in STEPS if step.column]
    with sessions.begin() as session:
        holds = or_(*(column == external_id for column in columns))
        if session.scalar(select(Agent.id).where(holds, Agent.twilio_phone_number.is_not(None)).limit(1)):
            return True
        return session.scalar(select(func.count()).where(is_open_for(uuid.UUID(agent_id)))) != 0


def _context(tools: Toolbox, finding: Finding) -> StepContext:
    kind, external_id = finding.resource or ("", "")
    return context_without_rows(
        tools,
        phone_number=finding.phone_number,
        parents={external_id: finding.parent_id} if finding.parent_id else {},
        ledger={kind: (external_id,)},
    )
