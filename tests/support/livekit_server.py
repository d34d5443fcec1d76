"""The LiveKit server that a test asks: our sandbox, or with `--livekit URL KEY SECRET` any other one.

On any other one somebody else's trunks and rules may be in use. So a test makes what it needs under numbers that nobody
has, asserts about that alone, and everything that it made is deleted after it. What others have is read before the
first test and compared after the last. The sandbox gets a few objects of somebody else too, so that a test which takes
no account of them fails in the normal suite.
"""

import asyncio
import json
import random
import time
import warnings
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import jwt
import pytest
import requests
from google.protobuf.message import Message
from jwt.warnings import InsecureKeyLengthWarning
from livekit import api
from livekit.api.sip_service import SipService

from app.dev.sandbox import LIVEKIT_API_KEY, LIVEKIT_API_SECRET
from app.providers.livekit import LiveKitPlatform
from app.providers.livekit_connection import LiveKitCall, LiveKitConnection, Response
from app.setting_values import is_loopback
from tests.support.provider_probe import REPORT, UnusableError, check_url, first_response
from tests.support.sandbox import Sandbox

OPTION = "--livekit"

WAIT_S = 10
"""Seconds that one request may take."""

NOBODYS_PREFIX = "+999"
"""A country code that is assigned to nobody (ITU-T E.164): no trunk in use has such a number."""

ID_LETTERS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
"""The alphabet of LiveKit's ids (livekit/protocol utils/guid)."""

LISTS = {
    "ListSIPInboundTrunk": api.ListSIPInboundTrunkResponse,
    "ListSIPOutboundTrunk": api.ListSIPOutboundTrunkResponse,
    "ListSIPDispatchRule": api.ListSIPDispatchRuleResponse,
}
"""All that tests could disturb: method -> what it returns."""

INDIVIDUAL = api.SIPDispatchRule(dispatch_rule_individual=api.SIPDispatchRuleIndividual(room_prefix="call"))

Made = api.SIPInboundTrunkInfo | api.SIPOutboundTrunkInfo | api.SIPDispatchRuleInfo

random_text = random.SystemRandom()
"""Names and numbers differ between two runs against one server at the same time, whatever seeds they use."""


class LiveKitServer:
    """One LiveKit project, its clients, and what this run has made in it."""

    def __init__(self, url: str, key: str, secret: str) -> None:
        self.url, self.key, self.secret = as_http(url), key, secret
        self.made: list[str] = []
        """Ids of what the current test has made, oldest first."""
        self.foreign: dict[str, bytes] = {}
        """Id -> what somebody else has, as it was before the first test."""
        self.calls: list[str] = []
        """The adapter's operations, one for each request that it sent."""
        self._numbers: set[str] = set()
        self._ids: set[str] = set()
        self._skipped: dict[str, str] = {}
        self.http = requests.Session()
        self.http.trust_env = not is_loopback(urlsplit(self.url).hostname)

    def number(self) -> str:
        """Return a number that nobody has, another one each time: `+999` and nine digits."""
        number = f"{NOBODYS_PREFIX}{random_text.randrange(10**9):09}"
        self._numbers.add(number)
        return number

    def claim(self, number: str) -> None:
        """Have what is made for this number, by whatever it is made, deleted at the end of the run."""
        self._numbers.add(number)

    def trunk_id(self) -> str:
        """Return the id of no trunk, another one each time."""
        made_up = f"ST_nobody{''.join(random_text.choices(ID_LETTERS, k=6))}"
        self._ids.add(made_up)
        return made_up

    def sip(self, call: Callable[[Any], Awaitable[Any]], **credentials: str) -> Any:
        """Return what a call of the SDK's SIP service returns; raises the SDK's errors."""

        async def work() -> Any:
            secrets = {"api_key": self.key, "api_secret": self.secret, **credentials}
            async with aiohttp.ClientSession(trust_env=self.http.trust_env) as session:
                client = api.LiveKitAPI(self.url, session=session, failover=False, **secrets)
                return await asyncio.wait_for(call(WatchedSip(client.sip, self)), WAIT_S)

        # In a thread: a browser's test that ran before leaves its loop in this one.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: asyncio.run(work())).result()

    def twirp(self, method: str, body: Any, **headers: str | None) -> requests.Response:
        """Send JSON, or what else the headers name, to a method of the SIP service or to a path."""
        path = method if method.startswith("/") else f"/twirp/livekit.SIP/{method}"
        data = body if isinstance(body, bytes | str) else json.dumps(body)
        whole = {"Authorization": self.token(), "Content-Type": "application/json", **headers}
        response = self.http.post(self.url + path, data=data, headers=whole, timeout=WAIT_S)
        if response.ok and method.startswith("Create"):
            self.note_made(made_ids(response.json()))
        return response

    def token(self, secret: str = "", **claims: Any) -> str:
        """Return an Authorization header; a claim that is None is left out."""
        whole = {"iss": self.key, "exp": int(time.time()) + 3600, "sip": {"admin": True}, **claims}
        with warnings.catch_warnings():
            # A server on a developer's machine has a short secret, such as "secret".
            warnings.simplefilter("ignore", InsecureKeyLengthWarning)
            kept = {name: value for name, value in whole.items() if value is not None}
            return "Bearer " + jwt.encode(kept, secret or self.secret, "HS256")

    def platform(self, key: str = "", secret: str = "", path: str = "") -> LiveKitPlatform:
        """Return our adapter for this server."""
        url, key, secret = self.url + path, key or self.key, secret or self.secret
        return LiveKitPlatform(url, key, secret, timeout_s=WAIT_S, connection=WatchedConnection(self, url, key, secret))

    def add_trunk(self, *numbers: str, **fields: Any) -> api.SIPInboundTrunkInfo:
        """Create an inbound trunk with the SDK."""
        request = api.CreateSIPInboundTrunkRequest(trunk=api.SIPInboundTrunkInfo(numbers=numbers, **fields))
        return self.sip(lambda sip: sip.create_inbound_trunk(request))

    def add_rule(
        self, *trunk_ids: str, rule: api.SIPDispatchRule = INDIVIDUAL, **fields: Any
    ) -> api.SIPDispatchRuleInfo:
        """Create a dispatch rule with the SDK; without a trunk give it a number, or it takes the calls of others."""
        info = api.SIPDispatchRuleInfo(rule=rule, trunk_ids=trunk_ids, **fields)
        request = api.CreateSIPDispatchRuleRequest(dispatch_rule=info)
        return self.sip(lambda sip: sip.create_dispatch_rule(request))

    def trunk(self, trunk_id: str) -> api.SIPInboundTrunkInfo:
        """Return an inbound trunk as LiveKit lists it."""
        request = api.ListSIPInboundTrunkRequest(trunk_ids=[trunk_id])
        (found,) = self.sip(lambda sip: sip.list_inbound_trunk(request)).items
        return found

    def rule(self, rule_id: str) -> api.SIPDispatchRuleInfo:
        """Return a dispatch rule as LiveKit lists it."""
        request = api.ListSIPDispatchRuleRequest(dispatch_rule_ids=[rule_id])
        (found,) = self.sip(lambda sip: sip.list_dispatch_rule(request)).items
        return found

    def own_trunk_ids(self, **filters: Any) -> list[str]:
        """Return the ids of the listed inbound trunks that nobody else had before, in the list's order."""
        request = api.ListSIPInboundTrunkRequest(**filters)
        listed = self.sip(lambda sip: sip.list_inbound_trunk(request)).items
        return [row.sip_trunk_id for row in listed if row.sip_trunk_id in self.made]

    def own_rule_ids(self, **filters: Any) -> list[str]:
        """Return the ids of the listed rules that the test has made, in the list's order."""
        request = api.ListSIPDispatchRuleRequest(**filters)
        listed = self.sip(lambda sip: sip.list_dispatch_rule(request)).items
        return [row.sip_dispatch_rule_id for row in listed if row.sip_dispatch_rule_id in self.made]

    def note_made(self, ids: Iterable[str]) -> None:
        """Have these deleted after the test."""
        self.made.extend(ids)

    def check_ours(self, external_id: str) -> None:
        """Raise AssertionError for the id of somebody else's object, before it is changed."""
        assert external_id not in self.foreign, f"a test is about to change {external_id}, which is somebody else's"

    def requires(self, capability: str) -> None:
        """Skip the test, with the reason, where the server is of a version that lacks the capability."""
        if capability not in self._skipped:
            is_there, reason = CAPABILITIES[capability]
            self._skipped[capability] = "" if is_there(self) else reason
        if self._skipped[capability]:
            pytest.skip(f"{self.url}: {self._skipped[capability]}")

    def objects(self) -> dict[str, bytes]:
        """Return every trunk and rule of the project by id; the same object gives the same bytes each time."""
        listed = (response.FromString(self._protobuf(method)) for method, response in LISTS.items())
        return {id_of(item): canonical(item) for answer in listed for item in answer.items}

    def _protobuf(self, method: str) -> bytes:
        response = self.twirp(method, b"", **{"Content-Type": "application/protobuf"})
        assert response.ok, f"{method}: {response.text}"
        return response.content

    def delete_made(self) -> None:
        """Delete what the test has made, newest first; what is gone already is fine."""
        for external_id in reversed(self.made):
            self.delete(external_id)
        self.made.clear()

    def delete(self, external_id: str) -> None:
        """Delete one trunk or rule of ours."""
        is_rule = external_id.startswith("SDR_")
        method, field = ("DeleteSIPDispatchRule", "dispatch_rule") if is_rule else ("DeleteSIPTrunk", "trunk")
        self.check_ours(external_id)
        response = self.twirp(method, {f"sip_{field}_id": external_id})
        assert response.ok or response.status_code == 404, f"{external_id} was left: {response.text}"

    def delete_lost(self) -> list[str]:
        """Delete what was made by a request whose response was lost; return the ids.

        It is known by its number or trunk, which are random and so nobody else's.
        """
        ours = [text.encode() for text in (*self._numbers, *self._ids)]
        found = [
            external_id
            for external_id, content in self.objects().items()
            if external_id not in self.foreign and any(text in content for text in ours)
        ]
        for external_id in found:
            self.delete(external_id)
        return found

    def changed_for_others(self) -> list[str]:
        """Return the ids of somebody else's objects that are not byte for byte what they were."""
        now = self.objects()
        return [external_id for external_id, content in self.foreign.items() if now.get(external_id) != content]


class WatchedSip:
    """The SDK's SIP service; notes what is made, and lets nothing of somebody else's be changed."""

    def __init__(self, service: SipService, server: LiveKitServer) -> None:
        self._service, self._server = service, server

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._service, name)
        if name.startswith(("update_", "delete_")):
            return lambda target, *rest, **fields: self._checked(target)(call, target, *rest, **fields)
        if name.startswith("create_"):
            return lambda *parts, **fields: self._noted(call(*parts, **fields))
        return call

    def _checked(self, target: str | Message) -> Callable[..., Any]:
        self._server.check_ours(target if isinstance(target, str) else id_of(target))
        return lambda call, *parts, **fields: call(*parts, **fields)

    async def _noted(self, response: Awaitable[Made]) -> Made:
        made = await response
        self._server.note_made([id_of(made)])
        return made


class WatchedConnection(LiveKitConnection):
    """Our adapter's connection, watched likewise; also notes each request."""

    def __init__(self, server: LiveKitServer, url: str, key: str, secret: str) -> None:
        super().__init__(url, key, secret, WAIT_S)
        self._server = server

    def call(self, operation: str, livekit_call: LiveKitCall[Response]) -> Response:
        self._server.calls.append(operation)
        return super().call(operation, livekit_call)

    def services(self, session: aiohttp.ClientSession) -> Any:
        return WatchedSip(super().services(session), self._server)


def refused(status: int, code: int | str, message: str | None = None) -> AbstractContextManager[Any]:
    """Expect the SDK's error with this status, Twirp code and, unless None, text."""

    def fits(error: Any) -> bool:
        return (error.status, error.code) == (status, code) and message in (None, error.message)

    return pytest.raises(api.ServerError, check=fits)


def as_http(url: str) -> str:
    """Return a LiveKit URL with the scheme of its HTTP side, without a slash at the end."""
    return (f"http{url[2:]}" if url.startswith("ws") else url).rstrip("/")


def id_of(message: Any) -> str:
    """Return the id in a trunk, a rule or a request about one."""
    fields = message.DESCRIPTOR.fields_by_name
    return str(message.sip_trunk_id if "sip_trunk_id" in fields else message.sip_dispatch_rule_id)


def made_ids(body: dict[str, Any]) -> list[str]:
    """Return the id in the JSON of a trunk or rule."""
    return [body[name] for name in ("sip_trunk_id", "sip_dispatch_rule_id") if name in body]


def canonical(message: Message) -> bytes:
    """Return the message with maps in the order of their keys: a server writes them in any order."""
    return message.SerializeToString(deterministic=True)


def _is_served(method: str) -> Callable[[LiveKitServer], bool]:
    return lambda server: server.twirp(method, {}).json().get("code") != "bad_route"


def _refuses_trunk(**fields: Any) -> Callable[[LiveKitServer], bool]:
    return lambda server: (
        server.twirp("CreateSIPInboundTrunk", {"trunk": {"numbers": [server.number()], **fields}}).status_code == 400
    )


CAPABILITIES: dict[str, tuple[Callable[[LiveKitServer], bool], str]] = {
    "updates": (_is_served("UpdateSIPInboundTrunk"), "this version has no updates of trunks and rules"),
    "reading one trunk": (_is_served("GetSIPInboundTrunk"), "this version cannot read a single trunk"),
    "outbound trunks": (_is_served("UpdateSIPOutboundTrunk"), "this version has no updates of outbound trunks"),
    "checked headers": (_refuses_trunk(headers={"a b": "c"}), "this version does not check the names of headers"),
    "checked media": (
        _refuses_trunk(media={"media_timeout": "-1s"}),
        "this version does not check the media settings of trunks",
    ),
}
"""What versions of LiveKit differ in: name -> a probe, and why a test of it is skipped where the probe says no."""


SOMEBODY_ELSES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("CreateSIPInboundTrunk", {"trunk": {"name": "theirs", "numbers": ["+15145550100"], "headers": {"X": "1"}}}),
    ("CreateSIPInboundTrunk", {"trunk": {"name": "any", "allowed_addresses": ["192.0.2.0/24"]}}),
    ("CreateSIPOutboundTrunk", {"trunk": {"name": "out", "numbers": ["+15145550100"], "address": "sip.example.com"}}),
    ("CreateSIPDispatchRule", {"dispatch_rule": {"name": "theirs", "rule": {"dispatch_rule_individual": {}}}}),
    (
        "CreateSIPDispatchRule",
        {"dispatch_rule": {"trunk_ids": ["ST_theirs"], "rule": {"dispatch_rule_direct": {"room_name": "lobby"}}}},
    ),
)
"""What somebody else has in the sandbox: a number, a trunk and a rule for any number, an outbound trunk."""


def check(given: list[str]) -> None:
    """Raise UnusableError unless the server lists its trunks with this key and secret."""
    url, key, secret = given
    check_url(url, ("http", "https", "ws", "wss"))
    if not secret:
        raise UnusableError("the secret is empty")
    server = LiveKitServer(url, key, secret)
    response = first_response(url, lambda: server.twirp("ListSIPInboundTrunk", {"trunk_ids": [server.trunk_id()]}))
    if response.status_code == requests.codes.unauthorized:
        # The text may quote the token, and is not shown.
        raise UnusableError(
            f"{url}: the server has no key {key!r}"
            if "invalid API key" in response.text
            else f"{url}: the server refuses the secret of the key {key!r}"
        )
    if "redis required" in response.text:
        raise UnusableError(f"{url}: this LiveKit server runs without Redis, where trunks and rules are kept")
    if not response.ok or not response.headers.get("Content-Type", "").startswith("application/json"):
        raise UnusableError(f"{url}: no LiveKit server: HTTP {response.status_code} to a list of its SIP trunks")
    rule = {"rule": {"dispatch_rule_individual": {}}, "trunk_ids": [server.trunk_id()]}
    response = server.twirp("CreateSIPDispatchRule", {"dispatch_rule": rule})
    server.delete_made()
    if not response.ok:
        raise UnusableError(f"{url}: the project takes no new dispatch rule: {response.text[:300]}")


@pytest.fixture(scope="session")
def livekit_project(request: pytest.FixtureRequest) -> Iterator[LiveKitServer]:
    """The project of `--livekit`, or the sandbox's; checks at the end that what others have has not changed."""
    given = request.config.getoption(OPTION)
    server = LiveKitServer(*given) if given else livekit_in(request.getfixturevalue("shared_with_others"))
    server.foreign = server.objects()
    yield server
    server.delete_made()
    lost, changed = server.delete_lost(), server.changed_for_others()
    server.http.close()
    report = f"LiveKit {server.url}: {len(server.foreign)} trunks and rules of others, "
    report += f"CHANGED MEANWHILE: {', '.join(changed)}" if changed else "each as it was before"
    report += f"; {len(lost)} of ours had to be looked for" if lost else "; nothing of ours is left"
    if given:
        request.config.stash[REPORT].append(report)
    assert not changed, report


@pytest.fixture
def livekit(livekit_project: LiveKitServer) -> Iterator[LiveKitServer]:
    """The LiveKit project to ask; what the test makes is deleted after it."""
    livekit_project.calls.clear()
    yield livekit_project
    livekit_project.delete_made()


def livekit_in(sandbox: Sandbox) -> LiveKitServer:
    """Return the sandbox's LiveKit project, with objects of somebody else."""
    server = LiveKitServer(sandbox.base_url, LIVEKIT_API_KEY, LIVEKIT_API_SECRET)
    for method, body in SOMEBODY_ELSES:
        assert server.twirp(method, body).ok
    server.made.clear()
    return server


@pytest.fixture
def livekit_platform(livekit: LiveKitServer) -> Iterator[LiveKitPlatform]:
    """Our adapter for the LiveKit server."""
    platform = livekit.platform()
    yield platform
    platform.close()
