"""The step table and each of its steps, one try at a time."""

import threading
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from app.db.models import Agent
from app.domain.errors import ErrorCode
from app.domain.findings import FindingCode, Severity
from app.domain.operations import (
    ALL_NEEDS,
    DISPATCH_RULE,
    INBOUND_TRUNK,
    LAST,
    NUMBER,
    NUMBER_ATTACHMENT,
    ORIGINATION_URL,
    STEPS,
    TRUNK,
    VERIFICATION,
    Direction,
    steps_towards,
)
from app.domain.options import RuleAgent
from app.path.marks import tag_of
from app.path.observed import NumberRouting
from app.providers.errors import RejectedError, TransientError
from app.saga.context import RoutedElsewhereError, StepContext
from app.saga.steps import ACTIONS, read_findings
from app.saga.twilio_steps import LONGEST_PAUSE_S, TRUNK_SEEN_WITHIN
from tests.support.providers import World
from tests.support.saga import E164, SIP_URI
from tests.support.step_context import AGENT, make_context

TAG = tag_of("test", AGENT)
FOREIGN_TRUNK = "TK" + "f" * 32
APPLICATION = "AP" + "f" * 32
MEETING_S = 10.0
"""Seconds that calls which should be under way together wait for each other before the test fails."""


def refusal(step: str, context: StepContext) -> ErrorCode:
    with pytest.raises(RejectedError) as caught:
        ACTIONS[step].do(context)
    return caught.value.code


# The table


def test_the_number_is_attached_after_everything_else_and_detached_before() -> None:
    assert [step.name for step in STEPS][-2:] == [NUMBER_ATTACHMENT, VERIFICATION]
    assert steps_towards(Direction.UNDO)[0].name == NUMBER_ATTACHMENT


def test_every_step_needs_only_what_stands_above_it() -> None:
    seen: set[str] = set()
    for step in STEPS:
        assert set(step.needs) <= seen
        seen.add(step.name)


def test_the_last_step_needs_every_other() -> None:
    """A step that none needs would be left out where branches meet, and run only once a sweep has found it."""
    assert ALL_NEEDS[LAST] == {step.name for step in STEPS} - {LAST}


def test_every_column_of_the_table_is_a_column_of_the_agent() -> None:
    columns = [step.column for step in STEPS if step.column]
    assert set(columns) <= set(Agent.__table__.columns.keys())
    assert len(columns) == len(set(columns)) == 5


def test_whatever_makes_something_can_find_it_and_undo_it() -> None:
    assert {step.name for step in STEPS if step.makes} == {TRUNK, ORIGINATION_URL, INBOUND_TRUNK, DISPATCH_RULE}
    assert all(ACTIONS[step.name].find and step.column for step in STEPS if step.makes)
    assert {name for name, actions in ACTIONS.items() if actions.undo} == {
        step.name for step in STEPS if step.is_undone
    }
    assert list(ACTIONS) == [step.name for step in STEPS]


# The number


@pytest.mark.parametrize(
    "routing",
    [{"trunk_sid": FOREIGN_TRUNK}, {"application_sid": APPLICATION}],
    ids=["foreign trunk", "voice application"],
)
def test_a_number_in_use_elsewhere_needs_a_takeover(routing: dict[str, str]) -> None:
    world = World.new()
    sid = world.carrier.own_number(E164, **routing)
    assert refusal(NUMBER, make_context(world)) == ErrorCode.NUMBER_ALREADY_ROUTED
    result = ACTIONS[NUMBER].do(make_context(world, takeover=True))
    assert result.resource_id == sid
    assert result.previous_routing == asdict(world.routing(sid))


def test_a_web_hook_is_kept_and_stops_nobody() -> None:
    world = World.new()
    world.carrier.own_number(E164, voice_url="https://example.com/voice")
    result = ACTIONS[NUMBER].do(make_context(world))
    assert result.previous_routing == asdict(NumberRouting(None, None, "https://example.com/voice"))


def test_a_number_without_voice_is_refused() -> None:
    world = World.new()
    world.carrier.own_number(E164, is_voice=False)
    assert refusal(NUMBER, make_context(world, takeover=True)) == ErrorCode.NUMBER_NOT_VOICE


def test_a_number_of_another_account_is_refused() -> None:
    assert refusal(NUMBER, make_context()) == ErrorCode.NUMBER_NOT_IN_ACCOUNT


# The attachment


def whole(**changes: Any) -> tuple[World, StepContext]:
    """Return a world with the whole path in it, and a context that knows it."""
    world = World.new()
    trunk = world.carrier.own_trunk(TAG)
    number = world.carrier.own_number(E164, trunk_sid=trunk)
    inbound = world.platform.own_trunk(E164, name=TAG, metadata=make_context(world).spec.label.metadata)
    ids = {
        NUMBER: number,
        TRUNK: trunk,
        ORIGINATION_URL: world.carrier.own_url(trunk, SIP_URI, TAG),
        INBOUND_TRUNK: inbound,
        DISPATCH_RULE: world.platform.own_rule(inbound, "support", name=TAG),
    }
    return world, make_context(world, ids=ids, **changes)


def test_a_number_that_went_elsewhere_meanwhile_is_not_taken() -> None:
    world, context = whole()
    world.carrier.route(context.ids[NUMBER], trunk_sid=FOREIGN_TRUNK)
    with pytest.raises(RoutedElsewhereError) as caught:
        ACTIONS[NUMBER_ATTACHMENT].do(context)
    assert (caught.value.code, caught.value.routing.trunk_sid) == (ErrorCode.NUMBER_ALREADY_ROUTED, FOREIGN_TRUNK)
    assert world.log.order == ["carrier.get_number"]


def test_a_number_taken_over_from_where_it_went_meanwhile_goes_back_there() -> None:
    world, context = whole(takeover=True, previous_routing=NumberRouting(None, APPLICATION, None))
    world.carrier.route(context.ids[NUMBER], trunk_sid=FOREIGN_TRUNK)
    assert ACTIONS[NUMBER_ATTACHMENT].do(context).previous_routing == asdict(NumberRouting(FOREIGN_TRUNK, None, None))
    assert world.routing(context.ids[NUMBER]).trunk_sid == context.ids[TRUNK]


def test_a_number_that_is_attached_already_is_left_alone() -> None:
    world, context = whole()
    ACTIONS[NUMBER_ATTACHMENT].do(context)
    assert world.log.order == ["carrier.get_number"]


# Below the trunk

BELOW = pytest.mark.parametrize(
    ("step", "call"),
    [(ORIGINATION_URL, "carrier.create_origination_url"), (NUMBER_ATTACHMENT, "carrier.attach_number")],
)
GONE = RejectedError(ErrorCode.TWILIO_TRUNK_GONE, "Twilio refused: HTTP 404.")
UNSUPPORTED = RejectedError(ErrorCode.TWILIO_UNSUPPORTED, "Twilio refused: HTTP 404. The trunk is there.")
LONG = {"tried_for": TRUNK_SEEN_WITHIN}


def detached(**changes: Any) -> tuple[World, StepContext]:
    world, context = whole(**changes)
    world.carrier.route(context.ids[NUMBER], trunk_sid=None)
    return world, context


@BELOW
@pytest.mark.parametrize("refusal", [GONE, UNSUPPORTED])
def test_a_404_below_a_trunk_is_tried_again_for_half_a_minute(step: str, call: str, refusal: RejectedError) -> None:
    world, context = detached(tried_for=TRUNK_SEEN_WITHIN - timedelta(seconds=1))
    world.log.plan(call, before=refusal)
    with pytest.raises(TransientError) as caught:
        ACTIONS[step].do(context)
    assert (caught.value.code, caught.value.detail) == (ErrorCode.PROVIDER_UNAVAILABLE, refusal.detail)
    assert caught.value.retry_within_s == LONGEST_PAUSE_S


@BELOW
@pytest.mark.parametrize("refusal", [GONE, UNSUPPORTED])
def test_after_that_three_in_a_row_end_the_step(step: str, call: str, refusal: RejectedError) -> None:
    world, context = detached(**LONG)
    world.log.plan(call, before=refusal, times=3)
    with pytest.raises(RejectedError) as caught:
        ACTIONS[step].do(context)
    assert caught.value is refusal
    assert world.log.started[call] == 3


@BELOW
def test_after_that_two_in_a_row_may_be_wrong(step: str, call: str) -> None:
    world, context = detached(**LONG)
    world.log.plan(call, before=GONE, times=2)
    assert ACTIONS[step].do(context).resource_id
    assert world.log.applied[call] == 1


@BELOW
def test_any_other_refusal_below_a_trunk_ends_the_step_at_once(step: str, call: str) -> None:
    world, context = detached()
    world.log.plan(call, before=RejectedError(ErrorCode.TWILIO_REJECTED, "Twilio refused."))
    assert refusal(step, context) == ErrorCode.TWILIO_REJECTED
    assert world.log.started[call] == 1


def test_a_number_is_looked_at_before_each_try_to_attach_it() -> None:
    world, context = detached(**LONG)

    def moved() -> None:
        world.carrier.route(context.ids[NUMBER], trunk_sid=FOREIGN_TRUNK)
        raise GONE

    world.log.plan("carrier.attach_number", before=moved)
    assert refusal(NUMBER_ATTACHMENT, context) == ErrorCode.NUMBER_ALREADY_ROUTED
    assert world.log.started["carrier.attach_number"] == 1


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_404_of_the_number_that_is_not_true_does_not_hide_that_it_is_ours(times: int) -> None:
    world, context = whole(previous_routing=NumberRouting(None, APPLICATION, None))
    gone = RejectedError(ErrorCode.NUMBER_NOT_IN_ACCOUNT, "Gone.")
    world.log.plan("carrier.get_number", before=gone, times=times)
    detach(world, context)
    assert world.routing(context.ids[NUMBER]) == NumberRouting(None, APPLICATION, None)


@pytest.mark.parametrize("where", [{"trunk_sid": FOREIGN_TRUNK}, {"voice_application_sid": APPLICATION}])
def test_a_number_routed_by_somebody_between_detaching_and_restoring_is_left_to_them(where: dict[str, str]) -> None:
    world, context = whole(previous_routing=NumberRouting("TK" + "e" * 32, None, None))
    world.carrier.trunks["TK" + "e" * 32] = replace(world.carrier.trunks[context.ids[TRUNK]], sid="TK" + "e" * 32)
    world.log.plan("carrier.detach_number", after=lambda: world.carrier.route(context.ids[NUMBER], **where))
    detach(world, context)
    now = world.routing(context.ids[NUMBER])
    assert (now.trunk_sid, now.voice_application_sid) == (
        where.get("trunk_sid"),
        where.get("voice_application_sid"),
    )


def detach(world: World, context: StepContext) -> None:
    undo = ACTIONS[NUMBER_ATTACHMENT].undo
    assert undo is not None
    undo(context, context.ids[NUMBER])


@pytest.mark.parametrize(
    "previous",
    [
        NumberRouting(None, APPLICATION, None),
        NumberRouting(None, None, "https://example.com/voice"),
        NumberRouting(None, None, None),
    ],
)
def test_detaching_puts_back_what_was_there_before(previous: NumberRouting) -> None:
    world, context = whole(previous_routing=previous)
    detach(world, context)
    assert world.routing(context.ids[NUMBER]) == previous


def test_detaching_twice_is_detaching_once() -> None:
    world, context = whole(previous_routing=NumberRouting(None, None, None))
    for _ in range(2):
        detach(world, context)
    assert world.log.started["carrier.detach_number"] == 1


def test_a_number_that_still_shows_our_trunk_is_detached_again_later() -> None:
    world, context = whole()
    number, trunk = context.ids[NUMBER], context.ids[TRUNK]
    world.log.plan("carrier.detach_number", after=lambda: world.carrier.route(number, trunk_sid=trunk))
    with pytest.raises(TransientError):
        detach(world, context)


# The trunks and what hangs on them


def test_a_trunk_of_another_agent_or_instance_is_not_found() -> None:
    world = World.new()
    for tag in ("trunkline/other/" + str(AGENT), TAG + "1", TAG[:-1], ""):
        world.carrier.own_trunk(tag)
    mine = world.carrier.own_trunk(TAG)
    find = ACTIONS[TRUNK].find
    assert find is not None
    assert find(make_context(world)) == [mine]


def test_a_trunk_with_a_number_on_it_is_not_deleted() -> None:
    world, context = whole()
    undo = ACTIONS[TRUNK].undo
    assert undo is not None
    # The number on it is not the one that we work on.
    others = replace(context, ids={name: one for name, one in context.ids.items() if name != NUMBER})
    with pytest.raises(RejectedError) as caught:
        undo(others, context.ids[TRUNK])
    assert caught.value.code == ErrorCode.TWILIO_TRUNK_IN_USE
    assert context.ids[TRUNK] in world.carrier.trunks


def test_an_inbound_trunk_of_our_own_that_came_late_is_adopted() -> None:
    _, context = whole()
    assert ACTIONS[INBOUND_TRUNK].do(context).resource_id == context.ids[INBOUND_TRUNK]


def test_an_inbound_trunk_of_somebody_else_is_a_conflict() -> None:
    world = World.new()
    world.platform.own_trunk(E164)
    assert refusal(INBOUND_TRUNK, make_context(world)) == ErrorCode.LIVEKIT_NUMBER_CONFLICT


def test_an_inbound_trunk_is_gone_only_when_the_list_says_so() -> None:
    world, context = whole()
    trunk_id = context.ids[INBOUND_TRUNK]
    kept = world.platform.trunks[trunk_id]
    world.log.plan("platform.delete_trunk", after=lambda: world.platform.trunks.update({trunk_id: kept}))
    undo = ACTIONS[INBOUND_TRUNK].undo
    assert undo is not None
    with pytest.raises(TransientError):
        undo(context, trunk_id)


def test_a_rule_that_serves_other_trunks_too_is_not_found() -> None:
    world, context = whole()
    rule = world.platform.rules[context.ids[DISPATCH_RULE]]
    find = ACTIONS[DISPATCH_RULE].find
    assert find is not None
    assert find(context) == [rule.id]
    world.platform.rules[rule.id] = replace(rule, trunk_ids=(*rule.trunk_ids, "ST_other"))
    assert find(context) == []


# Verification


def broken(context: StepContext) -> set[FindingCode]:
    return {finding.code for finding in read_findings(context) if finding.severity is Severity.CRITICAL}


def test_a_whole_path_passes_in_four_reads() -> None:
    world, context = whole()
    assert ACTIONS[VERIFICATION].do(context).removed == ()
    assert sorted(world.log.order) == [
        "carrier.get_number",
        "carrier.list_origination_urls",
        "platform.list_dispatch_rules",
        "platform.list_inbound_trunks",
    ]


def test_the_reads_of_a_verification_are_under_way_at_the_same_time() -> None:
    _, context = whole()
    all_four = threading.Barrier(4)

    @dataclass
    class Meeting:
        """A provider whose every call waits until four are under way, and fails when they never are."""

        provider: Any

        def __getattr__(self, name: str) -> Any:
            all_four.wait(MEETING_S)
            return getattr(self.provider, name)

    tools = context.tools
    tools = replace(tools, carrier=Meeting(tools.carrier), platform=Meeting(tools.platform))
    ACTIONS[VERIFICATION].do(replace(context, tools=tools))
    assert not all_four.broken


@pytest.mark.parametrize("refused", ["get_number", "list_inbound_trunks"])
def test_of_the_reads_that_fail_at_once_the_refusal_counts(refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world, context = whole()
    outage = TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "later")
    refusal = RejectedError(ErrorCode.LIVEKIT_REJECTED, "no")

    def raise_it(error: Exception, *_: Any, **__: Any) -> Any:
        raise error

    for provider, call in ((world.carrier, "get_number"), (world.platform, "list_inbound_trunks")):
        monkeypatch.setattr(provider, call, partial(raise_it, refusal if call == refused else outage))
    with pytest.raises(RejectedError):
        ACTIONS[VERIFICATION].do(context)


def test_every_break_of_the_path_is_named() -> None:
    world, context = whole()
    carrier, platform = world.carrier, world.platform
    url, rule = carrier.urls[context.ids[ORIGINATION_URL]], platform.rules[context.ids[DISPATCH_RULE]]
    trunk = platform.trunks[context.ids[INBOUND_TRUNK]]
    assert broken(context) == set()
    for changed_url, code in (
        (replace(url, is_enabled=False), FindingCode.ORIGINATION_URL_DISABLED),
        (replace(url, sip_url="sip:other.sip.livekit.cloud"), FindingCode.ORIGINATION_HOST_WRONG),
    ):
        carrier.urls[url.sid] = changed_url
        assert broken(context) == {code}
    carrier.urls[url.sid] = url
    platform.trunks[trunk.id] = replace(trunk, numbers=("+15145550000",))
    assert broken(context) == {FindingCode.LIVEKIT_TRUNK_LOST_NUMBER}
    platform.trunks[trunk.id] = trunk
    for changed_rule, code in (
        (replace(rule, trunk_ids=("ST_zzzzzzzzzzzz",)), FindingCode.RULE_DEAD_TRUNK),
        (replace(rule, agents=(RuleAgent("other"),)), FindingCode.RULE_LOST_AGENT),
        (replace(rule, inbound_numbers=("+15145550000",)), FindingCode.RULE_FILTERED),
        (replace(rule, pin="1234"), FindingCode.RULE_PIN),
    ):
        platform.rules[rule.id] = changed_rule
        assert broken(context) == {code}
    platform.rules[rule.id] = rule
    carrier.route(context.ids[NUMBER], trunk_sid=None)
    assert broken(context) == {FindingCode.NUMBER_DETACHED}


def test_a_second_agent_on_the_rule_is_somebody_elses_choice() -> None:
    world, context = whole()
    rule = world.platform.rules[context.ids[DISPATCH_RULE]]
    world.platform.rules[rule.id] = replace(rule, agents=(*rule.agents, RuleAgent("recorder")))
    assert ACTIONS[VERIFICATION].do(context).findings == ()


def test_somebody_elses_trunk_with_our_number_breaks_the_path() -> None:
    world, context = whole()
    foreign = world.platform.own_trunk(E164)
    assert broken(context) == {FindingCode.LIVEKIT_TRUNK_FOREIGN}
    with pytest.raises(RejectedError, match=foreign):
        ACTIONS[VERIFICATION].do(context)


def test_a_trunk_of_ours_with_our_number_is_a_duplicate_and_deleted_where_it_stops_calls() -> None:
    world, context = whole()
    duplicate = world.platform.own_trunk(E164, metadata=context.spec.label.metadata)
    assert broken(context) == {FindingCode.TWIN}
    assert ACTIONS[VERIFICATION].do(context).removed == (duplicate,)
    assert duplicate not in world.platform.trunks


def test_a_path_that_shows_up_late_passes() -> None:
    world, context = whole()
    url = world.carrier.urls.pop(context.ids[ORIGINATION_URL])

    def appear(seconds: float) -> None:
        world.carrier.urls[url.sid] = url

    ACTIONS[VERIFICATION].do(replace(context, tools=replace(context.tools, sleep=appear)))
    assert world.log.started["carrier.list_origination_urls"] == 2


def test_twins_are_removed_only_where_twins_are_possible() -> None:
    for is_uncertain in (False, True):
        world, context = whole(is_uncertain=is_uncertain)
        twins = [world.carrier.own_trunk(TAG), world.carrier.own_url(context.ids[TRUNK], SIP_URI, TAG)]
        removed = ACTIONS[VERIFICATION].do(context).removed
        assert set(removed) == (set(twins) if is_uncertain else set())


def test_a_twin_that_lies_under_another_trunk_is_removed_from_there() -> None:
    world, context = whole(is_uncertain=True)
    other = world.carrier.own_trunk(TAG)
    url = world.carrier.own_url(other, SIP_URI, TAG)
    context = replace(context, ledger={ORIGINATION_URL: (url,)}, parents={url: other})
    assert set(ACTIONS[VERIFICATION].do(context).removed) == {url, other}
    assert set(world.carrier.urls) == {context.ids[ORIGINATION_URL]}
