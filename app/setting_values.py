"""Validates the text of each setting: returns the normalized value, or raises `ValueError` with the reason.

No message quotes the value: in place of a port there may be part of a password.
"""

import re
import ssl
from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from pydantic import SecretStr

from app.domain.numbers import InvalidNumberError, parse_e164
from app.domain.sip_uris import EDGE_PARAMETERS, TWILIO_SIGNALLING, SipUri, parse_sip_uri
from app.sealing import parse_keys

_DATABASE = re.compile(
    r"(?:.*@)?(?:\[[0-9A-Fa-f:.]+\]|[^/:?@\[\]]*)(?::[0-9]{1,5})?(?:/[^?]*)?(?:\?.*)?",
)
"""What follows `postgresql://`, as SQLAlchemy parses it: a `/` or `#` may be part of the password."""

_HOST_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9.])?")

_NUMBER = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?")
"""Digits and one point, in ASCII: Python's parser also takes `inf`, `nan`, `1e999`, `1_0` and other scripts."""

_RATE_LIMIT = re.compile(r"[1-9][0-9]{0,8}/(?:second|minute|hour)")

PROVIDER_RATES = (0.01, 100_000.0)
"""Range of requests per second: from one in 100 seconds to far more than any provider accepts."""

PRIVATE_NETWORKS = tuple(
    ip_network(each)
    for each in (
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",  # behind a carrier's or a mesh network's address translation (RFC 6598)
        "::1/128",
        "fc00::/7",
    )
)
"""Private networks in which a webhook receiver may be. Link-local addresses are excluded: clouds serve a machine's
credentials there.
"""

CERTIFICATE_CHECKS = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}
"""redis-py's values of `ssl_cert_reqs` -> Python's; Celery spells them CERT_REQUIRED and so on."""

_USUAL_PORTS = {"http": 80, "https": 443}
"""Ports that browsers leave out of an origin."""

_YES_OR_NO = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

_REDIS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")

_Network = IPv4Network | IPv6Network


def plain(value: str, *, in_ascii: bool) -> str:
    """Refuse what copying or a mounted file may leave in a value, and what no header or URL can contain."""
    for position, character in enumerate(value, 1):
        if character in "\r\n":
            raise ValueError(f"holds a line break (its character {position}): it must be one line")
        if not character.isprintable():
            raise ValueError(f"holds a character that cannot be seen (its character {position}): type it again")
        if in_ascii and not character.isascii():
            raise ValueError(f"holds a character outside ASCII (its character {position}); in a URL, write it as %XX")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        raise ValueError("stands in quotes, which are taken as part of it: leave them out")
    return value


def number(value: object) -> object:
    """Refuse a text that is not digits with at most one point."""
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        raise ValueError("must be a number in plain digits, such as 900 or 0.5")
    return value


def whole_number(value: object) -> object:
    """Refuse a text that is not digits only."""
    if isinstance(value, str) and "." in value:
        raise ValueError("must be a whole number")
    return number(value)


def phone_number(value: str) -> str:
    """Return a number in E.164."""
    try:
        return parse_e164(value)
    except InvalidNumberError as error:
        raise ValueError(str(error)) from error


def database_url(value: str) -> str:
    """Accept the usual schemes; return the URL with the driver that we ship."""
    scheme, separator, rest = value.partition("://")
    is_ours = bool(separator) and scheme in {"postgres", "postgresql", "postgresql+psycopg"}
    if not is_ours or not _DATABASE.fullmatch(rest):
        raise ValueError("must look like postgresql://user:password@host:5432/name")
    return f"postgresql+psycopg://{rest}"


def redis_url(value: str) -> str:
    """Return `redis[s]://[user:password@]host[:port]/db[?ssl_...]` in redis-py's spelling; accept Celery's, too.

    Unknown parameters are refused: each client parses a URL in its own way, and might ignore what others obey.
    """
    example = "redis://:password@host:6379/0"
    parts = _split(value, {"redis", "rediss"}, example)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    database = options.pop("db", parts.path.removeprefix("/") or "0")
    if not (database.isascii() and database.isdigit()) or parts.fragment:
        raise ValueError(f"must end in the number of a database, as in {example}")
    if options and parts.scheme != "rediss":
        raise ValueError(f"has parameters that need TLS, as rediss:// ({', '.join(sorted(options))})")
    if "ssl_cert_reqs" in options:
        options["ssl_cert_reqs"] = options["ssl_cert_reqs"].lower().removeprefix("cert_")
    for name, text in options.items():
        _check_redis_option(name, text)
    query = f"?{urlencode(options, safe='/')}" if options else ""
    return f"{parts.scheme}://{parts.netloc}/{database}{query}"


def _check_redis_option(name: str, text: str) -> None:
    if name == "ssl_cert_reqs":
        if text not in CERTIFICATE_CHECKS:
            raise ValueError(f"ssl_cert_reqs must be one of {', '.join(CERTIFICATE_CHECKS)}")
    elif name == "ssl_check_hostname":
        if text.lower() not in _YES_OR_NO:
            raise ValueError("ssl_check_hostname must be true or false")
    elif name in _REDIS_FILES:
        if not Path(text).is_file():
            raise ValueError(f"{name} names no file on this host")
    else:
        known = ", ".join(("ssl_cert_reqs", "ssl_check_hostname", *_REDIS_FILES))
        raise ValueError(f"has a parameter that is not known; known are {known}")


def redis_tls(url: str) -> dict[str, object]:
    """Return the TLS options of a `redis_url` for Celery and Flower: empty without TLS, verified by default."""
    parts = urlsplit(url)
    if parts.scheme != "rediss":
        return {}
    options: dict[str, object] = dict(parse_qsl(parts.query))
    options["ssl_cert_reqs"] = CERTIFICATE_CHECKS[str(options.get("ssl_cert_reqs", "required"))]
    if "ssl_check_hostname" in options:
        options["ssl_check_hostname"] = _YES_OR_NO[str(options["ssl_check_hostname"]).lower()]
    return options


def is_loopback(host: str | None) -> bool:
    """Say whether `host` is loopback."""
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def host_name(value: str) -> str:
    """Accept an address or a host name."""
    if not _is_host(value):
        raise ValueError("must be an address or a host name, such as 127.0.0.1")
    return value


def listen_address(value: str) -> str:
    """Accept an address or a host name to put before `:port`, hence an IPv6 address in brackets only."""
    is_bracketed = value.startswith("[") and value.endswith("]")
    if not _is_host(value[1:-1] if is_bracketed else value) or is_bracketed != (":" in value):
        raise ValueError("must be an address or a host name, such as 0.0.0.0 or [::]")
    return value


def web_url(value: str) -> str:
    """Accept an HTTP URL without credentials."""
    _split(value, {"http", "https"}, "https://host.example.com", with_login=False)
    return value


def base_url(value: str) -> str:
    """Accept a base URL without a path; without TLS only on loopback, since credentials are sent there."""
    example = "http://127.0.0.1:8190, without a path"
    parts = _split(value, {"http", "https"}, example, with_login=False)
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError(f"must look like {example}")
    _refuse_clear_text(parts)
    return value.rstrip("/")


def livekit_url(value: str) -> str:
    """Accept what the SDK accepts; without TLS only on loopback, since tokens are sent there."""
    example = "wss://your-project.livekit.cloud"
    parts = _split(value, {"http", "https", "ws", "wss"}, example, with_login=False)
    if parts.query or parts.fragment:
        raise ValueError(f"must look like {example}")
    _refuse_clear_text(parts)
    return value.rstrip("/")


def _split(value: str, schemes: Collection[str], example: str, *, with_login: bool = True) -> SplitResult:
    """Parse a URL that must have one of the schemes and a host."""
    try:
        parts = urlsplit(value)
        is_right = parts.scheme in schemes and _is_host(parts.hostname or "") and (parts.port is None or parts.port > 0)
    except ValueError:
        is_right = False
    if not is_right or (not with_login and "@" in parts.netloc):
        raise ValueError(f"must look like {example}")
    return parts


def _is_host(text: str) -> bool:
    try:
        return bool(_HOST_NAME.fullmatch(text)) or bool(ip_address(text))
    except ValueError:
        return False


def _refuse_clear_text(parts: SplitResult) -> None:
    if parts.scheme in {"http", "ws"} and not is_loopback(parts.hostname):
        raise ValueError(f"would send credentials in clear: use {parts.scheme}s, or a loopback address")


_EDGE = re.compile(r"[a-z0-9-]+")


def sip_uri(value: str) -> SipUri:
    """Parse LiveKit's SIP URI, over TCP where it names no transport; refuse what no call would get through with.

    The mistakes are common ones: https://docs.livekit.io/telephony/start/sip-trunk-setup.
    """
    uri = parse_sip_uri(value, default_transport="tcp")
    if value.strip().lower().startswith("sips:"):
        raise ValueError("begins with sips:, which Twilio does not support: write sip: and ;transport=tls")
    if uri.user:
        raise ValueError("has a user part, so that every call would be for that user: leave out what ends in @")
    if uri.headers:
        raise ValueError("has headers after a ?: it must end before that")
    if any(name not in EDGE_PARAMETERS for name, _ in uri.parameters):
        raise ValueError("has a parameter that is not known: known are transport and edge")
    if not all(value.isascii() and _EDGE.fullmatch(value) for _, value in uri.parameters):
        raise ValueError("has an edge that is not one word, such as dublin")
    if uri.host.startswith("p_"):
        raise ValueError("has the project's id with p_ as its host: leave out the p_")
    if _is_below(uri.host, "livekit.cloud") and not uri.host.endswith(".sip.livekit.cloud"):
        raise ValueError("has a host of LiveKit Cloud that takes no SIP: it must look like abc123.sip.livekit.cloud")
    if _is_below(uri.host, "twilio.com"):
        raise ValueError("has a host of Twilio: it must be LiveKit's")
    return uri


def _is_below(host: str, domain: str) -> bool:
    """Say whether a host name is the domain or below it."""
    return host == domain or host.endswith(f".{domain}")


def addresses(value: str) -> str:
    """Accept CIDR blocks and `twilio`, with commas, or nothing."""
    for entry in entries(value):
        if entry != "twilio":
            _network(entry)
    return value


def allowed_blocks(value: str | None, url: str) -> tuple[str, ...]:
    """Return the CIDR blocks that may call the trunks of the LiveKit server at `url`; none means all.

    Without a value Twilio's, but all on Cloud, which must enable the field first.
    """
    if value is None:
        value = "" if (urlsplit(url).hostname or "").endswith(".livekit.cloud") else "twilio"
    blocks = [block for entry in entries(value) for block in (TWILIO_SIGNALLING if entry == "twilio" else (entry,))]
    return tuple(dict.fromkeys(blocks))


def networks(value: str) -> str:
    """Accept private CIDR blocks with commas, or nothing."""
    for entry in entries(value):
        network = _network(entry)
        if not any(_is_within(network, private) for private in PRIVATE_NETWORKS):
            raise ValueError(f"{network} is not private: public receivers need no entry")
    return value


def entries(value: str) -> tuple[str, ...]:
    """Split at commas; an empty text has no entries, and one of commas only is an error."""
    found = tuple(entry.strip() for entry in value.split(",") if entry.strip())
    if value and not found:
        raise ValueError("has no entry")
    return found


def names(value: str) -> str:
    """Accept names with commas, at least one."""
    entries(value)
    return value


def sealing_keys(value: SecretStr | None) -> SecretStr | None:
    """Accept keys of 32 bytes in Base64, with commas."""
    if value is not None:
        parse_keys(value.get_secret_value())
    return value


def proxies(value: str) -> str:
    """Accept CIDR blocks with commas, or nothing; not all addresses, since then anybody could set the header."""
    if any(_network(entry).prefixlen == 0 for entry in entries(value)):
        raise ValueError("must name proxies, not every address")
    return value


def origins(value: str) -> str:
    """Accept origins of pages with commas, or nothing; return them as browsers write them in `Origin`."""
    return ",".join(_origin(entry) for entry in entries(value))


def _origin(entry: str) -> str:
    example = "https://app.example.com"
    parts = _split(entry.lower(), {"http", "https"}, example, with_login=False)
    if parts.path or parts.query or parts.fragment:
        raise ValueError(f"must look like {example}, without anything behind host and port")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError(
            "names a page that comes in clear, where others can change it: use https, or a loopback address"
        )
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    port = f":{parts.port}" if parts.port not in (None, _USUAL_PORTS[parts.scheme]) else ""
    return f"{parts.scheme}://{host}{port}"


def networks_of(value: str) -> tuple[_Network, ...]:
    """Parse CIDR blocks that were accepted before."""
    return tuple(_network(entry) for entry in entries(value))


def _network(entry: str) -> _Network:
    try:
        return ip_network(entry)
    except ValueError:
        raise ValueError("must be CIDR blocks such as 10.0.0.0/8, with zeros behind the prefix") from None


def _is_within(inner: _Network, outer: _Network) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]  # of one version


def rate_limit(value: str) -> str:
    """Accept N/second, N/minute, N/hour or `off`."""
    if value != "off" and not _RATE_LIMIT.fullmatch(value):
        raise ValueError('must look like 6000/minute, from 1 on, or be "off"')
    return value


def provider_rate(value: str) -> str:
    """Accept requests per second, `auto` or `off`."""
    least, most = PROVIDER_RATES
    if value not in {"auto", "off"} and not (_NUMBER.fullmatch(value) and least <= float(value) <= most):
        raise ValueError(f'must be requests per second ({least:g} to {most:.0f}), "auto" or "off"')
    return value
