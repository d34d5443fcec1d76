"""What people type and choose, read by the same rules as the API's bodies."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from apiflask import Schema
from marshmallow import EXCLUDE, ValidationError, validate
from werkzeug.datastructures import MultiDict

from app.console.reads import Tab
from app.db.console_queries import MOVING_STATUSES, AgentFilter
from app.db.queries import Position
from app.domain.events import DeliveryStatus
from app.domain.findings import Health
from app.domain.statuses import ItemStatus, PhoneStatus
from app.domain.texts import MAX_NAME
from app.views.agent_schemas import AgentIn, ProvisionIn
from app.views.bulk_schemas import ItemCursorField
from app.views.fields import Id, Name, choice
from app.views.reader import CursorField
from app.views.webhook_schemas import WebhookIn
from app.web.problems import flat_errors, validation_failed

CHECKED = "on"
"""What a browser sends for a checkbox that is on."""


class Standing(StrEnum):
    """How agents are told apart on Numbers: their status, with all that moves taken together."""

    PROVISIONED = "provisioned"
    MOVING = "moving"
    FAILED = "failed"
    EMPTY = "empty"


STATUSES: Mapping[Standing, tuple[PhoneStatus, ...]] = {
    Standing.PROVISIONED: (PhoneStatus.PROVISIONED,),
    Standing.MOVING: MOVING_STATUSES,
    Standing.FAILED: (PhoneStatus.FAILED,),
    Standing.EMPTY: (PhoneStatus.NOT_PROVISIONED,),
}
STANDING_WORDS: Mapping[Standing, str] = {
    Standing.PROVISIONED: "Provisioned",
    Standing.MOVING: "In progress",
    Standing.FAILED: "Failed",
    Standing.EMPTY: "No number",
}


class _Lenient(Schema):
    class Meta:
        """marshmallow's own options: a page ignores parameters that it does not know."""

        unknown = EXCLUDE


class _SearchQuery(_Lenient):
    q = Name(load_default="", validate=validate.Length(0, MAX_NAME))


class _ListQuery(_Lenient):
    cursor = CursorField(load_default=None)


class _NumbersQuery(_SearchQuery, _ListQuery):
    status = choice(Standing, "Only agents that stand so.", load_default=None)
    health = choice(Health, "Only agents of this health.", load_default=None)


class _OperationsQuery(_ListQuery):
    tab = choice(Tab, "Which list.", load_default=Tab.RUNNING)


class _ItemsQuery(_Lenient):
    status = choice(ItemStatus, "Only items that stand so.", load_default=None)
    cursor = ItemCursorField(load_default=0)


class _DeliveriesQuery(_ListQuery):
    status = choice(DeliveryStatus, "Only deliveries in this status.", load_default=None)


class _MoveForm(_Lenient):
    to = Id(required=True, error_messages={"required": "Choose an agent.", "invalid_uuid": "Choose an agent."})


@dataclass(frozen=True, slots=True)
class NumbersQuery:
    """Which page of Numbers is asked for."""

    standing: Standing | None
    health: Health | None
    search: str
    cursor: Position | None

    @property
    def filter(self) -> AgentFilter:
        """The same for the query."""
        return AgentFilter(STATUSES[self.standing] if self.standing else (), self.health, self.search)

    @property
    def is_filtered(self) -> bool:
        """Whether anything but the cursor was asked for."""
        return bool(self.standing or self.health or self.search)


@dataclass(frozen=True, slots=True)
class ProvisionForm:
    """A number to connect."""

    phone_number: str
    takeover: bool


def read_numbers_query(given: MultiDict[str, str]) -> NumbersQuery:
    """Read the query of Numbers; `RefusedError` 422."""
    found = _load(_NumbersQuery(), _filled(given))
    return NumbersQuery(found["status"], found["health"], found["q"], found["cursor"])


def read_operations_query(given: MultiDict[str, str]) -> tuple[Tab, Position | None]:
    """Read the query of Operations; `RefusedError` 422."""
    found = _load(_OperationsQuery(), _filled(given))
    return found["tab"], found["cursor"]


def read_cursor(given: MultiDict[str, str]) -> Position | None:
    """Read where a page of a list begins; `RefusedError` 422."""
    found: Position | None = _load(_ListQuery(), _filled(given))["cursor"]
    return found


def read_items_query(given: MultiDict[str, str]) -> tuple[ItemStatus | None, int]:
    """Read which items of a bulk are asked for, and behind which position; `RefusedError` 422."""
    found = _load(_ItemsQuery(), _filled(given))
    return found["status"], found["cursor"]


def read_deliveries_query(given: MultiDict[str, str]) -> tuple[DeliveryStatus | None, Position | None]:
    """Read which deliveries of a webhook are asked for; `RefusedError` 422."""
    found = _load(_DeliveriesQuery(), _filled(given))
    return found["status"], found["cursor"]


def read_search(given: MultiDict[str, str]) -> str:
    """Read what was typed into a search field; `RefusedError` 422."""
    return str(_load(_SearchQuery(), _filled(given))["q"])


def read_agent_form(given: MultiDict[str, str]) -> tuple[str, str | None]:
    """Read the form for a new agent: its name, and LiveKit's name for it if another; `RefusedError` 422."""
    livekit_name = given.get("livekitAgentName")
    wanted = {"name": given.get("name", "")} | ({"livekitAgentName": livekit_name} if livekit_name else {})
    found = _load(AgentIn(), wanted)
    return found["name"], found.get("livekit_agent_name")


def read_provision_form(given: MultiDict[str, str]) -> ProvisionForm:
    """Read the form for a number: one that was typed wins over one that was chosen; `RefusedError` 422."""
    number = given.get("typed", "").strip() or given.get("chosen", "")
    if not number:
        raise validation_failed({"phoneNumber": ["Choose a number, or type one."]})
    found = _load(ProvisionIn(), {"phoneNumber": number, "takeover": given.get("takeover") == CHECKED})
    return ProvisionForm(found["phone_number"], found["takeover"])


def read_move_form(given: MultiDict[str, str]) -> uuid.UUID:
    """Read which agent the number goes to; `RefusedError` 422."""
    to: uuid.UUID = _load(_MoveForm(), given)["to"]
    return to


def read_webhook_form(given: MultiDict[str, str]) -> dict[str, Any]:
    """Read the form for a new webhook: no event chosen stands for every one; `RefusedError` 422."""
    events, description = given.getlist("events") or None, given.get("description", "").strip() or None
    return _load(WebhookIn(), {"url": given.get("url", ""), "events": events, "description": description})


def is_checked(given: MultiDict[str, str], name: str) -> bool:
    """Say whether a checkbox was on."""
    return given.get(name) == CHECKED


def _filled(given: MultiDict[str, str]) -> dict[str, str]:
    """Leave out what was left empty: a form sends all of its fields."""
    return {name: value for name, value in given.items() if value.strip()}


def _load(schema: Schema, given: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(schema.load(given))
    except ValidationError as error:
        raise validation_failed(flat_errors(error.messages)) from error
