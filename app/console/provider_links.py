"""Addresses of the pages that the providers' own consoles have for an object, known by the shape of its id.

Twilio's documents name none of its pages; people quote these. LiveKit's documents link to its two pages as below
(docs.livekit.io/telephony/accepting-calls/inbound-trunk and .../dispatch-rule), where `p_` stands for the project that
the reader opened last; neither is of one object.
"""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from app.settings import Settings

_TWILIO = re.compile(r"(TK|PN|OU)[0-9a-f]{32}", re.ASCII)
_LIVEKIT = re.compile(r"(ST|SDR)_[0-9A-Za-z]+", re.ASCII)

_PAGES = {"ST": "trunks", "SDR": "dispatch"}
"""Prefix of an id -> LiveKit's page."""

DEFAULT_REGION = "us1"


@dataclass(frozen=True, slots=True)
class ProviderPage:
    """One page of a provider's console."""

    owner: str
    url: str


def provider_page(external_id: str, settings: Settings, trunk_sid: str | None = None) -> ProviderPage | None:
    """Return the page; None where there is none: for an origination URL without its trunk, or on another's server."""
    if found := _TWILIO.fullmatch(external_id):
        region = _region(settings.twilio_base_url)
        shown = trunk_sid if found[1] == "OU" else external_id
        if region is None or shown is None:
            return None
        develop = f"https://console.twilio.com/{region}/develop"
        if found[1] == "PN":
            return ProviderPage("Twilio", f"{develop}/phone-numbers/manage/incoming/{shown}/configure")
        return ProviderPage("Twilio", f"{develop}/elastic-sip-trunking/trunks/{shown}")
    found = _LIVEKIT.fullmatch(external_id)
    if found and (urlsplit(settings.livekit_url).hostname or "").endswith(".livekit.cloud"):
        return ProviderPage("LiveKit", f"https://cloud.livekit.io/projects/p_/telephony/{_PAGES[found[1]]}")
    return None


def _region(base_url: str | None) -> str | None:
    """Return the region that the API's address names (api.dublin.ie1.twilio.com); None for another's server."""
    if base_url is None:
        return DEFAULT_REGION
    host = urlsplit(base_url).hostname or ""
    parts = host.removesuffix(".twilio.com").split(".")
    if not host.endswith(".twilio.com"):
        return None
    return parts[-1] if len(parts) > 2 else DEFAULT_REGION  # noqa: PLR2004 - api, edge, region
