"""Twilio's error bodies and its two styles of pages."""

import base64
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode

from app.dev.sandbox.exchange import Answer, Exchange, json_answer
from app.dev.sandbox.state import Credentials

DEFAULT_PAGE_SIZE = 50
"""Rows per page when PageSize is not given (twilio-oai)."""

MAX_PAGE_SIZE = 1000
"""Most rows per page; a larger PageSize is cut to it (twilio-oai)."""

TOKEN_PREFIX = "PT"  # noqa: S105 - a cursor, not a secret


@dataclass
class TwilioError(Exception):
    """An error answer; `code` None leaves the code out, as Twilio sometimes does."""

    status: int
    code: int | str | None
    message: str

    def answer(self, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
        """Return the body that the SDKs read."""
        content: dict[str, Any] = {"message": self.message, "status": self.status}
        if self.code is not None:
            content |= {"code": self.code, "more_info": f"https://www.twilio.com/docs/errors/{self.code}"}
        return json_answer(self.status, content, headers)


def not_found(path: str) -> TwilioError:
    """Return the error for whatever is not there, or belongs to another account."""
    return TwilioError(404, 20404, f"The requested resource {path} was not found")


def bad_parameter(message: str, code: int = 20001) -> TwilioError:
    """Return the error for a parameter that is missing or malformed."""
    return TwilioError(400, code, message)


def accepted_headers(credentials: Credentials) -> frozenset[str]:
    """Return the Authorization headers that open the account: the main one and its API key."""
    pairs = (
        f"{credentials.account_sid}:{credentials.auth_token}",
        f"{credentials.api_key_sid}:{credentials.api_key_secret}",
    )
    return frozenset("Basic " + base64.b64encode(pair.encode()).decode() for pair in pairs)


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
    """Read PageSize, Page and PageToken; everything else is a filter to repeat in links."""
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


Show = Callable[[Any], Any]
"""What makes of a row what its list shows."""


class Rows(Protocol):
    """Rows in the order of their cursors: a list of (cursor, row), or a table."""

    def __len__(self) -> int:
        """Count them."""
        ...

    def __getitem__(self, position: int, /) -> tuple[int, Any]:
        """Return the cursor and the row at a place."""
        ...


def _start(page: PageRequest, rows: Rows) -> int:
    """Return the place of the page's first row: the first one after the cursor."""
    return bisect_right(range(len(rows)), page.cursor, key=lambda place: rows[place][0])


def _shown(exchange: Exchange, page: PageRequest, rows: Rows) -> list[Any]:
    """Return what a page shows: its rows but those that a fault hides."""
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


def page_2010(exchange: Exchange, page: PageRequest, key: str, rows: Rows, show: Show = lambda row: row) -> Answer:
    """Pack a page of the 2010 API, with relative links; `rows` are all of the list, `show` shapes those of the page."""
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
    return json_answer(200, {**envelope, key: items})


def page_v1(exchange: Exchange, page: PageRequest, key: str, rows: Rows, show: Show = lambda row: row) -> Answer:
    """Pack a page of a v1 API likewise, with absolute links under `meta`, on the host that was asked."""
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
    return json_answer(200, {key: [show(row) for row in _shown(exchange, page, rows)], "meta": meta})
