"""Whether a call comes from Twilio to LiveKit: one row for each rule of numbers, trunks and origination URLs."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from app.domain.operations import NUMBER, ORIGINATION_URL, TRUNK
from app.domain.sip_uris import parse_sip_uri
from app.path.arrival import drawn, leads_to
from app.path.observed import Media
from app.path.spec import Profile
from tests.support.line import CALLED, CLOUD, OWN_SERVER, Line
from tests.support.reach_rows import (
    EU_URL,
    OTHER_URL,
    RECORDER,
    SHORT_CALLED,
    Change,
    check_reasons,
    elsewhere,
    everywhere,
    host,
    on_cloud,
)

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
    *everywhere(
        "no scheme", lambda line: line.url(sip_url=host(line).removeprefix("sip:")), "origination_url_changed OU1"
    ),
    *everywhere("a scheme in capitals", lambda line: line.url(sip_url=host(line).upper())),
    *everywhere("a space", lambda line: line.url(sip_url=f"{host(line)};a b"), "origination_url_changed OU1"),
    *everywhere(
        "a control character", lambda line: line.url(sip_url=f"{host(line)};a\x7f"), "origination_url_changed OU1"
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


def sales_first(line: Line, **trunk: Any) -> Line:
    """Add a URL before ours that leads to LiveKit too, as another user, and a trunk that has it."""
    line.add_url("OU0", priority=0, sip_url=host(line).replace("sip:", "sip:sales@"))
    return line.add_inbound("ST2", numbers=("sales",), **trunk).add_rule("SDR2", trunk_ids=("ST2",), agents=RECORDER)


USERS = [
    *everywhere("another user goes to another agent", sales_first, "origination_url_overridden OU0"),
    *everywhere("to ours", lambda line: sales_first(line).rule(trunk_ids=("ST1", "ST2")).without("SDR2")),
    *on_cloud(
        "to no trunk, which is final", lambda line: sales_first(line).without("ST2"), "origination_url_overridden OU0"
    ),
    *everywhere(
        "to no rule, which is final", lambda line: sales_first(line).without("SDR2"), "origination_url_overridden OU0"
    ),
    *everywhere(
        "to media that Twilio lacks, which is final",
        partial(sales_first, media=Media(codecs=("G722",), only_listed_codecs=True)),
        "origination_url_overridden OU0",
    ),
    *everywhere(
        "after 503 of two trunks ours is called", lambda line: sales_first(line).add_inbound("ST3", numbers=("sales",))
    ),
    *everywhere(
        "after 503 of two rules", lambda line: sales_first(line).add_rule("SDR3", trunk_ids=("ST2",), agents=RECORDER)
    ),
    *everywhere("after 407", partial(sales_first, has_username=True, has_password=True)),
    *everywhere(
        "after 407, without a rule",
        lambda line: sales_first(line, has_username=True, has_password=True).without("SDR2"),
    ),
    *everywhere("after 500", partial(sales_first, media=Media(codecs=("opus",)))),
    *everywhere(
        "after 503 ours, which asks for a PIN",
        lambda line: sales_first(line).add_inbound("ST3", numbers=("sales",)).rule(pin="1"),
        "origination_url_overridden OU0",
        "rule_pin SDR1",
    ),
]


@pytest.mark.parametrize(("profile", "change", "expected"), [*NUMBERS, *TRUNKS_AND_URLS, *USERS])
def test_every_reason_is_told_and_no_other(profile: Profile, change: Change, expected: list[str]) -> None:
    check_reasons(profile, change, expected)


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
