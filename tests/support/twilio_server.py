"""The Twilio account that a test asks: our sandbox, or with `--twilio-emulator URL [ACCOUNT_SID AUTH_TOKEN]` another.

No number is bought: a test takes one of the account's free voice numbers, and everything in its record is put back.
What it makes (trunks, their URLs, lists) is deleted. What others have is read before the first test and compared after
the last. The sandbox gets a number and a trunk of somebody else too.
"""

import random
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import pytest
import requests
from twilio.base.exceptions import TwilioRestException
from twilio.http.http_client import TwilioHttpClient
from twilio.http.response import Response
from twilio.rest import Client

from app.dev.sandbox import ACCOUNT_SID, AUTH_TOKEN
from app.providers.twilio import TwilioCarrier
from app.providers.twilio_connection import TwilioHttp
from app.setting_values import is_loopback
from tests.support.provider_probe import REPORT, UnusableError, check_url, first_response
from tests.support.sandbox import Sandbox

OPTION = "--twilio-emulator"

WAIT_S = 10
"""Seconds that one request may take."""

API, TRUNKING = "api.twilio.com", "trunking.twilio.com"
V1_TRUNKS = "/v1/Trunks"

LIST_PAGE = 1000
"""Records asked for at once: the most that Twilio gives."""

SID = re.compile(r"\b(?:TK|PN|CL|AL)[0-9a-f]{32}\b")
"""What belongs to the account itself."""

MADE = re.compile(r"/v1/Trunks|.*/SIP/(?:CredentialLists|IpAccessControlLists)\.json")
"""Where tests make something that does not go with what it belongs to."""

DEMO = "https://demo.twilio.com/"
"""Where Twilio points a number that nobody has set up."""

PUT_BACK = {
    "friendly_name": "FriendlyName",
    "voice_url": "VoiceUrl",
    "voice_method": "VoiceMethod",
    "voice_fallback_url": "VoiceFallbackUrl",
    "voice_application_sid": "VoiceApplicationSid",
    "trunk_sid": "TrunkSid",
    "status_callback": "StatusCallback",
    "sms_url": "SmsUrl",
    "voice_caller_id_lookup": "VoiceCallerIdLookup",
}
"""Fields of a number that tests change -> the parameters that put them back."""

random_text = random.SystemRandom()


class Call(NamedTuple):
    """One request of the adapter."""

    method: str
    resource: str
    """The last word of the path that is no sid, as `Trunks`."""
    body: Mapping[str, Any]

    @property
    def is_write(self) -> bool:
        """Whether it may change something."""
        return self.method != "GET"


class RedirectedHttpClient(TwilioHttpClient):
    """The SDK's HTTP client, with everything sent to one address, `Host` kept."""

    def __init__(self, base: str) -> None:
        super().__init__(timeout=WAIT_S)
        self.base = urlsplit(base)
        self.session.trust_env = not is_loopback(self.base.hostname)

    def request(self, method: str, url: str, headers: dict[str, str] | None = None, **kwargs: Any) -> Response:
        asked = urlsplit(url)
        headers = {**(headers or {}), "Host": asked.netloc}
        url = urlunsplit((self.base.scheme, self.base.netloc, asked.path, asked.query, ""))
        return super().request(method, url, headers=headers, **kwargs)


class WatchedHttpClient(RedirectedHttpClient):
    """The same, watched: notes what is made, and lets nothing of somebody else's be changed."""

    def __init__(self, server: "TwilioServer") -> None:
        super().__init__(server.url)
        self._server = server

    def request(self, method: str, url: str, headers: dict[str, str] | None = None, **kwargs: Any) -> Response:
        self._server.check_ours(method, urlsplit(url).path)
        response = super().request(method, url, headers, **kwargs)
        self._server.note_made(method, urlsplit(url).path, response.status_code, response.text)
        return response


class WatchedTwilioHttp(TwilioHttp):
    """Our adapter's HTTP client, watched likewise; also notes each request."""

    def __init__(self, server: "TwilioServer") -> None:
        super().__init__(WAIT_S, server.url)
        self._server = server

    def request(self, method: str, uri: str, *parts: Any, **fields: Any) -> Response:
        self._server.check_ours(method, urlsplit(uri).path)
        self._server.note_call(method, urlsplit(uri).path, fields.get("data"))
        response = super().request(method, uri, *parts, **fields)
        self._server.note_made(method, urlsplit(uri).path, response.status_code, response.text)
        return response


class TwilioServer:
    """One account, its clients, what this run has made in it, and which numbers it has borrowed."""

    def __init__(self, url: str, account_sid: str, auth_token: str, sandbox: Sandbox | None = None) -> None:
        self.url, self.account_sid, self.auth_token = url.rstrip("/"), account_sid, auth_token
        self.sandbox = sandbox
        self.made: dict[str, str] = {}
        """Sid -> path of what the current test has made, oldest first."""
        self.foreign: dict[str, Any] = {}
        """Sid -> the JSON of what was there before the first test."""
        self.calls: list[Call] = []
        """The adapter's requests."""
        self._borrowed: dict[str, dict[str, Any]] = {}
        self._skipped: dict[str, str] = {}
        self.http = requests.Session()
        self.http.trust_env = not is_loopback(urlsplit(self.url).hostname)
        self._client = WatchedHttpClient(self)

    @property
    def numbers_path(self) -> str:
        """Where the account's numbers are, without `.json`."""
        return f"/2010-04-01/Accounts/{self.account_sid}/IncomingPhoneNumbers"

    def client(self, password: str = "", account_sid: str | None = None) -> Client:
        """Return the SDK's client."""
        login = (self.account_sid, password or self.auth_token, account_sid)
        return Client(*login, http_client=self._client, environment={"_": ""})

    def raw(self, method: str, path: str, host: str = API, **kwargs: Any) -> requests.Response:
        """Send one request without the SDK."""
        self.check_ours(method, path)
        kwargs = {"auth": (self.account_sid, self.auth_token), "timeout": WAIT_S, **kwargs}
        response = self.http.request(method, self.url + path, headers={"Host": host}, **kwargs)
        self.note_made(method, path, response.status_code, response.text)
        return response

    def carrier(self) -> TwilioCarrier:
        """Return our adapter for this account."""
        login = (self.account_sid, self.account_sid, self.auth_token)
        return TwilioCarrier(*login, timeout_s=WAIT_S, http=WatchedTwilioHttp(self))

    def number(self, **fields: str) -> dict[str, Any]:
        """Return the record of a free voice number, with these fields set, as VoiceUrl="https://..."."""
        taken = self._seed() if self.sandbox else self._free_number()
        self._borrowed[taken["sid"]] = taken
        if not fields:
            return taken
        response = self.raw("POST", f"{self.numbers_path}/{taken['sid']}.json", data=fields)
        if "VoiceApplicationSid" in fields and not (response.ok and response.json()["voice_application_sid"]):
            pytest.skip(f"{self.url}: a voice application that does not exist is refused, and none is made for a test")
        assert response.ok, response.text
        return self.record(taken["sid"])

    def record(self, number_sid: str) -> dict[str, Any]:
        """Return a number's record as it is now."""
        response = self.raw("GET", f"{self.numbers_path}/{number_sid}.json")
        assert response.ok, response.text
        return dict(response.json())

    def trunk_record(self, trunk_sid: str) -> dict[str, Any]:
        """Return a trunk's record as it is now."""
        response = self.raw("GET", f"{V1_TRUNKS}/{trunk_sid}", TRUNKING)
        assert response.ok, response.text
        return dict(response.json())

    def number_of_trunk(self, trunk_sid: str) -> dict[str, Any]:
        """Return the record of a number that is on this trunk of ours."""
        return self.number(TrunkSid=trunk_sid)

    def requires(self, capability: str) -> None:
        """Skip the test, with the reason, where the emulator lacks the capability."""
        if capability not in self._skipped:
            is_there, reason = CAPABILITIES[capability]
            self._skipped[capability] = "" if is_there(self) else reason
        if self._skipped[capability]:
            pytest.skip(f"{self.url}: {self._skipped[capability]}")

    def check_ours(self, method: str, path: str) -> None:
        """Raise AssertionError for a change of what is somebody else's, before it is sent."""
        for sid in SID.findall(path) if method in {"POST", "DELETE"} else ():
            is_ours = sid not in self.foreign or sid in self._borrowed
            assert is_ours, f"a test is about to change {sid}, which is somebody else's"

    def note_call(self, method: str, path: str, body: Mapping[str, Any] | None) -> None:
        """Keep a request of the adapter."""
        words = [
            word for word in path.removesuffix(".json").split("/") if not re.fullmatch(r"[A-Z]{2}[0-9a-f]{32}", word)
        ]
        self.calls.append(Call(method, words[-1], body or {}))

    def written(self) -> list[Call]:
        """Return the adapter's requests that may have changed something since the last look, and begin a new one."""
        found = [call for call in self.calls if call.is_write]
        self.calls.clear()
        return found

    def note_made(self, method: str, path: str, status: int, body: str) -> None:
        """Have what was created in the account itself deleted after the test."""
        is_create = method == "POST" and status in {requests.codes.created, requests.codes.ok}
        found = SID.search(body) if is_create and MADE.fullmatch(path) else None
        if found:
            stem, dot, end = path.partition(".json")
            self.made[found[0]] = f"{stem}/{found[0]}{dot}{end}"

    def objects(self) -> dict[str, Any]:
        """Return the JSON of everything in the account that tests could disturb, by sid."""
        account = f"/2010-04-01/Accounts/{self.account_sid}"
        rows = self._listed(f"{self.numbers_path}.json", API, "incoming_phone_numbers")
        for trunk in self._listed(V1_TRUNKS, TRUNKING, "trunks"):
            rows += [trunk, *self._listed(f"{V1_TRUNKS}/{trunk['sid']}/OriginationUrls", TRUNKING, "origination_urls")]
        for name, key in (("CredentialLists", "credential_lists"), ("IpAccessControlLists", "ip_access_control_lists")):
            rows += self._listed(f"{account}/SIP/{name}.json", API, key, is_optional=True)
        return {row["sid"]: row for row in rows}

    def clean_up(self) -> None:
        """Put borrowed numbers back and delete what the test has made, newest first; what is gone already is fine."""
        for sid, before in self._borrowed.items():
            self._put_back(sid, before)
            if self.sandbox:
                self.raw("DELETE", f"{self.numbers_path}/{sid}.json")
        newest_first = list(reversed(self.made.items()))
        # Trunks first: a list that a trunk uses cannot be deleted.
        for sid, path in sorted(newest_first, key=lambda one: not one[1].startswith("/v1/")):
            response = self.raw("DELETE", path, TRUNKING if path.startswith("/v1/") else API)
            assert response.ok or response.status_code == requests.codes.not_found, f"{sid} was left: {response.text}"
        self._borrowed.clear()
        self.made.clear()

    def changed_for_others(self) -> list[str]:
        """Return the sids of what is not what it was; when a number was last changed does not count."""
        now = self.objects()
        return [sid for sid, before in self.foreign.items() if _undated(now.get(sid)) != _undated(before)]

    def _listed(self, path: str, host: str, key: str, *, is_optional: bool = False) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        following: str | None = f"{path}?PageSize={LIST_PAGE}"
        while following:
            response = self.raw("GET", following, host)
            if is_optional and response.status_code == requests.codes.not_found:
                return rows
            assert response.ok, f"{following}: {response.text}"
            page = response.json()
            rows += page[key]
            link = page.get("next_page_uri") or page.get("meta", {}).get("next_page_url")
            following = urlunsplit(("", "", *urlsplit(link)[2:4], "")) if link else None
        return rows

    def _seed(self) -> dict[str, Any]:
        assert self.sandbox is not None
        fictional = f"+1{random_text.randrange(201, 990)}55501{random_text.randrange(100):02}"
        return self.record(self.sandbox.number(fictional)["sid"])

    def _free_number(self) -> dict[str, Any]:
        for sid, record in self.foreign.items():
            if sid.startswith("PN") and sid not in self._borrowed and _is_free(record):
                return self.record(sid)
        pytest.skip(
            f"{self.url}: the account has no further free voice number to borrow (no trunk, application or URL)"
        )

    def _put_back(self, sid: str, before: Mapping[str, Any]) -> None:
        now = self.raw("GET", f"{self.numbers_path}/{sid}.json")
        if now.status_code == requests.codes.not_found and self.sandbox:
            return
        differing = {name: before.get(name) for name in PUT_BACK if now.json().get(name) != before.get(name)}
        if differing:
            data = {PUT_BACK[name]: _parameter(value) for name, value in differing.items()}
            response = self.raw("POST", f"{self.numbers_path}/{sid}.json", data=data)
            assert response.ok, f"{sid} was not put back: {response.text}"
        assert _undated(self.record(sid)) == _undated(before), f"{sid} was not put back whole"


def _parameter(value: object) -> str:
    """Return a value of a record as Twilio takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value or "")


def refused(status: int, code: int | str) -> AbstractContextManager[Any]:
    """Expect the SDK's error with this status and Twilio's code."""
    return pytest.raises(TwilioRestException, check=lambda error: (error.status, error.code) == (status, code))


def _is_free(record: Mapping[str, Any]) -> bool:
    """Tell whether nobody uses a number for calls."""
    is_voice = bool(record.get("capabilities", {}).get("voice")) and record.get("voice_receive_mode") != "fax"
    is_unused = not record.get("trunk_sid") and not record.get("voice_application_sid")
    url = record.get("voice_url") or DEMO
    return is_voice and is_unused and url.startswith(DEMO) and record.get("emergency_status") != "Active"


def _undated(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if record is None:
        return None
    is_number = str(record["sid"]).startswith("PN")
    return {name: value for name, value in record.items() if not (is_number and name == "date_updated")}


def _checks_credentials(server: TwilioServer) -> bool:
    response = server.raw("GET", f"{server.numbers_path}.json", auth=(server.account_sid, "wrong"))
    return response.status_code == requests.codes.unauthorized


def _has_lists(server: TwilioServer) -> bool:
    return server.raw("GET", f"/2010-04-01/Accounts/{server.account_sid}/SIP/CredentialLists.json").ok


def _has_account(server: TwilioServer) -> bool:
    return server.raw("GET", f"/2010-04-01/Accounts/{server.account_sid}.json").ok


def _has_recording(server: TwilioServer) -> bool:
    trunk = server.raw("POST", V1_TRUNKS, TRUNKING).json()["sid"]
    return server.raw("GET", f"{V1_TRUNKS}/{trunk}/Recording", TRUNKING).ok


CAPABILITIES = {
    "credentials": (_checks_credentials, "this emulator accepts any credentials"),
    "lists": (_has_lists, "this emulator has no credential lists and IP access control lists"),
    "account": (_has_account, "this emulator does not serve the account itself"),
    "recording": (_has_recording, "this emulator has no recording settings of trunks"),
}
"""What emulators may lack: name -> a probe, and why a test of it is skipped where the probe says no."""


def server_of(given: list[str]) -> TwilioServer:
    """Return the account that the option names."""
    url, account_sid, auth_token = given if len(given) > 1 else (*given, ACCOUNT_SID, AUTH_TOKEN)
    return TwilioServer(url, account_sid, auth_token)


def check(given: list[str]) -> None:
    """Raise UnusableError unless the account's numbers and trunks can be listed."""
    if len(given) not in {1, 3}:
        raise UnusableError("takes URL, or URL ACCOUNT_SID AUTH_TOKEN; other arguments go before it")
    url = given[0]
    check_url(url, ("http", "https"))
    if (urlsplit(url).hostname or "").endswith("twilio.com"):
        raise UnusableError(f"{url} is Twilio itself; these tests change numbers and are for an emulator")
    if len(given) > 1 and not re.fullmatch(r"AC[0-9a-f]{32}", given[1]):
        raise UnusableError(f"{given[1]!r} is no account sid: AC and 32 hex digits, in lower case")
    server = server_of(given)
    for path, host, key in (
        (f"{server.numbers_path}.json?PageSize=1", API, "incoming_phone_numbers"),
        (f"{V1_TRUNKS}?PageSize=1", TRUNKING, "trunks"),
    ):
        response = first_response(url, lambda path=path, host=host: server.raw("GET", path, host))
        problem = _problem_of(response, key)
        if problem:
            hint = "" if len(given) > 1 else "; its own ACCOUNT_SID and AUTH_TOKEN may follow the URL"
            raise UnusableError(f"{url}: the list of {key} of {server.account_sid} {problem}{hint}")


def _problem_of(response: requests.Response, key: str) -> str:
    """Return what is wrong with the first page of a list, or ""."""
    if response.status_code == requests.codes.unauthorized:
        return "is refused to these credentials"
    if not response.ok:
        return f"answers HTTP {response.status_code}"
    try:
        return "" if isinstance(response.json()[key], list) else f"has no {key!r}"
    except (ValueError, TypeError, KeyError):
        return f"has no {key!r}"


@pytest.fixture(scope="session")
def twilio_account(request: pytest.FixtureRequest) -> Iterator[TwilioServer]:
    """The account of `--twilio-emulator`, or the sandbox's; checks at the end that what others have is as it was."""
    given = request.config.getoption(OPTION)
    server = server_of(given) if given else twilio_in(request.getfixturevalue("shared_with_others"))
    server.foreign = server.objects()
    yield server
    server.clean_up()
    changed = server.changed_for_others()
    report = f"Twilio {server.url}: {len(server.foreign)} numbers, trunks, URLs and lists of others, "
    report += f"CHANGED MEANWHILE: {', '.join(changed)}" if changed else "each as it was before"
    if given:
        request.config.stash[REPORT].append(f"{report}; nothing of ours is left")
    assert not changed, report


@pytest.fixture
def twilio(twilio_account: TwilioServer) -> Iterator[TwilioServer]:
    """The Twilio account to ask; what the test makes is deleted after it, and what it borrows is put back."""
    twilio_account.calls.clear()
    yield twilio_account
    twilio_account.clean_up()


def twilio_in(sandbox: Sandbox) -> TwilioServer:
    """Return the sandbox's Twilio account, with a number and a trunk of somebody else."""
    server = TwilioServer(sandbox.base_url, ACCOUNT_SID, AUTH_TOKEN, sandbox)
    trunk = server.raw("POST", V1_TRUNKS, TRUNKING, data={"FriendlyName": "theirs"}).json()["sid"]
    url = {"Weight": "1", "Priority": "1", "Enabled": "true", "FriendlyName": "theirs", "SipUrl": "sip:example.com"}
    server.raw("POST", f"{V1_TRUNKS}/{trunk}/OriginationUrls", TRUNKING, data=url)
    sandbox.number("+14165550100", trunkSid=trunk)
    server.made.clear()
    return server


@pytest.fixture
def twilio_carrier(twilio: TwilioServer) -> Iterator[TwilioCarrier]:
    """Our adapter for the Twilio account."""
    carrier = twilio.carrier()
    yield carrier
    carrier.close()
