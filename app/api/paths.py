"""Reads what stands in a URL: ids in the path, and no query parameter that a writing call does not know."""

import uuid

from flask import Flask, request

from app.api.authentication import SAFE_METHODS
from app.api.bodies import body_limit, refuse_broken_body, too_large
from app.api.problems import validation_failed
from app.domain.errors import (
    agent_not_found,
    audit_not_found,
    bulk_not_found,
    operation_not_found,
    webhook_delivery_not_found,
    webhook_not_found,
)

_MISSING = {
    "agent_id": agent_not_found,
    "operation_id": operation_not_found,
    "audit_id": audit_not_found,
    "bulk_id": bulk_not_found,
    "webhook_id": webhook_not_found,
    "delivery_id": webhook_delivery_not_found,
}

KNOWN_PARAMETERS = {"phones.provision_phone": frozenset({"dryRun"})}
"""Endpoint -> what its query may say, of the calls that write."""

LONGEST_ECHO = 64
"""Characters of a malformed id that the problem quotes back."""


def register_paths(app: Flask) -> None:
    """Put the checks before every view; after the check of the key, so that a stranger learns nothing."""
    app.before_request(_refuse_body)
    app.before_request(_read_ids)
    app.before_request(_refuse_unknown_parameters)


def _refuse_body() -> None:
    """Refuse a body that is broken or says it is too large, even on a call that would not read it."""
    refuse_broken_body(request)
    limit = body_limit(request)
    request.max_content_length = limit + 1
    if (request.content_length or 0) > limit:
        raise too_large(limit)


def _read_ids() -> None:
    """Make uuids of the ids in the path; what is no uuid is an id that no row has."""
    arguments = request.view_args or {}
    for name, text in arguments.items():
        if (missing := _MISSING.get(name)) is not None:
            found = _as_uuid(text)
            if found is None:
                raise missing(_quoted(text))
            arguments[name] = found


def _quoted(text: str) -> str:
    """Return of a malformed id what can be shown anywhere."""
    return "".join(character if " " < character <= "~" else "?" for character in text[:LONGEST_ECHO])


def _as_uuid(text: str) -> uuid.UUID | None:
    """Read the canonical form only: one resource, one URL."""
    try:
        found = uuid.UUID(text)
    except ValueError:
        return None
    return found if str(found) == text.lower() else None


def _refuse_unknown_parameters() -> None:
    """Refuse query parameters on calls that write: a `dryRun` that we do not know must not become the real thing."""
    # Where the router found nothing, its 404 or 405 is the answer.
    if request.routing_exception is not None or request.method in SAFE_METHODS:
        return
    known = KNOWN_PARAMETERS.get(request.endpoint or "", frozenset())
    wrong = {name: ["Unknown parameter."] for name in request.args if name not in known}
    wrong |= {name: ["Given twice."] for name in known if len(request.args.getlist(name)) > 1}
    if wrong:
        raise validation_failed(wrong)
