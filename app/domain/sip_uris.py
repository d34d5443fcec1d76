"""SIP URIs as origination URLs hold them: parsed once, compared by meaning.

Sources: https://www.twilio.com/docs/sip-trunking (transport, edge, headers of an origination URL) and RFC 3261, 19.1.
"""

import re
from dataclasses import dataclass, replace
from ipaddress import IPv6Address

DEFAULT_PORTS = {"udp": 5060, "tcp": 5060, "tls": 5061}
"""Transport -> the port that Twilio calls when the URI names none."""

TRANSPORTS = tuple(DEFAULT_PORTS)

EDGE_PARAMETERS = ("edge", "region")
"""Name the Twilio edge that the call leaves from; `region` is the old name. Twilio ignores a value it does not know."""

_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_.])?")
_EDGE = re.compile(r"[a-z0-9-]+")
_PARTS = re.compile(r"(?:(?P<user>[^@]*)@)?(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>.*))?")


@dataclass(frozen=True, slots=True)
class SipUri:
    """One SIP URI. Equal objects mean the same to Twilio; write it with `str`."""

    host: str
    """In lower case; an IPv6 address without brackets."""
    port: int | None = None
    """As written; None: the transport's own."""
    transport: str = "udp"
    """`udp`, `tcp` or `tls`. Twilio uses UDP when the URI names none."""
    user: str = ""
    """Replaces the called number for every call (docs/sip-trunking): ours has none."""
    parameters: tuple[tuple[str, str], ...] = ()
    """The other parameters, such as `edge`, sorted."""
    headers: str = ""
    """What follows a `?`: X- headers that Twilio adds to the INVITE."""

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
        port = None if self.port == DEFAULT_PORTS["tcp"] else self.port
        return replace(self, transport="tls", port=port)

    def __str__(self) -> str:
        """Write it as Twilio takes it: `sip:host[:port];transport=tcp[;edge=dublin]`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        rest = "".join(f";{name}={value}" if value else f";{name}" for name, value in self.parameters)
        headers = f"?{self.headers}" if self.headers else ""
        return f"sip:{user}{host}{port};transport={self.transport}{rest}{headers}"


def parse_sip_uri(text: str) -> SipUri:
    """Parse a SIP URI in any case, with or without `sip:`; `ValueError` names the part that cannot be read.

    `sips:` is read as Twilio handles it: as `sip:` over TLS. A port that is the transport's own is left out, so that
    `host:5060;transport=tcp` equals `host;transport=tcp`. Messages never quote the value.
    """
    body, _, headers = text.strip().partition("?")
    scheme, separator, rest = body.partition(":")
    is_tls = separator and scheme.lower() == "sips"
    address, *parameters = (rest if separator and scheme.lower() in {"sip", "sips"} else body).split(";")
    parts = _PARTS.fullmatch(address)
    if parts is None:
        raise ValueError("has a host that cannot be read")
    options = _options(parameters)
    transport = "tls" if is_tls else options.pop("transport", "") or "udp"
    options.pop("transport", None)
    if transport not in DEFAULT_PORTS:
        raise ValueError("has a transport that Twilio does not know: udp, tcp or tls")
    port = _port(parts["port"])
    return SipUri(
        host=_host(parts["host"]),
        port=None if port == DEFAULT_PORTS[transport] else port,
        transport=transport,
        user=parts["user"] or "",
        parameters=tuple(sorted(options.items())),
        headers=headers,
    )


def _options(parameters: list[str]) -> dict[str, str]:
    options = {}
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        key = name.strip().lower()
        if key in {*EDGE_PARAMETERS, "transport"}:
            value = value.strip().lower()
            if not _EDGE.fullmatch(value):
                raise ValueError(f"has a parameter {key} without a proper value")
        if key:
            options[key] = value
    return options


def _host(text: str) -> str:
    host = text.lower()
    if host.startswith("["):
        try:
            return str(IPv6Address(host[1:-1]))
        except ValueError:
            raise ValueError("has an IPv6 address in brackets that cannot be read") from None
    if not _HOST.fullmatch(host):
        raise ValueError("has no host" if not host else "has a host with characters that no host name has")
    return host


def _port(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text[:6]) < 2**16):
        raise ValueError("has an impossible port")
    return int(text)
