"""/api/numbers: the numbers of a carrier account, and what each is used for.

A module of its own because every resource of the API has one.
"""

from typing import Any

from apiflask import APIBlueprint
from marshmallow import RAISE

from app.domain.errors import ErrorCode
from app.views.number_schemas import NumberPageOut, NumberQuery, number_page, number_search
from app.web.context import wiring
from app.web.documented import responds_with

blueprint = APIBlueprint("numbers", __name__, url_prefix="/api/numbers", tag="Numbers")

LISTING_CODES = (
    ErrorCode.TWILIO_BAD_CREDENTIALS,
    ErrorCode.TWILIO_FORBIDDEN,
    ErrorCode.TWILIO_REJECTED,
    ErrorCode.CREDENTIALS_REFUSED,
    ErrorCode.PROVIDER_UNAVAILABLE,
    ErrorCode.PROVIDER_BUSY,
)
"""How asking Twilio for the list may end."""


@blueprint.get("")
@blueprint.input(NumberQuery, location="query", unknown=RAISE)
@blueprint.output(NumberPageOut, description="One page.")
@responds_with(ErrorCode.VALIDATION_FAILED, ErrorCode.ACCOUNT_NOT_FOUND, *LISTING_CODES)
def list_numbers(query_data: dict[str, Any]) -> object:
    """List a Twilio account's numbers with their use, by number; a number that comes or goes shifts no page."""
    return number_page(wiring().inventory.of_account(**number_search(query_data)))
