"""Pages of API keys and of activity: who may call, and who has called."""

import uuid
from typing import Any

from flask import Blueprint, Response, request, url_for
from flask.typing import ResponseReturnValue

from app.access import Scope
from app.console.forms import read_activity_query, read_cursor, read_key_form
from app.console.pages import list_page, origin, page, redirect_with_message
from app.console.presentation import error_notice
from app.console.reader import PAGE_ROWS
from app.db.access import Activity
from app.domain.errors import RefusedError
from app.views.reader import cut
from app.web.context import caller, web_services, wiring
from app.web.problems import status_of

_SUBJECT_PAGES = {"agent", "operation", "bulk", "webhook", "workspace"}
"""Kinds of subjects that have a page of their own, at `console.KIND` by `KIND_id`."""

MAX_CHOICES = 200
"""Workspaces in the form for a new key; the API and the command line take any."""


def register_keys(blueprint: Blueprint) -> None:
    """Register the list of keys, their forms, and the page of activity."""
    blueprint.get("/keys", endpoint="keys")(keys)
    blueprint.post("/keys", endpoint="create_key")(create_key)
    blueprint.get("/keys/<key_id>/revoke", endpoint="key_revoke")(revoke_form)
    blueprint.post("/keys/<key_id>/revoke", endpoint="revoke_key")(revoke_key)
    blueprint.get("/activity", endpoint="activity")(activity)


def keys() -> ResponseReturnValue:
    """Show the keys, revoked ones too."""
    return keys_page()


def create_key() -> ResponseReturnValue:
    """Make a key and show its text in this response only."""
    row, text = web_services().keys.create(**read_key_form(request.form), origin=origin())
    response = page("key_secret.html", 201, made=row, text=text)
    response.headers["Cache-Control"] = "no-store"
    return response


def revoke_form(key_id: uuid.UUID) -> ResponseReturnValue:
    """Ask for confirmation."""
    found = web_services().keys.get(key_id)
    return page("key_revoke.html", found=found, is_own=found.id == caller().key_id)


def revoke_key(key_id: uuid.UUID) -> ResponseReturnValue:
    """Revoke the key, and sign out the browsers that use it."""
    revoked = web_services().keys.revoke(key_id, origin=origin())
    return redirect_with_message(f"The key {revoked.name} is revoked.", "console.keys")


def keys_page(refusal: RefusedError | None = None) -> Response:
    """Render the list with the form for a new key."""
    # After a refusal the address is that of the form: there is no cursor in it.
    after = None if refusal else read_cursor(request.args)
    return page(
        "keys.html",
        status_of(refusal),
        found=cut(web_services().keys.page(limit=PAGE_ROWS + 1, after=after), PAGE_ROWS),
        scopes=list(Scope),
        workspaces=wiring().workspaces.page(limit=MAX_CHOICES),
        refusal=error_notice(refusal),
        errors=refusal.errors if refusal else {},
    )


def activity() -> ResponseReturnValue:
    """Show who changed what, newest first."""
    query = read_activity_query(request.args)
    found = web_services().reader.activity(limit=PAGE_ROWS, **query)
    filters = {name: query[column] for name, column in (("about", "subject_id"), ("key", "key_id")) if query[column]}
    return list_page("activity", "console.activity", found=found, filters=filters, subject_page=subject_page)


def subject_page(row: Activity) -> str | None:
    """Return the address of the page of what was changed; None if it has none that this caller may open."""
    kind, _, verb = row.action.partition(".")
    if kind not in _SUBJECT_PAGES or verb == "delete" or (kind == "workspace" and not caller().is_operator):
        return None
    values: dict[str, Any] = {f"{kind}_id": row.subject_id}
    return url_for(f"console.{kind}", **values)
