"""Each option of an agent: built, compared, corrected, reset, and read back for an undo."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from test_compare import (
    IDS,
    INBOUND_NOW,
    RULE_NOW,
    TRUNK_NOW,
    URL_NOW,
    observed,
    spec,
)

from app.domain.findings import FindingCode, Severity
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, ORIGINATION_URL, TRUNK
from app.domain.options import (
    NO_OPTIONS,
    OPTIONS,
    AgentOptions,
    DispatchKind,
    HeaderSet,
    RuleAgent,
    TransferMode,
    options_json,
    options_of,
    steps_of,
)
from app.path.compare import compare
from app.path.corrections import corrected_inbound_trunk, corrected_rule, corrected_trunk, corrected_url, is_same_job
from app.path.observed import CarrierTrunk, DispatchRule, InboundTrunk, Media, Observed, RuleKind
from app.path.options import RECORD_FIELDS, observed_options
from app.path.reach import reach
from app.path.spec import (
    NOTHING_FORMER,
    Adopted,
    Former,
    PathSpec,
    as_built,
)
from tests.support.random_paths import Draw, random_options

Kit = tuple[CarrierTrunk, InboundTrunk, DispatchRule]
"""The objects in which options stand."""


def with_options(options: AgentOptions, **changes: Any) -> PathSpec:
    plain = spec(room_presets=frozenset({"studio", "hall"}))
    return replace(plain, options=options, profile=plain.profile.with_options(options), **changes)


def corrected(kit: Kit, wanted: PathSpec, former: Former = NOTHING_FORMER) -> Kit:
    trunk, inbound, rule = kit
    return (
        corrected_trunk(trunk, wanted, livekit_encrypts=False, former=former),
        corrected_inbound_trunk(inbound, wanted, twilio_encrypts=False, former=former),
        corrected_rule(rule, wanted, twilio_encrypts=False, former=former),
    )


def seen(kit: Kit) -> Observed:
    trunk, inbound, rule = kit
    return observed(trunk, URL_NOW, inbound, rule)


FRESH: Kit = (TRUNK_NOW, INBOUND_NOW, RULE_NOW)
"""A path of an agent without options."""

RECORDER = RuleAgent("recorder", '{"bucket": "b"}')


class Case:
    """One option, or options that go together, and what they set: the fields of the record of `step`."""

    def __init__(self, step: str, options: AgentOptions, **record: Any) -> None:
        self.step, self.options, self.record = step, options, record

    def set_on(self, kit: Kit) -> Kit:
        """Return the objects with exactly these fields set."""
        at = (TRUNK, INBOUND_TRUNK, DISPATCH_RULE).index(self.step)
        return tuple(replace(one, **self.record) if place == at else one for place, one in enumerate(kit))  # type: ignore[return-value,type-var]  # the records' own fields


OURS = RULE_NOW.agents[0]

CASES = {
    "direct": Case(
        DISPATCH_RULE,
        AgentOptions(dispatch_kind=DispatchKind.DIRECT, room_name="lobby"),
        kind=RuleKind.DIRECT,
        room="lobby",
        is_fixed_room=True,
    ),
    "callee": Case(
        DISPATCH_RULE, AgentOptions(dispatch_kind=DispatchKind.CALLEE), kind=RuleKind.CALLEE, is_fixed_room=True
    ),
    "callee, random": Case(
        DISPATCH_RULE,
        AgentOptions(dispatch_kind=DispatchKind.CALLEE, randomize=True),
        kind=RuleKind.CALLEE,
        is_fixed_room=False,
    ),
    "the caller's own room": Case(DISPATCH_RULE, AgentOptions(randomize=False), is_fixed_room=True),
    "another prefix": Case(DISPATCH_RULE, AgentOptions(room_prefix="front"), room="front"),
    "no prefix": Case(DISPATCH_RULE, AgentOptions(room_prefix=""), room=""),
    "a PIN": Case(DISPATCH_RULE, AgentOptions(pin="1234"), pin="1234"),
    "another agent": Case(DISPATCH_RULE, AgentOptions(agents=(RECORDER,)), agents=(OURS, RECORDER)),
    "empty timeout": Case(DISPATCH_RULE, AgentOptions(empty_timeout_s=90), empty_timeout_s=90),
    "departure timeout": Case(DISPATCH_RULE, AgentOptions(departure_timeout_s=9), departure_timeout_s=9),
    "participants": Case(DISPATCH_RULE, AgentOptions(max_participants=3), max_participants=3),
    "a preset": Case(DISPATCH_RULE, AgentOptions(room_preset="studio"), room_preset="studio"),
    "metadata": Case(DISPATCH_RULE, AgentOptions(participant_metadata='{"b":1,"a":2}'), metadata='{"b":1,"a":2}'),
    "attributes": Case(DISPATCH_RULE, AgentOptions(participant_attributes=(("a", "1"),)), attributes=(("a", "1"),)),
    "no number shown": Case(DISPATCH_RULE, AgentOptions(hide_phone_number=True), hides_caller=True),
    "ringing": Case(INBOUND_TRUNK, AgentOptions(ringing_s=45), ringing_timeout_s=45.0),
    "duration": Case(INBOUND_TRUNK, AgentOptions(max_duration_s=1800), max_call_duration_s=1800.0),
    "krisp": Case(INBOUND_TRUNK, AgentOptions(krisp=True), krisp=True),
    "callers": Case(INBOUND_TRUNK, AgentOptions(allowed_callers=("+13105550100",)), allowed_numbers=("+13105550100",)),
    "headers to attributes": Case(
        INBOUND_TRUNK,
        AgentOptions(headers_to_attributes=(("X-Team", "team"),)),
        headers_to_attributes=(("X-Team", "team"),),
    ),
    "headers": Case(INBOUND_TRUNK, AgentOptions(include_headers=HeaderSet.X), include_headers="x"),
    "transfer": Case(TRUNK, AgentOptions(transfer=TransferMode.SIP_ONLY), transfer_mode="sip-only"),
}

OTHERWISE: dict[str, dict[str, Any]] = {
    "dispatch_kind": {"kind": RuleKind.DIRECT, "room": "elsewhere", "is_fixed_room": True},
    "room_prefix": {"room": "other"},
    "room_name": {"room": "other"},
    "randomize": {"is_fixed_room": True},
    "pin": {"pin": ""},
    "agents": {"agents": (OURS, replace(RECORDER, metadata="{}"))},
    "empty_timeout_s": {"empty_timeout_s": 7},
    "departure_timeout_s": {"departure_timeout_s": 0},
    "max_participants": {"max_participants": 1},
    "room_preset": {"room_preset": "hall"},
    "participant_metadata": {"metadata": "other"},
    "participant_attributes": {"attributes": (("a", "2"), ("b", "3"))},
    "hide_phone_number": {"hides_caller": False},
    "ringing_s": {"ringing_timeout_s": 20.0},
    "max_duration_s": {"max_call_duration_s": 60.0},
    "krisp": {"krisp": False},
    "allowed_callers": {"allowed_numbers": ()},
    "headers_to_attributes": {"headers_to_attributes": (("X-Other", "other"),)},
    "include_headers": {"include_headers": "all"},
    "transfer": {"transfer_mode": "enable-all"},
}
"""What somebody else may set instead, with which calls still get through."""


def is_set(options: AgentOptions) -> set[str]:
    return {one.field for one in OPTIONS if getattr(options, one.field) is not None}


def test_every_option_that_stands_at_a_provider_has_a_case_here() -> None:
    at_providers = {one.field for one in OPTIONS if one.step is not None}
    assert set().union(*(is_set(case.options) for case in CASES.values())) == at_providers
    assert OTHERWISE.keys() == RECORD_FIELDS.keys() == at_providers


@pytest.mark.parametrize("name", CASES)
def test_an_option_is_built(name: str) -> None:
    case = CASES[name]
    wanted = with_options(case.options)
    built = as_built(wanted, Observed())
    trunk = replace(built.trunks[IDS[TRUNK]], transfer_mode=wanted.profile.transfer_mode or "disable-all")
    kit = (trunk, built.inbound_trunks[IDS[INBOUND_TRUNK]], built.rules[IDS[DISPATCH_RULE]])
    assert kit == case.set_on(FRESH)
    assert compare(wanted, seen(kit)) == []


@pytest.mark.parametrize("name", CASES)
def test_an_option_that_is_not_set_yet_is_corrected_and_taken_away_again(name: str) -> None:
    case = CASES[name]
    wanted = with_options(case.options)
    kit = corrected(FRESH, wanted)
    assert kit == case.set_on(FRESH)
    assert corrected(kit, wanted) == kit
    assert compare(wanted, seen(kit)) == []
    assert corrected(kit, with_options(NO_OPTIONS), Former(options=case.options)) == FRESH


@pytest.mark.parametrize("field", OTHERWISE)
def test_what_somebody_sets_otherwise_is_a_warning_that_names_the_option_and_both_values(field: str) -> None:
    case = next(case for case in CASES.values() if field in is_set(case.options))
    if field == "dispatch_kind":
        case = CASES["callee"]
    wanted = with_options(case.options)
    right = case.set_on(FRESH)
    changed = Case(case.step, case.options, **OTHERWISE[field]).set_on(right)
    assert changed != right
    (finding,) = compare(wanted, seen(changed))
    assert finding.severity is Severity.WARNING
    assert finding.code in {FindingCode.RULE_CHANGED, FindingCode.LIVEKIT_TRUNK_CHANGED, FindingCode.TRUNK_CHANGED}
    path = ".".join(next(one.path for one in OPTIONS if one.field == field))
    assert f"Option {path}" in finding.detail
    assert corrected(changed, wanted) == right
    # Where it is no option, it is left alone, or it is no different from what it was before there were options.
    assert all("Option" not in finding.detail for finding in compare(with_options(NO_OPTIONS), seen(changed)))


@pytest.mark.parametrize("is_fixed", [False, True])
def test_whether_rooms_of_a_number_are_random_is_left_alone_where_no_option_says_it(*, is_fixed: bool) -> None:
    wanted = with_options(AgentOptions(dispatch_kind=DispatchKind.CALLEE, room_prefix="line"))
    kit = Case(DISPATCH_RULE, NO_OPTIONS, kind=RuleKind.CALLEE, room="line", is_fixed_room=is_fixed).set_on(FRESH)
    assert corrected(kit, wanted) == kit
    assert compare(wanted, seen(kit)) == []


def test_a_changed_kind_is_said_once() -> None:
    wanted = with_options(AgentOptions(dispatch_kind=DispatchKind.INDIVIDUAL))
    kit = Case(DISPATCH_RULE, NO_OPTIONS, kind=RuleKind.DIRECT, room="lobby", is_fixed_room=True).set_on(FRESH)
    assert details(wanted, kit) == ['Option dispatch.kind is "direct", not "individual".']


def details(wanted: PathSpec, kit: Kit) -> list[str]:
    return [finding.detail for finding in compare(wanted, seen(kit))]


def test_a_detail_shows_values_short_and_masked_and_no_pin() -> None:
    assert details(with_options(AgentOptions(ringing_s=45)), FRESH) == ["Option call.ringingS is 30, not 45."]
    assert details(with_options(AgentOptions(transfer=TransferMode.ENABLED)), FRESH) == [
        'Option transfer is "disable-all", not "enable-all".'
    ]
    (callers,) = details(with_options(AgentOptions(allowed_callers=("+13105550100",))), FRESH)
    assert "0100" in callers
    assert "+13105550100" not in callers
    (long,) = details(with_options(AgentOptions(participant_metadata="x" * 9000)), FRESH)
    assert len(long) < 300
    (pin,) = details(with_options(AgentOptions(pin="4711")), FRESH)
    assert "4711" not in pin
    assert pin == "Option dispatch.pin is not set at LiveKit."


@pytest.mark.parametrize("now", ["", "99"])
def test_another_pin_stops_calls_and_none_does_not(now: str) -> None:
    wanted = with_options(AgentOptions(pin="4711"))
    kit = Case(DISPATCH_RULE, NO_OPTIONS, pin=now).set_on(FRESH)
    (finding,) = compare(wanted, seen(kit))
    assert finding.severity is (Severity.CRITICAL if now else Severity.WARNING)
    assert finding.code is (FindingCode.RULE_PIN if now else FindingCode.RULE_CHANGED)
    assert now not in finding.detail or not now
    assert corrected(kit, wanted)[2].pin == "4711"


def test_another_rule_that_asks_first_and_ends_the_call_is_named() -> None:
    wanted = with_options(AgentOptions(pin="4711"))
    path = seen(CASES["a PIN"].set_on(FRESH))
    ours = replace(RULE_NOW, pin="4711")
    other = replace(ours, id="SDR_bbbbbbbbbbbb", name="theirs", pin="99", numbers=(INBOUND_NOW.numbers[0],))
    for change, code in (
        ({}, None),
        ({"media": Media(codecs=("opus/48000",), only_listed_codecs=True)}, FindingCode.RULE_OVERRIDDEN),
        ({"pin": "4711", "agents": (RECORDER,)}, FindingCode.RULE_OVERRIDDEN),
    ):
        theirs = replace(other, **change)
        found = compare(wanted, replace(path, rules={ours.id: ours, theirs.id: theirs}))
        assert [finding.code for finding in found] == ([code] if code else [])
        assert all(finding.resource == (DISPATCH_RULE, theirs.id) for finding in found)
    found = compare(wanted, replace(path, rules={ours.id: replace(ours, pin=""), other.id: other}))
    assert (found[0].code, found[0].severity) == (FindingCode.RULE_CHANGED, Severity.CRITICAL)
    assert "theirs" in found[0].detail


def test_a_pin_that_nobody_wants_is_taken_off_and_a_wanted_one_is_no_finding() -> None:
    kit = CASES["a PIN"].set_on(FRESH)
    (finding,) = compare(with_options(NO_OPTIONS), seen(kit))
    assert (finding.code, finding.severity) == (FindingCode.RULE_PIN, Severity.CRITICAL)
    assert corrected(kit, with_options(NO_OPTIONS)) == FRESH


def test_callers_who_are_left_out_are_no_finding_and_one_who_is_wanted_must_get_through() -> None:
    wanted = with_options(AgentOptions(allowed_callers=("+13105550100", "+442079460123")))
    both = Case(INBOUND_TRUNK, NO_OPTIONS, allowed_numbers=("+13105550100", "44 20 7946 0123")).set_on(FRESH)
    assert compare(wanted, seen(both)) == []
    assert corrected(both, wanted) == both
    one = Case(INBOUND_TRUNK, NO_OPTIONS, allowed_numbers=("+13105550100",)).set_on(FRESH)
    finding, *others = compare(wanted, seen(one))
    assert (finding.code, finding.severity) == (FindingCode.LIVEKIT_TRUNK_CALLERS, Severity.CRITICAL)
    assert all(other.severity is Severity.WARNING for other in others)
    assert reach(seen(one), wanted, caller="+13105550100").reasons == ()


def test_a_preset_that_is_wanted_is_no_finding_where_nobody_knows_the_servers_presets() -> None:
    plain = replace(spec(), options=AgentOptions(room_preset="studio"))
    assert compare(plain, seen(CASES["a preset"].set_on(FRESH))) == []


# Krisp stands on both objects at LiveKit, and either is enough.


@pytest.mark.parametrize("on_trunk", [False, True])
@pytest.mark.parametrize("on_rule", [False, True])
@pytest.mark.parametrize("wanted", [None, False, True])
def test_krisp_has_the_effect_it_says_whatever_the_other_object_has(
    wanted: bool | None, *, on_trunk: bool, on_rule: bool
) -> None:
    path = with_options(AgentOptions(krisp=wanted))
    kit = (TRUNK_NOW, replace(INBOUND_NOW, krisp=on_trunk), replace(RULE_NOW, krisp=on_rule))
    _, trunk, rule = corrected(kit, path)
    present = on_trunk or on_rule
    assert (trunk.krisp or rule.krisp) is (present if wanted is None else wanted)
    assert bool(compare(path, seen(kit))) is (wanted is not None and wanted is not present)
    if wanted is None:
        assert corrected(kit, path) == kit
    assert steps_of(["krisp"]) == {INBOUND_TRUNK, DISPATCH_RULE}


# Agents

OPERATORS = RuleAgent("coach", "{}")

AGENTS: dict[str, tuple[tuple[RuleAgent, ...], AgentOptions, Former, tuple[RuleAgent, ...]]] = {
    "one more": ((OURS,), AgentOptions(agents=(RECORDER,)), NOTHING_FORMER, (OURS, RECORDER)),
    "an operator's stays": (
        (OPERATORS, OURS),
        AgentOptions(agents=(RECORDER,)),
        NOTHING_FORMER,
        (OPERATORS, OURS, RECORDER),
    ),
    "its job is corrected in its place": (
        (replace(RECORDER, metadata=""), OURS),
        AgentOptions(agents=(RECORDER,)),
        NOTHING_FORMER,
        (RECORDER, OURS),
    ),
    "no longer wanted": (
        (OURS, RECORDER, OPERATORS),
        NO_OPTIONS,
        Former(options=AgentOptions(agents=(RECORDER,))),
        (OURS, OPERATORS),
    ),
    "wanted by neither": ((OURS, RECORDER), NO_OPTIONS, NOTHING_FORMER, (OURS, RECORDER)),
    "another in its place": (
        (OURS, RECORDER),
        AgentOptions(agents=(OPERATORS,)),
        Former(options=AgentOptions(agents=(RECORDER,))),
        (OURS, OPERATORS),
    ),
    "ours is renamed": (
        (RuleAgent("before", "{}"), RECORDER),
        AgentOptions(agents=(RECORDER,)),
        Former("before"),
        (OURS, RECORDER),
    ),
    "ours takes the name of another that is there": (
        (RuleAgent("before", "{}"), replace(OURS, metadata="{}")),
        NO_OPTIONS,
        Former("before"),
        (OURS,),
    ),
    "ours becomes another, and is wanted beside it": (
        (RuleAgent("before", "{}"),),
        AgentOptions(agents=(RuleAgent("before", '{"x": 1}'),)),
        Former("before"),
        (OURS, RuleAgent("before", '{"x": 1}')),
    ),
    "one without a name, which any worker without one answers, is somebody's": (
        (RuleAgent("", "x"), OURS),
        NO_OPTIONS,
        NOTHING_FORMER,
        (RuleAgent("", "x"), OURS),
    ),
    "and is not ours when ours is gone": (
        (RuleAgent("", "x"),),
        NO_OPTIONS,
        NOTHING_FORMER,
        (OURS, RuleAgent("", "x")),
    ),
    "an option of the agent's own name says nothing": (
        (OURS,),
        AgentOptions(agents=(RuleAgent(OURS.name, '{"x": 1}'),)),
        NOTHING_FORMER,
        (OURS,),
    ),
    "ours is gone, a wanted one has the same job": (
        (RuleAgent("recorder", OURS.metadata),),
        AgentOptions(agents=(RuleAgent("recorder", OURS.metadata),)),
        NOTHING_FORMER,
        (OURS, RuleAgent("recorder", OURS.metadata)),
    ),
    "what means the same is left as it is written": (
        (replace(OURS, metadata='{"a":1}'), replace(RECORDER, metadata='{ "bucket":"b" }')),
        AgentOptions(agents=(RECORDER,)),
        NOTHING_FORMER,
        (replace(OURS, metadata='{"a":1}'), replace(RECORDER, metadata='{ "bucket":"b" }')),
    ),
}


@pytest.mark.parametrize("name", AGENTS)
def test_agents_are_corrected_and_those_of_others_stay(name: str) -> None:
    now, options, former, expected = AGENTS[name]
    wanted = with_options(options)
    rule = corrected_rule(replace(RULE_NOW, agents=now), wanted, twilio_encrypts=False, former=former)
    assert rule.agents == expected
    assert corrected_rule(rule, wanted, twilio_encrypts=False, former=former) == rule
    assert compare(wanted, observed(rule=rule)) == []


def test_what_is_missing_of_the_agents_is_said_of_each() -> None:
    wanted = with_options(AgentOptions(agents=(RECORDER, OPERATORS)))
    kit = Case(
        DISPATCH_RULE, NO_OPTIONS, agents=(replace(OURS, metadata="{}"), replace(RECORDER, metadata="x"))
    ).set_on(FRESH)
    found = compare(wanted, seen(kit))
    assert {finding.code for finding in found} == {FindingCode.RULE_CHANGED}
    assert [finding.detail for finding in found] == [
        "The metadata of the agent's jobs was changed.",
        "Option agents: the metadata of the jobs of recorder is not what is set.",
        "Option agents: it does not name coach.",
    ]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("", "{}", True),
        ('{"a": 1, "b": [1, 2]}', '{"b":[1,2],"a":1}', True),
        ('{"a": 1}', '{"a": 2}', False),
        ('{"a": true}', '{"a": 1}', False),
        ('{"a": [1, 2]}', '{"a": [2, 1]}', False),
        ("hello", "hello", True),
        ("hello", "hello ", False),
        ("[" * 50_000, "[" * 50_000, True),
        ("[" * 50_000, "{}", False),
        ("1" * 5000, "1" * 5000, True),
    ],
)
def test_job_metadata_is_compared_by_meaning_where_both_are_json(first: str, second: str, *, expected: bool) -> None:
    assert is_same_job(first, second) is is_same_job(second, first) is expected


# What is somebody else's.


def adopted(step: str, *, is_shared: bool) -> PathSpec:
    everything = AgentOptions(
        pin="1", ringing_s=5, max_duration_s=50, transfer=TransferMode.ENABLED, agents=(RECORDER,), krisp=False
    )
    return with_options(everything, adopted={step: Adopted(IDS[step], "theirs", is_shared=is_shared)})


def test_a_shared_object_is_never_changed() -> None:
    trunk = replace(TRUNK_NOW, tag="theirs", is_secure=True)
    assert corrected_trunk(trunk, adopted(TRUNK, is_shared=True), livekit_encrypts=False) == trunk
    url = replace(URL_NOW, tag="theirs", is_enabled=False, sip_url="sip:elsewhere.example.com", priority=3)
    assert corrected_url(url, adopted(ORIGINATION_URL, is_shared=True), is_secure=False) == url
    inbound = replace(INBOUND_NOW, name="theirs", metadata="", numbers=("+19990000001", INBOUND_NOW.numbers[0]))
    inbound = replace(inbound, allowed_addresses=(), max_call_duration_s=2.0, has_username=True)
    path = adopted(INBOUND_TRUNK, is_shared=True)
    assert corrected_inbound_trunk(inbound, path, twilio_encrypts=False, former=Former(options=path.options)) == inbound
    rule = replace(RULE_NOW, name="theirs", kind=RuleKind.DIRECT, room="lobby", agents=(RuleAgent("x"),), krisp=True)
    assert corrected_rule(rule, adopted(DISPATCH_RULE, is_shared=True), twilio_encrypts=False) == rule


def test_a_shared_livekit_trunk_is_left_as_it_is() -> None:
    path = adopted(INBOUND_TRUNK, is_shared=True)
    inbound = replace(INBOUND_NOW, name="theirs", metadata="", numbers=("+19990000001",), krisp=True)
    assert corrected_inbound_trunk(inbound, path, twilio_encrypts=False) == inbound
    for_all = replace(inbound, numbers=())
    assert corrected_inbound_trunk(for_all, path, twilio_encrypts=False) == for_all


def test_what_differs_on_a_shared_object_is_no_finding_of_ours() -> None:
    kit = Case(DISPATCH_RULE, NO_OPTIONS, name="theirs", kind=RuleKind.DIRECT, room="lobby", pin="").set_on(FRESH)
    path = with_options(NO_OPTIONS, adopted={DISPATCH_RULE: Adopted(IDS[DISPATCH_RULE], "theirs", is_shared=True)})
    assert compare(path, seen(kit)) == []
    (finding,) = compare(path, seen(Case(DISPATCH_RULE, NO_OPTIONS, name="theirs", pin="1").set_on(FRESH)))
    assert (finding.code, finding.severity) == (FindingCode.RULE_PIN, Severity.CRITICAL)


def test_an_adopted_object_of_one_number_is_ours_and_its_url_keeps_its_place() -> None:
    url = replace(URL_NOW, tag="theirs", priority=3, weight=70)
    expected = replace(URL_NOW, priority=3, weight=70)
    assert corrected_url(url, adopted(ORIGINATION_URL, is_shared=False), is_secure=False) == expected
    rule = corrected_rule(
        replace(RULE_NOW, name="theirs"), adopted(DISPATCH_RULE, is_shared=False), twilio_encrypts=False
    )
    assert (rule.name, rule.pin) == (RULE_NOW.name, "1")


def test_another_object_in_the_place_of_a_shared_one_is_ours() -> None:
    path = with_options(AgentOptions(pin="1"), adopted={DISPATCH_RULE: Adopted("SDR_bbbbbbbbbbbb", is_shared=True)})
    assert corrected_rule(RULE_NOW, path, twilio_encrypts=False).pin == "1"


# What stands, for an undo.


def test_cleared_values_are_read_as_such_so_that_they_can_be_restored() -> None:
    names = [one.field for one in OPTIONS]
    found = observed_options(INBOUND_NOW, RULE_NOW, TRUNK_NOW, names)
    assert found == AgentOptions(
        dispatch_kind=DispatchKind.INDIVIDUAL,
        room_prefix="call",
        randomize=True,
        pin="",
        agents=(),
        empty_timeout_s=0,
        departure_timeout_s=0,
        max_participants=0,
        room_preset="",
        participant_metadata="",
        participant_attributes=(),
        hide_phone_number=False,
        ringing_s=30,
        max_duration_s=0,
        krisp=False,
        allowed_callers=(),
        headers_to_attributes=(),
        include_headers=HeaderSet.NONE,
        transfer=TransferMode.DISABLED,
    )


def test_only_what_is_asked_for_is_read_and_an_option_of_a_room_stands_for_all_of_them() -> None:
    assert observed_options(INBOUND_NOW, RULE_NOW, TRUNK_NOW, ["pin"]) == AgentOptions(pin="")
    assert is_set(observed_options(INBOUND_NOW, RULE_NOW, TRUNK_NOW, ["room_name"])) == {
        "dispatch_kind",
        "room_prefix",
        "randomize",
    }
    assert observed_options(None, None, None, [one.field for one in OPTIONS]) == NO_OPTIONS


def test_of_the_agents_only_those_that_options_name_are_read() -> None:
    rule = replace(RULE_NOW, agents=(OURS, OPERATORS, replace(RECORDER, metadata="theirs")))
    found = observed_options(INBOUND_NOW, rule, TRUNK_NOW, ["agents"], extras=["recorder", "gone"])
    assert found == AgentOptions(agents=(replace(RECORDER, metadata="theirs"),))


def random_kit(draw: Draw) -> Kit:
    """Return objects as an operator may have left them: those of an agent with options, changed by hand."""
    kit = corrected(FRESH, with_options(random_options(draw)))
    trunk, inbound, rule = kit
    inbound = replace(inbound, ringing_timeout_s=draw.one((0.0, 22.5, 30.0)), krisp=draw.chance(0.5))
    agents = tuple(each for each in (OURS, RECORDER, OPERATORS) if each is OURS or draw.chance(0.5))
    return trunk, inbound, replace(rule, agents=agents, hides_caller=draw.chance(0.5))


def without_spelling(kit: Kit) -> list[object]:
    """Return the objects with their agents sorted, and with Krisp as LiveKit has it: on either of both or on none."""
    trunk, inbound, rule = kit
    krisp = inbound.krisp or rule.krisp
    agents = tuple(sorted(rule.agents, key=lambda agent: agent.name))
    return [trunk, replace(inbound, krisp=krisp), replace(rule, krisp=False, agents=agents)]


ROUND_TRIPS = 1500


def test_what_an_update_has_changed_is_put_back_from_what_was_read_before() -> None:
    changed = 0
    for seed in range(ROUND_TRIPS):
        draw = Draw(("round trip", seed))
        old, new = random_options(draw), random_options(draw)
        before = corrected(random_kit(draw), with_options(old))
        names = old.differing(new)
        _, inbound, rule = before
        extras = {agent.name for each in (old, new) for agent in each.agents or ()} | {OURS.name}
        snapshot = observed_options(inbound, rule, before[0], names, extras)
        snapshot = options_of(json.loads(json.dumps(options_json(snapshot))))

        after = corrected(before, with_options(new), Former(options=old))
        assert compare(with_options(new), seen(after)) == [], seed
        changed += after != before
        undone = corrected(after, with_options(snapshot.over(old)), Former(options=new))
        assert without_spelling(undone) == without_spelling(before), (
            f"{seed}: {options_json(old)} -> {options_json(new)}"
        )
    assert changed > ROUND_TRIPS * 0.9


def test_a_former_name_is_put_back_beside_agents_of_others() -> None:
    """The new name is that of an operator's agent: the undo leaves the operator's where it was."""
    theirs = RuleAgent("front-desk", '{"theirs": 1}')
    before = replace(RULE_NOW, agents=(RuleAgent("before", "{}"), theirs))
    names, extras = ["agents"], {"before", "front-desk"}
    snapshot = observed_options(INBOUND_NOW, before, TRUNK_NOW, names, extras)
    after = corrected_rule(before, with_options(NO_OPTIONS), twilio_encrypts=False, former=Former("before"))
    assert after.agents == (OURS,)
    old = replace(with_options(snapshot), agent_name="before", job_metadata="{}")
    undone = corrected_rule(after, old, twilio_encrypts=False, former=Former("front-desk"))
    assert sorted(undone.agents, key=lambda agent: agent.name) == sorted(before.agents, key=lambda agent: agent.name)


def test_marks_of_earlier_releases_are_not_read_as_metadata() -> None:
    rule = replace(RULE_NOW, metadata=INBOUND_NOW.metadata)
    assert observed_options(None, rule, None, ["participant_metadata"]).participant_metadata == ""


# What else holds of the table.


def test_every_option_is_a_field_and_goes_through_json() -> None:
    assert {one.field for one in OPTIONS} == {one.name for one in fields(AgentOptions)}
    for seed in range(300):
        options = random_options(Draw(("json", seed)))
        assert options_of(json.loads(json.dumps(options_json(options)))) == options


def test_docs_say_where_every_option_stands() -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    table = text.partition("| where it stands | option |")[2].partition("\n\n")[0]
    documented = [line.split("|")[2].strip().strip("`") for line in table.splitlines()[2:]]
    assert documented == [".".join(one.path) for one in OPTIONS if one.step is not None]
