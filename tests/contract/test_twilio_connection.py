"""TwilioCarrier against the sandbox: credentials, faults, connections and threads."""

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.dev.sandbox import ACCOUNT_SID, API_KEY_SECRET, API_KEY_SID, AUTH_TOKEN
from app.domain.errors import ErrorCode
from app.providers.errors import ProviderError, RejectedError, TransientError, UnknownOutcomeError
from app.providers.twilio import TwilioCarrier
from tests.support.adapters import (
    E164,
    TRUNK_SPEC,
    carrier_at,
    operations,
)
from tests.support.sandbox import Sandbox
from tests.support.scripted_server import Answer, scripted_server

ELSEWHERE = (
    "https://twilio.com.example/x",
    "http://api.twilio.com/x",
    "https://127.0.0.1/x",
    "https://evil.example\\.twilio.com/",
    "https://api.twilio.com\\@evil.example/",
    "https://evil.example#.twilio.com/",
    "https://evil.example?.twilio.com/",
    "https://api.twilio.com@evil.example/",
    "https://user:secret@api.twilio.com/x",
    "https://api.twilio.com:8443/x",
    "https://api.twilio.com:0/x",
    "https://api.twilio.com./x",
    "https://evil.twilio.com/x",
    "https://xapi.twilio.com/x",
    "https://api.twilio.com\uff0f@evil.example/",
    "https://\u200bapi.twilio.com/x",
    "https://evil.example\t.twilio.com/",
    "https://evil.example\n/api.twilio.com/",
    " https://api.twilio.com/x",
    "//api.twilio.com/x",
    "///evil.example/x",
    "api.twilio.com/x",
    "ftp://api.twilio.com/x",
    "https:///x",
    "https://[::1/x",
    "",
)
"""Addresses that are not Twilio's, as one library or another reads them."""


def test_ping_needs_nothing_but_good_credentials(carrier: TwilioCarrier, sandbox: Sandbox) -> None:
    carrier.ping()
    assert sorted(operations(sandbox)) == ["twilio.list_numbers", "twilio.list_trunks"]


def test_an_api_key_serves_as_well_as_the_token(sandbox: Sandbox) -> None:
    carrier = TwilioCarrier(ACCOUNT_SID, API_KEY_SID, API_KEY_SECRET, timeout_s=5, base_url=sandbox.base_url)
    carrier.ping()
    carrier.close()


def test_a_wrong_token_is_told_apart_on_every_kind_of_call(sandbox: Sandbox) -> None:
    carrier = carrier_at(sandbox, password="wrong")
    for call in (
        carrier.ping,
        lambda: carrier.find_number(E164),
        lambda: carrier.create_trunk(TRUNK_SPEC),
        lambda: carrier.delete_trunk("TK" + "0" * 32),
    ):
        with pytest.raises(RejectedError) as caught:
            call()
        assert caught.value.code is ErrorCode.TWILIO_BAD_CREDENTIALS
    carrier.close()


@pytest.mark.parametrize(
    ("account", "username"), [("AC1", "AC1"), (ACCOUNT_SID, "me"), ("", ""), (API_KEY_SID, API_KEY_SID)]
)
def test_malformed_credentials_are_refused_at_once(account: str, username: str) -> None:
    with pytest.raises(ValueError, match="sid"):
        TwilioCarrier(account, username, "x", timeout_s=5)


@pytest.mark.parametrize(
    ("kind", "on_read", "on_write", "applied"),
    [
        ("429", TransientError, TransientError, False),
        ("500", TransientError, UnknownOutcomeError, False),
        ("503_html", TransientError, UnknownOutcomeError, False),
        ("drop_before", TransientError, UnknownOutcomeError, False),
        ("apply_then_drop", TransientError, UnknownOutcomeError, True),
        ("malformed", TransientError, UnknownOutcomeError, True),
        ("hang", TransientError, UnknownOutcomeError, False),
    ],
)
def test_each_fault_is_what_the_saga_takes_it_for(
    kind: str, on_read: type[ProviderError], on_write: type[ProviderError], applied: bool, sandbox: Sandbox
) -> None:
    carrier = carrier_at(sandbox, timeout_s=0.5)
    sandbox.fault("twilio.*", kind, times=None)
    with pytest.raises(on_read) as caught:
        carrier.list_trunks()
    assert type(caught.value) is on_read
    with pytest.raises(on_write) as caught:
        carrier.create_trunk(TRUNK_SPEC)
    assert type(caught.value) is on_write
    sandbox.clear_faults()
    assert len(carrier.list_trunks()) == applied
    carrier.close()


def test_the_wish_of_a_rate_limit_is_carried(carrier: TwilioCarrier, sandbox: Sandbox) -> None:
    sandbox.fault("twilio.create_trunk", "429", retryAfterS=17)
    with pytest.raises(TransientError) as caught:
        carrier.create_trunk(TRUNK_SPEC)
    assert caught.value.retry_after_s == 17


def test_twenty_calls_in_a_row_share_one_connection(carrier: TwilioCarrier, sandbox: Sandbox) -> None:
    sandbox.number(E164)
    before = sandbox.connections_opened().get("twilio", 0)
    for _ in range(5):
        carrier.find_number(E164)
        trunk = carrier.create_trunk(TRUNK_SPEC)
        carrier.delete_trunk(trunk.sid)
        carrier.get_trunk(trunk.sid)
    assert len(operations(sandbox)) == 20
    assert sandbox.connections_opened()["twilio"] - before <= 1


def test_many_threads_get_their_own_answers_over_one_pool(carrier: TwilioCarrier, sandbox: Sandbox) -> None:
    wanted = [f"+1514555{index:04}" for index in range(64)]
    sandbox.numbers(wanted)
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda e164: carrier.find_number(e164).phone_number, wanted * 5))
    assert found == wanted * 5
    assert sandbox.connections_opened()["twilio"] <= 32


def test_nothing_of_the_environment_turns_the_requests_away(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TWILIO_REGION": "ie1", "TWILIO_EDGE": "dublin", "HTTP_PROXY": "http://127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)
    with scripted_server() as server:
        carrier = TwilioCarrier(ACCOUNT_SID, ACCOUNT_SID, AUTH_TOKEN, timeout_s=5, base_url=server.url)
        server.answer(Answer(200, b'{"incoming_phone_numbers": []}'))
        server.answer(Answer(200, b'{"meta": {"key": "trunks"}, "trunks": []}'))
        carrier.ping()
        carrier.close()
        assert [seen.headers["Host"] for seen in server.seen] == ["api.twilio.com", "trunking.twilio.com"]


def test_no_number_and_no_secret_is_logged(
    carrier: TwilioCarrier, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.number(E164)
    caplog.set_level(logging.INFO)
    carrier.find_number(E164)
    carrier.create_trunk(TRUNK_SPEC)
    assert caplog.records == []


def test_without_a_base_url_credentials_never_leave_for_another_host() -> None:
    page = {"incoming_phone_numbers": [], "next_page_uri": None}
    carrier = TwilioCarrier(ACCOUNT_SID, ACCOUNT_SID, AUTH_TOKEN, timeout_s=5)
    http = carrier._twilio._client().http_client
    for address in ELSEWHERE:
        with pytest.raises(ValueError, match=r"outside Twilio|Failed to parse"):
            http.request("GET", address, data=page)
    carrier.close()


def test_with_a_base_url_a_next_page_elsewhere_is_asked_for_at_the_base() -> None:
    with scripted_server() as server:
        carrier = TwilioCarrier(ACCOUNT_SID, ACCOUNT_SID, AUTH_TOKEN, timeout_s=5, base_url=server.url)
        for address in ("https://user@evil.example:1/x?y=1#z", "https://evil.example//other.example/x?y=1"):
            server.answer(Answer(200, b"{}"))
            carrier._twilio._client().http_client.request("GET", address)
        carrier.close()
        assert [seen.path for seen in server.seen] == ["/x?y=1", "/other.example/x?y=1"]
