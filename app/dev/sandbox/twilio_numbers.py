"""Twilio's phone numbers: what may be set of them, buying and releasing, and the routing of their calls."""

import re
from collections.abc import Iterable
from typing import Any

from app.dev.sandbox import magic_numbers
from app.dev.sandbox.exchange import Exchange, Response, json_response
from app.dev.sandbox.state import Sandbox
from app.dev.sandbox.twilio_wire import (
    LOCAL,
    METHODS,
    MOBILE,
    TOLL_FREE,
    Reader,
    Record,
    Rows,
    TwilioError,
    application_sid,
    bad_parameter,
    boolean,
    friendly_name,
    not_found,
    now_2010,
    number_record,
    number_type,
    one_of,
    page_2010,
    page_request,
    read_fields,
    sid_with,
    text,
    text_or_null,
)

NUMBER_FIELDS: dict[str, Reader] = {
    "ApiVersion": ("api_version", text),
    "FriendlyName": ("friendly_name", friendly_name),
    "VoiceUrl": ("voice_url", text_or_null),
    "VoiceMethod": ("voice_method", METHODS),
    "VoiceFallbackUrl": ("voice_fallback_url", text_or_null),
    "VoiceFallbackMethod": ("voice_fallback_method", METHODS),
    "VoiceCallerIdLookup": ("voice_caller_id_lookup", boolean),
    "VoiceReceiveMode": ("voice_receive_mode", one_of("voice", "fax")),
    "VoiceApplicationSid": ("voice_application_sid", application_sid),
    "TrunkSid": ("trunk_sid", text_or_null),
    "SmsUrl": ("sms_url", text),
    "SmsMethod": ("sms_method", METHODS),
    "SmsFallbackUrl": ("sms_fallback_url", text),
    "SmsFallbackMethod": ("sms_fallback_method", METHODS),
    "SmsApplicationSid": ("sms_application_sid", application_sid),
    "StatusCallback": ("status_callback", text),
    "StatusCallbackMethod": ("status_callback_method", METHODS),
    "EmergencyStatus": ("emergency_status", one_of("Active", "Inactive")),
    "EmergencyAddressSid": ("emergency_address_sid", sid_with("AD")),
    "AddressSid": ("address_sid", sid_with("AD")),
    "BundleSid": ("bundle_sid", sid_with("BU")),
    "IdentitySid": ("identity_sid", sid_with("RI")),
}
"""What a purchase and an update may set (twilio-oai). A TrunkSid that names no trunk is 404, whatever it looks like."""

AREA_CODE = re.compile(r"[2-9]\d{2}", re.ASCII)

KINDS = {"Local": LOCAL, "Mobile": MOBILE, "TollFree": TOLL_FREE}
"""The `type` of the numbers on each sub-list."""

TAKEN = 21422
"""Twilio's code for a number that somebody else has (twilio.com/docs/api/errors/21422)."""

UNAVAILABLE = {"+15005550000": TAKEN, "+15005550001": 21421}
"""Twilio's own magic numbers: taken, and invalid (twilio.com/docs/iam/test-credentials)."""

E164 = re.compile(r"\+[1-9]\d{6,14}")
PATTERN = re.compile(r"[+\d*]+")


def write_routing(sandbox: Sandbox, number: Record, changes: Record) -> Record:
    """Write changes to a number; a trunk and a voice application exclude each other."""
    if changes.get("trunk_sid"):
        changes["voice_application_sid"] = ""
    elif changes.get("voice_application_sid"):
        changes["trunk_sid"] = None
    updated = number | changes | {"date_updated": now_2010()}
    if updated["trunk_sid"] != number["trunk_sid"] and sandbox.switches.stale_read_s:
        sandbox.former_trunks.record(number["sid"], number["trunk_sid"])
    sandbox.store.put("numbers", number["sid"], updated)
    return updated


def list_numbers(sandbox: Sandbox, exchange: Exchange) -> Response:
    """List numbers, all or those of one kind; `PhoneNumber` is a pattern and may match many.

    A magic number is there once it is looked up, and otherwise in no list.
    """
    page, kind = page_request(exchange), exchange.arguments.get("kind")
    if sandbox.switches.list_magic_numbers:
        magic_numbers.join_all(sandbox)
    magic_numbers.join(sandbox, page.filters.get("PhoneNumber", ""))
    table = sandbox.store.numbers
    rows: Rows = table
    if kind or page.filters.keys() & {"PhoneNumber", "FriendlyName"}:
        rows = [pair for pair in table.ordered(_matching(sandbox, page.filters)) if _is_of_kind(pair[1], kind)]
    if "PhoneNumber" not in page.filters:
        rows = _listed(sandbox, rows)
    return page_2010(exchange, page, "incoming_phone_numbers", rows, lambda number: _as_read(sandbox, number))


def fetch_number(sandbox: Sandbox, exchange: Exchange) -> Response:
    """Fetch one number."""
    return json_response(200, _as_read(sandbox, _number(sandbox, exchange)))


def update_number(sandbox: Sandbox, exchange: Exchange) -> Response:
    """Update one number: an empty TrunkSid detaches it from its trunk."""
    number, form = _number(sandbox, exchange), exchange.form()
    if form.get("AccountSid", number["account_sid"]) != number["account_sid"]:
        raise bad_parameter("Target AccountSid is not related to the owner of the phone number", 21473)
    return json_response(200, write_routing(sandbox, number, _changes(sandbox, form)))


def buy_number(sandbox: Sandbox, exchange: Exchange) -> Response:
    """Buy a number by its E.164 text, or any of an area code; one that the account owns is returned unchanged."""
    form = exchange.form()
    wanted = form.get("PhoneNumber") or _free_number(sandbox, form.get("AreaCode", ""))
    for sid in sandbox.store.number_by_phone.ids(wanted):
        return json_response(201, sandbox.store.numbers.rows[sid])
    if wanted in UNAVAILABLE:
        raise bad_parameter(f"{wanted} is not available", UNAVAILABLE[wanted])
    if any(part.number_by_phone.ids(wanted) for part in sandbox.store.parts):
        raise bad_parameter(f"{wanted} is not available", TAKEN)
    if not E164.fullmatch(wanted):
        raise bad_parameter(f"'{wanted}' is not a valid number", 21421)
    kind = KINDS[exchange.arguments["kind"]] if exchange.arguments.get("kind") else number_type(wanted)
    if TOLL_FREE in (kind, number_type(wanted)) and kind != number_type(wanted):
        raise bad_parameter(f"{wanted} is no {kind} number", 21458)
    record = number_record(sandbox.account_sid, wanted, type=kind)
    return json_response(201, write_routing(sandbox, record, _changes(sandbox, form)))


def _free_number(sandbox: Sandbox, area_code: str) -> str:
    """Return a number of an area code that nobody owns; the empty text when no code is given."""
    if area_code and not AREA_CODE.fullmatch(area_code):
        raise bad_parameter(f"AreaCode {area_code} is not valid", 21451)
    owned = [part.number_by_phone for part in sandbox.store.parts]
    candidates = (f"+1{area_code}555{line:04}" for line in range(100, 10_000))
    unowned = (number for number in candidates if not any(each.ids(number) for each in owned))
    free = next(unowned, None) if area_code else ""
    if free is None:
        raise bad_parameter(f"No phone numbers found in area code {area_code}", 21452)
    return free


def release_number(sandbox: Sandbox, exchange: Exchange) -> Response:
    """Release a number."""
    sandbox.store.delete("numbers", _number(sandbox, exchange)["sid"])
    return Response(204)


def _changes(sandbox: Sandbox, form: dict[str, str]) -> dict[str, Any]:
    changes = read_fields(form, NUMBER_FIELDS)
    trunk_sid = changes.get("trunk_sid")
    if trunk_sid and trunk_sid not in sandbox.store.trunks.rows:
        raise TwilioError(404, 20404, f"The requested resource /Trunks/{trunk_sid} was not found")
    if "emergency_address_sid" in changes:
        # Twilio registers an address in the background; which of its statuses is shown meanwhile is left out here.
        changes["emergency_address_status"] = "registered" if changes["emergency_address_sid"] else "unregistered"
    return changes


def _number(sandbox: Sandbox, exchange: Exchange) -> Record:
    number: Record | None = sandbox.store.numbers.get(exchange.arguments["number"])
    if number is None:
        raise not_found(exchange.path)
    return number


def _listed(sandbox: Sandbox, rows: Rows) -> Rows:
    """Leave out the magic numbers that nobody has put there; looked for by their prefix, since few lists have any."""
    found = sandbox.store.number_by_phone.starting_with(magic_numbers.PREFIX)
    hidden = {sid for sid in found if magic_numbers.is_unlisted(sandbox.store.numbers.rows[sid])}
    if not hidden or sandbox.switches.list_magic_numbers:
        return rows
    pairs = (rows[position] for position in range(len(rows)))
    return [pair for pair in pairs if pair[1]["sid"] not in hidden]


def _is_of_kind(number: Record, kind: str | None) -> bool:
    return kind is None or number["type"] == KINDS[kind]


def _as_read(sandbox: Sandbox, number: Record) -> Record:
    lag_s = sandbox.switches.stale_read_s
    return sandbox.former_trunks.as_of(number, lag_s) if lag_s else number


def _matching(sandbox: Sandbox, filters: dict[str, str]) -> Iterable[str]:
    store = sandbox.store
    pattern, name = filters.get("PhoneNumber", ""), filters.get("FriendlyName")
    if pattern and not PATTERN.fullmatch(pattern):
        return []
    if pattern.startswith("+") and "*" not in pattern:
        ids: Iterable[str] = store.number_by_phone.starting_with(pattern)
    else:
        wanted = re.compile(re.escape(pattern).replace(r"\*", r"\d"))
        ids = [sid for sid, row in store.numbers.rows.items() if wanted.search(row["phone_number"])]
    return [sid for sid in ids if name is None or store.numbers.rows[sid]["friendly_name"] == name]
