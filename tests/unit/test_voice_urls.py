"""Which voice URL is a use of a number, and the host that is shown of it."""

import pytest
from hypothesis import given

from app.path.observed import UNREADABLE_HOST, NumberRouting
from tests.support.malformed_texts import ANY_TEXT


def _host(url: str | None) -> str:
    return NumberRouting(None, None, url).voice_host


@pytest.mark.parametrize(
    ("url", "host"),
    [
        (None, ""),
        ("", ""),
        ("  ", ""),
        ("https://demo.twilio.com/welcome/voice/", ""),
        ("http://demo.twilio.com/docs/voice.xml", ""),
        ("HTTPS://Demo.Twilio.com", ""),
        ("https://flows.example.com/v1/Accounts/AC1/Flows/FW1", "flows.example.com"),
        ("https://handler.twilio.com/twiml/EH1?To=%2B15145551234", "handler.twilio.com"),
        ("http://user:secret@PBX.example.com:8080/", "pbx.example.com"),
        ("https://demo.twilio.com.example.com/", "demo.twilio.com.example.com"),
        ("https://demo.twilio.com@example.com/", "example.com"),
        ("https://example.com/demo.twilio.com", "example.com"),
        ("https://[2001:db8::1]/voice", "2001:db8::1"),
        ("https://[::1", UNREADABLE_HOST),
        ("flows", UNREADABLE_HOST),
        ("https://", UNREADABLE_HOST),
    ],
)
def test_a_url_is_a_use_unless_it_is_empty_or_the_demo_of_twilio(url: str | None, host: str) -> None:
    assert _host(url) == host


def test_a_trunk_and_an_application_go_before_the_url() -> None:
    url = "https://flows.example.com/v1"
    for routing, name in (
        (NumberRouting("TK1", None, url), "trunk TK1"),
        (NumberRouting(None, "AP1", url), "voice application AP1"),
        (NumberRouting("TK1", "AP1", url), "trunk TK1"),
    ):
        assert (routing.voice_host, routing.taken_by, routing.is_taken) == ("", name, True)
    assert (_host(url), NumberRouting("", "", url).taken_by) == ("flows.example.com", "")


@given(ANY_TEXT)
def test_any_text_has_a_host_of_one_printable_line(url: str) -> None:
    host = _host(url)
    assert host.isprintable()
    assert len(host) <= 400
