"""Two workspaces with numbers on one shared trunk: what each learns of the path, the account and the other."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
from sqlalchemy import select

from app.bulk.items import Item
from app.db.access import list_activity
from app.db.models import Agent, Operation, Workspace
from app.db.queries import latest_report
from app.db.visibility import seeing
from app.db.webhooks import WebhookDelivery, WebhookEndpoint
from app.domain.errors import ErrorCode, RefusedError
from app.domain.events import Action, Channel, Origin
from app.domain.findings import FindingCode, stored_finding
from app.domain.operations import BulkKind, OperationKind, PhoneStatus
from app.domain.workspaces import DEFAULT_WORKSPACE
from app.numbers.inventory import NumberUse
from app.views.reader import Reader
from tests.support.sandbox_app import FOREIGN_NUMBER, NUMBER, SandboxApp

ACMES_NUMBER = "+15145550111"
FREE_NUMBER = "+15145550112"
ASKED = Origin(requested_by="test")


@dataclass
class Two:
    """The application with an agent of `default` and one of `acme`, whose numbers are on one trunk."""

    live: SandboxApp
    acme: uuid.UUID
    """The workspace."""
    agent_id: uuid.UUID
    """Its agent."""

    @contextmanager
    def in_acme(self) -> Iterator[None]:
        with seeing(self.acme):
            yield

    def agent(self, agent_id: uuid.UUID) -> Agent:
        return self.live.wiring.agents.get(agent_id)

    def secrets(self) -> Sequence[str]:
        """Return what only `default` may know."""
        holder = self.live.agent
        ids = (holder.livekit_inbound_trunk_id, holder.livekit_dispatch_rule_id, holder.twilio_phone_number_sid)
        return [str(holder.id), holder.name, *(one for one in ids if one)]

    def audit(self, workspace_id: uuid.UUID | None, *, fix: bool = False) -> list[FindingCode]:
        """Audit what is seen in a workspace, and return the report's findings."""
        with seeing(workspace_id):
            audit_id = self.live.wiring.audits.request_audit(fix=fix, origin=ASKED)
        done = self.live.wiring.audits.run_audit(audit_id)
        assert done is not None
        assert done.error_detail is None
        return [stored_finding(one).code for one in done.findings]

    def forget_rules(self) -> None:
        """Delete the dispatch rules of both."""
        for agent in (self.live.agent, self.agent(self.agent_id)):
            self.live.console.livekit("DeleteSIPDispatchRule", sip_dispatch_rule_id=agent.livekit_dispatch_rule_id)


@pytest.fixture
def two(live: SandboxApp) -> Two:
    acme = uuid.uuid4()
    with live.wiring.sessions.begin() as session:
        session.add(Workspace(id=acme, slug="acme", name="Acme"))
    live.sandbox.number(ACMES_NUMBER)
    live.sandbox.number(FREE_NUMBER)
    with seeing(acme):
        agent_id = live.wiring.agents.create("acme's desk", None, {}).id
        live.wiring.provisioning.provision(agent_id, ACMES_NUMBER, takeover=False, origin=ASKED)
    live.drive()
    found = Two(live, acme, agent_id)
    assert found.agent(agent_id).trunk_id == live.agent.trunk_id is not None
    return found


def test_a_trunks_members_are_those_that_are_seen(two: Two) -> None:
    reader = Reader(two.live.wiring.sessions, 500)

    def members() -> int:
        trunk = reader.phone(two.agent_id).trunk
        assert trunk is not None
        return trunk.members

    assert members() == 2
    with two.in_acme():
        assert members() == 1
        with pytest.raises(RefusedError):
            reader.phone_etag(two.live.agent_id)


def test_the_tag_of_a_status_does_not_tell_of_another_workspaces_numbers(two: Two) -> None:
    reader = Reader(two.live.wiring.sessions, 500)
    with two.in_acme():
        before = reader.phone_etag(two.agent_id)
    operators = reader.phone_etag(two.agent_id)
    two.live.wiring.provisioning.deprovision(two.live.agent_id, origin=ASKED)
    two.live.drive()
    with two.in_acme():
        assert reader.phone_etag(two.agent_id) == before
    assert reader.phone_etag(two.agent_id) != operators


def test_the_choice_of_numbers_leaves_out_those_of_others(two: Two) -> None:
    with two.in_acme():
        found = {one.phone_number: one for one in two.live.wiring.inventory.of_account().numbers}
    assert NUMBER not in found
    assert found[ACMES_NUMBER].agent_id == two.agent_id
    assert found[FREE_NUMBER].use is NumberUse.FREE
    assert found[FOREIGN_NUMBER].use is NumberUse.TRUNK
    assert NUMBER in {one.phone_number for one in two.live.wiring.inventory.of_account().numbers}


def test_a_dry_run_says_that_a_number_is_in_use_and_not_by_whom(two: Two) -> None:
    planning = two.live.wiring.planning
    with two.in_acme():
        free = two.live.wiring.agents.create("acme's other", None, {}).id
        preview = planning.preview(free, NUMBER, takeover=False)
    assert [one.code for one in preview.obstacles] == [ErrorCode.NUMBER_IN_USE]
    assert not [one for one in two.secrets() if one in str(preview.obstacles)]
    assert preview.trunk.members == 1
    told = str(planning.preview(free, NUMBER, takeover=False).obstacles)
    assert str(two.live.agent_id) in told


def test_the_audit_of_a_workspace_compares_its_agents_and_tells_of_nothing_else(two: Two) -> None:
    two.forget_rules()
    foreign = two.live.console.livekit("CreateSIPInboundTrunk", trunk={"name": "theirs", "numbers": ["+15145550199"]})
    kind = {"dispatch_rule_direct": {"room_name": "all"}}
    two.live.console.livekit("CreateSIPDispatchRule", dispatch_rule={"name": "catch-all", "rule": kind})
    assert foreign

    of_acme = two.audit(two.acme)
    of_all = two.audit(None)

    assert FindingCode.RULE_FOREIGN_CATCH_ALL not in of_acme
    assert FindingCode.RULE_FOREIGN_CATCH_ALL in of_all
    assert len(of_all) > len(of_acme) > 0
    with two.in_acme(), two.live.wiring.sessions() as session:
        report = latest_report(session)
        assert report is not None
        assert report.agents_checked == 1
    assert not [one for one in two.secrets() if one in str(report.findings)]
    with two.live.wiring.sessions() as session:
        everybodys = latest_report(session)
        assert everybodys is not None
        assert everybodys.agents_checked == 2
    with seeing(DEFAULT_WORKSPACE), two.live.wiring.sessions() as session:
        assert latest_report(session) is None


def test_an_audit_that_fixes_a_workspace_leaves_the_others_alone(two: Two) -> None:
    two.forget_rules()
    two.audit(two.acme, fix=True)
    with two.live.wiring.sessions() as session:
        repairs = session.scalars(select(Operation).where(Operation.kind == OperationKind.REPAIR)).all()
    assert [one.agent_id for one in repairs] == [two.agent_id]
    assert {one.workspace_id for one in repairs} == {two.acme}


def test_the_health_of_an_agent_does_not_count_another_workspaces_numbers(two: Two) -> None:
    trunk_sid = two.live.agent.twilio_trunk_sid
    two.live.console.twilio("POST", f"/v1/Trunks/{trunk_sid}", Secure="true")
    two.audit(None)
    with two.live.wiring.sessions() as session:
        report = latest_report(session)
    assert report is not None
    assert "2 numbers share the trunk" in str(report.findings)
    stored = [two.agent(agent_id).health_findings for agent_id in (two.agent_id, two.live.agent_id)]
    assert all(stored)
    assert "numbers share" not in str(stored)
    assert "numbers share" not in str(two.live.wiring.maintenance.verify(two.agent_id).findings)


def test_events_go_to_the_endpoints_of_their_agents_workspace(two: Two) -> None:
    sessions = two.live.wiring.sessions
    with sessions.begin() as session:
        for workspace_id in (two.acme, DEFAULT_WORKSPACE):
            url = f"https://hooks.example.com/{workspace_id}"
            session.add(WebhookEndpoint(url=url, sealed_secret="x", workspace_id=workspace_id))
    two.forget_rules()
    two.audit(two.acme)
    with two.in_acme():
        two.live.wiring.provisioning.deprovision(two.agent_id, origin=ASKED)
    two.live.drive()
    told = select(WebhookDelivery.event, WebhookEndpoint.workspace_id).join(WebhookEndpoint)
    with sessions() as session:
        found = sorted((row.event, row.workspace_id) for row in session.execute(told))
    assert found == [("phone.deprovisioned", two.acme), ("phone.drifted", two.acme)]


def test_an_operators_bulk_for_several_workspaces_is_shown_to_operators_alone(two: Two) -> None:
    wiring = two.live.wiring
    with two.in_acme():
        other = wiring.agents.create("acme's other", None, {}).id
    free = wiring.agents.create("a default one", None, {}).id
    items = [Item(1, phone_number="+15145550177", agent_id=other), Item(2, phone_number=FREE_NUMBER, agent_id=free)]
    bulk = wiring.bulk.accept(items, origin=ASKED)
    assert bulk.workspace_id is None
    for workspace_id in (two.acme, DEFAULT_WORKSPACE):
        with seeing(workspace_id), pytest.raises(RefusedError):
            wiring.bulk.get(bulk.id)
    assert wiring.bulk.get(bulk.id).total == 2
    # Its agents' workspaces do with their operations what they may do with any.
    while wiring.sweeper.dispatcher.advance():
        two.live.drive()
    with two.in_acme():
        with wiring.sessions() as session:
            failed = session.scalars(select(Operation).where(Operation.agent_id == other)).one()
        again = wiring.provisioning.retry(failed.id, origin=ASKED)
    assert (again.bulk_id, again.workspace_id) == (bulk.id, two.acme)


def test_a_bulk_of_one_workspaces_agents_is_that_workspaces(two: Two) -> None:
    wiring = two.live.wiring
    repairs = wiring.bulk.open_for_agents(BulkKind.REPAIR, [(two.agent_id, ACMES_NUMBER)], origin=ASKED)
    assert repairs.workspace_id == two.acme
    with two.in_acme():
        foreign = wiring.bulk.accept([Item(1, phone_number=FREE_NUMBER, agent_id=two.live.agent_id)], origin=ASKED)
        (item,) = wiring.bulk.items(foreign.id)
    assert (item.error_code, item.agent_id) == (ErrorCode.AGENT_NOT_FOUND, None)


def test_an_operation_is_retried_by_its_own_workspace_alone(two: Two) -> None:
    wiring = two.live.wiring
    operation = wiring.provisioning.deprovision(two.live.agent_id, origin=ASKED)
    assert operation is not None
    # The process remembers it: no statement asks whose it is.
    wiring.provisioning.retry(operation.id, origin=ASKED)
    with two.in_acme(), pytest.raises(RefusedError) as refused:
        wiring.provisioning.retry(operation.id, origin=ASKED)
    assert refused.value.code is ErrorCode.OPERATION_NOT_FOUND


def test_what_was_asked_for_is_in_the_trail_of_its_workspace(two: Two) -> None:
    provisioning, asked = two.live.wiring.provisioning, replace(ASKED, channel=Channel.API)
    with two.in_acme():
        operation = provisioning.deprovision(two.agent_id, origin=asked)
        assert operation is not None
        provisioning.retry(operation.id, origin=asked)
        with two.live.wiring.sessions() as session:
            newest = list_activity(session, limit=2)
    assert [row.action for row in newest] == [Action.OPERATION_RETRY, Action.DEPROVISION]


def test_a_number_is_not_moved_to_another_workspace(two: Two) -> None:
    maintenance = two.live.wiring.maintenance
    free = two.live.wiring.agents.create("a default one", None, {}).id
    for workspace_id in (two.acme, None):
        with seeing(workspace_id), pytest.raises(RefusedError) as refused:
            maintenance.move(two.agent_id, free, origin=ASKED)
        assert refused.value.code is ErrorCode.AGENT_NOT_FOUND
    assert two.agent(two.agent_id).phone_provisioning_status is PhoneStatus.PROVISIONED
