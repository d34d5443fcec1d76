"""The page of an adoption: the path that a number rings by already, what would be marked, and what changes."""

import json
import uuid

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from app.console.forms import read_provision_form
from app.console.option_form import shown_options
from app.console.pages import origin, page, redirect_with_message
from app.console.path_diagram import build_adoption_diagram
from app.domain.options import options_json
from app.numbers.adoption import Adoption
from app.views.adoptions import adopted_links, agent_changes
from app.web.context import wiring


def register_adoption(blueprint: Blueprint) -> None:
    """Register the page and its form."""
    blueprint.post("/agents/<agent_id>/adopt-plan", endpoint="adopt_plan")(adopt_plan)
    blueprint.post("/agents/<agent_id>/adopt", endpoint="adopt")(adopt)


def adopt_plan(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Show what adopting the number's path would do; read-only."""
    return adoption_page(wiring().adoption.preview(agent_id, read_provision_form(request.form).phone_number))


def adopt(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Queue an adoption."""
    number = read_provision_form(request.form).phone_number
    wiring().adoption.adopt(agent_id, number, origin=origin())
    return redirect_with_message(f"The adoption of {number} is queued.", "console.agent", agent_id=agent_id)


def adoption_page(adoption: Adoption) -> Response:
    """Render the page."""
    spec = adoption.chain.spec
    return page(
        "adoption.html",
        agent=adoption.agent,
        number=spec.phone_number,
        path=build_adoption_diagram(adoption),
        links=adopted_links(adoption),
        changes=agent_changes(adoption),
        after={
            "name": adoption.name,
            "livekitAgentName": spec.agent_name,
            "metadata": json.dumps(adoption.chain.metadata),
        },
        options=shown_options(options_json(spec.options)),
    )
