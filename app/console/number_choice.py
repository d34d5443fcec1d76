"""The choice of a number on the page that provisions: a search over the account's numbers, of which a few are shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from app.console.forms import ChoiceQuery
from app.console.presentation import ErrorNotice, error_notice
from app.db.models import Agent
from app.domain.errors import RefusedError
from app.numbers.inventory import InventoryService, NumberUse, OwnedNumber
from app.providers.errors import ProviderError

MAX_SHOWN = 50
"""Numbers that can be chosen on one page: a longer list is not read, and a search finds the others."""

MAX_UNAVAILABLE = 20
"""Numbers on one page that cannot be chosen: they only answer why one is not above."""

_ORDER: Mapping[NumberUse, int] = {
    NumberUse.FREE: 0,
    NumberUse.VOICE_URL: 1,
    NumberUse.APPLICATION: 2,
    NumberUse.TRUNK: 3,
}
"""Numbers that can be chosen, those first whose callers lose nothing."""

USE_NOTES: Mapping[NumberUse, str] = {
    NumberUse.VOICE_URL: "its callers reach {voice_host} now and will reach the agent",
    NumberUse.APPLICATION: "needs takeover: it is on {application_sid}",
    NumberUse.TRUNK: "needs takeover, or its path is adopted: it is on {trunk_sid}",
}
"""Use -> what a person should know before choosing the number."""


@dataclass(frozen=True, slots=True)
class NumberChoice:
    """The numbers that match a query, as far as they are shown."""

    query: ChoiceQuery
    shown: Sequence[OwnedNumber] = ()
    matching: int = 0
    """How many there are of these."""
    unavailable: Sequence[OwnedNumber] = ()
    """Connected to an agent, or without voice."""
    unavailable_matching: int = 0
    has_free: bool = False
    as_of: datetime | None = None
    not_before: datetime | None = None
    """When Twilio may have been asked at the earliest from now on: somebody had it asked, maybe another process."""
    unreadable: int = 0
    notice: ErrorNotice | None = None
    """Why the numbers could not be read, so that one must be typed."""


def number_choice(inventory: InventoryService, agent: Agent, query: ChoiceQuery, chosen: str) -> NumberChoice:
    """Read the numbers of the agent's account that match; if the provider fails, return the error as `notice`.

    The number that was `chosen` on this page is shown whatever its place.
    """
    try:
        found = inventory.of_agent(agent, query.filter, not_before=query.not_before)
    except ProviderError as error:
        return NumberChoice(query, notice=error_notice(RefusedError(error.code, error.detail)))
    numbers = sorted((one for one in found.numbers if one.can_provision), key=lambda one: _rank(one, chosen))
    unavailable = [one for one in found.numbers if not one.can_provision]
    return NumberChoice(
        query,
        shown=numbers[:MAX_SHOWN],
        matching=len(numbers),
        unavailable=unavailable[:MAX_UNAVAILABLE],
        unavailable_matching=len(unavailable),
        has_free=any(one.use is NumberUse.FREE for one in numbers),
        as_of=found.as_of,
        not_before=found.not_before,
        unreadable=found.unreadable,
    )


def _rank(number: OwnedNumber, chosen: str) -> tuple[bool, int]:
    return number.phone_number != chosen, _ORDER[number.use]


def use_note(number: OwnedNumber) -> str:
    """Return what a person should know before choosing the number; "" where there is nothing."""
    given = {name: getattr(number, name) for name in ("voice_host", "application_sid", "trunk_sid")}
    return USE_NOTES.get(number.use, "").format(**given)
