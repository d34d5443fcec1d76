"""SIP URIs: what they mean to Twilio, and that no text breaks the parser."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.domain.sip_uris import DEFAULT_PORTS, SipUri, parse_sip_uri
from tests.support.malformed_texts import MALFORMED_URIS

OURS = SipUri("abc.sip.livekit.cloud", transport="tcp")


@pytest.mark.parametrize(
    "text",
    [
        "sip:abc.sip.livekit.cloud;transport=tcp",
        "SIP:ABC.SIP.LiveKit.Cloud;Transport=TCP",
        "  sip:abc.sip.livekit.cloud;transport=tcp\t",
        "abc.sip.livekit.cloud;transport=tcp",
        "sip:abc.sip.livekit.cloud:5060;transport=tcp",
        "sip:abc.sip.livekit.cloud:05060;transport=tcp;",
        "sip:abc.sip.livekit.cloud.;transport=tcp",
        "sip:@abc.sip.livekit.cloud; transport = tcp",
    ],
)
def test_one_meaning_is_one_value(text: str) -> None:
    assert parse_sip_uri(text) == OURS
    assert str(parse_sip_uri(text)) == "sip:abc.sip.livekit.cloud;transport=tcp"


def test_an_address_with_a_port_is_as_good_as_a_host() -> None:
    uri = parse_sip_uri("sip:127.0.0.1:5070;transport=tcp")
    assert (uri.host, uri.effective_port, uri.transport) == ("127.0.0.1", 5070, "tcp")
    assert str(uri) == "sip:127.0.0.1:5070;transport=tcp"
    assert uri != parse_sip_uri("sip:127.0.0.1;transport=tcp")


@pytest.mark.parametrize(
    "text",
    [
        "sip:abc.sip.livekit.cloud",
        "sip:abc.sip.livekit.cloud;transport=udp",
        "sip:abc.sip.livekit.cloud;transport=tls",
        "sip:abc.sip.livekit.cloud:5061;transport=tcp",
        "sip:abd.sip.livekit.cloud;transport=tcp",
        "sip:agent@abc.sip.livekit.cloud;transport=tcp",
        "sip:abc.sip.livekit.cloud;transport=tcp;edge=dublin",
        "sip:abc.sip.livekit.cloud;transport=tcp?X-Team=1",
        "sip:abc.sip.livekit.cloud;transport=tcp@evil.example",
        "sip:abc.sip.livekit.cloud?@evil.example;transport=tcp",
    ],
)
def test_another_meaning_is_another_value(text: str) -> None:
    assert parse_sip_uri(text) != OURS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host", SipUri("host")),
        ("sip:host:5080", SipUri("host", 5080)),
        ("sips:host", SipUri("host", transport="tls")),
        ("sips:host;transport=tcp", SipUri("host", transport="tls")),
        ("sips:host:5060", SipUri("host", 5060, "tls")),
        ("sip:[2001:DB8::1]:5061;transport=tls", SipUri("2001:db8::1", transport="tls")),
        ("sip:[2001:db8:0::1]", SipUri("2001:db8::1")),
        ("sip:a:b@host", SipUri("host", user="a:b")),
        ("sip:+1555;phone-context=x@host", SipUri("host", user="+1555;phone-context=x")),
        ("sip:host;lr;edge=Dublin", SipUri("host", parameters=(("edge", "dublin"), ("lr", "")))),
        ("sip:host;edge", SipUri("host", parameters=(("edge", ""),))),
        ("sip:host?X-A=1;b=2", SipUri("host", headers="X-A=1;b=2")),
    ],
)
def test_every_part_is_read(text: str, expected: SipUri) -> None:
    assert parse_sip_uri(text) == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "no host"),
        ("sip:", "no host"),
        ("sip:;transport=tcp", "no host"),
        ("sip:a b", "no host name has"),
        ("sip:-a", "no host name has"),
        ("sip:a..", "no host name has"),
        ("sip:\N{KELVIN SIGN}elvin", "no host name has"),
        ("sip:\N{FULLWIDTH LATIN SMALL LETTER A}", "no host name has"),
        ("sip:[::1", "cannot be read"),
        ("sip:x]", "cannot be read"),
        ("sip:[]", "IPv6"),
        ("sip:[fe80::1%eth0]", "one network"),
        ("sip:::1", "no host"),
        ("sip:host:", "port"),
        ("sip:host:0", "port"),
        ("sip:host:65536", "port"),
        ("sip:host:0000655360", "port"),
        ("sip:host:" + "9" * 9999, "port"),
        ("sip:host:\N{ARABIC-INDIC DIGIT FIVE}", "port"),
        ("sip:host;transport=ws", "transport"),
        ("sip:host;transport=", "transport"),
        ("sip:host;transport=tcp;transport=udp", "twice"),
        ("sip:a@b@host", "more than one @"),
        ("sip:host;=x", "name cannot be read"),
        ("sip:host;a b=x", "name cannot be read"),
    ],
)
def test_a_part_that_cannot_be_read_is_named(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        parse_sip_uri(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host;transport=tcp", "sip:host;transport=tls"),
        ("host:5060", "sip:host;transport=tls"),
        ("host:5061;transport=tcp", "sip:host;transport=tls"),
        ("host:5080;edge=dublin", "sip:host:5080;transport=tls;edge=dublin"),
        ("host:5060;transport=tls", "sip:host:5060;transport=tls"),
    ],
)
def test_over_tls_a_port_of_plain_sip_is_left_out(text: str, expected: str) -> None:
    assert str(parse_sip_uri(text).over_tls()) == expected


@pytest.mark.parametrize("transport", DEFAULT_PORTS)
def test_the_port_that_is_called_is_the_transports_own_where_none_is_named(transport: str) -> None:
    assert SipUri("host", transport=transport).effective_port == DEFAULT_PORTS[transport]
    assert SipUri("host", 7, transport).effective_port == 7


PIECES = st.sampled_from(
    ["sip:", "SIPS:", ";transport=tcp", "transport", "TLS", ";edge=dublin", "edge", "::1", "host", "5060"]
)
ODD = st.sampled_from("@:;=?[].% \t\0\ud800A0\N{KELVIN SIGN}\N{FULLWIDTH COLON}\u0130")
TEXTS = st.one_of(st.text(), st.lists(PIECES | ODD, max_size=14).map("".join), st.sampled_from(MALFORMED_URIS))


@given(TEXTS)
@example("sip:host;zoo=1 ;a=2 ")
@example("sip:host;a=2 ;zoo=1?")
@example("sip: a@host? x ")
def test_any_text_is_read_the_same_again_or_refused(text: str) -> None:
    try:
        found = parse_sip_uri(text)
    except ValueError:
        return
    assert parse_sip_uri(str(found)) == found
    assert parse_sip_uri(str(found.over_tls())) == found.over_tls()


HOSTS = st.one_of(
    st.from_regex(r"[a-z0-9_]([a-z0-9._-]{0,9}[a-z0-9_])?", fullmatch=True), st.ip_addresses(v=6).map(str)
)
PARAMETERS = st.dictionaries(st.sampled_from(["edge", "lr", "x-a"]), st.sampled_from(["dublin", "1"]), max_size=3)


@given(
    st.builds(
        SipUri,
        host=HOSTS,
        port=st.none() | st.integers(1, 65535),
        transport=st.sampled_from(sorted(DEFAULT_PORTS)),
        user=st.sampled_from(["", "agent", "+1555;a=b", "sip:x"]),
        parameters=PARAMETERS.map(lambda found: tuple(found.items())),
        headers=st.sampled_from(["", "X-A=1", "a?b;c"]),
    )
)
def test_what_is_written_is_read_back(uri: SipUri) -> None:
    assert parse_sip_uri(str(uri)) == uri
