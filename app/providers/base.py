"""The calls that the saga makes to a telephony carrier and a voice platform; records are plain values, no SDK objects.

Every call may raise `TransientError`, `RejectedError` or `UnknownOutcomeError` (writes only) and nothing else, has a
timeout of its own, and is never repeated by the adapter: retries belong to the rows.

A list may hold a record that cannot be read. It goes to `unreadable` where the caller gives one, and the rest is
returned. Without it a record that may be ours fails the call as an unreadable response (`TransientError`): what is
missing from such a list is not known to be gone. Texts are as the provider has them, except for characters that the
database cannot store (`app.domain.texts.storable`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeVar

from app.providers.errors import MALFORMED, CallFailedError, Outcome


@dataclass(frozen=True, slots=True)
class NumberRouting:
    """Where a number sends its calls today; what `previous_routing` keeps so that undo can put it back."""

    trunk_sid: str | None
    voice_application_sid: str | None
    voice_url: str | None


@dataclass(frozen=True, slots=True)
class CarrierNumber:
    """A phone number that the carrier account owns; `sid` is `PN` + 32 hex."""

    sid: str
    phone_number: str
    account_sid: str
    is_voice: bool
    """Voice-capable, in use, and not set to receive fax."""
    routing: NumberRouting


@dataclass(frozen=True, slots=True)
class CarrierTrunk:
    """An Elastic SIP trunk; `sid` is `TK` + 32 hex, `tag` its FriendlyName."""

    sid: str
    tag: str
    is_secure: bool
    created_at: datetime | None


@dataclass(frozen=True, slots=True)
class OriginationUrl:
    """Where a trunk sends incoming calls; `sid` is `OU` + 32 hex."""

    sid: str
    trunk_sid: str
    sip_url: str
    is_enabled: bool
    tag: str
    created_at: datetime | None


@dataclass(frozen=True, slots=True)
class InboundTrunk:
    """A LiveKit inbound trunk; `id` is `ST_` + 12 chars. `metadata` is the JSON text as stored."""

    id: str
    name: str
    metadata: str
    numbers: tuple[str, ...]
    allowed_addresses: tuple[str, ...] = ()
    has_auth: bool = False


@dataclass(frozen=True, slots=True)
class DispatchRule:
    """A LiveKit dispatch rule; `id` is `SDR_` + 12 chars. With empty `trunk_ids` it is a project-wide wildcard."""

    id: str
    name: str
    metadata: str
    trunk_ids: tuple[str, ...]
    agent_names: tuple[str, ...]
    inbound_numbers: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record of a list that cannot be read: a field that decides something is missing, or is of another type."""

    external_id: str
    """Empty where the id cannot be read either."""
    may_be_ours: bool
    """False where its name or metadata could be read and Trunkline's mark is not in it."""


@dataclass(frozen=True, slots=True)
class Label:
    """How a resource of ours is marked: `tag` (at most 64 chars, as Twilio's FriendlyName), and a trunk's `metadata`.

    `metadata` is JSON for LiveKit trunks only: a dispatch rule's belongs to the user (`app.path.marks`).
    """

    tag: str
    metadata: str = field(default="{}")


class Carrier(Protocol):
    """The carrier side: numbers, trunks and origination URLs of one Twilio account."""

    def find_number(self, e164: str) -> CarrierNumber:
        """Return the number with exactly this E.164 text; `RejectedError(number_not_in_account)` when none has."""

    def get_number(self, number_sid: str) -> CarrierNumber:
        """Return the number as it is now; `RejectedError(number_not_in_account)` when it left the account."""

    def list_numbers(self, unreadable: list[Unreadable] | None = None) -> list[CarrierNumber]:
        """Return every number of the account."""

    def create_trunk(self, label: Label) -> CarrierTrunk:
        """Create a trunk named by the tag, without a domain."""

    def get_trunk(self, trunk_sid: str) -> CarrierTrunk | None:
        """Return the trunk, or None when it does not exist."""

    def list_trunks(self, unreadable: list[Unreadable] | None = None) -> list[CarrierTrunk]:
        """Return every trunk of the account, oldest first."""

    def list_trunk_numbers(self, trunk_sid: str) -> list[str]:
        """Return the sids of the numbers on the trunk; empty when the trunk is gone."""

    def update_trunk(self, trunk_sid: str, label: Label) -> bool:
        """Name the trunk by the tag and let it take plain calls (`secure` off); False when it is gone."""

    def delete_trunk(self, trunk_sid: str) -> bool:
        """Delete the trunk, whatever is on it; False when Twilio says that there is none."""

    def create_origination_url(self, trunk_sid: str, sip_url: str, label: Label) -> OriginationUrl:
        """Create an enabled origination URL on the trunk."""

    def list_origination_urls(self, trunk_sid: str, unreadable: list[Unreadable] | None = None) -> list[OriginationUrl]:
        """Return the trunk's origination URLs, oldest first; empty when the trunk is gone."""

    def update_origination_url(self, trunk_sid: str, url_sid: str, sip_url: str, label: Label) -> bool:
        """Make the URL an enabled one to `sip_url`, named by the tag; False when it is gone."""

    def delete_origination_url(self, trunk_sid: str, url_sid: str) -> bool:
        """Delete the origination URL; False when Twilio says that there is none."""

    def attach_number(self, trunk_sid: str, number_sid: str) -> None:
        """Put the number on the trunk; Twilio moves it silently from another one, so look first."""

    def detach_number(self, trunk_sid: str, number_sid: str) -> None:
        """Take the number off this trunk and no other; a number that is not on it is success."""

    def restore_routing(self, number_sid: str, routing: NumberRouting, now: NumberRouting) -> None:
        """Give a number that is free its former trunk back, or else its voice application and voice URL.

        `now` is what the caller has just read of it: only what is missing there is written.
        """

    def ping(self) -> None:
        """Make the cheapest call that proves credentials and trunking permission."""


class VoicePlatform(Protocol):
    """The voice side: inbound trunks and dispatch rules of one LiveKit project."""

    def create_inbound_trunk(self, e164: str, label: Label) -> InboundTrunk:
        """Create a trunk for this one number; `RejectedError(livekit_number_conflict)` when another trunk has it."""

    def list_inbound_trunks(
        self, e164: str | None = None, unreadable: list[Unreadable] | None = None
    ) -> list[InboundTrunk]:
        """Return the trunks that name this number exactly, wildcards left out; without one all; sorted by id."""

    def update_inbound_trunk(self, trunk_id: str, e164: str, label: Label) -> bool:
        """Replace the trunk by what `create_inbound_trunk` makes, in place; False when it is gone."""

    def delete_trunk(self, trunk_id: str) -> None:
        """Delete the trunk; one already gone is success (LiveKit responds with 200 for unknown ids too)."""

    def create_dispatch_rule(self, trunk_id: str, agent_name: str, job_metadata: str, label: Label) -> DispatchRule:
        """Create an individual rule for this one trunk that starts the named agent, its job given `job_metadata`.

        Its metadata is left empty: everybody in the room reads it.
        """

    def list_dispatch_rules(
        self, trunk_id: str | None = None, unreadable: list[Unreadable] | None = None
    ) -> list[DispatchRule]:
        """Return the rules that name this trunk (all rules without one, wildcards included), sorted by id."""

    def update_dispatch_rule(
        self, rule_id: str, trunk_id: str, agent_name: str, job_metadata: str, label: Label
    ) -> bool:
        """Replace the rule by what `create_dispatch_rule` makes, in place, its metadata kept; False when it is gone.

        A mark in the metadata, of an earlier release, is taken out.
        """

    def delete_dispatch_rule(self, rule_id: str) -> bool:
        """Delete the rule; False when LiveKit says that there is none."""

    def ping(self) -> None:
        """Make the cheapest call that proves credentials and SIP permission."""

    def close(self) -> None:
        """Close connections; the object is not used afterwards."""


Raw = TypeVar("Raw")
Record = TypeVar("Record")


def read_records(
    rows: Iterable[Raw],
    read: Callable[[Raw], Record],
    describe: Callable[[Raw], Unreadable],
    unreadable: list[Unreadable] | None,
) -> list[Record]:
    """Return what can be read; the rest goes to `unreadable`.

    Without that list a record that may be ours raises `CallFailedError`, and one that is somebody else's is left out.
    """
    found = []
    for row in rows:
        try:
            found.append(read(row))
        except MALFORMED:
            odd = describe(row)
            if unreadable is not None:
                unreadable.append(odd)
            elif odd.may_be_ours:
                raise CallFailedError(Outcome.UNREADABLE) from None
    return found
