"""SIP messages as bytes (RFC 3261): reading requests and responses, framing a stream, writing both, and SDP."""

import base64
import re
import secrets
from dataclasses import dataclass, field
from urllib.parse import unquote

VERSION = "SIP/2.0"

COMPACT = {
    "c": "content-type",
    "f": "from",
    "i": "call-id",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "s": "subject",
    "t": "to",
    "v": "via",
}
"""One-letter names of headers (RFC 3261, 7.3.3)."""

MAX_MESSAGE_BYTES = 65_536
"""Bytes of one message; what is longer closes its connection. A UDP packet cannot be longer."""


class MalformedError(ValueError):
    """The bytes are no SIP message; the text says why."""


@dataclass(slots=True)
class Message:
    """A request (`method`, `uri`) or a response (`status`, `reason`); header names are in lower case, in full."""

    method: str = ""
    uri: str = ""
    status: int = 0
    reason: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def get(self, name: str) -> str:
        """Return the first header of this name, or the empty text."""
        return next((value for key, value in self.headers if key == name), "")

    def all(self, name: str) -> list[str]:
        """Return all headers of this name, in order."""
        return [value for key, value in self.headers if key == name]

    @property
    def call_id(self) -> str:
        """What tells calls apart."""
        return self.get("call-id")

    @property
    def cseq(self) -> int:
        """The number of the request within its call; 0 when there is none."""
        number = self.get("cseq").split(" ")[0]
        return int(number) if re.fullmatch(r"[0-9]{1,10}", number, re.ASCII) else 0

    @property
    def branch(self) -> str:
        """The branch of the topmost Via: what tells transactions apart."""
        return parameter(self.get("via").split(",")[0], "branch")

    @property
    def sent_by(self) -> str:
        """The host and port of the topmost Via: a branch means something together with it."""
        return self.get("via").split(",")[0].split(";")[0].rpartition(" ")[2].lower()

    def encode(self) -> bytes:
        """Return the bytes; Content-Length is added."""
        start = f"{self.method} {self.uri} {VERSION}" if self.method else f"{VERSION} {self.status} {self.reason}"
        lines = [start, *(f"{_spelled(name)}: {value}" for name, value in self.headers)]
        lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


SPELLED = {"call-id": "Call-ID", "cseq": "CSeq", "www-authenticate": "WWW-Authenticate"}


def _spelled(name: str) -> str:
    return SPELLED.get(name) or "-".join(part.capitalize() for part in name.split("-"))


_REQUEST = re.compile(r"([A-Z][A-Z0-9]*) ([^ \t]+) SIP/2\.0", re.ASCII)
_STATUS = re.compile(r"SIP/2\.0 ([1-6][0-9]{2})(?: (.*))?", re.ASCII)
_HEADER = re.compile(r"([A-Za-z0-9!#$%&'*+.^_`|~-]+)[ \t]*:[ \t]*(.*?)[ \t]*", re.ASCII)


def read_message(data: bytes) -> Message:
    """Read one message, a packet or what `framed` has cut; raise MalformedError."""
    head, separator, body = data.lstrip(b"\r\n").partition(b"\r\n\r\n")
    if not separator:
        raise MalformedError("the header has no end")
    start, *lines = re.sub(r"\r\n[ \t]+", " ", head.decode("utf-8", "replace")).split("\r\n")
    message = _started(start)
    for line in lines:
        parts = _HEADER.fullmatch(line)
        if parts is None:
            raise MalformedError("a header cannot be read")
        name = parts[1].lower()
        message.headers.append((COMPACT.get(name, name), parts[2]))
    length = _length(message.get("content-length"))
    if length is not None and length > len(body):
        raise MalformedError("the body is shorter than its Content-Length")
    message.body = body[:length]
    message.headers = [(name, value) for name, value in message.headers if name != "content-length"]
    return message


def _started(start: str) -> Message:
    if request := _REQUEST.fullmatch(start):
        return Message(method=request[1], uri=request[2])
    if status := _STATUS.fullmatch(start):
        return Message(status=int(status[1]), reason=status[2] or "")
    raise MalformedError("the first line is none of SIP")


def _length(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,7}", text, re.ASCII):
        raise MalformedError("the Content-Length is no number")
    return int(text)


_LENGTH = re.compile(rb"\r\n(?:content-length|l)[ \t]*:[ \t]*([0-9]{1,7})[ \t]*(?=\r\n)", re.IGNORECASE)


def framed(buffer: bytearray) -> bytes | None:
    """Cut the first whole message off a stream; None while there is none.

    Blank lines between messages keep a connection alive (RFC 5626, 4.4.1). Without a Content-Length there is no body.
    """
    while buffer[:2] == b"\r\n":
        del buffer[:2]
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        if len(buffer) > MAX_MESSAGE_BYTES:
            raise MalformedError("the header is too long")
        return None
    length = _LENGTH.search(bytes(buffer[: end + 2]))
    whole = end + 4 + (int(length[1]) if length else 0)
    if whole > MAX_MESSAGE_BYTES:
        raise MalformedError("the message is too long")
    if len(buffer) < whole:
        return None
    data = bytes(buffer[:whole])
    del buffer[:whole]
    return data


def parameter(value: str, name: str) -> str:
    """Return a parameter that follows a header's value after a `;`, or the empty text."""
    for part in value.rpartition(">")[2].split(";")[1:]:
        key, _, given = part.partition("=")
        if key.strip().lower() == name:
            return given.strip()
    return ""


_ADDRESS = re.compile(r'(?:"(?:[^"\\]|\\.)*"\s*|[^"<]*)<([^>]*)>.*', re.DOTALL)
_URI = re.compile(
    r"sips?:(?:(?P<user>[^@]*)@)?(?P<host>\[[^\]]*\]|[^:;?@]+)(?::(?P<port>[0-9]{1,5}))?(?:[;?].*)?", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Address:
    """Who a From, To or Contact header, or a request's URI, names."""

    user: str
    host: str
    port: int | None


def read_address(value: str) -> Address | None:
    """Read the URI of a header, or a bare one, whose parameters are the header's; None when it is none of SIP."""
    inner = _ADDRESS.fullmatch(value.strip())
    uri = inner[1] if inner else value.strip().partition(";")[0]
    parts = _URI.fullmatch(uri.strip())
    if parts is None:
        return None
    user = unquote((parts["user"] or "").partition(":")[0].partition(";")[0])
    return Address(user, parts["host"].strip("[]").lower(), int(parts["port"]) if parts["port"] else None)


def new_branch() -> str:
    """Return a fresh branch for a request of ours (RFC 3261, 8.1.1.7)."""
    return "z9hG4bK" + secrets.token_hex(8)


SRTP_KEY_BYTES = 30
"""Master key and salt of AES_CM_128_HMAC_SHA1_80 (RFC 4568, 6.2.1)."""

STATIC_PAYLOADS = {"0": "pcmu/8000", "8": "pcma/8000", "9": "g722/8000"}
"""Payload types that need no rtpmap (RFC 3551, table 4)."""


@dataclass(frozen=True, slots=True)
class Offer:
    """The audio that an SDP offers: where it is taken, payload types by codec, best first, whether it is encrypted."""

    host: str
    port: int
    codecs: dict[str, str]
    is_secure: bool


_MEDIA = re.compile(r"m=audio ([0-9]{1,5})(?:/[0-9]+)? (RTP/S?AVPF?) ([0-9 ]+)", re.ASCII)
_CONNECTION = re.compile(r"c=IN IP4 ([0-9.]+)", re.ASCII)
_RTPMAP = re.compile(r"a=rtpmap:([0-9]+) ([^ /]+/[0-9]+)(?:/[0-9]+)?", re.ASCII)


def read_offer(body: bytes) -> Offer | None:
    """Read the first audio of an SDP; None when there is none."""
    host, media, maps, is_secure = "", None, {}, False
    for line in body.decode("utf-8", "replace").replace("\r\n", "\n").split("\n"):
        if line.startswith("m=") and media:
            break
        media = media or _MEDIA.fullmatch(line.strip())
        if found := _CONNECTION.fullmatch(line.strip()):
            host = found[1]
        if found := _RTPMAP.fullmatch(line.strip()):
            maps[found[1]] = found[2].lower()
        is_secure = is_secure or (media is not None and line.startswith("a=crypto:"))
    if media is None or not host:
        return None
    named = {payload: maps.get(payload) or STATIC_PAYLOADS.get(payload, "") for payload in media[3].split()}
    codecs: dict[str, str] = {}
    for payload, codec in named.items():
        if codec:
            codecs.setdefault(codec, payload)
    return Offer(host, int(media[1]), codecs, is_secure or "SAVP" in media[2])


def answer_sdp(offer: Offer, codec: str, host: str, port: int, *, is_secure: bool) -> bytes:
    """Return the SDP of an answer with one codec, encrypted (RFC 4568) or in the clear."""
    payload = offer.codecs[codec]
    key = base64.b64encode(secrets.token_bytes(SRTP_KEY_BYTES)).decode()
    lines = (
        "v=0",
        f"o=- {secrets.randbits(32)} 1 IN IP4 {host}",
        "s=LiveKit",
        f"c=IN IP4 {host}",
        "t=0 0",
        f"m=audio {port} {'RTP/SAVP' if is_secure else 'RTP/AVP'} {payload}",
        f"a=rtpmap:{payload} {codec.upper()}",
        *([f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{key}"] if is_secure else []),
        "a=ptime:20",
        "a=sendrecv",
    )
    return ("\r\n".join(lines) + "\r\n").encode()
