"""The client that every command is written over: the HTTP contract, on one of two transports.

With a URL, over HTTP (`app.cli.remote`); without one the application is called in this process (`app.cli.local`).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from http import HTTPStatus
from typing import Any, NoReturn, Protocol
from urllib.parse import urlencode

import click

from app.cli.output import CommandError
from app.cli.profiles import Target, find_target
from app.domain.errors import ErrorCode, workspace_not_found
from app.domain.texts import WrittenFloat, escaped
from app.domain.version import VERSION
from app.domain.workspaces import SLUG, WORKSPACE_HEADER

CLIENT = "trunkline.client"
"""Key in the root context's `meta` of the client that a process has."""

WORKSPACE_OPTION = "trunkline.workspace"
"""Key in a command's context of the slug that was given; the option is not passed to the command."""

OPERATORS = "trunkline.operators"
"""Key in a command's context: true for one about what is the installation's, which no workspace narrows."""

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


class _Object(dict[str, Any]):
    """An object of an answer; a field that every such answer of Trunkline has, and this lacks, ends the command."""

    def __init__(self, given: Mapping[str, Any], lacks: Callable[[str], Exception]) -> None:
        super().__init__(given)
        self._lacks = lacks

    def __missing__(self, name: str) -> NoReturn:
        raise self._lacks(name)


class Transport(Protocol):
    """Brings a request to the application."""

    name: str
    """What people call the other side, in errors."""
    is_local: bool
    """Whether it is in this process."""

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


class InvalidValueError(ProblemError):
    """A value that the application calls invalid: as wrong as a command line that click refuses."""

    exit_code = 2


def refusal(code: str, detail: str, errors: Mapping[str, list[str]] | None = None, **more: Any) -> ProblemError:
    """Return the error for what the application refused, with its exit code; `more` as `ProblemError` takes it."""
    kind = InvalidValueError if code == ErrorCode.VALIDATION_FAILED else ProblemError
    return kind(code, detail, errors, **more)


def errors_in_words(errors: Mapping[str, list[str]]) -> str:
    """Return the errors of a body's fields on one line."""
    return "; ".join(f"{name} {' '.join(messages)}" for name, messages in errors.items())


class Client:
    """Sends requests and reads their answers; a problem becomes a `ProblemError`."""

    def __init__(self, transport: Transport, headers: Mapping[str, str]) -> None:
        self.transport = transport
        self._headers = headers

    @property
    def is_local(self) -> bool:
        """Whether the application is called in this process."""
        return self.transport.is_local

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
        content = None if body is None else _as_json(body)
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
            if not isinstance(page, dict) or not isinstance(page.get("items"), list):
                raise self._another("a list without items")
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
            found = text if kind == "text/csv" else json.loads(text, object_hook=self._as_object)
        except (ValueError, RecursionError):
            self._not_ours(answer)
        if kind != "text/csv" and not isinstance(found, dict):
            self._not_ours(answer)
        return found

    def _as_object(self, given: Mapping[str, Any]) -> _Object:
        return _Object(given, lambda name: self._another(f"an answer without {name!r}"))

    def _fail(self, answer: Answer, found: Any) -> NoReturn:
        if HTTPStatus.MULTIPLE_CHOICES <= answer.status < HTTPStatus.BAD_REQUEST or not isinstance(found, dict):
            self._not_ours(answer)
        code, errors = found.get("code"), found.get("errors") or {}
        if not isinstance(code, str) or not isinstance(errors, dict):
            self._not_ours(answer)
        raise refusal(
            code,
            str(found.get("detail") or ""),
            {name: [str(one) for one in messages or ()] for name, messages in errors.items()},
            status=answer.status,
            problem=found,
            advice=self.transport.advice(code),
        )

    def _not_ours(self, answer: Answer) -> NoReturn:
        said = f"HTTP {answer.status} {answer.headers.get('content-type', 'without a type')}"
        if place := answer.headers.get("location"):
            said += f", a redirect to {place}, which is not followed"
        raise self._another(said, answer.status)

    def _another(self, said: str, status: int | None = None) -> ProblemError:
        code = "not_a_trunkline"
        detail = f"{self.transport.name} does not answer as Trunkline does: {said}."
        return ProblemError(code, detail, status=status, advice=self.transport.advice(code))


def _as_json(body: Any) -> bytes:
    """Return the body as JSON; refuse a number whose digits a double does not hold, as the application would."""
    if (number := _rounded(body)) is not None:
        message = f"has a number that would be rounded ({number.digits}): send it as text"
        raise refusal(ErrorCode.VALIDATION_FAILED, "", {"The body": [message]})
    return json.dumps(body).encode()


def _rounded(value: Any) -> WrittenFloat | None:
    if isinstance(value, WrittenFloat):
        return value if Decimal(value.digits) != Decimal(repr(float(value))) else None
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for found in map(_rounded, inner) if found is not None), None)


def _in_query(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def client() -> Client:
    """Return the client of this command: the same for the whole process."""
    root = click.get_current_context().find_root()
    made: Client = root.meta.get(CLIENT) or _connect(click.get_current_context())
    root.meta[CLIENT] = made
    return made


def _connect(context: click.Context) -> Client:
    """Return a client of the server that is set, or of the application in this process."""
    target = remote_target()
    slug = context.meta.get(WORKSPACE_OPTION)
    if slug is None and target is not None and not context.meta.get(OPERATORS):
        slug = target.workspace
    if slug is not None and not SLUG.fullmatch(slug):
        error = workspace_not_found(slug)  # and no header could have it
        raise ProblemError(error.code, error.detail, status=HTTPStatus.NOT_FOUND)
    headers = {"User-Agent": f"trunkline/{VERSION}"} | ({} if slug is None else {WORKSPACE_HEADER: slug})
    # Imported here: the way that is not taken costs nothing.
    if target is not None:
        from app.cli.remote import Remote  # noqa: PLC0415

        return Client(Remote(target), headers)
    from app.cli.installation import application  # noqa: PLC0415
    from app.cli.local import Local  # noqa: PLC0415

    return Client(Local(application(), command_path()), headers)


def remote_target() -> Target | None:
    """Return the server that this command goes to; None for the installation on this machine."""
    root = click.get_current_context().find_root()
    if root.obj is not None:
        return None  # `flask --app app …` has an installation
    return find_target(root.params.get("profile"), is_local=root.params.get("is_local", False))


def program() -> str:
    """Return the program's name as it was called: `flask` or `trunkline`."""
    name = click.get_current_context().find_root().info_name or ""
    return "flask" if name.endswith("flask") else "trunkline"


def command_path() -> str:
    """Return the command as operations record who asked for them: `trunkline provision number`."""
    context = click.get_current_context()
    command = context.command_path.removeprefix(context.find_root().info_name or "").strip()
    return f"{program()} {command}"
