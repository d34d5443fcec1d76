"""Test calls that go through: a provisioned number, real adapters, and SIP to the sandbox; one per verdict and hop."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from app.db.models import TestCall
from app.domain.calls import AGENT_HOP, CallVerdict
from app.domain.events import Origin
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, NUMBER_ATTACHMENT, ORIGINATION_URL
from app.numbers.test_calls import CallService
from tests.support.sandbox import Sandbox
from tests.support.sandbox_app import SandboxApp, live

__all__ = ["live"]


@pytest.fixture
def rings(request: pytest.FixtureRequest, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> SandboxApp:
    """An application whose number is provisioned towards the sandbox's SIP port, over this transport."""
    uri = str(sandbox.sip()["uri"]).replace("transport=tcp", f"transport={request.param}")
    given = sandbox.settings_with_sip()
    monkeypatch.setattr(sandbox, "settings", lambda: {**given, "LIVEKIT_SIP_URI": uri})
    sandbox.sip(source="54.172.60.0")
    app: SandboxApp = request.getfixturevalue("live")
    return app


def call(app: SandboxApp) -> TestCall:
    """Ask for a call, and place it as a worker does."""
    calls: CallService = app.wiring.calls
    asked = calls.request(app.agent_id, origin=Origin(requested_by="test"))
    ended = calls.run(asked.id)
    assert ended is not None
    return ended


def trunk_id(app: SandboxApp) -> str:
    return str(app.agent.livekit_inbound_trunk_id)


def change_trunk(app: SandboxApp, **fields: Any) -> None:
    number = {"name": "ours", "numbers": [app.number], **fields}
    app.console.livekit("UpdateSIPInboundTrunk", sip_trunk_id=trunk_id(app), replace=number)


def no_worker(app: SandboxApp) -> None:
    app.sandbox.switch(agents=["somebody-else"])
    change_trunk(app, ringing_timeout="2s")


def no_rule(app: SandboxApp) -> None:
    app.console.livekit("DeleteSIPDispatchRule", sip_dispatch_rule_id=app.agent.livekit_dispatch_rule_id)


def no_trunk(app: SandboxApp) -> None:
    no_rule(app)
    app.console.livekit("DeleteSIPTrunk", sip_trunk_id=trunk_id(app))


def other_callers(app: SandboxApp) -> None:
    change_trunk(app, allowed_numbers=["+15145550199"])


def other_addresses(app: SandboxApp) -> None:
    change_trunk(app, allowed_addresses=["198.51.100.0/24"])


def password(app: SandboxApp) -> None:
    change_trunk(app, auth_username="u", auth_password="p")  # of the sandbox


def encryption(app: SandboxApp) -> None:
    change_trunk(app, media_encryption="SIP_MEDIA_ENCRYPT_REQUIRE")


def detached(app: SandboxApp) -> None:
    agent = app.agent
    app.console.twilio("DELETE", f"/v1/Trunks/{agent.twilio_trunk_sid}/PhoneNumbers/{agent.twilio_phone_number_sid}")


def url_disabled(app: SandboxApp) -> None:
    agent = app.agent
    path = f"/v1/Trunks/{agent.twilio_trunk_sid}/OriginationUrls/{agent.twilio_origination_url_sid}"
    app.console.twilio("POST", path, Enabled="false")


CASES: Mapping[str, tuple[Callable[[SandboxApp], None], CallVerdict, str | None]] = {
    "as it was made": (lambda _: None, CallVerdict.ANSWERED, None),
    "no worker has the name": (no_worker, CallVerdict.NO_AGENT, AGENT_HOP),
    "no rule": (no_rule, CallVerdict.NO_ROUTE, DISPATCH_RULE),
    "no LiveKit trunk": (no_trunk, CallVerdict.NO_ROUTE, INBOUND_TRUNK),
    "other callers only": (other_callers, CallVerdict.BLOCKED, INBOUND_TRUNK),
    "other addresses only": (other_addresses, CallVerdict.BLOCKED, INBOUND_TRUNK),
    "a password": (password, CallVerdict.BLOCKED, INBOUND_TRUNK),
    "encryption": (encryption, CallVerdict.FAILED, INBOUND_TRUNK),
    "off the trunk": (detached, CallVerdict.NO_ROUTE, NUMBER_ATTACHMENT),
    "URL disabled": (url_disabled, CallVerdict.NO_ROUTE, ORIGINATION_URL),
}


TRANSPORTS = ("tcp", "udp")

EACH_ONCE = [(TRANSPORTS[place % 2], case) for place, case in enumerate(CASES)]
"""Every case, over one transport or the other: what differs between them, tests/contract/test_probed_calls.py tries."""

THE_OTHERS = [(TRANSPORTS[1 - place % 2], case) for place, case in enumerate(CASES)]


@pytest.mark.parametrize(("rings", "case"), EACH_ONCE, indirect=["rings"])
def test_what_a_caller_would_meet_is_the_verdict(rings: SandboxApp, case: str) -> None:
    assert_verdict(rings, case)


@pytest.mark.sweep
@pytest.mark.parametrize(("rings", "case"), THE_OTHERS, indirect=["rings"])
def test_the_verdict_is_the_same_over_the_other_transport(rings: SandboxApp, case: str) -> None:
    assert_verdict(rings, case)


def assert_verdict(rings: SandboxApp, case: str) -> None:
    change, verdict, hop = CASES[case]
    change(rings)
    ended = call(rings)
    assert (ended.verdict, ended.hop) == (verdict, hop), ended.detail
    assert ended.detail
    if verdict in {CallVerdict.ANSWERED, CallVerdict.NO_AGENT}:
        assert ended.room is not None
        assert (ended.room["trunk_id"], ended.room["rule_id"]) == (
            rings.agent.livekit_inbound_trunk_id,
            rings.agent.livekit_dispatch_rule_id,
        )
        assert ended.room["agents"] == ["front-desk"]
    standing = [one for one in rings.sandbox.sip()["calls"] if one["to"] == rings.number and one["endedBy"] is None]
    assert not standing
