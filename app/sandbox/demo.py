"""Numbers to start with: the control API's seeds, and a handful for a demonstration."""

from typing import Any

from app.sandbox.state import Sandbox
from app.sandbox.twilio_records import Record, number_record, number_type

DEMO_NUMBERS: tuple[dict[str, Any], ...] = (
    {"phoneNumber": "+15145551234", "voiceUrl": "https://demo.twilio.com/welcome/voice/"},
    {"phoneNumber": "+15145551235"},
    {"phoneNumber": "+14385550142"},
    {"phoneNumber": "+14165550187"},
    {"phoneNumber": "+442079460123"},
    {"phoneNumber": "+15145550199", "voice": False},
    {"phoneNumber": "+16045550110", "voiceApplicationSid": "AP" + "0" * 31 + "1"},
)
"""The first has a webhook, four are free, one cannot take voice calls, one follows a voice application."""


SEED_FIELDS = frozenset(
    (
        "phoneNumber",
        "voice",
        "fax",
        "voiceReceiveMode",
        "voiceUrl",
        "voiceApplicationSid",
        "trunkSid",
        "emergencyStatus",
        "status",
        "type",
    )
)
"""What the description of a seeded number may say."""


def seed_number(sandbox: Sandbox, order: dict[str, Any]) -> tuple[Record, bool]:
    """Put a number into the account as the control API describes it; return it, and whether it is new."""
    store, phone_number = sandbox.store, str(order["phoneNumber"])
    for sid in store.number_by_phone.ids(phone_number):
        return store.numbers.rows[sid], False
    is_voice, is_fax = bool(order.get("voice", True)), bool(order.get("fax", False))
    record = number_record(
        sandbox.credentials.account_sid,
        phone_number,
        capabilities={"voice": is_voice, "sms": True, "mms": True, "fax": is_fax},
        voice_receive_mode=order.get("voiceReceiveMode", "voice"),
        voice_url=order.get("voiceUrl"),
        voice_application_sid=order.get("voiceApplicationSid") or "",
        trunk_sid=order.get("trunkSid"),
        emergency_status=order.get("emergencyStatus", "Inactive"),
        status=order.get("status", "in-use"),
        type=order.get("type") or number_type(phone_number),
    )
    store.put("numbers", record["sid"], record)
    return record, True


def seed_demo(sandbox: Sandbox) -> None:
    """Fill an account that owns no number with the demonstration's numbers."""
    with sandbox.store.transaction():
        if not sandbox.store.numbers.rows:
            for order in DEMO_NUMBERS:
                seed_number(sandbox, order)
