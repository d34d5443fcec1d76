"""LiveKit's media settings of trunks and rules: what is refused, how old and new fields agree, and which apply."""

import re
from typing import Any

from livekit.protocol import sip

from app.sandbox.livekit_answers import invalid

MAX_MEDIA_TIMEOUT_S = 600
"""Seconds: longer media timeouts are refused (livekit/protocol livekit/sip.go, MaxSIPMediaTimeout)."""

DISABLE = sip.SIPMediaEncryption.SIP_MEDIA_ENCRYPT_DISABLE
REQUIRE = sip.SIPMediaEncryption.SIP_MEDIA_ENCRYPT_REQUIRE


def check_media(media: sip.SIPMediaConfig) -> None:
    """Raise LiveKit's 400 for media settings that it refuses."""
    for codec in media.codecs:
        if not codec.name:
            raise invalid("missing codec name")
        if re.search(r"[ \t\r\n]", codec.name):
            raise invalid("invalid codec name")
        if "/" in codec.name:
            raise invalid("codec name must not contain '/'")
    timeout_s = media.media_timeout.ToTimedelta().total_seconds()
    if timeout_s < 0:
        raise invalid("media_timeout must not be negative")
    if timeout_s > MAX_MEDIA_TIMEOUT_S:
        raise invalid("media_timeout must not exceed 10m0s")


def upgrade(info: Any) -> None:
    """Give a trunk or rule its media settings; the old `media_encryption` counts where the new field is not set."""
    info.media.SetInParent()
    if not info.media.HasField("encryption") and info.media_encryption != DISABLE:
        info.media.encryption = info.media_encryption


def patch_media(info: Any, change: Any) -> None:
    """Apply a partial update of a trunk or rule; new and old field say the same afterwards."""
    if change.HasField("media"):
        info.media.CopyFrom(change.media)
    if change.HasField("media_encryption"):
        info.media_encryption = change.media_encryption
    upgrade(info)
    info.media_encryption = info.media.encryption


def effective_media(trunk: sip.SIPInboundTrunkInfo | None, rule: sip.SIPDispatchRuleInfo) -> sip.SIPMediaConfig:
    """Return the settings of a call: the rule's win where they say something (livekit/protocol sip.go, Merge)."""
    media = sip.SIPMediaConfig()
    for info in filter(None, (trunk, rule)):
        own: Any = type(info).FromString(info.SerializeToString())
        upgrade(own)
        if own.media.codecs:
            media.ClearField("codecs")
            media.codecs.extend(own.media.codecs)
            media.only_listed_codecs = own.media.only_listed_codecs
        if own.media.HasField("media_timeout"):
            media.media_timeout.CopyFrom(own.media.media_timeout)
        if own.media.encryption != DISABLE:
            media.encryption = own.media.encryption
    return media
