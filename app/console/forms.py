"""Reads the console's forms and query strings, by the same rules as the API's bodies."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from apiflask import Schema
from marshmallow import EXCLUDE, ValidationError, fields, validate
from werkzeug.datastructures import MultiDict

from app.console.reader import Tab
from app.db.agent_lists import MOVING_STATUSES, AgentFilter, AgentOrder
from app.db.queries import Position
from app.domain.calls import Reachability
from app.domain.errors import ErrorCode, RefusedError, validation_failed
from app.domain.events import DeliveryStatus
from app.domain.findings import Health
from app.domain.operations import ItemStatus, PathChoice, PhoneStatus, TrunkMode, TrunkState
from app.domain.texts import MAX_NAME
from app.domain.workspaces import AccountKind
from app.numbers.inventory import NEWEST, NumberFilter, NumberUse
from app.views.account_schemas import CarrierAccountIn, RotateIn, VoiceProjectIn
from app.views.agent_schemas import ProvisionIn
from app.views.bulk_schemas import ItemCursorField
from app.views.fields import Id, Name, choice, flat_errors
from app.views.reader import ActivityCursorField, CursorField
from app.views.team_schemas import KeyIn, WorkspaceChangeIn, WorkspaceIn
from app.views.webhook_schemas import WebhookIn

TOKEN_FIELD = "csrf_token"  # noqa: S105  # a name
"""The field of every form that is not its view's."""

CHECKBOX_ON = "on"
"""What a browser sends for a checked checkbox."""


class StatusFilter(StrEnum):
    """The status filter of Numbers; the statuses in progress are one choice."""

    PROVISIONED = "provisioned"
    MOVING = "moving"
    FAILED = "failed"
    EMPTY = "empty"


FILTERED_STATUSES: Mapping[StatusFilter, tuple[PhoneStatus, ...]] = {
    StatusFilter.PROVISIONED: (PhoneStatus.PROVISIONED,),
    StatusFilter.MOVING: MOVING_STATUSES,
    StatusFilter.FAILED: (PhoneStatus.FAILED,),
    StatusFilter.EMPTY: (PhoneStatus.NOT_PROVISIONED,),
}
STATUS_FILTER_LABELS: Mapping[StatusFilter, str] = {
    StatusFilter.PROVISIONED: "Provisioned",
    StatusFilter.MOVING: "In progress",
    StatusFilter.FAILED: "Failed",
    StatusFilter.EMPTY: "No number",
}


class HealthFilter(StrEnum):
    """The health filter of Numbers: every `Health`, the drifted ones whose calls fail, and by test calls."""

    CALLS_FAIL = "CALLS_FAIL"
    DRIFTED = Health.DRIFTED.value
    IN_SYNC = Health.IN_SYNC.value
    UNKNOWN = Health.UNKNOWN.value
    UNREACHABLE = Reachability.UNREACHABLE.value
    """Its test calls come to nothing."""


class _Lenient(Schema):
    class Meta:
        """marshmallow's options: a page ignores unknown parameters."""

        unknown = EXCLUDE


class _SearchQuery(_Lenient):
    q = Name(load_default="", validate=validate.Length(0, MAX_NAME))


class _ListQuery(_Lenient):
    cursor = CursorField(load_default=None)


class _NumbersQuery(_SearchQuery, _ListQuery):
    status = choice(StatusFilter, "Only agents with this status.", load_default=None)
    health = choice(HealthFilter, "Only agents with this health.", load_default=None)
    sort = choice(AgentOrder, "The order.", load_default=AgentOrder.NEWEST)


class _OperationsQuery(_ListQuery):
    tab = choice(Tab, "The tab.", load_default=Tab.RUNNING)
    code = choice(ErrorCode, "Only operations that failed with this error.", load_default=None)


class _ItemsQuery(_Lenient):
    status = choice(ItemStatus, "Only items with this status.", load_default=None)
    cursor = ItemCursorField(load_default=0)


class _DeliveriesQuery(_ListQuery):
    status = choice(DeliveryStatus, "Only deliveries with this status.", load_default=None)


class _ActivityQuery(_Lenient):
    about = Id(data_key="about", attribute="subject_id", load_default=None)
    key = Id(data_key="key", attribute="key_id", load_default=None)
    cursor = ActivityCursorField(attribute="before", load_default=0)


class _TrunksQuery(_ListQuery):
    mode = choice(TrunkMode, "Only trunks of this kind.", load_default=None)
    state = choice(TrunkState, "Only trunks in this state.", load_default=None)


class _ChoiceQuery(_SearchQuery):
    use = choice(NumberUse, "Only numbers of this use.", load_default=None)
    fresh = fields.Boolean(load_default=False)
    since = fields.AwareDateTime(format="iso", load_default=None)


class _PathForm(_Lenient):
    path = choice(PathChoice, "What becomes of the path.", load_default=None)


class _MoveForm(_Lenient):
    to = Id(required=True, error_messages={"required": "Choose an agent.", "invalid_uuid": "Choose an agent."})


@dataclass(frozen=True, slots=True)
class NumbersQuery:
    """The filters and position of a page of Numbers."""

    status_filter: StatusFilter | None
    health: HealthFilter | None
    search: str
    cursor: Position | None
    order: AgentOrder = AgentOrder.NEWEST

    @property
    def filters(self) -> dict[str, str]:
        """The filters and the order as they stand in the address."""
        found = {"q": self.search, "status": self.status_filter, "health": self.health}
        found["sort"] = self.order if self.order is not AgentOrder.NEWEST else None
        return {name: str(value) for name, value in found.items() if value}

    def sorted_by(self, by: str) -> tuple[dict[str, str], str]:
        """Return the address of the list in another order, the other way round if it has it; and its `aria-sort`."""
        is_current = self.order.by == by
        first, other = (f"-{by}", by) if by == AgentOrder.CHANGED else (by, f"-{by}")
        wanted = other if self.order == first else first
        state = ("descending" if self.order.is_back else "ascending") if is_current else "none"
        return self.filters | {"sort": wanted}, state

    @property
    def filter(self) -> AgentFilter:
        """The filter for the database query."""
        statuses = FILTERED_STATUSES[self.status_filter] if self.status_filter else ()
        if self.health is HealthFilter.CALLS_FAIL:
            return AgentFilter(statuses, search=self.search, calls_fail=True)
        if self.health is HealthFilter.UNREACHABLE:
            return AgentFilter(statuses, search=self.search, is_unreachable=True)
        return AgentFilter(statuses, Health(self.health) if self.health else None, self.search)

    @property
    def is_filtered(self) -> bool:
        """Whether any filter is set."""
        return bool(self.status_filter or self.health or self.search)


@dataclass(frozen=True, slots=True)
class TrunksQuery:
    """The filters and position of a page of Trunks."""

    mode: TrunkMode | None
    state: TrunkState | None
    cursor: Position | None

    @property
    def filters(self) -> dict[str, str]:
        """The filters as they stand in the address."""
        found = {"mode": self.mode, "state": self.state}
        return {name: value.value for name, value in found.items() if value}


@dataclass(frozen=True, slots=True)
class ChoiceQuery:
    """Which of the account's numbers to choose from, and when Twilio may have been asked at the earliest."""

    use: NumberUse | None = None
    search: str = ""
    not_before: datetime | None = None

    @property
    def filter(self) -> NumberFilter:
        """The filter for the inventory."""
        return NumberFilter(self.use, self.search)

    @property
    def filters(self) -> dict[str, str]:
        """The filters as they stand in the address."""
        found = {"q": self.search, "use": self.use.value if self.use else ""}
        return {name: value for name, value in found.items() if value}


@dataclass(frozen=True, slots=True)
class ProvisionForm:
    """The form for provisioning a number."""

    phone_number: str
    takeover: bool


def read_numbers_query(given: MultiDict[str, str]) -> NumbersQuery:
    """Read the query of Numbers; `RefusedError` 422."""
    found = load(_NumbersQuery(), without_empty(given))
    return NumbersQuery(found["status"], found["health"], found["q"], found["cursor"], found["sort"])


def read_operations_query(given: MultiDict[str, str]) -> tuple[Tab, ErrorCode | None, Position | None]:
    """Read tab, error and cursor of Operations; `RefusedError` 422."""
    found = load(_OperationsQuery(), without_empty(given))
    return found["tab"], found["code"], found["cursor"]


def read_trunks_query(given: MultiDict[str, str]) -> TrunksQuery:
    """Read the query of Trunks; `RefusedError` 422."""
    return TrunksQuery(**load(_TrunksQuery(), without_empty(given)))


def read_cursor(given: MultiDict[str, str]) -> Position | None:
    """Read the cursor of a list page; `RefusedError` 422."""
    found: Position | None = load(_ListQuery(), without_empty(given))["cursor"]
    return found


def read_items_query(given: MultiDict[str, str]) -> tuple[ItemStatus | None, int]:
    """Read the status filter of a bulk's items, and the position to start after; `RefusedError` 422."""
    found = load(_ItemsQuery(), without_empty(given))
    return found["status"], found["cursor"]


def read_deliveries_query(given: MultiDict[str, str]) -> tuple[DeliveryStatus | None, Position | None]:
    """Read the status filter and cursor of a webhook's deliveries; `RefusedError` 422."""
    found = load(_DeliveriesQuery(), without_empty(given))
    return found["status"], found["cursor"]


def read_search(given: MultiDict[str, str]) -> str:
    """Read a search text; `RefusedError` 422."""
    return str(load(_SearchQuery(), without_empty(given))["q"])


def read_choice_query(given: MultiDict[str, str]) -> ChoiceQuery:
    """Read which numbers to choose from; `RefusedError` 422."""
    found = load(_ChoiceQuery(), without_empty(given))
    return ChoiceQuery(found["use"], found["q"], NEWEST if found["fresh"] else found["since"])


def kept_choice_query(given: MultiDict[str, str]) -> ChoiceQuery:
    """Read the same from the form that it was kept in; a form that was tampered with begins anew."""
    try:
        return read_choice_query(given)
    except RefusedError:
        return ChoiceQuery()


def read_provision_form(given: MultiDict[str, str]) -> ProvisionForm:
    """Read the form for a number: a typed number takes precedence over a chosen one; `RefusedError` 422."""
    number = given.get("typed", "").strip() or given.get("chosen", "")
    if not number:
        raise validation_failed({"phoneNumber": ["Choose or enter a number."]})
    found = load(ProvisionIn(), {"phoneNumber": number, "takeover": given.get("takeover") == CHECKBOX_ON})
    return ProvisionForm(found["phone_number"], found["takeover"])


def read_path_choice(given: MultiDict[str, str]) -> PathChoice | None:
    """Read what is to become of a path that was adopted; None where the form does not say; `RefusedError` 422."""
    found: PathChoice | None = load(_PathForm(), without_empty(given))["path"]
    return found


def read_move_form(given: MultiDict[str, str]) -> uuid.UUID:
    """Read the id of the agent that the number moves to; `RefusedError` 422."""
    to: uuid.UUID = load(_MoveForm(), given)["to"]
    return to


def read_webhook_form(given: MultiDict[str, str]) -> dict[str, Any]:
    """Read the form for a new webhook; no event chosen means every event; `RefusedError` 422."""
    events, description = given.getlist("events") or None, given.get("description", "").strip() or None
    return load(WebhookIn(), {"url": given.get("url", ""), "events": events, "description": description})


def read_activity_query(given: MultiDict[str, str]) -> dict[str, Any]:
    """Read the filters of Activity, `subject_id` and `key_id`, and the row to go on from; `RefusedError` 422."""
    return load(_ActivityQuery(), {name: value.strip() for name, value in without_empty(given).items()})


def read_key_form(given: MultiDict[str, str]) -> dict[str, Any]:
    """Read the form for a new key; no workspace means the caller's, an operator's: all. `RefusedError` 422."""
    body = {"name": given.get("name", ""), "scopes": [given.get("scope", "")]}
    return load(KeyIn(), body | {"workspace": given.get("workspace") or None})


def read_account_form(kind: AccountKind, given: MultiDict[str, str]) -> dict[str, Any]:
    """Read the form for a new carrier account or voice project; `RefusedError` 422, which quotes no secret."""
    body: dict[str, Any] = {name: value.strip() for name, value in without_empty(given).items() if name != TOKEN_FIELD}
    schema = CarrierAccountIn() if kind is AccountKind.CARRIER else VoiceProjectIn()
    return load(schema, body | {"shared": is_checked(given, "shared")})


def read_rotation_form(given: MultiDict[str, str]) -> dict[str, Any]:
    """Read the form for a new credential; `RefusedError` 422, which quotes no secret."""
    body: dict[str, Any] = {name: given.get(name, "").strip() for name in ("secret", "username") if given.get(name)}
    lives = given.get("oldValidForS", "")
    return load(RotateIn(), body | ({"oldValidForS": int(lives)} if lives.isascii() and lives.isdigit() else {}))


def read_workspace_form(given: MultiDict[str, str]) -> dict[str, Any]:
    """Read the form for a new workspace; `RefusedError` 422."""
    return load(WorkspaceIn(), {name: given.get(name, "").strip() for name in ("slug", "name")})


def read_workspace_change(given: MultiDict[str, str]) -> dict[str, Any]:
    """Read the form for a workspace's name and default accounts; `RefusedError` 422."""
    fields = ("name", "carrierAccountId", "voiceProjectId")
    return load(WorkspaceChangeIn(), {name: given.get(name, "") for name in fields})


def is_checked(given: MultiDict[str, str], name: str) -> bool:
    """Return whether a checkbox was checked."""
    return given.get(name) == CHECKBOX_ON


def without_empty(given: MultiDict[str, str]) -> dict[str, str]:
    """Leave out empty values: a form sends all of its fields."""
    return {name: value for name, value in given.items() if value.strip()}


def load(schema: Schema, given: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Read fields by a schema; `RefusedError` 422 names what is wrong, after this prefix."""
    try:
        return dict(schema.load(given))
    except ValidationError as error:
        errors = {prefix + name: messages for name, messages in flat_errors(error.messages).items()}
        raise validation_failed(errors) from error
