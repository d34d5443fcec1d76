"""What is said of options that LiveKit would refuse, or that callers could not use."""

import pytest

from app.domain.options import AgentOptions, DispatchKind, RuleAgent, options_json, options_of
from app.path.livekit_matching import LONGEST_CALLER
from app.path.options import problems_of

DIRECT, CALLEE = DispatchKind.DIRECT, DispatchKind.CALLEE
NUMBER = "+15145550001"

FINE: dict[str, AgentOptions] = {
    "nothing": AgentOptions(),
    "one room": AgentOptions(dispatch_kind=DIRECT, room_name="lobby", pin="0123456789012345"),
    "a room name of 256 bytes": AgentOptions(dispatch_kind=DIRECT, room_name="é" * 128),
    "a room for each number": AgentOptions(dispatch_kind=CALLEE, room_prefix="", randomize=True),
    "no prefix": AgentOptions(room_prefix=""),
    "the longest prefix": AgentOptions(room_prefix="a" * (256 - 1 - len(LONGEST_CALLER) - 13)),
    "callers": AgentOptions(allowed_callers=("+13105550100", "+266696687")),
    "headers": AgentOptions(headers_to_attributes=(("X-Team", "team"), ("Call-ID", "id"), ("P.+~'", "p"))),
    "the least figures": AgentOptions(
        ringing_s=1, max_duration_s=10, max_participants=1, empty_timeout_s=1, monitor_every_minutes=5
    ),
    "the most": AgentOptions(
        ringing_s=180, max_duration_s=86_400, departure_timeout_s=86_400, monitor_every_minutes=1440
    ),
    "agents": AgentOptions(agents=(RuleAgent("recorder", '{"a": 1}'), RuleAgent("coach", "{}"))),
    "metadata for everybody": AgentOptions(
        participant_metadata='{"team": "a"}', participant_attributes=(("a.b", "c"),)
    ),
}


@pytest.mark.parametrize("name", FINE)
def test_what_callers_can_use_has_no_problem(name: str) -> None:
    assert problems_of(FINE[name], NUMBER) == {}


WRONG: dict[str, tuple[AgentOptions, str]] = {
    "one room without a name": (AgentOptions(dispatch_kind=DIRECT), "dispatch.roomName"),
    "one room without a name, an empty one": (AgentOptions(dispatch_kind=DIRECT, room_name=""), "dispatch.roomName"),
    "one room, 257 bytes": (AgentOptions(dispatch_kind=DIRECT, room_name="é" * 128 + "a"), "dispatch.roomName"),
    "one room with a prefix": (
        AgentOptions(dispatch_kind=DIRECT, room_name="a", room_prefix="b"),
        "dispatch.roomPrefix",
    ),
    "one room of random names": (
        AgentOptions(dispatch_kind=DIRECT, room_name="a", randomize=True),
        "dispatch.randomize",
    ),
    "a room name without its kind": (AgentOptions(room_name="lobby"), "dispatch.roomName"),
    "a prefix that leaves no room": (AgentOptions(room_prefix="a" * 227), "dispatch.roomPrefix"),
    "the same, in bytes": (AgentOptions(room_prefix="é" * 114), "dispatch.roomPrefix"),
    "a prefix with a line": (AgentOptions(room_prefix="a\nb"), "dispatch.roomPrefix"),
    "a PIN of letters": (AgentOptions(pin="12ab"), "dispatch.pin"),
    "a PIN of other digits": (AgentOptions(pin="\u0661\u0662"), "dispatch.pin"),
    "a PIN of 17 digits": (AgentOptions(pin="1" * 17), "dispatch.pin"),
    "an empty PIN": (AgentOptions(pin=""), "dispatch.pin"),
    "an agent twice": (AgentOptions(agents=(RuleAgent("a"), RuleAgent("a", "{}"))), "agents"),
    "an agent without a name": (AgentOptions(agents=(RuleAgent("a"), RuleAgent(" "))), "agents.1.name"),
    "a job's metadata too large": (AgentOptions(agents=(RuleAgent("a", "x" * 16_385),)), "agents.0.metadata"),
    "many agents": (AgentOptions(agents=tuple(RuleAgent(f"a{at}") for at in range(11))), "agents"),
    "no time to ring": (AgentOptions(ringing_s=0), "call.ringingS"),
    "more than LiveKit rings": (AgentOptions(ringing_s=181), "call.ringingS"),
    "calls that are cut at once": (AgentOptions(max_duration_s=9), "call.maxDurationS"),
    "more than a day": (AgentOptions(max_duration_s=86_401), "call.maxDurationS"),
    "nobody in the room": (AgentOptions(max_participants=0), "room.maxParticipants"),
    "a room that is closed at once": (AgentOptions(empty_timeout_s=0), "room.emptyTimeoutS"),
    "left for less than no time": (AgentOptions(departure_timeout_s=-1), "room.departureTimeoutS"),
    "a call every 4 minutes": (AgentOptions(monitor_every_minutes=4), "monitor.everyMinutes"),
    "a preset without a name": (AgentOptions(room_preset=""), "room.preset"),
    "a mark of ours": (
        AgentOptions(participant_metadata="trunkline/main/7d9f1c3e-0000-4000-8000-000000000001"),
        "participant.metadata",
    ),
    "much metadata": (AgentOptions(participant_metadata="x" * 16_385), "participant.metadata"),
    "a NUL": (AgentOptions(participant_metadata="\0"), "participant.metadata"),
    "LiveKit's own attribute": (AgentOptions(participant_attributes=(("sip.callID", "a"),)), "participant.attributes"),
    "an attribute without a name": (AgentOptions(participant_attributes=(("", "a"),)), "participant.attributes"),
    "an attribute without a value": (AgentOptions(participant_attributes=(("a", ""),)), "participant.attributes"),
    "half a surrogate": (AgentOptions(participant_attributes=(("a", "\ud800"),)), "participant.attributes"),
    "large attributes": (AgentOptions(participant_attributes=(("a", "x" * 32_768),)), "participant.attributes"),
    "nobody may call": (AgentOptions(allowed_callers=()), "call.allowedCallers"),
    "a caller twice": (AgentOptions(allowed_callers=("+13105550100",) * 2), "call.allowedCallers"),
    "a caller without a plus": (AgentOptions(allowed_callers=("13105550100",)), "call.allowedCallers.0"),
    "a header with a blank": (AgentOptions(headers_to_attributes=(("X Team", "a"),)), "call.headersToAttributes"),
    "a header with a line": (AgentOptions(headers_to_attributes=(("X-Team\n", "a"),)), "call.headersToAttributes"),
    "a header without a name": (AgentOptions(headers_to_attributes=(("", "a"),)), "call.headersToAttributes"),
    "a header in two cases": (
        AgentOptions(headers_to_attributes=(("X-Team", "a"), ("x-team", "b"))),
        "call.headersToAttributes",
    ),
    "a header as LiveKit's own attribute": (
        AgentOptions(headers_to_attributes=(("X-Team", "sip.team"),)),
        "call.headersToAttributes",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_callers_cannot_use_is_said_of_the_option_that_is_wrong(name: str) -> None:
    options, path = WRONG[name]
    found = problems_of(options, NUMBER)
    assert list(found) == [path]
    assert all(found[path])


def test_a_prefix_is_measured_with_the_number_by_which_the_room_is_named() -> None:
    prefix = "a" * (256 - 1 - len(NUMBER) - 13)
    assert problems_of(AgentOptions(dispatch_kind=CALLEE, room_prefix=prefix), NUMBER) == {}
    assert problems_of(AgentOptions(dispatch_kind=CALLEE, room_prefix=prefix)) != {}
    assert problems_of(AgentOptions(room_prefix=prefix), NUMBER) != {}


def test_a_pin_is_never_repeated() -> None:
    assert "secret9" not in repr(problems_of(AgentOptions(pin="secret9")))


@pytest.mark.parametrize(
    "metadata", ["{}", '{"a": 1}', '{"a":1}', "", "hello", "[1]", "[" * 50_000, '{"b": 1, "a": 2}']
)
def test_metadata_of_others_goes_through_json_to_the_letter(metadata: str) -> None:
    options = AgentOptions(agents=(RuleAgent("recorder", metadata),))
    assert options_of(options_json(options)) == options
