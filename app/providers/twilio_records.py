"""Twilio's objects as our records. A `ValueError` here means that a record is not what Twilio documents.

Read from JSON and not from the SDK's objects: those cannot be made of a number whose date is none.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from app.domain.texts import read_time, storable
from app.path.marks import TAG_PREFIX
from app.path.observed import CarrierNumber, CarrierTrunk, NumberRouting, OriginationUrl, Unreadable

Json = Mapping[str, object]

PAGE_SIZE = 1000
"""Records per list request: the most that Twilio allows, so that an inventory takes the fewest calls."""

_E164 = re.compile(r"\+[1-9][0-9]{1,14}")
_SID = re.compile(r"(?P<kind>[A-Z]{2})[0-9a-f]{32}")

_AGES = datetime.max.replace(tzinfo=UTC)
"""An unknown date in sorting, so that what we know to be old comes first."""


def is_sid(value: object, kind: str) -> bool:
    """Say whether `value` is `kind` (`PN`, `TK`, `OU`, ...) + 32 hex."""
    match = _SID.fullmatch(value) if isinstance(value, str) else None
    return match is not None and match["kind"] == kind


def checked_sid(value: object, kind: str) -> str:
    """Return `value` when it is a sid of this kind.

    The SDK puts sids into paths as they are: with an empty one a delete would go to the whole collection.
    """
    if not isinstance(value, str) or not is_sid(value, kind):
        raise ValueError(f"not a {kind} sid")
    return value


def checked_e164(value: str) -> str:
    """Return `value` when it is E.164; Twilio's filter would read anything else as a pattern."""
    if not _E164.fullmatch(value):
        raise ValueError("not an E.164 number")
    return value


def may_be_number(record: object, e164: str) -> bool:
    """Say whether a record is the number with this text, or does not say which it is."""
    number = record.get("phone_number") if isinstance(record, Mapping) else None
    return number == e164 or not isinstance(number, str)


def read_number(record: Json) -> CarrierNumber:
    """Read an IncomingPhoneNumber; the trunk's own PhoneNumber lacks half of its fields."""
    capabilities = record.get("capabilities")
    return CarrierNumber(
        sid=checked_sid(record.get("sid"), "PN"),
        phone_number=_given(record, "phone_number"),
        account_sid=checked_sid(record.get("account_sid"), "AC"),
        routing=NumberRouting(
            # Any text: a trunk that we cannot name is somebody else's all the same, and the number is not free.
            trunk_sid=_text(record, "trunk_sid") or None,
            voice_application_sid=_text(record, "voice_application_sid") or None,
            voice_url=_text(record, "voice_url") or None,
        ),
        has_voice=isinstance(capabilities, Mapping) and capabilities.get("voice") is True,
        receive_mode=_text(record, "voice_receive_mode"),
        status=_text(record, "status"),
    )


def read_trunk(record: Json) -> CarrierTrunk:
    """Read a Trunk."""
    return CarrierTrunk(
        sid=checked_sid(record.get("sid"), "TK"),
        tag=_text(record, "friendly_name"),
        is_secure=record.get("secure") is True,
        created_at=_date(record),
        transfer_mode=_text(record, "transfer_mode"),
        raw=record,
    )


def read_origination_url(record: Json) -> OriginationUrl:
    """Read an OriginationUrl."""
    return OriginationUrl(
        sid=checked_sid(record.get("sid"), "OU"),
        trunk_sid=checked_sid(record.get("trunk_sid"), "TK"),
        sip_url=_text(record, "sip_url"),
        is_enabled=record.get("enabled") is True,
        tag=_text(record, "friendly_name"),
        created_at=_date(record),
        priority=_whole(record, "priority"),
        weight=_whole(record, "weight"),
        raw=record,
    )


def may_be_on(record: object, trunk_sid: str) -> bool:
    """Say whether a number's record shows it on this trunk, or does not show where it is."""
    found = record.get("trunk_sid", 0) if isinstance(record, Mapping) else 0
    return found == trunk_sid or (found is not None and not isinstance(found, str))


def unreadable_record(record: object, kind: str) -> Unreadable:
    """Describe a record that cannot be read: its sid, and whether its name shows that it is not ours."""
    values = record if isinstance(record, Mapping) else {}
    sid, name = values.get("sid"), values.get("friendly_name")
    # A number has no mark of ours: only its sid identifies it.
    is_theirs = kind != "PN" and isinstance(name, str) and not name.startswith(f"{TAG_PREFIX}/")
    return Unreadable(str(sid) if is_sid(sid, kind) else "", may_be_ours=not is_theirs)


def by_age(record: CarrierTrunk | OriginationUrl) -> tuple[datetime, str]:
    """Sort key: oldest first; Twilio's dates are whole seconds, so the sid decides between equal ones."""
    return (record.created_at or _AGES, record.sid)


def _text(record: Json, name: str) -> str:
    """Return the text, or "" for null: Twilio uses both for what is not set."""
    value = record.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} is no text")  # the response is at fault, not the types of the caller
    return storable(value or "")


def _given(record: Json, name: str) -> str:
    text = _text(record, name)
    if not text:
        raise ValueError(f"{name} is missing")
    return text


def _whole(record: Json, name: str) -> int:
    """Return the whole number, or 0 where there is none."""
    value = record.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise ValueError(f"{name} is no number")  # the response is at fault, not the types of the caller
    return value or 0


def _date(record: Json) -> datetime | None:
    return read_time(record.get("date_created"))
