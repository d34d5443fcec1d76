"""Twilio's phone numbers, and its Elastic SIP trunks with their domains, origination URLs and numbers."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from app.dev.sandbox.exchange import Exchange, Response, json_response
from app.dev.sandbox.state import REJECT_409, Sandbox
from app.dev.sandbox.twilio_wire import (
    LOCAL,
    MOBILE,
    TOLL_FREE,
    Reader,
    Record,
    Rows,
    TwilioError,
    bad_parameter,
    boolean,
    friendly_name,
    not_found,
    now_2010,
    now_v1,
    number_between,
    number_record,
    number_type,
    one_of,
    origination_url_record,
    page_2010,
    page_request,
    page_v1,
    read_fields,
    text,
    text_or_null,
    trunk_record,
    trunk_view,
)

NUMBER_FIELDS: dict[str, Reader] = {
    "FriendlyName": ("friendly_name", friendly_name),
    "VoiceUrl": ("voice_url", text_or_null),
    "VoiceMethod": ("voice_method", one_of("GET", "POST")),
    "VoiceFallbackUrl": ("voice_fallback_url", text_or_null),
    "VoiceFallbackMethod": ("voice_fallback_method", one_of("GET", "POST")),
    "VoiceCallerIdLookup": ("voice_caller_id_lookup", boolean),
    "VoiceReceiveMode": ("voice_receive_mode", one_of("voice", "fax")),
    "VoiceApplicationSid": ("voice_application_sid", text),
    "TrunkSid": ("trunk_sid", text_or_null),
    "SmsUrl": ("sms_url", text),
    "SmsMethod": ("sms_method", one_of("GET", "POST")),
    "SmsApplicationSid": ("sms_application_sid", text),
    "StatusCallback": ("status_callback", text),
    "StatusCallbackMethod": ("status_callback_method", one_of("GET", "POST")),
    "EmergencyStatus": ("emergency_status", one_of("Active", "Inactive")),
    "AddressSid": ("address_sid", text_or_null),
    "BundleSid": ("bundle_sid", text_or_null),
    "IdentitySid": ("identity_sid", text_or_null),
}

KINDS = {"Local": LOCAL, "Mobile": MOBILE, "TollFree": TOLL_FREE}
"""The `type` of the numbers on each sub-list."""

UNAVAILABLE = {"+15005550000": 21422, "+15005550001": 21421}
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
    """List numbers, all or those of one kind; `PhoneNumber` is a pattern and may match many."""
    page, kind = page_request(exchange), exchange.arguments.get("kind")
    table = sandbox.store.numbers
    rows: Rows = table
    if kind or page.filters.keys() & {"PhoneNumber", "FriendlyName"}:
        rows = [pair for pair in table.ordered(_matching(sandbox, page.filters)) if _is_of_kind(pair[1], kind)]
    return page_2010(exchange, page, "incoming_phone_numbers", rows, lambda number: _as_read(sandbox, number))


def fetch_number(sandbox: Sandbox, exchange: Exchange) -> Response:
    """Fetch one number."""
    return json_response(200, _as_read(sandbox, _number(sandbox, exchange)))


def update_number(sandbox: Sandbox, exchange: Exchange) -> Response:
    """Update one number: an empty TrunkSid detaches it from its trunk."""
    number = _number(sandbox, exchange)
    return json_response(200, write_routing(sandbox, number, _changes(sandbox, exchange.form())))


def buy_number(sandbox: Sandbox, exchange: Exchange) -> Response:
    """Buy a number by its E.164 text; one that the account owns already is returned unchanged."""
    form = exchange.form()
    wanted = form.get("PhoneNumber", "")
    for sid in sandbox.store.number_by_phone.ids(wanted):
        return json_response(201, sandbox.store.numbers.rows[sid])
    if wanted in UNAVAILABLE:
        raise bad_parameter(f"{wanted} is not available", UNAVAILABLE[wanted])
    if not E164.fullmatch(wanted):
        raise bad_parameter(f"'{wanted}' is not a valid number", 21421)
    kind = KINDS[exchange.arguments["kind"]] if exchange.arguments.get("kind") else number_type(wanted)
    if TOLL_FREE in (kind, number_type(wanted)) and kind != number_type(wanted):
        raise bad_parameter(f"{wanted} is no {kind} number", 21458)
    record = number_record(sandbox.credentials.account_sid, wanted, type=kind)
    return json_response(201, write_routing(sandbox, record, _changes(sandbox, form)))


def release_number(sandbox: Sandbox, exchange: Exchange) -> Response:
    """Release a number."""
    sandbox.store.delete("numbers", _number(sandbox, exchange)["sid"])
    return Response(204)


def _changes(sandbox: Sandbox, form: dict[str, str]) -> dict[str, Any]:
    changes = read_fields(form, NUMBER_FIELDS)
    trunk_sid = changes.get("trunk_sid")
    if trunk_sid and trunk_sid not in sandbox.store.trunks.rows:
        raise TwilioError(404, 20404, f"The requested resource /Trunks/{trunk_sid} was not found")
    return changes


def _number(sandbox: Sandbox, exchange: Exchange) -> Record:
    number: Record | None = sandbox.store.numbers.get(exchange.arguments["number"])
    if number is None:
        raise not_found(exchange.path)
    return number


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


MAX_URLS = 10
"""Origination URLs per trunk (error 21249)."""

MAX_WEIGHT = MAX_PRIORITY = 65535
"""Upper ends of both ranges (twilio-oai)."""


def _sip_url(name: str, value: str) -> str:
    if not value.startswith("sip:") or not value.removeprefix("sip:"):
        raise bad_parameter(f"{name} must be a sip: URL")
    return value


URL_FIELDS: dict[str, Reader] = {
    "Weight": ("weight", number_between(1, MAX_WEIGHT)),
    "Priority": ("priority", number_between(0, MAX_PRIORITY)),
    "Enabled": ("enabled", boolean),
    "FriendlyName": ("friendly_name", friendly_name),
    "SipUrl": ("sip_url", _sip_url),
}


def list_origination_urls(sandbox: Sandbox, exchange: Exchange) -> Response:
    """List the URLs of a trunk."""
    trunk = find_trunk(sandbox, exchange)
    rows = sandbox.store.origination_urls.ordered(sandbox.store.urls_by_trunk.ids(trunk["sid"]))
    return page_v1(exchange, page_request(exchange), "origination_urls", rows)


def create_origination_url(sandbox: Sandbox, exchange: Exchange) -> Response:
    """Create a URL: all five parameters are required, and URLs need not be unique."""
    trunk, form = find_trunk(sandbox, exchange), exchange.form()
    missing = [name for name in URL_FIELDS if not form.get(name)]
    if missing:
        raise bad_parameter(f"Missing required parameter {missing[0]} in the post body")
    fields = read_fields(form, URL_FIELDS)
    if len(sandbox.store.urls_by_trunk.ids(trunk["sid"])) >= MAX_URLS:
        raise bad_parameter("Maximum number of origination URLs reached for this trunk", 21249)
    record = origination_url_record(sandbox.credentials.account_sid, trunk["sid"], fields)
    sandbox.store.put("origination_urls", record["sid"], record)
    return json_response(201, record)


def fetch_origination_url(sandbox: Sandbox, exchange: Exchange) -> Response:
    """Fetch one URL."""
    return json_response(200, _url(sandbox, exchange))


def update_origination_url(sandbox: Sandbox, exchange: Exchange) -> Response:
    """Update any of a URL's five fields."""
    url = _url(sandbox, exchange)
    updated = url | read_fields(exchange.form(), URL_FIELDS) | {"date_updated": now_v1()}
    sandbox.store.put("origination_urls", url["sid"], updated)
    return json_response(200, updated)


def delete_origination_url(sandbox: Sandbox, exchange: Exchange) -> Response:
    """Delete one URL."""
    sandbox.store.delete("origination_urls", _url(sandbox, exchange)["sid"])
    return Response(204)


def _url(sandbox: Sandbox, exchange: Exchange) -> Record:
    trunk = find_trunk(sandbox, exchange)
    url: Record | None = sandbox.store.origination_urls.get(exchange.arguments["url"])
    if url is None or url["trunk_sid"] != trunk["sid"]:
        raise not_found(exchange.path)
    return url


def list_trunk_numbers(sandbox: Sandbox, exchange: Exchange) -> Response:
    """List the numbers on a trunk."""
    trunk = _trunk(sandbox, exchange)
    rows = sandbox.store.numbers.ordered(sandbox.store.numbers_by_trunk.ids(trunk["sid"]))
    return page_v1(exchange, page_request(exchange), "phone_numbers", rows, trunk_view)


def attach_number(sandbox: Sandbox, exchange: Exchange) -> Response:
    """Attach a number to a trunk; one that is on another trunk moves, or is refused, as the switch says."""
    trunk = _trunk(sandbox, exchange)
    sid = exchange.form().get("PhoneNumberSid")
    if not sid:
        raise bad_parameter("Missing required parameter PhoneNumberSid in the post body")
    number: Record | None = sandbox.store.numbers.get(sid)
    if number is None:
        raise TwilioError(404, 20404, f"The requested resource {sid} was not found")
    if number["trunk_sid"] and sandbox.switches.attach_conflict == REJECT_409:
        raise TwilioError(409, None, f"Phone Number {sid} is already associated with Trunk {number['trunk_sid']}")
    return json_response(201, trunk_view(write_routing(sandbox, number, {"trunk_sid": trunk["sid"]})))


def fetch_trunk_number(sandbox: Sandbox, exchange: Exchange) -> Response:
    """Fetch one number of a trunk."""
    return json_response(200, trunk_view(_attached(sandbox, exchange)))


def detach_number(sandbox: Sandbox, exchange: Exchange) -> Response:
    """Detach a number from its trunk; the account keeps it."""
    write_routing(sandbox, _attached(sandbox, exchange), {"trunk_sid": None})
    return Response(204)


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


DOMAIN_SUFFIX = ".pstn.twilio.com"
DOMAIN = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)?\.pstn\.twilio\.com", re.IGNORECASE)

DOMAIN_RESERVE = timedelta(days=30)
"""How long a deleted trunk's domain stays reserved (support.twilio.com 51034176439707)."""

TRUNK_FIELDS: dict[str, Reader] = {
    "FriendlyName": ("friendly_name", friendly_name),
    "DomainName": ("domain_name", text_or_null),
    "DisasterRecoveryUrl": ("disaster_recovery_url", text_or_null),
    "DisasterRecoveryMethod": ("disaster_recovery_method", one_of("GET", "POST")),
    "TransferMode": ("transfer_mode", one_of("disable-all", "enable-all", "sip-only")),
    "TransferCallerId": ("transfer_caller_id", one_of("from-transferee", "from-transferor")),
    "Secure": ("secure", boolean),
    "CnamLookupEnabled": ("cnam_lookup_enabled", boolean),
}

RECORD_MODES = tuple(f"record-from-{start}{channels}" for start in ("ringing", "answer") for channels in ("", "-dual"))

RECORDING: dict[str, Reader] = {
    "Mode": ("mode", one_of("do-not-record", *RECORD_MODES)),
    "Trim": ("trim", one_of("do-not-trim", "trim-silence")),
}


def find_trunk(sandbox: Sandbox, exchange: Exchange) -> Record:
    """Return the trunk that the path names, or raise the 404."""
    trunk: Record | None = sandbox.store.trunks.get(exchange.arguments["trunk"])
    if trunk is None:
        raise not_found(exchange.path)
    return trunk


def list_trunks(sandbox: Sandbox, exchange: Exchange) -> Response:
    """List trunks; there is no filter."""
    return page_v1(exchange, page_request(exchange), "trunks", sandbox.store.trunks)


def create_trunk(sandbox: Sandbox, exchange: Exchange) -> Response:
    """Create a trunk; names need not be unique, so a repeated request makes a duplicate."""
    fields = read_fields(exchange.form(), TRUNK_FIELDS)
    if len(sandbox.store.trunks.rows) >= sandbox.switches.trunk_limit:
        raise bad_parameter("Maximum number of trunks reached for this account", 21244)
    _check_domain(sandbox, fields.get("domain_name"), None)
    trunk = trunk_record(sandbox.credentials.account_sid) | fields
    sandbox.store.put("trunks", trunk["sid"], trunk)
    return json_response(201, trunk)


def fetch_trunk(sandbox: Sandbox, exchange: Exchange) -> Response:
    """Fetch one trunk."""
    return json_response(200, find_trunk(sandbox, exchange))


def update_trunk(sandbox: Sandbox, exchange: Exchange) -> Response:
    """Update one trunk."""
    trunk = find_trunk(sandbox, exchange)
    fields = read_fields(exchange.form(), TRUNK_FIELDS)
    _check_domain(sandbox, fields.get("domain_name"), trunk)
    updated = trunk | fields | {"date_updated": now_v1()}
    sandbox.store.put("trunks", trunk["sid"], updated)
    return json_response(200, updated)


def fetch_recording(sandbox: Sandbox, exchange: Exchange) -> Response:
    """Fetch how a trunk's calls are recorded."""
    return json_response(200, find_trunk(sandbox, exchange)["recording"])


def update_recording(sandbox: Sandbox, exchange: Exchange) -> Response:
    """Change how a trunk's calls are recorded; the trunk itself shows it too."""
    trunk = find_trunk(sandbox, exchange)
    recording = trunk["recording"] | read_fields(exchange.form(), RECORDING)
    sandbox.store.put("trunks", trunk["sid"], trunk | {"recording": recording, "date_updated": now_v1()})
    return json_response(200, recording)


def delete_trunk(sandbox: Sandbox, exchange: Exchange) -> Response:
    """Delete a trunk with its origination URLs and its use of lists, and detach its numbers."""
    trunk, store = find_trunk(sandbox, exchange), sandbox.store
    numbers = [store.numbers.rows[sid] for sid in store.numbers_by_trunk.ids(trunk["sid"])]
    if any(number["emergency_status"] == "Active" for number in numbers):
        raise bad_parameter("Trunk has phone numbers with emergency calling enabled", 21634)
    domain = trunk["domain_name"]
    if domain and any((row["domain_name"] or "").endswith("." + domain) for row in store.trunks.rows.values()):
        raise bad_parameter("Trunk domain has sub-domains", 21247)
    for number in numbers:
        write_routing(sandbox, number, {"trunk_sid": None})
    for sid in store.urls_by_trunk.ids(trunk["sid"]):
        store.delete("origination_urls", sid)
    for use_id in store.trunk_auth_lists_by_trunk.ids(trunk["sid"]):
        store.delete("trunk_auth_lists", use_id)
    store.delete("trunks", trunk["sid"])
    if domain:
        until = datetime.now(UTC) + DOMAIN_RESERVE
        store.put("reserved_domains", domain, {"until": until.isoformat()})
    return Response(204)


def _check_domain(sandbox: Sandbox, domain: str | None, trunk: Record | None) -> None:
    if not domain or (trunk and trunk["domain_name"] == domain):
        return
    if not DOMAIN.fullmatch(domain):
        raise bad_parameter(f"DomainName must be a host name that ends in {DOMAIN_SUFFIX}", 21245)
    if sandbox.store.trunks_by_domain.ids(domain):
        raise bad_parameter(f"DomainName {domain} belongs to another trunk of this account", 21245)
    reserved: Record | None = sandbox.store.reserved_domains.get(domain)
    if reserved and datetime.fromisoformat(reserved["until"]) > datetime.now(UTC):
        raise TwilioError(400, 21248, f"DomainName {domain} is already taken")
    parent = domain.split(".", 1)[1]
    if parent != DOMAIN_SUFFIX[1:] and not sandbox.store.trunks_by_domain.ids(parent):
        raise bad_parameter(f"DomainName {domain} needs a trunk with the domain {parent}", 21247)
