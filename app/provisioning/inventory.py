"""The numbers of the carrier account, and what each is used for: what a person chooses a number from."""

import uuid
from dataclasses import dataclass
from enum import StrEnum

import structlog
from sqlalchemy import select

from app.db.engine import Sessions
from app.db.models import Agent
from app.providers.base import Carrier, CarrierNumber, Unreadable

log = structlog.get_logger(__name__)


class NumberUse(StrEnum):
    """What a number of the account is used for now."""

    FREE = "free"
    AGENT = "agent"
    """An agent of this installation has it, or is getting it."""
    TRUNK = "trunk"
    """It is on somebody else's trunk: `takeover` moves it."""
    APPLICATION = "application"
    """It calls a voice application: `takeover` moves it."""
    NO_VOICE = "no_voice"
    """It cannot take calls, or is set to receive fax."""


@dataclass(frozen=True, slots=True)
class OwnedNumber:
    """A number that the account owns; `agent_id` and `agent_name` where `use` is AGENT."""

    phone_number: str
    sid: str
    use: NumberUse
    agent_id: uuid.UUID | None = None
    agent_name: str | None = None


@dataclass(frozen=True)
class InventoryService:
    """Reads the account's numbers beside our rows."""

    sessions: Sessions
    carrier: Carrier

    def numbers(self) -> list[OwnedNumber]:
        """Return every number that can be read, sorted by its text; may raise the provider's errors."""
        unreadable: list[Unreadable] = []
        found = self.carrier.list_numbers(unreadable)
        if unreadable:
            log.warning("numbers_unreadable", count=len(unreadable))
        with self.sessions.begin() as session:
            columns = select(Agent.twilio_phone_number, Agent.id, Agent.name)
            holders = {
                number: (agent_id, name)
                for number, agent_id, name in session.execute(columns.where(Agent.twilio_phone_number.is_not(None)))
            }
        owned = (
            OwnedNumber(one.phone_number, one.sid, NumberUse.AGENT, *holders[one.phone_number])
            if one.phone_number in holders
            else OwnedNumber(one.phone_number, one.sid, _use_of(one))
            for one in found
        )
        return sorted(owned, key=lambda one: one.phone_number)


def _use_of(number: CarrierNumber) -> NumberUse:
    if not number.is_voice:
        return NumberUse.NO_VOICE
    if number.routing.trunk_sid:
        return NumberUse.TRUNK
    return NumberUse.APPLICATION if number.routing.voice_application_sid else NumberUse.FREE
