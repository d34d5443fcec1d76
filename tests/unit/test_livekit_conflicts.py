"""A conflict at LiveKit that is not with our own: the refusal names whose objects are in the way."""

from collections.abc import Callable
from typing import Any

import pytest

from app.domain.errors import ErrorCode
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK
from app.domain.options import RuleAgent
from app.path.observed import DispatchRule, InboundTrunk
from app.providers.errors import RejectedError, TransientError
from app.saga.livekit_steps import (
    create_dispatch_rule,
    create_inbound_trunk,
    repair_dispatch_rule,
    repair_inbound_trunk,
)
from tests.support.providers import World
from tests.support.saga import E164
from tests.support.step_context import make_context

SAID = 'LiveKit refused it: HTTP 400. LiveKit said: "Conflicting"'
TAKE_ANY = "both take any number: LiveKit refuses every new trunk until one is changed."
SAME_CALLS = "take the same calls: LiveKit refuses every new rule until one is changed."
ADDRESSES = ("192.0.2.0/24",)
OURS, OUR_TRUNK = "SDR_ours22222222", "ST_ours22222222"


def trunk(trunk_id: str, numbers: tuple[str, ...] = (), name: str = "", **more: Any) -> InboundTrunk:
    return InboundTrunk(trunk_id, name, "", numbers, ADDRESSES, **more)


def rule(rule_id: str, trunk_ids: tuple[str, ...] = (), name: str = "", **more: Any) -> DispatchRule:
    return DispatchRule(rule_id, name, "", trunk_ids, (RuleAgent("x"),), **more)


def refuse(code: ErrorCode) -> Callable[[], None]:
    def raise_it() -> None:
        raise RejectedError(code, SAID)

    return raise_it


def world_with(*records: InboundTrunk | DispatchRule) -> World:
    """Return providers that have these, whatever LiveKit would have said to the last one, and refuse every write."""
    world = World.new()
    for one in records:
        (world.platform.trunks if isinstance(one, InboundTrunk) else world.platform.rules)[one.id] = one  # type: ignore[index]
    for operation, code in (
        ("create_inbound_trunk", ErrorCode.LIVEKIT_NUMBER_CONFLICT),
        ("update_inbound_trunk", ErrorCode.LIVEKIT_NUMBER_CONFLICT),
        ("create_dispatch_rule", ErrorCode.LIVEKIT_RULE_CONFLICT),
        ("update_dispatch_rule", ErrorCode.LIVEKIT_RULE_CONFLICT),
    ):
        world.log.plan(f"platform.{operation}", before=refuse(code), times=10)
    return world


TRUNKS = {
    "one that has the number": (
        [trunk("ST_a", (E164,), "Front desk")],
        'LiveKit trunk ST_a ("Front desk") has the number.',
    ),
    "in another form": ([trunk("ST_a", ("1 (514) 555-1234",))], "LiveKit trunk ST_a has the number."),
    "several": (
        [trunk(f"ST_{n}", (E164,)) for n in "abcd"],
        "LiveKit trunks ST_a, ST_b and 2 others have the number.",
    ),
    "two that take any number": (
        [trunk("ST_a", name="one"), trunk("ST_b"), trunk("ST_c", ("+4721234567",))],
        f'LiveKit trunks ST_a ("one") and ST_b {TAKE_ANY}',
    ),
    "two that take it for one caller": (
        [trunk(f"ST_{n}", (E164,), allowed_numbers=("+4721234567",)) for n in "ab"],
        "LiveKit trunks ST_a and ST_b both have the number: LiveKit refuses every new trunk until one is changed.",
    ),
    "nothing that can be seen": ([trunk("ST_a"), trunk("ST_c", ("+4721234567",))], ""),
    "a name of no good": (
        [trunk("ST_a", (E164,), "\x1b[31m" + E164 + "x" * 99)],
        'LiveKit trunk ST_a ("********1234' + "x" * 52 + '") has the number.',
    ),
}


@pytest.mark.parametrize("is_repair", [False, True], ids=["create", "update"])
@pytest.mark.parametrize(("others", "named"), TRUNKS.values(), ids=list(TRUNKS))
def test_a_number_conflict_names_the_trunks(others: list[InboundTrunk], named: str, is_repair: bool) -> None:
    ours = [trunk(OUR_TRUNK, ("+15140000000",))] if is_repair else []
    world = world_with(*others, *ours)
    ctx = make_context(world, ids={INBOUND_TRUNK: OUR_TRUNK} if is_repair else {})
    with pytest.raises(RejectedError) as caught:
        repair_inbound_trunk(ctx, OUR_TRUNK) if is_repair else create_inbound_trunk(ctx)
    assert caught.value.code is ErrorCode.LIVEKIT_NUMBER_CONFLICT
    assert caught.value.detail == f"{named} {SAID}".strip()


RULES = {
    "one that has the trunk": (
        [rule("SDR_a", (OUR_TRUNK,), "mine")],
        'LiveKit dispatch rule SDR_a ("mine") has the trunk.',
    ),
    "two without trunks": ([rule("SDR_a"), rule("SDR_b")], f"LiveKit dispatch rules SDR_a and SDR_b {SAME_CALLS}"),
    "one that names a trunk twice": (
        [rule("SDR_a", ("ST_x", "ST_x"))],
        "LiveKit dispatch rule SDR_a contradicts itself: LiveKit refuses every new rule until it is changed.",
    ),
    "one with a PIN of its own": ([rule("SDR_a", (OUR_TRUNK,), pin="1")], ""),
}


@pytest.mark.parametrize("is_repair", [False, True], ids=["create", "update"])
@pytest.mark.parametrize(("others", "named"), RULES.values(), ids=list(RULES))
def test_a_rule_conflict_names_the_rules(others: list[DispatchRule], named: str, is_repair: bool) -> None:
    if is_repair and "contradicts itself" in named:
        named = ""  # an update is compared with the rules of its own trunk only
    ours = [rule(OURS, (OUR_TRUNK,), pin="77")] if is_repair else []
    world = world_with(*others, *ours)
    ids = {INBOUND_TRUNK: OUR_TRUNK} | ({DISPATCH_RULE: OURS} if is_repair else {})
    ctx = make_context(world, ids=ids)
    with pytest.raises(RejectedError) as caught:
        repair_dispatch_rule(ctx, OURS) if is_repair else create_dispatch_rule(ctx)
    assert caught.value.code is ErrorCode.LIVEKIT_RULE_CONFLICT
    assert caught.value.detail == f"{named} {SAID}".strip()


def test_a_list_that_fails_does_not_hide_the_refusal() -> None:
    world = world_with(trunk("ST_a", (E164,)))
    ctx = make_context(world)
    down = TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "down")
    lists = iter([None, None, None, down])

    def fail_at_last() -> None:
        failure = next(lists)
        if failure:
            raise failure

    world.log.plan("platform.list_inbound_trunks", before=fail_at_last, times=4)
    with pytest.raises(RejectedError) as caught:
        create_inbound_trunk(ctx)
    assert caught.value.detail == SAID
    assert caught.value.code is ErrorCode.LIVEKIT_NUMBER_CONFLICT


def test_another_refusal_asks_for_no_list() -> None:
    world = World.new()
    world.log.plan("platform.create_inbound_trunk", before=refuse(ErrorCode.LIVEKIT_REJECTED))
    with pytest.raises(RejectedError, match="HTTP 400"):
        create_inbound_trunk(make_context(world))
    assert world.log.started["platform.list_inbound_trunks"] == 0
