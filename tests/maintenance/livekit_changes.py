"""Single changes at LiveKit: to our trunk and our rule, and by trunks and rules of others."""

from collections.abc import Callable
from typing import Any

from livekit.protocol import sip
from livekit.protocol.agent_dispatch import RoomAgentDispatch

from app.dev.sandbox.state import OPEN_SOURCE, OPEN_SOURCE_1_13_7
from app.domain.findings import Callers, FindingCode
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK
from app.domain.sip_uris import TWILIO_SIGNALLING
from tests.maintenance.changes import Change, Outcome, harmless
from tests.support.changed_path import AGENT, CALLER, PHONE_NUMBER, PRESET, ChangedPath

_C = FindingCode
ALL, SOME = Callers.ALL, Callers.SOME
LEFT = Outcome.LEFT
ANOTHER = "+15145550077"
SECURE: dict[str, Any] = {"is_secure": True}
MEDIA = sip.SIPMediaEncryption
DISABLE, ALLOW, REQUIRE = (
    MEDIA.SIP_MEDIA_ENCRYPT_DISABLE,
    MEDIA.SIP_MEDIA_ENCRYPT_ALLOW,
    MEDIA.SIP_MEDIA_ENCRYPT_REQUIRE,
)
Make = Callable[[ChangedPath], object]


def _change(info: Any, fields: dict[str, Any]) -> None:
    """Set fields of a message: lists and maps anew, `media` field by field."""
    for name, value in fields.items():
        if name == "media":
            info.media.MergeFrom(value)
        elif isinstance(value, list):
            del getattr(info, name)[:]
            getattr(info, name).extend(value)
        elif isinstance(value, dict):
            getattr(info, name).clear()
            getattr(info, name).update(value)
        elif hasattr(value, "FromSeconds"):
            getattr(info, name).CopyFrom(value)
        else:
            setattr(info, name, value)


def _inbound(**fields: Any) -> Make:
    return lambda path: path.change_inbound(lambda info: _change(info, fields))


def _rule(**fields: Any) -> Make:
    return lambda path: path.change_rule(lambda info: _change(info, fields))


def _kind(kind: str, **fields: Any) -> Make:
    """Make our rule one of another kind."""

    def change(info: sip.SIPDispatchRuleInfo) -> None:
        info.rule.CopyFrom(sip.SIPDispatchRule(**{f"dispatch_rule_{kind}": fields}))

    return lambda path: path.change_rule(change)


def _pin(path: ChangedPath) -> None:
    path.change_rule(lambda info: setattr(info.rule.dispatch_rule_individual, "pin", "1234"))


def _agents(*agents: RoomAgentDispatch) -> Make:
    def change(info: sip.SIPDispatchRuleInfo) -> None:
        del info.room_config.agents[:]
        info.room_config.agents.extend(agents)

    return lambda path: path.change_rule(change)


def _ours(path: ChangedPath) -> RoomAgentDispatch:
    return next(agent for agent in path.rule().room_config.agents if agent.agent_name == AGENT)


def _agent_first(path: ChangedPath) -> None:
    _agents(RoomAgentDispatch(agent_name="recorder"), _ours(path))(path)


def _job(path: ChangedPath) -> None:
    def change(info: sip.SIPDispatchRuleInfo) -> None:
        next(agent for agent in info.room_config.agents if agent.agent_name == AGENT).metadata = '{"tone": "rude"}'

    path.change_rule(change)


def _codecs(*names: str, only: bool = True, rate: int = 0) -> sip.SIPMediaConfig:
    codecs = [sip.SIPCodec(name=name, rate=rate) for name in names]
    return sip.SIPMediaConfig(codecs=codecs, only_listed_codecs=only)


def _encryption(value: int) -> sip.SIPMediaConfig:
    return sip.SIPMediaConfig(encryption=value)  # type: ignore[arg-type]  # an enum's value


def _seconds(seconds: float) -> Any:
    return sip.SIPInboundTrunkInfo(
        ringing_timeout={"nanos": int(seconds % 1 * 1e9), "seconds": int(seconds)}
    ).ringing_timeout


def _rival(numbers: list[str], **fields: Any) -> Make:
    """Add a foreign trunk and give it our number by an update, which LiveKit does not check against other numbers."""

    def make(path: ChangedPath) -> str:
        trunk_id = path.add_inbound(numbers=[ANOTHER], **fields)
        path.console.livekit("UpdateSIPInboundTrunk", sip_trunk_id=trunk_id, update={"numbers": {"set": numbers}})
        return trunk_id

    return make


def _another_rule(**fields: Any) -> Make:
    return lambda path: path.add_rule(path.ours(INBOUND_TRUNK), **fields)


def _twin_rule(path: ChangedPath) -> str:
    """Let a rule of another trunk name ours as well: LiveKit checks a rule that moves among the rules it leaves."""
    rule_id = path.add_rule("ST_abcdefghijkm")
    update = {"trunk_ids": {"set": [path.ours(INBOUND_TRUNK)]}}
    path.console.livekit("UpdateSIPDispatchRule", sip_dispatch_rule_id=rule_id, update=update)
    return rule_id


def _catch_alls(path: ChangedPath) -> str:
    """Store two catch-all rules that contradict each other, as two creates at one moment make them."""

    def change(info: sip.SIPDispatchRuleInfo) -> None:
        del info.trunk_ids[:]
        info.name = "all"

    path.put_rule(change, "SDR_bbbbbbbbbbbb")
    return path.put_rule(change, "SDR_aaaaaaaaaaaa")


def _wildcards(path: ChangedPath) -> None:
    """Store two trunks for any number, which contradict each other."""
    for trunk_id in ("ST_aaaaaaaaaaaa", "ST_bbbbbbbbbbbb"):
        info = sip.SIPInboundTrunkInfo(sip_trunk_id=trunk_id, name="any", allowed_addresses=["198.51.100.0/24"])
        path.put("livekit_trunks", trunk_id, info)


def _twice(path: ChangedPath) -> str:
    """Store a rule on our trunk that names it twice, as older servers took it."""

    def change(info: sip.SIPDispatchRuleInfo) -> None:
        info.name = "theirs"
        info.trunk_ids.append(info.trunk_ids[0])
        info.rule.dispatch_rule_individual.pin = "99"
        info.numbers.append(ANOTHER)

    return path.put_rule(change, "SDR_aaaaaaaaaaaa")


def _unmark(path: ChangedPath) -> None:
    path.change_inbound(lambda info: info.ClearField("metadata"))


def _unname(path: ChangedPath) -> None:
    path.change_inbound(lambda info: info.ClearField("name"))


def _keys(path: ChangedPath) -> None:
    """Add a key of somebody's own to our trunk's metadata."""

    def change(info: sip.SIPInboundTrunkInfo) -> None:
        info.metadata = info.metadata[:-1] + ', "costCentre": "42"}'

    path.change_inbound(change)


def _delete(method: str, kind: str, key: str) -> Make:
    return lambda path: path.console.livekit(method, **{key: path.ours(kind)})


delete_inbound = _delete("DeleteSIPTrunk", INBOUND_TRUNK, "sip_trunk_id")
delete_rule = _delete("DeleteSIPDispatchRule", DISPATCH_RULE, "sip_dispatch_rule_id")
ALL_BUT_ONE = [block for block in TWILIO_SIGNALLING if not block.startswith("54.65.")]
WIDE = ["54.0.0.0/8", "35.0.0.0/8", "177.71.0.0/16"]

TRUNK_CHANGES = (
    Change("LiveKit trunk deleted", delete_inbound, _C.LIVEKIT_TRUNK_GONE, ALL),
    Change("LiveKit trunk with another number", _inbound(numbers=[ANOTHER]), _C.LIVEKIT_TRUNK_LOST_NUMBER, ALL),
    Change("LiveKit trunk for any number", _inbound(numbers=[]), _C.LIVEKIT_TRUNK_LOST_NUMBER),
    harmless("number written with blanks", _inbound(numbers=["+1 (514) 555-1234"])),
    harmless("number written without its plus", _inbound(numbers=["15145551234"])),
    harmless("further numbers", _inbound(numbers=[PHONE_NUMBER, ANOTHER])),
    harmless("number named twice", _inbound(numbers=[PHONE_NUMBER, PHONE_NUMBER])),
    Change("any address allowed", _inbound(allowed_addresses=[]), _C.LIVEKIT_TRUNK_OPEN),
    Change("the whole Internet allowed", _inbound(allowed_addresses=["0.0.0.0/0"]), _C.LIVEKIT_TRUNK_OPEN),
    Change("addresses that LiveKit discards", _inbound(allowed_addresses=["oops;"]), _C.LIVEKIT_TRUNK_OPEN),
    harmless("wider blocks allowed", _inbound(allowed_addresses=WIDE)),
    harmless("a further block allowed", _inbound(allowed_addresses=[*TWILIO_SIGNALLING, "10.0.0.0/8"])),
    Change(
        "one region of Twilio left out",
        _inbound(allowed_addresses=ALL_BUT_ONE),
        _C.LIVEKIT_TRUNK_CALLERS,
        SOME,
        also=frozenset({_C.LIVEKIT_TRUNK_CHANGED}),
    ),
    Change(
        "half of a region left out",
        _inbound(allowed_addresses=[*ALL_BUT_ONE, "54.65.63.194/31"]),
        _C.LIVEKIT_TRUNK_CALLERS,
        SOME,
        also=frozenset({_C.LIVEKIT_TRUNK_CHANGED}),
    ),
    Change(
        "no region of Twilio allowed", _inbound(allowed_addresses=["198.51.100.0/24"]), _C.LIVEKIT_TRUNK_CHANGED, ALL
    ),
    Change("an address that is none", _inbound(allowed_addresses=["not-an-address"]), _C.LIVEKIT_TRUNK_CHANGED, ALL),
    Change("an IPv6 block for IPv4", _inbound(allowed_addresses=["::/0"]), _C.LIVEKIT_TRUNK_CHANGED, ALL),
    Change("some callers allowed", _inbound(allowed_numbers=[CALLER]), _C.LIVEKIT_TRUNK_CALLERS, SOME),
    Change(
        "other callers allowed",
        _inbound(allowed_numbers=["1 (202) 555-0123"]),
        _C.LIVEKIT_TRUNK_CALLERS,
        SOME,
        named_callers=("+12025550123",),
    ),
    Change(
        "password asked for",
        _inbound(auth_username="user", auth_password="secret"),
        _C.LIVEKIT_TRUNK_CHANGED,
        ALL,
        words="password",
    ),
    Change("half of a password: the user", _inbound(auth_username="user"), _C.LIVEKIT_TRUNK_CHANGED),
    Change("half of a password: the secret", _inbound(auth_password="secret"), _C.LIVEKIT_TRUNK_CHANGED),
    Change("trunk requires encryption", _inbound(media=_encryption(REQUIRE)), _C.LIVEKIT_TRUNK_ENCRYPTION, ALL),
    Change(
        "trunk requires encryption, by the old field",
        _inbound(media_encryption=REQUIRE),
        _C.LIVEKIT_TRUNK_ENCRYPTION,
        ALL,
    ),
    harmless("trunk takes encryption", _inbound(media=_encryption(ALLOW))),
    Change(
        "trunk requires encryption, the rule does not",
        lambda path: (_inbound(media=_encryption(REQUIRE))(path), _rule(media=_encryption(ALLOW))(path)),
        _C.LIVEKIT_TRUNK_ENCRYPTION,
    ),
    Change(
        "only codecs that Twilio lacks", _inbound(media=_codecs("G722")), _C.LIVEKIT_TRUNK_CHANGED, ALL, words="codec"
    ),
    Change("no codec at all", _inbound(media=_codecs()), _C.LIVEKIT_TRUNK_CHANGED, ALL, words="codec"),
    Change(
        "a codec without its rate",
        _inbound(media=_codecs("opus", only=False)),
        _C.LIVEKIT_TRUNK_CHANGED,
        ALL,
        words="codec",
    ),
    harmless("only codecs that Twilio has", _inbound(media=_codecs("PCMU"))),
    harmless("a codec that Twilio lacks, first", _inbound(media=_codecs("G722", only=False))),
    Change(
        "calls cut after a second", _inbound(max_call_duration=_seconds(1)), _C.LIVEKIT_TRUNK_CHANGED, ALL, words="1 s"
    ),
    Change("no time to answer", _inbound(ringing_timeout=_seconds(0.5)), _C.LIVEKIT_TRUNK_CHANGED, ALL, words="0.5 s"),
    harmless("calls cut after an hour", _inbound(max_call_duration=_seconds(3600))),
    harmless("ringing for five seconds", _inbound(ringing_timeout=_seconds(5))),
    harmless(
        "ringing for LiveKit's own time",
        lambda path: path.change_inbound(lambda info: info.ClearField("ringing_timeout")),
    ),
    Change("name of the LiveKit trunk emptied", _unname, _C.MARK_LOST, kind=INBOUND_TRUNK),
    Change("metadata of the LiveKit trunk emptied", _unmark, _C.MARK_LOST, kind=INBOUND_TRUNK),
    harmless("LiveKit trunk renamed", _inbound(name="Main line")),
    harmless("a key in the LiveKit trunk's metadata", _keys),
    harmless("krisp switched off", _inbound(krisp_enabled=False)),
    harmless("headers for the caller", _inbound(headers={"X-Desk": "2"})),
    harmless("headers to attributes", _inbound(headers_to_attributes={"X-Account": "account"})),
    harmless("attributes to headers", _inbound(attributes_to_headers={"account": "X-Account"})),
    harmless("which headers are mapped", _inbound(include_headers=sip.SIPHeaderOptions.SIP_X_HEADERS)),
    harmless("media timeout", _inbound(media=sip.SIPMediaConfig(media_timeout={"seconds": 90}))),
    Change(
        "secure line: trunk plain at LiveKit",
        _inbound(media=_encryption(DISABLE), media_encryption=DISABLE),
        _C.LIVEKIT_TRUNK_CHANGED,
        ALL,
        profile=SECURE,
    ),
    Change(
        "secure line: trunk only takes it",
        _inbound(media=_encryption(ALLOW), media_encryption=ALLOW),
        _C.LIVEKIT_TRUNK_CHANGED,
        profile=SECURE,
    ),
    harmless("secure line: the rule requires it too", _rule(media=_encryption(REQUIRE)), profile=SECURE),
    harmless("secure line: the rule only takes it", _rule(media=_encryption(ALLOW)), profile=SECURE),
)

RIVAL_CHANGES = (
    Change("another trunk with the number", _rival([PHONE_NUMBER]), _C.LIVEKIT_TRUNK_FOREIGN, ALL, LEFT),
    Change(
        "another trunk with the number in another form", _rival(["1 514 555 1234"]), _C.LIVEKIT_TRUNK_FOREIGN, ALL, LEFT
    ),
    Change(
        "another trunk with the number for some callers",
        lambda path: path.add_inbound(numbers=[PHONE_NUMBER], allowed_numbers=[CALLER]),
        _C.LIVEKIT_TRUNK_FOREIGN,
        SOME,
        LEFT,
    ),
    Change(
        "another trunk with the number for one region",
        _rival([PHONE_NUMBER], allowed_addresses=[TWILIO_SIGNALLING[2]]),
        _C.LIVEKIT_TRUNK_FOREIGN,
        SOME,
        LEFT,
    ),
    harmless(
        "another trunk with the number for nobody of Twilio",
        _rival([PHONE_NUMBER], allowed_addresses=["198.51.100.0/24"]),
    ),
    harmless("another trunk for any number", lambda path: path.add_inbound(allowed_addresses=["0.0.0.0/0"])),
    harmless("two other trunks for any number", _wildcards),
)

RULE_CHANGES = (
    Change("rule deleted", delete_rule, _C.RULE_GONE, ALL),
    Change("rule for a trunk that is gone", _rule(trunk_ids=["ST_abcdefghijkm"]), _C.RULE_DEAD_TRUNK, ALL),
    Change("rule for any trunk", _rule(trunk_ids=[]), _C.RULE_WILDCARD),
    harmless(
        "rule for a second trunk", lambda path: path.change_rule(lambda info: info.trunk_ids.append("ST_abcdefghijkm"))
    ),
    Change("rule without agents", _agents(), _C.RULE_LOST_AGENT, ALL),
    Change(
        "rule for another agent",
        _agents(RoomAgentDispatch(agent_name="someone")),
        _C.RULE_LOST_AGENT,
        ALL,
        words="someone",
    ),
    harmless("a second agent before ours", _agent_first),
    harmless(
        "a third agent", lambda path: path.change_rule(lambda info: info.room_config.agents.add(agent_name="coach"))
    ),
    Change("metadata of the agent's jobs", _job, _C.RULE_CHANGED),
    Change("rule for some callers", _rule(inbound_numbers=[CALLER]), _C.RULE_FILTERED, SOME),
    Change(
        "our number taken for the caller's",
        _rule(inbound_numbers=[PHONE_NUMBER]),
        _C.RULE_FILTERED,
        SOME,
        named_callers=(PHONE_NUMBER,),
    ),
    Change("rule for another number", _rule(numbers=[ANOTHER]), _C.RULE_FILTERED, ALL),
    Change("rule for the number in another form", _rule(numbers=["15145551234"]), _C.RULE_FILTERED, ALL),
    harmless("rule for our number", _rule(numbers=[PHONE_NUMBER])),
    Change("rule with a PIN", _pin, _C.RULE_PIN, ALL),
    Change("rule with one room for all", _kind("direct", room_name="desk"), _C.RULE_CHANGED),
    Change("rule with one room for a number", _kind("callee", room_prefix="call"), _C.RULE_CHANGED),
    Change(
        "rule with one room for a caller", _kind("individual", room_prefix="call", no_randomness=True), _C.RULE_CHANGED
    ),
    harmless("another prefix of rooms", _kind("individual", room_prefix="desk")),
    Change("a room without a name", _kind("direct"), _C.RULE_CHANGED, ALL),
    Change("a prefix that is too long for a room", _kind("individual", room_prefix="r" * 240), _C.RULE_CHANGED, ALL),
    Change("a room preset that LiveKit lacks", _rule(room_preset="unknown"), _C.RULE_PRESET, ALL),
    Change(
        "a room preset of which we do not know",
        _rule(room_preset=PRESET),
        _C.RULE_PRESET,
        None,
        LEFT,
        profile={"room_presets": None},
    ),
    harmless("a room preset that LiveKit has", _rule(room_preset=PRESET)),
    Change("rule requires encryption", _rule(media=_encryption(REQUIRE)), _C.RULE_ENCRYPTION, ALL),
    Change("rule requires encryption, by the old field", _rule(media_encryption=REQUIRE), _C.RULE_ENCRYPTION, ALL),
    harmless("rule takes encryption", _rule(media=_encryption(ALLOW))),
    Change(
        "rule with only codecs that Twilio lacks", _rule(media=_codecs("G722")), _C.RULE_CHANGED, ALL, words="codec"
    ),
    harmless("rule with only codecs that Twilio has", _rule(media=_codecs("PCMA", "PCMU"))),
    Change("rule renamed", _rule(name="Main rule"), _C.MARK_LOST, kind=DISPATCH_RULE),
    Change("name of the rule emptied", _rule(name=""), _C.MARK_LOST, kind=DISPATCH_RULE),
    harmless("metadata of the rule", _rule(metadata="hello")),
    harmless("attributes of the rule", _rule(attributes={"desk": "2"})),
    harmless("caller's number shown", _rule(hide_phone_number=False)),
    harmless("krisp of the rule switched off", _rule(krisp_enabled=False)),
)

OTHER_RULE_CHANGES = (
    Change(
        "another rule with a PIN on our trunk",
        _another_rule(rule={"dispatch_rule_direct": {"room_name": "x", "pin": "99"}}),
        _C.RULE_OVERRIDDEN,
        ALL,
        LEFT,
    ),
    Change(
        "another rule for some callers on our trunk",
        _another_rule(inbound_numbers=[CALLER]),
        _C.RULE_OVERRIDDEN,
        SOME,
        LEFT,
    ),
    Change(
        "another rule for our number on our trunk", _another_rule(numbers=[PHONE_NUMBER]), _C.RULE_OVERRIDDEN, ALL, LEFT
    ),
    harmless("another rule for our number that starts our agent", _another_rule(numbers=[PHONE_NUMBER], agent=AGENT)),
    harmless("another rule for another number on our trunk", _another_rule(numbers=[ANOTHER])),
    harmless(
        "another rule with a PIN on another trunk",
        lambda path: path.add_rule("ST_abcdefghijkm", rule={"dispatch_rule_direct": {"room_name": "x", "pin": "99"}}),
    ),
    Change("another rule like ours", _twin_rule, _C.RULE_CONFLICT, ALL, LEFT),
    Change("two other rules for any trunk", _catch_alls, _C.RULE_CONFLICT, ALL, LEFT),
    Change("another rule that contradicts itself on our trunk", _twice, _C.RULE_CONFLICT, ALL, LEFT),
    harmless("another rule for any trunk", lambda path: path.add_rule()),
    Change(
        "rule deleted, another rule for any trunk",
        lambda path: (path.add_rule(), delete_rule(path)),
        _C.RULE_GONE,
        ALL,
        also=frozenset({_C.RULE_OVERRIDDEN}),
    ),
    Change(
        "open source: LiveKit trunk with another number, a rule for any trunk",
        lambda path: (path.add_rule(), _inbound(numbers=[ANOTHER])(path)),
        _C.LIVEKIT_TRUNK_LOST_NUMBER,
        ALL,
        server=OPEN_SOURCE,
    ),
    Change(
        "open source up to 1.13.7: callers refused",
        _inbound(allowed_numbers=[CALLER]),
        _C.LIVEKIT_TRUNK_CALLERS,
        SOME,
        server=OPEN_SOURCE_1_13_7,
    ),
)

CHANGES = TRUNK_CHANGES + RIVAL_CHANGES + RULE_CHANGES + OTHER_RULE_CHANGES
