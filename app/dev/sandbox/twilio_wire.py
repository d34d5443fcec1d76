"""Twilio's wire format: error bodies, its two styles of pages, and the records of its resources."""

import re
import secrets
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import urlencode

from app.dev.sandbox.exchange import Exchange, Response, json_response

DEFAULT_PAGE_SIZE = 50
"""Rows per page when PageSize is not given (twilio-oai)."""

MAX_PAGE_SIZE = 1000
"""Most rows per page; a larger PageSize is cut to it (twilio-oai)."""

TOKEN_PREFIX = "PT"  # noqa: S105 - a cursor, not a secret


@dataclass
class TwilioError(Exception):
    """An error response; `code` None leaves the code out, as Twilio sometimes does."""

    status: int
    code: int | str | None
    message: str

    def response(self, headers: tuple[tuple[str, str], ...] = ()) -> Response:
        """Return the body that the SDKs read."""
        content: dict[str, Any] = {"message": self.message, "status": self.status}
        if self.code is not None:
            content |= {"code": self.code, "more_info": f"https://www.twilio.com/docs/errors/{self.code}"}
        return json_response(self.status, content, headers)


def not_found(path: str) -> TwilioError:
    """Return the error for whatever does not exist, or belongs to another account."""
    return TwilioError(404, 20404, f"The requested resource {path} was not found")


def bad_parameter(message: str, code: int = 20001) -> TwilioError:
    """Return the error for a parameter that is missing or malformed."""
    return TwilioError(400, code, message)


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page of a list is asked for: up to `size` rows after `cursor`."""

    cursor: int
    size: int
    number: int
    filters: dict[str, str]

    def query(self, number: int, cursor: int) -> str:
        """Return the query string of one page of the same list."""
        parameters = {**self.filters, "PageSize": str(self.size), "Page": str(number)}
        if number:
            parameters["PageToken"] = f"{TOKEN_PREFIX}{cursor}"
        return urlencode(parameters)


def page_request(exchange: Exchange) -> PageRequest:
    """Read PageSize, Page and PageToken; everything else is a filter that links repeat."""
    filters = exchange.parameters()
    size, number = filters.pop("PageSize", ""), filters.pop("Page", "")
    token = filters.pop("PageToken", "")
    if not (size or str(DEFAULT_PAGE_SIZE)).isdigit() or not (number or "0").isdigit():
        raise bad_parameter("Page and PageSize must be numbers.")
    page = int(number or 0)
    if page and not token:
        raise bad_parameter("PageToken is required for paging.")
    cursor = token.removeprefix(TOKEN_PREFIX)
    if token and not cursor.isdigit():
        raise bad_parameter("Invalid PageToken", 21481)
    rows = min(int(size or DEFAULT_PAGE_SIZE) or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    return PageRequest(int(cursor or 0), rows, page, filters)


RowView = Callable[[Any], Any]
"""Converts a row to what its list returns."""


class Rows(Protocol):
    """Rows in the order of their cursors: a list of (cursor, row), or a table."""

    def __len__(self) -> int:
        """Count them."""
        ...

    def __getitem__(self, position: int, /) -> tuple[int, Any]:
        """Return the cursor and the row at a position."""
        ...


def _start(page: PageRequest, rows: Rows) -> int:
    """Return the position of the page's first row: the first one after the cursor."""
    return bisect_right(range(len(rows)), page.cursor, key=lambda place: rows[place][0])


def _shown(exchange: Exchange, page: PageRequest, rows: Rows) -> list[Any]:
    """Return the rows of a page without those that a fault hides."""
    start = _start(page, rows)
    window = [rows[place][1] for place in range(start, min(start + page.size, len(rows)))]
    return [row for row in window if not exchange.hides(row["sid"])]


def _links(exchange: Exchange, page: PageRequest, rows: Rows) -> tuple[str, str, str | None, str | None]:
    """Return the queries of the first page, this one, the next and the previous one."""
    start = _start(page, rows)
    end = start + page.size
    is_last = end >= len(rows) or (exchange.hidden is not None and exchange.hidden.is_everything)
    following = None if is_last else page.query(page.number + 1, rows[end - 1][0])
    before = start - page.size
    previous = page.query(page.number - 1, rows[before - 1][0] if before > 0 else 0) if page.number else None
    return page.query(0, 0), page.query(page.number, page.cursor), following, previous


def page_2010(exchange: Exchange, page: PageRequest, key: str, rows: Rows, show: RowView = lambda row: row) -> Response:
    """Return a page of the 2010 API, with relative links, from the rows of the whole list."""
    items = [show(row) for row in _shown(exchange, page, rows)]
    first, this, following, previous = _links(exchange, page, rows)
    start = page.number * page.size if items else 0

    def uri(query: str | None) -> str | None:
        return None if query is None else f"{exchange.path}?{query}"

    envelope = {
        "first_page_uri": uri(first),
        "next_page_uri": uri(following),
        "previous_page_uri": uri(previous),
        "uri": uri(this),
        "page": page.number,
        "page_size": page.size,
        "start": start,
        "end": start + len(items) - 1 if items else 0,
    }
    return json_response(200, {**envelope, key: items})


def page_v1(exchange: Exchange, page: PageRequest, key: str, rows: Rows, show: RowView = lambda row: row) -> Response:
    """Return a page of a v1 API, with absolute links under `meta` on the host of the request."""
    first, this, following, previous = _links(exchange, page, rows)
    scheme = "https" if exchange.host.endswith(".twilio.com") else "http"

    def url(query: str | None) -> str | None:
        return None if query is None else f"{scheme}://{exchange.host}{exchange.path}?{query}"

    meta = {
        "page": page.number,
        "page_size": page.size,
        "first_page_url": url(first),
        "previous_page_url": url(previous),
        "url": url(this),
        "next_page_url": url(following),
        "key": key,
    }
    return json_response(200, {key: [show(row) for row in _shown(exchange, page, rows)], "meta": meta})


Record = dict[str, Any]
Reader = tuple[str, Callable[[str, str], Any]]
"""Name of the record's field, and what reads its value from (parameter, text)."""

TRUNKING = "https://trunking.twilio.com"

FRIENDLY_NAME_LENGTH = 64
"""Characters; longer names are refused (twilio-oai). A trunk's may be longer all the same, as recorded tests of Twilio
show."""

ACCOUNT_CREATED = "Thu, 01 Jan 2026 00:00:00 +0000"
"""When every account was opened."""

NANP_LENGTH = 12
"""Characters of a North American number: `+1` and 10 digits."""

HIDDEN_IN_TRUNK_VIEW = frozenset(
    {
        "address_sid",
        "bundle_sid",
        "emergency_address_sid",
        "emergency_address_status",
        "emergency_status",
        "identity_sid",
        "origin",
        "status",
        "type",
        "voice_receive_mode",
        "uri",
    }
)
"""Fields that a number's record does not have when it is read through its trunk."""


MESSAGING: Record = {
    "sms_url": "",
    "sms_method": "POST",
    "sms_fallback_url": "",
    "sms_fallback_method": "POST",
    "sms_application_sid": "",
    "status_callback": "",
    "status_callback_method": "POST",
}
"""Fields of a new number that do not concern voice."""

LOCAL, MOBILE, TOLL_FREE = "local", "mobile", "toll-free"

TOLL_FREE_PREFIXES = frozenset(f"+1{area}" for area in (800, 833, 844, 855, 866, 877, 888))
"""North America's area codes whose calls are free for the caller."""


def new_sid(prefix: str) -> str:
    """Return a fresh sid: two letters and 32 lower-case hex digits."""
    return prefix + secrets.token_hex(16)


def now_2010() -> str:
    """Return the time as the 2010 API writes it (RFC 2822)."""
    return format_datetime(datetime.now(UTC))


def now_v1() -> str:
    """Return the time as v1 APIs write it (ISO 8601)."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def text(_name: str, value: str) -> str:
    """Take a text as it is."""
    return value


def text_or_null(_name: str, value: str) -> str | None:
    """Take a text; an empty one clears the field."""
    return value or None


def sid_with(prefix: str) -> Callable[[str, str], str | None]:
    """Make a reader of the sid of another resource; an empty text clears the field."""

    def read(name: str, value: str) -> str | None:
        if value and not re.fullmatch(rf"{prefix}[0-9a-fA-F]{{32}}", value):
            raise bad_parameter(f"{name} '{value}' is not a valid sid")
        return value or None

    return read


def application_sid(name: str, value: str) -> str:
    """Take the sid of an application; Twilio shows none as an empty text."""
    return sid_with("AP")(name, value) or ""


def friendly_name(name: str, value: str) -> str:
    """Take a name of at most 64 characters."""
    if len(value) > FRIENDLY_NAME_LENGTH:
        raise bad_parameter(f"{name} must be at most {FRIENDLY_NAME_LENGTH} characters")
    return value


def boolean(name: str, value: str) -> bool:
    """Take `true` or `false`."""
    if value.lower() not in ("true", "false"):
        raise bad_parameter(f"{name} must be true or false")
    return value.lower() == "true"


def number_between(low: int, high: int) -> Callable[[str, str], int]:
    """Make a reader of whole numbers in a range."""

    def read(name: str, value: str) -> int:
        if not (value.isascii() and value.isdigit() and low <= int(value) <= high):
            raise bad_parameter(f"{name} must be a number from {low} to {high}")
        return int(value)

    return read


def one_of(*choices: str) -> Callable[[str, str], str]:
    """Make a reader of a closed list."""

    def read(name: str, value: str) -> str:
        if value not in choices:
            raise bad_parameter(f"{name} must be one of {', '.join(choices)}")
        return value

    return read


METHODS = one_of("GET", "POST")


def read_fields(form: dict[str, str], readers: dict[str, Reader]) -> Record:
    """Return the record's fields that a form sets; unknown parameters are ignored."""
    return {field: read(name, form[name]) for name, (field, read) in readers.items() if name in form}


def number_type(phone_number: str) -> str:
    """Return the kind of a number by its digits: toll-free in North America, else local."""
    return TOLL_FREE if phone_number[:5] in TOLL_FREE_PREFIXES else LOCAL


def number_record(account_sid: str, phone_number: str, **given: Any) -> Record:
    """Return the 2010 record of a new number with no routing; `given` overrides single fields."""
    sid, now = new_sid("PN"), now_2010()
    local = phone_number[2:]
    is_nanp = phone_number.startswith("+1") and len(phone_number) == NANP_LENGTH
    record: Record = {
        "sid": sid,
        "account_sid": account_sid,
        "phone_number": phone_number,
        "friendly_name": f"({local[:3]}) {local[3:6]}-{local[6:]}" if is_nanp else phone_number,
        "trunk_sid": None,
        "voice_url": None,
        "voice_method": "POST",
        "voice_fallback_url": None,
        "voice_fallback_method": "POST",
        "voice_application_sid": "",
        "voice_caller_id_lookup": False,
        "voice_receive_mode": "voice",
        **MESSAGING,
        "capabilities": {"voice": True, "sms": True, "mms": True, "fax": False},
        "address_requirements": "none",
        "address_sid": None,
        "identity_sid": None,
        "bundle_sid": None,
        "emergency_status": "Inactive",
        "emergency_address_sid": None,
        "emergency_address_status": "unregistered",
        "origin": "twilio",
        "beta": False,
        "status": "in-use",
        "type": number_type(phone_number),
        "api_version": "2010-04-01",
        "date_created": now,
        "date_updated": now,
        "uri": f"/2010-04-01/Accounts/{account_sid}/IncomingPhoneNumbers/{sid}.json",
    }
    return record | given


def trunk_view(number: Record) -> Record:
    """Return a number's record as its trunk shows it: fewer fields, ISO dates, other links."""
    shown = {name: value for name, value in number.items() if name not in HIDDEN_IN_TRUNK_VIEW}
    for name in ("date_created", "date_updated"):
        shown[name] = parsedate_to_datetime(number[name]).strftime("%Y-%m-%dT%H:%M:%SZ")
    shown["url"] = f"{TRUNKING}/v1/Trunks/{number['trunk_sid']}/PhoneNumbers/{number['sid']}"
    shown["links"] = {"phone_number": "https://api.twilio.com" + number["uri"].removesuffix(".json")}
    return shown


def account_record(account: Record) -> Record:
    """Return the record of an account as Twilio shows it; `account` is as app/dev/sandbox/owners.py keeps it."""
    account_sid, auth_tokens = account["sid"], account["auth_tokens"]
    uri = f"/2010-04-01/Accounts/{account_sid}"
    names = {"incoming_phone_numbers": "IncomingPhoneNumbers", "sip": "SIP"}
    return {
        "sid": account_sid,
        "owner_account_sid": account["owner_sid"],
        "friendly_name": account["friendly_name"],
        "status": account["status"],
        "type": "Full",
        "auth_token": auth_tokens[0] if auth_tokens else "",
        "date_created": ACCOUNT_CREATED,
        "date_updated": ACCOUNT_CREATED,
        "subresource_uris": {name: f"{uri}/{path}.json" for name, path in names.items()},
        "uri": f"{uri}.json",
    }


def trunk_record(account_sid: str) -> Record:
    """Return the record of a new trunk."""
    sid, now = new_sid("TK"), now_v1()
    url = f"{TRUNKING}/v1/Trunks/{sid}"
    return {
        "sid": sid,
        "account_sid": account_sid,
        "domain_name": None,
        "disaster_recovery_method": "POST",
        "disaster_recovery_url": None,
        "friendly_name": "",
        "secure": False,
        "cnam_lookup_enabled": False,
        "symmetric_rtp_enabled": False,
        "recording": {"mode": "do-not-record", "trim": "do-not-trim"},
        "transfer_mode": "disable-all",
        "transfer_caller_id": "from-transferee",
        "auth_type": "",
        "auth_type_set": [],
        "date_created": now,
        "date_updated": now,
        "url": url,
        "links": {
            "origination_urls": f"{url}/OriginationUrls",
            "credential_lists": f"{url}/CredentialLists",
            "ip_access_control_lists": f"{url}/IpAccessControlLists",
            "phone_numbers": f"{url}/PhoneNumbers",
        },
    }


def origination_url_record(account_sid: str, trunk_sid: str, fields: Record) -> Record:
    """Return the record of a new origination URL."""
    sid, now = new_sid("OU"), now_v1()
    head = {"sid": sid, "account_sid": account_sid, "trunk_sid": trunk_sid}
    url = f"{TRUNKING}/v1/Trunks/{trunk_sid}/OriginationUrls/{sid}"
    return {**head, **fields, "date_created": now, "date_updated": now, "url": url}
