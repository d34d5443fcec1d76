"""Operations: what runs, what failed, what needs a person, and each one's timeline."""

import uuid
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from app.access import Scope
from app.api.context import door, wiring
from app.api.problems import status_of
from app.console.actions import can_retry
from app.console.context import desk, origin, visitor
from app.console.findings import trouble_of
from app.console.forms import read_operations_query
from app.console.gantt import draw_chart
from app.console.pages import done, page, polled
from app.console.tallies import TAB_WORDS, tab_figures
from app.domain.errors import RefusedError


def register_operations(blueprint: Blueprint) -> None:
    """Add the list, the page of one operation, and re-enqueue."""
    blueprint.get("/operations", endpoint="operations")(operations)
    blueprint.get("/operations/<operation_id>", endpoint="operation")(operation)
    blueprint.get("/operations/<operation_id>/live", endpoint="operation_live")(operation_live)
    blueprint.post("/operations/<operation_id>/retry", endpoint="operation_retry")(retry)


def operations() -> ResponseReturnValue:
    """Show one page of a tab."""
    tab, cursor = read_operations_query(request.args)
    reader, who = desk().reader, visitor()
    may_write = who is not None and who.may(Scope.WRITE)
    found, figures = reader.operations(tab, cursor), tab_figures(reader.counts())
    retries = {row.row.id for row in found.rows if can_retry(row.row, row.row.agent, may_write=may_write)}
    return page("operations.html", tab=tab, tabs=TAB_WORDS, figures=figures, found=found, retries=retries)


def operation(operation_id: uuid.UUID) -> ResponseReturnValue:
    """Show one operation."""
    return operation_page(operation_id)


def operation_live(operation_id: uuid.UUID) -> ResponseReturnValue:
    """Show the part of the page that changes, for our script."""
    sheet = _sheet(operation_id)
    return polled("operation_live.html", door().reader.phone_etag(sheet["agent"].id), **sheet)


def retry(operation_id: uuid.UUID) -> ResponseReturnValue:
    """Queue an open operation again; start a failed provisioning afresh."""
    queued = wiring().provisioning.retry(operation_id, origin=origin())
    message = "Queued again." if queued.id == operation_id else "Started afresh."
    return done(message, "console.operation", operation_id=queued.id)


def operation_page(operation_id: uuid.UUID, refusal: RefusedError | None = None) -> Response:
    """Render the page."""
    return page("operation.html", status_of(refusal), refusal=trouble_of(refusal), **_sheet(operation_id))


def _sheet(operation_id: uuid.UUID) -> dict[str, Any]:
    found, who = door().reader.operation(operation_id), visitor()
    agent, to = wiring().agents.get(found.row.agent_id), found.row.target_agent_id
    return {
        "operation": found,
        "agent": agent,
        "target_name": desk().reader.names([to])[to] if to else None,
        "chart": draw_chart(found, datetime.now(UTC)),
        "trouble": trouble_of(found.error),
        "can_retry": can_retry(found.row, agent, may_write=who is not None and who.may(Scope.WRITE)),
    }
