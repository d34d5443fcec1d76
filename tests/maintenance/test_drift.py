"""Each finding: caused at a provider, reported by the audit, fixed by --fix; then a call gets through."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from app.db.models import Audit
from app.domain.events import Origin
from app.domain.findings import FINDING_KINDS, AuditStatus, FindingCode, Fix, Health
from app.domain.operations import PhoneStatus
from app.path.marks import tag_of
from tests.support.providers import WorkerDiedError
from tests.support.sandbox_app import NUMBER, SandboxApp, unknown_agent

Deed = Callable[[SandboxApp], object]
ACCOUNT = "AC00000000000000000000000000000001"
_Code = FindingCode


def _url(live: SandboxApp) -> str:
    return f"/v1/Trunks/{live.agent.twilio_trunk_sid}/OriginationUrls/{live.agent.twilio_origination_url_sid}"


def _trunk(live: SandboxApp) -> str:
    return f"/v1/Trunks/{live.agent.twilio_trunk_sid}"


def _number(live: SandboxApp) -> str:
    return f"/2010-04-01/Accounts/{ACCOUNT}/IncomingPhoneNumbers/{live.agent.twilio_phone_number_sid}.json"


def _inbound(live: SandboxApp, **update: object) -> object:
    call = "UpdateSIPInboundTrunk"
    return live.console.livekit(call, sip_trunk_id=live.agent.livekit_inbound_trunk_id, update=update)


def _rule(live: SandboxApp, **changes: object) -> None:
    whole = {
        "name": tag_of("stage", live.agent_id),
        "trunk_ids": [live.agent.livekit_inbound_trunk_id],
        "room_config": {"agents": [{"agent_name": "front-desk", "metadata": json.dumps(live.agent.agent_metadata)}]},
    }
    live.console.rule(str(live.agent.livekit_dispatch_rule_id), **{**whole, **changes})


def _move_away(live: SandboxApp) -> None:
    trunk = live.console.twilio("POST", "/v1/Trunks", FriendlyName="also theirs")["sid"]
    number_sid = str(live.agent.twilio_phone_number_sid)
    live.console.twilio("POST", f"/v1/Trunks/{trunk}/PhoneNumbers", PhoneNumberSid=number_sid)


def _media(live: SandboxApp, encryption: str) -> object:
    return _inbound(live, media={"encryption": encryption})


def _url_before_ours(live: SandboxApp) -> None:
    fields = {"FriendlyName": "theirs", "SipUrl": "sip:elsewhere.example", "Weight": "1", "Enabled": "true"}
    live.console.twilio("POST", f"{_trunk(live)}/OriginationUrls", Priority="0", **fields)


def _foreign_rule(live: SandboxApp, **fields: object) -> str:
    kind = {"dispatch_rule_individual": {"room_prefix": "theirs"}}
    rule = {"name": "theirs", "rule": kind, "trunk_ids": [live.agent.livekit_inbound_trunk_id], **fields}
    return str(live.console.livekit("CreateSIPDispatchRule", dispatch_rule=rule)["sip_dispatch_rule_id"])


def _contradict(live: SandboxApp) -> None:
    """Let a foreign rule name our trunk and no number: LiveKit does not look where an update moves a rule to."""
    rule_id = _foreign_rule(live, trunk_ids=["ST_abcdefghijkm"])
    update = {"trunk_ids": {"set": [live.agent.livekit_inbound_trunk_id]}}
    live.console.livekit("UpdateSIPDispatchRule", sip_dispatch_rule_id=rule_id, update=update)


def _foreign_inbound(live: SandboxApp) -> None:
    trunk = {"name": "theirs too", "numbers": [NUMBER], "allowed_numbers": ["+15005550001"]}
    live.console.livekit("CreateSIPInboundTrunk", trunk=trunk)


def _catch_all(live: SandboxApp) -> None:
    kind = {"dispatch_rule_individual": {"room_prefix": "all"}}
    live.console.livekit("CreateSIPDispatchRule", dispatch_rule={"name": "all", "rule": kind})


def _delete_rule(live: SandboxApp) -> object:
    return live.console.livekit("DeleteSIPDispatchRule", sip_dispatch_rule_id=live.agent.livekit_dispatch_rule_id)


DEEDS: dict[FindingCode, Deed] = {
    _Code.NUMBER_GONE: lambda live: live.console.twilio("DELETE", _number(live)),
    _Code.NUMBER_DETACHED: lambda live: live.console.twilio("POST", _number(live), TrunkSid=""),
    _Code.NUMBER_MOVED: _move_away,
    _Code.NUMBER_NO_VOICE: lambda live: live.console.twilio("POST", _number(live), VoiceReceiveMode="fax"),
    _Code.TRUNK_GONE: lambda live: live.console.twilio("DELETE", _trunk(live)),
    _Code.TRUNK_SECURE: lambda live: live.console.twilio("POST", _trunk(live), Secure="true"),
    _Code.TRUNK_FOREIGN_NUMBER: lambda live: live.sandbox.number("+15145550044", trunkSid=live.agent.twilio_trunk_sid),
    _Code.ORIGINATION_URL_MISSING: lambda live: live.console.twilio("DELETE", _url(live)),
    _Code.ORIGINATION_URL_DISABLED: lambda live: live.console.twilio("POST", _url(live), Enabled="false"),
    _Code.ORIGINATION_URL_CHANGED: lambda live: live.console.twilio(
        "POST", _url(live), SipUrl="sip:sandbox.sip.livekit.cloud;transport=udp"
    ),
    _Code.ORIGINATION_HOST_WRONG: lambda live: live.console.twilio(
        "POST", _url(live), SipUrl="sip:elsewhere.example;transport=tcp"
    ),
    _Code.ORIGINATION_URL_OVERRIDDEN: _url_before_ours,
    _Code.LIVEKIT_TRUNK_GONE: lambda live: live.console.livekit(
        "DeleteSIPTrunk", sip_trunk_id=live.agent.livekit_inbound_trunk_id
    ),
    _Code.LIVEKIT_TRUNK_LOST_NUMBER: lambda live: _inbound(live, numbers={"set": ["+15145550077"]}),
    _Code.LIVEKIT_TRUNK_CHANGED: lambda live: _inbound(live, auth_username="user", auth_password="password"),
    _Code.LIVEKIT_TRUNK_CALLERS: lambda live: _inbound(live, allowed_numbers={"set": ["+12025550123"]}),
    _Code.LIVEKIT_TRUNK_OPEN: lambda live: _inbound(live, allowed_addresses={"set": ["0.0.0.0/0"]}),
    _Code.LIVEKIT_TRUNK_ENCRYPTION: lambda live: _media(live, "SIP_MEDIA_ENCRYPT_REQUIRE"),
    _Code.LIVEKIT_TRUNK_FOREIGN: _foreign_inbound,
    _Code.RULE_GONE: _delete_rule,
    _Code.RULE_DEAD_TRUNK: lambda live: _rule(live, trunk_ids=["ST_abcdefghijkm"]),
    _Code.RULE_LOST_AGENT: lambda live: _rule(live, room_config={}),
    _Code.RULE_WILDCARD: lambda live: _rule(live, trunk_ids=[]),
    _Code.RULE_FILTERED: lambda live: _rule(live, inbound_numbers=["+15005550001"]),
    _Code.RULE_PIN: lambda live: _rule(live, rule={"dispatch_rule_individual": {"room_prefix": "call", "pin": "99"}}),
    _Code.RULE_ENCRYPTION: lambda live: _rule(live, media={"encryption": "SIP_MEDIA_ENCRYPT_REQUIRE"}),
    _Code.RULE_PRESET: lambda live: _rule(live, room_preset="studio"),
    _Code.RULE_CHANGED: lambda live: _rule(live, rule={"dispatch_rule_direct": {"room_name": "desk"}}),
    _Code.RULE_OVERRIDDEN: lambda live: _foreign_rule(live, numbers=[NUMBER]),
    _Code.RULE_CONFLICT: _contradict,
    _Code.RULE_FOREIGN_CATCH_ALL: _catch_all,
    _Code.MARK_LOST: lambda live: live.console.twilio("POST", _trunk(live), FriendlyName=""),
    _Code.TWIN: lambda live: live.console.twilio("POST", "/v1/Trunks", FriendlyName=tag_of("stage", live.agent_id)),
    _Code.ORPHAN: lambda live: live.console.twilio(
        "POST", "/v1/Trunks", FriendlyName=f"trunkline/stage/{unknown_agent()}"
    ),
    _Code.UNREADABLE: lambda live: live.console.twilio("POST", "/v1/Trunks", FriendlyName="trunkline/stage/by-hand"),
}
HARMLESS = {
    _Code.TRUNK_FOREIGN_NUMBER,
    _Code.ORIGINATION_URL_CHANGED,
    _Code.LIVEKIT_TRUNK_OPEN,
    _Code.LIVEKIT_TRUNK_FOREIGN,
    _Code.RULE_WILDCARD,
    _Code.RULE_CHANGED,
    _Code.RULE_FOREIGN_CATCH_ALL,
    _Code.MARK_LOST,
    _Code.TWIN,
    _Code.ORPHAN,
}
"""Findings that do not stop calls here."""

ELSEWHERE = {_Code.TRUNK_CHANGED}
"""Needs a profile of its own, as in the tables of single changes."""

FIXABLE = [code for code in DEEDS if FINDING_KINDS[code].fix in {Fix.REPAIR, Fix.DELETE}]
DECIDED = [code for code in DEEDS if code not in FIXABLE]


def test_every_finding_code_is_caused_here() -> None:
    assert set(DEEDS) == set(FindingCode) - ELSEWHERE


def test_an_unchanged_path_is_in_sync(live: SandboxApp) -> None:
    audit = live.audit(fix=True)
    assert (audit.findings, audit.agents_checked) == ([], 1)
    assert live.agent.health_state is Health.IN_SYNC


@pytest.mark.sweep
@pytest.mark.parametrize("code", FIXABLE)
def test_drift_is_reported_and_fixed_and_a_call_gets_through(live: SandboxApp, code: FindingCode) -> None:
    foreign = live.foreign()
    DEEDS[code](live)
    if code not in HARMLESS:
        assert live.rings() is None
    seen = live.audit()
    assert code in {finding["code"] for finding in seen.findings}
    if FINDING_KINDS[code].fix is Fix.REPAIR:
        assert live.agent.health_state is Health.DRIFTED
        assert code in {finding["code"] for finding in live.agent.health_findings}
    fixed = live.audit(fix=True)
    assert all(finding["fixed"] for finding in fixed.findings)
    assert live.rings() == "front-desk"
    assert live.audit().findings == []
    assert live.agent.health_state is Health.IN_SYNC
    _assert_one_set(live)
    assert live.foreign() == foreign


@pytest.mark.sweep
@pytest.mark.parametrize("code", DECIDED)
def test_what_is_not_ours_is_reported_and_left_alone(live: SandboxApp, code: FindingCode) -> None:
    DEEDS[code](live)
    before = live.sandbox.state()
    audit = live.audit(fix=True)
    assert code in {finding["code"] for finding in audit.findings}
    assert live.sandbox.state() == before
    assert live.agent.phone_provisioning_status is PhoneStatus.PROVISIONED


def test_a_number_that_was_moved_is_taken_back_with_takeover(live: SandboxApp) -> None:
    _move_away(live)
    assert live.wiring.maintenance.repair(live.agent_id, takeover=True, origin=Origin()).operation
    live.drive()
    assert live.rings() == "front-desk"
    assert live.audit().findings == []


def test_an_audit_whose_worker_died_is_run_by_the_next_worker(
    live: SandboxApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_: object) -> None:
        raise WorkerDiedError

    audits = live.wiring.audits
    audit_id = audits.request_audit(fix=False, origin=Origin(requested_by="test"))
    with monkeypatch.context() as patch:
        patch.setattr(live.wiring.carrier, "list_numbers", die)
        with pytest.raises(WorkerDiedError):
            audits.run_audit(audit_id)
    assert audits.take_due() == []
    with live.wiring.sessions.begin() as session:
        session.get_one(Audit, audit_id).lease_until = datetime.now(UTC) - timedelta(seconds=1)
    assert audits.take_due() == [audit_id]
    audit = audits.run_audit(audit_id)
    assert audit is not None
    assert audit.status is AuditStatus.DONE


def test_what_somebody_wrote_at_a_console_is_quoted_without_its_number(live: SandboxApp) -> None:
    path = f"/v1/Trunks/{live.agent.twilio_trunk_sid}/OriginationUrls/{live.agent.twilio_origination_url_sid}"
    live.console.twilio("POST", path, SipUrl=f"sip:{NUMBER}@elsewhere.example.com")
    (finding,) = live.audit().findings
    assert finding["detail"] == "It is sip:********1234@elsewhere.example.com."


def _assert_one_set(live: SandboxApp) -> None:
    for kind in ("trunks", "originationUrls", "livekitTrunks", "livekitRules"):
        assert sum(map(live.is_ours, live.sandbox.state()[kind])) == 1, kind
