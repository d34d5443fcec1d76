"""The two real adapters, pointed at a sandbox, and what a test asks it afterwards."""

import json
import urllib.request

from livekit import api

from app.dev.sandbox import ACCOUNT_SID, AUTH_TOKEN, LIVEKIT_API_KEY, LIVEKIT_API_SECRET
from app.domain.sip_uris import parse_sip_uri
from app.path.livekit_matching import TWILIO_SIGNALLING
from app.path.observed import NumberRouting
from app.path.spec import DispatchRuleSpec, InboundTrunkSpec, Label, OriginationUrlSpec, Profile, TrunkSpec
from app.providers.livekit import LiveKitPlatform
from app.providers.request_recorder import RecordedLiveKitConnection, RecordedTwilioHttp, RequestRecorder
from app.providers.twilio import TwilioCarrier
from tests.support.sandbox import Sandbox

E164 = "+15145551234"
SIP_URL = "sip:sandbox.sip.livekit.cloud;transport=tcp"
APPLICATION = "AP" + "e" * 32
LABEL = Label("trunkline:agent-1", '{"agent":"1"}')
TRUNK_SPEC = TrunkSpec(LABEL.tag)
URL_SPEC = OriginationUrlSpec(LABEL.tag, parse_sip_uri(SIP_URL))
UNROUTED = NumberRouting(None, None, None)
ADDRESSES = TWILIO_SIGNALLING
PROFILE = Profile(parse_sip_uri(SIP_URL), allowed_addresses=ADDRESSES)


def carrier_at(sandbox: Sandbox, timeout_s: float = 5.0, password: str = "") -> TwilioCarrier:
    return TwilioCarrier(
        ACCOUNT_SID, ACCOUNT_SID, password or AUTH_TOKEN, timeout_s=timeout_s, base_url=sandbox.base_url
    )


def platform_at(
    sandbox: Sandbox, timeout_s: float = 5.0, secret: str = LIVEKIT_API_SECRET, key: str = LIVEKIT_API_KEY
) -> LiveKitPlatform:
    return LiveKitPlatform(sandbox.base_url, key, secret, timeout_s=timeout_s)


def inbound_spec(e164: str = E164) -> InboundTrunkSpec:
    return InboundTrunkSpec(LABEL, e164, ADDRESSES)


def rule_spec(trunk_id: str) -> DispatchRuleSpec:
    return DispatchRuleSpec(LABEL.tag, trunk_id, "receptionist", '{"role": "front desk"}')


def recording_adapters(recorder: RequestRecorder) -> tuple[TwilioCarrier, LiveKitPlatform]:
    """Both adapters over a recorder, with the settings of `carrier_at` and `platform_at`."""
    connection = RecordedLiveKitConnection(recorder, "http://127.0.0.1", LIVEKIT_API_KEY, LIVEKIT_API_SECRET)
    carrier = TwilioCarrier(ACCOUNT_SID, ACCOUNT_SID, AUTH_TOKEN, timeout_s=5, http=RecordedTwilioHttp(recorder))
    platform = LiveKitPlatform(
        "http://127.0.0.1",
        LIVEKIT_API_KEY,
        LIVEKIT_API_SECRET,
        timeout_s=5,
        connection=connection,
    )
    return carrier, platform


def last_seen(sandbox: Sandbox) -> int:
    return max((request["seq"] for request in sandbox.requests()), default=0)


def operations(sandbox: Sandbox, after: int = 0) -> list[str]:
    return [request["operation"] for request in sandbox.requests(after)]


def number_of(sandbox: Sandbox, e164: str = E164) -> dict[str, str]:
    return next(number for number in sandbox.state()["numbers"] if number["phone_number"] == e164)


def made_by_hand(sandbox: Sandbox, method: str, body: dict[str, object]) -> dict[str, str]:
    """Create something that the adapter never would."""
    token = api.AccessToken(LIVEKIT_API_KEY, LIVEKIT_API_SECRET).with_sip_grants(api.SIPGrants(admin=True)).to_jwt()
    request = urllib.request.Request(  # noqa: S310
        f"{sandbox.base_url}/twirp/livekit.SIP/{method}",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        return json.load(answer)
