"""Which numbers a search and a filter find."""

import uuid

import pytest

from app.numbers.inventory import NumberFilter, NumberUse, OwnedNumber

FREE = OwnedNumber("+15145550187", "PN1", NumberUse.FREE)
DESK = OwnedNumber("+14165552400", "PN2", NumberUse.AGENT, uuid.uuid4(), "Night Line 24/7 Réception")


def found(search: str, use: NumberUse | None = None) -> list[str]:
    wanted = NumberFilter(use, search)
    return [one.sid for one in (FREE, DESK) if wanted.matches(one.use, one.phone_number, one.agent_name)]


@pytest.mark.parametrize(
    ("search", "sids"),
    [
        ("", ["PN1", "PN2"]),
        ("0187", ["PN1"]),
        ("555", ["PN1", "PN2"]),
        ("+1514", ["PN1"]),
        ("1514", ["PN1"]),
        ("+514", []),
        ("514 555", ["PN1"]),
        ("(514) 555-0187", ["PN1"]),
        ("514\u2011555\u00a00187", ["PN1"]),
        ("+1 (514) 555.0187", ["PN1"]),
        ("5145550187+", []),
        ("0" * 200, []),
        ("night", ["PN2"]),
        ("LINE nig", ["PN2"]),
        ("ight", []),
        ("night day", []),
        ("Réc", ["PN2"]),
        # Digits and a word: no number has a letter.
        ("24 line", ["PN2"]),
        ("7 24", ["PN2"]),
        ("+", []),
        ("()", []),
        ("\u0665\u0661\u0664", []),
    ],
)
def test_a_search_finds_digits_of_numbers_and_words_of_names(search: str, sids: list[str]) -> None:
    assert found(search) == sids


def test_a_use_narrows_what_a_search_finds() -> None:
    assert found("555", NumberUse.AGENT) == ["PN2"]
    assert found("0187", NumberUse.AGENT) == []
    assert found("", NumberUse.FREE) == ["PN1"]


@pytest.mark.parametrize(
    ("use", "can_provision", "needs_takeover"),
    [
        (NumberUse.FREE, True, False),
        (NumberUse.VOICE_URL, True, False),
        (NumberUse.TRUNK, True, True),
        (NumberUse.APPLICATION, True, True),
        (NumberUse.AGENT, False, False),
        (NumberUse.NO_VOICE, False, False),
    ],
)
def test_a_use_says_whether_a_number_can_be_connected(
    use: NumberUse, can_provision: bool, needs_takeover: bool
) -> None:
    one = OwnedNumber("+15145550187", "PN1", use)
    assert (one.can_provision, one.needs_takeover) == (can_provision, needs_takeover)
