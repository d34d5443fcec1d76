"""Request and response bodies of the numbers of a carrier account."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from marshmallow import ValidationError, fields, validate

from app.domain.texts import MAX_NAME
from app.domain.workspaces import ENVIRONMENT_ACCOUNT
from app.numbers.inventory import NEWEST, FoundNumbers, NumberFilter, NumberPosition, NumberUse
from app.views.agent_schemas import AGENT_ID, NUMBER, TRUNK_SID, Query, moment, next_page, page_limit, text
from app.views.fields import VISIBLE_LINE, Id, Name, Schema, choice
from app.views.reader import CURSOR_PATTERN, INVALID_CURSOR

NUMBER_SID = "PN0123456789abcdef0123456789abcdef"


class NumberCursor(NamedTuple):
    """After which number a page begins, and how old the list of the pages may be (`FoundNumbers.not_before`)."""

    after: NumberPosition
    not_before: datetime | None = None


class NumberCursorField(fields.Field[NumberCursor]):
    """Decodes what `encode_number_cursor` returned."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> NumberCursor:
        try:
            kept = str(value) + "=" * (-len(str(value)) % 4)
            text = base64.b64decode(kept, altchars=b"-_", validate=True).decode()
            _kind, phone_number, sid, moment = text.split(":")
            not_before = _EPOCH + timedelta(microseconds=int(moment)) if moment else None
            cursor = NumberCursor(NumberPosition(phone_number, sid), not_before)
        except (ValueError, OverflowError) as error:
            raise ValidationError(INVALID_CURSOR) from error
        if encode_number_cursor(cursor) != value:
            raise ValidationError(INVALID_CURSOR)
        return cursor


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def encode_number_cursor(cursor: NumberCursor) -> str:
    """Encode a cursor as text that is safe in a URL."""
    (phone_number, sid), not_before = cursor
    moment = (not_before - _EPOCH) // timedelta(microseconds=1) if not_before else ""
    text = f"number:{phone_number}:{sid}:{moment}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


NUMBER_CURSOR = encode_number_cursor(NumberCursor(NumberPosition(NUMBER, NUMBER_SID)))


class NumberQuery(Query):
    """Which numbers to list."""

    use = choice(NumberUse, "Only numbers of this use.")
    search = Name(
        validate=validate.Length(1, MAX_NAME),
        metadata={
            "description": "Digits anywhere in the number, with or without what people write between them, and with "
            "`+` from its beginning; or the beginnings of words in its agent's name.",
            "example": "514 555",
            "pattern": VISIBLE_LINE,
        },
    )
    carrier_account_id = Id(
        data_key="carrierAccountId",
        metadata={
            "description": "The carrier account whose numbers; defaults to the workspace's.",
            "example": str(ENVIRONMENT_ACCOUNT),
        },
    )
    fresh = fields.Boolean(
        load_default=False,
        truthy={"true"},
        falsy={"false"},
        metadata={
            "description": "Ask Twilio now, instead of using what it listed within the last minute. The pages that "
            "follow are not older."
        },
    )
    limit = page_limit()
    cursor = NumberCursorField(
        metadata={
            "type": "string",
            "description": "`nextCursor` of the page before.",
            "pattern": CURSOR_PATTERN,
            "example": NUMBER_CURSOR,
        },
    )


class NumberOut(Schema):
    """A number of the account, and what it is used for."""

    phone_number = text("The number.", NUMBER, data_key="phoneNumber")
    sid = text("Its id at Twilio.", NUMBER_SID)
    use = choice(
        NumberUse,
        "`free`: nobody uses it (Twilio's demo counts as nobody). `agent`: it is an agent's, or on its way to one. "
        "`trunk`, `application`: it is on a Twilio trunk that is not its agent's, or goes to a voice application. "
        "`voice_url`: a product at another address answers its calls. `no_voice`: it takes no voice calls.",
    )
    agent_id = fields.UUID(
        data_key="agentId",
        allow_none=True,
        metadata={"description": "Whose it is; null where `use` is not `agent`.", "example": AGENT_ID},
    )
    agent_name = text(
        "The agent's name; null where `use` is not `agent`.", "Front desk", data_key="agentName", allow_none=True
    )
    trunk_sid = text("The Twilio trunk that it is on, if any.", TRUNK_SID, data_key="trunkSid", allow_none=True)
    application_sid = text(
        "The voice application that its calls go to, if any.",
        "AP0123456789abcdef0123456789abcdef",
        data_key="applicationSid",
        allow_none=True,
    )
    voice_host = text(
        "The host of the voice URL that answers its calls; null where `use` is not `voice_url`.",
        "flows.example.com",
        data_key="voiceHost",
        allow_none=True,
    )
    can_provision = fields.Boolean(
        data_key="canProvision",
        metadata={
            "description": "Whether it may be connected to an agent, as far as the list shows.",
            "example": True,
        },
    )
    needs_takeover = fields.Boolean(
        data_key="needsTakeover",
        metadata={"description": "Whether that takes `takeover`: it is routed elsewhere now.", "example": False},
    )


class NumberPageOut(Schema):
    """One page of numbers, by their text. Numbers of other workspaces' agents are in none."""

    items = fields.List(fields.Nested(NumberOut))
    next_cursor = next_page()
    as_of = moment(
        "When Twilio was asked: its list is kept for a minute by each web process, and read anew where an agent's "
        "number has been freed since. What is an agent's is as of now.",
        data_key="asOf",
    )
    unreadable = fields.Integer(
        metadata={"description": "Records of the account that cannot be read and are left out.", "example": 0}
    )


def number_page(found: FoundNumbers) -> dict[str, Any]:
    """Return a page as `NumberPageOut` takes it."""
    cursor = NumberCursor(found.next_after, found.not_before) if found.next_after else None
    return {
        "items": found.numbers,
        "next_cursor": encode_number_cursor(cursor) if cursor else None,
        "as_of": found.as_of,
        "unreadable": found.unreadable,
    }


def number_search(given: dict[str, Any]) -> dict[str, Any]:
    """Return what `InventoryService.of_account` takes of a query that was read."""
    cursor, fresh = given.get("cursor"), given["fresh"]
    wanted: dict[str, Any] = {
        "carrier_account_id": given.get("carrier_account_id"),
        "wanted": NumberFilter(given.get("use"), given.get("search", "")),
        "limit": given["limit"],
    }
    if cursor is not None:
        wanted |= cursor._asdict()
    return wanted | ({"not_before": NEWEST} if fresh else {})
