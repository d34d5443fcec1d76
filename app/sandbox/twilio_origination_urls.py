"""Twilio's origination URLs of a trunk: where its inbound calls go."""

from app.sandbox.exchange import Answer, Exchange, json_answer
from app.sandbox.state import Sandbox
from app.sandbox.twilio_answers import bad_parameter, not_found, page_request, page_v1
from app.sandbox.twilio_records import (
    Reader,
    Record,
    boolean,
    friendly_name,
    now_v1,
    number_between,
    origination_url_record,
    read_fields,
)
from app.sandbox.twilio_trunks import find_trunk

MAX_URLS = 10
"""Origination URLs per trunk (error 21249)."""

MAX_WEIGHT = MAX_PRIORITY = 65535
"""Upper ends of both ranges (twilio-oai)."""


def _sip_url(name: str, value: str) -> str:
    if not value.startswith("sip:") or not value.removeprefix("sip:"):
        raise bad_parameter(f"{name} must be a sip: URL")
    return value


FIELDS: dict[str, Reader] = {
    "Weight": ("weight", number_between(1, MAX_WEIGHT)),
    "Priority": ("priority", number_between(0, MAX_PRIORITY)),
    "Enabled": ("enabled", boolean),
    "FriendlyName": ("friendly_name", friendly_name),
    "SipUrl": ("sip_url", _sip_url),
}


def list_origination_urls(sandbox: Sandbox, exchange: Exchange) -> Answer:
    """List the URLs of a trunk."""
    trunk = find_trunk(sandbox, exchange)
    rows = sandbox.store.origination_urls.ordered(sandbox.store.urls_by_trunk.ids(trunk["sid"]))
    return page_v1(exchange, page_request(exchange), "origination_urls", rows)


def create_origination_url(sandbox: Sandbox, exchange: Exchange) -> Answer:
    """Create a URL: all five parameters are required, and the same URL may be there already."""
    trunk, form = find_trunk(sandbox, exchange), exchange.form()
    missing = [name for name in FIELDS if not form.get(name)]
    if missing:
        raise bad_parameter(f"Missing required parameter {missing[0]} in the post body")
    fields = read_fields(form, FIELDS)
    if len(sandbox.store.urls_by_trunk.ids(trunk["sid"])) >= MAX_URLS:
        raise bad_parameter("Maximum number of origination URLs reached for this trunk", 21249)
    record = origination_url_record(sandbox.credentials.account_sid, trunk["sid"], fields)
    sandbox.store.put("origination_urls", record["sid"], record)
    return json_answer(201, record)


def fetch_origination_url(sandbox: Sandbox, exchange: Exchange) -> Answer:
    """Fetch one URL."""
    return json_answer(200, _url(sandbox, exchange))


def update_origination_url(sandbox: Sandbox, exchange: Exchange) -> Answer:
    """Update any of a URL's five fields."""
    url = _url(sandbox, exchange)
    updated = url | read_fields(exchange.form(), FIELDS) | {"date_updated": now_v1()}
    sandbox.store.put("origination_urls", url["sid"], updated)
    return json_answer(200, updated)


def delete_origination_url(sandbox: Sandbox, exchange: Exchange) -> Answer:
    """Delete one URL."""
    sandbox.store.delete("origination_urls", _url(sandbox, exchange)["sid"])
    return Answer(204)


def _url(sandbox: Sandbox, exchange: Exchange) -> Record:
    trunk = find_trunk(sandbox, exchange)
    url: Record | None = sandbox.store.origination_urls.get(exchange.arguments["url"])
    if url is None or url["trunk_sid"] != trunk["sid"]:
        raise not_found(exchange.path)
    return url
