"""Maps Twilio's failures to our three errors; the first match wins (reference: Twilio's error dictionary)."""

from app.domain.errors import ErrorCode
from app.providers.errors import Outcome, RejectedError, Row, TransientError, ambiguous

_ANY_4XX = range(400, 500)

TWILIO_TABLE = (
    Row("not_sent", Outcome.NOT_SENT, TransientError, ErrorCode.PROVIDER_UNAVAILABLE),
    Row("held_back", Outcome.HELD_BACK, TransientError, ErrorCode.PROVIDER_BUSY),
    ambiguous("lost", Outcome.LOST),
    ambiguous("unreadable", Outcome.UNREADABLE),
    Row("unauthorized", Outcome.STATUS, RejectedError, ErrorCode.TWILIO_BAD_CREDENTIALS, statuses=(401,)),
    # "Never processed and always safe to retry", whatever the verb (https://www.twilio.com/docs/api/errors/20429).
    Row("rate_limited", Outcome.STATUS, TransientError, ErrorCode.PROVIDER_UNAVAILABLE, statuses=(429,)),
    Row(
        "busy",
        Outcome.STATUS,
        TransientError,
        ErrorCode.PROVIDER_UNAVAILABLE,
        statuses=_ANY_4XX,
        codes=frozenset({"20162", "20409", "20412"}),
    ),
    Row("forbidden", Outcome.STATUS, RejectedError, ErrorCode.TWILIO_FORBIDDEN, statuses=(403,)),
    Row(
        "trunk_limit",
        Outcome.STATUS,
        RejectedError,
        ErrorCode.TWILIO_TRUNK_LIMIT,
        statuses=_ANY_4XX,
        codes=frozenset({"21244"}),
    ),
    Row(
        "origination_limit",
        Outcome.STATUS,
        RejectedError,
        ErrorCode.TWILIO_ORIGINATION_LIMIT,
        statuses=_ANY_4XX,
        codes=frozenset({"21249"}),
    ),
    Row(
        "emergency_number",
        Outcome.STATUS,
        RejectedError,
        ErrorCode.TWILIO_EMERGENCY_NUMBER,
        statuses=_ANY_4XX,
        codes=frozenset({"21634"}),
    ),
    Row(
        "number_gone",
        Outcome.STATUS,
        RejectedError,
        ErrorCode.NUMBER_NOT_IN_ACCOUNT,
        statuses=(404,),
        operations=frozenset({"get_number"}),
    ),
    # Or it was created a moment ago and this server has not heard of it yet: the step knows how long it tries.
    Row(
        "trunk_gone",
        Outcome.STATUS,
        RejectedError,
        ErrorCode.TWILIO_TRUNK_GONE,
        statuses=(404,),
        operations=frozenset({"create_origination_url", "attach_number"}),
    ),
    ambiguous("request_timeout", Outcome.STATUS, (408,)),
    Row("rejected", Outcome.STATUS, RejectedError, ErrorCode.TWILIO_REJECTED, statuses=_ANY_4XX),
    # 5xx, and 3xx: no redirect is followed, so what one leads to is not known.
    ambiguous("other_status", Outcome.STATUS),
)
