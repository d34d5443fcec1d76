"""What carries our mark but no row knows: deleted when that is certain, and never otherwise."""

import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update

from app.db.models import Agent
from app.domain.events import Origin
from app.domain.findings import FindingCode
from app.domain.marks import tag_of
from tests.support.malformed_texts import MALFORMED_URIS, damaged_marks
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
    audit = audits.run_audit(audits.request_audit(fix=True, origin=Origin(requested_by="test")))
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


def test_what_carries_a_mark_that_holds_no_agent_id_is_named_and_never_deleted(stage: Stage) -> None:
    trunk = stage.console.twilio("POST", "/v1/Trunks", FriendlyName="trunkline/stage/written-by-hand")["sid"]
    (finding,) = stage.audit(fix=True).findings
    assert (finding["code"], finding["resource"]["id"], finding["fixed"]) == (FindingCode.UNREADABLE, trunk, "")
    assert trunk in str(stage.sandbox.state()["trunks"])
    assert stage.rings() == "front-desk"
    assert uuid.UUID(str(stage.agent_id))
    assert stage.agent.twilio_phone_number == NUMBER


def _orphan_rule(stage: Stage, metadata: str = "", **fields: object) -> str:
    whole = {"rule": {"dispatch_rule_individual": {"room_prefix": "x"}}, "metadata": metadata, **fields}
    return str(stage.console.livekit("CreateSIPDispatchRule", dispatch_rule=whole)["sip_dispatch_rule_id"])


def test_a_rule_left_behind_is_deleted_by_its_name_or_by_its_mark_of_an_earlier_release(stage: Stage) -> None:
    tag, gone = f"trunkline/stage/{unknown_agent()}", ["ST_gone00000000"]
    named = _orphan_rule(stage, name=tag, trunk_ids=gone)
    marked = _orphan_rule(stage, _mark("stage", unknown_agent()), name="x", trunk_ids=["ST_gone00000001"])
    theirs = [
        _orphan_rule(stage, name=f"trunkline/other/{unknown_agent()}", trunk_ids=["ST_gone00000002"]),
        _orphan_rule(stage, _mark("other", str(stage.agent_id)), name="x", trunk_ids=["ST_gone00000003"]),
        _orphan_rule(stage, name=tag, trunk_ids=[stage.foreign_trunk()], inbound_numbers=["+15005550001"]),
    ]
    findings = stage.audit(fix=True).findings
    assert {(one["resource"]["id"], one["fixed"]) for one in findings} == {(named, "deleted"), (marked, "deleted")}
    left = {one["sip_dispatch_rule_id"] for one in stage.sandbox.state()["livekitRules"]}
    assert left >= set(theirs)
    assert not left & {named, marked}
    assert stage.rings() == "front-desk"


def test_odd_texts_at_both_providers_end_nothing(stage: Stage) -> None:
    """Each is one finding, or nobody's business; audit, check, dry run, provisioning and inventory go on."""
    odd = set()
    for index, metadata in enumerate(damaged_marks("stage", unknown_agent())):
        trunk = {"name": metadata[:60], "numbers": [f"+1613555{index:04}"], "metadata": metadata}
        odd.add(stage.console.livekit("CreateSIPInboundTrunk", trunk=trunk)["sip_trunk_id"])
        odd.add(_orphan_rule(stage, metadata, name="theirs too", trunk_ids=[f"ST_odd{index:09}"]))
    path = f"/v1/Trunks/{stage.agent.twilio_trunk_sid}/OriginationUrls"
    for uri in MALFORMED_URIS[:8]:
        url = {"SipUrl": uri, "Weight": "1", "Priority": "20", "Enabled": "true", "FriendlyName": "theirs"}
        stage.console.twilio("POST", path, **url)
    own = f"{path}/{stage.agent.twilio_origination_url_sid}"
    for uri in ("sip:[::1", "sip:x]", "sip:a\uff1a5060", "sip:\0", "sip:\x1bc@evil"):
        stage.console.twilio("POST", own, SipUrl=uri)
        (wrong,) = stage.wiring.maintenance.verify(stage.agent_id).findings
        assert (wrong.code, wrong.detail.isprintable()) == (FindingCode.ORIGINATION_HOST_WRONG, True)
    before = stage.foreign()
    audit = stage.audit(fix=True)
    unreadable = [one["resource"]["id"] for one in audit.findings if one["code"] == FindingCode.UNREADABLE]
    assert sorted(unreadable) == sorted(odd)
    assert {one["code"] for one in audit.findings} == {FindingCode.UNREADABLE, FindingCode.ORIGINATION_HOST_WRONG}
    assert stage.foreign() == before
    assert stage.rings() == "front-desk"
    stage.sandbox.number(SPARE, voiceUrl="http://\x1b\0[::1")
    other = stage.wiring.agents.create("back office", "back-office", {}).id
    assert stage.wiring.planning.preview(other, SPARE, takeover=False).would_succeed
    stage.wiring.provisioning.provision(other, SPARE, takeover=False, origin=Origin())
    stage.drive()
    assert stage.sandbox.call(SPARE)["agentName"] == "back-office"
    assert {one.phone_number for one in stage.wiring.inventory.numbers()} >= {NUMBER, SPARE}


def _number_path(stage: Stage) -> str:
    account = stage.wiring.settings.twilio_account_sid
    return f"/2010-04-01/Accounts/{account}/IncomingPhoneNumbers/{stage.agent.twilio_phone_number_sid}.json"
