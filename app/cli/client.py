"""The client that every command is written over: the HTTP contract, on one of two transports.

With a URL, over HTTP (`app.cli.remote`); without one the application is called in this process (`app.cli.local`).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NoReturn, Protocol
from urllib.parse import urlencode

import click

from app.cli.output import CommandError
from app.domain.texts import escaped

CLIENT = "trunkline.client"
"""Key in the root context's `meta` of the client that a process has."""

MAX_PAGE = 200
"""Rows of one page, the most that the API gives."""

PROBLEM = "application/problem+json"
DATA = ("application/json", PROBLEM, "text/csv")
"""The media types of the API's answers."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its path with the query, its body as bytes, its headers."""

    method: str
    path: str
    body: bytes | None
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a transport brings back, unread; names of headers in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """A response that is no problem: `body` is parsed JSON, text of another type, or None without one."""

    status: int
    body: Any
    headers: Mapping[str, str]
    """Names in lower case."""


class Transport(Protocol):
    """Brings a request to the application."""

    name: str
    """What people call the other side, in errors."""

    def send(self, request: Request) -> Answer:
        """Return what it answers; `CommandError` where it does not."""

    def advice(self, code: str) -> str:
        """Return what to do about a problem with this code that this way of asking may cause; empty for nothing."""


class ProblemError(CommandError):
    """What the application refused or failed to do, or why it could not be asked.

    `status` is the HTTP status, None where there was no answer; `problem` the body as it came (RFC 9457).
    """

    def __init__(
        self,
        code: str,
        detail: str,
        errors: Mapping[str, list[str]] | None = None,
        *,
        status: int | None = None,
        problem: Mapping[str, Any] | None = None,
        advice: str = "",
    ) -> None:
        self.code, self.detail, self.errors, self.status = code, detail, errors or {}, status
        self.problem = problem or {}
        said = errors_in_words(self.errors) if self.errors else detail
        super().__init__(escaped(f"{said} ({code})" + (f" {advice}" if advice else "")))

    def as_problem(self) -> dict[str, Any]:
        """Return the problem details, as the application sent them or of our own."""
        own = {"type": f"urn:trunkline:problem:{self.code}", "title": "The request failed", "detail": self.detail}
        return {**own, "code": self.code, **self.problem}


def errors_in_words(errors: Mapping[str, list[str]]) -> str:
    """Return the errors of a body's fields on one line."""
    return "; ".join(f"{name} {' '.join(messages)}" for name, messages in errors.items())


class Client:
    """Sends requests and reads their answers; a problem becomes a `ProblemError`."""

    def __init__(self, transport: Transport, headers: Mapping[str, str]) -> None:
        self.transport = transport
        self._headers = headers

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        accepted: tuple[int, ...] = (),
    ) -> Response:
        """Send a request; `body` is sent as JSON, entries of `query` that are None are left out.

        `ProblemError` for a status of 400 and more that is not in `accepted`, and where there is no answer.
        """
        given = {name: _in_query(value) for name, value in (query or {}).items() if value is not None}
        content = None if body is None else json.dumps(body).encode()
        all_headers = {"Accept": "application/json", **self._headers, **(headers or {})}
        if content is not None:
            all_headers["Content-Type"] = "application/json"
        whole = f"{path}?{urlencode(given)}" if given else path
        answer = self.transport.send(Request(method, whole, content, all_headers))
        found = self._read(answer)
        if answer.status >= HTTPStatus.MULTIPLE_CHOICES and answer.status not in accepted:
            self._fail(answer, found)
        return Response(answer.status, found, answer.headers)

    def get(self, path: str, **query: Any) -> Any:
        """Return the body of a GET."""
        return self.request("GET", path, query=query).body

    def post(self, path: str, body: Any = None, **query: Any) -> Any:
        """Return the body that a POST is answered with."""
        return self.request("POST", path, body=body, query=query).body

    def pages(self, path: str, limit: int | None, **query: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the first `limit` items of a list, of all its pages without one, and the body of the last page read.

        Its `nextCursor` is None where there are no more.
        """
        items: list[dict[str, Any]] = []
        for page in self._pages(path, limit, query):
            items += page["items"]
            last = page
            if limit is not None and len(items) >= limit:
                break
        return items, last

    def _pages(self, path: str, limit: int | None, query: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        cursor, left = None, limit
        while True:
            size = MAX_PAGE if left is None else min(left, MAX_PAGE)
            page = self.get(path, **query, limit=size, cursor=cursor)
            yield page
            cursor = page.get("nextCursor")
            left = None if left is None else left - len(page["items"])
            if cursor is None:
                return

    def _read(self, answer: Answer) -> Any:
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not answer.body and answer.status < HTTPStatus.BAD_REQUEST:
            return None
        if kind not in DATA:
            self._not_ours(answer)
        try:
            text = answer.body.decode()
            return text if kind == "text/csv" else json.loads(text)
        except ValueError:
            self._not_ours(answer)

    def _fail(self, answer: Answer, found: Any) -> NoReturn:
        if HTTPStatus.MULTIPLE_CHOICES <= answer.status < HTTPStatus.BAD_REQUEST or not isinstance(found, dict):
            self._not_ours(answer)
        code = found.get("code")
        if not isinstance(code, str):
            self._not_ours(answer)
        errors = found.get("errors") or {}
        raise ProblemError(
            code,
            str(found.get("detail", "")),
            errors,
            status=answer.status,
            problem=found,
            advice=self.transport.advice(code),
        )

    def _not_ours(self, answer: Answer) -> NoReturn:
        said = f"HTTP {answer.status} {answer.headers.get('content-type', 'without a type')}"
        if place := answer.headers.get("location"):
            said += f", a redirect to {place}, which is not followed"
        code = "not_a_trunkline"
        detail = f"{self.transport.name} does not answer as Trunkline does: {said}."
        raise ProblemError(code, detail, status=answer.status, advice=self.transport.advice(code))


def _in_query(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def client() -> Client:
    """Return the client of this command: the same for the whole process."""
    root = click.get_current_context().find_root()
    found = root.meta.get(CLIENT)
    if found is None:
        # Imported when the first command asks: the way that is not taken costs nothing.
        from app.cli.context import connect  # noqa: PLC0415

        found = root.meta[CLIENT] = connect()
    made: Client = found
    return made
