"""Which addresses a webhook may go to: public ones, and the private ones that the settings name."""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

Resolve = Callable[[str, int], Sequence[str]]
"""Host and port -> every address of it; OSError where there is none."""

GLOBAL_UNICAST = IPv6Network("2000::/3")
"""The only IPv6 space that is given out (RFC 4291 2.4)."""

NAT64 = IPv6Network("64:ff9b::/96")
"""An IPv4 address as an IPv6-only network spells it (RFC 6052): the last 32 bits decide."""

REFUSED_NETWORKS = tuple(
    ip_network(each)
    for each in (
        "168.63.129.16/32",  # Azure's own service for its machines, on a public address
        "192.0.0.0/24",  # protocol assignments, one cloud's metadata among them
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "2001::/23",  # protocol assignments, Teredo among them: an IPv4 address in disguise
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: likewise
        "3fff::/20",  # documentation (RFC 9637)
    )
)
"""What the tables of Python's `ipaddress` count as global, some in every version and some in a few."""


CLOUD_METADATA = tuple(ip_network(each) for each in ("100.100.100.200/32", "fd00:ec2::254/128", "fd20:ce::254/128"))
"""Where clouds tell a machine its credentials within private networks: Alibaba's, Amazon's and Google's.

Never a receiver, whatever is allowed around it. The one that most share, 169.254.169.254, cannot be allowed at all.
"""


@dataclass(frozen=True)
class AddressRule:
    """Says of an address whether a webhook may go there."""

    allowed: tuple[Network, ...] = ()
    """Private networks whose receivers are trusted."""

    def admits(self, address: Address) -> bool:
        """Say whether it is public, or in one of the allowed networks."""
        return self.names(address) or is_public(address)

    def names(self, address: Address) -> bool:
        """Say whether it is in one of the allowed networks: only there may a request go unencrypted."""
        address = _unwrapped(address)
        if any(address in network for network in CLOUD_METADATA):
            return False
        return any(address in network for network in self.allowed)


def is_public(address: Address) -> bool:
    """Say whether anybody on the internet could be meant: not this machine, its network, or a cloud's metadata."""
    address = _unwrapped(address)
    if any(address in network for network in REFUSED_NETWORKS) or address.is_multicast or address.is_reserved:
        return False
    return address.is_global and (address.version == 4 or address in GLOBAL_UNICAST)  # noqa: PLR2004  # IP's own name


def literal_address(host: str) -> Address | None:
    """Return the address that a URL's host spells out, in any spelling that a resolver takes; None for a name.

    `2130706433`, `0x7f.1` and `127.1` are 127.0.0.1 to getaddrinfo.
    """
    text = host.strip("[]")
    try:
        return ip_address(text)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(text))
    except (OSError, ValueError):
        return None


def resolve(host: str, port: int) -> list[str]:
    """Ask the system's resolver for every address of the host, best first; OSError where it has none."""
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _unwrapped(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for, where it does."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address
