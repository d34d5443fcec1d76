"""Numbers: every agent with its number, and a form for a new one."""

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from app.api.context import wiring
from app.api.problems import status_of
from app.console.context import desk, origin
from app.console.findings import trouble_of
from app.console.forms import STANDING_WORDS, NumbersQuery, Standing, read_agent_form, read_numbers_query
from app.console.pages import done, page
from app.console.tallies import tally
from app.domain.errors import RefusedError
from app.domain.findings import Health


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
    return done(f"{agent.name} was created. Now give it a number.", "console.agent", agent_id=agent.id)


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
