"""The audit: reads both providers, compares them with our rows, and fixes what it may when asked to.

An audit is requested by inserting its row, whether by HTTP, the command line or the sweeper. One worker runs it, and a
lost message is sent again.
"""

import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.audit.orphans import StoredPaths, delete_orphan, find_orphans, ids_of, read_pool
from app.audit.trunks import find_foreign_numbers, findings_by_trunk, forget_gone
from app.bulk.service import BulkService
from app.db.access import record_activity
from app.db.engine import Sessions
from app.db.models import Agent, Audit, Bulk, BulkItem, Operation, Trunk
from app.db.visibility import seeing, seen_workspace
from app.domain.errors import ErrorCode, RefusedError
from app.domain.events import Action, Origin
from app.domain.findings import (
    AuditStatus,
    Finding,
    FindingCode,
    Fix,
    Health,
    finding_json,
    one_for_each_trunk,
    worst_first,
)
from app.domain.operations import (
    DISPATCH_RULE,
    INBOUND_TRUNK,
    MAX_ITEMS,
    OPEN_STATUSES,
    ORIGINATION_URL,
    TRUNK,
    BulkKind,
    ItemStatus,
    PhoneStatus,
    TrunkState,
)
from app.domain.workspaces import AccountIds, AccountKind
from app.numbers.maintenance import (
    MaintenanceService,
    guarded,
    refusal_code,
    save_health,
    save_trunk_health,
    spec_from_row,
    with_members,
)
from app.path.compare import compare
from app.path.marks import agent_of, is_damaged
from app.path.observed import Observed
from app.path.spec import PathSpec
from app.providers.callers import Caller, CallPriority, calling
from app.providers.errors import ProviderError
from app.saga.context import Toolbox
from app.saga.observing import both, read_account, read_project
from app.trunks.pool import profile_hash

if TYPE_CHECKING:
    from app.accounts.clients import Toolboxes

log = structlog.get_logger(__name__)

INTERVAL = timedelta(minutes=10)
"""How often the sweeper requests an audit: drift costs calls, and an audit is a handful of list requests."""

LEASE = timedelta(minutes=5)
"""How long a worker may run an audit: 5,000 trunks of single numbers at 150 ms, eight lists at a time, take a minute
and a half. Numbers that share trunks take seconds."""

CALL_MAX_WAIT_S = 60.0
"""Seconds that a call of an audit may wait behind all other calls: no client waits for it, and its lease is longer."""

REPUBLISH_AFTER = timedelta(seconds=15)
"""How long a requested audit may wait for a worker before its message counts as lost."""

AT_ONCE = 8
"""Accounts and projects read side by side: one that responds slowly holds up no other."""

NO_ID = "unknown"
"""Replaces the id of a record whose id cannot be read."""

NO_TRUNK = uuid.UUID(int=0)
"""Stands for the shared trunk of an agent that has none."""

NOT_REPAIRED = "not repaired: "
"""How `fixed` starts where a repair was refused; the error code follows."""

KEPT_REPORTS = 200
"""Reports kept of everybody, and of each workspace: a day and a half at the sweeper's interval."""


@dataclass(frozen=True)
class _Seen:
    """What an audit has read."""

    found: Mapping[uuid.UUID, Observed]
    """By the id of an account or project, those that could be read."""
    tools: Mapping[uuid.UUID, Toolbox]
    """The same -> what reaches it."""
    whole: Mapping[AccountIds, Observed]
    """What both sides of a pair have together, where both could be read."""
    left_out: str | None
    """Why the others could not, in sentences."""
    home: dict[tuple[str, str], Toolbox] = field(default_factory=dict)
    """Kind and id of what may be deleted -> what reaches it."""

    def of(self, ids: AccountIds) -> Observed | None:
        """Return what a pair has, if it was read."""
        return self.whole.get(ids)


@dataclass(frozen=True)
class _Report:
    findings: list[Finding]
    checked: int
    """Agents."""
    left_out: str | None
    """What could not be read, and why."""


def _noted(tools: Toolbox, read: Callable[[], Observed]) -> Observed:
    with tools.noting():
        return read()


@dataclass(frozen=True)
class AuditService:
    """Requests audits, runs them and stores their reports."""

    sessions: Sessions
    toolboxes: "Toolboxes"
    maintenance: MaintenanceService
    orphan_grace: timedelta
    bulks: BulkService

    def request_audit(self, *, fix: bool, origin: Origin) -> uuid.UUID:
        """Insert the row of an audit; a worker or the caller runs it."""
        with self.sessions.begin() as session:
            audit = Audit(id=uuid.uuid4(), status=AuditStatus.QUEUED, fix=fix)
            audit.requested_by, audit.key_id = origin.requested_by, origin.key_id
            audit.lease_until = session.scalar(select(func.now() + REPUBLISH_AFTER))
            session.add(audit)
            record_activity(session, origin, Action.AUDIT_START, audit.id, seen_workspace(), fix=fix)
        return audit.id

    def take_due(self) -> list[uuid.UUID]:
        """Return the audits that wait for a worker, after requesting one if the last was too long ago."""
        with self.sessions.begin() as session:
            # One sweeper at a time decides whether one is due.
            if session.scalar(select(func.pg_try_advisory_xact_lock(func.hashtext("trunkline audit")))):
                self._request_if_due(session)
            waiting = (
                select(Audit.id)
                .where(Audit.status.in_([AuditStatus.QUEUED, AuditStatus.RUNNING]), Audit.lease_until < func.now())
                .with_for_update(skip_locked=True)
            )
            taken = (
                update(Audit)
                .where(Audit.id.in_(waiting.scalar_subquery()))
                # Queued again when its worker died: `lease_until` is then the time of the next message.
                .values(status=AuditStatus.QUEUED, lease_until=func.now() + REPUBLISH_AFTER)
                .returning(Audit.id)
            )
            return list(session.scalars(taken))

    def run_audit(self, audit_id: uuid.UUID) -> Audit | None:
        """Run a requested audit; None when another worker has it, or it has ended."""
        audit = self._claim(audit_id)
        if audit is None:
            return None
        try:
            caller = Caller(CallPriority.BULK, max_wait_s=CALL_MAX_WAIT_S, is_raised_once_begun=False)
            with calling(caller), seeing(audit.workspace_id):
                requested_by = Origin(requested_by=audit.requested_by or "audit", key_id=audit.key_id)
                report = self._compare_all(fix=audit.fix, origin=requested_by)
        except ProviderError as error:
            log.warning("audit_failed", code=error.code, detail=error.detail)
            return self._finish(audit_id, AuditStatus.FAILED, [], 0, f"{error.code}: {error.detail}")
        except Exception:
            log.exception("audit_broke")
            detail = f"{ErrorCode.INTERNAL_ERROR}: The audit failed by an error of ours; see the log."
            return self._finish(audit_id, AuditStatus.FAILED, [], 0, detail)
        findings = report.findings
        for code in sorted({finding.code for finding in findings}):
            log.warning("audit_found", code=code, count=sum(finding.code == code for finding in findings))
        return self._finish(audit_id, AuditStatus.DONE, findings, report.checked, report.left_out)

    def _request_if_due(self, session: Session) -> None:
        latest = session.scalar(select(func.max(Audit.created_at)).where(Audit.workspace_id.is_(None)))
        now = session.scalars(select(func.now())).one()
        # The first audit needs a path that has existed for a while: a new installation has nothing to audit.
        is_old_path = (Agent.phone_provisioning_status == PhoneStatus.PROVISIONED, Agent.updated_at < now - INTERVAL)
        is_due = latest < now - INTERVAL if latest else session.scalar(select(Agent.id).where(*is_old_path).limit(1))
        if is_due:
            # Due at once: no message has been sent for it.
            session.add(
                Audit(
                    id=uuid.uuid4(),
                    status=AuditStatus.QUEUED,
                    fix=False,
                    requested_by="sweeper",
                    lease_until=now - REPUBLISH_AFTER,
                )
            )
            session.flush()

    def _claim(self, audit_id: uuid.UUID) -> Audit | None:
        with self.sessions.begin() as session:
            audit = session.get(Audit, audit_id, with_for_update=True)
            now = session.scalar(select(func.now()))
            if audit is None or now is None or audit.status in {AuditStatus.DONE, AuditStatus.FAILED}:
                return None
            if audit.status is AuditStatus.RUNNING and audit.lease_until and audit.lease_until > now:
                return None
            audit.status, audit.started_at, audit.lease_until = AuditStatus.RUNNING, now, now + LEASE
            return audit

    def _compare_all(self, *, fix: bool, origin: Origin) -> _Report:
        """Compare the paths of all agents that are seen; where that is everybody, also look for what is nobody's.

        An account or project that cannot be read is left out, with the agents that use it; where that leaves none, its
        error is raised.
        """
        before = self._read_paths()
        pairs = self._pairs(before)
        seen = self._read_all(pairs, before)
        after = self._read_paths()
        # An agent that changed while the lists were read is left to the next audit.
        steady = [
            path
            for agent_id, path in after.paths.items()
            if before.paths.get(agent_id) == path and seen.of(after.accounts[agent_id]) is not None
        ]
        findings = [
            finding for path in steady for finding in guarded(partial(self._compare, path, seen, after), path.agent_id)
        ]
        # What belongs to no agent is nobody's to know but operators'.
        if seen_workspace() is None:
            findings += self._nobodys(seen, steady, (before, after))
        findings = worst_first(findings)
        if fix:
            findings = self._fix(findings, seen, after, origin)
        shared = {agent_id: path.trunk_sid for agent_id, path in after.paths.items() if agent_id in after.places}
        members = Counter(after.places.values())
        report = [
            with_members(one, members[after.places.get(one.agent_id or "", NO_TRUNK)])
            for one in one_for_each_trunk(findings, shared)
        ]
        checked = [path.agent_id for path in steady]
        told = [with_members(one, after.mates.get(one.agent_id or "", 0)) for one in findings]
        # The other numbers of a shared trunk are compared by everybody's audits only.
        by_trunk = self._by_trunk(report, seen, after, checked) if seen_workspace() is None else {}
        self._save_health(checked, told, by_trunk)
        return _Report(report, len(steady), seen.left_out)

    def _pairs(self, rows: StoredPaths) -> Sequence[AccountIds]:
        return self.toolboxes.in_use() if seen_workspace() is None else sorted(set(rows.accounts.values()))

    def _read_all(self, pairs: Sequence[AccountIds], rows: StoredPaths) -> _Seen:
        """Read every account and project once, side by side, so that none waits for another."""
        tools_of: dict[uuid.UUID, Toolbox] = {}
        reads: dict[uuid.UUID, Callable[[], Observed]] = {}
        for pair in pairs:
            tools = self.toolboxes.of(pair)
            account_id, project_id = pair
            paths = [path for one, path in rows.paths.items() if rows.accounts[one].carrier_account_id == account_id]
            shared = {
                ids[TRUNK] for trunk_id, ids in rows.trunks.items() if rows.trunk_accounts[trunk_id][0] == account_id
            }
            for one, read in (
                (project_id, partial(read_project, tools.platform)),
                (account_id, partial(read_account, tools.carrier, tools.instance, paths, shared)),
            ):
                tools_of.setdefault(one, tools)
                reads.setdefault(one, read)
        if not reads:
            return _Seen({}, {}, {}, None)
        found: dict[uuid.UUID, Observed] = {}
        errors: dict[uuid.UUID, ProviderError] = {}
        with ThreadPoolExecutor(min(len(reads), AT_ONCE), "audit") as threads:
            # Each in a copy of this thread's context variables, where the adapters find the caller.
            pending = {
                one: threads.submit(copy_context().run, _noted, tools_of[one], read) for one, read in reads.items()
            }
            for one, result in pending.items():
                try:
                    found[one] = result.result()
                except ProviderError as error:
                    errors[one] = error
        whole = {pair: both(found[pair[0]], found[pair[1]]) for pair in pairs if not errors.keys() & set(pair)}
        if errors and not whole:
            raise next(iter(errors.values()))
        left_out = " ".join(
            f"Left out: {self._name(one, pairs)}. {error.code}: {error.detail}" for one, error in errors.items()
        )
        return _Seen(found, tools_of, whole, left_out or None)

    def _name(self, one: uuid.UUID, pairs: Sequence[AccountIds]) -> str:
        if any(one == pair.carrier_account_id for pair in pairs):
            return f"{AccountKind.CARRIER.label} {self.toolboxes.account(one).name}"
        return f"{AccountKind.VOICE.label} {self.toolboxes.project(one).name}"

    def _compare(self, path: PathSpec, seen: _Seen, rows: StoredPaths) -> list[Finding]:
        return compare(path, seen.whole[rows.accounts[path.agent_id]])

    def _nobodys(
        self, seen: _Seen, steady: Sequence[PathSpec], rows: tuple[StoredPaths, StoredPaths]
    ) -> Iterator[Finding]:
        """Yield what is found in each account and project beside the agents' paths; everybody's rows decide."""
        instance = self.toolboxes.instance
        known = {one for path in steady for one in (path.number_sid, *ids_of(path))}
        for one, observed in seen.found.items():
            for check in (
                partial(find_foreign_numbers, observed, rows),
                partial(_foreign_catch_alls, observed, instance, known),
                partial(find_unreadable, observed, instance, known),
                partial(find_orphans, observed, rows, seen.tools[one], self.orphan_grace),
            ):
                for finding in guarded(check):
                    if finding.fix is Fix.DELETE and finding.resource:
                        seen.home[finding.resource] = seen.tools[one]
                    yield finding

    def _by_trunk(
        self, report: Sequence[Finding], seen: _Seen, rows: StoredPaths, checked: Sequence[str]
    ) -> Mapping[uuid.UUID, list[Finding]]:
        """Return what is wrong with each shared trunk of the accounts that were read."""
        found: dict[uuid.UUID, list[Finding]] = {}
        for account_id in {account_id for account_id, _ in rows.trunk_accounts.values()} & seen.found.keys():
            own = {one: ids for one, ids in rows.trunks.items() if rows.trunk_accounts[one][0] == account_id}
            part = replace(rows, trunks=own)
            pairs = [pair for pair in seen.whole if pair.carrier_account_id == account_id]
            tools = {profile_hash(one.profile): one for one in map(self.toolboxes.of, reversed(pairs))}
            by_profile = {one: tools.get(rows.trunk_accounts[one][1], seen.tools[account_id]) for one in own}
            found |= findings_by_trunk(report, seen.found[account_id], part, by_profile, checked)
        return found

    def _read_paths(self) -> StoredPaths:
        """Read the paths of the provisioned agents that are seen, and which agents have an open operation."""
        with self.sessions.begin() as session:
            holders = session.scalars(select(Agent).where(Agent.twilio_phone_number.is_not(None))).all()
            provisioned = [agent for agent in holders if agent.phone_provisioning_status is PhoneStatus.PROVISIONED]
            busy = session.execute(
                select(Operation.agent_id, Operation.target_agent_id, Operation.phone_number).where(
                    Operation.status.in_(OPEN_STATUSES)
                )
            )
            asked = busy.all()
            now = session.scalar(select(func.now()))
            active = select(Trunk).where(Trunk.state == TrunkState.ACTIVE)
            if seen_workspace():
                active = active.where(Trunk.id.in_({agent.trunk_id for agent in provisioned if agent.trunk_id}))
            standing = session.scalars(active).all()
            pool = read_pool(session, self.toolboxes.instance)
        mates = Counter((agent.workspace_id, agent.trunk_id) for agent in provisioned)
        open_agents = {str(one) for row in asked for one in (row.agent_id, row.target_agent_id) if one}
        settled = [agent for agent in provisioned if str(agent.id) not in open_agents]
        tools = {ids: self.toolboxes.of(ids) for ids in {agent.accounts for agent in settled}}
        return StoredPaths(
            {str(agent.id): spec_from_row(tools[agent.accounts], agent) for agent in settled},
            frozenset(open_agents),
            now or datetime.now().astimezone(),
            {str(agent.id): agent.trunk_id for agent in provisioned if agent.trunk_id},
            {
                one.id: {TRUNK: one.twilio_trunk_sid or "", ORIGINATION_URL: one.twilio_origination_url_sid or ""}
                for one in standing
            },
            {one.id: (one.carrier_account_id, one.profile_hash) for one in standing},
            frozenset(filter(None, [agent.twilio_phone_number for agent in holders]))
            | {row.phone_number for row in asked},
            {str(agent.id): agent.accounts for agent in provisioned},
            pool,
            {str(agent.id): mates[agent.workspace_id, agent.trunk_id] for agent in provisioned if agent.trunk_id},
        )

    def _fix(self, findings: list[Finding], seen: _Seen, rows: StoredPaths, origin: Origin) -> list[Finding]:
        """Queue a repair for each agent that needs one, and delete orphans; add to each finding what was done.

        A shared trunk is mended by the repair of one of its agents. Where it is gone, a bulk puts all of them on the
        one that is made in its stead.
        """
        own: dict[str, list[Finding]] = {}
        for finding in findings:
            own.setdefault(finding.agent_id or "", []).append(finding)
        drifted = {agent_id for agent_id in own.keys() - {""} if any(finding.steps for finding in own[agent_id])}
        done = self._put_back(own, seen, rows, origin)
        trunk_done: dict[uuid.UUID, str] = {}
        # First those with the fewest findings of their own: their repair is least likely to be refused for those.
        for agent_id in sorted(drifted - done.keys(), key=lambda one: (len(own[one]), one)):
            trunk_id, found = rows.places.get(agent_id), own[agent_id]
            if trunk_id is not None and trunk_id in trunk_done:
                found = [finding for finding in found if not finding.is_about_trunk]
            if not any(finding.steps for finding in found):
                continue
            done[agent_id] = self._repair(agent_id, found, origin)
            mends_trunk = any(finding.is_about_trunk and finding.steps for finding in found)
            if trunk_id is not None and mends_trunk and not done[agent_id].startswith(NOT_REPAIRED):
                trunk_done[trunk_id] = done[agent_id]
        fixed = []
        for finding in findings:
            if finding.fix is Fix.DELETE:
                tools = seen.home.get(finding.resource) if finding.resource else None
                done_to = delete_orphan(self.sessions, tools, finding) if tools else ""
                fixed.append(replace(finding, fixed=done_to))
                continue
            agent_id = finding.agent_id or ""
            text = trunk_done.get(rows.places.get(agent_id, NO_TRUNK), "") if finding.is_about_trunk else ""
            text = (text or done.get(agent_id, "")) if finding.steps else ""
            refused = NOT_REPAIRED + refusal_code(finding) if finding.is_for_a_person else ""
            fixed.append(replace(finding, fixed=refused or text))
        return fixed

    def _put_back(
        self, found: Mapping[str, list[Finding]], seen: _Seen, rows: StoredPaths, origin: Origin
    ) -> dict[str, str]:
        """Forget the shared trunks that are gone, and open a bulk that puts their numbers on new ones.

        Returns what was done by agent id. Left out are those whose repair would be refused, or would be the only one.
        """
        refused = self._forget_gone(seen, rows)
        done: dict[str, str] = {}
        to_put_back: set[uuid.UUID] = set()
        for agent_id, findings in found.items():
            trunk_id = rows.places.get(agent_id)
            is_gone = any(finding.code is FindingCode.TRUNK_GONE for finding in findings)
            is_refused = any(finding.is_for_a_person or finding.fix is Fix.TAKE_BACK for finding in findings)
            if trunk_id is None or not is_gone or is_refused:
                continue
            if trunk_id in refused:
                done[agent_id] = refused[trunk_id]
            else:
                to_put_back.add(uuid.UUID(agent_id))
        waiting = self._waiting_repairs(to_put_back)
        done |= {str(agent_id): f"bulk {bulk_id}" for agent_id, bulk_id in waiting.items()}
        agents = [(one, rows.paths[str(one)].phone_number) for one in sorted(to_put_back - waiting.keys())]
        for first in range(0, len(agents), MAX_ITEMS) if len(agents) > 1 else ():
            items = agents[first : first + MAX_ITEMS]
            bulk = self.bulks.open_for_agents(BulkKind.REPAIR, items, origin=origin)
            done |= {str(agent_id): f"bulk {bulk.id}" for agent_id, _ in items}
        return done

    def _forget_gone(self, seen: _Seen, rows: StoredPaths) -> dict[uuid.UUID, str]:
        """Forget the shared trunks that are gone; return why not, by trunk, where that is not certain."""
        refused: dict[uuid.UUID, str] = {}
        for trunk_id, ids in rows.trunks.items():
            account_id, _ = rows.trunk_accounts[trunk_id]
            observed = seen.found.get(account_id)
            if observed is None or ids[TRUNK] in observed.trunks or observed.may_hold(TRUNK, ids[TRUNK]):
                continue
            try:
                is_gone = forget_gone(seen.tools[account_id], trunk_id, ids[TRUNK])
            except ProviderError as error:
                refused[trunk_id] = f"{NOT_REPAIRED}{error.code}"
            else:
                if not is_gone:
                    refused[trunk_id] = f"{NOT_REPAIRED}{ErrorCode.PROVIDER_UNAVAILABLE}"
        return refused

    def _waiting_repairs(self, agent_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, uuid.UUID]:
        """Return the bulk of an earlier audit that will repair an agent, by agent id."""
        waiting = select(BulkItem.agent_id, BulkItem.bulk_id).join(Bulk, Bulk.id == BulkItem.bulk_id)
        waiting = waiting.where(Bulk.kind == BulkKind.REPAIR, BulkItem.status == ItemStatus.PENDING)
        with self.sessions() as session:
            found = session.execute(waiting.where(BulkItem.agent_id.in_(agent_ids)))
            return {row.agent_id: row.bulk_id for row in found}

    def _repair(self, agent_id: str, findings: list[Finding], origin: Origin) -> str:
        try:
            result = self.maintenance.repair_found(uuid.UUID(agent_id), findings, takeover=False, origin=origin)
        except RefusedError as error:
            return f"{NOT_REPAIRED}{error.code}"
        return f"repair {result.operation.id}" if result.operation else ""

    def _save_health(
        self, checked: Collection[str], findings: list[Finding], by_trunk: Mapping[uuid.UUID, list[Finding]]
    ) -> None:
        """Store the health of every checked agent and trunk: one statement for those in sync, one for all others."""
        drifted: dict[uuid.UUID, list[Finding]] = {}
        for finding in findings:
            if finding.agent_id and finding.fix is not Fix.DELETE:
                drifted.setdefault(uuid.UUID(finding.agent_id), []).append(finding)
        in_sync = [one for one in map(uuid.UUID, checked) if one not in drifted]
        with self.sessions.begin() as session:
            session.execute(
                update(Agent)
                .where(Agent.id == func.any(in_sync), Agent.phone_provisioning_status == PhoneStatus.PROVISIONED)
                .values(
                    health_state=Health.IN_SYNC,
                    health_checked_at=func.now(),
                    health_findings=[],
                    updated_at=Agent.updated_at,
                )
            )
            save_health(session, drifted)
            save_trunk_health(session, by_trunk)

    def _finish(
        self, audit_id: uuid.UUID, status: AuditStatus, findings: list[Finding], checked: int, error: str | None
    ) -> Audit:
        with self.sessions.begin() as session:
            audit = session.get_one(Audit, audit_id, with_for_update=True)
            audit.status, audit.agents_checked, audit.error_detail = status, checked, error
            audit.findings = [finding_json(finding) for finding in findings]
            audit.finished_at, audit.lease_until = session.scalar(select(func.clock_timestamp())), None
            own = Audit.workspace_id.is_not_distinct_from(audit.workspace_id)
            newest = select(Audit.id).where(own).order_by(Audit.created_at.desc()).limit(KEPT_REPORTS)
            session.execute(
                delete(Audit)
                .where(own, Audit.id.not_in(newest), Audit.finished_at.is_not(None))
                .execution_options(synchronize_session=False)
            )
            return audit


def _foreign_catch_alls(observed: Observed, instance: str, known: Collection[str]) -> list[Finding]:
    # `known`: a rule of ours is still ours when somebody has changed its name.
    return [
        Finding(FindingCode.RULE_FOREIGN_CATCH_ALL, resource=("livekit_dispatch_rule", rule.id))
        for rule in observed.rules.values()
        if not rule.trunk_ids and rule.id not in known and agent_of(instance, rule.name, rule.metadata) is None
    ]


def find_unreadable(observed: Observed, instance: str, known: Collection[str]) -> list[Finding]:
    """Return the records and marks that could not be read, without `known` ids, which their agents' checks report.

    A resource with a damaged mark belongs to nobody: it is never deleted as an orphan.
    """
    found = [
        Finding(FindingCode.UNREADABLE, None, (kind, one.external_id or NO_ID), parent_id=parent or None)
        for (kind, parent), records in sorted(observed.unreadable.items())
        for one in records
        if not one.external_id or one.external_id not in known
    ]
    marked = [
        *((TRUNK, trunk.sid, (trunk.tag,)) for trunk in observed.trunks.values()),
        *((INBOUND_TRUNK, trunk.id, (trunk.metadata,)) for trunk in observed.inbound_trunks.values()),
        *((DISPATCH_RULE, rule.id, (rule.name, rule.metadata)) for rule in observed.rules.values()),
        *((ORIGINATION_URL, url.sid, (url.tag,)) for urls in observed.urls.values() for url in urls),
    ]
    detail = "Its mark names no agent, or is nested too deep to read."
    for kind, external_id, texts in marked:
        if is_damaged(instance, *texts):
            found.append(Finding(FindingCode.UNREADABLE, None, (kind, external_id), detail=detail))
    return found
