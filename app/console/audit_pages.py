"""Audit: what the last comparison with both providers found, and a button for the next."""

from typing import Any

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from app.console.forms import is_checked
from app.console.pages import desk, done, origin, page, polled
from app.console.presentation import MOST_SHOWN, trouble_of, worst_first
from app.domain.errors import RefusedError
from app.web.context import wiring
from app.web.problems import status_of


def register_audits(blueprint: Blueprint) -> None:
    """Add the page and its buttons."""
    blueprint.get("/audit", endpoint="audit")(audit)
    blueprint.get("/audit/live", endpoint="audit_live")(audit_live)
    blueprint.post("/audit", endpoint="start_audit")(start_audit)


def audit() -> ResponseReturnValue:
    """Show the newest report."""
    return audit_page()


def audit_live() -> ResponseReturnValue:
    """Show the part of the page that changes, for our script."""
    sheet = _sheet()
    return polled("audit_live.html", sheet["version"], **sheet)


def start_audit() -> ResponseReturnValue:
    """Ask for a comparison of every row with both providers."""
    audit_id = wiring().audits.request_audit(fix=is_checked(request.form, "fix"), origin=origin())
    wiring().publisher.publish_audit(audit_id)
    return done("The audit is queued.", "console.audit")


def audit_page(refusal: RefusedError | None = None) -> Response:
    """Render the page."""
    return page("audit.html", status_of(refusal), refusal=trouble_of(refusal), **_sheet())


def _sheet() -> dict[str, Any]:
    sheet = desk().reader.audit()
    report, under_way = sheet.report, sheet.under_way
    return {
        "report": report,
        "under_way": under_way,
        "names": {str(agent_id): name for agent_id, name in sheet.names.items()},
        "findings": worst_first(report.findings) if report else [],
        "most": MOST_SHOWN,
        "version": f"{report.id if report else ''}.{under_way.id if under_way else ''}."
        f"{under_way.status if under_way else ''}",
    }
