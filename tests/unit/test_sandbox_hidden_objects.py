"""Faults that hide existing objects: a false 404, an empty list or a late list."""

import pytest
from livekit import api
from test_sandbox_faults import NUMBER, create_inbound, create_trunk
from test_sandbox_process import RunningSandbox, emptied_sandbox, eventually
from twilio.base.exceptions import TwilioRestException

from app.dev import sandbox as defaults

NUMBERS = f"/2010-04-01/Accounts/{defaults.ACCOUNT_SID}/IncomingPhoneNumbers"


@pytest.fixture
def sandbox() -> RunningSandbox:
    return emptied_sandbox()


def test_a_false_404_changes_nothing(sandbox: RunningSandbox) -> None:
    client, sid = sandbox.twilio(), sandbox.add_number(NUMBER)["sid"]
    trunk = client.trunking.v1.trunks.create(friendly_name="ours")
    on_trunk = client.trunking.v1.trunks(trunk.sid)
    on_trunk.phone_numbers.create(sid)
    url = on_trunk.origination_urls.create(weight=1, priority=1, enabled=True, friendly_name="u", sip_url="sip:h")
    before = sandbox.control("GET", "state")
    sandbox.fault("twilio.*", "not_found")
    number, on_url, attached = (
        client.incoming_phone_numbers(sid),
        on_trunk.origination_urls(url.sid),
        on_trunk.phone_numbers(sid),
    )
    for call in (
        number.fetch, number.delete, lambda: number.update(trunk_sid=""), on_trunk.fetch, on_trunk.delete,
        lambda: on_trunk.update(friendly_name="new"), on_url.fetch, on_url.delete, lambda: on_url.update(enabled=False),
        attached.fetch, attached.delete, lambda: on_trunk.phone_numbers.create(sid),
        lambda: on_trunk.origination_urls.create(
            weight=1, priority=1, enabled=True, friendly_name="u", sip_url="sip:h"
        ),
    ):  # fmt: skip
        with pytest.raises(TwilioRestException, check=lambda error: (error.status, error.code) == (404, 20404)):
            call()
    assert [row.sid for row in on_trunk.phone_numbers.list()] == [sid]
    assert sandbox.control("GET", "state") == before


def test_a_false_404_comes_as_often_as_the_fault_says(sandbox: RunningSandbox) -> None:
    trunk_id = create_inbound(sandbox).sip_trunk_id
    fault_id = sandbox.fault("livekit.*", "not_found", times=2)
    for method, field in (("UpdateSIPInboundTrunk", "sip_trunk_id"), ("DeleteSIPTrunk", "sip_trunk_id")):
        answer = sandbox.twirp(method, {field: trunk_id})
        assert (answer.status_code, answer.json()["msg"]) == (404, "requested sip trunk does not exist")
    assert sandbox.twirp("GetSIPInboundTrunk", {"sip_trunk_id": trunk_id}).status_code == 200
    assert sandbox.control("GET", "faults")["faults"][0]["remaining"] == 0
    sandbox.control("DELETE", f"faults/{fault_id}")
    sandbox.fault("livekit.*_dispatch_rule", "not_found")
    for method in ("UpdateSIPDispatchRule", "DeleteSIPDispatchRule"):
        answer = sandbox.twirp(method, {"sip_dispatch_rule_id": "SDR_x"})
        assert (answer.status_code, answer.json()["msg"]) == (404, "requested sip dispatch rule does not exist")


def listed(sandbox: RunningSandbox) -> list[int]:
    """Count what each kind of list shows; three trunks in pages of two, so that an empty page must be the last."""
    client = sandbox.twilio()
    trunks = client.trunking.v1.trunks.list(page_size=2)
    rules = sandbox.twirp("ListSIPDispatchRule", {}).json()["items"]
    inbound = sandbox.livekit(
        lambda sip: sip.list_inbound_trunk(api.ListSIPInboundTrunkRequest(numbers=[NUMBER]))
    ).items
    return [len(rows) for rows in (client.incoming_phone_numbers.list(), trunks, rules, inbound)]


def make_one_of_each(sandbox: RunningSandbox) -> None:
    sandbox.add_number(NUMBER)
    for _ in range(3):
        create_trunk(sandbox)
    rule = {"rule": {"dispatch_rule_individual": {}}, "trunk_ids": [create_inbound(sandbox).sip_trunk_id]}
    sandbox.twirp("CreateSIPDispatchRule", {"dispatch_rule": rule})


def test_a_list_may_be_empty_although_the_objects_exist(sandbox: RunningSandbox) -> None:
    make_one_of_each(sandbox)
    fault_id = sandbox.fault("*", "empty_list", times=4)
    assert listed(sandbox) == [0, 0, 0, 0]
    assert listed(sandbox) == [1, 3, 1, 1]
    sandbox.control("DELETE", f"faults/{fault_id}")
    sandbox.fault("*", "empty_list")
    with pytest.raises(api.ServerError, match="Conflicting inbound"):
        create_inbound(sandbox)
    assert listed(sandbox) == [0, 0, 0, 0]


def test_a_late_list_lacks_what_was_created_or_changed_a_moment_ago(sandbox: RunningSandbox) -> None:
    make_one_of_each(sandbox)
    fault_id = sandbox.fault("*", "late_list", seconds=60)
    assert listed(sandbox) == [0, 0, 0, 0]
    sid = sandbox.control("GET", "state")["numbers"][0]["sid"]
    assert sandbox.twilio().incoming_phone_numbers(sid).fetch().sid == sid
    sandbox.control("DELETE", f"faults/{fault_id}")
    sandbox.fault("*", "late_list", seconds=0.05, reads=True)
    eventually(lambda: listed(sandbox) == [1, 3, 1, 1])
    client = sandbox.twilio().incoming_phone_numbers(sid)
    client.update(friendly_name="changed")
    with pytest.raises(TwilioRestException, check=lambda error: error.status == 404):
        client.fetch()
    eventually(lambda: sandbox.raw_twilio("GET", f"{NUMBERS}/{sid}.json").status_code == 200)


def test_nothing_is_made_beneath_a_trunk_that_is_not_shown_yet(sandbox: RunningSandbox) -> None:
    sid, client = sandbox.add_number(NUMBER)["sid"], sandbox.twilio()
    fault_id = sandbox.fault("*", "late_list", seconds=60, reads=True)
    numbers = client.trunking.v1.trunks(client.trunking.v1.trunks.create(friendly_name="ours").sid).phone_numbers
    with pytest.raises(TwilioRestException, check=lambda error: (error.status, error.code) == (404, 20404)):
        numbers.create(sid)
    sandbox.control("DELETE", f"faults/{fault_id}")
    assert numbers.create(sid).sid == sid
