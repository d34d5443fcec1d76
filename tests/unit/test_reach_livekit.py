"""Whether LiveKit brings a call to the agent: one row for each rule of its trunks, rules, rooms and media."""

from dataclasses import replace

import pytest

from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK
from app.domain.options import RuleAgent
from app.domain.sip_uris import TWILIO_SIGNALLING
from app.path.observed import Media, RuleKind
from app.path.spec import Profile
from tests.support.line import AGENT, CALLED, CALLER, CLOUD
from tests.support.reach_rows import (
    ALLOW,
    RECORDER,
    REQUIRE,
    SHORT_CALLED,
    Change,
    check_reasons,
    elsewhere,
    everywhere,
    host,
    on_cloud,
    on_own_server,
    secured,
    trunkless_rule,
)

LIVEKIT_TRUNKS = [
    *everywhere("our trunk is gone", lambda line: line.without("ST1"), "livekit_trunk_gone ST1"),
    *everywhere("it cannot be read", lambda line: line.cannot_read(INBOUND_TRUNK, "ST1"), "unreadable ST1"),
    *everywhere("it lost the number", lambda line: line.inbound(numbers=("+19",)), "livekit_trunk_lost_number ST1"),
    *everywhere("it has the number in another form", lambda line: line.inbound(numbers=("1 (514) 555-0100",))),
    *everywhere("it has all numbers", lambda line: line.inbound(numbers=())),
    *everywhere(
        "it has all numbers and another has ours",
        lambda line: line.inbound(numbers=()).add_inbound("ST2"),
        "livekit_trunk_lost_number ST1",
        "livekit_trunk_foreign ST2",
    ),
    *everywhere(
        "another has the number",
        lambda line: line.add_inbound("ST2", numbers=(SHORT_CALLED,)),
        "livekit_trunk_foreign ST2",
    ),
    *everywhere("another has all numbers", lambda line: line.add_inbound("ST2", numbers=())),
    *everywhere(
        "two have all numbers",
        lambda line: line.inbound(numbers=()).add_inbound("ST2", numbers=()),
        "livekit_trunk_lost_number ST1",
        "livekit_trunk_foreign ST2",
    ),
    *everywhere(
        "another has the number for some callers",
        lambda line: line.add_inbound("ST2", allowed_numbers=(CALLER,)),
        "~livekit_trunk_foreign ST2",
    ),
    *everywhere(
        "two others have the number, ours is gone",
        lambda line: line.without("ST1").add_inbound("ST2").add_inbound("ST3"),
        "livekit_trunk_foreign ST2",
        "livekit_trunk_gone ST1",
    ),
    *everywhere(
        "another takes the number that ours lost",
        lambda line: line.inbound(numbers=("+19",)).add_inbound("ST2"),
        "livekit_trunk_lost_number ST1",
        "livekit_trunk_foreign ST2",
    ),
    *everywhere(
        "another takes it to our rule",
        lambda line: line.without("ST1").add_inbound("ST2").rule(trunk_ids=("ST1", "ST2")),
    ),
    *everywhere(
        "a trunk for all numbers takes it to our rule",
        lambda line: line.without("ST1").add_inbound("ST2", numbers=()).rule(trunk_ids=("ST2",)),
    ),
    *everywhere(
        "two have the number, and a rule is for all trunks",
        lambda line: trunkless_rule(line.add_inbound("ST2")),
        "livekit_trunk_foreign ST2",
    ),
    *everywhere(
        "ours lost the number, and asks for a password",
        lambda line: line.inbound(numbers=("+19",), has_username=True, has_password=True),
        "livekit_trunk_lost_number ST1",
        "livekit_trunk_changed ST1",
    ),
    *everywhere(
        "ours lost the number, and another has it for no call of Twilio",
        lambda line: line.inbound(numbers=("+19",)).add_inbound("ST2", allowed_addresses=("192.0.2.1",)),
        "livekit_trunk_lost_number ST1",
    ),
    *everywhere(
        "ours lost the number, and lets in only some callers",
        lambda line: line.inbound(numbers=("+19",), allowed_numbers=(CALLER,)),
        "livekit_trunk_lost_number ST1",
        "~livekit_trunk_callers ST1",
    ),
    *on_own_server(
        "no trunk, a rule for all trunks of which the codecs are none",
        lambda line: trunkless_rule(line.without("ST1"), media=Media(only_listed_codecs=True)),
        "livekit_trunk_gone ST1",
    ),
    *on_cloud(
        "no trunk, a rule for all trunks", lambda line: trunkless_rule(line.without("ST1")), "livekit_trunk_gone ST1"
    ),
    *on_own_server("no trunk, a rule for all trunks", lambda line: trunkless_rule(line.without("ST1"))),
    *on_own_server(
        "no trunk, all rules are held against each other",
        lambda line: trunkless_rule(line.without("ST1")).add_rule("SDR3", trunk_ids=("ST9", "ST9")),
        "livekit_trunk_gone ST1",
    ),
    *on_own_server(
        "no trunk, a rule for all trunks with another agent",
        lambda line: trunkless_rule(line.without("ST1"), agents=RECORDER),
        "livekit_trunk_gone ST1",
    ),
    *everywhere(
        "some callers", lambda line: line.inbound(allowed_numbers=("1 310 555 0199",)), "~livekit_trunk_callers ST1"
    ),
    *everywhere(
        "some addresses",
        lambda line: line.inbound(allowed_addresses=TWILIO_SIGNALLING[1:]),
        "~livekit_trunk_callers ST1",
    ),
    *everywhere(
        "one address of a block",
        lambda line: line.inbound(allowed_addresses=(*TWILIO_SIGNALLING[1:], "54.172.60.3")),
        "~livekit_trunk_callers ST1",
    ),
    *everywhere(
        "no address of Twilio",
        lambda line: line.inbound(allowed_addresses=("192.0.2.0/24",)),
        "livekit_trunk_changed ST1",
    ),
    *everywhere("any address", lambda line: line.inbound(allowed_addresses=())),
    *everywhere("wider blocks", lambda line: line.inbound(allowed_addresses=("0.0.0.0/1", "128.1.2.3/1"))),
    *everywhere("no valid address", lambda line: line.inbound(allowed_addresses=("oops;", "sip://x"))),
    *everywhere(
        "an address that is none", lambda line: line.inbound(allowed_addresses=("oops",)), "livekit_trunk_changed ST1"
    ),
    *everywhere(
        "a password", lambda line: line.inbound(has_username=True, has_password=True), "livekit_trunk_changed ST1"
    ),
    *everywhere("half a password", lambda line: line.inbound(has_password=True)),
    *everywhere("calls are cut", lambda line: line.inbound(max_call_duration_s=9.9), "livekit_trunk_changed ST1"),
    *everywhere(
        "calls are cut at once", lambda line: line.inbound(max_call_duration_s=0.5), "livekit_trunk_changed ST1"
    ),
    *everywhere(
        "a password, and the rule is gone",
        lambda line: line.without("SDR1").inbound(has_username=True, has_password=True),
        "livekit_trunk_changed ST1",
        "rule_gone SDR1",
    ),
    *everywhere("long calls", lambda line: line.inbound(max_call_duration_s=10)),
    *everywhere("it hardly rings", lambda line: line.inbound(ringing_timeout_s=0.9), "livekit_trunk_changed ST1"),
    *everywhere("it rings", lambda line: line.inbound(ringing_timeout_s=1)),
    *everywhere(
        "all at once",
        lambda line: line.without("PN1", "TK1", "ST1", "SDR1"),
        "number_gone PN1",
        "trunk_gone TK1",
        "livekit_trunk_gone ST1",
        "rule_gone SDR1",
    ),
]

RULES = [
    *everywhere("the rule is gone", lambda line: line.without("SDR1"), "rule_gone SDR1"),
    *everywhere("the rule cannot be read", lambda line: line.cannot_read(DISPATCH_RULE, "SDR1"), "unreadable SDR1"),
    *everywhere("another rule does its work", lambda line: line.without("SDR1").add_rule("SDR2")),
    *everywhere("a rule for all trunks does", lambda line: trunkless_rule(line.without("SDR1"))),
    *everywhere(
        "another agent's rule", lambda line: trunkless_rule(line.without("SDR1"), agents=RECORDER), "rule_gone SDR1"
    ),
    *everywhere("another trunk's", lambda line: line.rule(trunk_ids=("ST9",)), "rule_dead_trunk SDR1"),
    *everywhere(
        "another trunk's, for some callers",
        lambda line: line.rule(trunk_ids=("ST9",), inbound_numbers=(CALLER,)),
        "rule_dead_trunk SDR1",
        "~rule_filtered SDR1",
    ),
    *everywhere("several trunks", lambda line: line.rule(trunk_ids=("ST9", "ST1"))),
    *everywhere("all trunks", lambda line: line.rule(trunk_ids=())),
    *everywhere(
        "all trunks, another rule has ours",
        lambda line: line.rule(trunk_ids=()).add_rule("SDR2", agents=RECORDER),
        "rule_overridden SDR2",
        "rule_wildcard SDR1",
    ),
    *everywhere(
        "all trunks, another takes some callers before ours",
        lambda line: trunkless_rule(line.rule(trunk_ids=()), inbound_numbers=(CALLER,), agents=RECORDER),
        "~rule_wildcard SDR1",
    ),
    *everywhere(
        "all trunks, as another one",
        lambda line: trunkless_rule(line.rule(trunk_ids=())),
        "rule_wildcard SDR1",
        "rule_conflict SDR2",
    ),
    *everywhere("another has all trunks", lambda line: trunkless_rule(line, agents=RECORDER)),
    *everywhere(
        "two others have all trunks",
        lambda line: trunkless_rule(line).add_rule("SDR3", trunk_ids=()),
        "rule_conflict SDR2",
    ),
    *everywhere(
        "two others have all trunks, and ours asks for a PIN",
        lambda line: trunkless_rule(line.rule(pin="1")).add_rule("SDR3", trunk_ids=()),
        "rule_conflict SDR2",
        "rule_pin SDR1",
    ),
    *everywhere(
        "ours has all trunks, two others have ours",
        lambda line: line.rule(trunk_ids=()).add_rule("SDR2").add_rule("SDR3"),
        "rule_conflict SDR2",
    ),
    *everywhere(
        "ours has all trunks, for some callers",
        lambda line: line.rule(trunk_ids=(), inbound_numbers=(CALLER,)),
        "~rule_filtered SDR1",
    ),
    *everywhere(
        "ours is for some callers, another goes before it",
        lambda line: line.rule(inbound_numbers=(CALLER,)).add_rule(
            "SDR2", numbers=(CALLED,), room="a", agents=RECORDER
        ),
        "rule_overridden SDR2",
        "~rule_filtered SDR1",
    ),
    *everywhere("another like ours", lambda line: line.add_rule("SDR2"), "rule_conflict SDR2"),
    *everywhere(
        "another like ours, and ours has lost the agent",
        lambda line: line.rule(agents=()).add_rule("SDR0", name="theirs"),
        "rule_conflict SDR0",
        "rule_lost_agent SDR1",
    ),
    *everywhere(
        "others conflict, ours is gone",
        lambda line: line.without("SDR1").add_rule("SDR2").add_rule("SDR3"),
        "rule_conflict SDR2",
        "rule_gone SDR1",
    ),
    *everywhere("it names the trunk twice", lambda line: line.rule(trunk_ids=("ST1", "ST1")), "rule_changed SDR1"),
    *everywhere(
        "it names one number in two forms",
        lambda line: line.rule(numbers=(CALLED, SHORT_CALLED)),
        "rule_changed SDR1",
    ),
    *everywhere(
        "another names a number twice",
        lambda line: line.add_rule("SDR2", inbound_numbers=("1", "+1")),
        "rule_conflict SDR2",
    ),
    *everywhere("some callers", lambda line: line.rule(inbound_numbers=(CALLER,)), "~rule_filtered SDR1"),
    *everywhere("the number", lambda line: line.rule(numbers=(CALLED,))),
    *everywhere(
        "the number, not as Twilio writes it", lambda line: line.rule(numbers=(SHORT_CALLED,)), "rule_filtered SDR1"
    ),
    *everywhere(
        "another takes some callers",
        lambda line: line.add_rule("SDR2", inbound_numbers=(CALLER,), agents=RECORDER),
        "~rule_overridden SDR2",
    ),
    *everywhere(
        "another takes some callers to our agent", lambda line: line.add_rule("SDR2", inbound_numbers=(CALLER,))
    ),
    *everywhere(
        "another takes the number",
        lambda line: line.add_rule("SDR2", numbers=(CALLED,), agents=RECORDER),
        "rule_overridden SDR2",
    ),
    *everywhere(
        "of two filters of one rank, the lower room goes first",
        lambda line: line.rule(numbers=(CALLED,)).add_rule(
            "SDR2", inbound_numbers=(CALLER,), room="calk", agents=RECORDER
        ),
        "~rule_overridden SDR2",
    ),
    *everywhere(
        "of two filters of one rank, the higher room goes last",
        lambda line: line.rule(numbers=(CALLED,)).add_rule(
            "SDR2", inbound_numbers=(CALLER,), room="calm", agents=RECORDER
        ),
    ),
    *everywhere("a PIN", lambda line: line.rule(pin="1"), "rule_pin SDR1"),
    *everywhere("another asks for a PIN", lambda line: line.add_rule("SDR2", pin="1"), "rule_overridden SDR2"),
    *everywhere("another for all trunks asks for a PIN", lambda line: trunkless_rule(line, pin="1")),
    *everywhere("all callers share a room", lambda line: line.rule(kind=RuleKind.DIRECT)),
    *everywhere("a kind that is not known", lambda line: line.rule(kind=RuleKind.UNKNOWN)),
    *everywhere("no agent", lambda line: line.rule(agents=()), "rule_lost_agent SDR1"),
    *everywhere("another agent", lambda line: line.rule(agents=RECORDER), "rule_lost_agent SDR1"),
    *everywhere("a second agent", lambda line: line.rule(agents=(*RECORDER, RuleAgent(AGENT)))),
    *everywhere("a preset of which nothing is known", lambda line: line.rule(room_preset="large")),
]

ROOMS = [
    *everywhere("a room name with space for every caller", lambda line: line.rule(room=226 * "r")),
    *everywhere("one without space for long numbers", lambda line: line.rule(room=227 * "r"), "~rule_changed SDR1"),
    *everywhere("one without space for a number", lambda line: line.rule(room=256 * "r"), "rule_changed SDR1"),
    *everywhere("one of many bytes", lambda line: line.rule(room=128 * "\u00e9"), "rule_changed SDR1"),
    *everywhere("a fixed one", lambda line: line.rule(room=239 * "r", is_fixed_room=True)),
    *everywhere("a longer fixed one", lambda line: line.rule(room=240 * "r", is_fixed_room=True), "~rule_changed SDR1"),
    *everywhere("four digits of a caller", lambda line: line.rule(room=238 * "r", hides_caller=True)),
    *everywhere("no space for them", lambda line: line.rule(room=239 * "r", hides_caller=True), "rule_changed SDR1"),
    *everywhere("the called number", lambda line: line.rule(room=230 * "r", kind=RuleKind.CALLEE)),
    *everywhere("no space for it", lambda line: line.rule(room=231 * "r", kind=RuleKind.CALLEE), "rule_changed SDR1"),
    *everywhere("one for all", lambda line: line.rule(room=256 * "r", kind=RuleKind.DIRECT)),
    *everywhere("too long a one", lambda line: line.rule(room=257 * "r", kind=RuleKind.DIRECT), "rule_changed SDR1"),
    *everywhere("none for all", lambda line: line.rule(room="", kind=RuleKind.DIRECT), "rule_changed SDR1"),
    *everywhere("no prefix", lambda line: line.rule(room="")),
    *everywhere("a prefix, of a kind that is not known", lambda line: line.rule(room=257 * "r", kind=RuleKind.UNKNOWN)),
]


PRESETS = [
    pytest.param(replace(CLOUD, room_presets=frozenset({"large"})), change, expected, id=name)
    for name, change, expected in (
        ("a preset", lambda line: line.rule(room_preset="large"), []),
        ("a preset that the server lacks", lambda line: line.rule(room_preset="small"), ["rule_preset SDR1"]),
        (
            "another's preset that the server lacks",
            lambda line: line.add_rule("SDR2", numbers=(CALLED,), room_preset="small"),
            ["rule_overridden SDR2"],
        ),
    )
]

MEDIA = [
    *everywhere("Twilio encrypts", lambda line: line.trunk(is_secure=True), "trunk_secure TK1"),
    *everywhere("both encrypt", lambda line: line.trunk(is_secure=True).inbound(media=Media(REQUIRE))),
    *everywhere("Twilio encrypts and LiveKit may", lambda line: line.trunk(is_secure=True).rule(media=Media(ALLOW))),
    *everywhere("LiveKit may encrypt", lambda line: line.inbound(media=Media(ALLOW))),
    *everywhere(
        "the trunk requires it", lambda line: line.inbound(media=Media(REQUIRE)), "livekit_trunk_encryption ST1"
    ),
    *everywhere("the rule requires it", lambda line: line.rule(media=Media(REQUIRE)), "rule_encryption SDR1"),
    *everywhere(
        "both require it",
        lambda line: line.rule(media=Media(REQUIRE)).inbound(media=Media(REQUIRE)),
        "rule_encryption SDR1",
        "livekit_trunk_encryption ST1",
    ),
    *everywhere(
        "the rule goes before the trunk", lambda line: line.rule(media=Media(ALLOW)).inbound(media=Media(REQUIRE))
    ),
    *everywhere(
        "another rule requires it",
        lambda line: line.add_rule("SDR2", numbers=(CALLED,), media=Media(REQUIRE)),
        "rule_overridden SDR2",
    ),
    *everywhere(
        "the trunk requires it, wherever the number is",
        lambda line: elsewhere(line).inbound(media=Media(REQUIRE)),
        "livekit_trunk_encryption ST1",
    ),
    *secured("as made", lambda line: line.inbound(media=Media(REQUIRE))),
    *secured("LiveKit does not encrypt", lambda line: line, "livekit_trunk_changed ST1"),
    *secured(
        "Twilio does not encrypt",
        lambda line: line.trunk(is_secure=False).inbound(media=Media(REQUIRE)),
        "trunk_changed TK1",
    ),
    *secured("the trunk is gone", lambda line: line.without("TK1").inbound(media=Media(REQUIRE)), "trunk_gone TK1"),
    *secured(
        "Twilio calls over TLS whatever the URI says",
        lambda line: line.inbound(media=Media(REQUIRE)).url(sip_url=f"{host(line)}:5060;transport=udp"),
    ),
    *everywhere(
        "codecs of which Twilio has none",
        lambda line: line.inbound(media=Media(codecs=("G722", "opus/48000"), only_listed_codecs=True)),
        "livekit_trunk_changed ST1",
    ),
    *everywhere(
        "the rule's codecs go before the trunk's",
        lambda line: line.rule(media=Media(codecs=("PCMA",), only_listed_codecs=True)).inbound(
            media=Media(codecs=("G722",), only_listed_codecs=True)
        ),
    ),
    *everywhere(
        "the rule's codecs",
        lambda line: line.rule(media=Media(codecs=("G722",), only_listed_codecs=True)),
        "rule_changed SDR1",
    ),
    *everywhere(
        "the trunk requires it, and the rule is gone",
        lambda line: line.without("SDR1").inbound(media=Media(REQUIRE)),
        "rule_gone SDR1",
        "livekit_trunk_encryption ST1",
    ),
    *secured("the LiveKit trunk is gone", lambda line: line.without("ST1"), "livekit_trunk_gone ST1"),
    *everywhere("codecs besides the usual ones", lambda line: line.rule(media=Media(codecs=("G722", "opus/48000")))),
    *everywhere(
        "only listed codecs, and none",
        lambda line: line.inbound(media=Media(only_listed_codecs=True)),
        "livekit_trunk_changed ST1",
    ),
    *everywhere(
        "only listed codecs, and none, on the rule", lambda line: line.rule(media=Media(only_listed_codecs=True))
    ),
    *everywhere(
        "only listed codecs, in any case and with a rate",
        lambda line: line.inbound(media=Media(codecs=("pcmu/8000",), only_listed_codecs=True)),
    ),
    *everywhere(
        "only a codec that Twilio has",
        lambda line: line.inbound(media=Media(codecs=("PCMU",), only_listed_codecs=True)),
    ),
    *everywhere("a codec without its rate", lambda line: line.rule(media=Media(codecs=("opus",))), "rule_changed SDR1"),
]


@pytest.mark.parametrize(("profile", "change", "expected"), [*LIVEKIT_TRUNKS, *RULES, *ROOMS, *PRESETS, *MEDIA])
def test_every_reason_is_told_and_no_other(profile: Profile, change: Change, expected: list[str]) -> None:
    check_reasons(profile, change, expected)
