"""Where webhooks do not go: this machine and its neighbours, in every spelling, unless the settings name them."""

from ipaddress import ip_address, ip_network

import pytest

from app.webhooks.sending import AddressRule, Sender, SendError, UrlRefusedError, is_public

PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",  # noqa: S104 - an address to refuse, nothing is bound
    "0.1.2.3",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "168.63.129.16",
    "100.64.0.1",
    "100.100.100.200",
    "192.0.0.192",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:a9fe:a9fe",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "3fff::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]
PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]


@pytest.mark.parametrize("address", ["100.100.100.200", "fd00:ec2::254", "fd20:ce::254"])
def test_what_tells_a_machine_its_credentials_is_no_receiver_whatever_is_allowed(address: str) -> None:
    rule = AddressRule((ip_network("100.64.0.0/10"), ip_network("fc00::/7")))

    assert not rule.allows(ip_address(address))
    assert rule.allows(ip_address("100.64.0.1"))
    assert rule.allows(ip_address("fd00::1"))


NASTY_URLS = [
    "https://127.0.0.1/",
    "https://127.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.0.0.1/",
    "https://0177.0.0.1/",
    "https://0/",
    "https://[::1]/",
    "https://[::]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[fe80::1%25eth0]/",
    "https://169.254.169.254/latest/meta-data/",
    "https://2852039166/",
    "https://localhost/",
    "https://LOCALHOST./",
    "https://api.localhost:8443/",
    "https://user:pass@example.com/",
    "https://user@127.0.0.1/",
    "https://example.com/#part",
    "http://example.com/",
    "http://127.0.0.1/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "//example.com/",
    "example.com/hook",
    "https://",
    "https:///path",
    "https://exa mple.com/",
    "https://example.com:99999/",
    "",
]

URL = "https://hooks.example.com/in"


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_refused(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_admitted(address: str) -> None:
    assert is_public(ip_address(address))


def test_only_the_named_networks_are_let_in_besides() -> None:
    rule = AddressRule((ip_network("10.1.0.0/16"), ip_network("fd00::/8")))

    allowed = ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1", "1.1.1.1"]
    assert all(rule.allows(ip_address(each)) for each in allowed)
    assert not any(rule.allows(ip_address(each)) for each in ["10.2.0.1", "127.0.0.1", "fe80::1"])


@pytest.mark.parametrize("url", NASTY_URLS)
def test_a_nasty_url_is_refused_before_anything_is_asked(url: str) -> None:
    with pytest.raises(UrlRefusedError):
        Sender(AddressRule()).check_url(url)


@pytest.mark.parametrize("url", [URL, "https://example.com:8443/a?b=c", "https://bücher.example/", "https://1.1.1.1/"])
def test_an_ordinary_url_is_taken(url: str) -> None:
    Sender(AddressRule()).check_url(url)


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_that_resolves_to_a_private_address_is_refused(address: str) -> None:
    sender = Sender(AddressRule(), resolve=lambda _host, _port: [address])

    with pytest.raises(SendError, match="address_refused"):
        sender.send(URL, {}, b"{}")


def test_one_private_address_among_public_ones_is_enough() -> None:
    sender = Sender(AddressRule(), resolve=lambda _host, _port: ["1.1.1.1", "127.0.0.1"])

    with pytest.raises(SendError, match="address_refused"):
        sender.send(URL, {}, b"{}")


def test_a_public_address_is_not_reached_unencrypted_even_where_private_ones_are() -> None:
    rule = AddressRule((ip_network("10.0.0.0/8"),))
    sender = Sender(rule, resolve=lambda _host, _port: ["1.1.1.1"])

    with pytest.raises(SendError, match="address_refused"):
        sender.send("http://hooks.example.com/in", {}, b"{}")


def test_a_name_without_an_address_is_said_so() -> None:
    def nowhere(_host: str, _port: int) -> list[str]:
        raise OSError("no such name")

    with pytest.raises(SendError, match="name_not_resolved"):
        Sender(AddressRule(), resolve=nowhere).send(URL, {}, b"{}")
