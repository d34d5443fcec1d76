"""The audit page: the newest report, and the buttons to run an audit."""

from typing import Any

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from app.console.forms import is_checked
from app.console.pages import console_services, live_fragment, origin, page, redirect_with_message
from app.console.presentation import MAX_FINDINGS_SHOWN, error_notice, most_severe_first
from app.domain.errors import RefusedError
from app.web.context import wiring
from app.web.problems import status_of


def register_audits(blueprint: Blueprint) -> None:
    """Register the page and its actions."""
    blueprint.get("/audit", endpoint="audit")(audit)
    blueprint.get("/audit/live", endpoint="audit_live")(audit_live)
    blueprint.post("/audit", endpoint="start_audit")(start_audit)


def audit() -> ResponseReturnValue:
    """Show the newest report."""
    return audit_page()


def audit_live() -> ResponseReturnValue:
    """Return the live part of the page, which the script polls."""
    details = _page_data()
    return live_fragment("audit_live.html", details["version"], **details)


def start_audit() -> ResponseReturnValue:
    """Queue an audit."""
    audit_id = wiring().audits.request_audit(fix=is_checked(request.form, "fix"), origin=origin())
    wiring().publisher.publish_audit(audit_id)
    return redirect_with_message("The audit is queued.", "console.audit")


def audit_page(refusal: RefusedError | None = None) -> Response:
    """Render the page."""
    return page("audit.html", status_of(refusal), refusal=error_notice(refusal), **_page_data())


def _page_data() -> dict[str, Any]:
    details = console_services().reader.audit()
    report, under_way = details.report, details.under_way
    return {
        "report": report,
        "under_way": under_way,
        "names": {str(agent_id): name for agent_id, name in details.names.items()},
        "findings": most_severe_first(report.findings) if report else [],
        "max_shown": MAX_FINDINGS_SHOWN,
        "version": f"{report.id if report else ''}.{under_way.id if under_way else ''}."
        f"{under_way.status if under_way else ''}",
    }
