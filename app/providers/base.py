"""The calls that the saga makes to a telephony carrier and a voice platform; records are plain values, no SDK objects.

Every call may raise `TransientError`, `RejectedError` or `UnknownOutcomeError` (writes only) and nothing else, has a
timeout of its own, and is never repeated by the adapter: retries belong to the rows.

A list may hold a record that cannot be read. It goes to `unreadable` where the caller gives one, and the rest is
returned. Without it a record that may be ours fails the call as an unreadable response (`TransientError`): what is
missing from such a list is not known to be gone. Texts are as the provider has them, except for characters that the
database cannot store (`app.domain.texts.storable`).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from app.domain.calls import CallRoom
from app.path.observed import (
    CarrierNumber,
    CarrierTrunk,
    DispatchRule,
    InboundTrunk,
    NumberRouting,
    OriginationUrl,
    Unreadable,
)
from app.path.spec import DispatchRuleSpec, InboundTrunkSpec, OriginationUrlSpec, TrunkSpec
from app.providers.errors import MALFORMED, CallFailedError, Outcome


class Carrier(Protocol):
    """The carrier side: numbers, trunks and origination URLs of one Twilio account."""

    def find_number(self, e164: str) -> CarrierNumber:
        """Return the number with exactly this E.164 text; `RejectedError(number_not_in_account)` when none has."""

    def get_number(self, number_sid: str) -> CarrierNumber:
        """Return the number as it is now; `RejectedError(number_not_in_account)` when it left the account."""

    def list_numbers(self, unreadable: list[Unreadable] | None = None) -> list[CarrierNumber]:
        """Return every number of the account."""

    def create_trunk(self, spec: TrunkSpec) -> CarrierTrunk:
        """Create a trunk named by the tag, without a domain."""

    def get_trunk(self, trunk_sid: str) -> CarrierTrunk | None:
        """Return the trunk, or None when it does not exist."""

    def list_trunks(self, unreadable: list[Unreadable] | None = None) -> list[CarrierTrunk]:
        """Return every trunk of the account, oldest first."""

    def list_trunk_numbers(self, trunk_sid: str) -> list[str]:
        """Return the sids of the numbers on the trunk; empty when the trunk is gone."""

    def update_trunk(self, now: CarrierTrunk, wanted: CarrierTrunk) -> bool:
        """Write the fields in which `wanted` differs from `now`, just read, and no others; False when it is gone.

        Without a difference nothing is sent.
        """

    def delete_trunk(self, trunk_sid: str) -> bool:
        """Delete the trunk, whatever is on it; False when Twilio says that there is none."""

    def create_origination_url(self, trunk_sid: str, spec: OriginationUrlSpec) -> OriginationUrl:
        """Create an enabled origination URL on the trunk; `RejectedError` on a 404 as for `attach_number`."""

    def list_origination_urls(self, trunk_sid: str, unreadable: list[Unreadable] | None = None) -> list[OriginationUrl]:
        """Return the trunk's origination URLs, oldest first; empty when the trunk is gone."""

    def update_origination_url(self, now: OriginationUrl, wanted: OriginationUrl) -> bool:
        """Write the fields in which `wanted` differs from `now`, just read, and no others; False when it is gone.

        Without a difference nothing is sent.
        """

    def delete_origination_url(self, trunk_sid: str, url_sid: str) -> bool:
        """Delete the origination URL; False when Twilio says that there is none."""

    def attach_number(self, trunk_sid: str, number_sid: str, now: NumberRouting) -> None:
        """Put the number on the trunk; Twilio moves it silently from another one, so look first.

        `now` is what the caller has just read of it. `RejectedError`: `twilio_trunk_gone` on a 404, and
        `twilio_unsupported` where the trunk can be read and no way works; Twilio may not know a new trunk yet.
        """

    def move_number(self, number_sid: str, trunk_sid: str) -> None:
        """Move the number from the trunk that it is on to another, in one write: it rings throughout. Look first.

        `RejectedError(twilio_trunk_gone)` when there is no such trunk: the number stays where it is.
        """

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

    def create_inbound_trunk(self, spec: InboundTrunkSpec) -> InboundTrunk:
        """Create a trunk for this one number; `RejectedError(livekit_number_conflict)` when another trunk has it."""

    def list_inbound_trunks(self, *e164: str, unreadable: list[Unreadable] | None = None) -> list[InboundTrunk]:
        """Return the trunks that a call to one of these numbers may match: those with it, and those without numbers.

        A number counts in any form that LiveKit takes for the same. Without numbers all; sorted by id.
        """

    def get_inbound_trunk(self, trunk_id: str) -> InboundTrunk | None:
        """Return the trunk, or None when LiveKit does not list it."""

    def update_inbound_trunk(self, now: InboundTrunk, wanted: InboundTrunk) -> bool:
        """Write the fields in which `wanted` differs from `now`, just read, and the rest of it back as it was.

        False when it is gone; without a difference nothing is sent.
        """

    def take_numbers_off(self, trunk_id: str, numbers: Sequence[str]) -> bool:
        """Take numbers off a trunk, each as it is written there; the rest of it is not sent. False when it is gone.

        Never all of them: a trunk without numbers takes the calls of every number.
        """

    def delete_trunk(self, trunk_id: str) -> None:
        """Delete the trunk; one already gone is success (LiveKit responds with 200 for unknown ids too)."""

    def create_dispatch_rule(self, spec: DispatchRuleSpec) -> DispatchRule:
        """Create an individual rule for this one trunk that starts the named agent, its job given its metadata.

        The rule's own metadata is left empty: everybody in the room reads it.
        """

    def list_dispatch_rules(self, *trunk_ids: str, unreadable: list[Unreadable] | None = None) -> list[DispatchRule]:
        """Return the rules that a call on one of these trunks may match: those that name it, and those without trunks.

        Without trunks all; sorted by id.
        """

    def get_dispatch_rule(self, rule_id: str) -> DispatchRule | None:
        """Return the rule, or None when LiveKit does not list it."""

    def update_dispatch_rule(self, now: DispatchRule, wanted: DispatchRule) -> bool:
        """Write the fields in which `wanted` differs from `now`, just read, and the rest of it back as it was.

        False when it is gone; without a difference nothing is sent. An agent that is in both keeps all its fields, and
        one that takes another's place in the list gets the other's: only its name and metadata are written.
        """

    def delete_dispatch_rule(self, rule_id: str) -> bool:
        """Delete the rule; False when LiveKit says that there is none."""

    def find_call(
        self, sip_call_id: str, caller: str, called: str, room: str = "", others: set[str] | None = None
    ) -> CallRoom | None:
        """Return the room of a SIP call that is under way, or None where LiveKit shows none.

        Several requests. `room` is looked at first. Rooms of other calls are added to `others`, and those that are in
        it passed over. `RejectedError` where the key may not look.
        """

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
