"""Requests over HTTP: time-outs everywhere, proxies and CA from the environment, no redirect followed, GETs retried."""

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3 import exceptions

from app.cli.client import Answer, ProblemError, Request
from app.cli.output import CommandError, command_error
from app.cli.profiles import Target

if TYPE_CHECKING:
    from urllib3.poolmanager import PoolManager

CONNECT_S = 10.0
"""Seconds for the connection: TCP tries again after 1, 3 and 7."""

READ_S = 120.0
"""Seconds without a byte of the answer: a list of a large Twilio account takes up to a minute."""

SAFE = frozenset({"GET", "HEAD"})
"""Methods that change nothing: sent again after a lost connection, or where a proxy or the database is away."""

RETRIES = 2
BACKOFF_S = 0.3
"""Seconds before the second retry; the first comes at once."""

RETRIED = (502, 503, 504)
"""Statuses after which a GET is sent again."""


class Remote:
    """The application at a URL."""

    is_local = False

    def __init__(self, target: Target) -> None:
        self.name = target.url
        self._target = target
        try:
            self._pool = _pool_for(target.url)
        except (exceptions.HTTPError, ValueError) as error:
            raise _no_proxy(error) from error

    def send(self, request: Request) -> Answer:
        """Return what the server answers."""
        headers = {"Authorization": f"Bearer {self._target.key}", **request.headers}
        retries = urllib3.Retry(
            RETRIES if request.method in SAFE else 0,
            redirect=0,
            allowed_methods=SAFE,
            status_forcelist=RETRIED if request.method in SAFE else (),
            backoff_factor=BACKOFF_S,
            respect_retry_after_header=False,
            raise_on_status=False,
            raise_on_redirect=False,
        )
        try:
            found = self._pool.request(
                request.method,
                f"{self.name}{request.path}",
                body=request.body,
                headers=headers,
                redirect=False,
                retries=retries,
                timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
            )
        except exceptions.HTTPError as error:
            raise self._explained(error) from error
        return Answer(found.status, found.data, {name.lower(): value for name, value in found.headers.items()})

    def advice(self, code: str) -> str:
        """Return where the address or the key was written, where one of them is wrong."""
        if code == "unauthenticated":
            return f"The key is that of {self._target.source}."
        return f"Check the address, which is that of {self._target.url_source}." if code in _ADDRESS_CODES else ""

    def _explained(self, error: exceptions.HTTPError) -> ProblemError:
        """Return in one line why there is no answer, and what to do."""
        through = " through the proxy" if isinstance(error, exceptions.ProxyError) or self._is_proxied else ""
        code, detail = _explained(_cause_of(error), self.name, through)
        return ProblemError(code, detail, advice=self.advice(code))

    @property
    def _is_proxied(self) -> bool:
        return isinstance(self._pool, urllib3.ProxyManager)


def _no_proxy(error: Exception) -> CommandError:
    return command_error(f"The proxy that the environment names (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY): {error}.")


_ADDRESS_CODES = frozenset({"cannot_connect", "not_a_trunkline", "not_found"})

_OPEN_END = ". What was asked for may have been done: look before you ask again."


def _cause_of(error: exceptions.HTTPError) -> BaseException:
    """Return what urllib3 wrapped when it gave up."""
    cause: BaseException = error
    while isinstance(cause, exceptions.MaxRetryError | exceptions.ProxyError):
        inner = cause.reason if isinstance(cause, exceptions.MaxRetryError) else cause.original_error
        if inner is None:
            break
        cause = inner
    return cause


def _explained(cause: BaseException, name: str, through: str) -> tuple[str, str]:
    """Return a code and a sentence: why the server at `name` has not answered."""
    why = _in_words(cause)
    if isinstance(cause, exceptions.DecodeError):
        return "not_a_trunkline", f"{name} does not answer as Trunkline does{through}: {why}."
    if isinstance(cause, exceptions.SSLError):
        fix = "If its certificate is by a CA of your own, name that CA's file in SSL_CERT_FILE."
        return "tls_failed", f"No secure connection to {name}{through}: {why}. {fix}"
    if isinstance(cause, exceptions.ReadTimeoutError):
        return "timed_out", f"{name} has not answered for {READ_S:.0f} s{_OPEN_END}"
    if isinstance(cause, exceptions.ConnectTimeoutError) and not isinstance(cause, exceptions.NewConnectionError):
        return "cannot_connect", f"{name} cannot be reached{through} within {CONNECT_S:.0f} s."
    if isinstance(cause, exceptions.ProtocolError):
        return "connection_lost", f"{name} ended the connection without an answer{_OPEN_END}"
    return "cannot_connect", f"{name} cannot be reached{through}: {why}."


def _in_words(error: BaseException) -> str:
    """Return the innermost reason, without the objects that libraries name in theirs."""
    while (inner := error.__cause__ or error.__context__) and not isinstance(error, OSError):
        error = inner
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).rpartition(": ")[2].rstrip(".") or type(error).__name__


def _pool_for(url: str) -> "PoolManager":
    """Return the pool of connections, through a proxy where the environment names one for this URL."""
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.hostname or ""):
        return urllib3.PoolManager()
    inner = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    login = unquote(f"{inner.username}:{inner.password or ''}") if inner.username else None
    headers = urllib3.make_headers(proxy_basic_auth=login) if login else None
    return urllib3.ProxyManager(f"{inner.scheme}://{inner.netloc.rpartition('@')[2]}", proxy_headers=headers)
