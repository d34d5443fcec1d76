"""Request and response bodies of bulks."""

import base64
import binascii
from typing import Any

from marshmallow import ValidationError, fields, validate

from app.bulk.files import items_from_csv
from app.domain.errors import OPERATION_ERROR_CODES, ErrorCode
from app.domain.operations import MAX_ITEMS, BulkKind, BulkStatus, ItemKind, ItemStatus
from app.views.agent_schemas import (
    AGENT_ID,
    NUMBER,
    OPERATION_ID,
    AgentIn,
    NewAgentFields,
    PageQuery,
    Query,
    moment,
    next_page,
    page_limit,
    takeover_flag,
    text,
)
from app.views.fields import Id, Schema, Strict, choice
from app.views.operation_schemas import dry_run_flag
from app.views.reader import INVALID_CURSOR, MAX_LIMIT

BULK_ID = "e0a4b3f6-52a1-4a68-8b0e-4a3e4f1b9d20"
BULK_URL = f"/api/provisionings/{BULK_ID}"

MAX_FAILURES = 100
"""Items in the response to a bulk: where more have failed, their page has the others."""

ITEM_REFUSALS = (
    ErrorCode.VALIDATION_FAILED,
    ErrorCode.AGENT_NOT_FOUND,
    ErrorCode.AGENT_HAS_PHONE,
    ErrorCode.AGENT_HAS_NO_PHONE,
    ErrorCode.NUMBER_IN_USE,
    ErrorCode.EXTERNAL_ID_IN_USE,
    ErrorCode.OPERATION_IN_PROGRESS,
    ErrorCode.NOT_ADOPTABLE,
)
"""Why an item may be refused on arrival, before it has an operation."""


class BulkItemIn(NewAgentFields):
    """One number, with exactly one of `agentId` and `agent`; both may be left out where paths are adopted.

    The other fields of the agent to create stand in `agent`, or beside it where `agent` is its name. Each item is
    validated separately.
    """

    phone_number = text("A number of the Twilio account, in E.164.", NUMBER, data_key="phoneNumber", required=True)
    agent_id = Id(data_key="agentId", metadata={"description": "An agent that exists.", "example": AGENT_ID})
    agent = fields.Nested(AgentIn, metadata={"description": "An agent to create; its name alone is enough."})
    takeover = takeover_flag()


class Items(fields.List):  # type: ignore[type-arg]  # marshmallow types it by its items, which stay unread
    """A list of 1 to 10,000 items, not validated here: an invalid item must not refuse the others."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> list[Any]:
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_ITEMS:
            raise ValidationError(f"must be a list of 1 to {MAX_ITEMS} items")
        return value


class BulkIn(Strict):
    """Numbers to connect."""

    from_csv = staticmethod(items_from_csv)
    """Converts `text/csv` to items."""

    items = Items(
        fields.Nested(BulkItemIn),
        required=True,
        metadata={
            "description": "What to connect. An invalid item fails by itself, the others continue.",
            "minItems": 1,
            "maxItems": MAX_ITEMS,
        },
    )


class BulkKindQuery(Query):
    """What is done with each number, and whether it is done."""

    kind = fields.String(
        load_default=BulkKind.PROVISION.value,
        validate=validate.OneOf([BulkKind.PROVISION.value, BulkKind.ADOPT.value]),
        metadata={
            "description": "provision: each number is connected. adopt: the path that each number rings by already "
            "becomes its agent's; without `agent` and `agentId` one is made, named after the dispatch rule or the "
            "number.",
        },
    )
    dry_run = dry_run_flag("Say what would become of each item, and how many numbers fit; nothing is stored.")


class BulkCounts(Schema):
    """Number of items by status."""

    pending = fields.Integer(metadata={"description": "Not started.", "example": 6200})
    running = fields.Integer(metadata={"description": "With an open operation.", "example": 200})
    succeeded = fields.Integer(metadata={"description": "The number rings the agent.", "example": 3580})
    failed = fields.Integer(metadata={"description": "Failed; nothing of ours is left.", "example": 20})
    cancelled = fields.Integer(metadata={"description": "Cancelled before or after they started.", "example": 0})


class BulkLinks(Schema):
    """Related URLs."""

    status = text("This bulk.", BULK_URL)
    items = text("Its items, in pages.", f"{BULK_URL}/items")
    report = text("All items as CSV.", f"{BULK_URL}/report")
    cancel = text("POST: start no further item.", f"{BULK_URL}/cancel")
    resume = text("POST: retry what failed or was cancelled.", f"{BULK_URL}/resume")


class BulkSummary(Schema):
    """One bulk in a list; its counts are at most a few seconds old."""

    id = fields.UUID(metadata={"example": BULK_ID})
    kind = choice(BulkKind, "What is done for each of its numbers.")
    status = choice(BulkStatus, "The status of the bulk.")
    total = fields.Integer(metadata={"description": "Items.", "example": MAX_ITEMS})
    counts = fields.Nested(BulkCounts)
    progress = fields.Float(
        metadata={"description": "Fraction of the items that are finished, 0 to 1.", "example": 0.36}
    )
    created_by = text("Name of the API key.", "ops", data_key="createdBy", allow_none=True)
    created_at = moment("When it was accepted.", data_key="createdAt")
    started_at = moment("When the first item started.", data_key="startedAt", allow_none=True)
    cancelled_at = moment("When a client cancelled it.", data_key="cancelledAt", allow_none=True)
    finished_at = moment("When the last item finished.", data_key="finishedAt", allow_none=True)
    links = fields.Nested(BulkLinks)


class BulkOut(BulkSummary):
    """One bulk; its counts are at most a few seconds old."""


class CancellationOut(Schema):
    """What the cancellation did to the items; the three add up to the total."""

    cancelled_now = fields.Integer(
        data_key="cancelledNow",
        metadata={"description": "Cancelled by this request; no provider was called for them.", "example": 84},
    )
    still_running = fields.Integer(
        data_key="stillRunning", metadata={"description": "Started already; they run to completion.", "example": 16}
    )
    already_done = fields.Integer(
        data_key="alreadyDone", metadata={"description": "Finished already, whatever the result.", "example": 0}
    )


class BulkCancelled(BulkSummary):
    """A cancelled bulk, and what the cancellation did."""

    cancellation = fields.Nested(CancellationOut)


class RoomOut(Schema):
    """Room at the Twilio account; its trunks are counted at most once a minute, what we made since is added."""

    trunk_limit = fields.Integer(
        data_key="trunkLimit", metadata={"description": "Trunks that the account may have.", "example": 100}
    )
    trunks_in_use = fields.Integer(
        data_key="trunksInUse", metadata={"description": "Trunks that it has, whoever made them.", "example": 37}
    )
    trunks_promised = fields.Integer(
        data_key="trunksPromised",
        metadata={"description": "Trunks still to be made for numbers that were accepted before.", "example": 0},
    )
    places_free = fields.Integer(
        data_key="placesFree",
        metadata={
            "description": "Places on shared trunks, promised ones included, that no number accepted before takes.",
            "example": 286,
        },
    )
    trunk_max_numbers = fields.Integer(
        data_key="trunkMaxNumbers", metadata={"description": "Numbers that share a trunk at most.", "example": 500}
    )


class HeadroomOut(RoomOut):
    """Room at the Twilio account, and how many items of a bulk it is enough for."""

    fits = fields.Integer(
        metadata={"description": "Items of this bulk that find a place as things stand.", "example": 80}
    )
    reason = text(
        "One sentence for a person.",
        "80 of 80 numbers fit: 286 places are free on shared trunks, which take 500 each, and of the 100 trunks that "
        "the Twilio account may have 37 are in use.",
    )


class ItemFailureOut(Schema):
    """Why an item failed."""

    code = fields.String(
        metadata={
            "enum": [code.value for code in (*ITEM_REFUSALS, *OPERATION_ERROR_CODES)],
            "example": "number_not_in_account",
        }
    )
    detail = text("One sentence for a person.", "The Twilio account has no such number.")


class BulkItemOut(Schema):
    """One item of a bulk."""

    position = fields.Integer(metadata={"description": "Its position in the request, from 1.", "example": 1})
    kind = choice(ItemKind, "What is done: that of the bulk; in a bulk of mixed kinds, its own.")
    phone_number = text("The number, as it was sent.", NUMBER, data_key="phoneNumber", allow_none=True)
    agent_id = fields.UUID(data_key="agentId", allow_none=True, metadata={"example": AGENT_ID})
    to_agent_id = fields.UUID(
        data_key="toAgentId",
        allow_none=True,
        metadata={"description": "Of a move: the agent that gets the number.", "example": AGENT_ID},
    )
    status = choice(ItemStatus, "Its status.")
    operation_id = fields.UUID(data_key="operationId", allow_none=True, metadata={"example": OPERATION_ID})
    error = fields.Nested(ItemFailureOut, allow_none=True)


class BulkAccepted(Schema):
    """The bulk is stored; poll `statusUrl`. Invalid items count as failed already."""

    success = fields.Boolean(metadata={"example": True})
    bulk_id = fields.UUID(data_key="bulkId", metadata={"example": BULK_ID})
    status = choice(BulkStatus, "The status of the bulk.")
    total = fields.Integer(metadata={"description": "Items.", "example": MAX_ITEMS})
    counts = fields.Nested(BulkCounts)
    status_url = text("Where to poll.", BULK_URL, data_key="statusUrl")
    headroom = fields.Nested(
        HeadroomOut,
        allow_none=True,
        metadata={"description": "Whether the account has room for all items; null if Twilio did not respond in time."},
    )
    failures = fields.List(
        fields.Nested(BulkItemOut),
        metadata={"description": f"Up to {MAX_FAILURES} of the items that have failed already, and why."},
    )


class ItemObstacleOut(Schema):
    """What is in an item's way, or what to know before."""

    position = fields.Integer(metadata={"description": "Its position in the request, from 1.", "example": 3})
    phone_number = text("The number, as it was sent.", NUMBER, data_key="phoneNumber", allow_none=True)
    code = fields.String(
        metadata={
            "enum": [code.value for code in (*ITEM_REFUSALS, *OPERATION_ERROR_CODES)],
            "example": "number_already_routed",
        }
    )
    detail = text("One sentence for a person.", "The Twilio account does not own this number.")
    blocks = fields.Boolean(metadata={"description": "Whether the item would fail because of it."})


class BulkPlanOut(Schema):
    """What would become of a bulk as things stand."""

    success = fields.Boolean(metadata={"example": True})
    is_dry_run = fields.Boolean(data_key="dryRun", metadata={"example": True})
    kind = choice(BulkKind, "What would be done for each number.")
    total = fields.Integer(metadata={"description": "Items.", "example": 60})
    would_start = fields.Integer(
        data_key="wouldStart", metadata={"description": "Items with nothing in their way.", "example": 57}
    )
    obstacles = fields.List(
        fields.Nested(ItemObstacleOut),
        metadata={"description": "What is in the way of items, in their order, at most one of each."},
    )
    are_numbers_known = fields.Boolean(
        data_key="numbersKnown",
        metadata={
            "description": "Whether Twilio listed the numbers; otherwise, and of adoptions, nothing is said of what "
            "each is used for.",
            "example": True,
        },
    )
    headroom = fields.Nested(
        HeadroomOut,
        allow_none=True,
        metadata={
            "description": "How many of the items that would start the account has room for; null for adoptions, "
            "and if Twilio did not respond in time."
        },
    )


class BulkPage(Schema):
    """One page of bulks, the newest first."""

    items = fields.List(fields.Nested(BulkSummary))
    next_cursor = next_page()


class BulkQuery(PageQuery):
    """Which bulks to list."""

    status = choice(BulkStatus, "Only bulks with this status.")


class BulkItemPage(Schema):
    """One page of items, in the order of the request."""

    items = fields.List(fields.Nested(BulkItemOut))
    next_cursor = next_page()


ITEM_CURSOR_PATTERN = "^[A-Za-z0-9_=-]+$"
"""A cursor of items is base64url."""


class ItemCursorField(fields.Field[int]):
    """Decodes what `item_cursor` returned."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> int:
        try:
            position = int(base64.urlsafe_b64decode(str(value).encode()).decode().removeprefix("item:"))
        except (ValueError, binascii.Error) as error:
            raise ValidationError(INVALID_CURSOR) from error
        if not 0 <= position <= MAX_ITEMS or item_cursor(position) != value:
            raise ValidationError(INVALID_CURSOR)
        return position


def item_cursor(position: int) -> str:
    """Encode the position of the last item of a page as text that is safe in a URL."""
    return base64.urlsafe_b64encode(f"item:{position}".encode()).decode()


class BulkItemQuery(Query):
    """Which items to list."""

    status = choice(ItemStatus, "Only items with this status.")
    limit = page_limit()
    cursor = ItemCursorField(
        data_key="cursor",
        metadata={
            "type": "string",
            "description": "`nextCursor` of the page before.",
            "pattern": ITEM_CURSOR_PATTERN,
            "example": item_cursor(MAX_LIMIT),
        },
    )
