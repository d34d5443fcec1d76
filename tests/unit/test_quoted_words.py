"""What a provider said, as it is quoted in our own sentences: one safe line, whatever it is."""

import re
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import ErrorCode
from app.providers.errors import CallFailedError, Outcome, RejectedError, quoted, translate
from app.providers.livekit_errors import LIVEKIT_TABLE
from app.providers.twilio_errors import TWILIO_TABLE

SECRET = "s3cret/with+signs-0123456789"
BASIC = b64encode(f"AC{'0' * 32}:{SECRET}".encode()).decode()
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJrZXkifQ.c2lnbmF0dXJl"
CONFLICT = 'Conflicting inbound SIP Trunks: "<new>" and "ST_a2b3c4d5e6f7", using the same number(s) ["{}"]'
SIDS = f"PN{'0123456789' * 3}ab TK{'9' * 32} SDR_222222222222 ST_234567892345"

CASES = {
    "a conflict": (CONFLICT.format("+15145551234"), CONFLICT.format("********1234")),
    "ids": (SIDS, SIDS),
    "codes, dates and addresses": (
        "21244 at 2026-10-19 10:00:00 from 54.172.60.123, port 5061, limit 100",
        "21244 at 2026-10-19 10:00:00 from 54.172.60.123, port 5061, limit 100",
    ),
    "numbers in other forms": (
        "1 (514) 555-1234, (514) 555-1234, 15145551234; 514.555.1234 or %2B15145551234. tel:15145551234.",
        "************1234, **********1234, *******1234; ********1234 or **********1234. tel:*******1234.",
    ),
    "LiveKit's RPC": ("twirp error unknown: sip not connected", "sip not connected"),
    "Twilio's SDK": ("\x1b[31m[HTTP 400] Unable to create record: \x1b[0mToo many trunks", "Too many trunks"),
    "another SDK of Twilio": ("HTTP 403 error: Unable to fetch page: Forbidden", "Forbidden"),
    "several lines": ("first\r\n\tsecond\u2028third", "first second third"),
    "colours and controls": ("\x1b[1;31mred\x1b[0m \x9b2Jgone\x00\x07\x7f", "red gone"),
    "direction and what nobody sees": ("a\u202eb\u200bc\U000e0041", "abc"),
    "a number with a seam": ("+1514\u200b5551234", "********1234"),
    "a page": ("<!DOCTYPE html><html><body>502</body></html>", ""),
    "a page after words": ("Bad gateway <html>", ""),
    "blanks": (" \n ", ""),
    "a token": (f"invalid token: {TOKEN}, error", "invalid token: ***, error"),
    "half a token": (f"invalid token: {TOKEN[:30]}", "invalid token: ***"),
    "a header": (f"Authorization: Basic {BASIC} is wrong", "Authorization: Basic *** is wrong"),
    "a bearer": ("Bearer 0123456789abcdef0 expired", "Bearer *** expired"),
    "words about a header": ("Basic authentication required", "Basic authentication required"),
    "a login": ("see https://user:pass@example.com/x", "see https://***@example.com/x"),
    "our secret": (f"secret {SECRET} and {SECRET.upper()}", "secret *** and ***"),
    "our secret in a URL": ("?k=s3cret%2Fwith%2Bsigns-0123456789&x", "?k=***&x"),
    "our secret with a seam": (f"{SECRET[:9]}\x00{SECRET[9:]}", "***"),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=list(CASES))
def test_words_are_one_line_without_numbers_and_secrets(text: str, expected: str) -> None:
    assert quoted(text, {SECRET, BASIC}) == expected


def test_long_words_are_cut_and_a_secret_is_masked_before_that() -> None:
    assert quoted("x" * 301) == "x" * 300 + "…"
    assert quoted("x" * 300) == "x" * 300
    assert quoted("x" * 290 + SECRET, {SECRET}) == "x" * 290 + "***"
    assert quoted("\x00" * 5000 + "y" * 290 + SECRET, {SECRET}) == "y" * 290 + "***"


NASTY = st.sampled_from(
    [SECRET, TOKEN, BASIC, "+15145551234", "\x1b[31m", "\u202e", "\ud800", "<", "%2B", "\n", "https://"]
)


@given(st.lists(st.one_of(NASTY, st.text(max_size=20)), max_size=40).map("".join))
def test_any_words_are_one_short_printable_line(text: str) -> None:
    line = quoted(text, {SECRET, BASIC})
    assert line.isprintable()
    assert len(line) <= 301
    assert SECRET not in line
    assert not re.search(r"\+[1-9][0-9]{6,14}(?![0-9])", line)
    line.encode()


@pytest.mark.parametrize(("table", "provider"), [(LIVEKIT_TABLE, "LiveKit"), (TWILIO_TABLE, "Twilio")])
def test_a_refusal_keeps_the_words_but_for_a_401(table: tuple[object, ...], provider: str) -> None:
    def refused(status: int, code: str) -> RejectedError:
        failure = CallFailedError(Outcome.STATUS, status=status, code=code, text="Upgrade your plan to use SIP.")
        error = translate(table, provider, "ping", failure, is_write=False)  # type: ignore[arg-type]
        assert isinstance(error, RejectedError)
        return error

    assert refused(403, "20003").detail == (
        f'{provider} refused ping: HTTP 403, code 20003. {provider} said: "Upgrade your plan to use SIP."'
    )
    assert refused(412, "1").detail.endswith('said: "Upgrade your plan to use SIP."')
    assert refused(401, "20003").detail == f"{provider} refused ping: HTTP 401, code 20003."


def test_a_transient_answer_keeps_the_words_too() -> None:
    failure = CallFailedError(Outcome.STATUS, status=429, code="resource_exhausted", text="too many requests")
    error = translate(LIVEKIT_TABLE, "LiveKit", "ping", failure, is_write=False)
    assert error.code is ErrorCode.PROVIDER_UNAVAILABLE
    assert error.detail.endswith('HTTP 429, code resource_exhausted. LiveKit said: "too many requests"')
