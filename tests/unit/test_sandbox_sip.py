"""The sandbox answers SIP as livekit-sip does: raw sockets over UDP and TCP, one test for each answer."""

import random
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from typing import Any

import pytest
from livekit import api
from test_sandbox_call import N, Path
from test_sandbox_process import RunningSandbox, emptied_sandbox, eventually

from tests.support.sip_phone import Phone, Reply, offer, phones

CALLER = "+15005550006"
TWILIO = "54.172.60.0/30"
REQUIRE = api.SIPMediaEncryption.SIP_MEDIA_ENCRYPT_REQUIRE

NewPhone = Callable[..., Phone]


@pytest.fixture
def sandbox() -> RunningSandbox:
    """The sandbox, emptied; agents answer at once instead of after 0.2 s."""
    emptied = emptied_sandbox()
    emptied.control("PUT", "sip", {"answerS": 0.01})
    return emptied


@pytest.fixture
def path(sandbox: RunningSandbox) -> Path:
    return Path(sandbox)


@pytest.fixture(params=["udp", "tcp"])
def new_phone(request: pytest.FixtureRequest, sandbox: RunningSandbox) -> Iterator[NewPhone]:
    address = sandbox.control("GET", "sip")["address"]
    with ExitStack() as made:
        yield lambda caller=CALLER: made.enter_context(Phone(request.param, address, caller))


@pytest.fixture
def phone(new_phone: NewPhone) -> Phone:
    return new_phone()


@pytest.fixture
def udp_phone(sandbox: RunningSandbox) -> Iterator[Phone]:
    with Phone("udp", sandbox.control("GET", "sip")["address"]) as phone:
        yield phone


def calls(sandbox: RunningSandbox) -> list[dict[str, Any]]:
    return sandbox.control("GET", "sip")["calls"]


def answered(phone: Phone, called: str = N, body: bytes | None = None) -> Reply:
    """Call a number until it is answered."""
    phone.invite(called, body)
    answer = phone.final()
    assert answer.status == 200, answer.start
    phone.ack(answer)
    return answer


def test_a_call_rings_and_is_answered_with_sound(path: Path, phone: Phone) -> None:
    phone.invite(N)
    trying, ringing, answer = phone.reply(), phone.reply(), phone.reply()
    assert [trying.status, ringing.status, answer.status] == [100, 180, 200]
    assert (trying.reason, ringing.reason) == ("Processing", "Ringing")
    assert b" RTP/AVP 0\r\n" in answer.body
    assert answer.to_tag == ringing.to_tag
    assert answer.to_tag.startswith("SCL_")
    for name in ("From", "Call-ID", "CSeq"):
        assert f"{name}: {answer.header(name)}".encode() in phone.request("INVITE")
    assert f"rport={phone.here.partition(':')[2]}" in answer.header("Via")
    phone.ack(answer)
    assert phone.bye(answer).status == 200
    assert phone.bye(answer).status == 481
    (call,) = calls(path.sandbox)
    assert (call["to"], call["from"], call["source"]) == (N, CALLER, "127.0.0.1")
    assert (call["status"], call["endedBy"], call["transport"]) == (200, "caller", phone.transport)


def test_it_rings_again_each_second_until_it_is_answered(path: Path, phone: Phone) -> None:
    path.sandbox.control("PUT", "sip", {"answerS": 0.5, "speed": 5})
    phone.invite(N)
    assert phone.statuses() in ([100, 180, 180, 180, 200], [100, 180, 180, 200])


def test_a_number_of_no_trunk_is_not_found(path: Path, phone: Phone) -> None:
    phone.invite("+15145559999")
    assert phone.reply().status == 100
    refusal = phone.reply()
    assert (refusal.status, refusal.reason) == (404, "No trunk found")


def test_without_a_rule_an_open_source_server_rings_before_its_404(path: Path, phone: Phone) -> None:
    path.serve_by("openSource")
    phone.invite("+15145559999")
    assert [phone.reply().status for _ in range(2)] == [100, 180]
    refusal = phone.reply()
    assert (refusal.status, refusal.reason) == (404, "Does not match Trunks or Dispatch Rules")


def test_an_old_open_source_server_rings_once_and_falls_silent(path: Path, phone: Phone) -> None:
    path.serve_by("openSource1.13.7")
    path.sandbox.control("PUT", "sip", {"speed": 20})
    phone.invite("+15145559999")
    assert [phone.reply().status for _ in range(2)] == [100, 180]
    assert phone.is_silent()
    phone.cancel()
    assert phone.reply().status == 481
    assert [call["endedBy"] for call in calls(path.sandbox)] == ["silence"]


def test_two_trunks_that_match_are_503(path: Path, phone: Phone) -> None:
    path.add_inbound(numbers=[N], allowed_numbers=[CALLER])
    phone.invite(N)
    assert phone.reply().status == 100
    refusal = phone.reply()
    assert (refusal.status, refusal.reason) == (503, "Try again later")


def test_a_trunk_with_a_password_asks_for_it(path: Path, phone: Phone) -> None:
    path.replace_inbound(auth_username="u", auth_password="p")
    phone.invite(N)
    assert phone.reply().status == 100
    challenge = phone.reply()
    assert challenge.status == 407
    assert challenge.header("Proxy-Authenticate").startswith("Digest realm=")
    phone.ack(challenge)
    phone.invite(N, Proxy_Authorization='Digest username="u"')
    assert phone.statuses() == [100, 401]


MEDIA = {
    "encryption that the caller does not offer": ({"encryption": REQUIRE}, offer(), 400),
    "encryption that the caller offers": ({"encryption": REQUIRE}, offer(4, "RTP/SAVP"), 200),
    "one codec that the caller lacks": (
        {"only_listed_codecs": True, "codecs": [api.SIPCodec(name="G722")]},
        offer(),
        400,
    ),
    "one codec that the caller has": (
        {"only_listed_codecs": True, "codecs": [api.SIPCodec(name="G722")]},
        offer(4, "RTP/AVP", "0 9"),
        200,
    ),
    "no offer": ({}, b"", 400),
    "an offer of pictures only": ({}, offer().replace(b"m=audio", b"m=video"), 400),
    "only codecs that LiveKit lacks": ({}, offer(4, "RTP/AVP", "18 101"), 400),
}


@pytest.mark.parametrize("case", MEDIA)
def test_media_must_have_something_in_common(path: Path, phone: Phone, case: str) -> None:
    media, body, status = MEDIA[case]
    path.replace_inbound(media=api.SIPMediaConfig(**media))
    phone.invite(N, body)
    assert phone.statuses() == [100, 180, status]


def test_an_answer_is_encrypted_where_both_sides_do(path: Path, phone: Phone) -> None:
    secure = offer(40_000, "RTP/SAVP", "8")
    assert b" RTP/AVP 8\r\n" in answered(phone, body=secure).body
    path.replace_inbound(media=api.SIPMediaConfig(encryption=REQUIRE))
    answer = answered(phone, body=secure)
    assert b" RTP/SAVP 8\r\n" in answer.body
    assert b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:" in answer.body


def test_a_call_that_nobody_answers_is_refused_after_the_ringing(path: Path, phone: Phone) -> None:
    path.replace_inbound(ringing_timeout=timedelta(seconds=4))
    path.replace_rule(agent="")
    path.sandbox.control("PUT", "sip", {"speed": 10})
    started = time.monotonic()
    phone.invite(N)
    seen = phone.statuses()
    assert 0.4 <= time.monotonic() - started < 2
    assert seen[:3] == [100, 180, 180]
    assert seen[-1] == 486


def test_an_agent_without_a_worker_does_not_answer(path: Path, phone: Phone) -> None:
    path.replace_inbound(ringing_timeout=timedelta(seconds=2))
    path.sandbox.control("PUT", "sip", {"speed": 20})
    path.sandbox.control("PUT", "switches", {"agents": ["another-agent"]})
    phone.invite(N)
    assert phone.final().status == 486
    assert path.ends_at("agent", "no worker is registered as inbound-agent")
    path.sandbox.control("PUT", "switches", {"agents": ["another-agent", "inbound-agent"]})
    phone.call_id = secrets.token_hex(8)
    phone.invite(N)
    assert phone.final().status == 200
    assert path.call()["agentName"] == "inbound-agent"


def test_of_two_agents_the_one_with_a_worker_answers(path: Path) -> None:
    agents = [api.RoomAgentDispatch(agent_name=name) for name in ("first", "second")]
    info = path.info([path.inbound])
    info.room_config.CopyFrom(api.RoomConfiguration(agents=agents))
    path.sandbox.livekit(lambda sip: sip.update_dispatch_rule(path.rule, info))
    path.sandbox.control("PUT", "switches", {"agents": ["second"]})
    call = path.call()
    assert (call["reaches"], call["agentName"], call["agents"]) == (True, "second", ["first", "second"])


def test_a_room_that_cannot_be_joined_is_refused_at_once(path: Path, phone: Phone) -> None:
    path.replace_rule(room_preset="none")
    phone.invite(N)
    assert phone.statuses() == [100, 180, 486]


def test_a_pin_is_asked_for_in_a_call_that_stands(path: Path, phone: Phone) -> None:
    path.replace_rule(pin="1234")
    answer = answered(phone)
    assert calls(path.sandbox)[0]["room"] == ""
    assert phone.bye(answer).status == 200


def test_a_call_is_cut_after_its_longest_duration(path: Path, phone: Phone) -> None:
    path.replace_inbound(max_call_duration=timedelta(seconds=6))
    path.sandbox.control("PUT", "sip", {"speed": 10})
    started = time.monotonic()
    answer = answered(phone)
    bye = phone.reply()
    # Without sound it would be hung up after 3 s.
    assert 0.6 <= time.monotonic() - started < 2.5
    assert bye.start == f"BYE sip:{CALLER}@{phone.here} SIP/2.0"
    assert bye.header("Call-ID") == phone.call_id
    assert answer.to_tag in bye.header("From")
    assert bye.header("To").endswith(f";tag={phone.from_tag}")
    assert phone.bye(answer).status == 481
    assert calls(path.sandbox)[0]["endedBy"] == "livekit"


def test_a_call_that_is_cancelled_ends_with_487(path: Path, phone: Phone) -> None:
    path.sandbox.control("PUT", "sip", {"answerS": 30})
    phone.invite(N)
    assert [phone.reply().status for _ in range(2)] == [100, 180]
    phone.cancel()
    responses = {reply.header("CSeq"): reply for reply in (phone.reply(), phone.reply())}
    assert responses["1 CANCEL"].status == 200
    assert responses["1 INVITE"].status == 487
    phone.ack(responses["1 INVITE"])
    assert phone.is_silent()
    assert calls(path.sandbox)[0]["status"] == 487


def test_an_answered_call_is_not_cancelled(path: Path, phone: Phone) -> None:
    answer = answered(phone)
    phone.cancel()
    assert phone.reply().status == 200
    assert phone.bye(answer).status == 200


@pytest.mark.parametrize(
    ("method", "status"), [("OPTIONS", 200), ("REGISTER", 405), ("BYE", 481), ("CANCEL", 481), ("NOTIFY", 405)]
)
def test_a_request_without_a_call_is_answered(path: Path, phone: Phone, method: str, status: int) -> None:
    phone.called = N
    phone.send(phone.request(method, branch="z9hG4bKx" + secrets.token_hex(4), cseq=1))
    reply = phone.reply()
    assert (reply.status, reply.header("CSeq")) == (status, f"1 {method}")


@pytest.mark.parametrize("missing", ["Call-ID", "From", "To", "tag"])
def test_an_invite_without_what_makes_it_one_is_a_bad_request(path: Path, phone: Phone, missing: str) -> None:
    phone.called, phone.branch = N, "z9hG4bKx" + secrets.token_hex(4)
    lines = phone.request("INVITE", cseq=1, body=offer()).split(b"\r\n")
    wanted = [line for line in lines if not line.startswith(missing.encode() + b":")]
    if missing == "tag":
        wanted = [line.partition(b";tag=")[0] for line in lines]
    phone.send(b"\r\n".join(wanted))
    assert phone.reply().status == 400


def test_a_repeated_packet_gets_the_same_last_response(path: Path, phone: Phone) -> None:
    data = phone.invite(N)
    answer = phone.final()
    phone.ack(answer)
    phone.send(data)
    again = phone.reply()
    assert (again.start, again.to_tag, again.body) == (answer.start, answer.to_tag, answer.body)
    assert len(calls(path.sandbox)) == 1


def test_another_invite_of_a_refused_call_gets_the_refusal_without_another_look(path: Path, phone: Phone) -> None:
    new = "+15145559999"
    phone.invite(new)
    refusal = phone.final()
    phone.ack(refusal)
    path.replace_inbound(numbers=[N, new])
    phone.invite(new)
    again = phone.reply()
    assert (again.status, again.reason) == (404, "No trunk found")
    phone.ack(again)
    phone.call_id = secrets.token_hex(8)
    phone.invite(new)
    assert phone.final().status == 200


def test_an_invite_within_a_call_gets_its_sound_again(path: Path, phone: Phone) -> None:
    answer = answered(phone)
    phone.send(phone.request("INVITE", branch="z9hG4bKagain", to_tag=answer.to_tag, cseq=2, body=offer()))
    again = phone.reply()
    assert (again.status, again.body) == (200, answer.body)


def test_a_refusal_comes_again_until_it_is_acknowledged(path: Path, udp_phone: Phone) -> None:
    udp_phone.invite("+15145559999")
    refusal, again = udp_phone.final(), udp_phone.final()
    assert (refusal.status, again.start) == (404, refusal.start)
    udp_phone.ack(refusal)
    assert udp_phone.is_silent(1.2)


def test_an_answer_comes_again_until_it_is_acknowledged(path: Path, udp_phone: Phone) -> None:
    udp_phone.invite(N)
    answer, again = udp_phone.final(), udp_phone.final()
    assert (answer.status, again.start) == (200, answer.start)
    udp_phone.ack(answer)
    assert udp_phone.is_silent(0.7)


def test_a_bye_comes_again_until_it_is_answered(path: Path, udp_phone: Phone) -> None:
    path.replace_inbound(max_call_duration=timedelta(seconds=4))
    path.sandbox.control("PUT", "sip", {"speed": 8})
    answered(udp_phone)
    bye, again = udp_phone.reply(), udp_phone.reply()
    assert bye.lines == again.lines
    echoed = [line for line in bye.lines if line.startswith(("Via", "From", "To", "Call-ID", "CSeq"))]
    udp_phone.send("\r\n".join(["SIP/2.0 200 OK", *echoed, "Content-Length: 0", "", ""]).encode())
    assert udp_phone.is_silent(1.2)


def test_a_caller_of_this_machine_is_refused_where_only_twilio_may_call(path: Path, phone: Phone) -> None:
    path.replace_inbound(allowed_addresses=[TWILIO])
    phone.invite(N)
    assert phone.statuses() == [100, 404]
    assert "does not allow Twilio's address 127.0.0.1" in calls(path.sandbox)[0]["reason"]


def test_a_caller_of_this_machine_can_be_taken_for_twilio(path: Path, phone: Phone) -> None:
    path.replace_inbound(allowed_addresses=[TWILIO])
    path.sandbox.control("PUT", "sip", {"source": "54.172.60.3"})
    answered(phone)
    assert calls(path.sandbox)[0]["source"] == "54.172.60.3"


def test_the_called_number_is_that_of_the_to_header(path: Path, phone: Phone) -> None:
    phone.called, phone.branch = N, "z9hG4bKx" + secrets.token_hex(4)
    lines = phone.request("INVITE", cseq=1, body=offer()).split(b"\r\n")
    phone.send(b"\r\n".join([lines[0].replace(N.encode(), b"+19995550000"), *lines[1:]]))
    assert phone.final().status == 200


def test_a_caller_whom_the_trunk_does_not_allow_finds_no_trunk(path: Path, new_phone: NewPhone) -> None:
    path.replace_inbound(allowed_numbers=[CALLER])
    answered(new_phone())
    other = new_phone("+15005550007")
    other.invite(N)
    assert other.final().status == 404


def test_another_project_is_called_by_the_host_of_the_uri(path: Path, phone: Phone) -> None:
    keys = path.sandbox.control("POST", "projects", {"name": "other"})["keys"]
    ((key, secret),) = keys.items()
    request = api.CreateSIPInboundTrunkRequest(trunk=api.SIPInboundTrunkInfo(numbers=[N], auth_username="u"))
    request.trunk.auth_password = "p"
    url = f"{path.sandbox.url}/projects/other"
    path.sandbox.livekit(lambda sip: sip.create_inbound_trunk(request), url, api_key=key, api_secret=secret)
    phone.invite(N, host="other.sip.livekit.cloud")
    assert phone.final().status == 407
    assert calls(path.sandbox)[0]["project"] == "other"


def test_an_origination_url_of_the_listener_leads_to_livekit(path: Path) -> None:
    path.on_trunk.origination_urls(path.url).delete()
    url = path.sandbox.control("GET", "sip")["uri"]
    path.add_url(url)
    assert path.call()["reaches"]
    path.on_trunk.origination_urls.list()[0].delete()
    path.add_url(url.replace("127.0.0.1:", "127.0.0.1:1"))
    assert path.ends_at("originationUrl")


def test_packets_of_sound_are_counted(path: Path, phone: Phone) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sound:
        sound.bind(("127.0.0.1", 0))
        answer = answered(phone, body=offer(sound.getsockname()[1]))
        port = int(answer.body.partition(b"m=audio ")[2].split(b" ")[0])
        for _ in range(3):
            sound.sendto(b"\x80\x00" + bytes(170), ("127.0.0.1", port))
        eventually(lambda: calls(path.sandbox)[0]["rtpPackets"] == 3)


def test_a_call_without_sound_is_hung_up(path: Path, phone: Phone) -> None:
    path.sandbox.control("PUT", "sip", {"speed": 60})
    answered(phone)
    assert phone.reply().start.startswith("BYE ")


def test_fifty_calls_at_once_are_all_answered(path: Path, new_phone: NewPhone) -> None:
    with phones(new_phone().transport, path.sandbox.control("GET", "sip")["address"], 50) as many:
        for phone in many:
            phone.invite(N)
        answers = [phone.final() for phone in many]
        assert {answer.status for answer in answers} == {200}
        for phone, answer in zip(many, answers, strict=True):
            phone.ack(answer)
        assert {phone.bye(answer).status for phone, answer in zip(many, answers, strict=True)} == {200}
    assert {call["endedBy"] for call in calls(path.sandbox)} == {"caller"}


def test_a_reset_forgets_calls_and_settings(path: Path, phone: Phone) -> None:
    path.sandbox.control("PUT", "sip", {"answerS": 30, "tcp": False})
    path.sandbox.control("POST", "reset", {})
    shown = path.sandbox.control("GET", "sip")
    assert (shown["answerS"], shown["tcp"], shown["calls"]) == (0.2, True, [])
    again = Path(path.sandbox)
    answer = answered(phone)
    again.sandbox.control("POST", "reset", {})
    assert phone.bye(answer).status == 481


@pytest.mark.parametrize("wrong", [{"source": "x"}, {"source": "::1"}, {"answerS": -1}, {"udp": 1}, {"port": 5060}])
def test_an_invalid_setting_is_refused(sandbox: RunningSandbox, wrong: dict[str, Any]) -> None:
    assert "error" in sandbox.control("PUT", "sip", wrong, status=400)


def test_a_stream_may_come_in_pieces_and_hold_several_messages(path: Path, sandbox: RunningSandbox) -> None:
    with Phone("tcp", sandbox.control("GET", "sip")["address"]) as phone:
        phone.called = N
        first, second = (phone.request("OPTIONS", branch=f"z9hG4bK{name}", cseq=1) for name in "ab")
        for at in range(0, len(first), 7):
            phone.send(first[at : at + 7])
        assert phone.reply().status == 200
        phone.send(b"\r\n\r\n" + second + first.replace(b"z9hG4bKa", b"z9hG4bKc"))
        assert [phone.reply().status for _ in range(2)] == [200, 200]


def test_a_stream_without_an_end_is_closed(sandbox: RunningSandbox) -> None:
    with Phone("tcp", sandbox.control("GET", "sip")["address"]) as phone, suppress(ConnectionError):
        phone.send(b"INVITE sip:x SIP/2.0\r\nSubject: " + b"x" * 70_000)
        assert phone.received() == b""


def test_a_short_name_of_a_header_is_as_good_as_the_long_one(path: Path, phone: Phone) -> None:
    phone.called, phone.branch = N, "z9hG4bKx" + secrets.token_hex(4)
    data = phone.request("INVITE", cseq=1, body=offer())
    for long, short in ((b"Via:", b"v:"), (b"From:", b"f:"), (b"To:", b"t:"), (b"Call-ID:", b"i:")):
        data = data.replace(long, short)
    phone.send(data.replace(b"Content-Length:", b"l:").replace(b"Content-Type:", b"c:"))
    assert phone.final().status == 200


def test_whatever_is_sent_does_not_stop_it(path: Path, new_phone: NewPhone) -> None:
    drawn = random.Random(12)  # noqa: S311 - repeatable on purpose
    phone = new_phone()
    phone.called, phone.branch = N, "z9hG4bKfuzz"
    whole = phone.request("INVITE", cseq=1, body=offer())
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(drawn.randint(1, 30)):
            data[drawn.randrange(len(data))] = drawn.randrange(256)
        del data[drawn.randrange(len(data)) :]
        try:
            phone.send(bytes(data) or b"\x00")
        except ConnectionError:
            phone = new_phone()
    other = new_phone()
    assert answered(other).status == 200
