"""SIP and SDP as bytes: what we write, and readers that take whatever comes."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.calls.media import offer_of, read_answer
from app.calls.messages import Framer, Leg, Message, parameter, read_message, split_list, uri_of
from app.domain.sip_uris import parse_sip_uri

CALLED, CALLER = "+15145550001", "+12025550100"


def leg(uri: str = "sip:abc.sip.livekit.cloud;transport=tcp", called: str = CALLED, transport: str = "TCP") -> Leg:
    return Leg(
        uri=parse_sip_uri(uri),
        called=called,
        caller=CALLER,
        transport=transport,
        address="192.0.2.1:5060",
        call_id="id@trunkline",
        tag="mine",
        branch="z9hG4bKone",
    )


def read(data: bytes) -> Message:
    message = read_message(data)
    assert message is not None
    return message


ANSWER = read(
    b"SIP/2.0 200 OK\r\n"
    b"v: SIP/2.0/TCP 192.0.2.1:5060;branch=z9hG4bKone;rport=5060\r\n"
    b"f: <sip:+12025550100@192.0.2.1>;tag=mine\r\n"
    b't: "A, B" <sip:+15145550001@abc.sip.livekit.cloud>;tag=theirs\r\n'
    b"i: id@trunkline\r\n"
    b"CSeq: 1   INVITE\r\n"
    b'm: "x,\\"y" <sip:livekit@198.51.100.7:5060;transport=tcp>;+sip.instance="a,b"\r\n'
    b"Record-Route: <sip:one;lr>, <sip:two;lr>\r\n"
    b"X-Folded: a\r\n  b\r\n"
    b"no header at all\r\n"
    b"l: 3\r\n\r\nabcdef"
)


def test_a_response_is_read_with_short_names_folds_and_lists() -> None:
    assert (ANSWER.status, ANSWER.reason, ANSWER.method) == (200, "OK", "")
    assert (ANSWER.call_id, ANSWER.cseq, ANSWER.to_tag) == ("id@trunkline", (1, "INVITE"), "theirs")
    assert ANSWER.contact == "sip:livekit@198.51.100.7:5060;transport=tcp"
    assert ANSWER.headers_named("record-route") == ["<sip:one;lr>", "<sip:two;lr>"]
    assert ANSWER.header("x-folded") == "a b"
    assert ANSWER.body == b"abc"


def test_a_parameter_of_a_uri_is_none_of_its_header() -> None:
    assert parameter("<sip:a@b;tag=theirs>;tag=ours", "tag") == "ours"
    assert parameter("<sip:a@b;tag=theirs>", "tag") == ""
    assert parameter("sip:a@b;TAG = ours", "tag") == "ours"


def test_a_request_is_read() -> None:
    request = read(b"BYE sip:me@192.0.2.1 SIP/2.0\nCSeq: 7 BYE\n\n")
    assert (request.method, request.status, request.cseq) == ("BYE", 0, (7, "BYE"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"SIP/2.0 99 Low\r\n\r\n",
        b"SIP/2.0 700 High\r\n\r\n",
        b"SIP/2.0 2OO OK\r\n\r\n",
        b"INVITE sip:x SIP/3.0\r\n\r\n",
    ],
)
def test_what_is_no_sip_is_no_message(data: bytes) -> None:
    assert read_message(data) is None


@example(b"SIP/2.0 200 OK\r\nVia: ;self=1\r\nTo: <<>>;tag\r\nCSeq: 99999999999999999999 INVITE\r\nl: 99999999\r\n\r\n")
@given(st.binary(max_size=300) | st.builds(lambda end: b"SIP/2.0 200 OK\r\n" + end, st.binary(max_size=300)))
def test_no_bytes_make_a_reader_raise(data: bytes) -> None:
    message = read_message(data)
    read_answer(data)
    if message is not None:
        assert message.cseq.number >= 0
        assert "\n" not in message.contact
        for written in (leg().ack(message, "b"), leg().bye(message, "b"), leg().ack_refusal(message)):
            assert read(written).call_id == "id@trunkline"
        response = leg().respond(message, 200, "OK")
        assert response.endswith(b"Content-Length: 0\r\n\r\n")
        assert read(response).status == 200


TEXTS = st.text(st.sampled_from('ab,;=<>"\\: \r\n\x00é+@'), max_size=40)


@given(TEXTS)
def test_no_text_makes_a_part_of_a_header_raise(text: str) -> None:
    assert all(part.strip() == part for part in split_list(text))
    assert isinstance(parameter(text, "a"), str)
    uri = uri_of(text)
    assert not uri or (uri.lower().startswith(("sip:", "sips:")) and uri.isprintable() and " " not in uri)


@given(st.lists(st.binary(max_size=60), max_size=4), st.integers(1, 20))
def test_messages_come_out_of_a_stream_in_any_pieces(bodies: list[bytes], size: int) -> None:
    messages = [f"SIP/2.0 180 Ringing\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
    stream = b"\r\n\r\n".join(messages)
    framer = Framer()
    found = [each for place in range(0, len(stream), size) for each in framer.feed(stream[place : place + size])]
    assert found == messages


@pytest.mark.parametrize("data", [b"SIP/2.0 200 OK\r\nl: 9999999\r\n\r\n", b"x" * 70_000])
def test_a_stream_of_no_bearable_message_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"a (header|message)"):
        list(Framer().feed(data))


def test_the_request_uri_and_to_name_the_number_and_nothing_of_twilios_edge() -> None:
    written = leg("sip:abc.sip.livekit.cloud;transport=tcp;edge=dublin").invite(b"sdp").decode()
    assert written.startswith(f"INVITE sip:{CALLED}@abc.sip.livekit.cloud;transport=tcp SIP/2.0\r\n")
    assert f"\r\nTo: <sip:{CALLED}@abc.sip.livekit.cloud>\r\n" in written
    assert f"\r\nContact: <sip:{CALLER}@192.0.2.1:5060;transport=tcp>\r\n" in written
    assert written.endswith("Content-Type: application/sdp\r\nContent-Length: 3\r\n\r\nsdp")


def test_udp_and_ipv6_are_written_as_sip_has_them() -> None:
    written = leg("sip:[2001:db8::1]:5070", transport="UDP").invite(b"").decode()
    assert written.startswith(f"INVITE sip:{CALLED}@[2001:db8::1]:5070 SIP/2.0\r\n")
    assert f"\r\nTo: <sip:{CALLED}@[2001:db8::1]>\r\n" in written
    assert f"\r\nContact: <sip:{CALLER}@192.0.2.1:5060>\r\n" in written


def test_the_uris_x_headers_come_along_and_no_others() -> None:
    uri = "sip:host?X-One=a%20b&Via=evil&x-two=2&X-Three=a%0d%0aX-Evil:1&=&X-=0"
    lines = leg(uri).invite(b"").decode().split("\r\n")
    assert [line for line in lines if line.lower().startswith(("x-", "via"))][1:] == ["X-One: a b", "x-two: 2"]


@given(st.text(max_size=30))
def test_no_user_of_a_uri_breaks_out_of_its_line(user: str) -> None:
    try:
        whole = leg(called=user)
    except ValueError:
        return
    lines = whole.invite(b"").decode().split("\r\n")
    assert len(lines) == len(leg().invite(b"").decode().split("\r\n"))


def test_an_offer_is_twilios_and_a_secure_one_has_keys() -> None:
    plain, secure = (offer_of("192.0.2.1", 4000, is_secure=flag).decode() for flag in (False, True))
    assert "c=IN IP4 192.0.2.1\r\n" in plain
    assert "m=audio 4000 RTP/AVP 0 8 101\r\n" in plain
    assert "crypto" not in plain
    assert "m=audio 4000 RTP/SAVP 0 8 101\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:" in secure
    assert "c=IN IP6 2001:db8::1\r\n" in offer_of("2001:db8::1", 4000, is_secure=False).decode()


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("c=IN IP4 192.0.2.9\nm=audio 4000 RTP/AVP 0 101", ("192.0.2.9", 4000, 0, False)),
        ("m=audio 4000 RTP/SAVP 101 8\nc=IN IP4 192.0.2.9", ("192.0.2.9", 4000, 8, True)),
        ("c=IN IP6 2001:db8::9\nm=audio 4000 RTP/AVP 0", ("2001:db8::9", 4000, 0, False)),
        (
            "c=IN IP4 192.0.2.9\nm=audio 4000 RTP/AVP 0\nm=video 1 RTP/AVP 0\nc=IN IP4 192.0.2.8",
            ("192.0.2.9", 4000, 0, False),
        ),
        ("c=IN IP4 192.0.2.9\nm=audio 4000 RTP/AVP 9", None),
        ("c=IN IP4 192.0.2.9\nm=audio 0 RTP/AVP 0", None),
        ("c=IN IP4 192.0.2.9\nm=audio 99999 RTP/AVP 0", None),
        ("c=IN IP4 0.0.0.0\nm=audio 4000 RTP/AVP 0", None),
        ("c=IN IP4 999.0.2.9\nm=audio 4000 RTP/AVP 0", None),
        ("m=audio 4000 RTP/AVP 0", None),
        ("", None),
    ],
)
def test_an_answer_says_where_sound_goes(lines: str, found: tuple[str, int, int, bool] | None) -> None:
    target = read_answer(f"v=0\n{lines}\n".encode())
    assert (target and (target.host, target.port, target.payload, target.is_encrypted)) == found
