"""Maps LiveKit's failures to our three errors; the first match wins (reference: livekit-server, Twirp)."""

from app.domain.errors import ErrorCode
from app.providers.errors import Outcome, RejectedError, Row, TransientError, ambiguous

_ANY_4XX = range(400, 500)

# livekit-server puts this before the text of an error that came over its own RPC (protocol utils/xtwirp/errors.go:68).
RPC_PREFIX = "twirp error unknown: "

LIVEKIT_TABLE = (
    Row("not_sent", Outcome.NOT_SENT, TransientError, ErrorCode.PROVIDER_UNAVAILABLE),
    Row("held_back", Outcome.HELD_BACK, TransientError, ErrorCode.PROVIDER_BUSY),
    ambiguous("lost", Outcome.LOST),
    ambiguous("unreadable", Outcome.UNREADABLE),
    # Wrong key, wrong secret, expired, and a key without sip.admin all get 401; the SDK shows no text for most.
    Row("unauthorized", Outcome.STATUS, RejectedError, ErrorCode.LIVEKIT_BAD_CREDENTIALS, statuses=(401, 403)),
    Row("rate_limited", Outcome.STATUS, TransientError, ErrorCode.PROVIDER_UNAVAILABLE, statuses=(429,)),
    # 451: the project is pinned to another region.
    Row("wrong_region", Outcome.STATUS, RejectedError, ErrorCode.LIVEKIT_MISCONFIGURED, statuses=(451,)),
    # LIVEKIT_URL leads to something that is not LiveKit's SIP service ("unknown": no Twirp body), or to an old server.
    Row(
        "bad_route",
        Outcome.STATUS,
        RejectedError,
        ErrorCode.LIVEKIT_MISCONFIGURED,
        statuses=(404,),
        codes=frozenset({"bad_route", "unknown"}),
    ),
    Row(
        "no_redis",
        Outcome.STATUS,
        RejectedError,
        ErrorCode.LIVEKIT_MISCONFIGURED,
        statuses=(500,),
        texts=("sip not connected",),
    ),
    Row(
        "number_conflict",
        Outcome.STATUS,
        RejectedError,
        ErrorCode.LIVEKIT_NUMBER_CONFLICT,
        statuses=_ANY_4XX,
        texts=("Conflicting inbound SIP Trunks",),
    ),
    # The text changed twice (protocol sip/sip.go:221); both forms are in service.
    Row(
        "rule_conflict",
        Outcome.STATUS,
        RejectedError,
        ErrorCode.LIVEKIT_RULE_CONFLICT,
        statuses=_ANY_4XX,
        texts=("Dispatch rule for the same", "Conflicting SIP Dispatch Rules"),
    ),
    # Twirp's canceled and deadline_exceeded: the server may have gone on without us.
    ambiguous("deadline_exceeded", Outcome.STATUS, (408,)),
    Row("rejected", Outcome.STATUS, RejectedError, ErrorCode.LIVEKIT_REJECTED, statuses=_ANY_4XX),
    ambiguous("other_status", Outcome.STATUS),
)
