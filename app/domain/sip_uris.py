"""SIP URIs as origination URLs hold them: parsed once, compared by meaning.

Sources: https://www.twilio.com/docs/sip-trunking (transport, edge, headers of an origination URL) and RFC 3261, 19.1.
"""

import re
from dataclasses import dataclass, replace
from ipaddress import IPv6Address

DEFAULT_PORTS = {"udp": 5060, "tcp": 5060, "tls": 5061}
"""Transport -> the port that Twilio calls when the URI names none."""

TRANSPORTS = tuple(DEFAULT_PORTS)

TWILIO_SIGNALLING = (
    "54.172.60.0/30",
    "54.244.51.0/30",
    "54.171.127.192/30",
    "35.156.191.128/30",
    "54.65.63.192/30",
    "54.169.127.128/30",
    "54.252.254.64/30",
    "177.71.206.192/30",
)
"""The addresses that Twilio's SIP trunks call from, in all eight regions (https://www.twilio.com/docs/sip-trunking/ip-addresses)."""

EDGE_PARAMETERS = ("edge", "region")
"""Name the Twilio edge that the call leaves from; `region` is the old name. Twilio ignores a value it does not know."""

_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?")
_NAME = re.compile(r"[a-z0-9!%'*+._`~-]+")
_PORT = re.compile(r"0*[0-9]{1,5}")
_ADDRESS = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>.*))?")


@dataclass(frozen=True, slots=True)
class SipUri:
    """One SIP URI. Equal objects mean the same to Twilio; write it with `str`."""

    host: str
    """In lower case; an IPv6 address without brackets."""
    port: int | None = None
    """None where it is the transport's own."""
    transport: str = "udp"
    """`udp`, `tcp` or `tls`. Twilio uses UDP when the URI names none."""
    user: str = ""
    """Replaces the called number for every call (docs/sip-trunking): ours has none."""
    parameters: tuple[tuple[str, str], ...] = ()
    """The other parameters, such as `edge`, sorted."""
    headers: str = ""
    """What follows a `?`: X- headers that Twilio adds to the INVITE."""

    def __post_init__(self) -> None:
        """Drop what says nothing: the transport's own port, and the order of parameters."""
        if self.port == DEFAULT_PORTS[self.transport]:
            object.__setattr__(self, "port", None)
        object.__setattr__(self, "parameters", tuple(sorted(self.parameters)))

    @property
    def called(self) -> str:
        """The user without a password: what the call arrives as."""
        return self.user.partition(":")[0]

    @property
    def effective_port(self) -> int:
        """The port that is called."""
        return self.port or DEFAULT_PORTS[self.transport]

    @property
    def edge(self) -> str:
        """The Twilio edge that is asked for, or ""."""
        return next((value for name, value in self.parameters if name in EDGE_PARAMETERS), "")

    def over_tls(self) -> "SipUri":
        """Return the same URI over TLS, on TLS's own port where it named the one of plain SIP."""
        if self.transport == "tls":
            return self
        port = None if self.effective_port == DEFAULT_PORTS["tcp"] else self.port
        return replace(self, transport="tls", port=port)

    def __str__(self) -> str:
        """Write it as Twilio takes it: `sip:host[:port];transport=tcp[;edge=dublin]`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        rest = "".join(f";{name}={value}" if value else f";{name}" for name, value in self.parameters)
        headers = f"?{self.headers}" if self.headers else ""
        return f"sip:{user}{host}{port};transport={self.transport}{rest}{headers}"


def parse_sip_uri(text: str, default_transport: str = "udp") -> SipUri:
    """Parse a SIP URI in any case, with or without `sip:`; `ValueError` names the part that cannot be read.

    `sips:` is read as Twilio handles it: as `sip:` over TLS. Whatever stands before an `@` is the user part, which may
    hold `;` and `?` (RFC 3261, 25.1): no text in front of it passes for the host. Messages never quote the value.
    """
    body = text.strip()
    scheme, separator, rest = body.partition(":")
    has_scheme = bool(separator) and scheme.lower() in {"sip", "sips"}
    user, _, address = (rest if has_scheme else body).rpartition("@")
    address, _, headers = address.partition("?")
    address, *parameters = address.split(";")
    if "@" in user:
        raise ValueError("has more than one @")
    parts = _ADDRESS.fullmatch(address)
    if parts is None:
        raise ValueError("has a host that cannot be read")
    host, options = _host(parts["host"]), _options(parameters)
    transport = options.pop("transport", default_transport)
    if has_scheme and scheme.lower() == "sips":
        transport = "tls"
    if transport not in DEFAULT_PORTS:
        raise ValueError(f"has a transport that Twilio does not know: it knows {', '.join(TRANSPORTS)}")
    return SipUri(host, _port(parts["port"]), transport, user, tuple(options.items()), headers)


def _options(parameters: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for parameter in parameters:
        name, _, value = (part.strip() for part in parameter.partition("="))
        key = name.lower()
        if not key and not value:
            continue
        if not (name.isascii() and _NAME.fullmatch(key)):
            raise ValueError("has a parameter whose name cannot be read")
        if key in options:
            raise ValueError("names a parameter twice")
        if key in {*EDGE_PARAMETERS, "transport"}:
            value = value.lower()
        options[key] = value
    return options


def _host(text: str) -> str:
    if text.startswith("["):
        try:
            host = str(IPv6Address(text[1:-1]))
        except ValueError:
            raise ValueError("has no IPv6 address in its brackets") from None
        if "%" in host:
            raise ValueError("has an IPv6 address of one network only")
        return host
    if not text:
        raise ValueError("has no host")
    host = text.lower().removesuffix(".")
    if not (text.isascii() and _HOST.fullmatch(host)):
        raise ValueError("has a host with characters that no host name has")
    return host


def _port(text: str | None) -> int | None:
    if text is None:
        return None
    port = int(text.lstrip("0") or 0) if text.isascii() and _PORT.fullmatch(text) else 0
    if not 0 < port < 2**16:
        raise ValueError("has an impossible port")
    return port
