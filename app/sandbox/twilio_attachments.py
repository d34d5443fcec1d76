"""Twilio's numbers on a trunk: the sub-resource /v1/Trunks/{TK}/PhoneNumbers."""

from app.sandbox.exchange import Answer, Exchange, json_answer
from app.sandbox.state import Sandbox
from app.sandbox.switches import REJECT_409
from app.sandbox.twilio_answers import TwilioError, bad_parameter, not_found, page_request, page_v1
from app.sandbox.twilio_numbers import route
from app.sandbox.twilio_records import Record, trunk_side
from app.sandbox.twilio_trunks import find_trunk


def list_trunk_numbers(sandbox: Sandbox, exchange: Exchange) -> Answer:
    """List the numbers on a trunk."""
    trunk = _trunk(sandbox, exchange)
    rows = sandbox.store.numbers.ordered(sandbox.store.numbers_by_trunk.ids(trunk["sid"]))
    return page_v1(exchange, page_request(exchange), "phone_numbers", rows, trunk_side)


def attach_number(sandbox: Sandbox, exchange: Exchange) -> Answer:
    """Put a number on a trunk; one that is on a trunk moves, or is refused, as the switch says."""
    trunk = _trunk(sandbox, exchange)
    sid = exchange.form().get("PhoneNumberSid")
    if not sid:
        raise bad_parameter("Missing required parameter PhoneNumberSid in the post body")
    number: Record | None = sandbox.store.numbers.get(sid)
    if number is None:
        raise TwilioError(404, 20404, f"The requested resource {sid} was not found")
    if number["trunk_sid"] and sandbox.switches.attach_conflict == REJECT_409:
        raise TwilioError(409, None, f"Phone Number {sid} is already associated with Trunk {number['trunk_sid']}")
    return json_answer(201, trunk_side(route(sandbox, number, {"trunk_sid": trunk["sid"]})))


def fetch_trunk_number(sandbox: Sandbox, exchange: Exchange) -> Answer:
    """Fetch one number of a trunk."""
    return json_answer(200, trunk_side(_attached(sandbox, exchange)))


def detach_number(sandbox: Sandbox, exchange: Exchange) -> Answer:
    """Take a number off its trunk; the account keeps it."""
    route(sandbox, _attached(sandbox, exchange), {"trunk_sid": None})
    return Answer(204)


def _trunk(sandbox: Sandbox, exchange: Exchange) -> Record:
    if not sandbox.switches.trunk_subresource:
        raise not_found(exchange.path)
    return find_trunk(sandbox, exchange)


def _attached(sandbox: Sandbox, exchange: Exchange) -> Record:
    trunk = _trunk(sandbox, exchange)
    number: Record | None = sandbox.store.numbers.get(exchange.arguments["number"])
    if number is None or number["trunk_sid"] != trunk["sid"]:
        raise not_found(exchange.path)
    return number
