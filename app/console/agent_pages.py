"""Numbers and agents: the list, a form for a new one, and the page of one agent with its path and buttons."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from app.access import Scope
from app.console.forms import (
    STANDING_WORDS,
    NumbersQuery,
    Standing,
    is_checked,
    read_agent_form,
    read_move_form,
    read_numbers_query,
    read_provision_form,
    read_search,
)
from app.console.operation_pages import agent_actions, can_retry, draw_chart
from app.console.pages import desk, done, origin, page, polled, visitor
from app.console.path_picture import draw_path
from app.console.presentation import Trouble, health_card, tally, trouble_of
from app.domain.errors import RefusedError
from app.domain.findings import Health
from app.numbers.dry_run import Preview
from app.numbers.inventory import InventoryService, NumberUse, OwnedNumber
from app.providers.errors import ProviderError
from app.web.context import web_services, wiring
from app.web.problems import status_of


def register_numbers(blueprint: Blueprint) -> None:
    """Add the page and what its form does."""
    blueprint.get("/", endpoint="numbers")(numbers)
    blueprint.post("/", endpoint="create_agent")(create_agent)


def numbers() -> ResponseReturnValue:
    """Show one page of agents."""
    return numbers_page(read_numbers_query(request.args))


def create_agent() -> ResponseReturnValue:
    """Create an agent, and go on to its page."""
    name, livekit_name = read_agent_form(request.form)
    agent = wiring().agents.create(name, livekit_name, {}, origin=origin())
    return done(f"{agent.name} was created. Provision a number for it.", "console.agent", agent_id=agent.id)


def numbers_page(wanted: NumbersQuery | None = None, refusal: RefusedError | None = None) -> Response:
    """Render the page."""
    query = wanted or NumbersQuery(None, None, "", None)
    reader = desk().reader
    return page(
        "numbers.html",
        status_of(refusal),
        query=query,
        found=reader.numbers(query.filter, query.cursor),
        tally=tally(reader.counts()),
        standings=[(one, STANDING_WORDS[one]) for one in Standing],
        healths=list(Health),
        trouble=trouble_of(refusal),
        errors=refusal.errors if refusal else {},
    )


@dataclass(frozen=True, slots=True)
class NumberChoices:
    """What the account owns; `trouble` where it could not be asked, and a number must be typed."""

    free: Sequence[OwnedNumber]
    routed: Sequence[OwnedNumber]
    """On somebody else's trunk or application: only with takeover."""
    others: Sequence[OwnedNumber]
    """Not to be had: an agent's, or without voice."""
    trouble: Trouble | None


def number_choices(inventory: InventoryService) -> NumberChoices:
    """Ask for the account's numbers; a provider that does not answer leaves the choice to the keyboard."""
    try:
        numbers = inventory.numbers()
    except ProviderError as error:
        return NumberChoices((), (), (), trouble_of(RefusedError(error.code, error.detail)))
    routed = {NumberUse.TRUNK, NumberUse.APPLICATION}
    return NumberChoices(
        free=[one for one in numbers if one.use is NumberUse.FREE],
        routed=[one for one in numbers if one.use in routed],
        others=[one for one in numbers if one.use is not NumberUse.FREE and one.use not in routed],
        trouble=None,
    )


def register_agents(blueprint: Blueprint) -> None:
    """Add the pages of one agent and what their buttons do."""
    for path, endpoint, view in (
        ("", "agent", agent),
        ("/live", "agent_live", agent_live),
        ("/provision", "agent_provision", provision_form),
        ("/deprovision", "agent_deprovision", deprovision_form),
        ("/move", "agent_move", move_form),
    ):
        blueprint.get(f"/agents/<agent_id>{path}", endpoint=endpoint)(view)
    for name, press in (
        ("provision", provision),
        ("plan", plan),
        ("deprovision", deprovision),
        ("verify", verify),
        ("repair", repair),
        ("move", move),
    ):
        blueprint.post(f"/agents/<agent_id>/{name}", endpoint=name)(press)


def agent(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Show the agent."""
    return agent_page(agent_id)


def agent_live(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Show the part of the page that changes, for our script."""
    etag = web_services().reader.phone_etag(agent_id)
    return polled("agent_live.html", etag, **_sheet(agent_id))


def provision_form(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Show the numbers to choose from."""
    return provision_page(agent_id)


def plan(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Say what provisioning would do, and do nothing."""
    wanted = read_provision_form(request.form)
    preview = wiring().planning.preview(agent_id, wanted.phone_number, takeover=wanted.takeover)
    return provision_page(agent_id, preview=preview)


def provision(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Queue the provisioning."""
    wanted = read_provision_form(request.form)
    wiring().provisioning.provision(agent_id, wanted.phone_number, takeover=wanted.takeover, origin=origin())
    return done(f"Provisioning of {wanted.phone_number} is queued.", "console.agent", agent_id=agent_id)


def deprovision_form(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Ask whether the number is really to go."""
    return page("deprovision.html", **_sheet(agent_id))


def deprovision(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Queue the way down, cancel a provisioning, or clear a failure."""
    operation = wiring().provisioning.deprovision(agent_id, origin=origin())
    message = "The number is being disconnected." if operation else "The agent has no number."
    return done(message, "console.agent", agent_id=agent_id)


def verify(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Compare the path with both providers now."""
    result = wiring().maintenance.verify(agent_id)
    message = "Some checks failed: see below." if result.findings else "Every check passed."
    return done(message, "console.agent", agent_id=agent_id)


def repair(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Queue the repair of what is missing or changed."""
    takeover = is_checked(request.form, "takeover")
    operation = wiring().maintenance.repair(agent_id, takeover=takeover, origin=origin())
    message = "The repair is queued." if operation else "Nothing to repair."
    return done(message, "console.agent", agent_id=agent_id)


def move_form(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Show the agents that can take the number."""
    return move_page(agent_id, read_search(request.args))


def move(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Queue the hand-over of the number to another agent."""
    to_agent_id = read_move_form(request.form)
    wiring().maintenance.move(agent_id, to_agent_id, origin=origin())
    return done("The move is queued.", "console.agent", agent_id=agent_id)


def agent_page(agent_id: uuid.UUID, refusal: RefusedError | None = None) -> Response:
    """Render the page."""
    return page("agent.html", status_of(refusal), refusal=trouble_of(refusal), **_sheet(agent_id))


def provision_page(
    agent_id: uuid.UUID, *, preview: Preview | None = None, refusal: RefusedError | None = None
) -> Response:
    """Render the form, with what was typed, a preview, or what was wrong."""
    return page(
        "provision.html",
        status_of(refusal),
        agent=wiring().agents.get(agent_id),
        choices=number_choices(wiring().inventory),
        given=request.form,
        preview=preview,
        refusal=trouble_of(refusal),
        errors=refusal.errors if refusal else {},
    )


def move_page(agent_id: uuid.UUID, search: str) -> Response:
    """Render the form, with the agents that match."""
    return page(
        "move.html",
        agent=wiring().agents.get(agent_id),
        search=search,
        targets=desk().reader.free_agents(search, but=agent_id),
    )


def _sheet(agent_id: uuid.UUID) -> dict[str, Any]:
    sheet, who = desk().reader.agent(agent_id), visitor()
    phone, may_write = sheet.phone, who is not None and who.may(Scope.WRITE)
    operation = phone.operation
    return {
        "agent": phone.agent,
        "operation": operation,
        "history": sheet.history,
        "names": sheet.names,
        "path": draw_path(phone),
        "chart": draw_chart(operation, datetime.now(UTC)) if operation else None,
        "trouble": trouble_of(operation.error) if operation else None,
        "actions": agent_actions(phone, may_write=may_write),
        "can_retry": operation is not None and can_retry(operation, phone.agent, may_write=may_write),
        "health": health_card(phone),
    }
