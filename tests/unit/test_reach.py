"""Whether a call gets through, and why not: one row for each rule of Twilio's and LiveKit's matching."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.findings import Callers
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, NUMBER, ORIGINATION_URL, TRUNK
from app.domain.sip_uris import TWILIO_SIGNALLING, parse_sip_uri
from app.path.arrival import drawn, leads_to
from app.path.observed import Encryption, Media, RuleAgent, RuleKind
from app.path.reach import Call, Reach, follow, reach
from app.path.spec import Profile
from tests.support.line import AGENT, CALLED, CALLER, CLOUD, OWN_SERVER, Line
from tests.support.malformed_texts import ANY_TEXT

SECURE = replace(CLOUD, sip_uri=CLOUD.sip_uri.over_tls(), is_secure=True)
OTHER_URL = "sip:pbx.example.com"
EU_URL = "sip:abc.eu.sip.livekit.cloud;transport=tcp"
SHORT_CALLED = CALLED.removeprefix("+")
OTHER_CALLER = "+13105550198"
RECORDER = (RuleAgent("recorder"),)
DISABLE, ALLOW, REQUIRE = Encryption

Change = Callable[[Line], Line]

Objects = list[dict[str, Any]]
"""The fields of objects of one kind."""


def host(line: Line) -> str:
    """Return the URI of LiveKit without parameters."""
    return f"sip:{line.profile.sip_uri.host}"


def told(found: Reach) -> list[str]:
    """Return the reasons as `code id`, with a `~` where only some calls fail."""
    return [
        f"{'~' if callers is Callers.SOME else ''}{reason.code} {reason.resource[1] if reason.resource else ''}"
        for reason, callers in found.reasons
    ]


def reach_of(line: Line, *, caller: str | None = None, source: str | None = None) -> Reach:
    return reach(line.observed(), line.spec, caller=caller, source=source)


def everywhere(name: str, change: Change, *expected: str) -> list[object]:
    """Return a row for LiveKit Cloud and one for a server of one's own."""
    return [
        pytest.param(profile, change, list(expected), id=f"{name}, {where}")
        for profile, where in ((CLOUD, "Cloud"), (OWN_SERVER, "own server"))
    ]


def on_cloud(name: str, change: Change, *expected: str) -> list[object]:
    return [pytest.param(CLOUD, change, list(expected), id=name)]


def on_own_server(name: str, change: Change, *expected: str) -> list[object]:
    return [pytest.param(OWN_SERVER, change, list(expected), id=f"{name}, own server")]


def secured(name: str, change: Change, *expected: str) -> list[object]:
    return [pytest.param(SECURE, change, list(expected), id=f"{name}, secure line")]


def elsewhere(line: Line, *, secure: bool = False, url: str | None = None) -> Line:
    """Put our number on somebody else's trunk, which has one URL."""
    line.number("TK2").add_trunk("TK2", is_secure=secure)
    return line.add_url("OU2", "TK2", sip_url=url or str(line.profile.sip_uri))


def trunkless_rule(line: Line, **to: object) -> Line:
    return line.add_rule("SDR2", **{"trunk_ids": (), **to})


def numberless_trunk(line: Line) -> Line:
    """Add a trunk without numbers, for one caller, from which our rule takes calls too."""
    return line.rule(trunk_ids=("ST1", "ST2")).add_inbound("ST2", numbers=(), allowed_numbers=(OTHER_CALLER,))


NUMBERS = [
    *everywhere("as made", lambda line: line),
    *everywhere("the number is gone", lambda line: line.without("PN1"), "number_gone PN1"),
    *everywhere("the number cannot be read", lambda line: line.cannot_read(NUMBER, "PN1"), "unreadable PN1"),
    *everywhere("it has no voice", lambda line: line.number(has_voice=False), "number_no_voice PN1"),
    *everywhere("it receives fax", lambda line: line.number(receive_mode="fax"), "number_no_voice PN1"),
    *everywhere("it is suspended", lambda line: line.number(status="suspended"), "number_no_voice PN1"),
    *everywhere("a status that is empty is fine", lambda line: line.number(status="", receive_mode="")),
    *everywhere("it is on no trunk", lambda line: line.number(None), "number_detached PN1"),
    *everywhere(
        "it has a URL and no trunk", lambda line: line.number(None, url="https://x.example"), "number_detached PN1"
    ),
    *everywhere("it is on an application", lambda line: line.number(None, "AP1"), "number_moved PN1"),
    *everywhere("a trunk goes before both", lambda line: line.number("TK1", "AP1", "https://x.example")),
    *everywhere("it is on a trunk that is not there", lambda line: line.number("TK2"), "number_moved PN1"),
    *everywhere("it is on another trunk that leads to LiveKit", elsewhere),
    *everywhere("it is on another trunk that does not", partial(elsewhere, url=OTHER_URL), "number_moved PN1"),
    *everywhere(
        "another trunk makes the number another",
        partial(elsewhere, url="sip:sales@abc.sip.livekit.cloud"),
        "number_moved PN1",
    ),
    *everywhere(
        "the other trunk shares with somebody else",
        lambda line: elsewhere(line).add_url("OU3", "TK2", sip_url=OTHER_URL),
        "~number_moved PN1",
    ),
    *everywhere("the other trunk encrypts", partial(elsewhere, secure=True), "number_moved PN1"),
    *everywhere(
        "what stands on the way to ours follows",
        lambda line: line.number(None, has_voice=False).url(is_enabled=False),
        "number_no_voice PN1",
        "number_detached PN1",
        "origination_url_disabled OU1",
    ),
]

TRUNKS_AND_URLS = [
    *everywhere("the trunk is gone", lambda line: line.without("TK1"), "trunk_gone TK1"),
    *everywhere("the trunk cannot be read", lambda line: line.cannot_read(TRUNK, "TK1"), "unreadable TK1"),
    *everywhere("the trunk is gone, the number elsewhere", lambda line: elsewhere(line).without("TK1")),
    *everywhere("the URL is gone", lambda line: line.without("OU1"), "origination_url_missing OU1"),
    *everywhere(
        "the URL cannot be read", lambda line: line.cannot_read(ORIGINATION_URL, "OU1", "TK1"), "unreadable OU1"
    ),
    *everywhere("the URL is disabled", lambda line: line.url(is_enabled=False), "origination_url_disabled OU1"),
    *everywhere("another URL stands in", lambda line: line.url(is_enabled=False).add_url("OU2", priority=20)),
    *everywhere("the URL leads elsewhere", lambda line: line.url(sip_url=OTHER_URL), "origination_host_wrong OU1"),
    *everywhere(
        "a port of somebody else", lambda line: line.url(sip_url=f"{host(line)}:5080"), "origination_host_wrong OU1"
    ),
    *everywhere("a SIP port", lambda line: line.url(sip_url=f"{host(line)}:5061")),
    *everywhere("another transport and an edge", lambda line: line.url(sip_url=f"{host(line)};edge=dublin")),
    *on_cloud("the region form", lambda line: line.url(sip_url=EU_URL)),
    *on_cloud(
        "another project's region",
        lambda line: line.url(sip_url="sip:x.eu.sip.livekit.cloud"),
        "origination_host_wrong OU1",
    ),
    *on_cloud(
        "not the region form",
        lambda line: line.url(sip_url="sip:abc.a.b.sip.livekit.cloud"),
        "origination_host_wrong OU1",
    ),
    *everywhere(
        "a user part",
        lambda line: line.url(sip_url=host(line).replace("sip:", "sip:sales@")),
        "origination_url_changed OU1",
    ),
    *everywhere(
        "a user part that is our number",
        lambda line: line.url(sip_url=host(line).replace("sip:", f"sip:{SHORT_CALLED}@")),
    ),
    *everywhere(
        "a user part that a rule knows otherwise",
        lambda line: line.url(sip_url=host(line).replace("sip:", f"sip:{SHORT_CALLED}@")).rule(numbers=(CALLED,)),
        "origination_url_changed OU1",
    ),
    *everywhere("it cannot be read", lambda line: line.url(sip_url="sip:[::1"), "origination_url_changed OU1"),
    *everywhere(
        "another that cannot be read answers nothing", lambda line: line.add_url("OU0", priority=0, sip_url="sip:[::1")
    ),
    *everywhere(
        "another goes before ours",
        lambda line: line.add_url("OU0", priority=9, sip_url=OTHER_URL),
        "origination_url_overridden OU0",
    ),
    *everywhere("another goes after ours", lambda line: line.add_url("OU0", priority=11, sip_url=OTHER_URL)),
    *everywhere(
        "another goes before ours, which is wrong too",
        lambda line: line.url(sip_url=OTHER_URL).add_url("OU0", priority=9, sip_url=OTHER_URL),
        "origination_url_overridden OU0",
        "origination_host_wrong OU1",
    ),
    *everywhere(
        "another shares with ours",
        lambda line: line.add_url("OU0", sip_url=OTHER_URL, weight=30),
        "~origination_url_overridden OU0",
    ),
    *everywhere("another without weight", lambda line: line.add_url("OU0", sip_url=OTHER_URL, weight=0)),
    *everywhere(
        "ours was moved behind",
        lambda line: line.url(priority=20).add_url("OU0", priority=11, sip_url=OTHER_URL),
        "origination_url_changed OU1",
    ),
    *everywhere(
        "ours has half the weight",
        lambda line: line.url(weight=5).add_url("OU2", sip_url=OTHER_URL),
        "~origination_url_changed OU1",
        "~origination_url_overridden OU2",
    ),
    *everywhere(
        "ours is wrong and has more weight, another is right",
        lambda line: line.url(sip_url=OTHER_URL, weight=30).add_url("OU0"),
        "~origination_host_wrong OU1",
    ),
    *everywhere("ours was moved", lambda line: line.url(priority=20, weight=0)),
    *everywhere(
        "ours has less weight",
        lambda line: line.url(weight=0).add_url("OU2", sip_url=OTHER_URL),
        "~origination_url_changed OU1",
        "~origination_url_overridden OU2",
    ),
    *everywhere(
        "ours is gone, another is wrong",
        lambda line: line.without("OU1").add_url("OU2", priority=20, sip_url=OTHER_URL),
        "origination_url_missing OU1",
    ),
    *on_cloud(
        "a disabled one takes nothing",
        lambda line: line.add_url("OU0", priority=0, sip_url=OTHER_URL, is_enabled=False),
    ),
]

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


@pytest.mark.parametrize(
    ("profile", "change", "expected"), [*NUMBERS, *TRUNKS_AND_URLS, *LIVEKIT_TRUNKS, *RULES, *PRESETS, *MEDIA]
)
def test_every_reason_why_calls_fail_is_told_and_no_other(
    profile: Profile, change: Change, expected: list[str]
) -> None:
    found = reach_of(change(Line.whole(profile)))

    assert told(found) == expected
    is_told_whose = all("Affected: " in reason.detail for reason, callers in found.reasons if callers is Callers.SOME)
    assert is_told_whose
    assert (AGENT in found.agents) or found.reasons
    assert not found.agents or not any(callers is Callers.ALL for _, callers in found.reasons)


@pytest.mark.parametrize(
    ("change", "affected"),
    [
        (lambda line: line.inbound(allowed_numbers=(CALLER,)), "every caller but ********0199"),
        (
            lambda line: line.add_rule("SDR2", inbound_numbers=(CALLER, "13105550198", "sales"), agents=RECORDER),
            "callers ********0198, ********0199, sales",
        ),
        (
            lambda line: line.inbound(allowed_numbers=tuple(f"+1310555010{digit}" for digit in range(7))),
            "every caller but " + ", ".join(f"********010{digit}" for digit in range(5)) + " and 2 more",
        ),
        (
            lambda line: line.inbound(allowed_addresses=("54.0.0.0/8", "177.71.206.192")),
            "calls from 35.156.191.128/30, 177.71.206.193, 177.71.206.194, 177.71.206.195",
        ),
        (
            lambda line: line.inbound(allowed_numbers=tuple(f"+1310555010{digit}" for digit in range(5))),
            "every caller but " + ", ".join(f"********010{digit}" for digit in range(5)),
        ),
        (
            lambda line: numberless_trunk(line.inbound(allowed_numbers=(CALLER,))),
            "every caller but ********0198, ********0199",
        ),
        (
            lambda line: numberless_trunk(line.inbound(allowed_addresses=TWILIO_SIGNALLING[1:])),
            "every caller but ********0198, calls from 54.172.60.0/30",
        ),
        (
            lambda line: numberless_trunk(line.inbound(allowed_addresses=("192.0.2.1",))),
            "every caller but ********0198",
        ),
        (
            lambda line: trunkless_rule(line.rule(inbound_numbers=(CALLER,)), inbound_numbers=(OTHER_CALLER,)),
            "every caller but ********0198, ********0199",
        ),
        (
            lambda line: trunkless_rule(line.rule(numbers=("+19",)), inbound_numbers=(OTHER_CALLER,)),
            "every caller but ********0198",
        ),
        (lambda line: line.add_url("OU0", sip_url=OTHER_URL, weight=30), "about 75 % of the calls"),
        (
            lambda line: line.inbound(allowed_addresses=TWILIO_SIGNALLING[1:], allowed_numbers=(CALLER,)),
            "some combinations of caller and address",
        ),
        (
            lambda line: line.add_inbound("ST2", allowed_addresses=TWILIO_SIGNALLING[:1], allowed_numbers=(CALLER,)),
            "callers ********0199, calls from 54.172.60.0/30",
        ),
    ],
)
def test_the_detail_says_whose_calls_fail(change: Change, affected: str) -> None:
    ((reason, callers),) = reach_of(change(Line.whole())).reasons

    assert callers is Callers.SOME
    assert reason.detail.endswith(f"Affected: {affected}.")


def test_without_a_trunk_a_rule_for_all_trunks_may_take_some_callers() -> None:
    line = trunkless_rule(Line.whole(OWN_SERVER).inbound(allowed_numbers=(CALLER,)), inbound_numbers=(OTHER_CALLER,))
    ((reason, _),) = reach_of(line).reasons

    assert reason.detail.endswith("Affected: every caller but ********0198, ********0199.")


def test_a_caller_that_a_list_names_in_another_form_calls_in_e164() -> None:
    short = (CALLER.removeprefix("+"),)
    line = Line.whole().inbound(allowed_numbers=short).add_rule("SDR2", inbound_numbers=short, agents=RECORDER)

    assert told(reach_of(line)) == ["~livekit_trunk_callers ST1", "~rule_overridden SDR2"]
    assert reach_of(line).agents == (AGENT,)


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (
            lambda line: line.number(has_voice=False, receive_mode="fax", status="suspended"),
            "It has no voice capability, is set to receive fax, has the status suspended.",
        ),
        (lambda line: line.number(has_voice=False), "It has no voice capability."),
        (
            lambda line: line.url(sip_url="sip:[::1").add_url("OU2", priority=20, sip_url=OTHER_URL),
            "It cannot be read: sip:[::1.",
        ),
        (lambda line: line.number(status="x\x1b"), "It has the status x\\x1b."),
        (lambda line: line.number(None), ""),
        (lambda line: line.number(None, url="https://x.example"), "It has a voice URL of its own."),
        (lambda line: line.number(None, "AP1"), "It is on application AP1."),
        (lambda line: line.number("TK2"), "It is on trunk TK2."),
        (partial(elsewhere, secure=True), "It is on trunk TK2, which requires encrypted media."),
        (
            lambda line: elsewhere(line).trunk(is_secure=True).inbound(media=Media(REQUIRE)),
            "It is on trunk TK2, which does not send encrypted media.",
        ),
        (lambda line: line.url(sip_url=OTHER_URL), "It is sip:pbx.example.com."),
        (
            lambda line: line.url(priority=20, weight=5).add_url("OU2", priority=11, sip_url=OTHER_URL),
            "Its priority is 20 and its weight 5: OU2 is called before it.",
        ),
        (
            lambda line: line.add_url("OU2", priority=9, sip_url=OTHER_URL),
            "OU2 (sip:pbx.example.com) is called before ours.",
        ),
        (lambda line: line.add_inbound("ST2"), "ST1 and ST2 have the number."),
        (lambda line: line.inbound(numbers=("+19",)), ""),
        (
            lambda line: line.inbound(numbers=()).add_inbound("ST2"),
            "It has no numbers, which stands for every number: a trunk that has the number goes before it.",
        ),
        (
            lambda line: line.inbound(has_username=True, has_password=True),
            "It asks for a user name and a password, which Twilio cannot send.",
        ),
        (
            lambda line: line.inbound(max_call_duration_s=5, ringing_timeout_s=0.25),
            "It cuts calls after 5 s, lets it ring for 0.25 s.",
        ),
        (lambda line: line.rule(agents=()), "It names no agent."),
        (lambda line: line.rule(agents=(*RECORDER, RuleAgent("other"))), "It names recorder, other."),
        (lambda line: line.rule(trunk_ids=("ST8", "ST9")), "It names ST8, ST9."),
        (lambda line: line.add_rule("SDR2"), "SDR1 (tag) and SDR2 (tag)."),
        (
            lambda line: line.add_rule("SDR2", name="", numbers=(CALLED,), pin="1", agents=()),
            "SDR2 is matched before ours, and asks for a PIN, does not start the agent.",
        ),
        (lambda line: line.rule(media=Media(codecs=("opus",))), "It lists a codec without its clock rate."),
    ],
)
def test_the_detail_says_what_is_wrong(change: Change, detail: str) -> None:
    reason, _ = reach_of(change(Line.whole())).reasons[0]

    assert reason.detail == detail


def test_two_wildcard_trunks_are_named_beside_what_ours_lacks() -> None:
    for change, detail in (
        (lambda line: line.add_inbound("ST2"), "ST2 has the number too."),
        (
            lambda line: line.add_inbound("ST2", numbers=()).add_inbound("ST3", numbers=()),
            "ST2 and ST3 have no numbers, which stands for every number.",
        ),
    ):
        _, (reason, _) = reach_of(change(Line.whole().without("ST1"))).reasons
        assert reason.detail == detail


def test_an_origination_url_leads_to_livekit_by_host_and_port() -> None:
    odd_port = replace(OWN_SERVER, sip_uri=parse_sip_uri("sip:sip.example.com:5080"))
    leading = [(CLOUD, EU_URL), (OWN_SERVER, "SIPS:SIP.Example.com"), (odd_port, "sip:sip.example.com:5080")]
    others = [
        (CLOUD, "sip:[::1"),
        (odd_port, "sip:sip.example.com:5081"),
        (replace(OWN_SERVER, sip_uri=parse_sip_uri("sip:pbx.example")), "sip:pbx.other"),
        (replace(CLOUD, sip_uri=parse_sip_uri("sip:abc.eu.sip.livekit.cloud")), "sip:xyz.sip.livekit.cloud"),
    ]

    assert all(leads_to(sip_url, profile) for profile, sip_url in leading)
    assert not any(leads_to(sip_url, profile) for profile, sip_url in others)
    in_a_region = replace(CLOUD, sip_uri=parse_sip_uri("sip:abc.eu.sip.livekit.cloud"))
    assert all(leads_to(f"sip:{name}.sip.livekit.cloud", in_a_region) for name in ("abc", "abc.eu", "abc.us"))


def test_a_given_caller_or_address_is_the_only_one_that_is_looked_at() -> None:
    line = Line.whole().inbound(allowed_numbers=(CALLER,), allowed_addresses=TWILIO_SIGNALLING[1:])

    assert told(reach_of(line)) == ["~livekit_trunk_callers ST1"]
    assert told(reach_of(line, caller=CALLER, source="177.71.206.192")) == []
    assert told(reach_of(line, source="177.71.206.192")) == ["~livekit_trunk_callers ST1"]
    assert told(reach_of(line, caller=CALLER, source="54.172.60.1")) == ["livekit_trunk_callers ST1"]


def test_where_no_address_of_twilio_is_set_calls_come_from_those_that_are() -> None:
    proxy = replace(OWN_SERVER, allowed_addresses=("10.1.0.0/16", "10.2.0.0/16"))

    assert told(reach_of(Line.whole(proxy))) == []
    assert told(reach_of(Line.whole(proxy).inbound(allowed_addresses=("10.0.0.0/14",)))) == []
    assert told(reach_of(Line.whole(proxy).inbound(allowed_addresses=("10.2.0.0/16",)))) == [
        "~livekit_trunk_changed ST1"
    ]


def test_a_call_starts_the_agents_of_the_rule_that_takes_it() -> None:
    call = Call(CALLER, "54.172.60.1", 0.5)

    def started(change: Change) -> tuple[str, ...]:
        line = change(Line.whole())
        return follow(line.observed(), line.spec, call).agents

    assert started(lambda line: line.rule(agents=(*RECORDER, RuleAgent(AGENT)))) == ("recorder", AGENT)
    assert started(lambda line: line.rule(agents=RECORDER)) == ("recorder",)
    assert started(lambda line: line.add_rule("SDR2", inbound_numbers=(CALLER,), agents=RECORDER)) == ("recorder",)
    assert started(lambda line: line.inbound(max_call_duration_s=1)) == (AGENT,)
    for nobody in (
        lambda line: line.rule(pin="1"),
        lambda line: line.rule(media=Media(REQUIRE)),
        lambda line: line.inbound(has_username=True, has_password=True),
        lambda line: line.without("OU1"),
        lambda line: line.add_rule("SDR2"),
    ):
        assert started(nobody) == ()


def test_urls_of_one_priority_are_drawn_by_weight_and_the_others_follow() -> None:
    urls = Line.whole().add_url("OU0", weight=0).add_url("OU2", weight=30).add_url("OU3", priority=11).urls["TK1"]

    def order(roll: float, *skipped: str) -> list[str]:
        return [url.sid for url in drawn([url for url in urls if url.sid not in skipped], roll)]

    assert order(0.0) == ["OU1", "OU0", "OU2", "OU3"]
    assert order(0.24) == ["OU1", "OU0", "OU2", "OU3"]
    assert order(0.25) == ["OU2", "OU0", "OU1", "OU3"]
    assert order(0.99) == ["OU2", "OU0", "OU1", "OU3"]
    assert order(0.99, "OU1", "OU2") == ["OU0", "OU3"]
    weightless = [replace(url, weight=0) for url in urls]
    assert [next(drawn(weightless, roll)).sid for roll in (0.0, 0.34, 0.67)] == ["OU0", "OU1", "OU2"]
    assert next(drawn([replace(urls[0], weight=1)], 0.99)).sid == "OU1"


_NUMBERS = st.sampled_from(["", CALLED, SHORT_CALLED, CALLER, "1 310 555-0199", "sales"])
_SOME_NUMBERS = st.lists(_NUMBERS, max_size=2).map(tuple)
_ADDRESSES = st.sampled_from([*TWILIO_SIGNALLING, "54.172.60.1", "0.0.0.0/0", "oops", "oops;", "54.0.0.0/8"])
_MEDIA = st.builds(
    Media,
    st.sampled_from(Encryption),
    st.lists(st.sampled_from(["PCMU", "G722"]), max_size=2).map(tuple),
    st.booleans(),
)
_TRUNK = st.fixed_dictionaries(
    {
        "numbers": _SOME_NUMBERS,
        "allowed_numbers": _SOME_NUMBERS,
        "allowed_addresses": st.lists(_ADDRESSES, max_size=3).map(tuple),
        "has_username": st.booleans(),
        "has_password": st.booleans(),
        "media": _MEDIA,
    }
)
_RULE = st.fixed_dictionaries(
    {
        "trunk_ids": st.lists(st.sampled_from(["ST1", "ST2", "ST3", ""]), max_size=2).map(tuple),
        "inbound_numbers": _SOME_NUMBERS,
        "numbers": _SOME_NUMBERS,
        "kind": st.sampled_from(RuleKind),
        "room": st.sampled_from(["a", "call", "z"]),
        "pin": st.sampled_from(["", "", "1"]),
        "agents": st.lists(st.sampled_from([*RECORDER, RuleAgent(AGENT)]), max_size=2).map(tuple),
        "media": _MEDIA,
    }
)
_URL = st.fixed_dictionaries(
    {
        "sip_url": st.sampled_from([OTHER_URL, EU_URL, "sip:sales@abc.sip.livekit.cloud", "sip:[::1"]),
        "is_enabled": st.booleans(),
        "priority": st.integers(9, 11),
        "weight": st.integers(0, 3),
    }
)


def _line(profile: Profile, changed: set[str], trunks: Objects, rules: Objects, urls: Objects) -> Line:
    """Return a path with objects of others, whose first ones replace ours where it is `changed`."""
    line = Line.whole(profile)
    for kind, objects, add, change in (
        ("ST", trunks, line.add_inbound, line.inbound),
        ("SDR", rules, line.add_rule, line.rule),
        ("OU", urls, line.add_url, line.url),
    ):
        for index, fields in enumerate(objects, start=2):
            if index == 2 and f"{kind}1" in changed:
                change(**fields)
            else:
                add(f"{kind}{index}", **fields)
    return line


_LINES = st.builds(
    _line,
    st.sampled_from([CLOUD, OWN_SERVER]),
    st.sets(st.sampled_from(["ST1", "SDR1", "OU1"])),
    st.lists(_TRUNK, max_size=2),
    st.lists(_RULE, max_size=3),
    st.lists(_URL, max_size=2),
)


_CALLS = st.builds(
    Call,
    _NUMBERS.filter(bool) | st.just("+12125550177"),
    st.sampled_from(["54.172.60.0", "54.172.60.1", "177.71.206.195"]),
    st.floats(0, 1, exclude_max=True),
)


@settings(max_examples=400, deadline=None)
@given(_LINES, _CALLS)
def test_what_is_said_of_all_calls_holds_for_each(line: Line, call: Call) -> None:
    observed, spec = line.observed(), line.spec
    followed, found = follow(observed, spec, call), reach(observed, spec)
    whose = {(reason.code, reason.resource): callers for reason, callers in found.reasons}
    reasons = {(reason.code, reason.resource) for reason in followed.reasons}

    assert reasons or AGENT in followed.agents
    assert reasons <= whose.keys()
    assert {reason for reason, callers in whose.items() if callers is Callers.ALL} <= reasons
    if not reasons:
        assert set(followed.agents) <= set(found.agents)
    given_one = reach(observed, spec, caller=call.caller, source=call.source)
    assert {(reason.code, reason.resource) for reason, _ in given_one.reasons} >= reasons


_TEXTS = st.lists(ANY_TEXT, max_size=3).map(tuple)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_text_breaks_it(data: st.DataObject) -> None:
    def text() -> str:
        return data.draw(ANY_TEXT)

    def texts() -> tuple[str, ...]:
        return data.draw(_TEXTS)

    line = Line.whole(data.draw(st.sampled_from([CLOUD, OWN_SERVER])))
    line.number(data.draw(st.sampled_from(["TK1", "TK2", None])), text(), text(), status=text())
    line.url(sip_url=text()).add_url("OU2", sip_url=text(), priority=data.draw(st.integers(9, 11)))
    media = Media(codecs=texts(), only_listed_codecs=data.draw(st.booleans()))
    agents = tuple(map(RuleAgent, texts()))
    line.inbound(numbers=(CALLED, *texts()), allowed_numbers=texts(), allowed_addresses=texts(), media=media)
    line.rule(trunk_ids=("ST1", *texts()), name=text(), numbers=texts(), agents=agents, room_preset=text(), media=media)
    line.add_inbound(text(), numbers=texts(), allowed_numbers=texts())
    line.add_rule(text(), trunk_ids=texts(), inbound_numbers=texts(), name=text(), pin=text())
    if data.draw(st.booleans()):
        line.without(data.draw(st.sampled_from(["PN1", "TK1", "OU1", "ST1", "SDR1"])))
    followed = follow(line.observed(), line.spec, Call(text(), text(), 0.3))

    found = reach_of(line, caller=data.draw(st.none() | ANY_TEXT), source=data.draw(st.none() | ANY_TEXT))

    for reason in (*followed.reasons, *(reason for reason, _ in found.reasons)):
        assert reason.detail.isprintable()
