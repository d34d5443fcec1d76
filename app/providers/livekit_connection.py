"""How the adapter reaches LiveKit: one event loop on one thread per process, and one pool of connections on it.

LiveKit's SDK is asyncio only and everything else here is threads. A loop per call would open a connection per call.
"""

import asyncio
import json
import os
import re
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent import futures
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
from google.protobuf.message import DecodeError
from livekit.api import AccessToken, SIPGrants, VideoGrants
from livekit.api.agent_dispatch_service import AgentDispatchService
from livekit.api.room_service import RoomService
from livekit.api.sip_service import SipService
from requests.utils import get_environ_proxies, prepend_scheme_if_needed, select_proxy

from app.providers.callers import time_for_call
from app.providers.calls import CallInstrumentation, Exchange
from app.providers.errors import MALFORMED, MAX_ERROR_BYTES, CallFailedError, Outcome, parse_retry_after
from app.providers.livekit_errors import RPC_PREFIX
from app.setting_values import is_loopback

CONNECTIONS = 128
"""Connections at most: twice the 64 threads of a worker, each of which makes one call at a time."""

IDLE_S = 30.0
"""Seconds until an idle connection is closed: before a load balancer (60 s as a rule) closes it under a request."""

MARGIN_S = 2.0
"""Seconds that a caller waits beyond the call's own timeout: only a stuck event loop uses them up."""

TOKEN_LIFE = timedelta(minutes=5)
"""How long a token opens the project: a call takes a minute at most, and its token is up to a minute old; the rest is
for two clocks that disagree. The SDK's own default is six hours.
"""

TOKEN_REUSE_S = 60.0
"""Seconds for which calls share a token: signing one for each call took 5 % of a worker's CPU (py-spy)."""

MAX_BODY_BYTES = 128 * 1024 * 1024
"""Bytes of a response that are read: its lists have no pages, and 5,000 rules may carry 16 KiB of job metadata each."""

_TWIRP_CODE = re.compile(r"[a-z_]{2,32}")

_OK = 200
_UNAUTHORIZED = 401

Response = TypeVar("Response")


@dataclass
class _Progress:
    """How far the current call got; a timeout alone does not say it."""

    exchange: Exchange
    was_sent: bool = False


_progress: ContextVar[_Progress] = ContextVar("progress")


class LiveKitServices(SipService, RoomService, AgentDispatchService):
    """The SDK's services that we call, over one session, with tokens that soon open nothing."""

    _kept: tuple[float, str, str] = (-TOKEN_REUSE_S, "", "")
    """When the last token was signed (monotonic, seconds), what it allows, and the token."""

    def _auth_header(self, grants: VideoGrants | None, sip: SIPGrants | None = None) -> dict[str, str]:
        if sip is None:
            # Of a room, or of the list of rooms: it would take the place of the token that nearly every call uses.
            return {"Authorization": f"Bearer {self._sign(grants, sip)}"}
        signed_at, allowed, token = self._kept
        if time.monotonic() - signed_at > TOKEN_REUSE_S or allowed != f"{grants} {sip}":
            token = self._sign(grants, sip)
            self._kept = time.monotonic(), f"{grants} {sip}", token
        return {"Authorization": f"Bearer {token}"}

    def _sign(self, grants: VideoGrants | None, sip: SIPGrants | None) -> str:
        token = AccessToken(self.api_key, self.api_secret).with_ttl(TOKEN_LIFE)
        if grants is not None:
            token.with_grants(grants)
        if sip is not None:
            token.with_sip_grants(sip)
        return token.to_jwt()


LiveKitCall = Callable[[LiveKitServices], Coroutine[Any, Any, Response]]


def environment_proxy(url: str) -> str | None:
    """Return the proxy's URL, login included, as HTTPS_PROXY, ALL_PROXY and NO_PROXY say for `url`, in either case.

    By requests' own rule, so that calls to both providers go the same way. What is on this machine is never asked
    through a proxy. aiohttp has a rule of its own (`trust_env`), without ALL_PROXY and with logins from ~/.netrc.
    """
    parts = urlsplit(url.replace("ws", "http", 1) if url.startswith("ws") else url)
    if is_loopback(parts.hostname):
        return None
    proxy = select_proxy(parts.geturl(), get_environ_proxies(parts.geturl(), no_proxy=None))
    return str(prepend_scheme_if_needed(proxy, "http")) if proxy else None  # type: ignore[no-untyped-call]  # requests' own


class _BoundedResponse(aiohttp.ClientResponse):
    """A response whose body is limited; the SDK reads the whole of it at once."""

    async def read(self) -> bytes:
        """Return the body; an error's is cut, and one that is longer than any list is refused as unreadable."""
        body = bytearray()
        async for chunk in self.content.iter_any():
            body += chunk
            if self.status != _OK and len(body) > MAX_ERROR_BYTES:
                break
            if len(body) > MAX_BODY_BYTES:
                raise CallFailedError(Outcome.UNREADABLE)
        return bytes(body)


class LiveKitConnection:
    """Runs calls to LiveKit's services from any thread; after a fork the child starts a loop of its own."""

    def __init__(
        self,
        url: str,
        api_key: str,
        api_secret: str,
        timeout_s: float,
        instrumentation: CallInstrumentation | None = None,
    ) -> None:
        self._url = url
        self._api_key = api_key
        self._api_secret = api_secret
        self._timeout_s = timeout_s
        self._instrumentation = instrumentation or CallInstrumentation("livekit")
        # By process id: threads and locks of a parent do not live in its child.
        self._loops: dict[int, _LoopThread] = {}

    def call(self, operation: str, livekit_call: LiveKitCall[Response]) -> Response:
        """Return what the call returns; raise `CallFailedError`."""
        with self._instrumentation.request(operation, "POST", self._url) as exchange:
            return self._call(livekit_call, exchange)

    def close(self) -> None:
        """Close this process's connections and end its loop; calls still under way fail."""
        thread = self._loops.pop(os.getpid(), None)
        if thread is not None:
            thread.close()

    def _call(self, livekit_call: LiveKitCall[Response], exchange: Exchange) -> Response:
        timeout_s = time_for_call(self._timeout_s)
        thread = self._loops.get(os.getpid()) or self._loops.setdefault(os.getpid(), self._new_loop())
        future = asyncio.run_coroutine_threadsafe(
            self._bounded(thread, livekit_call, exchange, timeout_s), thread.loop()
        )
        try:
            return future.result(timeout_s + MARGIN_S)
        except (TimeoutError, futures.CancelledError):
            future.cancel()
            raise CallFailedError(Outcome.LOST) from None

    def services(self, session: aiohttp.ClientSession) -> LiveKitServices:
        """Return the SDK's services over a session."""
        # failover: the SDK would send a create again after a lost response.
        return LiveKitServices(session, self._url, self._api_key, self._api_secret, failover=False)

    def _new_loop(self) -> "_LoopThread":
        try:
            proxy = environment_proxy(self._url)
        except ValueError:
            raise CallFailedError(Outcome.NOT_SENT) from None
        return _LoopThread(lambda: self._open(proxy))

    def _open(self, proxy: str | None) -> tuple[aiohttp.ClientSession, LiveKitServices]:
        sent = aiohttp.TraceConfig()
        sent.on_request_headers_sent.append(_note_sent)
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=IDLE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            response_class=_BoundedResponse,
            middlewares=(_refuse_failures,),
            trace_configs=[sent],
            proxy=proxy,
        )
        return session, self.services(session)

    async def _bounded(
        self, thread: "_LoopThread", livekit_call: LiveKitCall[Response], exchange: Exchange, timeout_s: float
    ) -> Response:
        progress = _Progress(exchange)
        _progress.set(progress)
        try:
            # The SDK's own timeouts do nothing (livekit-api 1.2.2 twirp_client.py passes timeout=None to aiohttp).
            return await asyncio.wait_for(livekit_call(thread.services()), timeout_s)
        except (aiohttp.ClientError, OSError):
            raise CallFailedError(Outcome.LOST if progress.was_sent else Outcome.NOT_SENT) from None
        except (DecodeError, *MALFORMED):
            raise CallFailedError(Outcome.UNREADABLE) from None


class _LoopThread:
    """One event loop on a daemon thread, started by the first call, with the client that lives on it."""

    def __init__(self, open_client: Callable[[], tuple[aiohttp.ClientSession, LiveKitServices]]) -> None:
        self._open_client = open_client
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._services: LiveKitServices | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop; start it first where it does not run yet."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="livekit", daemon=True)
                self._thread.start()
        self._ready.wait()
        if self._loop is None:
            raise RuntimeError("the LiveKit loop did not start")
        return self._loop

    def services(self) -> LiveKitServices:
        """Return the SDK's services, for use on the loop."""
        if self._services is None:
            raise RuntimeError("the LiveKit loop is not running")
        return self._services

    def close(self) -> None:
        """End the loop and wait for its thread."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            loop = self.loop()
            if self._stop is not None:
                loop.call_soon_threadsafe(self._stop.set)
            thread.join()

    async def _serve(self) -> None:
        try:
            self._stop = asyncio.Event()
            session, self._services = self._open_client()
            self._loop = asyncio.get_running_loop()
        finally:
            self._ready.set()
        async with session:
            await self._stop.wait()


async def _note_sent(*_: object) -> None:
    _progress.get().was_sent = True


async def _refuse_failures(
    request: aiohttp.ClientRequest, handler: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]
) -> aiohttp.ClientResponse:
    """Raise for every response that is not protobuf, while its headers are at hand; the SDK drops them."""
    exchange = _progress.get().exchange
    exchange.url = str(request.url)
    response = await handler(request)
    exchange.status = response.status
    if response.status == _OK and response.content_type == "application/protobuf":
        return response
    try:
        code, text = await _twirp_error(response)
    finally:
        response.release()
    if response.status // 100 == _OK // 100:
        raise CallFailedError(Outcome.UNREADABLE)
    retry_after_s = parse_retry_after(response.headers.get("Retry-After"))
    raise CallFailedError(Outcome.STATUS, status=response.status, code=code, text=text, retry_after_s=retry_after_s)


async def _twirp_error(response: aiohttp.ClientResponse) -> tuple[str, str]:
    """Return code and message of a Twirp error body, or "unknown"; a 401 is not even read: it may quote the token."""
    if response.status == _UNAUTHORIZED or response.content_type != "application/json":
        return "unknown", ""
    try:
        body = json.loads(await response.read())
    except (ValueError, RecursionError):
        return "unknown", ""
    if not isinstance(body, dict):
        return "unknown", ""
    # The code is shown to people, so it has to be one of Twirp's words; the text is not.
    code = str(body.get("code"))
    return code if _TWIRP_CODE.fullmatch(code) else "unknown", str(body.get("msg")).removeprefix(RPC_PREFIX)
