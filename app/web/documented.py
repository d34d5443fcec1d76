"""Documents beside a view what it may respond with; `documentation` adds what all calls have in common."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from apiflask import Schema
from apiflask.scaffold import APIScaffold

from app.domain.errors import ErrorCode

PROBLEMS = "x-problems"
HEADERS = "x-headers"
IDEMPOTENT = "x-idempotent"
"""OpenAPI extensions in which a view leaves notes for `documentation`, which removes them from the document."""

View = TypeVar("View", bound=Callable[..., Any])


def responds_with(
    *codes: ErrorCode,
    bodies: Mapping[int, tuple[type[Schema] | tuple[type[Schema], ...] | None, str]] | None = None,
    headers: Mapping[int, Sequence[str]] | None = None,
    texts: Mapping[int, tuple[str, str]] | None = None,
) -> Callable[[View], View]:
    """Note the problems, additional bodies and headers that a view responds with; `texts`: (type, description)."""
    responses: dict[int | str, Any] = {
        status: {"description": description} | ({"content": _json(schema)} if schema else {})
        for status, (schema, description) in (bodies or {}).items()
    }
    for status, (mime_type, description) in (texts or {}).items():
        responses[status] = {"description": description, "content": {mime_type: {"schema": {"type": "string"}}}}
    notes = {PROBLEMS: list(codes), HEADERS: {str(status): list(names) for status, names in (headers or {}).items()}}
    decorator: Callable[[View], View] = APIScaffold().doc(responses=responses or None, extensions=notes)
    return decorator


def note_idempotent(view: Callable[..., Any]) -> None:
    """Note that a view takes an Idempotency-Key."""
    view._spec["extensions"][IDEMPOTENT] = True  # type: ignore[attr-defined]  # noqa: SLF001 - where APIFlask keeps a view's documentation


def _json(schema: type[Schema] | tuple[type[Schema], ...]) -> dict[str, Any]:
    found = {"oneOf": list(schema)} if isinstance(schema, tuple) else schema
    return {"application/json": {"schema": found}}
