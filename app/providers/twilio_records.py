"""Twilio's objects as our records. A `ValueError` here means that the answer is not what Twilio documents."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from app.providers.base import CarrierNumber, CarrierTrunk, NumberRouting, OriginationUrl

_E164 = re.compile(r"\+[1-9][0-9]{1,14}")
_SID = re.compile(r"(?P<kind>[A-Z]{2})[0-9a-f]{32}")

_AGES = datetime.max.replace(tzinfo=UTC)
"""Stands for an unknown date in sorting, so that what we know to be old comes first."""


def checked_sid(value: object, kind: str) -> str:
    """Return `value` when it is `kind` (`PN`, `TK`, `OU`, ...) + 32 hex.

    The SDK puts sids into paths as they are: with an empty one a delete would go to the whole collection.
    """
    match = _SID.fullmatch(value) if isinstance(value, str) else None
    if match is None or match["kind"] != kind:
        raise ValueError(f"not a {kind} sid")
    return match[0]


def checked_e164(value: str) -> str:
    """Return `value` when it is E.164; Twilio's filter would read anything else as a pattern."""
    if not _E164.fullmatch(value):
        raise ValueError("not an E.164 number")
    return value


def read_number(instance: Any) -> CarrierNumber:
    """Read an IncomingPhoneNumber; the trunk's own PhoneNumber lacks half of its fields."""
    capabilities = instance.capabilities
    has_voice = isinstance(capabilities, Mapping) and capabilities.get("voice") is True
    return CarrierNumber(
        sid=checked_sid(instance.sid, "PN"),
        phone_number=_text(instance.phone_number),
        account_sid=checked_sid(instance.account_sid, "AC"),
        is_voice=has_voice and instance.voice_receive_mode != "fax" and instance.status in {"in-use", "", None},
        routing=NumberRouting(
            trunk_sid=checked_sid(instance.trunk_sid, "TK") if instance.trunk_sid else None,
            voice_application_sid=_text(instance.voice_application_sid) or None,
            voice_url=_text(instance.voice_url) or None,
        ),
    )


def read_trunk(instance: Any) -> CarrierTrunk:
    """Read a Trunk."""
    return CarrierTrunk(
        sid=checked_sid(instance.sid, "TK"),
        tag=_text(instance.friendly_name),
        is_secure=instance.secure is True,
        created_at=_date(instance.date_created),
    )


def read_origination_url(instance: Any) -> OriginationUrl:
    """Read an OriginationUrl."""
    return OriginationUrl(
        sid=checked_sid(instance.sid, "OU"),
        trunk_sid=checked_sid(instance.trunk_sid, "TK"),
        sip_url=_text(instance.sip_url),
        is_enabled=instance.enabled is True,
        tag=_text(instance.friendly_name),
        created_at=_date(instance.date_created),
    )


def by_age(record: CarrierTrunk | OriginationUrl) -> tuple[datetime, str]:
    """Sort key: oldest first; Twilio's dates are whole seconds, so the sid decides between twins."""
    return (record.created_at or _AGES, record.sid)


def _text(value: object) -> str:
    """Return the text, or "" for null: Twilio uses both for what is not set."""
    if value is not None and not isinstance(value, str):
        raise ValueError("not a text")  # the answer is at fault, not the types of the caller
    return value or ""


def _date(value: object) -> datetime | None:
    return value if isinstance(value, datetime) else None
