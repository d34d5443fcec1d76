"""Magic numbers: each goes wrong in a way of its own, always, as Twilio's and Stripe's test values do.

A magic number is in the account of whoever looks it up by its exact text. A list shows it only while it is on a trunk,
or with the switch `listMagicNumbers`. docs/sandbox.md has the table; `tests/maintenance/test_magic_numbers.py` connects
each of them.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from livekit.protocol import sip

from app.dev.sandbox.exchange import Exchange
from app.dev.sandbox.faults import APPLY_THEN_DROP, HTML_503, REJECT, SLOW, TOO_MANY
from app.dev.sandbox.livekit_wire import new_id, normalised
from app.dev.sandbox.state import Sandbox
from app.dev.sandbox.store import Record, Store
from app.dev.sandbox.twilio_wire import number_record

ATTACH = "twilio.attach_number"
CREATE_TRUNK, DELETE_TRUNK = "livekit.create_inbound_trunk", "livekit.delete_trunk"

PREFIX = "+15005550"
"""What all of them begin with."""

NAMED = "Magic number"
"""Friendly name of one that nobody put into the account: lists leave it out."""

FOREIGN_TRUNK = "Somebody else's trunk"
"""Name of the LiveKit trunk that has the number already, for the one that conflicts."""

PIN = "4711"
"""What somebody sets on the dispatch rule of the number whose path drifts."""

SLOW_S = 1.0
"""Seconds that each write for the slow number takes: within PROVIDER_TIMEOUT_S (20), and long enough to see."""

RATE_LIMITED_TIMES = 3
"""How often the rate-limited number is refused: often enough to be seen as retries."""


@dataclass(frozen=True)
class MagicNumber:
    """One number, what the providers do with it, and how its provisioning ends."""

    phone_number: str
    happens: str
    """A sentence for people."""
    status: str = "PROVISIONED"
    """`phoneProvisioningStatus` at the end; `needs_attention` for an operation that waits for a person."""
    code: str | None = None
    """Of `operation.error`."""
    number: Mapping[str, Any] = field(default_factory=dict)
    """What its record at Twilio has beside the defaults."""
    faults: tuple[Mapping[str, Any], ...] = ()
    """As `POST /sandbox/faults` takes them, for requests about this number."""
    is_taken_at_livekit: bool = False
    follow_up: tuple[str, Callable[[Sandbox, str], None]] | None = None
    """What somebody else does after a request of this operation."""
    is_answered: bool = True
    """Whether an agent takes its calls."""

    @property
    def ends(self) -> str:
        """How it ends, as docs/sandbox.md has it."""
        return f"`{self.status}`" + (f", `{self.code}`" if self.code else "")


def _vanish(sandbox: Sandbox, phone_number: str) -> None:
    """Release the number, as somebody in the console would."""
    for part in sandbox.store.parts:
        for sid in part.number_by_phone.ids(phone_number):
            part.delete("numbers", sid)


def _drift(sandbox: Sandbox, phone_number: str) -> None:
    """Put a PIN on the number's dispatch rule after a while, unless it is no longer connected."""
    generation, store = sandbox.generation, sandbox.store

    def set_pin() -> None:
        with store.transaction():
            if generation != sandbox.generation or not _is_on_trunk(store, phone_number):
                return
            for part in store.parts:
                for trunk_id in part.inbound_by_number.ids(normalised(phone_number)):
                    for rule_id in part.rules_by_trunk.ids(trunk_id):
                        _put_pin(part, rule_id)

    timer = threading.Timer(sandbox.switches.drift_after_s, set_pin)
    timer.daemon = True
    timer.start()


def _put_pin(part: Store, rule_id: str) -> None:
    rule = sip.SIPDispatchRuleInfo()
    rule.CopyFrom(part.livekit_rules.rows[rule_id])
    kind = rule.rule.WhichOneof("rule")
    if kind:
        getattr(rule.rule, kind).pin = PIN
        part.put("livekit_rules", rule_id, rule)


MAGIC_NUMBERS = (
    MagicNumber("+15005550100", "nothing goes wrong"),
    MagicNumber(
        "+15005550101",
        "the number cannot take voice calls",
        "FAILED",
        "number_not_voice",
        {"capabilities": {"voice": False, "sms": True, "mms": True, "fax": False}},
    ),
    MagicNumber(
        "+15005550102",
        "a voice application answers it: only `takeover` moves it, and deprovisioning gives it back",
        "FAILED",
        "number_already_routed",
        {"voice_application_sid": "AP" + "5" * 32},
    ),
    MagicNumber(
        "+15005550103",
        "a Studio flow answers it by its voice URL: it is connected, with that host in `warnings`",
        number={"voice_url": "https://webhooks.twilio.com/v1/Accounts/AC1/Flows/FW1"},
    ),
    MagicNumber(
        "+15005550400",
        "Twilio refuses to put it on a trunk (400)",
        "FAILED",
        "twilio_rejected",
        faults=({"operation": ATTACH, "kind": REJECT, "message": "The number cannot be put on a trunk"},),
    ),
    MagicNumber(
        "+15005550403",
        "Twilio asks for a regulatory bundle first (403, 21649)",
        "FAILED",
        "twilio_forbidden",
        faults=(
            {
                "operation": ATTACH,
                "kind": REJECT,
                "status": 403,
                "code": 21649,
                "message": "The number requires a regulatory bundle",
            },
        ),
    ),
    MagicNumber(
        "+15005550404",
        "somebody releases it after it was checked",
        "FAILED",
        "number_not_in_account",
        follow_up=(CREATE_TRUNK, _vanish),
    ),
    MagicNumber(
        "+15005550408",
        f"every write takes {SLOW_S:g} second",
        faults=tuple({"operation": name, "kind": SLOW, "seconds": SLOW_S} for name in ("livekit.create_*", ATTACH)),
    ),
    MagicNumber(
        "+15005550409",
        "a LiveKit trunk of somebody else has the number",
        "FAILED",
        "livekit_number_conflict",
        is_taken_at_livekit=True,
    ),
    MagicNumber(
        "+15005550412",
        "the LiveKit project may have no more trunks (412)",
        "FAILED",
        "livekit_rejected",
        faults=(
            {
                "operation": CREATE_TRUNK,
                "kind": REJECT,
                "code": "failed_precondition",
                "message": "The plan's limit of SIP trunks is reached",
            },
        ),
    ),
    MagicNumber(
        "+15005550429",
        f"Twilio's rate limit refuses it {RATE_LIMITED_TIMES} times (429), then takes it",
        faults=({"operation": ATTACH, "kind": TOO_MANY, "times": RATE_LIMITED_TIMES, "retryAfterS": 1},),
    ),
    MagicNumber("+15005550486", "no agent answers its calls: a test call ends with `NO_AGENT`", is_answered=False),
    MagicNumber(
        "+15005550499",
        "Twilio puts it on the trunk, and the response is lost",
        faults=({"operation": ATTACH, "kind": APPLY_THEN_DROP, "times": 1},),
    ),
    MagicNumber(
        "+15005550500",
        "it is refused as +15005550400 is, and LiveKit refuses to delete what was made, until you say it is fixed",
        "needs_attention",
        "twilio_rejected",
        faults=(
            {"operation": ATTACH, "kind": REJECT, "message": "The number cannot be put on a trunk"},
            {"operation": DELETE_TRUNK, "kind": REJECT, "message": "The trunk cannot be deleted now"},
        ),
    ),
    MagicNumber(
        "+15005550503",
        "LiveKit makes nothing for it (503): it is tried until `OPERATION_BUDGET_S` is over, a quarter of an hour",
        "FAILED",
        "provider_unavailable",
        faults=({"operation": "livekit.create_*", "kind": HTML_503},),
    ),
    MagicNumber(
        "+15005550600",
        "it is connected, and after 20 s (the switch `driftAfterS`) somebody sets a PIN on its dispatch rule",
        follow_up=(ATTACH, _drift),
    ),
)
"""All of them. The last three digits are the HTTP or SIP status that comes nearest, where there is one. Twilio's own
magic numbers end with 000 to 009."""

BY_NUMBER = {magic.phone_number: magic for magic in MAGIC_NUMBERS}

FOLLOWED = {magic.follow_up[0] for magic in MAGIC_NUMBERS if magic.follow_up}
"""Operations after which something happens."""


def join(sandbox: Sandbox, phone_number: str) -> None:
    """Have the account own a magic number that is looked up, and arm it anew unless a path for it is being built.

    Runs inside a transaction; does nothing for any other number.
    """
    magic = BY_NUMBER.get(phone_number)
    if magic is None:
        return
    store = sandbox.store
    trunks = [row for part in store.parts for row in _rows(part, part.inbound_by_number.ids(normalised(phone_number)))]
    # What is released while a path for it is being built stays away until that is taken down.
    is_released = bool(trunks) and not magic.is_taken_at_livekit
    if not is_released and not any(part.number_by_phone.ids(phone_number) for part in store.parts):
        record = number_record(sandbox.account_sid, phone_number, friendly_name=NAMED, **magic.number)
        store.put("numbers", record["sid"], record)
    if magic.is_taken_at_livekit and not trunks:
        trunk = sip.SIPInboundTrunkInfo(sip_trunk_id=new_id("ST_"), name=FOREIGN_TRUNK, numbers=[phone_number])
        store.part("").put("livekit_trunks", trunk.sip_trunk_id, trunk)
    if not trunks and not _is_on_trunk(store, phone_number):
        sandbox.faults.arm(phone_number, [{**fault, "number": phone_number} for fault in magic.faults])


def _rows(part: Store, trunk_ids: list[str]) -> list[sip.SIPInboundTrunkInfo]:
    return [part.livekit_trunks.rows[trunk_id] for trunk_id in trunk_ids]


def _is_on_trunk(store: Store, phone_number: str) -> bool:
    ids = [(part, sid) for part in store.parts for sid in part.number_by_phone.ids(phone_number)]
    return any(part.numbers.rows[sid]["trunk_sid"] for part, sid in ids)


def join_all(sandbox: Sandbox) -> None:
    """Have the account own every magic number."""
    for phone_number in BY_NUMBER:
        join(sandbox, phone_number)


def is_unlisted(number: Record) -> bool:
    """Say whether lists leave a number out: a magic one that was only looked up, and is on no trunk."""
    return number["phone_number"] in BY_NUMBER and number["friendly_name"] == NAMED and not number["trunk_sid"]


def follow(sandbox: Sandbox, exchange: Exchange) -> None:
    """Do what somebody else does after a request for a magic number that was carried out."""
    for magic in MAGIC_NUMBERS:
        if magic.follow_up and magic.follow_up[0] == exchange.operation:
            names = sandbox.store.names_of(magic.phone_number)
            if any(map(exchange.contains, names)):
                magic.follow_up[1](sandbox, magic.phone_number)


def is_answered(phone_number: str) -> bool:
    """Say whether agents take calls to this number."""
    magic = BY_NUMBER.get(phone_number)
    return magic is None or magic.is_answered


def shown() -> list[dict[str, Any]]:
    """Return the table as the control API has it."""
    return [
        {"phoneNumber": one.phone_number, "happens": one.happens, "ends": one.status, "code": one.code}
        for one in MAGIC_NUMBERS
    ]
