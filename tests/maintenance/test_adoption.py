"""Paths that somebody built by hand, over HTTP with the real SDKs: which can be adopted, and what callers get then.

Each adoptable one is adopted, given back after a failure, kept and removed: but for marks, everything of theirs is
as it was, and so is every call, by the sandbox's own opinion.
"""

from collections.abc import Mapping
from typing import Any

import pytest
from livekit.protocol import sip

from app.domain.errors import ErrorCode, RefusedError
from app.domain.events import Origin
from app.domain.findings import Health
from app.domain.operations import (
    DISPATCH_RULE,
    INBOUND_TRUNK,
    NUMBER,
    ORIGINATION_URL,
    TRUNK,
    PathChoice,
    PhoneStatus,
)
from app.numbers.adoption import NotAdoptableError
from app.path.adoption import LinkProblem
from app.path.marks import tag_of
from app.wiring import Wiring
from tests.support.changed_path import OTHER_CALLER, PRESET, OwnSandbox, new_agent
from tests.support.handmade import OTHER_NUMBER, VOICE_URL, HandMade, Shape, changes, plain

MARKED = {
    TRUNK: {"friendly_name"},
    ORIGINATION_URL: {"friendly_name"},
    INBOUND_TRUNK: {"name", "metadata"},
    DISPATCH_RULE: {"name"},
}
"""Step -> the fields of its object that a mark changes."""

NOTHING: frozenset[str] = frozenset()
POOLED = frozenset({TRUNK, ORIGINATION_URL})


@pytest.fixture
def made(changing: tuple[OwnSandbox, Wiring]) -> HandMade:
    """An agent without a number, the account's numbers, and a path yet to be made."""
    path = new_agent(*changing)
    path.sandbox.number(OTHER_NUMBER)
    return HandMade(path)


# What can be adopted.


def _pooled(made: HandMade) -> None:
    plain(made)
    made.put(OTHER_NUMBER)


def _two_urls(made: HandMade) -> None:
    made.trunk()
    made.url("sip:pbx.example.com", Priority="5", FriendlyName="fail-over")
    made.ids.pop(ORIGINATION_URL)
    made.url()
    made.inbound()
    made.rule(("front-desk", ""))


def _two_equal_urls(made: HandMade) -> None:
    made.trunk()
    made.url(made.sip_url.replace("tcp", "udp"), Weight="10")
    made.url(Weight="5")
    made.inbound()
    made.rule(("front-desk", ""))


def _several_numbers(made: HandMade) -> None:
    made.trunk()
    made.url()
    made.inbound(numbers=["+1 (514) 555-1234", OTHER_NUMBER])
    made.rule(("front-desk", ""))


def _rule_of_the_number(made: HandMade) -> None:
    """A LiveKit trunk with several numbers, each of which has a rule of its own."""
    made.trunk()
    made.url()
    made.inbound(numbers=[made.number, OTHER_NUMBER])
    made.rule(("front-desk", ""), numbers=[made.number])
    made.rule(("back-office", ""), numbers=[OTHER_NUMBER], name="Suppliers")


def _several_trunks(made: HandMade) -> None:
    made.trunk()
    made.url()
    made.inbound()
    other = made.inbound(name="Suppliers", numbers=[OTHER_NUMBER])
    made.rule(("front-desk", ""), trunk_ids=[made.ids[INBOUND_TRUNK], other])


def _direct(made: HandMade) -> None:
    made.trunk()
    made.url()
    made.inbound()
    made.rule(("front-desk", ""), rule={"dispatch_rule_direct": {"room_name": "lobby"}})


def _callee(made: HandMade) -> None:
    made.trunk()
    made.url()
    made.inbound()
    made.rule(("front-desk", ""), rule={"dispatch_rule_callee": {"room_prefix": "line", "randomize": True}})


def _pin(made: HandMade) -> None:
    made.trunk()
    made.url()
    made.inbound()
    made.rule(("front-desk", ""), rule={"dispatch_rule_individual": {"room_prefix": "desk", "pin": "1234"}})


def _several_agents(made: HandMade) -> None:
    made.trunk()
    made.url()
    made.inbound()
    made.rule(("receptionist", '{"lang":"fr",  "desk": 4}'), ("recorder", '{"all": true}'))


def _callers(made: HandMade) -> None:
    made.trunk()
    made.url()
    made.inbound(allowed_numbers=[OTHER_CALLER])
    made.rule(("front-desk", ""))


def _everything(made: HandMade) -> None:
    """All that an operator may set, and that our spec knows or does not know."""
    made.trunk(
        TransferMode="enable-all", DisasterRecoveryUrl="https://example.com/down", DomainName="acme.pstn.twilio.com"
    )
    made.url(f"{made.sip_url};edge=dublin?X-Team=support", Weight="7")
    trunk: dict[str, Any] = {"krisp_enabled": True, "headers": {"X-Team": "a"}, "headers_to_attributes": {"X-T": "t"}}
    durations = {"ringing_timeout": {"seconds": 60}, "max_call_duration": {"seconds": 1800}}
    made.inbound(
        **trunk, **durations, metadata='{"costCentre": 42}', include_headers=sip.SIPHeaderOptions.SIP_ALL_HEADERS
    )
    room = {"empty_timeout": 60, "departure_timeout": 30, "max_participants": 5}
    made.rule(
        ("front-desk", '{"tone": "kind"}'),
        metadata='{"tier": "gold"}',
        attributes={"team": "support"},
        hide_phone_number=True,
        room_preset=PRESET,
        room_config=room,
    )


def _encrypted(made: HandMade) -> None:
    made.trunk(Secure="true")
    made.url(made.sip_url.replace("tcp", "tls"))
    made.inbound(media={"encryption": sip.SIP_MEDIA_ENCRYPT_ALLOW})
    made.rule(("front-desk", ""))


def _notes(made: HandMade) -> None:
    """Metadata that has no room for a mark."""
    made.trunk()
    made.url()
    made.inbound(metadata="call Ann before you change this")
    made.rule(("front-desk", ""))


ADOPTABLE: Mapping[str, tuple[Shape, frozenset[str], Mapping[str, Any]]] = {
    "plain": (plain, NOTHING, {"dispatch": {"roomPrefix": "desk"}}),
    "on a trunk with other numbers": (_pooled, POOLED, {"dispatch": {"roomPrefix": "desk"}}),
    "with a URL for fail-over": (_two_urls, NOTHING, {"dispatch": {"roomPrefix": "desk"}}),
    "with two URLs of one priority to LiveKit": (_two_equal_urls, NOTHING, {"dispatch": {"roomPrefix": "desk"}}),
    "in a LiveKit trunk with several numbers": (
        _several_numbers,
        frozenset({INBOUND_TRUNK, DISPATCH_RULE}),
        {"dispatch": {"roomPrefix": "desk"}},
    ),
    "by a rule for the number alone": (
        _rule_of_the_number,
        frozenset({INBOUND_TRUNK}),
        {"dispatch": {"roomPrefix": "desk"}},
    ),
    "by a rule of several trunks": (
        _several_trunks,
        frozenset({DISPATCH_RULE}),
        {"dispatch": {"roomPrefix": "desk"}},
    ),
    "by a direct rule": (_direct, NOTHING, {"dispatch": {"kind": "direct", "roomName": "lobby"}}),
    "by a callee rule": (_callee, NOTHING, {"dispatch": {"kind": "callee", "roomPrefix": "line"}}),
    "by a rule with a PIN": (_pin, NOTHING, {"dispatch": {"roomPrefix": "desk", "pin": "1234"}}),
    "by a rule with several agents": (
        _several_agents,
        NOTHING,
        {"dispatch": {"roomPrefix": "desk"}, "agents": [{"name": "recorder", "metadata": {"all": True}}]},
    ),
    "for some callers": (
        _callers,
        NOTHING,
        {"dispatch": {"roomPrefix": "desk"}, "call": {"allowedCallers": [OTHER_CALLER]}},
    ),
    "with everything set": (
        _everything,
        NOTHING,
        {
            "dispatch": {"roomPrefix": "desk"},
            "room": {"emptyTimeoutS": 60, "departureTimeoutS": 30, "maxParticipants": 5, "preset": PRESET},
            "participant": {
                "metadata": '{"tier": "gold"}',
                "attributes": {"team": "support"},
                "hidePhoneNumber": True,
            },
            "call": {
                "ringingS": 60,
                "maxDurationS": 1800,
                "krisp": True,
                "headersToAttributes": {"X-T": "t"},
                "includeHeaders": "all",
            },
            "transfer": "enable-all",
        },
    ),
    "encrypted": (_encrypted, NOTHING, {"dispatch": {"roomPrefix": "desk"}}),
    "with notes for metadata": (_notes, NOTHING, {"dispatch": {"roomPrefix": "desk"}}),
}
"""Shape -> what makes it, the steps whose objects others use too, and the options that are found."""


@pytest.fixture(params=ADOPTABLE)
def shape(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def build(made: HandMade, shape: str) -> None:
    ADOPTABLE[shape][0](made)


def marks_of(made: HandMade, shape: str) -> dict[str, set[str]]:
    """Return the fields that our mark changes, by the id of the object."""
    shared = ADOPTABLE[shape][1]
    found = {made.ids[step]: names for step, names in MARKED.items() if step not in shared}
    if shape == "with notes for metadata":
        found[made.ids[INBOUND_TRUNK]] = {"name"}
    return found


def test_callers_get_what_they_got_and_only_marks_are_written(made: HandMade, shape: str) -> None:
    build(made, shape)
    before, calls, shared = made.objects(), made.calls(), ADOPTABLE[shape][1]
    preview = made.path.wiring.adoption.preview(made.path.agent_id, made.number)
    assert {step: preview.chain.spec.ids[step] for step in made.ids} == made.ids
    assert (set(preview.chain.shared), changes(before, made.objects())) == (shared, {})
    made.adopt()
    agent = made.path.agent
    assert agent.phone_provisioning_status is PhoneStatus.PROVISIONED
    assert (made.calls(), agent.options) == (calls, ADOPTABLE[shape][2])
    assert changes(before, made.objects()) == marks_of(made, shape)
    assert (made.path.findings(), made.path.audit(fix=True).findings, agent.health_state) == ([], [], Health.IN_SYNC)
    assert changes(before, made.objects()) == marks_of(made, shape)

    with pytest.raises(RefusedError) as refused:
        made.deprovision(None)
    assert refused.value.code is ErrorCode.KEEP_OR_REMOVE
    made.deprovision(PathChoice.KEEP)
    agent = made.path.agent
    assert (agent.phone_provisioning_status, agent.adopted) == (PhoneStatus.NOT_PROVISIONED, None)
    assert (changes(before, made.objects()), made.calls()) == ({}, calls)


@pytest.mark.sweep
def test_a_failure_gives_the_path_back_as_it_was_found(made: HandMade, shape: str) -> None:
    build(made, shape)
    before, calls = made.objects(), made.calls()
    made.path.sandbox.fault("livekit.list_dispatch_rules", "reject", contains=made.ids[INBOUND_TRUNK])
    made.adopt()
    agent = made.path.agent
    assert agent.phone_provisioning_status is PhoneStatus.FAILED
    assert (agent.adopted, agent.twilio_phone_number, agent.options) == (None, None, {})
    assert (changes(before, made.objects()), made.calls()) == ({}, calls)


@pytest.mark.sweep
def test_to_remove_it_leaves_what_others_use(made: HandMade, shape: str) -> None:
    build(made, shape)
    before, shared = made.objects(), ADOPTABLE[shape][1]
    made.adopt()
    made.deprovision(PathChoice.REMOVE)
    found, number = changes(before, made.objects()), made.record(made.number)
    assert (number["trunk_sid"], number["voice_url"]) == (None, VOICE_URL)
    assert found.pop(str(number["sid"])) == {"trunk_sid"}
    # A trunk with a domain takes outgoing calls, too.
    stays = shared | POOLED if shape == "with everything set" else shared
    for step in (TRUNK, ORIGINATION_URL, DISPATCH_RULE):
        assert found.pop(made.ids[step], None) == (None if step in stays else {"gone"}), step
    assert found.pop(made.ids[INBOUND_TRUNK]) == ({"numbers", "media"} if INBOUND_TRUNK in shared else {"gone"})
    if TRUNK not in stays:
        found = {key: names for key, names in found.items() if names != {"gone"}}  # the trunk's other URLs
    assert found == {}


# What cannot.


def _to_livekit(made: HandMade) -> None:
    made.trunk()
    made.url()


def _no_trunk(_: HandMade) -> None:
    """The number has its voice URL alone."""


def _on_an_application(made: HandMade) -> None:
    made.path.console.twilio("POST", made.number_url, VoiceApplicationSid="AP" + "1" * 32)


def _fax(made: HandMade) -> None:
    plain(made)
    made.path.put("numbers", str(made.record(made.number)["sid"]), {**made.record(made.number), "capabilities": {}})


def _no_url(made: HandMade) -> None:
    made.trunk()


def _url_disabled(made: HandMade) -> None:
    made.trunk()
    made.url(Enabled="false")


def _url_elsewhere(made: HandMade) -> None:
    made.trunk()
    made.url("sip:pbx.example.com")


def _urls_apart(made: HandMade) -> None:
    _to_livekit(made)
    made.url("sip:pbx.example.com")


def _url_with_a_user(made: HandMade) -> None:
    made.trunk()
    made.url(made.sip_url.replace("sip:", "sip:desk@"))


def _url_unreadable(made: HandMade) -> None:
    plain(made)
    row = made.path.sandbox.inside.store.origination_urls.rows[made.ids[ORIGINATION_URL]]
    made.path.put("origination_urls", "OU" + "f" * 32, {**row, "sid": "OU" + "f" * 32, "priority": "first"})


def _no_inbound(made: HandMade) -> None:
    _to_livekit(made)
    made.inbound(numbers=[OTHER_NUMBER])


def _two_inbound(made: HandMade) -> None:
    _to_livekit(made)
    made.inbound(allowed_numbers=[OTHER_CALLER])
    made.inbound(allowed_numbers=["+12025550123"])


def _any_inbound(made: HandMade) -> None:
    _to_livekit(made)
    made.inbound(numbers=[], allowed_addresses=["0.0.0.0/0"])
    made.rule(("front-desk", ""))


def _inbound_unreadable(made: HandMade) -> None:
    plain(made)
    made.path.put("livekit_trunks", "odd", sip.SIPInboundTrunkInfo(sip_trunk_id="odd", numbers=[made.number]))


def _addresses(made: HandMade) -> None:
    _to_livekit(made)
    made.inbound(allowed_addresses=["54.172.60.0/30"])
    made.rule(("front-desk", ""))


def _no_addresses(made: HandMade) -> None:
    _to_livekit(made)
    made.inbound(allowed_addresses=["192.0.2.0/24"])
    made.rule(("front-desk", ""))


def _password(made: HandMade) -> None:
    _to_livekit(made)
    made.inbound(auth_username="user", auth_password="secret")  # nobody's
    made.rule(("front-desk", ""))


def _secure(made: HandMade) -> None:
    made.trunk(Secure="true")
    made.url()
    made.inbound()
    made.rule(("front-desk", ""))


def _no_rule(made: HandMade) -> None:
    _to_livekit(made)
    made.inbound()


def _any_rule(made: HandMade) -> None:
    _to_livekit(made)
    made.inbound()
    made.rule(("front-desk", ""), trunk_ids=[])


def _rules_by_caller(made: HandMade) -> None:
    _to_livekit(made)
    made.inbound()
    made.rule(("front-desk", ""), inbound_numbers=[OTHER_CALLER])
    made.rule(("back-office", ""))


def _rule_for_callers(made: HandMade) -> None:
    _to_livekit(made)
    made.inbound()
    made.rule(("front-desk", ""), inbound_numbers=[OTHER_CALLER])


def _rules_by_pin(made: HandMade) -> None:
    _to_livekit(made)
    made.inbound()
    for name, pin in (("front-desk", "1"), ("back-office", "2")):
        made.rule((name, ""), rule={"dispatch_rule_individual": {"room_prefix": "desk", "pin": pin}})


def _no_agent(made: HandMade) -> None:
    _to_livekit(made)
    made.inbound()
    made.rule()


def _agent_without_a_name(made: HandMade) -> None:
    _to_livekit(made)
    made.inbound()
    made.rule(("front-desk", ""), ("", ""))


def _text_for_metadata(made: HandMade) -> None:
    _to_livekit(made)
    made.inbound()
    made.rule(("front-desk", "be kind"))


def _unknown_preset(made: HandMade) -> None:
    _to_livekit(made)
    made.inbound()
    made.rule(("front-desk", ""), room_preset="nobody's")


def _of_another_instance(made: HandMade) -> None:
    plain(made)
    tag = tag_of("prod", made.path.agent_id)
    made.path.console.twilio("POST", f"/v1/Trunks/{made.ids[TRUNK]}", FriendlyName=tag)


_P = LinkProblem

REFUSED: Mapping[str, tuple[Shape, str, LinkProblem, str]] = {
    "on no trunk": (_no_trunk, TRUNK, _P.MISSING, "example.com"),
    "on an application": (_on_an_application, TRUNK, _P.MISSING, "AP1111"),
    "without voice": (_fax, NUMBER, _P.UNSUITABLE, "voice"),
    "without a URL": (_no_url, ORIGINATION_URL, _P.MISSING, "no origination URL"),
    "with a URL that is disabled": (_url_disabled, ORIGINATION_URL, _P.MISSING, "enabled"),
    "with a URL to another host": (_url_elsewhere, ORIGINATION_URL, _P.MISSING, "pbx.example.com"),
    "with URLs of one priority to two hosts": (_urls_apart, ORIGINATION_URL, _P.AMBIGUOUS, "pbx.example.com"),
    "with a URL that replaces the number": (_url_with_a_user, ORIGINATION_URL, _P.UNSUITABLE, "user part"),
    "with a URL that cannot be read": (_url_unreadable, ORIGINATION_URL, _P.UNREADABLE, "cannot be read"),
    "in no LiveKit trunk": (_no_inbound, INBOUND_TRUNK, _P.MISSING, "No trunk"),
    "in two LiveKit trunks": (_two_inbound, INBOUND_TRUNK, _P.AMBIGUOUS, "depends on the caller"),
    "in a LiveKit trunk for all numbers": (_any_inbound, INBOUND_TRUNK, _P.UNSUITABLE, "every number"),
    "beside a LiveKit trunk that cannot be read": (_inbound_unreadable, INBOUND_TRUNK, _P.UNREADABLE, "cannot be read"),
    "for some of Twilio's addresses": (_addresses, INBOUND_TRUNK, _P.UNSUITABLE, "only some of Twilio's"),
    "for none of Twilio's addresses": (_no_addresses, INBOUND_TRUNK, _P.UNSUITABLE, "none of Twilio's"),
    "with a password": (_password, INBOUND_TRUNK, _P.UNSUITABLE, "password"),
    "encrypted at Twilio alone": (_secure, TRUNK, _P.UNSUITABLE, "encrypted media"),
    "without a rule": (_no_rule, DISPATCH_RULE, _P.MISSING, "No dispatch rule"),
    "by a rule for all trunks": (_any_rule, DISPATCH_RULE, _P.UNSUITABLE, "all of them"),
    "by two rules, by the caller": (_rules_by_caller, DISPATCH_RULE, _P.AMBIGUOUS, "depends on the caller"),
    "by a rule for some callers": (_rule_for_callers, DISPATCH_RULE, _P.UNSUITABLE, "some callers"),
    "by two rules, by the PIN": (_rules_by_pin, DISPATCH_RULE, _P.AMBIGUOUS, "PIN"),
    "by a rule without an agent": (_no_agent, DISPATCH_RULE, _P.MISSING, "agent_name"),
    "by a rule with a nameless agent": (_agent_without_a_name, DISPATCH_RULE, _P.UNSUITABLE, "without a name"),
    "by a rule with a text for metadata": (_text_for_metadata, DISPATCH_RULE, _P.UNSUITABLE, "not a JSON object"),
    "by a rule with an unknown preset": (_unknown_preset, DISPATCH_RULE, _P.UNSUITABLE, "preset"),
    "on a trunk of another installation": (_of_another_instance, TRUNK, _P.MANAGED, "instance prod"),
}
"""Shape -> what makes it, the link at which it breaks, why, and what the detail names."""


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_one_chain_is_refused_with_the_link_that_is_missing_or_ambiguous(made: HandMade, name: str) -> None:
    build_it, link, problem, word = REFUSED[name]
    build_it(made)
    before = made.objects()
    with pytest.raises(NotAdoptableError) as refused:
        made.path.wiring.adoption.adopt(made.path.agent_id, made.number, origin=Origin())
    found = refused.value.found
    assert (found.link, found.problem, word in found.detail) == (link, problem, True), found
    assert (made.objects(), made.path.publisher.plans, made.path.agent.adopted) == (before, [], None)
