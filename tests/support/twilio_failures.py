"""What Twilio may answer, and the error that each answer has to become."""

import json
from dataclasses import dataclass, replace

from app.domain.errors import ErrorCode
from app.domain.sip_uris import SipUri
from app.path.observed import CarrierTrunk, NumberRouting, OriginationUrl
from app.path.spec import OriginationUrlSpec, TrunkSpec
from app.providers.errors import ProviderError, RejectedError, TransientError, UnknownOutcomeError
from tests.support.scripted_server import (
    Answer,
    Drop,
    DropMidway,
    Hang,
    Script,
    Trickle,
)

ACCOUNT = "AC" + "a" * 32
TRUNK = "TK" + "b" * 32
NUMBER = "PN" + "c" * 32
URL = "OU" + "d" * 32
TRUNK_SPEC = TrunkSpec("trunkline:1")
URL_SPEC = OriginationUrlSpec("trunkline:1", SipUri("a.example"))
UNROUTED = NumberRouting(None, None, None)
OLD_TRUNK = CarrierTrunk(TRUNK, "trunkline:1", is_secure=False, created_at=None)
OLD_URL = OriginationUrl(URL, TRUNK, "sip:a.example", is_enabled=True, tag="trunkline:1", created_at=None)
TIMEOUT_S = 1.0
TOKEN = "token-of-the-account"
WORDS = f"says that {TOKEN} of +15145551234 is wrong"
SHOWN_WORDS = 'Twilio said: "says that *** of ********1234 is wrong"'

UNAVAILABLE = ErrorCode.PROVIDER_UNAVAILABLE

READ = {
    "find_number": lambda carrier: carrier.find_number("+15145551234"),
    "get_number": lambda carrier: carrier.get_number(NUMBER),
    "list_numbers": lambda carrier: carrier.list_numbers(),
    "get_trunk": lambda carrier: carrier.get_trunk(TRUNK),
    "list_trunks": lambda carrier: carrier.list_trunks(),
    "list_trunk_numbers": lambda carrier: carrier.list_trunk_numbers(TRUNK),
    "list_origination_urls": lambda carrier: carrier.list_origination_urls(TRUNK),
    "ping": lambda carrier: carrier.ping(),
}
DELETE = {
    "delete_trunk": lambda carrier: carrier.delete_trunk(TRUNK),
    "delete_origination_url": lambda carrier: carrier.delete_origination_url(TRUNK, URL),
    "detach_number": lambda carrier: carrier.detach_number(TRUNK, NUMBER),
}
WRITE = {
    "create_trunk": lambda carrier: carrier.create_trunk(TRUNK_SPEC),
    "update_trunk": lambda carrier: carrier.update_trunk(OLD_TRUNK, replace(OLD_TRUNK, is_secure=True)),
    "create_origination_url": lambda carrier: carrier.create_origination_url(TRUNK, URL_SPEC),
    "update_origination_url": lambda carrier: carrier.update_origination_url(OLD_URL, replace(OLD_URL, tag="x")),
    "attach_number": lambda carrier: carrier.attach_number(TRUNK, NUMBER, UNROUTED),
}
CALLS = READ | DELETE | WRITE


def failure(status: int, code: int | str | None = None, **headers: str) -> Answer:
    body = {"status": status, "message": WORDS}
    if code is not None:
        body |= {"code": code, "more_info": f"https://www.twilio.com/docs/errors/{code}"}
    return Answer(status, json.dumps(body).encode(), headers={k.replace("_", "-"): v for k, v in headers.items()})


@dataclass
class Case:
    row: str
    answer: Script
    error: type[ProviderError]
    code: ErrorCode
    on_write: type[ProviderError] | None = None
    only: tuple[str, ...] = ()
    says: str = ""

    @property
    def is_quoted(self) -> bool:
        """Whether the words of the answer are kept: those of every error that is no 401."""
        return isinstance(self.answer, Answer) and self.answer.status != 401 and WORDS.encode() in self.answer.body


CASES = {
    "a dropped connection": Case(
        "lost", Drop(), TransientError, UNAVAILABLE, UnknownOutcomeError, says="did not answer"
    ),
    "half an answer": Case("lost", DropMidway(), TransientError, UNAVAILABLE, UnknownOutcomeError),
    "a server that hangs": Case("lost", Hang(), TransientError, UNAVAILABLE, UnknownOutcomeError),
    "a server that trickles": Case("lost", Trickle(), TransientError, UNAVAILABLE, UnknownOutcomeError),
    "broken JSON": Case("unreadable", Answer(201, b'{"sid": "TK'), TransientError, UNAVAILABLE, UnknownOutcomeError),
    "an HTML page": Case(
        "unreadable", Answer(200, b"<html>", "text/html"), TransientError, UNAVAILABLE, UnknownOutcomeError
    ),
    "a JSON list": Case("unreadable", Answer(200, b"[]"), TransientError, UNAVAILABLE, UnknownOutcomeError),
    "no UTF-8": Case("unreadable", Answer(200, b'{"sid": "\xff"}'), TransientError, UNAVAILABLE, UnknownOutcomeError),
    "wrong credentials": Case("unauthorized", failure(401, 20003), RejectedError, ErrorCode.TWILIO_BAD_CREDENTIALS),
    "no permission": Case("forbidden", failure(403, 20403), RejectedError, ErrorCode.TWILIO_FORBIDDEN),
    "too many requests": Case("rate_limited", failure(429, 20429), TransientError, UNAVAILABLE),
    "an update in progress": Case("busy", failure(400, 20162), TransientError, UNAVAILABLE),
    "a conflict": Case("busy", failure(409, 20409), TransientError, UNAVAILABLE),
    "too many trunks": Case(
        "trunk_limit", failure(400, 21244), RejectedError, ErrorCode.TWILIO_TRUNK_LIMIT, only=("create_trunk",)
    ),
    "too many URLs": Case(
        "origination_limit",
        failure(400, 21249),
        RejectedError,
        ErrorCode.TWILIO_ORIGINATION_LIMIT,
        only=("create_origination_url",),
    ),
    "an emergency number": Case(
        "emergency_number",
        failure(400, 21634),
        RejectedError,
        ErrorCode.TWILIO_EMERGENCY_NUMBER,
        only=("delete_trunk",),
    ),
    "a number that is gone": Case(
        "number_gone", failure(404, 20404), RejectedError, ErrorCode.NUMBER_NOT_IN_ACCOUNT, only=("get_number",)
    ),
    "a trunk that is not there": Case(
        "trunk_gone",
        failure(404, 20404),
        RejectedError,
        ErrorCode.TWILIO_TRUNK_GONE,
        only=("create_origination_url", "attach_number"),
    ),
    "a request timeout": Case("request_timeout", failure(408), TransientError, UNAVAILABLE, UnknownOutcomeError),
    "a bad request": Case(
        "rejected", failure(400, 21245), RejectedError, ErrorCode.TWILIO_REJECTED, says="HTTP 400, code 21245."
    ),
    "a code in words": Case(
        "rejected", failure(400, "a b"), RejectedError, ErrorCode.TWILIO_REJECTED, says="HTTP 400."
    ),
    "the other error format": Case(
        "rejected",
        Answer(400, json.dumps({"type": "u", "title": "Bad", "status": 400, "code": 20001}).encode()),
        RejectedError,
        ErrorCode.TWILIO_REJECTED,
        says="HTTP 400, code 20001.",
    ),
    "an account that is not there": Case(
        "rejected", failure(404, 20404), RejectedError, ErrorCode.TWILIO_REJECTED, only=("find_number", "list_numbers")
    ),
    "a server error": Case("other_status", failure(500, 20500), TransientError, UNAVAILABLE, UnknownOutcomeError),
    "an HTML 503": Case(
        "other_status", Answer(503, b"<html>", "text/html"), TransientError, UNAVAILABLE, UnknownOutcomeError
    ),
    "a redirect": Case(
        "other_status",
        Answer(307, b"", headers={"Location": "/elsewhere"}),
        TransientError,
        UNAVAILABLE,
        UnknownOutcomeError,
    ),
}
