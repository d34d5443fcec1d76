"""/api/overview: the figures of a workspace, or of the installation, at a glance.

A module of its own because every resource of the API has one.
"""

from apiflask import APIBlueprint

from app.views.overview_schemas import OverviewOut
from app.web.context import caller, web_services
from app.web.documented import responds_with

blueprint = APIBlueprint("overview", __name__, url_prefix="/api/overview", tag="Overview")


@blueprint.get("")
@blueprint.output(OverviewOut, description="The figures.")
@responds_with()
def get_overview() -> object:
    """Count agents, operations, bulks, findings and room, as the key sees them."""
    found = web_services().overview_reader.read(is_operator=caller().is_operator)
    queue = {
        "depth": found.open.queued,
        "oldest_at": found.open.oldest_queued_at,
        "oldest_s": found.oldest_queued_s,
    }
    operations = {
        "open": found.open.by_status,
        "queue": queue,
        "hours": found.hours,
        "failures": found.failures,
    }
    return {
        "at": found.at,
        "agents": found.agents,
        "operations": operations,
        "bulks": found.bulks,
        "headroom": found.headroom,
        "audit": found.audit,
        "rates": found.rates,
    }
