"""The numbers that a person can choose from, by what they are used for now."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.console.findings import Trouble, trouble_of
from app.domain.errors import RefusedError
from app.providers.errors import ProviderError
from app.provisioning.inventory import InventoryService, NumberUse, OwnedNumber


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
