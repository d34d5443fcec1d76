import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.numbers import InvalidNumberError, mask_number, parse_e164


@pytest.mark.parametrize(
    "number",
    ["+15145551234", "+12125550100", "+442079460958", "+33142685300", "+390669812345", "+4930901820", "+6563379999"],
)
def test_a_number_in_e164_is_returned_unchanged(number: str) -> None:
    assert parse_e164(number) == number


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("15145551234", "must be E.164"),
        ("+1 5145551234", "must be E.164"),
        ("+15145551234\n", "must be E.164"),
        ("+1514555\u0661\u0662\u0663\u0664", "must be E.164"),
        ("+05145551234", "must be E.164"),
        ("+1234567890123456", "must be E.164"),
        ("", "must be E.164"),
        ("+1514555123", "exactly 10 digits"),
        ("+151455512345", "exactly 10 digits"),
        ("+9991234567890", "not assigned"),
        ("+4420", "length"),
        ("+336123456789012", "length"),
        ("+4402079460958", "leaves out"),
    ],
)
def test_a_number_that_is_not_e164_says_why(number: str, reason: str) -> None:
    with pytest.raises(InvalidNumberError, match=reason):
        parse_e164(number)


@given(st.text(max_size=20))
def test_no_text_does_anything_but_pass_unchanged_or_be_refused(text: str) -> None:
    try:
        assert parse_e164(text) == text
    except InvalidNumberError:
        return
    assert text[1:].isascii()
    assert text[0] == "+"


@given(st.from_regex(r"\+[1-9][0-9]{6,14}", fullmatch=True))
def test_a_mask_shows_the_last_four_digits_only(number: str) -> None:
    masked = mask_number(number)

    assert masked[-4:] == number[-4:]
    assert set(masked[:-4]) == {"*"}
    assert len(masked) == len(number)


@pytest.mark.parametrize(("number", "shown"), [(None, ""), ("", ""), ("+123", "+123")])
def test_a_mask_of_next_to_nothing(number: str | None, shown: str) -> None:
    assert mask_number(number) == shown
