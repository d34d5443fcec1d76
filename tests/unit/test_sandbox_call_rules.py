"""Every rule of the sandbox's call, in process: one change to a whole path each, who is reached then, which status."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from livekit.protocol import agent_dispatch, room, sip

from app.dev.sandbox.application import create_sandbox
from app.dev.sandbox.call import drawn_order, is_final, read_sip_url, trace_call
from app.dev.sandbox.state import Credentials, Sandbox
from app.dev.sandbox.twilio_wire import number_record, origination_url_record, trunk_record

N, CALLER, OTHER = "+15145551234", "+13105550100", "+13105550199"
HOST = "abc.sip.livekit.cloud"
ACCOUNT = Credentials().account_sid
REQUIRE, ALLOW = sip.SIP_MEDIA_ENCRYPT_REQUIRE, sip.SIP_MEDIA_ENCRYPT_ALLOW
DISABLE = sip.SIP_MEDIA_ENCRYPT_DISABLE

Answered = tuple[bool, int | None, str | None]
REACHES: Answered = (True, 200, None)


class World:
    """A whole path in a store of its own."""

    def __init__(self, **switches: Any) -> None:
        self.sandbox: Sandbox = create_sandbox(replace(Credentials(), sip_host=HOST)).sandbox
        self.sandbox.set_switches(replace(self.sandbox.switches, **switches))
        self.twilio_trunk = trunk_record(ACCOUNT) | {"friendly_name": "ours"}
        self.number = number_record(ACCOUNT, N, trunk_sid=self.twilio_trunk["sid"])
        self.put("numbers", self.number)
        self.put("trunks", self.twilio_trunk)
        self.url = self.add_url(f"sip:{HOST};transport=tcp")
        self.trunk = self.add_trunk(sip_trunk_id="ST_a", numbers=[N])
        self.rule = self.add_rule("SDR_a", trunk_ids=["ST_a"])

    def put(self, kind: str, row: dict[str, Any]) -> None:
        with self.sandbox.store.transaction():
            self.sandbox.store.put(kind, row["sid"], row)

    def change(self, kind: str, row: dict[str, Any], **fields: Any) -> None:
        self.put(kind, row | fields)

    def add_url(self, sip_url: str, **fields: Any) -> dict[str, Any]:
        whole = {"weight": 1, "priority": 1, "enabled": True, "friendly_name": "f", "sip_url": sip_url, **fields}
        record = origination_url_record(ACCOUNT, self.twilio_trunk["sid"], whole)
        self.put("origination_urls", record)
        return record

    def add_trunk(self, **fields: Any) -> sip.SIPInboundTrunkInfo:
        trunk = sip.SIPInboundTrunkInfo(**fields)
        with self.sandbox.store.transaction():
            self.sandbox.store.put("livekit_trunks", trunk.sip_trunk_id, trunk)
        return trunk

    def add_rule(self, rule_id: str, kind: str = "individual", **fields: Any) -> sip.SIPDispatchRuleInfo:
        """Add a rule; `pin`, `room` and `agents` go where its kind has them."""
        pin, name = fields.pop("pin", ""), fields.pop("room", "call")
        agents = fields.pop("agents", ["front-desk"])
        kinds = {
            "direct": lambda: {"dispatch_rule_direct": sip.SIPDispatchRuleDirect(room_name=name, pin=pin)},
            "individual": lambda: {
                "dispatch_rule_individual": sip.SIPDispatchRuleIndividual(room_prefix=name, pin=pin)
            },
            "callee": lambda: {"dispatch_rule_callee": sip.SIPDispatchRuleCallee(room_prefix=name, pin=pin)},
            "unknown": dict,
        }
        config = room.RoomConfiguration(agents=[agent_dispatch.RoomAgentDispatch(agent_name=each) for each in agents])
        rule = sip.SIPDispatchRuleInfo(
            sip_dispatch_rule_id=rule_id,
            rule=sip.SIPDispatchRule(**kinds[kind]()),
            room_config=config if agents else None,
            **fields,
        )
        with self.sandbox.store.transaction():
            self.sandbox.store.put("livekit_rules", rule_id, rule)
        return rule

    def call(self, caller: str = CALLER, **parameters: Any) -> dict[str, Any]:
        return trace_call(self.sandbox, N, caller, **parameters)

    def answered(self, **parameters: Any) -> Answered:
        """Return what came of a call; a call that reaches nobody names a reason and the hop where it ended."""
        call = self.call(**parameters)
        assert call["reaches"] == (call["reason"] == "") == (call["agentName"] is not None)
        assert call["path"][-1]["ok"] == call["reaches"]
        return call["reaches"], call["status"], call["callEndedBy"]


Change = Callable[[World], Any]
TWILIO, LIVEKIT, OTHER_HOST = "twilio", "livekit", "otherHost"


def number(**fields: Any) -> Change:
    return lambda world: world.change("numbers", world.number, **fields)


def twilio_trunk(**fields: Any) -> Change:
    return lambda world: world.change("trunks", world.twilio_trunk, **fields)


def url(**fields: Any) -> Change:
    return lambda world: world.change("origination_urls", world.url, **fields)


def more_url(sip_url: str, **fields: Any) -> Change:
    return lambda world: world.add_url(sip_url, **fields)


def trunk(**fields: Any) -> Change:
    return lambda world: world.add_trunk(**{"sip_trunk_id": "ST_a", "numbers": [N], **fields})


def more_trunk(**fields: Any) -> Change:
    return lambda world: world.add_trunk(**{"sip_trunk_id": "ST_b", "numbers": [N], **fields})


def rule(**fields: Any) -> Change:
    return lambda world: world.add_rule("SDR_a", **{"trunk_ids": ["ST_a"], **fields})


def more_rule(**fields: Any) -> Change:
    return lambda world: world.add_rule("SDR_b", **{"agents": ["other"], **fields})


def no_rule(world: World) -> None:
    with world.sandbox.store.transaction():
        world.sandbox.store.delete("livekit_rules", "SDR_a")


def media(*codecs: str, only: bool = True, **fields: Any) -> sip.SIPMediaConfig:
    """Return media settings; a codec is written `NAME` or `NAME/rate`."""
    pairs = [codec.partition("/") for codec in codecs]
    listed = [sip.SIPCodec(name=name, rate=int(rate or 0)) for name, _, rate in pairs]
    return sip.SIPMediaConfig(codecs=listed, only_listed_codecs=only, **fields)


def seconds(value: float) -> Duration:
    return Duration(seconds=int(value), nanos=round(value % 1 * 1e9))


TWILIO_SIDE: dict[str, tuple[Change, Answered]] = {
    "nothing": (number(), REACHES),
    "status null": (number(status=None), REACHES),
    "status empty": (number(status=""), REACHES),
    "status other": (number(status="pending-release"), (False, None, TWILIO)),
    "no voice": (number(capabilities={"voice": False, "sms": True}), (False, None, TWILIO)),
    "no word on voice": (number(capabilities={}), (False, None, TWILIO)),
    "fax": (number(voice_receive_mode="fax"), (False, None, TWILIO)),
    "voice url beside the trunk": (number(voice_url="https://example.com"), REACHES),
    "application beside the trunk": (number(voice_application_sid="AP" + "1" * 32), REACHES),
    "no trunk": (number(trunk_sid=None), (False, None, TWILIO)),
    "trunk gone": (number(trunk_sid="TK" + "0" * 32), (False, None, TWILIO)),
    "url disabled": (url(enabled=False), (False, None, TWILIO)),
    "url of weight 0": (url(weight=0), REACHES),
    "other host": (url(sip_url="sip:example.com"), (False, None, OTHER_HOST)),
    "other port": (url(sip_url=f"sip:{HOST}:5070"), (False, None, OTHER_HOST)),
    "port of tcp": (url(sip_url=f"sip:{HOST}:5060;transport=tls"), REACHES),
    "port of tls": (url(sip_url=f"sip:{HOST}:5061"), REACHES),
    "scheme sips": (url(sip_url=f"sips:{HOST}"), REACHES),
    "region": (url(sip_url="sip:abc.eu.sip.livekit.cloud;transport=tls"), REACHES),
    "edge and headers": (url(sip_url=f"SIP:{HOST.upper()}.;TRANSPORT=TLS;edge=dublin?X-A=b"), REACHES),
    "other project": (url(sip_url="sip:abd.sip.livekit.cloud"), (False, None, OTHER_HOST)),
    "same user": (url(sip_url=f"sip:{N}@{HOST}"), REACHES),
    "user without plus": (url(sip_url=f"sip:{N[1:]}@{HOST}"), REACHES),
    "other user": (url(sip_url=f"sip:agent@{HOST}"), (False, 404, LIVEKIT)),
    "unreadable url": (url(sip_url="sip:[::1"), (False, None, TWILIO)),
    "unreadable url before": (more_url("sip:[::1", priority=0), REACHES),
    "other host before": (more_url("sip:example.com", priority=0), (False, None, OTHER_HOST)),
    "other host behind": (more_url("sip:example.com", priority=2), REACHES),
    "disabled other host before": (more_url("sip:example.com", priority=0, enabled=False), REACHES),
    "refused first, other host next": (
        lambda world: (more_trunk()(world), more_url("sip:example.com", priority=2)(world)),
        (False, None, OTHER_HOST),
    ),
    "503 first, then another number": (
        lambda world: (
            more_trunk()(world),
            world.add_trunk(sip_trunk_id="ST_c", numbers=["agent"]),
            more_rule(trunk_ids=["ST_c"])(world),
            more_url(f"sip:agent@{HOST}", priority=2)(world),
        ),
        REACHES,
    ),
    "404 first, then another number": (
        lambda world: (
            trunk(numbers=["agent"])(world),
            more_url(f"sip:agent@{HOST}", priority=2)(world),
        ),
        (False, 404, LIVEKIT),
    ),
}

LIVEKIT_TRUNKS: dict[str, tuple[Change, Answered]] = {
    "number written another way": (trunk(numbers=["1 (514) 555-1234"]), REACHES),
    "another number": (trunk(numbers=[OTHER]), (False, 404, LIVEKIT)),
    "number of two trunks": (more_trunk(), (False, 503, LIVEKIT)),
    "number of two trunks, one for others": (more_trunk(allowed_numbers=[OTHER]), REACHES),
    "wildcard beside it": (more_trunk(numbers=[], allowed_addresses=["0.0.0.0/0"]), REACHES),
    "only a wildcard": (trunk(numbers=[], allowed_addresses=["0.0.0.0/0"]), REACHES),
    "two wildcards": (
        lambda world: (trunk(numbers=[])(world), more_trunk(numbers=[])(world)),
        (False, 503, LIVEKIT),
    ),
    "caller allowed, written another way": (trunk(allowed_numbers=["1-310-555-0100"]), REACHES),
    "caller not allowed": (trunk(allowed_numbers=[OTHER]), (False, 404, LIVEKIT)),
    "user without password": (trunk(auth_username="u"), REACHES),
    "password without user": (trunk(auth_password="p"), REACHES),
    "user and password": (trunk(auth_username="u", auth_password="p"), (False, 407, LIVEKIT)),
    "cut after 9.9 s": (trunk(max_call_duration=seconds(9.9)), (False, 200, LIVEKIT)),
    "cut after 10 s": (trunk(max_call_duration=seconds(10)), REACHES),
    "cut before the answer": (trunk(max_call_duration=seconds(0.5)), (False, 486, LIVEKIT)),
    "longest duration 0": (trunk(max_call_duration=seconds(0)), REACHES),
    "longest duration negative": (trunk(max_call_duration=Duration(seconds=-5)), REACHES),
    "rings 1 s": (trunk(ringing_timeout=seconds(1)), REACHES),
    "rings 0.9 s": (trunk(ringing_timeout=seconds(0.9)), (False, 486, LIVEKIT)),
    "rings 0 s": (trunk(ringing_timeout=seconds(0)), REACHES),
    "rings 0.9 s, then 503": (
        trunk(ringing_timeout=seconds(0.9), ringing_timeout_status="SIP_STATUS_SERVICE_UNAVAILABLE"),
        (False, 503, LIVEKIT),
    ),
    "operators' settings": (trunk(krisp_enabled=True, headers={"X-A": "b"}, include_headers=1), REACHES),
}

RULES: dict[str, tuple[Change, Answered]] = {
    "none": (no_rule, (False, 404, LIVEKIT)),
    "of another trunk": (rule(trunk_ids=["ST_b"]), (False, 404, LIVEKIT)),
    "wildcard": (rule(trunk_ids=[]), REACHES),
    "direct": (rule(kind="direct"), REACHES),
    "direct without a room": (rule(kind="direct", room=""), (False, 486, LIVEKIT)),
    "direct with a long room": (rule(kind="direct", room="x" * 257), (False, 486, LIVEKIT)),
    "individual without a prefix": (rule(room=""), REACHES),
    "individual with a long prefix": (rule(room="x" * 232), (False, 486, LIVEKIT)),
    "individual with the longest prefix": (rule(room="x" * 230), REACHES),
    "hidden caller, the longest prefix": (rule(room="x" * 238, hide_phone_number=True), REACHES),
    "hidden caller, a long prefix": (rule(room="x" * 239, hide_phone_number=True), (False, 486, LIVEKIT)),
    "callee": (rule(kind="callee"), REACHES),
    "callee with the longest prefix": (rule(kind="callee", room="x" * 243), REACHES),
    "callee with a long prefix": (rule(kind="callee", room="x" * 244), (False, 486, LIVEKIT)),
    "kind of a later version": (rule(kind="unknown"), (False, 503, LIVEKIT)),
    "PIN": (rule(pin="1234"), (False, 200, LIVEKIT)),
    "PIN of a rule for others": (rule(pin="1234", inbound_numbers=[OTHER]), (False, 404, LIVEKIT)),
    "PIN of another rule": (more_rule(trunk_ids=["ST_a"], pin="1"), (False, 200, LIVEKIT)),
    "PIN of a wildcard": (more_rule(pin="1"), REACHES),
    "for this caller": (rule(inbound_numbers=[CALLER]), REACHES),
    "for this caller, written another way": (rule(inbound_numbers=["1-310-555-0100"]), (False, 404, LIVEKIT)),
    "for callers such as our number": (rule(inbound_numbers=[N]), (False, 404, LIVEKIT)),
    "for this number": (rule(numbers=[N]), REACHES),
    "for this number, written another way": (rule(numbers=[N[1:]]), (False, 404, LIVEKIT)),
    "conflict": (more_rule(trunk_ids=["ST_a"]), (False, 503, LIVEKIT)),
    "conflict by a number written another way": (
        lambda world: (rule(numbers=[N])(world), more_rule(trunk_ids=["ST_a"], numbers=[N[1:]])(world)),
        (False, 503, LIVEKIT),
    ),
    "conflict with itself": (rule(trunk_ids=["ST_a", "ST_a"]), (False, 503, LIVEKIT)),
    "conflict of two wildcards for others": (
        lambda world: (
            more_rule(numbers=[OTHER])(world),
            world.add_rule("SDR_c", numbers=[OTHER]),
        ),
        (False, 503, LIVEKIT),
    ),
    "conflict on another trunk": (
        lambda world: (more_rule(trunk_ids=["ST_b"])(world), world.add_rule("SDR_c", trunk_ids=["ST_b"])),
        REACHES,
    ),
    "unknown preset": (rule(room_preset="p"), (False, 486, LIVEKIT)),
    "no agent": (rule(agents=[]), (False, 486, LIVEKIT)),
    "agent without a name": (rule(agents=[""]), (False, 486, LIVEKIT)),
    "agent without a name beside ours": (rule(agents=["", "front-desk"]), REACHES),
    "no agent, and a status of its own": (
        lambda world: (rule(agents=[])(world), trunk(ringing_timeout_status=603)(world)),
        (False, 603, LIVEKIT),
    ),
    "no agent, and a short call": (
        lambda world: (
            rule(agents=[])(world),
            trunk(ringing_timeout_status=603, max_call_duration=seconds(60))(world),
        ),
        (False, 486, LIVEKIT),
    ),
    "operators' settings": (rule(hide_phone_number=True, attributes={"a": "b"}, krisp_enabled=True), REACHES),
}

MEDIA: dict[str, tuple[Change, Answered]] = {
    "trunk requires encryption": (trunk(media=sip.SIPMediaConfig(encryption=REQUIRE)), (False, 400, LIVEKIT)),
    "old field": (trunk(media_encryption=REQUIRE), (False, 400, LIVEKIT)),
    "new field wins over the old one": (
        trunk(media_encryption=REQUIRE, media=sip.SIPMediaConfig(encryption=DISABLE)),
        REACHES,
    ),
    "rule requires encryption": (rule(media_encryption=REQUIRE), (False, 400, LIVEKIT)),
    "rule cannot switch it off": (
        lambda world: (trunk(media_encryption=REQUIRE)(world), rule(media=sip.SIPMediaConfig(encryption=0))(world)),
        (False, 400, LIVEKIT),
    ),
    "rule softens it": (
        lambda world: (trunk(media_encryption=REQUIRE)(world), rule(media_encryption=ALLOW)(world)),
        REACHES,
    ),
    "encryption of a later version": (trunk(media=sip.SIPMediaConfig(encryption=9)), (False, 500, LIVEKIT)),
    "secure on one side": (twilio_trunk(secure=True), (False, 200, TWILIO)),
    "secure on both sides": (
        lambda world: (twilio_trunk(secure=True)(world), trunk(media_encryption=REQUIRE)(world)),
        REACHES,
    ),
    "secure, and allowed by the rule": (
        lambda world: (twilio_trunk(secure=True)(world), rule(media_encryption=ALLOW)(world)),
        REACHES,
    ),
    "more codecs": (trunk(media=media("G722", only=False)), REACHES),
    "codecs of others only": (trunk(media=media("G722")), (False, 400, LIVEKIT)),
    "only PCMA": (trunk(media=media("G722", "PCMA")), REACHES),
    "only PCMU at its rate": (trunk(media=media("pcmu/8000")), REACHES),
    "only PCMU at another rate": (trunk(media=media("PCMU/16000")), (False, 400, LIVEKIT)),
    "a name that has no default rate": (trunk(media=media("pcmu", only=False)), (False, 500, LIVEKIT)),
    "only listed ones, and none is": (trunk(media=media()), (False, 500, LIVEKIT)),
    "only listed ones of the rule, and none is": (rule(media=media()), REACHES),
    "rule's codecs win": (
        lambda world: (trunk(media=media("G722"))(world), rule(media=media("PCMU"))(world)),
        REACHES,
    ),
    "rule's codecs win, listed or not": (
        lambda world: (trunk(media=media("PCMU"))(world), rule(media=media("G722"))(world)),
        (False, 400, LIVEKIT),
    ),
    "codecs before the PIN": (rule(media=media("G722"), pin="1"), (False, 400, LIVEKIT)),
}

CASES = {
    f"{side}: {name}": case
    for side, cases in (
        ("twilio", TWILIO_SIDE),
        ("trunk", LIVEKIT_TRUNKS),
        ("rule", RULES),
        ("media", MEDIA),
    )
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", CASES)
def test_each_change_to_a_whole_path_has_its_answer(name: str) -> None:
    change, expected = CASES[name]
    world = World()
    change(world)
    assert world.answered() == expected


ADDRESSES = [
    ([], True),
    (["54.172.60.0/30"], True),
    (["54.172.60.3/30"], True),
    (["54.0.0.0/8"], True),
    (["0.0.0.0/0"], True),
    (["54.172.60.1"], True),
    (["54.172.60.0"], False),
    (["54.172.60.1/32"], True),
    (["54.244.51.0/30"], False),
    (["54.244.51.0/30", "54.172.60.1"], True),
    (["not-an-address"], False),
    (["54.172.60.0/255.255.255.252"], False),
    (["54.172.60.0/030"], False),
    (["54.172.60.0/33"], False),
    (["054.172.60.1"], False),
    (["54.172.60.256"], False),
    (["::/0"], False),
    (["::ffff:54.172.60.0/126"], False),
    (["oops;"], True),
    (["sip://x"], True),
    (["54.172.60.1 ", "oops;"], True),
    (["oops;", "198.51.100.0/24"], False),
    ([""], False),
]


@pytest.mark.parametrize(("entries", "is_open"), ADDRESSES)
def test_allowed_addresses_are_read_as_go_reads_them(entries: list[str], is_open: bool) -> None:
    world = World()
    trunk(allowed_addresses=entries)(world)
    assert world.answered(source="54.172.60.1") == (REACHES if is_open else (False, 404, LIVEKIT))


SIP_URLS = [
    ("sip:h", ("", "h", None)),
    ("sip:@h", ("", "h", None)),
    (" sip:h ", ("", "h", None)),
    ("sip:u:p@h:1;transport=udp", ("u", "h", 1)),
    ("sip:+1;a=b@h", ("+1;a=b", "h", None)),
    ("sip:[2001:DB8:0::1]:5060;transport=tcp", ("", "2001:db8::1", 5060)),
    ("sip:192.0.2.1", ("", "192.0.2.1", None)),
    ("sip:h;;transport=tcp;", ("", "h", None)),
    ("sip:p.us.sip.livekit.cloud", ("", "p.sip.livekit.cloud", None)),
    ("sip:", None),
    ("h", None),
    ("tel:+1", None),
    ("sip:[::1", None),
    ("sip:[1.2.3]", None),
    ("sip:x]", None),
    ("sip:h:0", None),
    ("sip:h:65535", ("", "h", 65535)),
    ("sip:h:65536", None),
    ("sip:h:", None),
    ("sip:h:5060x", None),
    ("sip:a@b@h", None),
    ("sip:h;transport=ws", None),
    ("sip:h;transport", None),
    ("sip:h;transport=tcp;transport=udp", None),
    ("sip:h h", None),
    ("sip:h;a=\x1b", None),
    ("sip:h\uff1a5060", None),
]


@pytest.mark.parametrize(("text", "parts"), SIP_URLS)
def test_an_origination_url_is_read_or_is_none(text: str, parts: tuple[str, str, int | None] | None) -> None:
    read = read_sip_url(text)
    assert (read and (read.user, read.host, read.port)) == parts


def test_urls_are_drawn_by_weight_within_their_priority() -> None:
    urls = [
        {"sid": name, "priority": priority, "weight": weight}
        for name, priority, weight in (("a", 2, 1), ("b", 1, 1), ("c", 1, 0), ("d", 1, 3), ("e", 2, 1))
    ]

    def order(roll: float) -> str:
        return "".join(each["sid"] for each in drawn_order(urls, roll))

    assert [order(roll) for roll in (0, 0.24, 0.25, 0.499, 0.5, 0.999)] == [
        *("bcdae", "bcdae", "dbcae", "dbcae", "dbcea", "dbcea"),
    ]
    assert "".join(each["sid"] for each in drawn_order([url | {"weight": 0} for url in urls], 0.9)) == "bcdae"


def test_the_draw_keeps_to_the_order_of_creation_when_a_url_is_changed() -> None:
    world = World()
    world.add_url("sip:example.com")
    url(friendly_name="again")(world)
    assert world.answered(roll=0.4) == REACHES
    assert world.answered(roll=0.6) == (False, None, OTHER_HOST)


FINAL = (None, 200, 299, 400, 404, 405, 410, 416, 482, 484, 486, 600, 603)
NOT_FINAL = (300, 401, 403, 407, 408, 480, 500, 503, 599)


@pytest.mark.parametrize("status", [*FINAL, *NOT_FINAL])
def test_twilio_tries_the_next_url_unless_the_answer_is_final(status: int | None) -> None:
    assert is_final(status) is (status in FINAL)


def test_hosts_that_give_no_answer_are_passed_over() -> None:
    world = World(other_sip_hosts="silent")
    for host in ("example.com", "example.org"):
        world.add_url(f"sip:{host}", priority=0)
    call = world.call(roll=0.7)
    assert call["reaches"]
    tried = [each["detail"].partition(" ")[0] for each in call["path"] if each["hop"] == "originationUrl"]
    assert tried == ["sip:example.org", "sip:example.com", f"sip:{HOST};transport=tcp"]
    url(enabled=False)(world)
    assert world.answered() == (False, None, OTHER_HOST)


@pytest.mark.parametrize(
    ("server", "no_trunk", "no_rule_at_all"),
    [("cloud", 404, 404), ("openSource", 404, 404), ("openSource1.13.7", None, None)],
)
def test_what_nothing_takes_ends_as_on_the_server(
    server: str, no_trunk: int | None, no_rule_at_all: int | None
) -> None:
    world = World(livekit_server=server)
    world.add_url(f"sip:agent@{HOST}", priority=2)
    trunk(numbers=[OTHER])(world)
    assert world.answered() == (False, no_trunk, LIVEKIT)
    trunk()(world)
    no_rule(world)
    assert world.answered() == (False, no_rule_at_all, LIVEKIT)


@pytest.mark.parametrize("server", ["cloud", "openSource", "openSource1.13.7"])
def test_without_a_trunk_only_open_source_looks_for_a_rule(server: str) -> None:
    world = World(livekit_server=server)
    trunk(numbers=[OTHER])(world)
    more_rule(media=media("PCMU"))(world)
    assert world.answered() == ((False, 404, LIVEKIT) if server == "cloud" else REACHES)
    more_rule(media=media())(world)
    assert world.answered() == (False, 404 if server == "cloud" else 500, LIVEKIT)
    # A conflict of rules for a trunk that is not even there.
    more_rule(trunk_ids=["ST_x"])(world)
    world.add_rule("SDR_c", trunk_ids=["ST_x"])
    assert world.answered() == (False, 404 if server == "cloud" else 503, LIVEKIT)


def test_an_old_server_knows_no_status_of_its_own_for_unanswered_calls() -> None:
    world = World(livekit_server="openSource1.13.7")
    trunk(ringing_timeout=seconds(0.5), ringing_timeout_status=503)(world)
    assert world.answered() == (False, 486, LIVEKIT)


def test_a_known_preset_is_joined_but_brings_no_agent() -> None:
    world = World(room_presets=("p", "q"))
    rule(room_preset="q")(world)
    assert world.answered() == REACHES
    rule(room_preset="q", agents=[])(world)
    assert world.answered() == (False, 486, LIVEKIT)


def test_a_worker_without_a_name_answers_but_is_no_agent_of_the_rule() -> None:
    world = World(unnamed_agent=True)
    rule(agents=[])(world)
    assert world.answered() == (False, 200, LIVEKIT)
    rule(agents=["front-desk"])(world)
    assert world.answered() == REACHES


FOR_CALLER, FOR_NUMBER = {"inbound_numbers": [CALLER]}, {"numbers": [N]}
"""Filters that count alike and tell rules apart, which conflict otherwise."""

PRIORITY = [
    ({"kind": "callee", **FOR_NUMBER}, {"kind": "individual", **FOR_CALLER}),
    ({"kind": "individual", **FOR_NUMBER}, {"kind": "direct", "room": "z", **FOR_CALLER}),
    ({"kind": "callee", **FOR_CALLER}, {"kind": "individual", **FOR_NUMBER}),
    ({"room": "b", **FOR_NUMBER}, {"room": "a", **FOR_CALLER}),
    ({"room": "b", **FOR_CALLER}, {"room": "a", **FOR_NUMBER}),
    ({"kind": "direct"}, {"kind": "callee", **FOR_NUMBER}),
    ({"kind": "direct"}, {"kind": "callee", **FOR_CALLER}),
    ({"kind": "direct", **FOR_NUMBER}, {"kind": "callee", **FOR_NUMBER, **FOR_CALLER}),
    ({"kind": "direct", "trunk_ids": [], **FOR_NUMBER, **FOR_CALLER}, {"kind": "callee"}),
    ({"kind": "direct", "trunk_ids": [], "pin": "1"}, {"kind": "callee"}),
    ({"kind": "direct", "pin": "1"}, {"kind": "callee", **FOR_NUMBER}),
]
"""Pairs of rules, the second of which wins."""


@pytest.mark.parametrize(("loser", "winner"), PRIORITY)
@pytest.mark.parametrize("ids", [("SDR_a", "SDR_b"), ("SDR_b", "SDR_a")])
def test_one_of_two_rules_wins(loser: dict[str, Any], winner: dict[str, Any], ids: tuple[str, str]) -> None:
    world = World()
    world.add_rule(ids[0], **{"trunk_ids": ["ST_a"], "agents": ["loser"], **loser})
    world.add_rule(ids[1], **{"trunk_ids": ["ST_a"], "agents": ["winner"], **winner})
    assert world.call()["agentName"] == "winner"


PINS = [
    ({"kind": "direct", "pin": "2"}, {"kind": "callee", "pin": "1"}),
    ({"kind": "callee", "pin": "1"}, {"kind": "direct"}),
    ({"kind": "direct", "pin": "1", "trunk_ids": []}, {"kind": "direct", "trunk_ids": []}),
]
"""Pairs of rules, the first of which wins and asks for its PIN."""


@pytest.mark.parametrize(("winner", "loser"), PINS)
def test_a_rule_with_a_pin_comes_before_an_open_one(winner: dict[str, Any], loser: dict[str, Any]) -> None:
    world = World()
    world.add_rule("SDR_a", **{"trunk_ids": ["ST_a"], **loser})
    world.add_rule("SDR_b", **{"trunk_ids": ["ST_a"], **winner})
    assert world.answered() == (False, 200, LIVEKIT)
    assert "SDR_b" in world.call()["reason"]


ENTERED: list[tuple[str, Change, str | None, bool, str]] = [
    ("the right one", rule(pin="1234"), "1234", True, ""),
    ("another", rule(pin="1234"), "1235", False, "no rule has the one dialled"),
    ("nothing but the end", rule(pin="1234"), "", False, "no rule has the one dialled"),
    ("nothing", rule(pin="1234"), None, False, "asks the caller for a PIN"),
    ("more than LiveKit takes", rule(pin="1" * 17), "1" * 17, False, "no rule has the one dialled"),
    ("all that LiveKit takes", rule(pin="1" * 16), "1" * 16, True, ""),
    ("where none is asked for", rule(), "1234", True, ""),
    ("that of another rule, which is asked for", more_rule(trunk_ids=["ST_a"], pin="1"), "1", False, ""),
    ("none, past another rule that asks", more_rule(trunk_ids=["ST_a"], pin="1"), "", True, ""),
    ("the end of a room without a name", rule(pin="1", kind="direct", room=""), "1", False, "hangs up"),
]


@pytest.mark.parametrize(("name", "change", "pin", "reaches", "reason"), ENTERED)
def test_a_pin_is_entered(name: str, change: Change, pin: str | None, *, reaches: bool, reason: str) -> None:
    world = World()
    change(world)
    call = world.call(pin=pin)
    is_ours = call["reaches"] and call["agentName"] == "front-desk"
    assert (is_ours, call["status"]) == (reaches, 200), name
    assert reason in call["reason"]


def test_a_caller_who_has_entered_a_pin_hears_no_ringing_and_is_cut_all_the_same() -> None:
    world = World()
    rule(pin="1")(world)
    trunk(ringing_timeout=Duration(nanos=1))(world)
    assert world.call(pin="1")["reaches"]
    assert world.call(pin="1")["call"]["ringsS"] is None
    trunk(max_call_duration=Duration(seconds=9))(world)
    assert "after 9 s" in world.call(pin="1")["reason"]
    rule(pin="1", agents=[])(world)
    call = world.call(pin="1")
    assert (call["reaches"], call["status"]) == (False, 200)


def test_krisp_is_on_where_trunk_or_rule_says_so() -> None:
    for on_trunk, on_rule in ((False, False), (True, False), (False, True), (True, True)):
        world = World()
        trunk(krisp_enabled=on_trunk)(world)
        rule(krisp_enabled=on_rule)(world)
        assert world.call()["call"]["krisp"] is (on_trunk or on_rule)


def test_all_agents_of_the_rule_are_named_and_the_first_answers() -> None:
    world = World()
    rule(agents=["", "front-desk", "recorder"])(world)
    call = world.call()
    assert (call["agentName"], call["agents"]) == ("front-desk", ["front-desk", "recorder"])


def test_a_call_takes_less_than_a_millisecond() -> None:
    world = World()
    for turn in range(20):
        world.add_trunk(sip_trunk_id=f"ST_{turn}", numbers=[f"+1514555{turn:04}"])
        world.add_rule(f"SDR_{turn}", trunk_ids=[f"ST_{turn}"])
    started = time.process_time()
    for turn in range(1000):
        world.call(roll=turn / 1000)
    assert time.process_time() - started < 1
