"""Which calls fail and why, in words; and that what is said of all calls holds for each of them."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.findings import Callers
from app.domain.options import RuleAgent
from app.domain.sip_uris import TWILIO_SIGNALLING
from app.path.observed import Encryption, Media, RuleKind
from app.path.reach import Call, follow, reach
from app.path.spec import Profile
from tests.support.line import AGENT, CALLED, CALLER, CLOUD, OWN_SERVER, Line
from tests.support.malformed_texts import ANY_TEXT
from tests.support.reach_rows import (
    EU_URL,
    OTHER_CALLER,
    OTHER_URL,
    RECORDER,
    REQUIRE,
    SHORT_CALLED,
    Change,
    elsewhere,
    numberless_trunk,
    reach_of,
    told,
    trunkless_rule,
)

Objects = list[dict[str, Any]]
"""The fields of objects of one kind."""


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
        (lambda line: line.rule(room="r" * 257), "It makes a room name of more than 256 bytes."),
        (lambda line: line.rule(room="", kind=RuleKind.DIRECT), "It names no room."),
        (
            lambda line: line.inbound(media=Media(only_listed_codecs=True)),
            "It allows only listed codecs, and lists none.",
        ),
        (
            lambda line: elsewhere(line, url="sip:+13105550177@abc.sip.livekit.cloud"),
            "It is on trunk TK2, which calls ********0177 instead.",
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
