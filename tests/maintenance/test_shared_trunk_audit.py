"""The audit of trunks that numbers share: one finding for each, one repair, and a bulk where the trunk is gone."""

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from app.bulk.dispatcher import BulkDispatcher
from app.db.models import Agent, Operation, Trunk
from app.domain.events import Origin
from app.domain.findings import Finding, FindingCode, Health, Severity, stored_finding
from app.domain.operations import NUMBER, ORIGINATION_URL, TRUNK, OperationKind, TrunkState
from app.path.marks import is_pool_tag
from app.wiring import Wiring
from tests.support.changed_path import ChangedPath, OwnSandbox, new_path
from tests.support.toolboxes import tools_of, with_parts, with_tools

_C = FindingCode
Changing = tuple[OwnSandbox, Wiring]
BESIDE = 4
"""Numbers on the trunk beside the first."""


@pytest.fixture
def paths(changing: Changing) -> list[ChangedPath]:
    """Paths on one shared trunk."""
    first = new_path(*changing)
    return [first, *(first.beside(f"+1514556000{index}") for index in range(BESIDE))]


def reported(path: ChangedPath, *, fix: bool = False) -> list[Finding]:
    """Audit, run what it has queued, and return the report's findings."""
    audit = path.audit(fix=fix)
    assert audit.agents_checked == BESIDE + 1
    return [stored_finding(one) for one in audit.findings]


def run_bulks(path: ChangedPath) -> None:
    """Do what the sweeper and the workers do for bulks."""
    dispatcher = path.wiring.sweeper.dispatcher
    assert isinstance(dispatcher, BulkDispatcher)
    while dispatcher.advance():
        path.drive()


def pool_trunks(path: ChangedPath) -> list[str]:
    rows = path.sandbox.inside.store.trunks.rows
    return [sid for sid, row in rows.items() if is_pool_tag("stage", row["friendly_name"])]


def row(path: ChangedPath) -> Trunk:
    with path.wiring.sessions() as session:
        return session.scalars(select(Trunk)).one()


def repairs(path: ChangedPath) -> list[Operation]:
    with path.wiring.sessions() as session:
        return list(session.scalars(select(Operation).where(Operation.kind == OperationKind.REPAIR)))


def ids(paths: list[ChangedPath]) -> tuple[str, ...]:
    return tuple(sorted(str(path.agent_id) for path in paths))


def delete_trunk(path: ChangedPath) -> object:
    return path.console.twilio("DELETE", path.trunk_path)


def test_a_whole_trunk_is_in_sync_and_its_row_says_so(paths: list[ChangedPath]) -> None:
    assert reported(paths[0]) == []
    assert (row(paths[0]).health_state, row(paths[0]).health_findings) == (Health.IN_SYNC, [])
    assert row(paths[0]).health_checked_at is not None


def test_a_trunk_deleted_under_many_numbers_is_one_finding_and_each_agents_own(paths: list[ChangedPath]) -> None:
    gone = paths[0].ours(TRUNK)
    delete_trunk(paths[0])
    (finding,) = reported(paths[0])
    assert (finding.code, finding.severity, finding.resource) == (_C.TRUNK_GONE, Severity.CRITICAL, (TRUNK, gone))
    assert (finding.agent_id, finding.agent_ids) == (ids(paths)[0], ids(paths))
    assert "5 numbers share the trunk." in finding.detail
    for path in paths:
        assert path.agent.health_state is Health.DRIFTED
        assert {one["code"] for one in path.agent.health_findings} == {_C.TRUNK_GONE, _C.NUMBER_DETACHED}
        assert {tuple(one["agentIds"]) for one in path.agent.health_findings} == {(str(path.agent_id),)}
    health = row(paths[0])
    assert (health.health_state, [one["code"] for one in health.health_findings]) == (Health.DRIFTED, [_C.TRUNK_GONE])


def test_fix_puts_every_number_of_a_deleted_trunk_on_one_new_one_in_a_bulk(paths: list[ChangedPath]) -> None:
    gone = paths[0].ours(TRUNK)
    delete_trunk(paths[0])
    (finding,) = reported(paths[0], fix=True)
    assert finding.fixed.startswith("bulk ")
    assert (row(paths[0]).state, row(paths[0]).twilio_trunk_sid) == (TrunkState.CREATING, None)
    (again,) = reported(paths[0], fix=True)  # before the bulk has begun
    assert again.fixed == finding.fixed
    run_bulks(paths[0])
    bulk = paths[0].wiring.bulk.get(uuid.UUID(finding.fixed.split()[1]))
    assert (bulk.total, bulk.succeeded) == (len(paths), len(paths))
    (trunk,) = pool_trunks(paths[0])
    assert trunk != gone
    assert {path.ours(TRUNK) for path in paths} == {trunk}
    assert {path.rings() for path in paths} == {"front-desk"}
    assert reported(paths[0]) == []
    assert {path.agent.health_state for path in paths} == {Health.IN_SYNC}
    assert row(paths[0]).health_state is Health.IN_SYNC


def test_a_trunk_that_only_the_list_lacks_is_not_made_again(paths: list[ChangedPath]) -> None:
    class Blind:
        def __init__(self, carrier: Any) -> None:
            self._carrier = carrier

        def __getattr__(self, name: str) -> Any:
            return getattr(self._carrier, name)

        def list_trunks(self, *_: object) -> list[object]:
            return []

    path, wiring = paths[0], paths[0].wiring
    tools = replace(tools_of(wiring.audits), carrier=Blind(wiring.carrier), sleep=lambda _: None)
    path.wiring = with_parts(wiring, audits=with_tools(wiring.audits, tools))
    findings = reported(path, fix=True)
    assert {one.fixed for one in findings if one.code is _C.TRUNK_GONE} == {"not repaired: provider_unavailable"}
    assert (row(path).state, row(path).twilio_trunk_sid) == (TrunkState.ACTIVE, path.ours(TRUNK))
    assert pool_trunks(path) == [path.ours(TRUNK)]


CHANGES: dict[str, tuple[Callable[[ChangedPath], object], FindingCode]] = {
    "secure": (lambda path: path.change_trunk(Secure="true"), _C.TRUNK_SECURE),
    "trunk renamed": (lambda path: path.change_trunk(FriendlyName="Main"), _C.MARK_LOST),
    "URL disabled": (lambda path: path.change_url(Enabled="false"), _C.ORIGINATION_URL_DISABLED),
    "URL elsewhere": (lambda path: path.change_url(SipUrl="sip:elsewhere.example.com"), _C.ORIGINATION_HOST_WRONG),
    "URL's weight": (lambda path: path.change_url(Weight="1"), _C.ORIGINATION_URL_CHANGED),
    "URL deleted": (lambda path: path.console.twilio("DELETE", path.url_path), _C.ORIGINATION_URL_MISSING),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_changed_at_a_shared_trunk_is_one_finding_and_one_repair(name: str, paths: list[ChangedPath]) -> None:
    make, code = CHANGES[name]
    trunk = paths[0].ours(TRUNK)
    make(paths[0])
    (finding,) = reported(paths[0], fix=True)
    assert (finding.code, finding.agent_ids) == (code, ids(paths))
    (repair,) = repairs(paths[0])
    assert finding.fixed == f"repair {repair.id}"
    assert {path.rings() for path in paths} == {"front-desk"}
    assert reported(paths[0]) == []
    assert pool_trunks(paths[0]) == [trunk]
    assert len({path.ours(ORIGINATION_URL) for path in paths}) == 1


def test_an_agent_with_more_wrong_than_the_trunk_has_a_repair_of_its_own(paths: list[ChangedPath]) -> None:
    paths[0].change_url(Enabled="false")
    paths[1].change_inbound(lambda info: info.allowed_numbers.append("+12025550123"))
    findings = reported(paths[0], fix=True)
    assert {one.code for one in findings} == {_C.ORIGINATION_URL_DISABLED, _C.LIVEKIT_TRUNK_CALLERS}
    assert len({one.fixed for one in findings}) == len(repairs(paths[0])) == len(findings)
    assert reported(paths[0]) == []


def test_where_one_agents_repair_is_refused_another_mends_the_trunk(paths: list[ChangedPath]) -> None:
    paths[0].change_url(Enabled="false")
    for path in paths[1:]:
        trunk = path.add_trunk("sip:elsewhere.example.com")
        path.console.twilio("POST", f"/v1/Trunks/{trunk}/PhoneNumbers", PhoneNumberSid=path.ours(NUMBER))
    findings = reported(paths[0], fix=True)
    assert {one.fixed for one in findings if one.code is _C.NUMBER_MOVED} == {"not repaired: number_already_routed"}
    (repair,) = repairs(paths[0])
    assert {one.fixed for one in findings if one.is_about_trunk} == {f"repair {repair.id}"}
    assert paths[0].rings() == "front-desk"


def test_another_url_on_a_shared_trunk_is_one_finding_for_a_person(paths: list[ChangedPath]) -> None:
    paths[0].add_url("sip:elsewhere.example.com", Priority="1")
    (finding,) = reported(paths[0], fix=True)
    assert (finding.code, finding.agent_ids) == (_C.ORIGINATION_URL_OVERRIDDEN, ids(paths))
    assert finding.fixed == "not repaired: not_ours_to_repair"
    assert repairs(paths[0]) == []


def test_a_number_that_nobody_of_ours_has_is_named_and_left_alone(paths: list[ChangedPath]) -> None:
    trunk = paths[0].ours(TRUNK)
    paths[0].sandbox.number("+15145550044", trunkSid=trunk)
    before = paths[0].sandbox.objects()
    (finding,) = reported(paths[0], fix=True)
    assert (finding.code, finding.severity) == (_C.TRUNK_FOREIGN_NUMBER, Severity.FOREIGN)
    assert (finding.resource, finding.concerned) == ((TRUNK, trunk), ())
    assert finding.detail.startswith("On it: PN")
    assert paths[0].sandbox.objects() == before
    assert {path.agent.health_state for path in paths} == {Health.IN_SYNC}
    health = row(paths[0])
    assert (health.health_state, [one["code"] for one in health.health_findings]) == (Health.IN_SYNC, [finding.code])


def test_a_verification_says_how_many_numbers_a_finding_concerns(paths: list[ChangedPath]) -> None:
    paths[0].change_url(Enabled="false")
    for path in paths:
        (finding,) = path.findings()
        assert finding.detail == "5 numbers share the trunk."
    paths[3].wiring.maintenance.repair(paths[3].agent_id, takeover=False, origin=Origin())
    paths[3].drive()
    assert [path.findings() for path in paths] == [[]] * len(paths)


def test_a_trunk_that_nobody_is_on_has_a_health_of_its_own(changing: Changing) -> None:
    path = new_path(*changing)
    trunk_sid = path.ours(TRUNK)
    path.wiring.provisioning.deprovision(path.agent_id, origin=Origin())
    path.drive()
    path.console.twilio("POST", f"/v1/Trunks/{trunk_sid}", Secure="true")
    assert path.audit().findings == []
    (found,) = row(path).health_findings
    assert (found["code"], found["severity"]) == (_C.TRUNK_SECURE, Severity.WARNING)
    path.console.twilio("DELETE", f"/v1/Trunks/{trunk_sid}")
    path.audit(fix=True)
    assert row(path).state is TrunkState.CREATING
    path.provision()


def test_a_move_takes_the_place_along_and_leaves_the_trunk_as_it_is(paths: list[ChangedPath]) -> None:
    path = paths[0]
    with path.wiring.sessions.begin() as session:  # a newer trunk with room, which is no concern of a move
        old = session.scalars(select(Trunk)).one()
        session.add(Trunk(profile=old.profile, profile_hash=old.profile_hash, shard=2, state=TrunkState.CREATING))
        old_id = old.id
    trunks = {sid: dict(row) for sid, row in path.sandbox.inside.store.trunks.rows.items()}
    other = path.wiring.agents.create("back office", "back-office", {}).id
    path.wiring.maintenance.move(path.agent_id, other, origin=Origin())
    path.drive()
    assert path.rings() == "back-office"
    with path.wiring.sessions() as session:
        places = [session.get_one(Agent, one).trunk_id for one in (path.agent_id, other)]
    assert places == [None, old_id]
    after = path.sandbox.inside.store.trunks.rows
    assert {sid: row["friendly_name"] for sid, row in after.items()} == {
        sid: row["friendly_name"] for sid, row in trunks.items()
    }
    path.agent_id = other
    assert [one.findings() for one in paths] == [[]] * len(paths)
