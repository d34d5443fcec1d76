"""The `VoicePlatform` of one LiveKit project, over LiveKit's SDK."""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from livekit import api

from app.domain.errors import ErrorCode
from app.domain.texts import storable
from app.observability.tracing import NO_TELEMETRY, Telemetry
from app.path.marks import TAG_PREFIX, without_mark
from app.path.observed import DispatchRule, InboundTrunk, Unreadable
from app.path.spec import Label
from app.providers.base import read_records
from app.providers.calls import CallInstrumentation
from app.providers.errors import CallFailedError, Outcome, TransientError, translate
from app.providers.livekit_connection import LiveKitConnection, SipCall
from app.providers.livekit_errors import LIVEKIT_TABLE
from app.providers.rate_limiter import RateLimiter

_ID = re.compile(r"(?P<kind>[A-Z]+)_[A-Za-z0-9]{4,64}")
"""LiveKit's ids are `ST_` or `SDR_` and 12 letters and digits; LiveKit Cloud promises no length."""

_NO_TRUNK = "ST_000000000000"
"""A trunk id that LiveKit cannot have made: its alphabet has no 0."""

_GONE = (404, "not_found")

Response = TypeVar("Response")
Info = TypeVar("Info", api.SIPInboundTrunkInfo, api.SIPDispatchRuleInfo)
Record = TypeVar("Record")


class LiveKitPlatform:
    """Inbound trunks and dispatch rules of one project; safe to share between threads.

    `allowed_addresses` are the CIDR blocks that may call our trunks (none: all). `ringing_timeout_s` is how long a
    caller hears it ring when no agent answers; LiveKit's own default is 3 minutes. Rooms are named
    `{room_prefix}_{caller}_{random}`. A dry run gives a `connection` that only records. The connections belong to the
    process: after a fork the child opens its own.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        api_secret: str,
        *,
        timeout_s: float,
        allowed_addresses: Sequence[str] = (),
        ringing_timeout_s: float = 30,
        room_prefix: str = "call",
        rate_limiter: RateLimiter | None = None,
        telemetry: Telemetry = NO_TELEMETRY,
        connection: LiveKitConnection | None = None,
    ) -> None:
        instrumentation = CallInstrumentation("livekit", rate_limiter, telemetry)
        self._livekit = connection or LiveKitConnection(url, api_key, api_secret, timeout_s, instrumentation)
        self._allowed_addresses = tuple(allowed_addresses)
        self._ringing_timeout = timedelta(seconds=ringing_timeout_s)
        self._room_prefix = room_prefix

    def create_inbound_trunk(self, e164: str, label: Label) -> InboundTrunk:
        """Create a trunk for this one number; `RejectedError(livekit_number_conflict)` when another trunk has it."""
        request = api.CreateSIPInboundTrunkRequest(trunk=self._trunk(e164, label))
        operation = "create_inbound_trunk"
        response = self._call(operation, lambda sip: sip.create_inbound_trunk(request), is_write=True)
        return _made(operation, response, _read_trunk)

    def list_inbound_trunks(
        self, e164: str | None = None, unreadable: list[Unreadable] | None = None
    ) -> list[InboundTrunk]:
        """Return the trunks that name this number exactly, wildcards left out, sorted by id; without a number, all."""
        # Never with a page: LiveKit ends the list at the first page on which nothing matches.
        request = api.ListSIPInboundTrunkRequest(numbers=[e164] if e164 else [])
        operation = "list_inbound_trunks"
        response = self._call(operation, lambda sip: sip.list_inbound_trunk(request))
        # LiveKit's filter lets trunks without numbers through, and ignores spaces and dashes.
        named = [item for item in response.items if not e164 or e164 in item.numbers]
        return sorted(_read(operation, named, _read_trunk, unreadable), key=lambda trunk: trunk.id)

    def update_inbound_trunk(self, trunk_id: str, e164: str, label: Label) -> bool:
        """Replace the trunk by what `create_inbound_trunk` makes, in place; False when it is gone."""
        trunk = self._trunk(e164, label)
        checked = _checked_id(trunk_id, "ST")
        return self._update("update_inbound_trunk", lambda sip: sip.update_inbound_trunk(checked, trunk))

    def delete_trunk(self, trunk_id: str) -> None:
        """Delete the trunk; one already gone is success (LiveKit responds with 200 for unknown ids too)."""
        request = api.DeleteSIPTrunkRequest(sip_trunk_id=_checked_id(trunk_id, "ST"))
        self._delete("delete_trunk", lambda sip: sip.delete_trunk(request))

    def create_dispatch_rule(self, trunk_id: str, agent_name: str, job_metadata: str, label: Label) -> DispatchRule:
        """Create an individual rule for this one trunk that starts the named agent, its job given `job_metadata`.

        Its metadata is left empty: everybody in the room reads it.
        """
        # Inside dispatch_rule: LiveKit ignores every field beside it.
        request = api.CreateSIPDispatchRuleRequest(dispatch_rule=self._rule(trunk_id, agent_name, job_metadata, label))
        operation = "create_dispatch_rule"
        response = self._call(operation, lambda sip: sip.create_dispatch_rule(request), is_write=True)
        return _made(operation, response, _read_rule)

    def list_dispatch_rules(
        self, trunk_id: str | None = None, unreadable: list[Unreadable] | None = None
    ) -> list[DispatchRule]:
        """Return the rules that name this trunk (all rules without one, wildcards included), sorted by id."""
        request = api.ListSIPDispatchRuleRequest(trunk_ids=[_checked_id(trunk_id, "ST")] if trunk_id else [])
        operation = "list_dispatch_rules"
        response = self._call(operation, lambda sip: sip.list_dispatch_rule(request))
        naming = [item for item in response.items if not trunk_id or trunk_id in item.trunk_ids]
        return sorted(_read(operation, naming, _read_rule, unreadable), key=lambda rule: rule.id)

    def update_dispatch_rule(
        self, rule_id: str, trunk_id: str, agent_name: str, job_metadata: str, label: Label
    ) -> bool:
        """Replace the rule by what `create_dispatch_rule` makes, in place, its metadata kept; False when it is gone.

        A mark in the metadata, of an earlier release, is taken out. A rule is gone when neither the list nor an update
        knows it.
        """
        rule = self._rule(trunk_id, agent_name, job_metadata, label)
        checked, operation = _checked_id(rule_id, "SDR"), "update_dispatch_rule"
        request = api.ListSIPDispatchRuleRequest(dispatch_rule_ids=[checked])
        response = self._call("list_dispatch_rules", lambda sip: sip.list_dispatch_rule(request))
        now = next((item for item in response.items if item.sip_dispatch_rule_id == checked), None)
        if now is None:
            # Not replaced unseen: the metadata that it may have would be lost.
            if not self._update(operation, lambda sip: sip.update_dispatch_rule_fields(checked, name=label.tag)):
                return False
            raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "LiveKit does not list a rule that it has.")
        rule.metadata = without_mark(now.metadata)
        return self._update(operation, lambda sip: sip.update_dispatch_rule(checked, rule))

    def delete_dispatch_rule(self, rule_id: str) -> bool:
        """Delete the rule; False when LiveKit says that there is none."""
        request = api.DeleteSIPDispatchRuleRequest(sip_dispatch_rule_id=_checked_id(rule_id, "SDR"))
        return self._delete("delete_dispatch_rule", lambda sip: sip.delete_dispatch_rule(request))

    def ping(self) -> None:
        """Make the cheapest call that proves credentials and SIP permission: a look-up that finds nothing."""
        request = api.ListSIPInboundTrunkRequest(trunk_ids=[_NO_TRUNK])
        self._call("ping", lambda sip: sip.list_inbound_trunk(request))

    def close(self) -> None:
        """Close connections; the object is not used afterwards."""
        self._livekit.close()

    def _call(self, operation: str, sip_call: SipCall[Response], *, is_write: bool = False) -> Response:
        try:
            return self._livekit.call(operation, sip_call)
        except CallFailedError as failure:
            raise translate(LIVEKIT_TABLE, "LiveKit", operation, failure, is_write=is_write) from None

    def _trunk(self, e164: str, label: Label) -> api.SIPInboundTrunkInfo:
        ringing_timeout = Duration()
        ringing_timeout.FromTimedelta(self._ringing_timeout)
        return api.SIPInboundTrunkInfo(
            name=label.tag,
            metadata=label.metadata,
            numbers=[e164],
            allowed_addresses=self._allowed_addresses,
            ringing_timeout=ringing_timeout,
        )

    def _rule(self, trunk_id: str, agent_name: str, job_metadata: str, label: Label) -> api.SIPDispatchRuleInfo:
        return api.SIPDispatchRuleInfo(
            name=label.tag,
            trunk_ids=[_checked_id(trunk_id, "ST")],
            rule=api.SIPDispatchRule(
                dispatch_rule_individual=api.SIPDispatchRuleIndividual(room_prefix=self._room_prefix)
            ),
            room_config=api.RoomConfiguration(
                agents=[api.RoomAgentDispatch(agent_name=agent_name, metadata=job_metadata)]
            ),
        )

    def _update(self, operation: str, sip_call: SipCall[object]) -> bool:
        """Update in place; False when there is nothing to update."""
        try:
            self._livekit.call(operation, sip_call)
        except CallFailedError as failure:
            if (failure.status, failure.code) == _GONE:
                return False
            raise translate(LIVEKIT_TABLE, "LiveKit", operation, failure, is_write=True) from None
        return True

    def _delete(self, operation: str, sip_call: SipCall[object]) -> bool:
        """Delete; False when there is nothing to delete."""
        try:
            self._livekit.call(operation, sip_call)
        except CallFailedError as failure:
            # The code as well as the status: a wrong LIVEKIT_URL responds with 404 to everything.
            if (failure.status, failure.code) != _GONE:
                raise translate(LIVEKIT_TABLE, "LiveKit", operation, failure, is_write=False) from None
            return False
        return True


def _read(
    operation: str, items: Iterable[Info], read: Callable[[Info], Record], unreadable: list[Unreadable] | None
) -> list[Record]:
    """Read a list; an empty item stands for one that is gone, where a server keeps the order of the ids asked for."""
    try:
        return read_records((item for item in items if item.ByteSize()), read, _describe, unreadable)
    except CallFailedError as failure:
        raise translate(LIVEKIT_TABLE, "LiveKit", operation, failure, is_write=False) from None


def _made(operation: str, response: Info, read: Callable[[Info], Record]) -> Record:
    """Read what was created; one without a proper id counts as an unreadable response."""
    try:
        return read(response)
    except ValueError:
        failure = CallFailedError(Outcome.UNREADABLE)
        raise translate(LIVEKIT_TABLE, "LiveKit", operation, failure, is_write=True) from None


def _checked_id(value: str, kind: str) -> str:
    """Return `value` when it is an id of this kind: an empty one would mean every trunk of the project."""
    match = _ID.fullmatch(value)
    if match is None or match["kind"] != kind:
        raise ValueError(f"not a {kind}_ id")
    return value


def _describe(info: api.SIPInboundTrunkInfo | api.SIPDispatchRuleInfo) -> Unreadable:
    """Describe an object without a valid id; its name and metadata say whether it may be ours."""
    return Unreadable("", may_be_ours=TAG_PREFIX in info.name or TAG_PREFIX in info.metadata)


def _read_trunk(info: api.SIPInboundTrunkInfo) -> InboundTrunk:
    return InboundTrunk(
        id=_checked_id(info.sip_trunk_id, "ST"),
        name=storable(info.name),
        metadata=storable(info.metadata),
        numbers=_texts(info.numbers),
        allowed_addresses=_texts(info.allowed_addresses),
        has_auth=bool(info.auth_username or info.auth_password),
    )


def _read_rule(info: api.SIPDispatchRuleInfo) -> DispatchRule:
    return DispatchRule(
        id=_checked_id(info.sip_dispatch_rule_id, "SDR"),
        name=storable(info.name),
        metadata=storable(info.metadata),
        trunk_ids=_texts(info.trunk_ids),
        agent_names=_texts(agent.agent_name for agent in info.room_config.agents),
        inbound_numbers=_texts(info.inbound_numbers),
        numbers=_texts(info.numbers),
    )


def _texts(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(map(storable, values))
