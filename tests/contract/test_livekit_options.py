"""Options of an agent as LiveKit keeps them: made with a trunk and a rule, changed in place, and taken away again.

True of the sandbox and of any LiveKit server: what is there is read with the SDK, and not by our reader.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from livekit import api
from livekit.protocol import sip

from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK
from app.domain.options import NO_OPTIONS, OPTIONS, AgentOptions, DispatchKind, HeaderSet, RuleAgent
from app.path.corrections import corrected_inbound_trunk, corrected_rule
from app.path.options import observed_options
from app.path.spec import Former, Label, PathSpec
from app.providers.livekit import LiveKitPlatform
from tests.support.adapters import PROFILE
from tests.support.livekit_server import LiveKitServer
from tests.support.random_paths import Draw, random_options

AGENT = "front-desk"
Seen = tuple[api.SIPInboundTrunkInfo, api.SIPDispatchRuleInfo]


def one_of(seen: Seen) -> Any:
    rule = seen[1].rule
    return getattr(rule, rule.WhichOneof("rule"))


def agents_of(seen: Seen) -> list[tuple[str, str]]:
    return [(agent.agent_name, agent.metadata) for agent in seen[1].room_config.agents]


FIELDS: dict[str, tuple[AgentOptions, Callable[[Seen], Any], Any, Any]] = {
    "direct": (
        AgentOptions(dispatch_kind=DispatchKind.DIRECT, room_name="lobby"),
        lambda seen: (seen[1].rule.WhichOneof("rule"), getattr(one_of(seen), "room_name", "")),
        ("dispatch_rule_direct", "lobby"),
        ("dispatch_rule_individual", ""),
    ),
    "callee": (
        AgentOptions(dispatch_kind=DispatchKind.CALLEE, room_prefix="line"),
        lambda seen: (
            seen[1].rule.WhichOneof("rule"),
            one_of(seen).room_prefix,
            seen[1].rule.dispatch_rule_callee.randomize,
        ),
        ("dispatch_rule_callee", "line", False),
        ("dispatch_rule_individual", "call", False),
    ),
    "callee, random": (
        AgentOptions(dispatch_kind=DispatchKind.CALLEE, randomize=True),
        lambda seen: (
            seen[1].rule.WhichOneof("rule"),
            one_of(seen).room_prefix,
            seen[1].rule.dispatch_rule_callee.randomize,
        ),
        ("dispatch_rule_callee", "call", True),
        ("dispatch_rule_individual", "call", False),
    ),
    "not random": (AgentOptions(randomize=False), lambda seen: one_of(seen).no_randomness, True, False),
    "prefix": (AgentOptions(room_prefix="front"), lambda seen: one_of(seen).room_prefix, "front", "call"),
    "pin": (AgentOptions(pin="0042"), lambda seen: one_of(seen).pin, "0042", ""),
    "agents": (
        AgentOptions(agents=(RuleAgent("recorder", '{"bucket": "b"}'),)),
        agents_of,
        [(AGENT, "{}"), ("recorder", '{"bucket": "b"}')],
        [(AGENT, "{}")],
    ),
    "empty timeout": (AgentOptions(empty_timeout_s=90), lambda seen: seen[1].room_config.empty_timeout, 90, 0),
    "departure timeout": (
        AgentOptions(departure_timeout_s=5),
        lambda seen: seen[1].room_config.departure_timeout,
        5,
        0,
    ),
    "participants": (AgentOptions(max_participants=3), lambda seen: seen[1].room_config.max_participants, 3, 0),
    "preset": (AgentOptions(room_preset="studio"), lambda seen: seen[1].room_preset, "studio", ""),
    "metadata": (AgentOptions(participant_metadata='{"é":1}'), lambda seen: seen[1].metadata, '{"é":1}', ""),
    "attributes": (
        AgentOptions(participant_attributes=(("a", "1"), ("b", "é"))),
        lambda seen: dict(seen[1].attributes),
        {"a": "1", "b": "é"},
        {},
    ),
    "hidden": (AgentOptions(hide_phone_number=True), lambda seen: seen[1].hide_phone_number, True, False),
    "ringing": (AgentOptions(ringing_s=45), lambda seen: seen[0].ringing_timeout.seconds, 45, 30),
    "duration": (AgentOptions(max_duration_s=1800), lambda seen: seen[0].max_call_duration.seconds, 1800, 0),
    "krisp": (
        AgentOptions(krisp=True),
        lambda seen: (seen[0].krisp_enabled, seen[1].krisp_enabled),
        (True, False),
        (False, False),
    ),
    "callers": (
        AgentOptions(allowed_callers=("+999100000001", "+999100000002")),
        lambda seen: list(seen[0].allowed_numbers),
        ["+999100000001", "+999100000002"],
        [],
    ),
    "headers to attributes": (
        AgentOptions(headers_to_attributes=(("X-Team", "team"),)),
        lambda seen: dict(seen[0].headers_to_attributes),
        {"X-Team": "team"},
        {},
    ),
    "headers": (
        AgentOptions(include_headers=HeaderSet.ALL),
        lambda seen: seen[0].include_headers,
        sip.SIP_ALL_HEADERS,
        sip.SIP_NO_HEADERS,
    ),
}
"""Options, the field that shows them at LiveKit, its value with them, and that of a path without."""


def test_every_option_that_stands_at_livekit_is_here() -> None:
    at_livekit = {one.field for one in OPTIONS if one.step in {INBOUND_TRUNK, DISPATCH_RULE}}
    named = {one.field for options, *_ in FIELDS.values() for one in OPTIONS if getattr(options, one.field) is not None}
    assert named == at_livekit


class Line:
    """A trunk and a rule of one number, as they are to be with some options."""

    def __init__(self, livekit: LiveKitServer, platform: LiveKitPlatform) -> None:
        self._livekit, self._platform, self._number = livekit, platform, livekit.number()
        self._ids: dict[str, str] = {}

    def spec(self, options: AgentOptions) -> PathSpec:
        label = Label("trunkline/x/1", '{"mark": 1}')
        return PathSpec(PROFILE, "x", "1", AGENT, "{}", self._number, label, dict(self._ids), options=options)

    def make(self, options: AgentOptions) -> None:
        """Make both, as a provisioning does."""
        made = self._platform.create_inbound_trunk(self.spec(options).inbound_trunk)
        self._ids[INBOUND_TRUNK] = made.id
        assert made == self.spec(options).inbound_trunk.record(made.id)
        rule = self._platform.create_dispatch_rule(self.spec(options).dispatch_rule)
        self._ids[DISPATCH_RULE] = rule.id
        assert rule == self.spec(options).dispatch_rule.record(rule.id)

    def change(self, options: AgentOptions, former: AgentOptions) -> None:
        """Change both, as an update does."""
        trunk, rule = self.records()
        spec, before = self.spec(options), Former(options=former)
        wanted = corrected_inbound_trunk(trunk, spec, twilio_encrypts=False, former=before)
        assert self._platform.update_inbound_trunk(trunk, wanted)
        assert self._platform.update_dispatch_rule(
            rule, corrected_rule(rule, spec, twilio_encrypts=False, former=before)
        )

    def records(self) -> Any:
        return (
            self._platform.get_inbound_trunk(self._ids[INBOUND_TRUNK]),
            self._platform.get_dispatch_rule(self._ids[DISPATCH_RULE]),
        )

    def seen(self) -> Seen:
        return self._livekit.trunk(self._ids[INBOUND_TRUNK]), self._livekit.rule(self._ids[DISPATCH_RULE])


@pytest.fixture
def line(livekit: LiveKitServer, livekit_platform: LiveKitPlatform) -> Line:
    livekit.requires("updates")
    return Line(livekit, livekit_platform)


@pytest.mark.parametrize("name", FIELDS)
def test_an_option_is_made_with_the_path_and_taken_away_again(line: Line, name: str) -> None:
    options, field, value, plain = FIELDS[name]
    line.make(options)
    assert field(line.seen()) == value
    line.change(NO_OPTIONS, former=options)
    assert field(line.seen()) == plain


@pytest.mark.parametrize("name", FIELDS)
def test_an_option_is_set_on_a_path_that_stands(line: Line, name: str) -> None:
    options, field, value, plain = FIELDS[name]
    line.make(NO_OPTIONS)
    assert field(line.seen()) == plain
    line.change(options, former=NO_OPTIONS)
    assert field(line.seen()) == value


@pytest.mark.parametrize("seed", range(12))
def test_an_update_that_is_undone_leaves_both_objects_as_they_were(line: Line, seed: int) -> None:
    draw = Draw(("at livekit", seed))
    old, new = random_options(draw), replace(random_options(draw), krisp=None)
    line.make(old)
    before, (trunk, rule) = line.seen(), line.records()
    snapshot = observed_options(trunk, rule, None, old.differing(new), {"recorder", "coach"})
    line.change(new, former=old)
    line.change(snapshot.over(old), former=new)
    after = line.seen()
    for info in (before[1], after[1]):
        info.room_config.agents.sort(key=lambda agent: agent.agent_name)
    assert line.records()[0] == trunk
    assert after[0] == before[0]
    assert after[1] == before[1]
