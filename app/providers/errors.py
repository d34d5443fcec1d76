"""The three kinds of errors of provider calls, and the rows that map a failed call to one of them."""

import json
import math
import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from urllib.parse import quote

from app.domain.errors import ErrorCode
from app.domain.numbers import mask_written_numbers
from app.domain.texts import shown


class ProviderError(Exception):
    """Base of the three. `detail` is our own sentence, with what the provider said quoted in it (`quoted`)."""

    def __init__(
        self,
        code: ErrorCode,
        detail: str,
        *,
        retry_after_s: float | None = None,
        retry_within_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.retry_within_s = retry_within_s


class TransientError(ProviderError):
    """Nothing was changed and the same call may work later; `retry_after_s` is what the provider asks for.

    `retry_within_s` is the longest pause before the next try, where the step knows how long this may last.
    """


class RejectedError(ProviderError):
    """Nothing was changed and the same call will never work: undo."""


class UnknownOutcomeError(ProviderError):
    """The write may have happened, now or a little later: wait, and look before doing anything."""


MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""How an SDK and our own readers fail on a response that is not what the provider documents."""

MAX_ERROR_BYTES = 64 * 1024
"""Bytes of an error's body that are read: both providers' have a code and a sentence."""

RETRY_AFTER_CAP_S = 300.0
"""The longest Retry-After that we follow, in seconds: beyond it our own backoff (60 s) is the better guess."""


class Outcome(StrEnum):
    """How far a failed call got."""

    NOT_SENT = "not_sent"
    """Refused, unresolved or not connected in time: the provider has not seen the request."""
    HELD_BACK = "held_back"
    """Our rate limiter has not let the request out: the account takes no more for now."""
    LOST = "lost"
    """It was sent, and no complete response came."""
    UNREADABLE = "unreadable"
    """A 2xx whose body is not what the call returns; the write most likely happened."""
    STATUS = "status"
    """A response with a status outside 2xx."""


class CallFailedError(Exception):
    """One call that failed: its status, code and text as the provider sent them. Never leaves an adapter.

    `text` is matched against the table as it came, and goes further only by way of `quoted`. A 401 has none: LiveKit's
    quotes the token.
    """

    def __init__(
        self,
        outcome: Outcome,
        *,
        status: int | None = None,
        code: str | None = None,
        text: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(outcome.value)
        self.outcome = outcome
        self.status = status
        self.code = code
        self.text = text
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Row:
    """One line of an adapter's error table; a condition that is left out matches everything."""

    name: str
    outcome: Outcome
    error: type[ProviderError]
    """What it means for a read, and for a delete, which may be repeated."""
    code: ErrorCode
    on_write: type[ProviderError] | None = None
    """What it means for a create or an update, where that differs."""
    statuses: Sequence[int] | None = None
    codes: frozenset[str] | None = None
    operations: frozenset[str] | None = None
    texts: tuple[str, ...] = ()
    """How the provider's message must begin."""

    def matches(self, operation: str, failure: CallFailedError) -> bool:
        """Say whether this row applies to the failure."""
        return (
            self.outcome is failure.outcome
            and (self.statuses is None or failure.status in self.statuses)
            and (self.codes is None or failure.code in self.codes)
            and (self.operations is None or operation in self.operations)
            and (not self.texts or failure.text.startswith(self.texts))
        )


def ambiguous(name: str, outcome: Outcome, statuses: Sequence[int] | None = None) -> Row:
    """Build the row of a call that may have worked: transient for a read or delete, unknown for a write."""
    return Row(
        name,
        outcome,
        TransientError,
        ErrorCode.PROVIDER_UNAVAILABLE,
        on_write=UnknownOutcomeError,
        statuses=statuses,
    )


def translate(
    table: Iterable[Row],
    provider: str,
    operation: str,
    failure: CallFailedError,
    *,
    is_write: bool,
    secrets: Collection[str] = (),
) -> ProviderError:
    """Return the error that the first matching row names; a table ends in rows that match everything.

    `secrets` are masked in what the provider said.
    """
    row = next(row for row in table if row.matches(operation, failure))
    kind = (row.on_write or row.error) if is_write else row.error
    retry_after_s = None if kind is RejectedError else failure.retry_after_s
    detail = _sentence(provider, operation, kind, failure, secrets)
    return kind(row.code, detail, retry_after_s=retry_after_s)


def _sentence(
    provider: str, operation: str, kind: type[ProviderError], failure: CallFailedError, secrets: Collection[str]
) -> str:
    code = f", code {failure.code}" if failure.code else ""
    match failure.outcome:
        case Outcome.NOT_SENT:
            return f"{provider} could not be reached for {operation}; nothing was sent."
        case Outcome.HELD_BACK:
            return f"{provider} takes no more requests for now: {operation} waits for its turn, nothing was sent."
        case Outcome.LOST:
            return f"{provider} did not answer {operation} in time, or the connection broke."
        case Outcome.UNREADABLE:
            return f"{provider} answered {operation} with something that cannot be read."
        case Outcome.STATUS:
            verb = "refused" if kind is RejectedError else "could not serve"
            said = quoted(failure.text, secrets) if failure.status != _UNAUTHORIZED else ""
            words = f' {provider} said: "{said}"' if said else ""
            return f"{provider} {verb} {operation}: HTTP {failure.status}{code}.{words}"


_COLOUR = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]")
"""A terminal's colours and other sequences."""

_PREFIXES = re.compile(
    r"(?:(?:twirp error [a-z_]+:|\[?HTTP \d{3}(?: error)?\]?:?|Unable to [a-z]+ (?:record|page|resource):) ?)+",
    re.IGNORECASE,
)
"""What stands before a message: LiveKit's own RPC (xtwirp/errors.go:68), and Twilio's SDKs."""

_MARKUP = re.compile(r"<(?:!doctype|\?xml|html|head|body|title)\b", re.IGNORECASE)

_CREDENTIALS = re.compile(
    r"(?<=basic )[\w+/=.~-]{16,}|(?<=bearer )[\w+/=.~-]{16,}"  # of an Authorization header
    r"|\beyJ[\w-]+(?:\.[\w-]*)*"  # a JSON Web Token, whole or cut
    r"|(?<=://)[^/@ ]+(?=@)",  # the login in an address
    re.IGNORECASE,
)

_MASK = "***"

_UNAUTHORIZED = 401


def quoted(text: str, secrets: Collection[str] = ()) -> str:
    """Return what a provider said as one line of at most 300 characters that may be shown to anybody.

    Prefixes of SDKs, colours and control characters are taken off; phone numbers, credentials and our own secrets are
    masked. A page of HTML says nothing.
    """
    if _MARKUP.search(text):
        return ""
    line = "".join(filter(str.isprintable, " ".join(_COLOUR.sub("", text).split())))
    prefixes = _PREFIXES.match(line)
    line = line[prefixes.end() :] if prefixes else line
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        for written in {secret, quote(secret, safe=""), json.dumps(secret)[1:-1]}:
            line = re.sub(re.escape(written), _MASK, line, flags=re.IGNORECASE)
    return shown(mask_written_numbers(_CREDENTIALS.sub(_MASK, line)).strip())


def parse_retry_after(
    value: str | None, now: datetime | None = None, *, cap_s: float = RETRY_AFTER_CAP_S
) -> float | None:
    """Return the seconds that a Retry-After header asks for, at most `cap_s`; None for nonsense.

    Both forms of RFC 9110 section 10.2.3: seconds, and an HTTP date.
    """
    seconds = math.nan
    with suppress(ValueError):
        seconds = float(value or "")
    if math.isnan(seconds):
        with suppress(ValueError, OverflowError):
            date = parsedate_to_datetime(value or "")
            # A date without a zone is meant in UTC: HTTP knows no other.
            seconds = (date.replace(tzinfo=date.tzinfo or UTC) - (now or datetime.now(UTC))).total_seconds()
    return min(seconds, cap_s) if math.isfinite(seconds) and seconds >= 0 else None
