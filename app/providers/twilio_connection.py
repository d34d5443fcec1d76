"""How the adapter reaches Twilio: one SDK client and connection pool per process; only our errors get out.

Built on the SDK's `HttpClient` and not on its `TwilioHttpClient`: that one hands its response over in an attribute, so
that two threads may swap theirs (twilio 9.13 http/http_client.py, `_test_only_last_response`), and drops the headers.
"""

import json
import logging
import os
import re
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from twilio.base.exceptions import TwilioException
from twilio.http import HttpClient
from twilio.http.response import Response
from twilio.rest import Client
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError as TransportError
from urllib3.exceptions import NewConnectionError, ProxyError
from urllib3.util import Timeout, parse_url
from urllib3.util.url import Url

from app.providers.callers import time_for_call
from app.providers.calls import CallInstrumentation
from app.providers.errors import MALFORMED, MAX_ERROR_BYTES, CallFailedError, Outcome, parse_retry_after, translate
from app.providers.twilio_errors import TWILIO_TABLE
from app.providers.twilio_records import Json, checked_sid
from app.setting_values import is_loopback

POOL_CONNECTIONS = 64
"""Connections kept per host: a worker runs at most 64 threads, and each makes one call at a time."""

CONNECT_TIMEOUT_S = 3.0
"""Seconds for one address to accept: a bit over one lost SYN (Linux sends it again after 1 s, then 3 s)."""

SHORTEST_S = 0.05
"""Seconds that a call gets at least."""

IDLE_PROBE_S = 45
"""Seconds of silence before TCP asks whether the other end lives: under the 60 s after which common NATs forget."""

_CHUNK_BYTES = 65536
"""How much of a body is read between two checks of the deadline."""

MAX_BODY_BYTES = 32 * 1024 * 1024
"""Bytes of a response that are read: ten times a page of 1,000 numbers, at 3 KB each."""

HOSTS = frozenset({"api.twilio.com", "trunking.twilio.com"})
"""Where our credentials may go, on https's own port."""

_PLAIN = re.compile(r"[!-\[\]-~]+")
"""What an address consists of: visible ASCII. A backslash is read as a slash by some and as a letter by others."""

OPERATION: ContextVar[str] = ContextVar("operation", default="other")
"""The adapter's current operation: the SDK passes on a method and an address only."""


@dataclass
class Reply:
    """The last response of one call."""

    text: str = ""

    def record(self) -> Json:
        """Return its JSON object as it came: the SDK's objects leave out what they do not know, and parse dates."""
        found = json.loads(self.text)
        if not isinstance(found, Mapping):
            raise TypeError("not an object")
        return found


_REPLY: ContextVar[Reply | None] = ContextVar("reply", default=None)

_NOT_SENT = (NewConnectionError, ProxyError, ssl.SSLCertVerificationError)

_FIRST_ERROR_STATUS = 300
"""Redirects are errors too: none is followed, because a redirected POST may or may not have been run."""


class _KeepAliveAdapter(HTTPAdapter):
    """An adapter whose idle connections are probed: one that a NAT forgot would cost a whole timeout."""

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:
        options = [*HTTPConnection.default_socket_options, (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
        if hasattr(socket, "TCP_KEEPIDLE"):
            options.append((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_PROBE_S))
        super().init_poolmanager(connections, maxsize, block, socket_options=options, **kwargs)


def open_session(*, trust_env: bool) -> requests.Session:
    """Return a session that many threads may share: it keeps no cookies, and nothing changes it afterwards."""
    session = requests.Session()
    session.trust_env = trust_env
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    for scheme in ("https://", "http://"):
        session.mount(scheme, _KeepAliveAdapter(pool_maxsize=POOL_CONNECTIONS))
    return session


class TwilioHttp(HttpClient):  # type: ignore[misc]  # the SDK has no types
    """Sends what the SDK builds; raises `CallFailedError` for every response but 2xx.

    With `base_url` everything goes there, `Host` kept, so that one port can stand for all of Twilio's hosts.
    """

    def __init__(
        self, timeout_s: float, base_url: str | None = None, instrumentation: CallInstrumentation | None = None
    ) -> None:
        super().__init__(logging.getLogger(__name__), False, timeout_s)
        self._timeout_s = timeout_s
        self._instrumentation = instrumentation or CallInstrumentation("twilio")
        self._base = parse_url(base_url) if base_url else None
        # A sandbox on this machine is never asked through a proxy.
        self._session = open_session(trust_env=self._base is None or not is_loopback(self._base.hostname))

    def request(
        self,
        method: str,
        uri: str,
        params: Mapping[str, object] | None = None,
        data: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        timeout: float | None = None,
        allow_redirects: bool = False,
    ) -> Response:
        """Send one request and return its 2xx response; `timeout` and `allow_redirects` are ours to decide."""
        del timeout, allow_redirects
        target, sent_headers = self._redirected(uri, dict(headers or {}))
        with self._instrumentation.request(OPERATION.get(), method, target) as exchange:
            response = self._respond(
                method=method, url=target, params=params, data=data, headers=sent_headers, auth=auth
            )
            exchange.status = response.status_code
            return response

    def close(self) -> None:
        """Close the idle connections."""
        self._session.close()

    def _respond(self, **request: Any) -> Response:
        try:
            status, headers, body = self._exchange(**request)
        except (requests.RequestException, TransportError) as error:
            raise CallFailedError(Outcome.NOT_SENT if _was_not_sent(error) else Outcome.LOST) from error
        if status >= _FIRST_ERROR_STATUS:
            retry_after_s = parse_retry_after(headers.get("Retry-After"))
            code, text = _provider_error(body)
            raise CallFailedError(Outcome.STATUS, status=status, code=code, text=text, retry_after_s=retry_after_s)
        return Response(status, body.decode(), headers)

    def _exchange(self, **request: Any) -> tuple[int, Mapping[str, str], bytes]:
        """Send and read within the time of one call: requests' own timeout starts anew with every packet."""
        # The rate limiter may have let the call out at the last moment; urllib3 refuses a timeout of 0.
        timeout_s = max(time_for_call(self._timeout_s), SHORTEST_S)
        deadline = time.monotonic() + timeout_s
        timeout = Timeout(connect=min(CONNECT_TIMEOUT_S, timeout_s), total=timeout_s)
        with self._session.request(**request, timeout=timeout, allow_redirects=False, stream=True) as response:  # type: ignore[arg-type]  # requests passes urllib3's Timeout on
            is_error = response.status_code >= _FIRST_ERROR_STATUS
            body = bytearray()
            # read1 and not iter_content: that one waits for a full chunk, however slowly the bytes drip in.
            while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=True):
                body += chunk
                if time.monotonic() > deadline:
                    raise requests.ReadTimeout
                if is_error and len(body) > MAX_ERROR_BYTES:
                    break  # the status says enough
                if len(body) > MAX_BODY_BYTES:
                    raise CallFailedError(Outcome.UNREADABLE)
            return response.status_code, response.headers, bytes(body)

    def _redirected(self, uri: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
        # The next page's address comes from a response, and our credentials go where it points. So it is parsed once,
        # by the parser of the library that connects, and what is sent is put together again from the parts.
        parts = parse_url(uri) if _PLAIN.fullmatch(uri) else Url()
        if self._base is None:
            is_https = parts.scheme == "https" and parts.port in {None, 443} and parts.auth is None
            if not is_https or parts.host not in HOSTS:
                raise ValueError("an address outside Twilio")
            return Url("https", host=parts.host, path=parts.path, query=parts.query).url, headers
        if not parts.netloc:
            raise ValueError("an address without a host")
        headers["Host"] = parts.netloc
        return self._base._replace(path=parts.path, query=parts.query, fragment=None).url, headers


def _was_not_sent(error: Exception) -> bool:
    """Say whether the connection was never made: refused, no address, no proxy, no trust, or no time."""
    if isinstance(error, requests.ConnectTimeout):
        return True
    cause: object = error
    while isinstance(cause, BaseException):
        if isinstance(cause, _NOT_SENT) or isinstance(getattr(cause, "reason", None), _NOT_SENT):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _provider_error(body: bytes) -> tuple[str | None, str]:
    """Return Twilio's numeric error code and its message, from either of its two formats; a 404 may have no code."""
    try:
        found = json.loads(body)
        code = str(found["code"]) if str(found.get("code")).isdecimal() else None
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None, ""
    texts = (found.get(name) for name in ("message", "detail", "title"))
    return code, next((text for text in texts if isinstance(text, str)), "")


class _KeepingClient(Client):  # type: ignore[misc]  # the SDK has no types
    """The SDK's client; each response is kept for the call that asked for it."""

    def request(self, *args: Any, **options: Any) -> Response:
        """Send one request."""
        response = super().request(*args, **options)
        reply = _REPLY.get()
        if reply is not None:
            reply.text = response.text
        return response


_GONE = 404

MAX_PAGES = 1000
"""Pages of one list: a million records. What goes on for longer never ends."""


class TwilioConnection:
    """The SDK's resources for one account; safe to share between threads.

    The sockets belong to the process: after a fork the child opens its own.
    """

    def __init__(
        self,
        account_sid: str,
        username: str,
        password: str,
        timeout_s: float,
        base_url: str | None,
        instrumentation: CallInstrumentation | None = None,
        http: HttpClient | None = None,
    ) -> None:
        self.account_sid = checked_sid(account_sid, "AC")
        self.secrets = {password, b64encode(f"{username}:{password}".encode()).decode()}
        """What is masked in Twilio's words."""
        self._username = checked_sid(username, "SK" if username.startswith("SK") else "AC")
        self._password = password
        self._timeout_s = timeout_s
        self._base_url = base_url
        self._instrumentation = instrumentation
        self._http = http
        # By process id. A child keeps its parent's entry and never uses it: closing it would disturb shared sockets.
        self._clients: dict[int, Any] = {}

    def numbers(self) -> Any:
        """Return the SDK's IncomingPhoneNumbers."""
        return self._client().api.v2010.account.incoming_phone_numbers

    def trunks(self) -> Any:
        """Return the SDK's Trunks."""
        return self._client().trunking.v1.trunks

    @contextmanager
    def call(self, operation: str, *, is_write: bool = False) -> Iterator[Reply]:
        """Turn every failure in the block into one of our three errors; its requests count as `operation`."""
        reply = Reply()
        operation_token, reply_token = OPERATION.set(operation), _REPLY.set(reply)
        try:
            yield reply
        except CallFailedError as failure:
            raise translate(
                TWILIO_TABLE, "Twilio", operation, failure, is_write=is_write, secrets=self.secrets
            ) from None
        except (TwilioException, *MALFORMED):
            unreadable = CallFailedError(Outcome.UNREADABLE)
            raise translate(TWILIO_TABLE, "Twilio", operation, unreadable, is_write=is_write) from None
        finally:
            OPERATION.reset(operation_token)
            _REPLY.reset(reply_token)

    def close(self) -> None:
        """Close this process's connections."""
        client = self._clients.pop(os.getpid(), None)
        if client is not None:
            client.http_client.close()

    def _client(self) -> Any:
        """Return this process's client; `setdefault` keeps one where two threads come first at once."""
        client = self._clients.get(os.getpid())
        if client is None:
            fresh = _KeepingClient(
                self._username,
                self._password,
                self.account_sid,
                http_client=self._http or TwilioHttp(self._timeout_s, self._base_url, self._instrumentation),
                # An empty mapping would make the SDK read TWILIO_REGION and TWILIO_EDGE of the process.
                environment={"_": ""},
            )
            client = self._clients.setdefault(os.getpid(), fresh)
        return client


@contextmanager
def gone_is_fine() -> Iterator[None]:
    """Leave the block quietly on 404; used inside `call`."""
    try:
        yield
    except CallFailedError as failure:
        if failure.status != _GONE:
            raise


def records_of(page: Any) -> Iterator[Json]:
    """Yield every record from this page of the SDK's on, as JSON has it; used inside `call`."""
    seen: set[str] = set()
    while page is not None:
        page.get_instance = _as_it_came
        yield from page
        following = page.next_page_url
        if following in seen or len(seen) == MAX_PAGES:
            raise CallFailedError(Outcome.UNREADABLE)  # pages that repeat, or never end
        seen.add(following)
        page = page.next_page()


def _as_it_came(record: Json) -> Json:
    return record
