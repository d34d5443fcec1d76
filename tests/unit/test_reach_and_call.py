"""Two opinions about every call: `app.path.reach` reads records, the sandbox's `call()` its own objects.

They share no code. By hand, for longer:
`PATH_EXAMPLES=10000 PATH_SEED=1 pytest -s tests/unit/test_reach_and_call.py -k every_call`.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
from livekit.protocol import sip

from app.dev.sandbox.call import trace_call
from app.dev.sandbox.livekit_wire import normalised
from app.dev.sandbox.state import CLOUD, OPEN_SOURCE
from app.domain.findings import Callers
from app.domain.options import AgentOptions
from app.path import arrival, call, livekit_matching, observed
from app.path import reach as reach_module
from app.path.call import Call, follow
from app.path.observed import CarrierNumber, Encryption, InboundTrunk
from app.path.reach import reach
from app.path.spec import Profile
from tests.support.random_paths import (
    AGENT,
    CALLED,
    CLOUD_HOST,
    OTHERS,
    Configuration,
    add_url,
    configuration,
    described,
    rule,
    smallest,
    whole,
)
from tests.support.short_forms import rounds

EXAMPLES = int(os.environ.get("PATH_EXAMPLES", "1000"))
"""Configurations, of some 25 calls each; those of the suite are the same each time."""

SEED = int(os.environ.get("PATH_SEED", "1"))

MOST_CALLS = 400
"""Calls followed in one configuration: all kinds of callers, sources and draws, where they are not more."""

FEW_REACH, MANY_REACH = 0.2, 0.6
"""A property about calls that hardly ever, or nearly always, get through says little."""


def calls_of(made: Configuration) -> list[Call]:
    """Return one call of each kind, evenly thinned out where there are too many."""
    every = [Call(*each) for each in product(made.callers(), made.sources(), made.rolls())]
    step = -(-len(every) // MOST_CALLS)
    return every[::step]


def is_wanted(made: Configuration, caller: str) -> bool:
    """Say whether the caller is to get through: one whom the options leave out says nothing about the path."""
    wanted = made.options.allowed_callers
    return not wanted or normalised(caller) in wanted


def disagreements(made: Configuration, ended: Counter[str] | None = None) -> Iterator[str]:
    """Yield each disagreement about one configuration, and count how its calls have ended."""
    sandbox, seen, spec = made.sandbox(), made.observed(), made.spec()
    reached, agents = [], set[str]()
    calls = calls_of(made)
    for each in calls:
        real = trace_call(sandbox, CALLED, each.caller, source=each.source, roll=each.roll, pin=spec.options.pin)
        gets_through = real["reaches"] and AGENT in real["agents"]
        found = follow(seen, spec, each)
        if gets_through is bool(found.reasons):
            yield f"{each}: the sandbox says {real['reason'] or real['agents']}, reach {found}"
        elif real["reaches"] and found.agents != tuple(real["agents"]):
            yield f"{each}: the sandbox dispatches {real['agents']}, reach {found.agents}"
        if is_wanted(made, each.caller):
            reached.append(gets_through)
            agents |= set(real["agents"]) if gets_through else set()
        if ended is not None:
            ended["reached" if gets_through else real["path"][-1]["hop"]] += 1
    found_of_all = reach(seen, spec)
    if reached and all(reached) is bool(found_of_all.reasons) and len(calls) < MOST_CALLS:
        yield f"{sum(reached)} of {len(reached)} calls get through, reach says {found_of_all}"
    if any(callers is Callers.ALL for _, callers in found_of_all.reasons) and any(reached):
        yield f"{sum(reached)} of {len(reached)} calls get through, reach says that none does: {found_of_all}"
    if agents - set(found_of_all.agents):
        yield f"{agents} are called, reach says {found_of_all}"


def check(seed: object, ended: Counter[str] | None = None) -> None:
    """Fail with the smallest configuration on which the two disagree as on this one."""
    made = configuration(seed)
    if next(disagreements(made, ended), None) is None:
        return
    least = smallest(made, lambda other: next(disagreements(other), None) is not None)
    raise AssertionError(f"configuration {seed}: {next(disagreements(least))}\n{described(least)}")


def test_reach_and_the_sandbox_agree_about_every_call(pytestconfig: pytest.Config) -> None:
    ended, examples = Counter[str](), rounds(pytestconfig, EXAMPLES)
    for example in range(examples):
        check((SEED, example), ended)
    share = ended["reached"] / ended.total()
    print(f"{examples:,} configurations, {ended.total():,} calls, {share:.0%} get through: {ended}")  # noqa: T201  # what a long run is for
    assert FEW_REACH < share < MANY_REACH


def _reroute(made: Configuration, *sip_urls: str) -> None:
    """Replace our origination URL by these, in the order in which Twilio tries them."""
    made.urls.clear()
    for priority, sip_url in enumerate(sip_urls):
        add_url(made, sip_url, priority)


def _another_user(made: Configuration) -> None:
    _reroute(made, f"sip:agent@{CLOUD_HOST}")


def _another_user_for_any_number(made: Configuration) -> None:
    _another_user(made)
    made.livekit_trunks.append(sip.SIPInboundTrunkInfo(sip_trunk_id="ST_333333333333", allowed_addresses=["0.0.0.0/0"]))
    made.rules.append(rule("SDR_333333333333", "ST_333333333333"))


def _another_callers_rule_for_any_number(made: Configuration) -> None:
    """A rule that takes one caller away, on the trunk that our URL's user leads to."""
    _another_user_for_any_number(made)
    other = rule("SDR_444444444444", "ST_333333333333", agents=["someone"])
    other.inbound_numbers.append("+13105550100")
    made.rules.append(other)


def _refused_first(made: Configuration) -> None:
    """The first URL's user stands on two trunks, so LiveKit answers with 503, and Twilio tries the second URL."""
    _reroute(made, f"sip:{OTHERS[0]}@{CLOUD_HOST}", f"sip:{CLOUD_HOST}")
    for number in ("3", "4"):
        made.livekit_trunks.append(sip.SIPInboundTrunkInfo(sip_trunk_id="ST_" + 12 * number, numbers=[OTHERS[0]]))


def _refused_for_good_first(made: Configuration) -> None:
    _reroute(made, f"sip:{OTHERS[0]}@{CLOUD_HOST}", f"sip:{CLOUD_HOST}")


def _without_trunk(made: Configuration) -> None:
    made.livekit_trunks.clear()


def _room(room: str, *, is_fixed: bool = False) -> "Edit":
    def edit(made: Configuration) -> None:
        individual = made.rules[0].rule.dispatch_rule_individual
        individual.room_prefix, individual.no_randomness = room, is_fixed

    return edit


def _nameless_room(made: Configuration) -> None:
    made.rules[0].rule.dispatch_rule_direct.SetInParent()


def _codec(made: Configuration) -> None:
    made.rules[0].media.codecs.add(rate=8000)


def _unnamed_agent(made: Configuration) -> None:
    made.rules[0].room_config.agents.add(agent_name="")


def _callers_that_nobody_is(made: Configuration) -> None:
    other = rule("SDR_333333333333", "ST_222222222222", agents=["someone"])
    other.inbound_numbers.extend(["\r\n", "\0"])
    made.rules.append(other)


def _with_pin(*pins: str, edit: "Edit | None" = None) -> "Edit":
    """Set the option to the first PIN, our rule to the second, and another rule of our trunk, if any, to the third."""

    def set_pins(made: Configuration) -> None:
        made.options = AgentOptions(pin=pins[0])
        made.rules[0].rule.dispatch_rule_individual.pin = pins[1]
        for pin in pins[2:]:
            other = rule("SDR_333333333333", "ST_222222222222", room="another", agents=["someone"])
            other.rule.dispatch_rule_individual.pin = pin
            made.rules.append(other)
        if edit is not None:
            edit(made)

    return set_pins


def _rings_for_no_time(made: Configuration) -> None:
    made.livekit_trunks[0].ringing_timeout.nanos = 1


def _other_goes_first(made: Configuration) -> None:
    made.rules[1].numbers.append(CALLED)


def _other_with_codec_goes_first(made: Configuration) -> None:
    _other_goes_first(made)
    made.rules[0].media.codecs.add(name="opus", rate=48000)
    made.rules[0].media.only_listed_codecs = True


def _other_without_codec_goes_first(made: Configuration) -> None:
    _other_goes_first(made)
    made.rules[1].media.codecs.add(name="opus", rate=48000)
    made.rules[1].media.only_listed_codecs = True


def _callers_are_named(*callers: str) -> "Edit":
    def edit(made: Configuration) -> None:
        made.options = AgentOptions(allowed_callers=("+13105550100", "+442079460123"))
        made.livekit_trunks[0].allowed_numbers.extend(callers)

    return edit


Edit = Callable[[Configuration], None]
FOUND: dict[str, tuple[str, Edit, bool | None]] = {
    "a user that no trunk has": (CLOUD, _another_user, False),
    "a user that a trunk for any number takes to our agent": (CLOUD, _another_user_for_any_number, True),
    "the same, but not for one caller": (CLOUD, _another_callers_rule_for_any_number, None),
    "a URL whose call is refused with 503 before ours": (CLOUD, _refused_first, True),
    "a URL whose call is refused with 404 before ours": (CLOUD, _refused_for_good_first, False),
    "open source, our trunk gone, our rule still names it": (OPEN_SOURCE, _without_trunk, False),
    "a host with a final dot": (CLOUD, lambda made: _reroute(made, f"sip:{CLOUD_HOST}."), True),
    "a host with two final dots": (CLOUD, lambda made: _reroute(made, f"sip:{CLOUD_HOST}.."), False),
    "an edge that is none": (CLOUD, lambda made: _reroute(made, f"sip:{CLOUD_HOST};edge="), True),
    "a blank in a URL": (CLOUD, lambda made: _reroute(made, f"sip:{CLOUD_HOST};edge=a b"), False),
    "a URL with two @, before ours": (
        CLOUD,
        lambda made: _reroute(made, "sip:a@b@c.example", f"sip:{CLOUD_HOST}"),
        True,
    ),
    "a URL without a scheme": (CLOUD, lambda made: _reroute(made, CLOUD_HOST), False),
    "a room name that is too long": (CLOUD, _room("a" * 240), False),
    "a room name that is too long for long numbers": (CLOUD, _room("a" * 240, is_fixed=True), None),
    "a room without a name": (CLOUD, _nameless_room, False),
    "a codec without a name": (CLOUD, _codec, False),
    "an agent without a name beside ours": (CLOUD, _unnamed_agent, True),
    "callers that nobody is": (CLOUD, _callers_that_nobody_is, True),
}
"""What the two once disagreed about: server, change to a whole path, and whether all calls get through (None: some)."""

WITH_OPTIONS: dict[str, tuple[str, Edit, bool | None]] = {
    "the PIN that is wanted": (CLOUD, _with_pin("1234", "1234"), True),
    "another PIN": (CLOUD, _with_pin("1234", "99"), False),
    "a PIN where none is wanted": (CLOUD, _with_pin("", "99"), False),
    "no PIN where one is wanted": (CLOUD, _with_pin("1234", ""), True),
    "another rule asks first": (CLOUD, _with_pin("1234", "1234", "99", edit=_other_goes_first), True),
    "another rule asks, and ours has no PIN": (CLOUD, _with_pin("1234", "", "99"), False),
    "another rule goes first, and asks for nothing": (
        CLOUD,
        _with_pin("1234", "1234", "", edit=_other_goes_first),
        False,
    ),
    "another rule asks first, and has no codec of Twilio's": (
        CLOUD,
        _with_pin("1234", "1234", "99", edit=_other_without_codec_goes_first),
        False,
    ),
    "a call that was asked rings no more": (CLOUD, _with_pin("1234", "1234", edit=_rings_for_no_time), True),
    "a call that was not asked rings": (CLOUD, _with_pin("", "", edit=_rings_for_no_time), False),
    "the codecs are those of the rule that asks": (
        CLOUD,
        _with_pin("1234", "1234", "99", edit=_other_with_codec_goes_first),
        True,
    ),
    "the callers who are wanted": (CLOUD, _callers_are_named("+1 (310) 555-0100", "+442079460123"), None),
    "one of the callers who are wanted": (CLOUD, _callers_are_named("+13105550100"), None),
    "callers let in who are not wanted": (OPEN_SOURCE, _callers_are_named(), True),
}
"""The same, of paths with options."""


@pytest.mark.parametrize("name", [*FOUND, *WITH_OPTIONS])
def test_they_agree_about_what_they_once_disagreed_about_and_about_options(name: str) -> None:
    server, edit, expected = (FOUND | WITH_OPTIONS)[name]
    made, ended = whole(server), Counter[str]()
    edit(made)
    assert list(disagreements(made, ended)) == []
    assert (ended["reached"] == ended.total() or (None if ended["reached"] else False)) is expected


_MATCH, _GROUPS = livekit_matching.match_rule, reach_module._caller_groups

CONTROLS: dict[str, tuple[object, str, Any]] = {
    "numbers are compared as they are written": (observed, "normalised", lambda number: number),
    "callers are not asked for": (livekit_matching, "lets_caller_in", lambda *_: True),
    "addresses are not asked for": (livekit_matching, "admits", lambda *_: True),
    "filters of rules are not asked for": (livekit_matching, "takes", lambda *_: True),
    "rules have no order": (livekit_matching, "rank", lambda each: each.id),
    "rules do not contradict each other": (livekit_matching, "first_rule_conflict", lambda _: None),
    "rooms need no name": (livekit_matching, "is_room_named", lambda *_: True),
    "codecs are not asked for": (livekit_matching, "codec_fault", lambda _: ""),
    "encryption is not merged": (livekit_matching, "merged_encryption", lambda *_: Encryption.ALLOW),
    "passwords are not asked for": (InboundTrunk, "asks_password", False),
    "every number takes calls": (CarrierNumber, "is_voice", True),
    "every server is LiveKit Cloud": (Profile, "is_cloud", True),
    "every URL leads to LiveKit": (arrival, "_leads_to_livekit", lambda *_, **__: True),
    "URLs are drawn without their weight": (arrival, "shares_of", lambda tier: [1] * len(tier)),
    "trunks refuse and cut no call": (call, "_faults_of_taking_trunk", lambda _, **__: []),
    "no PIN is entered": (livekit_matching, "match_rule", lambda *of_call: _MATCH(*of_call[:4])),
    "every PIN is wrong": (
        livekit_matching,
        "match_rule",
        lambda *of_call: _MATCH(*of_call[:4], *["0"][: len(of_call) - 4]),
    ),
    "callers who are left out count": (reach_module, "_caller_groups", lambda *lists: _GROUPS(*lists[:3], ())),
    "every URL calls the number": (arrival, "_users", lambda *_, **__: [CALLED]),
}
"""Each rule of `reach` that can be switched off by itself: where it stands, and what replaces it."""

ENOUGH = 800
"""Configurations after which a rule that is off must have been noticed."""


@pytest.mark.sweep
@pytest.mark.parametrize("name", CONTROLS)
def test_a_rule_that_is_off_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, attribute, instead = CONTROLS[name]
    monkeypatch.setattr(place, attribute, instead)
    assert any(next(disagreements(configuration(("off", each))), None) for each in range(ENOUGH))
