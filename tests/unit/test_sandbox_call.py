"""A call through the sandbox: every way to break the path gives its own reason."""

from typing import Any

import pytest
from livekit import api
from livekit.protocol.models import ListUpdate
from test_sandbox_process import RunningSandbox, emptied_sandbox

N = "+15145551234"
APPLICATION = "AP" + "a" * 32
SIP_URL = "sip:sandbox.sip.livekit.cloud;transport=tcp"
HOPS = ["twilioNumber", "twilioTrunk", "originationUrl", "livekitTrunk", "dispatchRule", "agent"]


class Path:
    """A whole path, built with the two SDKs, to be broken in one place."""

    def __init__(self, sandbox: RunningSandbox) -> None:
        self.sandbox = sandbox
        self.number = sandbox.add_number(N)["sid"]
        self.trunk = sandbox.twilio().trunking.v1.trunks.create(friendly_name="ours").sid
        self.on_trunk = sandbox.twilio().trunking.v1.trunks(self.trunk)
        self.url = self.add_url(SIP_URL)
        self.on_trunk.phone_numbers.create(self.number)
        self.inbound = self.add_inbound(numbers=[N])
        self.rule = self.add_rule([self.inbound])

    def add_url(self, sip_url: str, priority: int = 1) -> str:
        fields = {"weight": 1, "priority": priority, "enabled": True, "friendly_name": "f", "sip_url": sip_url}
        return self.on_trunk.origination_urls.create(**fields).sid

    def add_inbound(self, **fields: Any) -> str:
        request = api.CreateSIPInboundTrunkRequest(trunk=api.SIPInboundTrunkInfo(**fields))
        return self.sandbox.livekit(lambda sip: sip.create_inbound_trunk(request)).sip_trunk_id

    def replace_inbound(self, **fields: Any) -> None:
        info = api.SIPInboundTrunkInfo(**{"numbers": [N], **fields})
        self.sandbox.livekit(lambda sip: sip.update_inbound_trunk(self.inbound, info))

    def info(self, trunk_ids: list[str], agent: str = "inbound-agent", **fields: Any) -> api.SIPDispatchRuleInfo:
        agents = [api.RoomAgentDispatch(agent_name=agent)] if agent else []
        individual = api.SIPDispatchRuleIndividual(pin=fields.pop("pin", ""))
        rule = api.SIPDispatchRule(dispatch_rule_individual=individual)
        config = api.RoomConfiguration(agents=agents)
        return api.SIPDispatchRuleInfo(rule=rule, trunk_ids=trunk_ids, room_config=config, **fields)

    def add_rule(self, trunk_ids: list[str], **fields: Any) -> str:
        request = api.CreateSIPDispatchRuleRequest(dispatch_rule=self.info(trunk_ids, **fields))
        return self.sandbox.livekit(lambda sip: sip.create_dispatch_rule(request)).sip_dispatch_rule_id

    def replace_rule(self, **fields: Any) -> None:
        info = self.info([self.inbound], **fields)
        self.sandbox.livekit(lambda sip: sip.update_dispatch_rule(self.rule, info))

    def serve_by(self, server: str) -> None:
        """Have calls taken by LiveKit Cloud, or by an open-source server."""
        self.sandbox.control("PUT", "switches", {"livekitServer": server})

    def call(self, **parameters: Any) -> dict[str, Any]:
        query = "&".join(f"{name}={value.replace('+', '%2B')}" for name, value in {"to": N, **parameters}.items())
        return self.sandbox.control("GET", f"call?{query}")

    def ends_at(self, hop: str, *words: str) -> bool:
        """Say whether the call ends at a hop, for a reason that contains this text."""
        call = self.call()
        assert not call["reaches"]
        assert call["agentName"] is None
        assert [step["hop"] for step in call["path"]] == HOPS[: HOPS.index(hop) + 1]
        assert [step["ok"] for step in call["path"]] == [True] * HOPS.index(hop) + [False]
        assert all(word in call["reason"] for word in words), call["reason"]
        return True


@pytest.fixture
def sandbox() -> RunningSandbox:
    return emptied_sandbox()


@pytest.fixture
def path(sandbox: RunningSandbox) -> Path:
    return Path(sandbox)


def test_a_whole_path_reaches_the_agent(path: Path) -> None:
    call = path.call()
    assert (call["reaches"], call["agentName"], call["reason"]) == (True, "inbound-agent", "")
    ids = [path.number, path.trunk, path.url, path.inbound, path.rule, "inbound-agent"]
    assert [(step["hop"], step["id"], step["ok"]) for step in call["path"]] == [
        (hop, resource_id, True) for hop, resource_id in zip(HOPS, ids, strict=True)
    ]


def test_a_number_of_nobody_reaches_nobody(sandbox: RunningSandbox) -> None:
    call = sandbox.control("GET", "call?to=%2B19995550000")
    assert (call["reaches"], len(call["path"])) == (False, 1)


@pytest.mark.parametrize(
    "query",
    ["", "source=54.172.60.0", "to=1&source=54.172.60.4", "to=1&source=x", "to=1&source=::1", "to=1&roll=1"]
    + [f"to=1&roll={roll}" for roll in ("-0.1", "x", "nan", "")],
)
def test_a_call_that_cannot_be_is_refused(sandbox: RunningSandbox, query: str) -> None:
    assert "error" in sandbox.control("GET", f"call?{query}", status=400)


def test_a_call_may_come_from_another_caller_address_and_draw(path: Path) -> None:
    path.replace_inbound(allowed_addresses=["177.71.206.195"], allowed_numbers=["+13105550100"])
    path.add_url("sip:elsewhere.example.com")
    call = {"from": "+13105550100", "source": "177.71.206.195"}
    assert path.call(**call)["status"] == 200
    assert not path.call(**{**call, "from": "+13105550101"})["reaches"]
    assert not path.call(**{**call, "source": "177.71.206.194"})["reaches"]
    assert path.call(**call, roll="0.4")["reaches"]
    assert not path.call(**call, roll="0.5")["reaches"]


def test_a_detached_number_uses_its_other_routing(path: Path) -> None:
    path.on_trunk.phone_numbers(path.number).delete()
    assert path.ends_at("twilioNumber", "on no trunk", "nothing answers")
    path.sandbox.twilio().incoming_phone_numbers(path.number).update(voice_application_sid=APPLICATION)
    assert path.ends_at("twilioNumber", APPLICATION)


def test_a_number_without_voice_reaches_nobody(path: Path) -> None:
    path.sandbox.twilio().incoming_phone_numbers(path.number).update(voice_receive_mode="fax")
    assert path.ends_at("twilioNumber", "voice")


def test_without_an_enabled_origination_url_the_call_ends(path: Path) -> None:
    path.on_trunk.origination_urls(path.url).update(enabled=False)
    assert path.ends_at("originationUrl", "32010")
    path.on_trunk.origination_urls(path.url).delete()
    assert path.ends_at("originationUrl", "32010")


def test_an_origination_url_must_lead_to_the_project(path: Path) -> None:
    path.on_trunk.origination_urls(path.url).update(sip_url="sip:other.sip.livekit.cloud;transport=tcp")
    assert path.ends_at("originationUrl", "SIP host")


def test_the_user_of_an_origination_url_is_who_is_called(path: Path) -> None:
    path.on_trunk.origination_urls(path.url).update(sip_url="sip:agent@sandbox.sip.livekit.cloud")
    assert path.ends_at("livekitTrunk", "no trunk has the number agent")
    path.replace_inbound(numbers=["agent"])
    assert path.call()["reaches"]


def test_another_host_answers_the_call_or_gives_no_answer_as_the_switch_says(path: Path) -> None:
    path.add_url("sip:elsewhere.example.com", priority=0)
    assert path.ends_at("originationUrl", "elsewhere.example.com")
    path.sandbox.control("PUT", "switches", {"otherSipHosts": "silent"})
    assert path.call()["reaches"]


@pytest.mark.parametrize("sip_url", ["sip:SANDBOX.sip.livekit.cloud:5060", "sip:sandbox.sip.livekit.cloud?X-A=b"])
def test_the_host_counts_not_its_spelling(path: Path, sip_url: str) -> None:
    path.on_trunk.origination_urls(path.url).update(sip_url=sip_url)
    assert path.call()["reaches"]


def test_a_number_on_no_livekit_trunk_is_404(path: Path) -> None:
    path.replace_inbound(numbers=["+15145559999"])
    assert path.ends_at("livekitTrunk", "404", "No trunk found")


def test_two_trunks_with_one_number_are_503(path: Path) -> None:
    path.add_inbound(numbers=[N], allowed_numbers=["+15005550006"])
    assert path.ends_at("livekitTrunk", "503")
    assert path.call(**{"from": "+13105550100"})["reaches"]


def test_a_wildcard_trunk_accepts_what_no_other_trunk_accepts(path: Path) -> None:
    path.replace_inbound(numbers=[], allowed_addresses=["54.172.60.0/30"])
    assert path.call()["reaches"]


def test_a_trunk_that_asks_for_a_password_is_407(path: Path) -> None:
    path.replace_inbound(auth_username="u", auth_password="p")
    assert path.ends_at("livekitTrunk", "407")
    path.replace_inbound(auth_username="u")
    assert path.call()["reaches"]


@pytest.mark.parametrize(
    ("addresses", "is_open"),
    [
        (["54.172.60.0/30"], True),
        (["54.0.0.0/8"], True),
        (["198.51.100.0/24"], False),
        (["oops;"], True),
        (["not-an-address"], False),
        (["54.172.60.0"], True),
        (["54.172.60.1"], False),
    ],
)
def test_a_trunk_must_allow_an_address_of_twilio(path: Path, addresses: list[str], is_open: bool) -> None:
    path.replace_inbound(allowed_addresses=addresses)
    assert path.call()["reaches"] is is_open


@pytest.mark.parametrize(
    ("is_secure", "encryption", "reaches"),
    [
        (False, "SIP_MEDIA_ENCRYPT_DISABLE", True),
        (True, "SIP_MEDIA_ENCRYPT_DISABLE", False),
        (False, "SIP_MEDIA_ENCRYPT_REQUIRE", False),
        (True, "SIP_MEDIA_ENCRYPT_REQUIRE", True),
        (True, "SIP_MEDIA_ENCRYPT_ALLOW", True),
        (False, "SIP_MEDIA_ENCRYPT_ALLOW", True),
    ],
)
def test_both_sides_must_agree_on_encryption(path: Path, is_secure: bool, encryption: str, reaches: bool) -> None:
    path.on_trunk.update(secure=is_secure)
    path.replace_inbound(media=api.SIPMediaConfig(encryption=encryption))
    assert path.call()["reaches"] is reaches


@pytest.mark.parametrize(
    ("trunk_media", "rule_media", "reaches"),
    [
        ({}, {"encryption": "SIP_MEDIA_ENCRYPT_REQUIRE"}, False),
        ({"encryption": "SIP_MEDIA_ENCRYPT_REQUIRE"}, {}, False),
        ({"encryption": "SIP_MEDIA_ENCRYPT_REQUIRE"}, {"encryption": "SIP_MEDIA_ENCRYPT_ALLOW"}, True),
        ({"encryption": "SIP_MEDIA_ENCRYPT_REQUIRE"}, {"encryption": "SIP_MEDIA_ENCRYPT_DISABLE"}, False),
        ({}, {"codecs": [api.SIPCodec(name="G722")], "only_listed_codecs": True}, False),
        ({}, {"codecs": [api.SIPCodec(name="G722")]}, True),
        ({"codecs": [api.SIPCodec(name="opus", rate=48000)], "only_listed_codecs": True}, {}, False),
        (
            {"codecs": [api.SIPCodec(name="opus")], "only_listed_codecs": True},
            {"codecs": [api.SIPCodec(name="PCMU")], "only_listed_codecs": True},
            True,
        ),
    ],
)
def test_the_media_settings_of_rule_and_trunk_count_together(
    path: Path, trunk_media: dict[str, Any], rule_media: dict[str, Any], reaches: bool
) -> None:
    path.replace_inbound(media=api.SIPMediaConfig(**trunk_media))
    path.replace_rule(media=api.SIPMediaConfig(**rule_media))
    assert path.call()["reaches"] is reaches
    assert reaches or path.ends_at("dispatchRule", "400")


def test_a_secure_trunk_needs_encryption_of_trunk_or_rule(path: Path) -> None:
    path.on_trunk.update(secure=True)
    call = path.call()
    assert (call["reaches"], call["status"], call["callEndedBy"]) == (False, 200, "twilio")
    assert "encrypts" in call["reason"]
    path.replace_rule(media_encryption="SIP_MEDIA_ENCRYPT_ALLOW")
    assert path.call()["reaches"]


UNMATCHED = [
    ("cloud", "404 (Does not match Trunks or Dispatch Rules)"),
    ("openSource", "404 (Does not match Trunks or Dispatch Rules)"),
    ("openSource1.13.7", "silence"),
]


@pytest.mark.parametrize(("server", "answer"), UNMATCHED)
def test_without_a_rule_the_call_ends_as_on_the_server(path: Path, server: str, answer: str) -> None:
    path.serve_by(server)
    request = api.DeleteSIPDispatchRuleRequest(sip_dispatch_rule_id=path.rule)
    path.sandbox.livekit(lambda sip: sip.delete_dispatch_rule(request))
    assert path.ends_at("dispatchRule", answer)


REFUSING = [
    ({"numbers": ["+15145559999"]}, f"no trunk has the number {N}"),
    ({"allowed_numbers": ["+13105550100"]}, "does not allow the caller +15005550006"),
    ({"allowed_addresses": ["198.51.100.0/24"]}, "does not allow Twilio's address 54.172.60.0"),
]


@pytest.mark.parametrize(("fields", "refusal"), REFUSING)
@pytest.mark.parametrize(("server", "answer"), UNMATCHED)
def test_a_call_that_no_trunk_accepts_ends_as_on_the_server(
    path: Path, server: str, answer: str, fields: dict[str, Any], refusal: str
) -> None:
    path.serve_by(server)
    path.replace_inbound(**fields)
    if server == "cloud":
        assert path.ends_at("livekitTrunk", "404 (No trunk found)", refusal)
    else:
        assert path.ends_at("dispatchRule", answer)
        assert refusal in path.call()["path"][3]["detail"]


@pytest.mark.parametrize(("server", "agent"), [("cloud", None), ("openSource", "all"), ("openSource1.13.7", "all")])
def test_a_catch_all_rule_accepts_calls_that_no_trunk_accepts_on_open_source(
    path: Path, server: str, agent: str | None
) -> None:
    path.serve_by(server)
    path.replace_inbound(numbers=["+15145559999"])
    catch_all = path.add_rule([], agent="all", numbers=[N])
    call = path.call()
    assert call["agentName"] == agent
    if agent:
        assert [step["id"] for step in call["path"]][3:] == [None, catch_all, "all"]
        path.replace_rule(numbers=["+15145550000"])
        assert path.call()["agentName"] == agent


def test_without_a_trunk_a_conflict_of_any_two_rules_is_503(path: Path) -> None:
    path.serve_by("openSource")
    path.add_rule([], agent="all")
    mover = path.add_rule(["ST_else"])
    change = ListUpdate(set=[path.inbound])
    path.sandbox.livekit(lambda sip: sip.update_dispatch_rule_fields(mover, trunk_ids=change))
    path.replace_inbound(numbers=["+15145559999"])
    assert path.ends_at("dispatchRule", "503")


@pytest.mark.parametrize(
    ("filters", "reaches"),
    [
        ({"inbound_numbers": [N]}, False),
        ({"inbound_numbers": ["+15005550006"]}, True),
        ({"numbers": [N]}, True),
        ({"numbers": ["15145551234"]}, False),
        ({"pin": "1234"}, False),
    ],
)
def test_a_rule_filters_callers_and_called_numbers_by_their_exact_text(
    path: Path, filters: dict[str, Any], reaches: bool
) -> None:
    path.replace_rule(**filters)
    assert path.call()["reaches"] is reaches


def test_a_caller_dials_the_pin_that_the_query_names(path: Path) -> None:
    path.replace_rule(pin="1234")
    assert path.call(pin="1234")["reaches"]
    assert not path.call(pin="99")["reaches"]
    assert not path.call()["reaches"]


def test_a_rule_that_names_the_trunk_beats_a_wildcard(path: Path) -> None:
    path.add_rule([], agent="catch-all", numbers=[N])
    assert path.call()["agentName"] == "inbound-agent"
    path.replace_rule(inbound_numbers=["+13105550100"])
    assert path.call()["agentName"] == "catch-all"
    assert path.call(**{"from": "+13105550100"})["agentName"] == "inbound-agent"


def test_a_rule_with_more_filters_wins(path: Path) -> None:
    path.add_rule([path.inbound], agent="specific", numbers=[N])
    assert path.call()["agentName"] == "specific"


def test_a_rule_without_an_agent_reaches_nobody(path: Path) -> None:
    path.replace_rule(agent="")
    assert path.ends_at("agent", "names no agent")
