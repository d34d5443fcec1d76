"""What a step has changed in an object, kept as JSON, and the way back from there."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from app.domain.options import RuleAgent
from app.path.changes import Record, changes_of, way_back
from app.path.observed import CarrierTrunk, DispatchRule, Encryption, InboundTrunk, Media, OriginationUrl, RuleKind

A, B, C = RuleAgent("a", "1"), RuleAgent("b", "2"), RuleAgent("c", "3")

RULE = DispatchRule("SDR_1", "ours", "", ("ST_1",), (A,))

OBJECTS: tuple[tuple[Any, Any], ...] = (
    (
        RULE,
        DispatchRule(
            "SDR_1",
            "theirs",
            "gold",
            ("ST_1", "ST_2"),
            (B, A),
            ("+1",),
            ("+2",),
            RuleKind.CALLEE,
            "room",
            "4711",
            True,
            True,
            "preset",
            (("team", "one"),),
            1,
            2,
            3,
            True,
            Media(Encryption.REQUIRE, ("PCMU/8000",), True),
        ),
    ),
    (
        InboundTrunk("ST_1", "ours", "{}", ("+1",)),
        InboundTrunk(
            "ST_1",
            "theirs",
            '{"a": 1}',
            ("+1", "+2"),
            ("10.0.0.0/8",),
            ("+3",),
            media=Media(Encryption.ALLOW),
            ringing_timeout_s=0.5,
            max_call_duration_s=60.0,
            krisp=True,
            headers_to_attributes=(("X-A", "a"),),
            include_headers="all",
        ),
    ),
    (
        CarrierTrunk("TK1", "ours", False, None, "disable-all"),
        CarrierTrunk("TK1", "theirs", True, None, "sip-only"),
    ),
    (
        OriginationUrl("OU1", "TK1", "sip:a", True, "ours", None, 10, 10),
        OriginationUrl("OU1", "TK1", "sip:b", False, "theirs", None, 1, 2),
    ),
)
"""Two forms of each kind of object, which differ in every field that a step may change."""

IDS = {"id", "sid", "trunk_sid", "created_at", "raw", "has_username", "has_password"}


def undone(before: Record, after: Record, now: Record, corrected: Record | None = None) -> Record:
    return way_back(now, corrected or now, json.loads(json.dumps(changes_of(before, after))))


@pytest.mark.parametrize(("one", "other"), [*OBJECTS, *((other, one) for one, other in OBJECTS)])
def test_every_field_goes_back_by_json_and_again(one: Any, other: Any) -> None:
    assert changes_of(one, other).keys() == {field.name for field in fields(one)} - IDS
    assert undone(one, other, other) == one
    assert undone(one, other, one) == one


@pytest.mark.parametrize("name", ["has_username", "has_password"])
def test_a_password_that_was_taken_off_is_not_promised_back(name: str) -> None:
    trunk = InboundTrunk("ST_1", "ours", "{}", ("+1",))
    assert changes_of(replace(trunk, **{name: True}), trunk) == {}


@pytest.mark.parametrize(
    ("before", "after", "now", "expected"),
    [
        ((A, B), (B,), (B, C), (A, B, C)),
        ((A,), (A, B), (A, B, C), (A, C)),
        ((A, B), (B,), (), (A,)),
        ((A, B), (A,), (RuleAgent("a", "theirs"),), (B, RuleAgent("a", "theirs"))),
        ((A,), (RuleAgent("a", "new"),), (RuleAgent("a", "theirs"), C), (A, C)),
    ],
)
def test_what_others_put_into_a_list_or_took_out_stays_so(
    before: tuple[RuleAgent, ...], after: tuple[RuleAgent, ...], now: tuple[RuleAgent, ...], expected: tuple[Any, ...]
) -> None:
    was, made = replace(RULE, agents=before), replace(RULE, agents=after)
    assert undone(was, made, replace(RULE, agents=now)).agents == expected


def test_another_value_that_somebody_has_set_since_is_what_the_row_says_and_other_fields_are_left() -> None:
    was, made = replace(RULE, room="was"), replace(RULE, room="made")
    now, corrected = replace(RULE, room="theirs", pin="0815"), replace(RULE, room="row", pin="")
    assert undone(was, made, now, corrected) == replace(RULE, room="row", pin="0815")
