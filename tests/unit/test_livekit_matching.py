"""LiveKit's matching, piece by piece: addresses, callers, the order of rules, and what it refuses to keep together."""

import pytest

from app.path.livekit_matching import (
    TWILIO_ADDRESSES,
    accepts_twilio_codecs,
    addresses_let_in,
    admits,
    covers,
    is_open_to_all,
    lets_caller_in,
    match_rule,
    rank,
    sources_of,
)
from app.path.observed import DispatchRule, InboundTrunk, Media, Observed, RuleKind, rule_conflicts, trunk_conflicts

SOURCE = "54.172.60.1"


@pytest.mark.parametrize(
    ("allowed", "is_let_in"),
    [
        ((), True),
        (("54.172.60.0/30",), True),
        (("54.172.60.1",), True),
        (("54.172.60.2",), False),
        (("192.0.2.1", "54.172.60.3/8"), True),
        (("54.172.60.1/32",), True),
        (("0.0.0.0/0",), True),
        (("::/0", "::ffff:54.172.60.1"), False),
        (("54.172.60.0/255.255.255.252",), False),
        (("54.172.60.0/030",), False),
        (("54.172.60.0/+30",), True),
        (("54.172.60.0/33",), False),
        (("54.172.60.0/",), False),
        (("54.172.60.0/\u0663\u0660",), False),
        (("54.172.060.1",), False),
        (("/30",), False),
        (("54.172.60.0/30/30",), False),
        (("[::]",), False),
        (("some.host.name",), False),
        (("",), False),
        (("sip://54.0.0.1", "a b", "a\tb", "a\nb", "a\rb", "a,b", "a;b", "a*b", "a+b", "(a", "a)"), True),
        (("a b", "192.0.2.1"), False),
    ],
)
def test_allowed_addresses(allowed: tuple[str, ...], is_let_in: bool) -> None:
    assert admits(allowed, SOURCE) is is_let_in


def test_a_source_that_is_no_address_is_let_in() -> None:
    assert admits(("192.0.2.1",), "twilio")
    assert not admits(("192.0.2.1",), "::1")
    assert admits(("::/0",), "::1")
    assert not admits(("fe80::%1/64",), "fe80::%1")


def test_a_list_is_open_to_all_where_it_covers_every_address() -> None:
    assert all(map(is_open_to_all, [(), ("oops;",), ("0.0.0.0/0",), ("128.0.0.0/1", "192.0.2.1", "0.0.0.0/1")]))
    assert not any(map(is_open_to_all, [("::/0",), ("0.0.0.0/1",), ("oops",)]))


def test_calls_come_from_twilio_unless_the_setting_has_none_of_its_addresses() -> None:
    assert len(TWILIO_ADDRESSES) == 32
    for allowed in ((), ("54.172.60.0/30",), ("oops",), ("oops;",)):
        assert sources_of(allowed) == TWILIO_ADDRESSES
    assert sources_of(("10.0.0.5/8", "192.0.2.7", "10.0.0.0/8")) == ("10.0.0.0", "192.0.2.7")
    assert covers(("10.0.0.0/7",), ("10.1.0.0/16", "11.0.0.0/8"))
    assert not covers(("10.0.0.0/9",), ("10.0.0.0/8",))
    assert not covers(("54.172.60.0/30",), ())
    assert addresses_let_in(("54.172.60.0/31",)) == {"54.172.60.0", "54.172.60.1"}


def test_codecs_are_accepted_where_one_of_twilios_is_left() -> None:
    assert accepts_twilio_codecs(Media(codecs=("G722", "PCMU"), only_listed_codecs=True))
    assert not accepts_twilio_codecs(Media(codecs=("G722",), only_listed_codecs=True))


@pytest.mark.parametrize(
    ("caller", "is_let_in"),
    [
        ("+13105550199", True),
        ("13105550199", True),
        ("sales", True),
        ("Sales", False),
        ("+13105550198", False),
        ("", False),
    ],
)
def test_allowed_numbers_are_compared_normalised(caller: str, is_let_in: bool) -> None:
    assert lets_caller_in(("1 (310) 555-0199", "sales"), caller) is is_let_in


def rule(rule_id: str = "SDR1", trunk_ids: tuple[str, ...] = ("ST1",), **fields: object) -> DispatchRule:
    return DispatchRule(rule_id, "", "", trunk_ids, **fields)  # type: ignore[arg-type]


def test_rules_are_preferred_as_livekit_prefers_them() -> None:
    both, one = {"inbound_numbers": ("1",), "numbers": ("2",)}, {"numbers": ("2",)}
    in_order = [
        rule(pin="1", kind=RuleKind.DIRECT, **both),
        rule(pin="1", **both),
        rule(pin="1", kind=RuleKind.CALLEE, **both),
        rule(kind=RuleKind.DIRECT, **both),
        rule(room="a", **both),
        rule(room="b", **both),
        rule(kind=RuleKind.CALLEE, **both),
        rule(pin="1", **one),
        rule(**one),
        rule(pin="1"),
        rule(kind=RuleKind.DIRECT),
        rule(),
        rule(kind=RuleKind.CALLEE),
        rule(kind=RuleKind.UNKNOWN, **both),
    ]

    ranks = list(map(rank, in_order))
    assert ranks == sorted(ranks)
    assert [priority for priority, _ in ranks] == [
        0,
        1,
        2,
        100,
        101,
        101,
        102,
        1001,
        1101,
        2001,
        2100,
        2101,
        2102,
        2**31 - 1,
    ]
    assert rank(rule(inbound_numbers=("1",))) == rank(rule(**one))


def test_of_two_rules_of_one_rank_and_room_the_first_id_goes_first() -> None:
    rules = [rule("SDR2", numbers=("1",)), rule("SDR1", inbound_numbers=("2",)), rule("SDR3", pin="1")]
    observed = Observed(rules={one.id: one for one in rules})

    assert match_rule(observed, trunk("ST1"), "1", "2").rule is rules[1]


def test_a_rule_that_names_no_trunk_but_an_empty_id_is_no_wildcard() -> None:
    odd, wildcard = rule("SDR1", ("",)), rule("SDR2", ())
    observed = Observed(rules={"SDR1": odd, "SDR2": wildcard})

    assert match_rule(observed, trunk("ST1"), "1", "2").rule is wildcard
    # Without a trunk LiveKit looks at all rules, and these have the same key.
    assert match_rule(observed, None, "1", "2").conflict == (odd, wildcard)
    named = Observed(rules={"SDR1": rule("SDR1", ("ST1", "")), "SDR2": wildcard})
    assert match_rule(named, trunk("ST1"), "1", "2").conflict == (named.rules["SDR1"], wildcard)


def trunk(trunk_id: str, numbers: tuple[str, ...] = ("+1",), allowed: tuple[str, ...] = ()) -> InboundTrunk:
    return InboundTrunk(trunk_id, "", "", numbers, allowed_numbers=allowed)


@pytest.mark.parametrize(
    ("trunks", "pairs"),
    [
        ([trunk("A"), trunk("B", ("1",))], ["AB"]),
        ([trunk("A"), trunk("B", ("+2",))], []),
        ([trunk("A"), trunk("B", ())], []),
        ([trunk("A", ()), trunk("B", ())], ["AB"]),
        ([trunk("A"), trunk("B", ("+2", "+1")), trunk("C")], ["AB", "AC", "BC"]),
        ([trunk("A", ("+1", "1", "+1"))], []),
        ([trunk("A"), trunk("B", allowed=("5",))], []),
        ([trunk("A", allowed=("+5", "6")), trunk("B", allowed=("+6", "(5)"))], ["AB"]),
        ([trunk("A", allowed=("5",)), trunk("B", allowed=("6",))], []),
        ([trunk("B"), trunk("A")], ["BA"]),
        ([trunk(""), trunk("A")], ["A"]),
        ([trunk("A"), trunk("A")], []),
    ],
)
def test_trunks_that_livekit_does_not_keep_together(trunks: list[InboundTrunk], pairs: list[str]) -> None:
    assert [first.id + second.id for first, second in trunk_conflicts(trunks)] == pairs


@pytest.mark.parametrize(
    ("rules", "pairs"),
    [
        ([rule("A"), rule("B")], ["AB"]),
        ([rule("A"), rule("B", ("ST2",))], []),
        ([rule("A"), rule("B", ("ST2", "ST1"))], ["AB"]),
        ([rule("A"), rule("B", ())], []),
        ([rule("A", ()), rule("B", ()), rule("C", ())], ["AB", "AC", "BC"]),
        ([rule("A"), rule("B", pin="1")], []),
        ([rule("A", pin="1"), rule("B", pin="1", kind=RuleKind.DIRECT)], ["AB"]),
        ([rule("A"), rule("B", numbers=("1",))], []),
        ([rule("A", numbers=("+1", "2")), rule("B", numbers=("1",))], ["AB"]),
        ([rule("A", inbound_numbers=("+1",)), rule("B", inbound_numbers=("1",))], ["AB"]),
        ([rule("A", inbound_numbers=("+1",)), rule("B", numbers=("1",))], []),
        ([rule("A", ("ST1", "ST1"))], ["AA"]),
        ([rule("A", numbers=("1", "+1"))], ["AA"]),
        ([rule("A", inbound_numbers=("1", "1"))], ["AA"]),
        ([rule("A", numbers=("1", "2"))], []),
    ],
)
def test_rules_that_livekit_does_not_keep_together(rules: list[DispatchRule], pairs: list[str]) -> None:
    assert [first.id + second.id for first, second in rule_conflicts(rules)] == pairs
