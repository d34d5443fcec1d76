"""What LiveKit may answer, and the error that each answer has to become."""

import json
from dataclasses import dataclass, replace

from livekit import api

from app.domain.errors import ErrorCode
from app.providers.errors import ProviderError, RejectedError, TransientError, UnknownOutcomeError
from app.providers.livekit_errors import RPC_PREFIX
from app.providers.livekit_records import read_rule, read_trunk
from tests.support.adapters import inbound_spec, rule_spec
from tests.support.scripted_server import (
    Answer,
    Drop,
    DropMidway,
    Hang,
    Script,
    Trickle,
)

TRUNK = "ST_" + "a" * 12
RULE = "SDR_" + "b" * 12
TRUNK_NOW = read_trunk(api.SIPInboundTrunkInfo(sip_trunk_id=TRUNK, numbers=["+15145551234"]))
RULE_NOW = read_rule(api.SIPDispatchRuleInfo(sip_dispatch_rule_id=RULE, trunk_ids=[TRUNK]))
TIMEOUT_S = 1.0
SECRET = "secret" * 6
WORDS = f"says that {SECRET} of +15145551234 is wrong"
SHOWN_WORDS = 'LiveKit said: "says that *** of ********1234 is wrong"'

UNAVAILABLE = ErrorCode.PROVIDER_UNAVAILABLE

READ = {
    "list_inbound_trunks": lambda platform: platform.list_inbound_trunks("+15145551234"),
    "get_inbound_trunk": lambda platform: platform.get_inbound_trunk(TRUNK),
    "list_dispatch_rules": lambda platform: platform.list_dispatch_rules(TRUNK),
    "get_dispatch_rule": lambda platform: platform.get_dispatch_rule(RULE),
    "ping": lambda platform: platform.ping(),
}
DELETE = {
    "delete_trunk": lambda platform: platform.delete_trunk(TRUNK),
    "delete_dispatch_rule": lambda platform: platform.delete_dispatch_rule(RULE),
}
WRITE = {
    "create_inbound_trunk": lambda platform: platform.create_inbound_trunk(inbound_spec("+15145551234")),
    "create_dispatch_rule": lambda platform: platform.create_dispatch_rule(rule_spec(TRUNK)),
    "update_inbound_trunk": lambda platform: platform.update_inbound_trunk(TRUNK_NOW, replace(TRUNK_NOW, name="x")),
    "update_dispatch_rule": lambda platform: platform.update_dispatch_rule(RULE_NOW, replace(RULE_NOW, name="x")),
}
CALLS = READ | DELETE | WRITE


def failure(
    status: int,
    code: int | str | None = "unknown",
    message: str = WORDS,
    headers: dict[str, str] | None = None,
) -> Answer:
    return Answer(status, json.dumps({"code": code, "msg": message}).encode(), headers=headers or {})


def text(status: int, body: bytes = WORDS.encode(), content_type: str = "text/plain") -> Answer:
    return Answer(status, body, content_type)


def protobuf(body: bytes) -> Answer:
    return Answer(200, body, "application/protobuf")


@dataclass
class Case:
    row: str
    answer: Script
    error: type[ProviderError]
    code: ErrorCode
    on_write: type[ProviderError] | None = None
    only: tuple[str, ...] = ()
    says: str = ""
    begins: str = ""

    @property
    def is_quoted(self) -> bool:
        """Whether the words of the answer are kept: those of an error in JSON that is no 401."""
        return (
            isinstance(self.answer, Answer)
            and self.answer.status != 401
            and WORDS.encode() in self.answer.body
            and (self.answer.content_type == "application/json")
        )


CONFLICT = (
    'Conflicting inbound SIP Trunks: "<new>" and "ST_x", using the same number(s) ["+1"] without AllowedNumbers set'
)
RULE_CONFLICT = "Dispatch rule for the same trunk, inbound number, number, and PIN combination already exists in"
OLD_RULE_CONFLICT = 'Conflicting SIP Dispatch Rules: same Trunk+Number+PIN combination for for "<new>" and "SDR_x"'
NO_REDIS = "sip not connected (redis required)"
BAD_CREDENTIALS = ErrorCode.LIVEKIT_BAD_CREDENTIALS
MISCONFIGURED = ErrorCode.LIVEKIT_MISCONFIGURED
REJECTED = ErrorCode.LIVEKIT_REJECTED

CASES = {
    "a dropped connection": Case(
        "lost", Drop(), TransientError, UNAVAILABLE, UnknownOutcomeError, says="did not answer"
    ),
    "half an answer": Case("lost", DropMidway(), TransientError, UNAVAILABLE, UnknownOutcomeError),
    "a server that hangs": Case("lost", Hang(), TransientError, UNAVAILABLE, UnknownOutcomeError),
    "a server that trickles": Case("lost", Trickle(), TransientError, UNAVAILABLE, UnknownOutcomeError),
    "broken protobuf": Case("unreadable", protobuf(b"\xff\xff"), TransientError, UNAVAILABLE, UnknownOutcomeError),
    "a login page": Case("unreadable", text(200, b"", "text/html"), TransientError, UNAVAILABLE, UnknownOutcomeError),
    "a 204": Case("unreadable", text(204, b""), TransientError, UNAVAILABLE, UnknownOutcomeError),
    "no permission": Case(
        "unauthorized", failure(401, "unauthenticated", "permissions denied"), RejectedError, BAD_CREDENTIALS
    ),
    "a wrong key": Case("unauthorized", text(401, b"invalid token: secret"), RejectedError, BAD_CREDENTIALS),
    "a 401 in JSON": Case("unauthorized", failure(401), RejectedError, BAD_CREDENTIALS),
    "a forbidden call": Case("unauthorized", failure(403, "permission_denied"), RejectedError, BAD_CREDENTIALS),
    "too many requests": Case("rate_limited", failure(429, "resource_exhausted"), TransientError, UNAVAILABLE),
    "a rate limit in text": Case("rate_limited", text(429), TransientError, UNAVAILABLE),
    "another region's project": Case("wrong_region", text(451), RejectedError, MISCONFIGURED),
    "a wrong path": Case("bad_route", failure(404, "bad_route"), RejectedError, MISCONFIGURED),
    "some other web server": Case("bad_route", text(404, b"<html>", "text/html"), RejectedError, MISCONFIGURED),
    "a server without redis": Case(
        "no_redis", failure(500, "internal", RPC_PREFIX + NO_REDIS), RejectedError, MISCONFIGURED, begins=NO_REDIS
    ),
    "a number taken": Case(
        "number_conflict",
        failure(400, "invalid_argument", CONFLICT),
        RejectedError,
        ErrorCode.LIVEKIT_NUMBER_CONFLICT,
        only=("create_inbound_trunk", "update_inbound_trunk"),
        begins=CONFLICT,
    ),
    "a rule taken": Case(
        "rule_conflict",
        failure(400, "invalid_argument", RPC_PREFIX + RULE_CONFLICT),
        RejectedError,
        ErrorCode.LIVEKIT_RULE_CONFLICT,
        only=("create_dispatch_rule", "update_dispatch_rule"),
        begins=RULE_CONFLICT,
    ),
    "a rule taken, on an older server": Case(
        "rule_conflict",
        failure(400, "invalid_argument", OLD_RULE_CONFLICT),
        RejectedError,
        ErrorCode.LIVEKIT_RULE_CONFLICT,
        only=("create_dispatch_rule", "update_dispatch_rule"),
        begins=OLD_RULE_CONFLICT,
    ),
    "a deadline": Case(
        "deadline_exceeded", failure(408, "deadline_exceeded"), TransientError, UNAVAILABLE, UnknownOutcomeError
    ),
    "a bad argument": Case(
        "rejected", failure(400, "invalid_argument"), RejectedError, REJECTED, says="HTTP 400, code invalid_argument."
    ),
    "a code that is a sentence": Case(
        "rejected", failure(400, "a secret"), RejectedError, REJECTED, says="HTTP 400, code unknown."
    ),
    "what is not there": Case("rejected", failure(404, "not_found"), RejectedError, REJECTED, only=("ping",)),
    "a JSON list": Case("rejected", Answer(400, b"[]"), RejectedError, REJECTED),
    "broken JSON": Case("rejected", Answer(400, b'{"code'), RejectedError, REJECTED),
    "a server error": Case("other_status", failure(500, "internal"), TransientError, UNAVAILABLE, UnknownOutcomeError),
    "an HTML 502": Case(
        "other_status", text(502, b"<html>", "text/html"), TransientError, UNAVAILABLE, UnknownOutcomeError
    ),
    "a redirect": Case(
        "other_status",
        Answer(302, b"", headers={"Location": "/elsewhere"}),
        TransientError,
        UNAVAILABLE,
        UnknownOutcomeError,
    ),
}
