"""Pages of Twilio trunks: the list with the account's head-room, and one shared trunk with its agents."""

import uuid

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from app.console.forms import read_cursor, read_trunks_query
from app.console.pages import console_services, list_page, origin, page, redirect_with_message
from app.console.presentation import finding_line
from app.console.reader import PAGE_ROWS
from app.domain.findings import stored_finding
from app.domain.operations import UNKNOWN_ROOM, TrunkMode, TrunkState
from app.web.authentication import charge_items
from app.web.context import web_services, wiring


def register_trunks(blueprint: Blueprint) -> None:
    """Register the list and the page of one trunk."""
    blueprint.get("/trunks", endpoint="trunks")(trunks)
    blueprint.get("/trunks/consolidate", endpoint="consolidation")(consolidation)
    blueprint.post("/trunks/consolidate", endpoint="consolidate")(consolidate)
    blueprint.get("/trunks/<trunk_id>", endpoint="trunk")(trunk)


def trunks() -> ResponseReturnValue:
    """Show the trunks, and how many more numbers fit."""
    query = read_trunks_query(request.args)
    found = web_services().trunk_reader.trunks(limit=PAGE_ROWS, mode=query.mode, state=query.state, cursor=query.cursor)
    room = wiring().headroom.of()
    return list_page(
        "trunks",
        "console.trunks",
        found=found,
        names=console_services().reader.names({one.agent_id for one in found.items if one.agent_id}),
        query=query,
        modes=list(TrunkMode),
        states=list(TrunkState),
        room=room,
        room_sentence=room.summary if room else UNKNOWN_ROOM,
        movable=wiring().consolidation.plan().agents,
    )


def consolidation() -> ResponseReturnValue:
    """Say what a consolidation would do, and ask for confirmation."""
    return page("consolidation.html", plan=wiring().consolidation.plan())


def consolidate() -> ResponseReturnValue:
    """Move every number that can move from a trunk of its own to shared ones, as a bulk."""
    charge_items(wiring().consolidation.plan().agents)
    plan, bulk = wiring().consolidation.start(origin=origin())
    if bulk is None:
        return redirect_with_message(plan.message, "console.trunks")
    return redirect_with_message(plan.message, "console.bulk", bulk_id=bulk.id)


def trunk(trunk_id: uuid.UUID) -> ResponseReturnValue:
    """Show one shared trunk and the agents whose numbers are on it."""
    found = web_services().trunk_reader.trunk(trunk_id)
    return list_page(
        "trunk",
        "console.trunk",
        trunk=found,
        findings=[finding_line(stored_finding(one)) for one in found.health.findings],
        members=console_services().reader.members(trunk_id, read_cursor(request.args)),
    )
