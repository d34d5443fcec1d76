"""Twilio's Elastic SIP trunks, with their domains, origination URLs and numbers."""

import re
from datetime import UTC, datetime, timedelta

from app.dev.sandbox.exchange import Exchange, Response, json_response
from app.dev.sandbox.state import REJECT_409, Sandbox
from app.dev.sandbox.twilio_numbers import write_routing
from app.dev.sandbox.twilio_wire import (
    METHODS,
    Reader,
    Record,
    TwilioError,
    bad_parameter,
    boolean,
    friendly_name,
    not_found,
    now_v1,
    number_between,
    one_of,
    origination_url_record,
    page_request,
    page_v1,
    read_fields,
    text,
    text_or_null,
    trunk_record,
    trunk_view,
)

MAX_URLS = 10
"""Origination URLs per trunk (error 21249)."""

MAX_WEIGHT = MAX_PRIORITY = 65535
"""Upper ends of both ranges (twilio-oai). A weight of 0, which its documents exclude, is accepted, as recorded tests of
Twilio show."""


SIP_SCHEME = re.compile(r"\s*sips?:.+", re.IGNORECASE | re.DOTALL)


def _sip_url(name: str, value: str) -> str:
    """Take a URL by its scheme only: `sips:` is accepted too, as recorded tests of Twilio show, against its documents.

    Whether Twilio checks the rest is not documented; what cannot be called is passed over when a call comes.
    """
    if not SIP_SCHEME.fullmatch(value):
        raise bad_parameter(f"{name} must be a sip: URL")
    return value


URL_FIELDS: dict[str, Reader] = {
    "Weight": ("weight", number_between(0, MAX_WEIGHT)),
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
    record = origination_url_record(sandbox.account_sid, trunk["sid"], fields)
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
    "FriendlyName": ("friendly_name", text),
    "DomainName": ("domain_name", text_or_null),
    "DisasterRecoveryUrl": ("disaster_recovery_url", text_or_null),
    "DisasterRecoveryMethod": ("disaster_recovery_method", METHODS),
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
    trunk = trunk_record(sandbox.account_sid) | fields
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
    # Domains are unique among all accounts (twilio.com/docs/api/errors/21248).
    for part in sandbox.store.parts:
        reserved: Record | None = part.reserved_domains.get(domain)
        is_reserved = reserved and datetime.fromisoformat(reserved["until"]) > datetime.now(UTC)
        if part.trunks_by_domain.ids(domain) or is_reserved:
            raise bad_parameter(f"DomainName {domain} is already taken", 21248)
    parent = domain.split(".", 1)[1]
    if parent != DOMAIN_SUFFIX[1:] and not sandbox.store.trunks_by_domain.ids(parent):
        raise bad_parameter(f"DomainName {domain} needs a trunk with the domain {parent}", 21247)
