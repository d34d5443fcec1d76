"""Links from an id to the provider's console."""

import pytest

from app.console.provider_links import provider_page
from app.settings import Settings
from tests.support.api import make_settings

HEX = "0123456789abcdef" * 2
TRUNK = f"TK{HEX}"
TWILIO = "https://console.twilio.com"
LIVEKIT = "https://cloud.livekit.io/projects/p_/telephony"


def settings(twilio: str | None = None, livekit: str = "https://example.livekit.cloud") -> Settings:
    return make_settings("postgresql://localhost/x").model_copy(
        update={"twilio_base_url": twilio, "livekit_url": livekit}
    )


@pytest.mark.parametrize(
    ("external_id", "url"),
    [
        (TRUNK, f"{TWILIO}/us1/develop/elastic-sip-trunking/trunks/{TRUNK}"),
        (f"PN{HEX}", f"{TWILIO}/us1/develop/phone-numbers/manage/incoming/PN{HEX}/configure"),
        (f"OU{HEX}", f"{TWILIO}/us1/develop/elastic-sip-trunking/trunks/{TRUNK}"),
        ("ST_4Zp8oTqKcJ2m", f"{LIVEKIT}/trunks"),
        ("SDR_9hXb3LwNfR7d", f"{LIVEKIT}/dispatch"),
    ],
)
def test_every_id_of_a_path_has_a_page(external_id: str, url: str) -> None:
    page = provider_page(external_id, settings(), TRUNK)

    assert page is not None
    assert page.url == url


@pytest.mark.parametrize("other", ["", "front-desk", f"TK{HEX}/../x", "ST_", "ST_a?b", f"TK{HEX}\n", f"AC{HEX}"])
def test_nothing_else_has_one(other: str) -> None:
    assert provider_page(other, settings(), TRUNK) is None


def test_an_origination_url_is_on_the_page_of_its_trunk_alone() -> None:
    assert provider_page(f"OU{HEX}", settings()) is None


def test_a_region_has_its_own_pages_and_another_server_none() -> None:
    ireland = provider_page(TRUNK, settings("https://api.dublin.ie1.twilio.com"))

    assert ireland is not None
    assert ireland.url.startswith(f"{TWILIO}/ie1/")
    for elsewhere in ("http://127.0.0.1:5001", "https://api.twilio.com.example.com"):
        assert provider_page(TRUNK, settings(elsewhere)) is None
    assert provider_page("ST_4Zp8oTqKcJ2m", settings(livekit="http://127.0.0.1:7880")) is None
