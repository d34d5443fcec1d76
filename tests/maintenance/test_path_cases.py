"""Nine situations from real use, each as it was met: what was wrong then is right now.

| case | situation | tests beside those of this module |
|---|---|---|
| P1 | a number in use by a voice URL | `test_dry_run`, `test_inventory` |
| P2 | foreign trunks that contradict each other | `test_dry_run`, `contract/test_foreign_conflicts` |
| P3 | settings of operators | `test_kept_settings`, `contract/test_kept_through_repairs` |
| P4 | regions without the sub-resource of a trunk | `unit/test_steps`, `integration/test_runner_errors` |
| P5 | SIP URIs in another form, and through an edge | `unit/test_sip_uris`, `unit/test_settings` |
| P6 | a PIN on our own rule, and all else that stops calls | `test_single_changes` |
| P7 | the transfer mode | `test_single_changes` |
| P8 | an account with more trunks than a hundred | `integration/test_headroom` |
| P9 | one cause, one obstacle | `test_dry_run` |
"""

from datetime import timedelta

import pytest
from livekit.protocol import sip

from app.dev.sandbox.twilio_wire import trunk_record
from app.domain.errors import ErrorCode
from app.domain.events import Origin
from app.domain.findings import Callers, FindingCode, Severity
from app.domain.operations import DISPATCH_RULE, NUMBER, PhoneStatus
from app.domain.sip_uris import parse_sip_uri
from app.wiring import Wiring
from tests.support.changed_path import (
    PHONE_NUMBER,
    PRESET,
    ChangedPath,
    OwnSandbox,
    by_hand,
    new_agent,
    new_path,
    reaches,
)

FLOW = "https://flows.example.com/v1/Accounts/AC1/Flows/FW1"
Changing = tuple[OwnSandbox, Wiring]


def answered(path: ChangedPath) -> bool:
    return all(map(reaches, path.calls().values()))


def _set_eight(path: ChangedPath) -> None:
    def on_trunk(info: sip.SIPInboundTrunkInfo) -> None:
        info.krisp_enabled = True
        info.headers_to_attributes["X-Ticket"] = "ticket"
        info.max_call_duration.FromSeconds(1800)
        info.ringing_timeout.FromSeconds(60)

    def on_rule(info: sip.SIPDispatchRuleInfo) -> None:
        info.hide_phone_number = True
        info.attributes["team"] = "support"
        info.krisp_enabled = True
        info.room_preset = PRESET
        info.room_config.agents.add(agent_name="recorder")

    path.change_inbound(on_trunk)
    path.change_rule(on_rule)


def test_p3_a_second_agent_and_eight_settings_are_no_finding_and_outlive_a_move(changing: Changing) -> None:
    path = new_path(*changing)
    _set_eight(path)
    before = by_hand(path)
    assert path.findings() == []
    other = path.wiring.agents.create("back office", "back-office", {}).id
    path.wiring.maintenance.move(path.agent_id, other, origin=Origin())
    path.drive()
    path.agent_id = other
    assert by_hand(path) == before
    assert path.rule().room_preset == PRESET
    assert [agent.agent_name for agent in path.rule().room_config.agents] == ["back-office", "recorder"]
    assert path.findings() == []


def test_p4_a_region_without_the_sub_resource_is_provisioned_and_taken_down(changing: Changing) -> None:
    path = new_agent(*changing)
    path.sandbox.switch(trunkSubresource=False)
    path.provision()
    assert (path.findings(), answered(path)) == ([], True)
    number_sid = path.ours(NUMBER)
    path.wiring.provisioning.deprovision(path.agent_id, origin=Origin())
    path.drive()
    assert path.agent.phone_provisioning_status is PhoneStatus.NOT_PROVISIONED
    assert path.sandbox.inside.store.numbers.rows[number_sid]["trunk_sid"] is None


FORMS = (
    "sip:{};transport=tcp;edge=dublin",
    "sip:{};EDGE=Dublin;transport=tcp",
    "sip:{};transport=TCP",
    " sip:{};transport=tcp  ",
    "SIP:{};transport=tcp",
    "sip:{}:5060;transport=tcp",
    "sip:{}.;transport=tcp",
)


@pytest.mark.parametrize("form", FORMS)
def test_p5_a_url_that_means_the_same_is_left_as_it_is(form: str, changing: Changing) -> None:
    path = new_path(*changing)
    text = form.format(path.spec.profile.sip_uri.host)
    record = path.sandbox.inside.store.origination_urls.rows[path.ours("twilio_origination_url")]
    path.put("origination_urls", record["sid"], {**record, "sip_url": text})
    assert (path.findings(), answered(path)) == ([], True)
    path.audit(fix=True)
    assert path.sandbox.inside.store.origination_urls.rows[record["sid"]]["sip_url"] == text


def test_p5_an_edge_that_the_setting_names_is_written(changing: Changing) -> None:
    sandbox, wiring = changing
    host = wiring.settings.livekit_sip_uri.host
    path = new_path(sandbox, wiring, sip_uri=parse_sip_uri(f"sip:{host};transport=tcp;edge=dublin"))
    (url,) = path.sandbox.state()["originationUrls"]
    assert url["sip_url"] == f"sip:{host};transport=tcp;edge=dublin"
    assert (path.findings(), answered(path)) == ([], True)


def test_p6_a_pin_on_our_own_rule_is_found_and_taken_off(changing: Changing) -> None:
    path = new_path(*changing)
    path.change_rule(lambda info: setattr(info.rule.dispatch_rule_individual, "pin", "1234"))
    (finding,) = path.findings()
    assert (finding.code, finding.severity, finding.callers) == (FindingCode.RULE_PIN, Severity.CRITICAL, Callers.ALL)
    assert finding.resource == (DISPATCH_RULE, path.ours(DISPATCH_RULE))
    assert "1234" not in str(finding)
    path.audit(fix=True)
    assert (path.findings(), answered(path)) == ([], True)


@pytest.mark.parametrize("mode", ["enable-all", "sip-only"])
def test_p7_a_trunk_is_made_with_the_transfer_mode_of_the_setting(mode: str, changing: Changing) -> None:
    path = new_path(*changing, transfer_mode=mode)
    trunk = path.sandbox.inside.store.trunks.rows[path.ours("twilio_trunk")]
    assert trunk["transfer_mode"] == mode
    path.change_trunk(TransferMode="disable-all")
    assert [finding.code for finding in path.findings()] == [FindingCode.TRUNK_CHANGED]
    path.audit(fix=True)
    assert path.sandbox.inside.store.trunks.rows[trunk["sid"]]["transfer_mode"] == mode
    assert path.findings() == []


def test_p7_without_the_setting_the_transfer_mode_is_left_to_operators(changing: Changing) -> None:
    path = new_path(*changing)
    path.change_trunk(TransferMode="sip-only")
    assert path.findings() == []


@pytest.mark.parametrize("limit", [100, 120])
def test_p8_the_account_says_how_many_trunks_there_may_be(limit: int, changing: Changing) -> None:
    path = new_agent(*changing, trunk_limit=limit)
    path.sandbox.switch(trunkLimit=limit)
    for _ in range(112):
        record = trunk_record(path.wiring.settings.twilio_account_sid)
        path.put("trunks", record["sid"], record)
    preview = path.wiring.planning.preview(path.agent_id, PHONE_NUMBER, takeover=False)
    codes = [obstacle.code for obstacle in preview.obstacles if obstacle.blocks]
    assert codes == ([] if limit > 112 else [ErrorCode.TWILIO_TRUNK_LIMIT])
    operation = path.wiring.provisioning.provision(path.agent_id, PHONE_NUMBER, takeover=False, origin=Origin())
    path.drive()
    done = path.agent.phone_provisioning_status is PhoneStatus.PROVISIONED
    assert (done, preview.would_succeed) == (limit > 112, limit > 112)
    if not done:
        assert path.wiring.provisioning.wait(operation.id, timedelta()).error_code == ErrorCode.TWILIO_TRUNK_LIMIT
