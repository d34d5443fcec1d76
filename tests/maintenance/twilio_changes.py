"""Single changes at Twilio: to our number, our trunk, its origination URLs, and by other trunks."""

from typing import Any

from livekit.protocol import sip

from app.dev import sandbox as defaults
from app.domain.findings import Callers, FindingCode
from app.domain.operations import NUMBER, ORIGINATION_URL, TRUNK
from tests.maintenance.changes import Change, Outcome, harmless
from tests.support.changed_path import ChangedPath

_C = FindingCode
ALL, SOME = Callers.ALL, Callers.SOME
LEFT, TAKEN_BACK = Outcome.LEFT, Outcome.TAKEN_BACK
HOST = defaults.SIP_HOST
OURS = f"sip:{HOST};transport=tcp"
REGION = f"sip:{HOST.replace('.', '.us.', 1)};transport=tcp"
ELSEWHERE = "sip:elsewhere.example.com;transport=tcp"
APPLICATION = "AP" + "a" * 32
MEDIA = sip.SIPMediaEncryption
SECURE: dict[str, Any] = {"is_secure": True}
DETACHED = frozenset({_C.NUMBER_DETACHED})
"""What Twilio does to the numbers of a trunk that is deleted."""


def _release(path: ChangedPath) -> None:
    path.console.twilio("DELETE", path.number_path)


def _delete_trunk(path: ChangedPath) -> None:
    path.console.twilio("DELETE", path.trunk_path)


def _move(*sip_urls: str, **trunk: str) -> Any:
    def make(path: ChangedPath) -> str:
        sid = path.add_trunk(*sip_urls, **trunk)
        path.console.twilio("POST", f"/v1/Trunks/{sid}/PhoneNumbers", PhoneNumberSid=path.ours(NUMBER))
        return path.ours(NUMBER)

    return make


def _number(**fields: str) -> Any:
    return lambda path: path.change_number(**fields)


def _trunk(**fields: str) -> Any:
    return lambda path: path.change_trunk(**fields)


def _url(**fields: str) -> Any:
    return lambda path: path.change_url(**fields)


def _another_url(sip_url: str, **fields: str) -> Any:
    return lambda path: path.add_url(sip_url, **fields)


def _both(*changes: Any) -> Any:
    def make(path: ChangedPath) -> None:
        for change in changes:
            change(path)

    return make


def _encrypt_inbound(value: int) -> Any:
    return lambda path: path.change_inbound(lambda info: setattr(info.media, "encryption", value))


def _encrypt_rule(value: int) -> Any:
    return lambda path: path.change_rule(lambda info: setattr(info.media, "encryption", value))


NUMBER_CHANGES = (
    Change("number detached", _number(TrunkSid="", VoiceUrl=""), _C.NUMBER_DETACHED, ALL),
    Change("number detached, its voice URL live again", _number(TrunkSid=""), _C.NUMBER_DETACHED, ALL),
    Change("number on a foreign trunk", _move(ELSEWHERE), _C.NUMBER_MOVED, ALL, TAKEN_BACK),
    Change("number on a foreign trunk without URLs", _move(), _C.NUMBER_MOVED, ALL, TAKEN_BACK),
    Change("number on a foreign trunk that leads to LiveKit", _move(OURS), _C.NUMBER_MOVED, None, TAKEN_BACK),
    Change(
        "number on a foreign secure trunk that leads to LiveKit",
        _move(OURS, Secure="true"),
        _C.NUMBER_MOVED,
        ALL,
        TAKEN_BACK,
    ),
    Change(
        "number given to a voice application",
        _number(VoiceApplicationSid=APPLICATION),
        _C.NUMBER_MOVED,
        ALL,
        TAKEN_BACK,
    ),
    Change("number set to receive fax", _number(VoiceReceiveMode="fax"), _C.NUMBER_NO_VOICE, ALL, LEFT),
    Change(
        "number that has lost its voice capability",
        lambda path: path.put_number(capabilities={"voice": False, "sms": True}),
        _C.NUMBER_NO_VOICE,
        ALL,
        LEFT,
    ),
    Change("number not in use", lambda path: path.put_number(status="suspended"), _C.NUMBER_NO_VOICE, ALL, LEFT),
    Change("number released", _release, _C.NUMBER_GONE, ALL, LEFT),
    harmless("number without a status", lambda path: path.put_number(status=None)),
    harmless("voice URL of the number changed", _number(VoiceUrl="https://flows.example.com/v1/Flows/FW1")),
    harmless("fall-back URL of the number set", _number(VoiceFallbackUrl="https://example.com/fallback")),
    harmless("messages of the number sent elsewhere", _number(SmsUrl="https://example.com/sms")),
    harmless("status callback of the number set", _number(StatusCallback="https://example.com/status")),
    harmless("number renamed", _number(FriendlyName="Main line")),
    harmless("caller's name looked up", _number(VoiceCallerIdLookup="true")),
    harmless("emergency calling switched on", _number(EmergencyStatus="Active")),
)

TRUNK_CHANGES = (
    Change("trunk secure", _trunk(Secure="true"), _C.TRUNK_SECURE, ALL),
    harmless(
        "trunk secure, LiveKit's trunk takes both",
        _both(_trunk(Secure="true"), _encrypt_inbound(MEDIA.SIP_MEDIA_ENCRYPT_ALLOW)),
    ),
    harmless(
        "trunk secure, LiveKit's trunk too",
        _both(_trunk(Secure="true"), _encrypt_inbound(MEDIA.SIP_MEDIA_ENCRYPT_REQUIRE)),
    ),
    harmless(
        "trunk secure, the rule encrypts", _both(_trunk(Secure="true"), _encrypt_rule(MEDIA.SIP_MEDIA_ENCRYPT_REQUIRE))
    ),
    Change(
        "trunk deleted", lambda path: path.console.twilio("DELETE", path.trunk_path), _C.TRUNK_GONE, ALL, also=DETACHED
    ),
    Change("trunk renamed", _trunk(FriendlyName="Main trunk"), _C.MARK_LOST, kind=TRUNK),
    Change("name of the trunk emptied", _trunk(FriendlyName=""), _C.MARK_LOST, kind=TRUNK),
    harmless("transfers allowed", _trunk(TransferMode="sip-only")),
    Change(
        "transfers not as the profile says",
        _trunk(TransferMode="disable-all"),
        _C.TRUNK_CHANGED,
        profile={"transfer_mode": "enable-all"},
    ),
    harmless("caller of a transfer", _trunk(TransferCallerId="from-transferor")),
    harmless("disaster recovery taken away", _trunk(DisasterRecoveryUrl="")),
    harmless("name lookup taken away", _trunk(CnamLookupEnabled="false")),
    harmless(
        "recording from the ringing",
        lambda path: path.console.twilio("POST", f"{path.trunk_path}/Recording", Mode="record-from-ringing-dual"),
    ),
    harmless("domain for outgoing calls", _trunk(DomainName="acme-desk.pstn.twilio.com")),
    harmless(
        "another number on our trunk", lambda path: path.sandbox.number("+15145550044", trunkSid=path.ours(TRUNK))
    ),
    harmless("secure line: URL over TCP", _url(SipUrl=OURS), profile=SECURE),
    Change("secure line: trunk plain", _trunk(Secure="false"), _C.TRUNK_CHANGED, ALL, profile=SECURE),
)

URL_CHANGES = (
    Change("URL deleted", lambda path: path.console.twilio("DELETE", path.url_path), _C.ORIGINATION_URL_MISSING, ALL),
    Change("URL disabled", _url(Enabled="false"), _C.ORIGINATION_URL_DISABLED, ALL),
    Change(
        "URL to another host", _url(SipUrl=ELSEWHERE), _C.ORIGINATION_HOST_WRONG, ALL, words="elsewhere.example.com"
    ),
    Change(
        "URL to another port",
        _url(SipUrl=f"sip:{HOST}:5080;transport=tcp"),
        _C.ORIGINATION_HOST_WRONG,
        ALL,
        words="5080",
    ),
    Change(
        "URL with a user", _url(SipUrl=f"sip:agent@{HOST};transport=tcp"), _C.ORIGINATION_URL_CHANGED, ALL, words="user"
    ),
    Change(
        "URL with another number as user",
        _url(SipUrl=f"sip:+15145550077@{HOST}"),
        _C.ORIGINATION_URL_CHANGED,
        ALL,
        words="user",
    ),
    Change("URL that cannot be read", _url(SipUrl="sip:[::1"), _C.ORIGINATION_URL_CHANGED, ALL, words="cannot be read"),
    Change("URL over UDP", _url(SipUrl=f"sip:{HOST};transport=udp"), _C.ORIGINATION_URL_CHANGED),
    Change("URL over TLS", _url(SipUrl=f"sip:{HOST};transport=tls"), _C.ORIGINATION_URL_CHANGED),
    Change("URL without a transport", _url(SipUrl=f"sip:{HOST}"), _C.ORIGINATION_URL_CHANGED),
    Change("URL's priority", _url(Priority="40"), _C.ORIGINATION_URL_CHANGED),
    Change("URL's weight", _url(Weight="1"), _C.ORIGINATION_URL_CHANGED),
    Change("URL renamed", _url(FriendlyName="LiveKit"), _C.MARK_LOST, kind=ORIGINATION_URL),
    Change("name of the URL emptied", _url(FriendlyName=""), _C.MARK_LOST, kind=ORIGINATION_URL),
    harmless("URL through an edge", _url(SipUrl=f"{OURS};edge=dublin")),
    harmless("URL through a region, by the old name", _url(SipUrl=f"{OURS};region=ie1")),
    harmless("URL in capitals", _url(SipUrl=f"sip:{HOST.upper()};transport=TCP")),
    harmless("URL with the transport's own port", _url(SipUrl=f"sip:{HOST}:5060;transport=tcp")),
    harmless("URL with a header", _url(SipUrl=f"{OURS}?X-Team=support")),
    Change("another URL before ours", _another_url(ELSEWHERE, Priority="1"), _C.ORIGINATION_URL_OVERRIDDEN, ALL, LEFT),
    Change("another URL beside ours", _another_url(ELSEWHERE, Weight="10"), _C.ORIGINATION_URL_OVERRIDDEN, SOME, LEFT),
    Change(
        "another URL with a user before ours",
        _another_url(f"sip:x@{HOST}", Priority="1"),
        _C.ORIGINATION_URL_OVERRIDDEN,
        ALL,
        LEFT,
    ),
    Change(
        "another URL to another port before ours",
        _another_url(f"sip:{HOST}:5080", Priority="1"),
        _C.ORIGINATION_URL_OVERRIDDEN,
        ALL,
        LEFT,
    ),
    harmless("another URL after ours", _another_url(ELSEWHERE, Priority="20")),
    harmless("another URL before ours, disabled", _another_url(ELSEWHERE, Priority="1", Enabled="false")),
    harmless("LiveKit's region before ours", _another_url(REGION, Priority="1")),
    harmless("LiveKit's region as a fall-back", _another_url(REGION, Priority="20")),
    harmless("the same URL once more", _another_url(OURS)),
    harmless("another URL that cannot be read before ours", _another_url("sip:x]", Priority="1")),
    Change(
        "URL disabled, LiveKit's region as a fall-back",
        _both(_url(Enabled="false"), _another_url(REGION, Priority="20")),
        _C.ORIGINATION_URL_DISABLED,
    ),
    Change(
        "URL deleted, LiveKit's region as a fall-back",
        _both(lambda path: path.console.twilio("DELETE", path.url_path), _another_url(REGION, Priority="20")),
        _C.ORIGINATION_URL_MISSING,
    ),
)

OF_TRUNKS = TRUNK_CHANGES + URL_CHANGES
CHANGES = NUMBER_CHANGES + OF_TRUNKS
