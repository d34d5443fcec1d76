"""LiveKit's SIP outbound trunks, and the old list that shows trunks of both directions."""

import re
from typing import Any

from livekit.protocol import sip

from app.dev.sandbox.livekit_trunks import UNKNOWN, check_headers
from app.dev.sandbox.livekit_wire import (
    check_list_update,
    check_media,
    invalid,
    new_id,
    paged,
    patch_media,
    unknown,
    updated,
)
from app.dev.sandbox.state import Sandbox

Trunk = sip.SIPOutboundTrunkInfo

SIP_URI = re.compile(r"sips?:|.*[@;]", re.DOTALL)
"""What a host name must not look like (livekit/protocol livekit/sip.go, validateHostnameFormat)."""

TEXTS = (
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


def create_outbound_trunk(sandbox: Sandbox, request: sip.CreateSIPOutboundTrunkRequest) -> Trunk:
    """Create a trunk; outbound trunks never conflict."""
    if not request.HasField("trunk"):
        raise invalid("missing trunk")
    if request.trunk.sip_trunk_id:
        raise invalid("trunk id must not be set")
    _check(request.trunk)
    made = Trunk()
    made.CopyFrom(request.trunk)
    made.sip_trunk_id = new_id("ST_")
    sandbox.store.put("livekit_outbound_trunks", made.sip_trunk_id, made)
    return made


def list_outbound_trunks(
    sandbox: Sandbox, request: sip.ListSIPOutboundTrunkRequest
) -> sip.ListSIPOutboundTrunkResponse:
    """List trunks by id; numbers are compared by their exact text."""
    ids, numbers = set(request.trunk_ids), set(request.numbers)

    def keep(trunk: Trunk) -> bool:
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
    return sip.GetSIPOutboundTrunkResponse(trunk=_trunk(sandbox, request.sip_trunk_id))


def update_outbound_trunk(sandbox: Sandbox, request: sip.UpdateSIPOutboundTrunkRequest) -> Trunk:
    """Replace a trunk or patch it."""
    if not request.sip_trunk_id:
        raise invalid("trunk id must be set")
    action = request.WhichOneof("action")
    if action is None:
        raise invalid("missing or unsupported update action")
    if action == "replace":
        if request.replace.sip_trunk_id not in ("", request.sip_trunk_id):
            raise invalid("trunk id in the info must be empty or match the id in the update")
        _check(request.replace)
    else:
        check_list_update(request.update.numbers, is_given=request.update.HasField("numbers"))
        check_media(request.update.media)
    current, changed = _trunk(sandbox, request.sip_trunk_id), Trunk()
    changed.CopyFrom(request.replace if action == "replace" else current)
    changed.sip_trunk_id = request.sip_trunk_id
    if action == "update":
        _patch(changed, request.update)
        _check(changed)
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


def _trunk(sandbox: Sandbox, trunk_id: str) -> Trunk:
    trunk: Trunk | None = sandbox.store.livekit_outbound_trunks.get(trunk_id)
    if trunk is None:
        raise unknown(UNKNOWN)
    return trunk


def _check(trunk: Trunk) -> None:
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


def _patch(trunk: Trunk, change: sip.SIPOutboundTrunkUpdate) -> None:
    if change.HasField("numbers"):
        wanted = updated(trunk.numbers, change.numbers)
        trunk.ClearField("numbers")
        trunk.numbers.extend(wanted)
    for name in TEXTS:
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


def _as_outbound(trunk: Trunk) -> sip.SIPTrunkInfo:
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
