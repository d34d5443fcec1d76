"""Resources with our mark that no row refers to: deleted when that is certain, and never otherwise."""

import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update

from app.db.models import Agent
from app.domain.events import Origin
from app.domain.findings import FindingCode, Severity
from app.domain.operations import TrunkMode
from app.path.marks import is_pool_tag, tag_of
from tests.support.malformed_texts import MALFORMED_URIS, damaged_marks
from tests.support.sandbox_app import FOREIGN_NUMBER, NUMBER, SandboxApp, unknown_agent

SPARE = "+15145550042"
OLD = "2020-01-01T00:00:00+00:00"


def _mark(instance: str, agent: str, created_at: str | None = OLD) -> str:
    made = f', "createdAt": "{created_at}"' if created_at else ""
    return f'{{"managedBy": "trunkline", "instance": "{instance}", "agentId": "{agent}"{made}}}'


def _orphan_trunk(live: SandboxApp, instance: str = "stage") -> str:
    tag = f"trunkline/{instance}/{unknown_agent()}"
    return str(live.console.twilio("POST", "/v1/Trunks", FriendlyName=tag)["sid"])


def _inbound(live: SandboxApp, metadata: str) -> str:
    trunk = {"name": "left behind", "numbers": [SPARE], "metadata": metadata}
    return str(live.console.livekit("CreateSIPInboundTrunk", trunk=trunk)["sip_trunk_id"])


@pytest.mark.parametrize(("live", "resources"), [(TrunkMode.DEDICATED, 4), (TrunkMode.SHARED, 2)], indirect=["live"])
def test_a_path_whose_row_was_lost_is_deleted_rule_before_trunk(live: SandboxApp, resources: int) -> None:
    foreign = live.foreign()
    live.console.twilio("POST", _number_path(live), TrunkSid="")
    with live.wiring.sessions.begin() as session:
        session.execute(update(Agent).values(twilio_phone_number=None, phone_provisioning_status="NOT_PROVISIONED"))
    seen = max(each["seq"] for each in live.sandbox.requests())
    audit = live.audit(fix=True)
    assert {(each["code"], each["fixed"]) for each in audit.findings} == {(FindingCode.ORPHAN, "deleted")}
    deletes = [each["operation"] for each in live.sandbox.requests(seen) if "elete" in each["operation"]]
    assert len(deletes) == resources
    assert "ispatch" in deletes[0]
    # The trunk that numbers share stays.
    kept = [one["friendly_name"] for one in live.sandbox.state()["trunks"] if "trunkline" in str(one)]
    assert [is_pool_tag("stage", name) for name in kept] == [True] * (resources == 2)
    assert live.foreign() == foreign


def test_a_young_orphan_is_left_alone(live: SandboxApp) -> None:
    trunk = _orphan_trunk(live)
    audits = replace(live.wiring.audits, orphan_grace=timedelta(hours=1))
    audit = audits.run_audit(audits.request_audit(fix=True, origin=Origin(requested_by="test")))
    assert audit is not None
    assert audit.findings == []
    assert trunk in str(live.sandbox.state()["trunks"])


def test_another_instances_resources_are_left_alone(live: SandboxApp) -> None:
    trunk = _orphan_trunk(live, instance="other")
    inbound = _inbound(live, _mark("other", unknown_agent()))
    assert live.audit(fix=True).findings == []
    assert trunk in str(live.sandbox.state()["trunks"])
    assert inbound in str(live.sandbox.state()["livekitTrunks"])


@pytest.mark.parametrize(("created_at", "is_left"), [(OLD, False), (None, True), ("yesterday", True)])
def test_a_resource_without_creation_time_is_left_alone(
    live: SandboxApp, created_at: str | None, *, is_left: bool
) -> None:
    inbound = _inbound(live, _mark("stage", unknown_agent(), created_at))
    live.audit(fix=True)
    assert (inbound in str(live.sandbox.state()["livekitTrunks"])) is is_left


def test_nothing_of_an_agent_with_an_open_operation_is_deleted(live: SandboxApp) -> None:
    live.sandbox.number(SPARE)
    busy = live.wiring.agents.create("busy", "busy", {}).id
    live.wiring.provisioning.provision(busy, SPARE, takeover=False, origin=Origin())
    live.publisher.plans.clear()
    sid = live.console.twilio("POST", "/v1/Trunks", FriendlyName=tag_of("stage", busy))["sid"]
    assert live.audit(fix=True).findings == []
    assert sid in str(live.sandbox.state()["trunks"])


def test_an_orphan_trunk_with_a_number_is_reported_and_not_deleted(live: SandboxApp) -> None:
    trunk = _orphan_trunk(live)
    live.sandbox.number(SPARE, trunkSid=trunk)
    findings = live.audit(fix=True).findings
    assert [each["fixed"] for each in findings] == ["not deleted: twilio_trunk_in_use"]
    assert trunk in str(live.sandbox.state()["trunks"])
    assert FOREIGN_NUMBER in str(live.sandbox.state()["numbers"])


def test_a_second_url_of_ours_on_our_own_trunk_is_a_duplicate_and_deleted(live: SandboxApp) -> None:
    url = {"SipUrl": "sip:sandbox.sip.livekit.cloud;transport=tcp", "Weight": "1", "Priority": "1", "Enabled": "true"}
    path = f"/v1/Trunks/{live.agent.twilio_trunk_sid}/OriginationUrls"
    sid = live.console.twilio("POST", path, FriendlyName=tag_of("stage", live.agent_id), **url)["sid"]
    (finding,) = live.audit(fix=True).findings
    assert (finding["code"], finding["resource"]["id"], finding["fixed"]) == (FindingCode.TWIN, sid, "deleted")
    assert sid not in str(live.sandbox.state()["originationUrls"])
    assert live.rings() == "front-desk"


def test_a_mark_without_an_agent_id_is_reported_and_its_resource_never_deleted(live: SandboxApp) -> None:
    trunk = live.console.twilio("POST", "/v1/Trunks", FriendlyName="trunkline/stage/written-by-hand")["sid"]
    (finding,) = live.audit(fix=True).findings
    assert (finding["code"], finding["resource"]["id"], finding["fixed"]) == (FindingCode.UNREADABLE, trunk, "")
    assert trunk in str(live.sandbox.state()["trunks"])
    assert live.rings() == "front-desk"
    assert uuid.UUID(str(live.agent_id))
    assert live.agent.twilio_phone_number == NUMBER


def _orphan_rule(live: SandboxApp, metadata: str = "", **fields: object) -> str:
    whole = {"rule": {"dispatch_rule_individual": {"room_prefix": "x"}}, "metadata": metadata, **fields}
    return str(live.console.livekit("CreateSIPDispatchRule", dispatch_rule=whole)["sip_dispatch_rule_id"])


def test_a_rule_left_behind_is_deleted_by_its_name_or_by_its_mark_of_an_earlier_release(
    live: SandboxApp,
) -> None:
    tag, gone = f"trunkline/stage/{unknown_agent()}", ["ST_gone00000000"]
    named = _orphan_rule(live, name=tag, trunk_ids=gone)
    marked = _orphan_rule(live, _mark("stage", unknown_agent()), name="x", trunk_ids=["ST_gone00000001"])
    theirs = [
        _orphan_rule(live, name=f"trunkline/other/{unknown_agent()}", trunk_ids=["ST_gone00000002"]),
        _orphan_rule(live, _mark("other", str(live.agent_id)), name="x", trunk_ids=["ST_gone00000003"]),
        _orphan_rule(live, name=tag, trunk_ids=[live.foreign_trunk()], inbound_numbers=["+15005550001"]),
    ]
    findings = live.audit(fix=True).findings
    assert {(one["resource"]["id"], one["fixed"]) for one in findings} == {(named, "deleted"), (marked, "deleted")}
    left = {one["sip_dispatch_rule_id"] for one in live.sandbox.state()["livekitRules"]}
    assert left >= set(theirs)
    assert not left & {named, marked}
    assert live.rings() == "front-desk"


def test_odd_texts_at_both_providers_make_nothing_fail(live: SandboxApp) -> None:
    """Each is one finding or ignored; audit, verify, dry run, provisioning and inventory go on."""
    odd = set()
    for index, metadata in enumerate(damaged_marks("stage", unknown_agent())):
        trunk = {"name": metadata[:60], "numbers": [f"+1613555{index:04}"], "metadata": metadata}
        odd.add(live.console.livekit("CreateSIPInboundTrunk", trunk=trunk)["sip_trunk_id"])
        odd.add(_orphan_rule(live, metadata, name="theirs too", trunk_ids=[f"ST_odd{index:09}"]))
    path = f"/v1/Trunks/{live.agent.twilio_trunk_sid}/OriginationUrls"
    for uri in MALFORMED_URIS[:8]:
        url = {"SipUrl": uri, "Weight": "1", "Priority": "20", "Enabled": "true", "FriendlyName": "theirs"}
        live.console.twilio("POST", path, **url)
    own = f"{path}/{live.agent.twilio_origination_url_sid}"
    for uri in ("sip:[::1", "sip:x]", "sip:a\uff1a5060", "sip:\0", "sip:\x1bc@evil"):
        live.console.twilio("POST", own, SipUrl=uri)
        for wrong in live.wiring.maintenance.verify(live.agent_id).findings:
            assert wrong.code in {FindingCode.ORIGINATION_HOST_WRONG, FindingCode.ORIGINATION_URL_CHANGED}
            assert (wrong.severity, wrong.detail.isprintable()) == (Severity.CRITICAL, True)
    before = live.foreign()
    audit = live.audit(fix=True)
    unreadable = [one["resource"]["id"] for one in audit.findings if one["code"] == FindingCode.UNREADABLE]
    assert sorted(unreadable) == sorted(odd)
    assert {one["code"] for one in audit.findings} == {FindingCode.UNREADABLE, FindingCode.ORIGINATION_URL_CHANGED}
    assert live.foreign() == before
    assert live.rings() == "front-desk"
    live.sandbox.number(SPARE, voiceUrl="http://\x1b\0[::1")
    other = live.wiring.agents.create("back office", "back-office", {}).id
    assert live.wiring.planning.preview(other, SPARE, takeover=False).would_succeed
    live.wiring.provisioning.provision(other, SPARE, takeover=False, origin=Origin())
    live.drive()
    assert live.sandbox.call(SPARE)["agentName"] == "back-office"
    assert {one.phone_number for one in live.wiring.inventory.of_account().numbers} >= {NUMBER, SPARE}


def _number_path(live: SandboxApp) -> str:
    account = live.wiring.settings.twilio_account_sid
    return f"/2010-04-01/Accounts/{account}/IncomingPhoneNumbers/{live.agent.twilio_phone_number_sid}.json"
