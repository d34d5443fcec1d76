"""What an audit finds of the trunks that numbers share, and which of them are gone.

What is wrong with a shared trunk is one finding with all its agents in the report, and each agent's own in its health.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping

import structlog

from app.audit.orphans import StoredPaths
from app.domain.findings import Finding, FindingCode, Severity
from app.domain.operations import TRUNK
from app.domain.texts import shown
from app.path.compare import compare
from app.path.marks import pool_tag
from app.path.observed import Observed
from app.path.spec import Label, PathSpec
from app.saga.context import ABSENCE_CHECK_PAUSES, Toolbox

log = structlog.get_logger(__name__)

MOST_NAMED = 5
"""Numbers that a detail names one by one."""


def find_foreign_numbers(observed: Observed, rows: tuple[StoredPaths, StoredPaths]) -> list[Finding]:
    """Return a finding for each shared trunk with numbers that no agent has, and that no open operation is about."""
    before, after = rows
    taken = before.numbers | after.numbers
    steady = {ids[TRUNK] for trunk_id, ids in after.trunks.items() if before.trunks.get(trunk_id) == ids}
    strangers: dict[str, list[str]] = {}
    for number in observed.numbers.values():
        trunk_sid = number.routing.trunk_sid
        if trunk_sid in steady and number.phone_number not in taken:
            strangers.setdefault(trunk_sid, []).append(number.sid)
    return [foreign_numbers(trunk_sid, sids) for trunk_sid, sids in sorted(strangers.items())]


def foreign_numbers(trunk_sid: str, number_sids: Iterable[str]) -> Finding:
    """Return the finding of a shared trunk that has numbers which no agent has."""
    sids = sorted(number_sids)
    more = f" and {len(sids) - MOST_NAMED:,} more" if len(sids) > MOST_NAMED else ""
    detail = f"On it: {shown(', '.join(sids[:MOST_NAMED]))}{more}."
    return Finding(FindingCode.TRUNK_FOREIGN_NUMBER, resource=(TRUNK, trunk_sid), detail=detail)


def findings_by_trunk(
    findings: Iterable[Finding],
    observed: Observed,
    rows: StoredPaths,
    tools: Mapping[uuid.UUID, Toolbox],
    checked: Iterable[str],
) -> Mapping[uuid.UUID, list[Finding]]:
    """Return what is wrong with each shared trunk that stands, by the id of its row: one finding of each code.

    `findings` are those of the report, `checked` the ids of the agents that were compared, `tools` those of each
    trunk's account and profile. A trunk without any of the agents is compared by itself: no call fails by it, and the
    next number that takes a place on it mends it.
    """
    found: dict[uuid.UUID, list[Finding]] = {trunk_id: [] for trunk_id in rows.trunks}
    row_of = {ids[TRUNK]: trunk_id for trunk_id, ids in rows.trunks.items()}
    for finding in findings:
        trunk_id = rows.places.get(finding.agent_id or "")
        if finding.code is FindingCode.TRUNK_FOREIGN_NUMBER and finding.resource:
            trunk_id = row_of.get(finding.resource[1])
        if finding.is_about_trunk and trunk_id in found:
            found[trunk_id].append(finding)
    for trunk_id in rows.trunks.keys() - {rows.places.get(agent_id) for agent_id in checked}:
        found[trunk_id] += _of_empty(trunk_id, rows.trunks[trunk_id], observed, tools[trunk_id])
    return found


def _of_empty(trunk_id: uuid.UUID, ids: Mapping[str, str], observed: Observed, tools: Toolbox) -> Iterator[Finding]:
    tag = pool_tag(tools.instance, trunk_id)
    path = PathSpec(tools.profile, tools.instance, "", "", "{}", "", Label(tag), ids, tag)
    for finding in compare(path, observed):
        if finding.is_about_trunk:
            yield Finding(
                finding.code, None, finding.resource, detail=finding.detail, severity_override=Severity.WARNING
            )


def forget_gone(tools: Toolbox, trunk_id: uuid.UUID, trunk_sid: str) -> bool:
    """Forget a shared trunk that an audit has missed, once three reads agree that it is gone; tell whether they do.

    It is then made anew by the first number that needs it. May raise the provider's errors.
    """
    for fraction in ABSENCE_CHECK_PAUSES:
        if fraction:
            tools.sleep(fraction * tools.timing.provider_timeout.total_seconds())
        if tools.carrier.get_trunk(trunk_sid) is not None:
            return False
    tools.pool.forget(trunk_id, TRUNK, trunk_sid)
    log.warning("shared_trunk_gone", trunk_id=str(trunk_id), twilio_trunk_sid=trunk_sid)
    return True
