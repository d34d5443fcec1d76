"""Faults that lie: a 404, an empty list or a late list although the objects are there."""

import pytest
from livekit import api
from test_sandbox_faults import NUMBER, create_inbound, create_trunk
from test_sandbox_process import Stage, emptied_stage, eventually
from twilio.base.exceptions import TwilioRestException

from app.dev import sandbox

NUMBERS = f"/2010-04-01/Accounts/{sandbox.ACCOUNT_SID}/IncomingPhoneNumbers"


@pytest.fixture
def stage() -> Stage:
    return emptied_stage()


def test_a_404_that_is_not_true_does_nothing(stage: Stage) -> None:
    client, sid = stage.twilio(), stage.add_number(NUMBER)["sid"]
    trunk = client.trunking.v1.trunks.create(friendly_name="ours")
    on_trunk = client.trunking.v1.trunks(trunk.sid)
    on_trunk.phone_numbers.create(sid)
    url = on_trunk.origination_urls.create(weight=1, priority=1, enabled=True, friendly_name="u", sip_url="sip:h")
    before = stage.control("GET", "state")
    stage.fault("twilio.*", "not_found")
    number, on_url, attached = (
        client.incoming_phone_numbers(sid),
        on_trunk.origination_urls(url.sid),
        on_trunk.phone_numbers(sid),
    )
    for call in (
        number.fetch, number.delete, lambda: number.update(trunk_sid=""), on_trunk.fetch, on_trunk.delete,
        lambda: on_trunk.update(friendly_name="new"), on_url.fetch, on_url.delete, lambda: on_url.update(enabled=False),
        attached.fetch, attached.delete,
    ):  # fmt: skip
        with pytest.raises(TwilioRestException, check=lambda error: (error.status, error.code) == (404, 20404)):
            call()
    assert [row.sid for row in on_trunk.phone_numbers.list()] == [sid]
    assert stage.control("GET", "state") == before


def test_a_404_that_is_not_true_comes_as_often_as_it_is_ordered(stage: Stage) -> None:
    trunk_id = create_inbound(stage).sip_trunk_id
    fault_id = stage.fault("livekit.*", "not_found", times=2)
    for method, field in (("UpdateSIPInboundTrunk", "sip_trunk_id"), ("DeleteSIPTrunk", "sip_trunk_id")):
        answer = stage.twirp(method, {field: trunk_id})
        assert (answer.status_code, answer.json()["msg"]) == (404, "requested sip trunk does not exist")
    assert stage.twirp("GetSIPInboundTrunk", {"sip_trunk_id": trunk_id}).status_code == 200
    assert stage.control("GET", "faults")["faults"][0]["remaining"] == 0
    stage.control("DELETE", f"faults/{fault_id}")
    stage.fault("livekit.*_dispatch_rule", "not_found")
    for method in ("UpdateSIPDispatchRule", "DeleteSIPDispatchRule"):
        answer = stage.twirp(method, {"sip_dispatch_rule_id": "SDR_x"})
        assert (answer.status_code, answer.json()["msg"]) == (404, "requested sip dispatch rule does not exist")


def listed(stage: Stage) -> list[int]:
    """Count what each kind of list shows; three trunks in pages of two, so that an empty page must be the last."""
    client = stage.twilio()
    trunks = client.trunking.v1.trunks.list(page_size=2)
    rules = stage.twirp("ListSIPDispatchRule", {}).json()["items"]
    inbound = stage.livekit(lambda sip: sip.list_inbound_trunk(api.ListSIPInboundTrunkRequest(numbers=[NUMBER]))).items
    return [len(rows) for rows in (client.incoming_phone_numbers.list(), trunks, rules, inbound)]


def make_one_of_each(stage: Stage) -> None:
    stage.add_number(NUMBER)
    for _ in range(3):
        create_trunk(stage)
    rule = {"rule": {"dispatch_rule_individual": {}}, "trunk_ids": [create_inbound(stage).sip_trunk_id]}
    stage.twirp("CreateSIPDispatchRule", {"dispatch_rule": rule})


def test_a_list_may_be_empty_although_the_objects_are_there(stage: Stage) -> None:
    make_one_of_each(stage)
    fault_id = stage.fault("*", "empty_list", times=4)
    assert listed(stage) == [0, 0, 0, 0]
    assert listed(stage) == [1, 3, 1, 1]
    stage.control("DELETE", f"faults/{fault_id}")
    stage.fault("*", "empty_list")
    with pytest.raises(api.ServerError, match="Conflicting inbound"):
        create_inbound(stage)
    assert listed(stage) == [0, 0, 0, 0]


def test_a_late_list_lacks_what_was_made_or_changed_a_moment_ago(stage: Stage) -> None:
    make_one_of_each(stage)
    fault_id = stage.fault("*", "late_list", seconds=60)
    assert listed(stage) == [0, 0, 0, 0]
    sid = stage.control("GET", "state")["numbers"][0]["sid"]
    assert stage.twilio().incoming_phone_numbers(sid).fetch().sid == sid
    stage.control("DELETE", f"faults/{fault_id}")
    stage.fault("*", "late_list", seconds=0.05, reads=True)
    eventually(lambda: listed(stage) == [1, 3, 1, 1])
    client = stage.twilio().incoming_phone_numbers(sid)
    client.update(friendly_name="changed")
    with pytest.raises(TwilioRestException, check=lambda error: error.status == 404):
        client.fetch()
    eventually(lambda: stage.raw_twilio("GET", f"{NUMBERS}/{sid}.json").status_code == 200)
