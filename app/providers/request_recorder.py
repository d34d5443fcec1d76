"""Records the requests that the adapters build for a provisioning, and sends none of them.

The adapters are the real ones: only what carries a request to a provider is replaced. Each request gets the response of
a provisioning in which nothing goes wrong. What it creates has a made-up id, which the recorded requests show as
`{step}`.
"""

import json
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from livekit import api
from livekit.protocol import sip
from twilio.http import HttpClient
from twilio.http.response import Response as TwilioResponse

from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, NUMBER, ORIGINATION_URL, TRUNK
from app.path.spec import OriginationUrlSpec, TrunkSpec
from app.providers.livekit_connection import LiveKitCall, LiveKitConnection, Response

MADE_UP_IDS = {
    NUMBER: "PN" + "0" * 31 + "1",
    TRUNK: "TK" + "0" * 31 + "2",
    ORIGINATION_URL: "OU" + "0" * 31 + "3",
    INBOUND_TRUNK: "ST_000000000004",
    DISPATCH_RULE: "SDR_000000000005",
}
"""Step -> the id of what it makes. They pass the adapters' checks, and no provider has made them."""

TRANSFER_MODE = "disable-all"
"""Twilio's own, where none is asked for."""


@dataclass(frozen=True)
class RecordedRequest:
    """One request as it would be sent."""

    provider: str
    method: str
    path: str
    parameters: dict[str, Any]
    """Query or form fields, or the JSON of the message."""


class RequestRecorder:
    """Takes the place of both providers for one provisioning; `number_sid` is None where the number is not known.

    Safe to use from several threads, as verification does.
    """

    def __init__(self, e164: str, number_sid: str | None, account_sid: str, shown_as: Mapping[str, str]) -> None:
        self.requests: list[RecordedRequest] = []
        placeholders = {made_up: f"{{{step}}}" for step, made_up in MADE_UP_IDS.items()}
        self._shown_as = {**placeholders, account_sid: "{account}", **shown_as}
        self._lock = threading.Lock()
        self._number: dict[str, Any] = {
            "sid": number_sid or MADE_UP_IDS[NUMBER],
            "account_sid": account_sid,
            "phone_number": e164,
            "capabilities": {"voice": True},
        }
        self._trunk: dict[str, Any] = {"sid": MADE_UP_IDS[TRUNK]}
        self._url: dict[str, Any] = {}
        self._inbound_trunk = api.SIPInboundTrunkInfo()
        self._rule = api.SIPDispatchRuleInfo()

    def have_trunk(self, sid: str, spec: TrunkSpec) -> None:
        """Have a trunk from the start, as its numbers want it."""
        mode = spec.transfer_mode or TRANSFER_MODE
        self._trunk = {"sid": sid, "friendly_name": spec.tag, "secure": spec.is_secure, "transfer_mode": mode}

    def have_url(self, sid: str, trunk_sid: str, spec: OriginationUrlSpec) -> None:
        """Have an origination URL from the start."""
        self._url = {
            "sid": sid,
            "trunk_sid": trunk_sid,
            "sip_url": str(spec.uri),
            "enabled": True,
            "friendly_name": spec.tag,
            "priority": spec.priority,
            "weight": spec.weight,
        }

    def twilio(self, method: str, uri: str, params: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        """Record a request to Twilio; return the body of its response."""
        path = urlsplit(uri).path
        self._record("twilio", method, path, {name: str(value) for name, value in {**params, **data}.items()})
        match method, path.rsplit("/", 1)[1]:
            case "GET", "IncomingPhoneNumbers.json":
                return {"incoming_phone_numbers": [self._number]}
            case "POST", "Trunks":
                self._trunk = {
                    "sid": MADE_UP_IDS[TRUNK],
                    "friendly_name": data["FriendlyName"],
                    "secure": data.get("Secure") == "true",
                    "transfer_mode": data.get("TransferMode", TRANSFER_MODE),
                }
                return self._trunk
            case "POST", "OriginationUrls":
                self._url = {
                    "sid": MADE_UP_IDS[ORIGINATION_URL],
                    "trunk_sid": self._trunk["sid"],
                    "sip_url": data["SipUrl"],
                    "enabled": True,
                    "friendly_name": data["FriendlyName"],
                    "priority": data["Priority"],
                    "weight": data["Weight"],
                }
                return self._url
            case "GET", sid if sid == self._trunk["sid"]:
                return self._trunk
            case "GET", "OriginationUrls":
                return {"origination_urls": [self._url]}
            case "POST", "PhoneNumbers":
                self._number["trunk_sid"] = self._trunk["sid"]
        return self._number

    def livekit(self, url: str, body: bytes) -> Message:
        """Record a request to LiveKit; return the message of its response."""
        path = urlsplit(url).path
        method = path.rsplit("/", 1)[1]
        request = getattr(sip, f"{method}Request").FromString(body)
        self._record("livekit", "POST", path, MessageToDict(request, preserving_proto_field_name=True))
        match method:
            case "CreateSIPInboundTrunk":
                self._inbound_trunk.CopyFrom(request.trunk)
                self._inbound_trunk.sip_trunk_id = MADE_UP_IDS[INBOUND_TRUNK]
                return self._inbound_trunk
            case "CreateSIPDispatchRule":
                self._rule.CopyFrom(request.dispatch_rule)
                self._rule.sip_dispatch_rule_id = MADE_UP_IDS[DISPATCH_RULE]
                return self._rule
            case "ListSIPInboundTrunk":
                is_asked = not request.trunk_ids or self._inbound_trunk.sip_trunk_id in request.trunk_ids
                return api.ListSIPInboundTrunkResponse(items=[self._inbound_trunk] if is_asked else [])
            case "ListSIPDispatchRule":
                ids = request.dispatch_rule_ids
                is_asked = not ids or self._rule.sip_dispatch_rule_id in ids
                return api.ListSIPDispatchRuleResponse(items=[self._rule] if is_asked else [])
        raise ValueError(f"a provisioning does not send {method}")

    def _record(self, provider: str, method: str, path: str, parameters: dict[str, Any]) -> None:
        text = json.dumps([path, parameters])
        for found, shown in self._shown_as.items():
            text = text.replace(found, shown)
        path, parameters = json.loads(text)
        with self._lock:
            self.requests.append(RecordedRequest(provider, method, path, parameters))


class RecordedTwilioHttp(HttpClient):  # type: ignore[misc]  # the SDK has no types
    """The SDK's HTTP client over a recorder."""

    def __init__(self, recorder: RequestRecorder) -> None:
        super().__init__(None, False, None)
        self._recorder = recorder

    def request(
        self,
        method: str,
        uri: str,
        params: Mapping[str, object] | None = None,
        data: Mapping[str, object] | None = None,
        **_others: object,
    ) -> TwilioResponse:
        """Record one request and return its response."""
        body = self._recorder.twilio(method, uri, params or {}, data or {})
        return TwilioResponse(201 if method == "POST" else 200, json.dumps(body))

    def close(self) -> None:
        """Do nothing: there are no connections."""


class RecordedLiveKitConnection(LiveKitConnection):
    """The adapter's connection over a recorder."""

    def __init__(self, recorder: RequestRecorder, url: str, api_key: str, api_secret: str) -> None:
        super().__init__(url, api_key, api_secret, timeout_s=1)
        self._session = _RecordedSession(recorder)

    def call(self, operation: str, livekit_call: LiveKitCall[Response]) -> Response:
        """Return what the call returns, without an event loop of its own."""
        del operation
        coroutine = livekit_call(self.services(self._session))  # type: ignore[arg-type]  # all that the SDK uses of a session
        try:
            coroutine.send(None)
        except StopIteration as end:
            response: Response = end.value
            return response
        raise TypeError("a recorded call waits for nothing")


class _RecordedSession:
    timeout = aiohttp.ClientTimeout()

    def __init__(self, recorder: RequestRecorder) -> None:
        self._recorder = recorder

    @asynccontextmanager
    async def post(self, url: str, *, data: bytes, **_others: object) -> AsyncIterator["_RecordedResponse"]:
        yield _RecordedResponse(self._recorder.livekit(url, data).SerializeToString())


@dataclass(frozen=True)
class _RecordedResponse:
    body: bytes
    status: int = 200

    async def read(self) -> bytes:
        return self.body
