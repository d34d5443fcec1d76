"""Retry-After, and the rules by which a table row becomes an error."""

from datetime import UTC, datetime

import pytest

from app.domain.errors import ErrorCode
from app.providers.errors import (
    CallFailedError,
    Outcome,
    RejectedError,
    Row,
    TransientError,
    UnknownOutcomeError,
    ambiguous,
    parse_retry_after,
    translate,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("120", 120.0),
        ("1.5", 1.5),
        ("0", 0.0),
        ("301", 300.0),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30.0),
        ("Sun, 01 Mar 2026 12:00:30 -0000", 30.0),
        ("Mon, 01 Mar 2027 12:00:00 GMT", 300.0),
        ("Sun, 01 Mar 2026 11:59:00 GMT", None),
        ("-1", None),
        ("inf", None),
        ("nan", None),
        ("", None),
        (None, None),
        ("tomorrow", None),
        ("Sun, 99 Mar 99999 12:00:30 GMT", None),
    ],
)
def test_retry_after_is_read_in_both_forms_and_nonsense_ignored(value: str | None, expected: float | None) -> None:
    assert parse_retry_after(value, NOW) == expected


TABLE = (
    Row(
        "limit",
        Outcome.STATUS,
        RejectedError,
        ErrorCode.TWILIO_TRUNK_LIMIT,
        statuses=(400,),
        codes=frozenset({"1"}),
        operations=frozenset({"create"}),
        texts=("Too many",),
    ),
    ambiguous("rest", Outcome.STATUS),
)


@pytest.mark.parametrize("is_write", [True, False])
def test_the_first_row_whose_conditions_all_hold_decides(is_write: bool) -> None:
    failure = CallFailedError(Outcome.STATUS, status=400, code="1", text="Too many trunks", retry_after_s=3)
    error = translate(TABLE, "Twilio", "create", failure, is_write=is_write)
    assert (type(error), error.code, error.retry_after_s) == (RejectedError, ErrorCode.TWILIO_TRUNK_LIMIT, None)
    assert error.detail == 'Twilio refused create: HTTP 400, code 1. Twilio said: "Too many trunks"'


@pytest.mark.parametrize(
    ("operation", "failure"),
    [
        ("delete", CallFailedError(Outcome.STATUS, status=400, code="1", text="Too many trunks")),
        ("create", CallFailedError(Outcome.STATUS, status=401, code="1", text="Too many trunks")),
        ("create", CallFailedError(Outcome.STATUS, status=400, code="2", text="Too many trunks")),
        ("create", CallFailedError(Outcome.STATUS, status=400, code="1", text="Not Too many")),
    ],
)
def test_a_row_with_one_condition_unmet_is_passed_over(operation: str, failure: CallFailedError) -> None:
    assert isinstance(translate(TABLE, "Twilio", operation, failure, is_write=True), UnknownOutcomeError)
    assert isinstance(translate(TABLE, "Twilio", operation, failure, is_write=False), TransientError)


def test_a_token_in_what_the_provider_says_never_reaches_the_detail() -> None:
    failure = CallFailedError(Outcome.STATUS, status=503, text="Bearer eyJhbGciOi", retry_after_s=9)
    error = translate(TABLE, "LiveKit", "list", failure, is_write=False)
    assert error.detail == 'LiveKit could not serve list: HTTP 503. LiveKit said: "Bearer ***"'
    assert error.retry_after_s == 9
