"""How the text of each setting must look: returns what is kept, or a `ValueError` that ends the variable's line."""

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

_SIP_URI = re.compile(
    r"(?:sip:)?(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)"
    r"(?::(?P<port>[0-9]{1,5}))?(?:;transport=(?P<transport>tcp|tls|udp))?"
)


def database_url(value: str) -> str:
    """Accept the usual spellings and name the driver that we ship."""
    scheme, separator, rest = value.partition("://")
    if not separator or scheme not in {"postgres", "postgresql", "postgresql+psycopg"}:
        raise ValueError("must look like postgresql://user:password@host:5432/name")
    return f"postgresql+psycopg://{rest}"


def redis_url(value: str) -> str:
    """Accept redis:// and rediss:// with a host."""
    if urlsplit(value).scheme not in {"redis", "rediss"} or not urlsplit(value).hostname:
        raise ValueError("must look like redis://:password@host:6379/0")
    return value


def is_loopback(host: str | None) -> bool:
    """Say whether `host` names this machine only."""
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def base_url(value: str) -> str:
    """Accept an address without a path; credentials go in clear to loopback only."""
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path not in {"", "/"} or parts.query:
        raise ValueError("must look like http://127.0.0.1:8190, without a path")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError("would send credentials in clear: use https, or a loopback address")
    return value.rstrip("/")


def livekit_url(value: str) -> str:
    """Accept what the SDK accepts."""
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https", "ws", "wss"} or not parts.hostname:
        raise ValueError("must look like wss://your-project.livekit.cloud")
    return value.rstrip("/")


def sip_uri(value: str) -> str:
    """Return `sip:host[:port];transport=...`, the one form that we write at Twilio.

    What is refused is what people have written by mistake: https://docs.livekit.io/telephony/start/sip-trunk-setup.
    """
    match = _SIP_URI.fullmatch(value)
    if match is None:
        raise ValueError("must look like sip:abc123.sip.livekit.cloud;transport=tcp: no user part, never sips:")
    host, port = match["host"].lower(), match["port"]
    if host.startswith("p_") or (host.endswith(".livekit.cloud") and ".sip." not in host):
        raise ValueError("is not a SIP host: LiveKit's is the project id without p_, as in abc123.sip.livekit.cloud")
    if host.endswith(".sip.twilio.com"):
        raise ValueError("is a Twilio domain: it must be LiveKit's SIP host")
    if port and not 0 < int(port) < 2**16:
        raise ValueError("has an impossible port")
    return f"sip:{host}{':' + port if port else ''};transport={match['transport'] or 'tcp'}"


def addresses(value: str) -> str:
    """Accept CIDR blocks with commas, `twilio`, or nothing."""
    if value not in {"", "twilio"}:
        for entry in value.split(","):
            ip_network(entry.strip())
    return value


def networks(value: str) -> str:
    """Accept CIDR blocks with commas, or nothing."""
    networks_of(value)
    return value


def networks_of(value: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Return the CIDR blocks that `networks` accepted."""
    return tuple(ip_network(entry.strip()) for entry in value.split(",") if entry.strip())


def rate_limit(value: str) -> str:
    """Accept N/second, N/minute, N/hour or `off`."""
    if value != "off":
        # Imported late: only a web process counts, and the others are spared the memory.
        from limits import parse  # noqa: PLC0415

        try:
            parse(value)
        except ValueError as error:
            raise ValueError('must look like 6000/minute, or be "off"') from error
    return value


def provider_rate(value: str) -> str:
    """Accept requests per second, `auto` or `off`."""
    if value not in {"auto", "off"} and not (value.replace(".", "", 1).isdecimal() and float(value) > 0):
        raise ValueError('must be requests per second, "auto" or "off"')
    return value
