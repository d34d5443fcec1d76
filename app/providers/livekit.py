"""The `VoicePlatform` of one LiveKit project, over LiveKit's SDK."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TypeVar

from livekit import api
from livekit.protocol.agent_dispatch import AgentDispatch
from livekit.protocol.models import ListUpdate

from app.domain.calls import CallRoom
from app.observability.tracing import NO_TELEMETRY, Telemetry
from app.path.observed import DispatchRule, InboundTrunk, Unreadable
from app.path.spec import DispatchRuleSpec, InboundTrunkSpec
from app.providers.base import read_records
from app.providers.calls import CallInstrumentation
from app.providers.errors import CallFailedError, Outcome, ProviderError, translate
from app.providers.livekit_connection import LiveKitCall, LiveKitConnection
from app.providers.livekit_errors import LIVEKIT_TABLE
from app.providers.livekit_records import (
    changed_rule,
    changed_trunk,
    checked_id,
    is_caller,
    is_of_other_call,
    new_rule,
    new_trunk,
    read_call_room,
    read_rule,
    read_trunk,
    rooms_of_call,
    unreadable_record,
)
from app.providers.rate_limiter import RateLimiter

_NO_TRUNK = "ST_000000000000"
"""A trunk id that LiveKit cannot have made: its alphabet has no 0."""

_GONE = (404, "not_found")

Response = TypeVar("Response")
Info = TypeVar("Info", api.SIPInboundTrunkInfo, api.SIPDispatchRuleInfo)
Record = TypeVar("Record")


class LiveKitPlatform:
    """Inbound trunks, dispatch rules and calls of one project; safe to share between threads.

    A dry run gives a `connection` that only records. The connections belong to the process: after a fork the child
    opens its own. `secrets` are masked in what LiveKit says, besides its own key and secret.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        api_secret: str,
        *,
        timeout_s: float,
        secrets: Collection[str] = (),
        rate_limiter: RateLimiter | None = None,
        telemetry: Telemetry = NO_TELEMETRY,
        connection: LiveKitConnection | None = None,
    ) -> None:
        instrumentation = CallInstrumentation("livekit", rate_limiter, telemetry)
        self._secrets = {api_key, api_secret, *secrets}
        self._livekit = connection or LiveKitConnection(url, api_key, api_secret, timeout_s, instrumentation)

    def create_inbound_trunk(self, spec: InboundTrunkSpec) -> InboundTrunk:
        """Create a trunk for this one number; `RejectedError(livekit_number_conflict)` when another trunk has it."""
        request = api.CreateSIPInboundTrunkRequest(trunk=new_trunk(spec))
        operation = "create_inbound_trunk"
        response = self._call(operation, lambda sip: sip.create_inbound_trunk(request), is_write=True)
        return _made(operation, response, read_trunk)

    def list_inbound_trunks(self, *e164: str, unreadable: list[Unreadable] | None = None) -> list[InboundTrunk]:
        """Return the trunks that a call to one of these numbers may match: those with it, and those without numbers.

        A number counts in any form that LiveKit takes for the same. Without numbers all; sorted by id.
        """
        # Never with a page: LiveKit ends the list at the first page on which nothing matches.
        request = api.ListSIPInboundTrunkRequest(numbers=e164)
        operation = "list_inbound_trunks"
        response = self._call(operation, lambda sip: sip.list_inbound_trunk(request))
        return sorted(_read(operation, response.items, read_trunk, unreadable), key=lambda trunk: trunk.id)

    def get_inbound_trunk(self, trunk_id: str) -> InboundTrunk | None:
        """Return the trunk, or None when LiveKit does not list it."""
        request = api.ListSIPInboundTrunkRequest(trunk_ids=[checked_id(trunk_id, "ST")])
        operation = "get_inbound_trunk"
        response = self._call(operation, lambda sip: sip.list_inbound_trunk(request))
        found = [item for item in response.items if item.sip_trunk_id == trunk_id]
        return next(iter(_read(operation, found, read_trunk, None)), None)

    def update_inbound_trunk(self, now: InboundTrunk, wanted: InboundTrunk) -> bool:
        """Write the fields in which `wanted` differs from `now`, just read, and the rest of it back as it was.

        False when it is gone; without a difference nothing is sent.
        """
        if now == wanted:
            return True
        trunk = changed_trunk(now, wanted)
        return self._update("update_inbound_trunk", lambda sip: sip.update_inbound_trunk(now.id, trunk))

    def take_numbers_off(self, trunk_id: str, numbers: Sequence[str]) -> bool:
        """Take numbers off a trunk, each as it is written there; False when it is gone.

        By a list update, so that what others change on it meanwhile is not written back as it was.
        """
        checked_id(trunk_id, "ST")
        removal = ListUpdate(remove=numbers)
        return self._update(
            "update_inbound_trunk", lambda sip: sip.update_inbound_trunk_fields(trunk_id, numbers=removal)
        )

    def delete_trunk(self, trunk_id: str) -> None:
        """Delete the trunk; one already gone is success (LiveKit responds with 200 for unknown ids too)."""
        request = api.DeleteSIPTrunkRequest(sip_trunk_id=checked_id(trunk_id, "ST"))
        self._delete("delete_trunk", lambda sip: sip.delete_trunk(request))

    def create_dispatch_rule(self, spec: DispatchRuleSpec) -> DispatchRule:
        """Create an individual rule for this one trunk that starts the named agent, its job given its metadata.

        The rule's own metadata is left empty: everybody in the room reads it.
        """
        # Inside dispatch_rule: LiveKit ignores every field beside it.
        request = api.CreateSIPDispatchRuleRequest(dispatch_rule=new_rule(spec))
        operation = "create_dispatch_rule"
        response = self._call(operation, lambda sip: sip.create_dispatch_rule(request), is_write=True)
        return _made(operation, response, read_rule)

    def list_dispatch_rules(self, *trunk_ids: str, unreadable: list[Unreadable] | None = None) -> list[DispatchRule]:
        """Return the rules that a call on one of these trunks may match: those that name it, and those without trunks.

        Without trunks all; sorted by id.
        """
        request = api.ListSIPDispatchRuleRequest(trunk_ids=[checked_id(one, "ST") for one in trunk_ids])
        operation = "list_dispatch_rules"
        response = self._call(operation, lambda sip: sip.list_dispatch_rule(request))
        return sorted(_read(operation, response.items, read_rule, unreadable), key=lambda rule: rule.id)

    def get_dispatch_rule(self, rule_id: str) -> DispatchRule | None:
        """Return the rule, or None when LiveKit does not list it."""
        request = api.ListSIPDispatchRuleRequest(dispatch_rule_ids=[checked_id(rule_id, "SDR")])
        operation = "get_dispatch_rule"
        response = self._call(operation, lambda sip: sip.list_dispatch_rule(request))
        found = [item for item in response.items if item.sip_dispatch_rule_id == rule_id]
        return next(iter(_read(operation, found, read_rule, None)), None)

    def update_dispatch_rule(self, now: DispatchRule, wanted: DispatchRule) -> bool:
        """Write the fields in which `wanted` differs from `now`, just read, and the rest of it back as it was.

        False when it is gone; without a difference nothing is sent. An agent that is in both keeps all its fields, and
        one that takes another's place in the list gets the other's: only its name and metadata are written.
        """
        if now == wanted:
            return True
        rule = changed_rule(now, wanted)
        return self._update("update_dispatch_rule", lambda sip: sip.update_dispatch_rule(now.id, rule))

    def delete_dispatch_rule(self, rule_id: str) -> bool:
        """Delete the rule; False when LiveKit says that there is none."""
        request = api.DeleteSIPDispatchRuleRequest(sip_dispatch_rule_id=checked_id(rule_id, "SDR"))
        return self._delete("delete_dispatch_rule", lambda sip: sip.delete_dispatch_rule(request))

    def find_call(
        self, sip_call_id: str, caller: str, called: str, room: str = "", others: set[str] | None = None
    ) -> CallRoom | None:
        """Return the room of a SIP call that is under way, or None where LiveKit shows none.

        Lists rooms, the participants of a few and what was dispatched to the one that is found; `room` is looked at
        first. Rooms that were made for other calls are added to `others`, and those that are in it passed over.
        `RejectedError` where the key may not look.
        """
        others = set() if others is None else others
        for name in self._rooms_of_call(caller, called, room, others):
            participants = self._participants(name)
            found = next((one for one in participants if is_caller(one, sip_call_id, caller, called)), None)
            if found is not None:
                return read_call_room(name, found, participants, self._dispatched(name))
            if is_of_other_call(name, participants, called):
                others.add(name)
        return None

    def _rooms_of_call(self, caller: str, called: str, room: str, others: Collection[str]) -> Iterator[str]:
        """Yield the rooms in which a call may be, `room` before any is listed."""
        if room:
            yield room
        response = self._call("list_rooms", lambda livekit: livekit.list_rooms(api.ListRoomsRequest()))
        yield from rooms_of_call(response.rooms, caller, called, {room, *others})

    def _participants(self, room: str) -> Sequence[api.ParticipantInfo]:
        """Return who is in a room; nobody where it has just ended."""
        request = api.ListParticipantsRequest(room=room)
        try:
            return self._livekit.call(
                "list_participants", lambda livekit: livekit.list_participants(request)
            ).participants
        except CallFailedError as failure:
            if (failure.status, failure.code) == _GONE:
                return ()
            raise self._translated("list_participants", failure, is_write=False) from None

    def _dispatched(self, room: str) -> Sequence[AgentDispatch]:
        """Return what was dispatched to a room; nothing where LiveKit does not say: the call goes on all the same."""
        try:
            return self._livekit.call("list_dispatches", lambda livekit: livekit.list_dispatch(room))
        except CallFailedError:
            return ()

    def ping(self) -> None:
        """Make the cheapest call that proves credentials and SIP permission: a look-up that finds nothing."""
        request = api.ListSIPInboundTrunkRequest(trunk_ids=[_NO_TRUNK])
        self._call("ping", lambda sip: sip.list_inbound_trunk(request))

    def close(self) -> None:
        """Close connections; the object is not used afterwards."""
        self._livekit.close()

    def _call(self, operation: str, livekit_call: LiveKitCall[Response], *, is_write: bool = False) -> Response:
        try:
            return self._livekit.call(operation, livekit_call)
        except CallFailedError as failure:
            raise self._translated(operation, failure, is_write=is_write) from None

    def _translated(self, operation: str, failure: CallFailedError, *, is_write: bool) -> ProviderError:
        return translate(LIVEKIT_TABLE, "LiveKit", operation, failure, is_write=is_write, secrets=self._secrets)

    def _update(self, operation: str, livekit_call: LiveKitCall[object]) -> bool:
        """Update in place; False when there is nothing to update."""
        try:
            self._livekit.call(operation, livekit_call)
        except CallFailedError as failure:
            if (failure.status, failure.code) == _GONE:
                return False
            raise self._translated(operation, failure, is_write=True) from None
        return True

    def _delete(self, operation: str, livekit_call: LiveKitCall[object]) -> bool:
        """Delete; False when there is nothing to delete."""
        try:
            self._livekit.call(operation, livekit_call)
        except CallFailedError as failure:
            # The code as well as the status: a wrong LIVEKIT_URL responds with 404 to everything.
            if (failure.status, failure.code) != _GONE:
                raise self._translated(operation, failure, is_write=False) from None
            return False
        return True


def _read(
    operation: str, items: Iterable[Info], read: Callable[[Info], Record], unreadable: list[Unreadable] | None
) -> list[Record]:
    """Read a list; an empty item stands for one that is gone, where a server keeps the order of the ids asked for."""
    try:
        return read_records((item for item in items if item.ByteSize()), read, unreadable_record, unreadable)
    except CallFailedError as failure:
        raise translate(LIVEKIT_TABLE, "LiveKit", operation, failure, is_write=False) from None


def _made(operation: str, response: Info, read: Callable[[Info], Record]) -> Record:
    """Read what was created; one without a proper id counts as an unreadable response."""
    try:
        return read(response)
    except ValueError:
        failure = CallFailedError(Outcome.UNREADABLE)
        raise translate(LIVEKIT_TABLE, "LiveKit", operation, failure, is_write=True) from None
