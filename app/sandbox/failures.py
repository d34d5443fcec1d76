"""The error answers that faults and rate limits give, in each provider's own shape."""

from typing import Any

from app.sandbox.exchange import TWILIO, Answer, json_answer
from app.sandbox.faults import ERROR_500, HTML_503, TOO_MANY, Strike
from app.sandbox.livekit_answers import STATUS
from app.sandbox.twilio_answers import TwilioError

HTML = b"<html><head><title>503 Service Unavailable</title></head><body><h1>Service Unavailable</h1></body></html>"

NOT_JSON = b'{"sid": "'
NOT_PROTOBUF = b"\xff\xff\xff\xff\xff\xff"
"""Starts a field tag that never ends, so no protobuf reader accepts it."""

HTTP_NO_CONTENT = 204
HTTP_ERROR_FROM = 400


def too_many(provider: str, retry_after_s: float | None = None) -> Answer:
    """Return a 429, with Retry-After when it is given."""
    headers = () if retry_after_s is None else (("Retry-After", f"{retry_after_s:g}"),)
    if provider == TWILIO:
        return TwilioError(429, 20429, "Too Many Requests").answer(headers)
    return json_answer(429, {"code": "resource_exhausted", "msg": "too many requests"}, headers)


def failure(provider: str, strike: Strike) -> Answer:
    """Return the answer of a fault that applies nothing."""
    order = strike.fault.order
    if strike.kind == TOO_MANY:
        return too_many(provider, order.get("retryAfterS"))
    if strike.kind == HTML_503:
        return Answer(503, HTML, "text/html; charset=utf-8")
    if strike.kind == ERROR_500:
        if provider == TWILIO:
            return TwilioError(500, 20500, "An internal server error has occurred").answer()
        return json_answer(500, {"code": "internal", "msg": "internal error"})
    return _rejection(provider, order)


def _rejection(provider: str, order: dict[str, Any]) -> Answer:
    message = str(order.get("message") or "Rejected by the sandbox")
    if provider == TWILIO:
        return TwilioError(int(order.get("status") or 400), order.get("code", 20001), message).answer()
    code = str(order.get("code") or "invalid_argument")
    return json_answer(int(order.get("status") or STATUS.get(code, 400)), {"code": code, "msg": message})


def malformed(provider: str, answer: Answer) -> Answer:
    """Break the body of an answer that tells of success; a refusal stays as it is."""
    if answer.status >= HTTP_ERROR_FROM:
        return answer
    status = 200 if answer.status == HTTP_NO_CONTENT else answer.status
    body = NOT_JSON if provider == TWILIO else NOT_PROTOBUF
    return Answer(status, body, answer.content_type)
