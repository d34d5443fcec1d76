"""Twilio's Elastic SIP trunks, with their domains."""

import re
from datetime import UTC, datetime, timedelta

from app.sandbox.exchange import Answer, Exchange, json_answer
from app.sandbox.state import Sandbox
from app.sandbox.twilio_answers import TwilioError, bad_parameter, not_found, page_request, page_v1
from app.sandbox.twilio_numbers import route
from app.sandbox.twilio_records import (
    Reader,
    Record,
    boolean,
    friendly_name,
    now_v1,
    one_of,
    read_fields,
    text_or_null,
    trunk_record,
)

DOMAIN_SUFFIX = ".pstn.twilio.com"
DOMAIN = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)?\.pstn\.twilio\.com", re.IGNORECASE)

DOMAIN_RESERVE = timedelta(days=30)
"""How long a deleted trunk's domain stays taken (support.twilio.com 51034176439707)."""

FIELDS: dict[str, Reader] = {
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


def list_trunks(sandbox: Sandbox, exchange: Exchange) -> Answer:
    """List trunks; there is no filter."""
    return page_v1(exchange, page_request(exchange), "trunks", sandbox.store.trunks)


def create_trunk(sandbox: Sandbox, exchange: Exchange) -> Answer:
    """Create a trunk; names need not be unique, so a repeated request makes a twin."""
    fields = read_fields(exchange.form(), FIELDS)
    if len(sandbox.store.trunks.rows) >= sandbox.switches.trunk_limit:
        raise bad_parameter("Maximum number of trunks reached for this account", 21244)
    _check_domain(sandbox, fields.get("domain_name"), None)
    trunk = trunk_record(sandbox.credentials.account_sid) | fields
    sandbox.store.put("trunks", trunk["sid"], trunk)
    return json_answer(201, trunk)


def fetch_trunk(sandbox: Sandbox, exchange: Exchange) -> Answer:
    """Fetch one trunk."""
    return json_answer(200, find_trunk(sandbox, exchange))


def update_trunk(sandbox: Sandbox, exchange: Exchange) -> Answer:
    """Update one trunk."""
    trunk = find_trunk(sandbox, exchange)
    fields = read_fields(exchange.form(), FIELDS)
    _check_domain(sandbox, fields.get("domain_name"), trunk)
    updated = trunk | fields | {"date_updated": now_v1()}
    sandbox.store.put("trunks", trunk["sid"], updated)
    return json_answer(200, updated)


def fetch_recording(sandbox: Sandbox, exchange: Exchange) -> Answer:
    """Fetch how a trunk's calls are recorded."""
    return json_answer(200, find_trunk(sandbox, exchange)["recording"])


def update_recording(sandbox: Sandbox, exchange: Exchange) -> Answer:
    """Change how a trunk's calls are recorded; the trunk itself shows it too."""
    trunk = find_trunk(sandbox, exchange)
    recording = trunk["recording"] | read_fields(exchange.form(), RECORDING)
    sandbox.store.put("trunks", trunk["sid"], trunk | {"recording": recording, "date_updated": now_v1()})
    return json_answer(200, recording)


def delete_trunk(sandbox: Sandbox, exchange: Exchange) -> Answer:
    """Delete a trunk, and with it its origination URLs, its use of lists and every number's place on it."""
    trunk, store = find_trunk(sandbox, exchange), sandbox.store
    numbers = [store.numbers.rows[sid] for sid in store.numbers_by_trunk.ids(trunk["sid"])]
    if any(number["emergency_status"] == "Active" for number in numbers):
        raise bad_parameter("Trunk has phone numbers with emergency calling enabled", 21634)
    domain = trunk["domain_name"]
    if domain and any((row["domain_name"] or "").endswith("." + domain) for row in store.trunks.rows.values()):
        raise bad_parameter("Trunk domain has sub-domains", 21247)
    for number in numbers:
        route(sandbox, number, {"trunk_sid": None})
    for sid in store.urls_by_trunk.ids(trunk["sid"]):
        store.delete("origination_urls", sid)
    for use_id in store.trunk_auth_lists_by_trunk.ids(trunk["sid"]):
        store.delete("trunk_auth_lists", use_id)
    store.delete("trunks", trunk["sid"])
    if domain:
        until = datetime.now(UTC) + DOMAIN_RESERVE
        store.put("reserved_domains", domain, {"until": until.isoformat()})
    return Answer(204)


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
