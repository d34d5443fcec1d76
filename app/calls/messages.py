"""SIP messages (RFC 3261) as bytes: those of one outgoing call, and total readers of whatever comes back."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import parse_qsl, quote

from app.domain.sip_uris import SipUri

VERSION = "SIP/2.0"

USER_AGENT = "Trunkline"

ALLOW = "INVITE, ACK, CANCEL, BYE, OPTIONS"
"""What we can be asked. There is no `Supported: 100rel`: then nobody asks for a PRACK (RFC 3262, 3)."""

MAX_MESSAGE_BYTES = 65_536
"""Bytes of one message: the longest UDP packet; a connection that sends a longer one is given up."""

MAX_HEADERS = 200
"""Headers of a message that are read: a SIP message has twenty."""

_COMPACT = {
    "c": "content-type",
    "f": "from",
    "i": "call-id",
    "l": "content-length",
    "m": "contact",
    "t": "to",
    "v": "via",
}
"""One-letter names of the headers that we read (RFC 3261, 7.3.3)."""

_REQUEST = re.compile(r"(?P<method>[A-Za-z]{1,20}) (?P<uri>\S{1,1000}) SIP/2\.0", re.ASCII)
_STATUS = re.compile(r"SIP/2\.0 (?P<status>[1-6][0-9]{2})(?: (?P<reason>.*))?", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)
_LENGTH = re.compile(rb"\r?\n(?:content-length|l)[ \t]*:[ \t]*([0-9]{1,7})[ \t]*(?=\r?\n)", re.IGNORECASE)
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_USER = "+-_.!~*'()&=$,;?/"
"""What may stand in a user as it is (25.1)."""

_X_HEADER = re.compile(r"X-[A-Za-z0-9-]{1,60}", re.IGNORECASE | re.ASCII)


class CSeq(NamedTuple):
    """Which request a response is to."""

    number: int
    method: str


@dataclass(frozen=True, slots=True)
class Message:
    """A response (`status`), or a request (`method`); header names are in lower case and in full."""

    status: int = 0
    """0 for a request."""
    reason: str = ""
    method: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def header(self, name: str) -> str:
        """Return the first header of this name, or the empty text."""
        return next((value for key, value in self.headers if key == name), "")

    def headers_named(self, name: str) -> list[str]:
        """Return all values of this name in order, lists taken apart."""
        return [value for key, whole in self.headers if key == name for value in split_list(whole)]

    @property
    def call_id(self) -> str:
        """What all messages of a call have in common."""
        return self.header("call-id")

    @property
    def cseq(self) -> CSeq:
        """The request that it belongs to; number 0 where that cannot be read."""
        number, _, method = self.header("cseq").partition(" ")
        return CSeq(int(number) if _NUMBER.fullmatch(number) else 0, method.strip().upper())

    @property
    def to_tag(self) -> str:
        """What tells apart two far ends that answer one call."""
        return parameter(self.header("to"), "tag")

    @property
    def contact(self) -> str:
        """The URI of the far end; empty where it names none that can be read."""
        return next((uri for uri in map(uri_of, self.headers_named("contact")) if uri), "")


def read_message(data: bytes) -> Message | None:
    """Read one message; None where it is none of SIP. Headers that cannot be read are left out."""
    found = _HEAD_END.search(data)
    head, body = (data[: found.start()], data[found.end() :]) if found else (data, b"")
    text = re.sub(r"\r?\n[ \t]+", " ", head.decode("utf-8", "replace"))
    start, *lines = text.split("\n", MAX_HEADERS)
    headers = tuple(_headers(lines))
    length = next((value for name, value in headers if name == "content-length"), "")
    if _NUMBER.fullmatch(length):
        body = body[: int(length)]
    if status := _STATUS.fullmatch(start.rstrip("\r")):
        return Message(int(status["status"]), (status["reason"] or "").strip(), headers=headers, body=body)
    if request := _REQUEST.fullmatch(start.rstrip("\r")):
        return Message(method=request["method"].upper(), headers=headers, body=body)
    return None


def _headers(lines: list[str]) -> Iterator[tuple[str, str]]:
    for line in lines[:MAX_HEADERS]:
        name, separator, value = line.partition(":")
        key = name.strip().lower()
        if separator and key:
            yield _COMPACT.get(key, key), value.strip()


def split_list(value: str) -> list[str]:
    """Take a list apart at its commas, but for those in quotes or angle brackets (RFC 3261, 7.3.1)."""
    parts, start, is_quoted, is_uri, is_escaped = [], 0, False, False, False
    for place, character in enumerate(value):
        if is_escaped:
            is_escaped = False
        elif is_quoted:
            is_escaped, is_quoted = character == "\\", character != '"'
        elif character == '"':
            is_quoted = True
        elif character in "<>":
            is_uri = character == "<"
        elif character == "," and not is_uri:
            parts.append(value[start:place].strip())
            start = place + 1
    return [part for part in (*parts, value[start:].strip()) if part]


def parameter(value: str, name: str) -> str:
    """Return a parameter behind a header's value, or the empty text."""
    for part in value.rpartition(">")[2].split(";")[1:]:
        key, _, given = part.partition("=")
        if key.strip().lower() == name:
            return given.strip()
    return ""


def uri_of(value: str) -> str:
    """Return the URI of a From, To, Contact or Record-Route header, without angle brackets; "" where it is none."""
    _, bracket, rest = value.rpartition("<")
    uri = (rest.partition(">")[0] if bracket else value.partition(";")[0]).strip()
    is_uri = uri.lower().startswith(("sip:", "sips:")) and uri.isascii() and uri.isprintable() and " " not in uri
    return uri if is_uri else ""


class Framer:
    """Cuts a stream into messages by their Content-Length (RFC 3261, 18.3)."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the messages that are whole now; `ValueError` where the stream holds none of a bearable length."""
        self._buffer += data
        while message := self._cut():
            yield message

    def _cut(self) -> bytes | None:
        # Blank lines between messages keep a connection alive (RFC 5626, 4.4.1).
        blank = len(self._buffer) - len(self._buffer.lstrip(b"\r\n"))
        del self._buffer[:blank]
        end = _HEAD_END.search(self._buffer, max(self._searched - 3, 0))
        self._searched = 0 if end else len(self._buffer)
        if end is None:
            if len(self._buffer) > MAX_MESSAGE_BYTES:
                raise ValueError("a header without an end")
            return None
        length = _LENGTH.search(self._buffer[: end.end()])
        whole = end.end() + (int(length[1]) if length else 0)
        if whole > MAX_MESSAGE_BYTES:
            raise ValueError("a message that is too long")
        if len(self._buffer) < whole:
            return None
        message = bytes(self._buffer[:whole])
        del self._buffer[:whole]
        return message


@dataclass(frozen=True, slots=True)
class Leg:
    """Our side of one call; writes every message of it. Nothing of what it writes holds a line break from outside."""

    uri: SipUri
    called: str
    """The user of the Request-URI and of To: LiveKit goes by To (livekit/sip pkg/sip/inbound.go:440-468)."""
    caller: str
    transport: str
    """As the Via names it: UDP, TCP or TLS."""
    address: str
    """Ours, as `192.0.2.1:5060` or `[2001:db8::1]:5060`."""
    call_id: str
    tag: str
    branch: str

    @property
    def _target(self) -> str:
        """The Request-URI; the far end is told neither Twilio's edge nor headers."""
        bare = SipUri(self.uri.host, self.uri.port, self.uri.transport, quote(self.called, safe=_USER))
        return str(bare).removesuffix(";transport=udp")

    def invite(self, sdp: bytes) -> bytes:
        """Return the INVITE, with the X- headers that the URI asks for."""
        wanted = parse_qsl(self.uri.headers)
        extra = [(name, value) for name, value in wanted if _X_HEADER.fullmatch(name) and value.isprintable()]
        headers = (*self._dialog(self._to, 1, "INVITE", self.branch), *extra, ("Content-Type", "application/sdp"))
        return _written(f"INVITE {self._target} {VERSION}", headers, sdp)

    def cancel(self) -> bytes:
        """Return the CANCEL of the INVITE: its branch, number and To (9.1)."""
        headers = self._dialog(self._to, 1, "CANCEL", self.branch)
        return _written(f"CANCEL {self._target} {VERSION}", headers)

    def ack_refusal(self, response: Message) -> bytes:
        """Return the ACK of a response that is not 2xx: part of the INVITE's own transaction (17.1.1.3)."""
        headers = self._dialog(_line(response.header("to")) or self._to, 1, "ACK", self.branch)
        return _written(f"ACK {self._target} {VERSION}", headers)

    def ack(self, answer: Message, branch: str) -> bytes:
        """Return the ACK of a 2xx: a request of its own, to whom its Contact names (13.2.2.4)."""
        return self._in_dialog("ACK", 1, answer, branch)

    def bye(self, answer: Message, branch: str) -> bytes:
        """Return the BYE of the call that a 2xx has opened."""
        return self._in_dialog("BYE", 2, answer, branch)

    def respond(self, request: Message, status: int, reason: str) -> bytes:
        """Return a response to a request of the far end."""
        copied = [(name, value) for name, value in request.headers if name in {"via", "from", "to", "call-id", "cseq"}]
        headers = [(_SPELLED.get(name, name.capitalize()), _line(value)) for name, value in copied]
        return _written(f"{VERSION} {status} {reason}", (*headers, ("User-Agent", USER_AGENT), ("Allow", ALLOW)))

    @property
    def _host(self) -> str:
        return self.address.rpartition(":")[0]

    @property
    def _to(self) -> str:
        host = f"[{self.uri.host}]" if ":" in self.uri.host else self.uri.host
        return f"<sip:{quote(self.called, safe=_USER)}@{host}>"

    def _in_dialog(self, method: str, number: int, answer: Message, branch: str) -> bytes:
        routes = [f"<{uri}>" for uri in map(uri_of, answer.headers_named("record-route")) if uri]
        headers = list(self._dialog(_line(answer.header("to")) or self._to, number, method, branch))
        if routes:
            headers.append(("Route", ", ".join(reversed(routes))))
        return _written(f"{method} {answer.contact or self._target} {VERSION}", headers)

    def _dialog(self, to: str, number: int, method: str, branch: str) -> tuple[tuple[str, str], ...]:
        transport = "" if self.transport == "UDP" else f";transport={self.transport.lower()}"
        return (
            ("Via", f"{VERSION}/{self.transport} {self.address};branch={branch};rport"),
            ("Max-Forwards", "70"),
            ("From", f"<sip:{self.caller}@{self._host}>;tag={self.tag}"),
            ("To", to),
            ("Call-ID", self.call_id),
            ("CSeq", f"{number} {method}"),
            ("Contact", f"<sip:{self.caller}@{self.address}{transport}>"),
            ("Allow", ALLOW),
            ("User-Agent", USER_AGENT),
        )


_SPELLED = {"call-id": "Call-ID", "cseq": "CSeq"}


def _line(value: str) -> str:
    """Return a value that came from outside as one line."""
    return "".join(character if character.isprintable() else " " for character in value).strip()


def _written(start: str, headers: tuple[tuple[str, str], ...] | list[tuple[str, str]], body: bytes = b"") -> bytes:
    lines = [start, *(f"{name}: {value}" for name, value in (*headers, ("Content-Length", str(len(body)))))]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
