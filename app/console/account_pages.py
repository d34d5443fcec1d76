"""Pages of carrier accounts and voice projects: the lists with their forms, and one of them with its last checks."""

import uuid
from functools import partial
from typing import Any

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from app.console.forms import read_account_form, read_rotation_form
from app.console.pages import origin, page, redirect_with_message
from app.console.presentation import credential_badge, error_notice
from app.domain.errors import RefusedError
from app.domain.workspaces import ENVIRONMENT, AccountKind
from app.views.account_schemas import account_json
from app.web.context import wiring
from app.web.problems import status_of

PATHS = {AccountKind.CARRIER: "/carrier-accounts", AccountKind.VOICE: "/voice-projects"}
IDS = {AccountKind.CARRIER: "account_id", AccountKind.VOICE: "project_id"}
"""The name of the id in the path, by which a refused form finds its page again."""


def register_accounts(blueprint: Blueprint) -> None:
    """Register the lists, and the pages and actions of one account."""
    blueprint.get("/accounts", endpoint="accounts")(accounts)
    for kind, path in PATHS.items():
        one = f"{path}/<{IDS[kind]}>"
        blueprint.post(path, endpoint=f"create_{kind}")(partial(_create, kind))
        blueprint.get(one, endpoint=kind.value)(partial(_one, kind))
        blueprint.get(f"{one}/delete", endpoint=f"{kind}_delete")(partial(_delete_form, kind))
        for name, action in (("check", _check), ("rotate", _rotate), ("delete", _delete)):
            blueprint.post(f"{one}/{name}", endpoint=f"{name}_{kind}")(partial(action, kind))


def accounts() -> ResponseReturnValue:
    """Show every carrier account and voice project."""
    return accounts_page()


def _create(kind: AccountKind) -> ResponseReturnValue:
    """Store an account, and check it."""
    made = wiring().accounts.create(kind, **read_account_form(kind, request.form), origin=origin())
    return _redirect(kind, made.row.id, f"{made.row.name} is stored: {credential_badge(made.row.status).label}.")


def _one(kind: AccountKind, **ids: uuid.UUID) -> ResponseReturnValue:
    """Show one account."""
    return _page(kind, ids[IDS[kind]])


def _check(kind: AccountKind, **ids: uuid.UUID) -> ResponseReturnValue:
    """Check the credential now."""
    checked = wiring().accounts.check(kind, ids[IDS[kind]])
    return _redirect(kind, checked.row.id, f"Checked: {credential_badge(checked.row.status).label}.")


def _rotate(kind: AccountKind, **ids: uuid.UUID) -> ResponseReturnValue:
    """Put a new credential in the place of the old one."""
    found = wiring().accounts.rotate(kind, ids[IDS[kind]], **read_rotation_form(request.form), origin=origin())
    return _redirect(kind, found.row.id, "The new credential is accepted, and used from now on.")


def _delete_form(kind: AccountKind, **ids: uuid.UUID) -> ResponseReturnValue:
    """Ask for confirmation."""
    return page("account_delete.html", kind=kind, found=wiring().accounts.get(kind, ids[IDS[kind]]), id_name=IDS[kind])


def _delete(kind: AccountKind, **ids: uuid.UUID) -> ResponseReturnValue:
    """Delete the account."""
    wiring().accounts.delete(kind, ids[IDS[kind]], origin=origin())
    return redirect_with_message(f"The {kind.label} is deleted.", "console.accounts")


def _redirect(kind: AccountKind, account_id: uuid.UUID, message: str) -> ResponseReturnValue:
    return redirect_with_message(message, f"console.{kind}", **{IDS[kind]: account_id})


def accounts_page(refusal: RefusedError | None = None) -> Response:
    """Render the lists with the forms; a refusal is shown in the form that it is about."""
    refused_kind = next((kind for kind, path in PATHS.items() if request.path == path), None)
    sections = [
        {
            "kind": kind,
            "id_name": IDS[kind],
            "rows": [(account, credential_badge(account.row.status)) for account in wiring().accounts.all(kind)],
            "refusal": error_notice(refusal) if kind is refused_kind else None,
            "errors": refusal.errors if refusal and kind is refused_kind else {},
            "form": request.form if kind is refused_kind else {},
        }
        for kind in AccountKind
    ]
    return page("accounts.html", status_of(refusal), sections=sections)


def carrier_page(account_id: uuid.UUID, refusal: RefusedError | None = None) -> Response:
    """Render the page of a carrier account."""
    return _page(AccountKind.CARRIER, account_id, refusal)


def project_page(project_id: uuid.UUID, refusal: RefusedError | None = None) -> Response:
    """Render the page of a voice project."""
    return _page(AccountKind.VOICE, project_id, refusal)


def _page(kind: AccountKind, account_id: uuid.UUID, refusal: RefusedError | None = None) -> Response:
    found = wiring().accounts.get(kind, account_id)
    values: dict[str, Any] = {
        "kind": kind,
        "id_name": IDS[kind],
        "found": found,
        "shown": account_json(found),
        "status_badge": credential_badge(found.row.status),
        "is_environment": found.row.id in ENVIRONMENT,
        "refusal": error_notice(refusal),
        "errors": refusal.errors if refusal else {},
    }
    return page("account.html", status_of(refusal), **values)
