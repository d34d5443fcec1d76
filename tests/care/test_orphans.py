"""What carries our mark but no row knows: deleted when that is certain, and never otherwise."""

import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update

from app.db.models import Agent
from app.domain.activity import Origin
from app.domain.findings import FindingCode
from app.provisioning.context import tag_of
from tests.support.stage import FOREIGN_NUMBER, NUMBER, Stage, unknown_agent

SPARE = "+15145550042"
OLD = "2020-01-01T00:00:00+00:00"


def _mark(instance: str, agent: str, created_at: str | None = OLD) -> str:
    made = f', "createdAt": "{created_at}"' if created_at else ""
    return f'{{"managedBy": "trunkline", "instance": "{instance}", "agentId": "{agent}"{made}}}'


def _orphan_trunk(stage: Stage, instance: str = "stage") -> str:
    tag = f"trunkline/{instance}/{unknown_agent()}"
    return str(stage.console.twilio("POST", "/v1/Trunks", FriendlyName=tag)["sid"])


def _inbound(stage: Stage, metadata: str) -> str:
    trunk = {"name": "left behind", "numbers": [SPARE], "metadata": metadata}
    return str(stage.console.livekit("CreateSIPInboundTrunk", trunk=trunk)["sip_trunk_id"])


def test_a_path_whose_row_was_lost_is_deleted_rule_before_trunk(stage: Stage) -> None:
    foreign = stage.foreign()
    stage.console.twilio("POST", _number_path(stage), TrunkSid="")
    with stage.wiring.sessions.begin() as session:
        session.execute(update(Agent).values(twilio_phone_number=None, phone_provisioning_status="NOT_PROVISIONED"))
    seen = max(each["seq"] for each in stage.sandbox.requests())
    audit = stage.audit(fix=True)
    assert {(each["code"], each["fixed"]) for each in audit.findings} == {(FindingCode.ORPHAN, "deleted")}
    deletes = [each["operation"] for each in stage.sandbox.requests(seen) if "elete" in each["operation"]]
    assert len(deletes) == 4
    assert "ispatch" in deletes[0]
    assert not [one for one in stage.sandbox.state()["trunks"] if "trunkline" in str(one)]
    assert stage.foreign() == foreign


def test_a_young_orphan_is_left_alone(stage: Stage) -> None:
    trunk = _orphan_trunk(stage)
    audits = replace(stage.wiring.audits, orphan_grace=timedelta(hours=1))
    audit = audits.run(audits.ask(fix=True, origin=Origin(requested_by="test")))
    assert audit is not None
    assert audit.findings == []
    assert trunk in str(stage.sandbox.state()["trunks"])


def test_another_instances_resources_are_left_alone(stage: Stage) -> None:
    trunk = _orphan_trunk(stage, instance="other")
    inbound = _inbound(stage, _mark("other", unknown_agent()))
    assert stage.audit(fix=True).findings == []
    assert trunk in str(stage.sandbox.state()["trunks"])
    assert inbound in str(stage.sandbox.state()["livekitTrunks"])


@pytest.mark.parametrize(("created_at", "is_left"), [(OLD, False), (None, True), ("yesterday", True)])
def test_what_does_not_say_when_it_was_made_is_left_alone(
    stage: Stage, created_at: str | None, *, is_left: bool
) -> None:
    inbound = _inbound(stage, _mark("stage", unknown_agent(), created_at))
    stage.audit(fix=True)
    assert (inbound in str(stage.sandbox.state()["livekitTrunks"])) is is_left


def test_nothing_of_an_agent_with_an_open_operation_is_deleted(stage: Stage) -> None:
    stage.sandbox.number(SPARE)
    busy = stage.wiring.agents.create("busy", "busy", {}).id
    stage.wiring.provisioning.provision(busy, SPARE, takeover=False, origin=Origin())
    stage.publisher.plans.clear()
    sid = stage.console.twilio("POST", "/v1/Trunks", FriendlyName=tag_of("stage", busy))["sid"]
    assert stage.audit(fix=True).findings == []
    assert sid in str(stage.sandbox.state()["trunks"])


def test_an_orphan_trunk_that_carries_a_number_is_not_deleted_and_said_so(stage: Stage) -> None:
    trunk = _orphan_trunk(stage)
    stage.sandbox.number(SPARE, trunkSid=trunk)
    findings = stage.audit(fix=True).findings
    assert [each["fixed"] for each in findings] == ["not deleted: twilio_trunk_in_use"]
    assert trunk in str(stage.sandbox.state()["trunks"])
    assert FOREIGN_NUMBER in str(stage.sandbox.state()["numbers"])


def test_a_second_url_of_ours_on_our_own_trunk_is_a_twin_and_goes(stage: Stage) -> None:
    url = {"SipUrl": "sip:sandbox.sip.livekit.cloud;transport=tcp", "Weight": "1", "Priority": "1", "Enabled": "true"}
    path = f"/v1/Trunks/{stage.agent.twilio_trunk_sid}/OriginationUrls"
    sid = stage.console.twilio("POST", path, FriendlyName=tag_of("stage", stage.agent_id), **url)["sid"]
    (finding,) = stage.audit(fix=True).findings
    assert (finding["code"], finding["resource"]["id"], finding["fixed"]) == (FindingCode.TWIN, sid, "deleted")
    assert sid not in str(stage.sandbox.state()["originationUrls"])
    assert stage.rings() == "front-desk"


def test_a_mark_that_holds_no_agent_id_breaks_nothing(stage: Stage) -> None:
    stage.console.twilio("POST", "/v1/Trunks", FriendlyName="trunkline/stage/written-by-hand")
    (finding,) = stage.audit(fix=True).findings
    assert (finding["code"], finding["fixed"]) == (FindingCode.ORPHAN, "deleted")
    assert stage.rings() == "front-desk"
    assert uuid.UUID(str(stage.agent_id))
    assert stage.agent.twilio_phone_number == NUMBER


def _number_path(stage: Stage) -> str:
    account = stage.wiring.settings.twilio_account_sid
    return f"/2010-04-01/Accounts/{account}/IncomingPhoneNumbers/{stage.agent.twilio_phone_number_sid}.json"
