"""LiveKit's SIP trunks of both directions. Inbound ones have the conflict check of livekit/protocol, gaps included."""

import re
from collections.abc import Iterable
from typing import Any

from livekit.protocol import sip

from app.dev.sandbox.livekit_wire import (
    WILDCARD,
    TwirpError,
    called_numbers,
    check_list_update,
    check_media,
    invalid,
    new_id,
    normalised,
    paged,
    patch_media,
    unknown,
    updated,
)
from app.dev.sandbox.state import Sandbox

InboundTrunk = sip.SIPInboundTrunkInfo
OutboundTrunk = sip.SIPOutboundTrunkInfo

UNKNOWN = "requested sip trunk does not exist"
LISTS = ("numbers", "allowed_addresses", "allowed_numbers")
"""Fields that a partial update changes by a ListUpdate."""

NO_PROTECTION = "for security, one of the fields must be set: AuthUsername+AuthPassword, AllowedAddresses or Numbers"

HEADER_NAME = re.compile(r"[-.!%*_+`'~0-9A-Za-z]+")
HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\U0010ffff]*")
"""Characters that a header may have (livekit/protocol livekit/sip_validation.go)."""

MAX_HEADER_NAME, MAX_HEADER_VALUE = 255, 1024
"""Bytes."""

OWN_HEADERS = frozenset(
    (
        *("accept", "accept-encoding", "accept-language", "allow", "allow-events", "call-id", "contact"),
        *("content-encoding", "content-length", "content-type", "cseq", "event", "expires", "from", "max-forwards"),
        *("record-route", "refer-to", "reply-to", "k", "l", "m", "o", "r", "t", "u", "v"),
    )
)
"""Headers, and their short forms, that LiveKit writes itself: a trunk must not set them."""


def create_inbound_trunk(sandbox: Sandbox, request: sip.CreateSIPInboundTrunkRequest) -> InboundTrunk:
    """Create a trunk, unless it conflicts with an existing one."""
    if not request.HasField("trunk"):
        raise invalid("missing trunk")
    trunk = request.trunk
    if trunk.sip_trunk_id:
        raise invalid("trunk id must not be set")
    _check_inbound(trunk)
    existing = _candidates(sandbox, trunk)
    _check_conflicts([*existing[:1], trunk, *existing[1:]])
    created = InboundTrunk()
    created.CopyFrom(trunk)
    created.sip_trunk_id = new_id("ST_")
    sandbox.store.put("livekit_trunks", created.sip_trunk_id, created)
    return created


def list_inbound_trunks(sandbox: Sandbox, request: sip.ListSIPInboundTrunkRequest) -> sip.ListSIPInboundTrunkResponse:
    """List trunks by id; a filter by number returns wildcard trunks too."""
    store = sandbox.store
    wanted = {normalised(number) for number in request.numbers}
    ids = set(request.trunk_ids)
    if ids:
        found = ids & store.livekit_trunks.rows.keys()
    elif wanted:
        found = {row_id for number in (*wanted, WILDCARD) for row_id in store.inbound_by_number.ids(number)}
    else:
        found = set(store.livekit_trunks.rows)

    def keep(trunk: InboundTrunk) -> bool:
        if ids and trunk.sip_trunk_id not in ids:
            return False
        return not wanted or not trunk.numbers or not wanted.isdisjoint(called_numbers(trunk))

    page = request.page if request.HasField("page") else None
    candidates = found if page is None else store.livekit_trunks.rows
    rows = [store.livekit_trunks.rows[row_id] for row_id in sorted(candidates)]
    items = paged(rows, page, lambda trunk: trunk.sip_trunk_id, keep)
    return sip.ListSIPInboundTrunkResponse(items=items)


def get_inbound_trunk(sandbox: Sandbox, request: sip.GetSIPInboundTrunkRequest) -> sip.GetSIPInboundTrunkResponse:
    """Return one trunk."""
    if not request.sip_trunk_id:
        raise invalid("trunk ID is required")
    return sip.GetSIPInboundTrunkResponse(trunk=_inbound_trunk(sandbox, request.sip_trunk_id))


def update_inbound_trunk(sandbox: Sandbox, request: sip.UpdateSIPInboundTrunkRequest) -> InboundTrunk:
    """Replace a trunk or patch it.

    The conflict check lists candidates by the new numbers among the kept ones, so a trunk whose numbers are all new is
    not checked at all: LiveKit's own gap (pkg/service/sip.go:222-236), kept on purpose.
    """
    if not request.sip_trunk_id:
        raise invalid("trunk id must be set")
    action = request.WhichOneof("action")
    if action is None:
        raise invalid("missing or unsupported update action")
    if action == "replace" and request.replace.sip_trunk_id not in ("", request.sip_trunk_id):
        raise invalid("trunk id in the info must be empty or match the id in the update")
    if action == "replace":
        _check_inbound(request.replace)
    else:
        for name in LISTS:
            check_list_update(getattr(request.update, name), is_set=request.update.HasField(name))
        check_media(request.update.media)
    current, changed = _inbound_trunk(sandbox, request.sip_trunk_id), InboundTrunk()
    changed.CopyFrom(request.replace if action == "replace" else current)
    changed.sip_trunk_id = request.sip_trunk_id
    if action == "update":
        _patch_inbound(changed, request.update)
        _check_protected(changed, "twirp error unknown: ")
    kept = _candidates(sandbox, changed)
    _check_conflicts([changed if trunk.sip_trunk_id == changed.sip_trunk_id else trunk for trunk in kept])
    sandbox.store.put("livekit_trunks", changed.sip_trunk_id, changed)
    return changed


def delete_trunk(sandbox: Sandbox, request: sip.DeleteSIPTrunkRequest) -> sip.SIPTrunkInfo:
    """Delete a trunk of either direction; an unknown one is fine too, and rules that name it keep its id."""
    if not request.sip_trunk_id:
        raise invalid("trunk ID is required")
    if request.sip_trunk_id in sandbox.store.livekit_trunks.rows:
        sandbox.store.delete("livekit_trunks", request.sip_trunk_id)
    elif request.sip_trunk_id in sandbox.store.livekit_outbound_trunks.rows:
        sandbox.store.delete("livekit_outbound_trunks", request.sip_trunk_id)
    elif sandbox.switches.delete_unknown_trunk_status != 200:  # noqa: PLR2004 - the switch is an HTTP status
        raise unknown(UNKNOWN)
    return sip.SIPTrunkInfo(sip_trunk_id=request.sip_trunk_id)


def _inbound_trunk(sandbox: Sandbox, trunk_id: str) -> InboundTrunk:
    trunk: InboundTrunk | None = sandbox.store.livekit_trunks.get(trunk_id)
    if trunk is None:
        raise unknown(UNKNOWN)
    return trunk


def _candidates(sandbox: Sandbox, trunk: InboundTrunk) -> list[InboundTrunk]:
    return list(list_inbound_trunks(sandbox, sip.ListSIPInboundTrunkRequest(numbers=trunk.numbers)).items)


def _check_inbound(trunk: InboundTrunk) -> None:
    _check_protected(trunk)
    check_media(trunk.media)
    check_headers(trunk)


def _check_protected(trunk: InboundTrunk, prefix: str = "") -> None:
    """Raise the 400 of a trunk that is open to everybody.

    After a partial update the error passes livekit/protocol utils/xtwirp, which puts a prefix before its text.
    """
    if not (trunk.numbers or trunk.allowed_addresses or trunk.auth_username or trunk.auth_password):
        raise invalid(prefix + NO_PROTECTION)


def check_headers(trunk: sip.SIPInboundTrunkInfo | sip.SIPOutboundTrunkInfo) -> None:
    """Raise LiveKit's 400 for a header that it refuses, among those that it sends and those that it maps."""
    for name, value in trunk.headers.items():
        _check_header_name(name)
        if name.lower() in OWN_HEADERS:
            raise invalid(f"invalid header name: header name {name} not supported")
        if len(value.encode()) > MAX_HEADER_VALUE:
            raise invalid(f"invalid header value for {name}: header {name}: value too long (max 1024 characters)")
        if not HEADER_VALUE.fullmatch(value):
            raise invalid(f"invalid header value for {name}: header {name}: value: {_forbidden(HEADER_VALUE, value)}")
    for name in [*trunk.attributes_to_headers.values(), *trunk.headers_to_attributes]:
        _check_header_name(name)


def _check_header_name(name: str) -> None:
    if not name:
        raise invalid("invalid header name: header name cannot be empty")
    if len(name.encode()) > MAX_HEADER_NAME:
        raise invalid("invalid header name: header name too long (max 255 characters)")
    if not HEADER_NAME.fullmatch(name):
        reason = _forbidden(HEADER_NAME, name)
        raise invalid(f"invalid header name: header name {name} contains invalid characters: {reason}")


def _forbidden(allowed: re.Pattern[str], text: str) -> str:
    """Describe the first character that a pattern of single characters does not allow."""
    character = next(character for character in text if not allowed.fullmatch(character))
    if character.isascii():
        return f"char {ord(character)} not allowed"
    return f"char {ord(character)} out of range, consider explicilty adding utf8 characters"


def _quoted(text: str) -> str:
    return f'"{text}"'


def _check_conflicts(trunks: Iterable[InboundTrunk]) -> None:
    """Check the trunks in LiveKit's order; the error names the later one first (livekit/protocol sip.go:292-338)."""
    owners: dict[tuple[str, str], InboundTrunk] = {}
    for trunk in trunks:
        own_id = _quoted(trunk.sip_trunk_id or "<new>")
        numbers = f"[{' '.join(map(_quoted, trunk.numbers))}]" if trunk.numbers else "<any>"
        for called in called_numbers(trunk):
            for allowed in trunk.allowed_numbers or [""]:
                other = owners.setdefault((called, normalised(allowed)), trunk)
                if other is trunk:
                    continue
                is_for_all = not trunk.allowed_numbers
                end = "without AllowedNumbers set" if is_for_all else f"and AllowedNumber {_quoted(allowed)}"
                other_id = _quoted(other.sip_trunk_id or "<new>")
                both = f"{own_id} and {other_id}"
                raise invalid(f"Conflicting inbound SIP Trunks: {both}, using the same number(s) {numbers} {end}")


def _patch_inbound(trunk: InboundTrunk, change: sip.SIPInboundTrunkUpdate) -> None:
    for name in LISTS:
        if change.HasField(name):
            wanted = updated(getattr(trunk, name), getattr(change, name))
            trunk.ClearField(name)
            getattr(trunk, name).extend(wanted)
    for name in ("auth_username", "auth_password", "auth_realm", "name", "metadata"):
        if change.HasField(name):
            setattr(trunk, name, getattr(change, name))
    patch_media(trunk, change)


SIP_URI = re.compile(r"sips?:|.*[@;]", re.DOTALL)
"""What a host name must not look like (livekit/protocol livekit/sip.go, validateHostnameFormat)."""

OUTBOUND_TEXTS = (
    "address",
    "transport",
    "destination_country",
    "auth_username",
    "auth_password",
    "name",
    "metadata",
    "from_host",
)
"""Fields that a partial update sets."""


def create_outbound_trunk(sandbox: Sandbox, request: sip.CreateSIPOutboundTrunkRequest) -> OutboundTrunk:
    """Create a trunk; outbound trunks never conflict."""
    if not request.HasField("trunk"):
        raise invalid("missing trunk")
    if request.trunk.sip_trunk_id:
        raise invalid("trunk id must not be set")
    _check_outbound(request.trunk)
    created = OutboundTrunk()
    created.CopyFrom(request.trunk)
    created.sip_trunk_id = new_id("ST_")
    sandbox.store.put("livekit_outbound_trunks", created.sip_trunk_id, created)
    return created


def list_outbound_trunks(
    sandbox: Sandbox, request: sip.ListSIPOutboundTrunkRequest
) -> sip.ListSIPOutboundTrunkResponse:
    """List trunks by id; numbers are compared by their exact text."""
    ids, numbers = set(request.trunk_ids), set(request.numbers)

    def keep(trunk: OutboundTrunk) -> bool:
        if ids and trunk.sip_trunk_id not in ids:
            return False
        return not numbers or not trunk.numbers or not numbers.isdisjoint(trunk.numbers)

    rows = sandbox.store.livekit_outbound_trunks.rows
    page = request.page if request.HasField("page") else None
    items = paged([rows[row_id] for row_id in sorted(rows)], page, lambda trunk: trunk.sip_trunk_id, keep)
    return sip.ListSIPOutboundTrunkResponse(items=items)


def get_outbound_trunk(sandbox: Sandbox, request: sip.GetSIPOutboundTrunkRequest) -> sip.GetSIPOutboundTrunkResponse:
    """Return one trunk."""
    if not request.sip_trunk_id:
        raise invalid("trunk ID is required")
    return sip.GetSIPOutboundTrunkResponse(trunk=_outbound_trunk(sandbox, request.sip_trunk_id))


def update_outbound_trunk(sandbox: Sandbox, request: sip.UpdateSIPOutboundTrunkRequest) -> OutboundTrunk:
    """Replace a trunk or patch it."""
    if not request.sip_trunk_id:
        raise invalid("trunk id must be set")
    action = request.WhichOneof("action")
    if action is None:
        raise invalid("missing or unsupported update action")
    if action == "replace":
        if request.replace.sip_trunk_id not in ("", request.sip_trunk_id):
            raise invalid("trunk id in the info must be empty or match the id in the update")
        _check_outbound(request.replace)
    else:
        check_list_update(request.update.numbers, is_set=request.update.HasField("numbers"))
        check_media(request.update.media)
    current, changed = _outbound_trunk(sandbox, request.sip_trunk_id), OutboundTrunk()
    changed.CopyFrom(request.replace if action == "replace" else current)
    changed.sip_trunk_id = request.sip_trunk_id
    if action == "update":
        _patch_outbound(changed, request.update)
        try:
            _check_outbound(changed)
        except TwirpError as error:
            # livekit-server returns the bare error here (pkg/service/sip.go, UpdateSIPOutboundTrunk).
            raise TwirpError("unknown", error.message) from None
    sandbox.store.put("livekit_outbound_trunks", changed.sip_trunk_id, changed)
    return changed


def list_trunks(sandbox: Sandbox, request: sip.ListSIPTrunkRequest) -> sip.ListSIPTrunkResponse:
    """List the trunks of both directions in the old shape, by id."""
    shown = [_as_inbound(trunk) for trunk in sandbox.store.livekit_trunks.rows.values()]
    shown += [_as_outbound(trunk) for trunk in sandbox.store.livekit_outbound_trunks.rows.values()]
    shown.sort(key=lambda trunk: trunk.sip_trunk_id)
    page = request.page if request.HasField("page") else None
    items = paged(shown, page, lambda trunk: trunk.sip_trunk_id, lambda _: True)
    return sip.ListSIPTrunkResponse(items=items)


def _outbound_trunk(sandbox: Sandbox, trunk_id: str) -> OutboundTrunk:
    trunk: OutboundTrunk | None = sandbox.store.livekit_outbound_trunks.get(trunk_id)
    if trunk is None:
        raise unknown(UNKNOWN)
    return trunk


def _check_outbound(trunk: OutboundTrunk) -> None:
    if not trunk.numbers:
        raise invalid("no trunk numbers specified")
    if not trunk.address:
        raise invalid("no outbound address specified")
    for value, name in ((trunk.address, "trunk address"), (trunk.from_host, "from_host")):
        if "transport=" in value:
            raise invalid(f"{name} should not contain transport parameter")
        if SIP_URI.match(value):
            raise invalid(f"{name} should be a hostname or IP, not SIP URI")
    check_headers(trunk)
    check_media(trunk.media)


def _patch_outbound(trunk: OutboundTrunk, change: sip.SIPOutboundTrunkUpdate) -> None:
    if change.HasField("numbers"):
        wanted = updated(trunk.numbers, change.numbers)
        trunk.ClearField("numbers")
        trunk.numbers.extend(wanted)
    for name in OUTBOUND_TEXTS:
        if change.HasField(name):
            setattr(trunk, name, getattr(change, name))
    patch_media(trunk, change)


def _as_inbound(trunk: sip.SIPInboundTrunkInfo) -> sip.SIPTrunkInfo:
    return sip.SIPTrunkInfo(
        **_common(trunk),
        kind=sip.SIPTrunkInfo.TRUNK_INBOUND,
        inbound_addresses=trunk.allowed_addresses,
        inbound_numbers=trunk.allowed_numbers,
        inbound_username=trunk.auth_username,
        inbound_password=trunk.auth_password,
    )


def _as_outbound(trunk: OutboundTrunk) -> sip.SIPTrunkInfo:
    return sip.SIPTrunkInfo(
        **_common(trunk),
        kind=sip.SIPTrunkInfo.TRUNK_OUTBOUND,
        outbound_address=trunk.address,
        transport=trunk.transport,
        outbound_username=trunk.auth_username,
        outbound_password=trunk.auth_password,
    )


def _common(trunk: Any) -> dict[str, Any]:
    """Return the fields that both directions have in the old shape; of several numbers it shows the first."""
    number = trunk.numbers[0] if trunk.numbers else ""
    return {
        "sip_trunk_id": trunk.sip_trunk_id,
        "name": trunk.name,
        "metadata": trunk.metadata,
        "outbound_number": number,
    }
