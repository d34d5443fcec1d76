"""One call over SIP against a scripted far end on loopback: over UDP, TCP and TLS, whatever it does and fails to do."""

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from app.calls.sip_call import CallResult, CallTimes, place_call
from app.calls.sockets import Trouble
from app.domain.sip_uris import parse_sip_uri
from tests.support.leftovers import nothing_left
from tests.support.sip_peer import PeerCall, Script, SipPeer, certificate, sdp_at, server_tls, sip_peer

CALLED, CALLER = "+15145550001", "+12025550100"

TIMES = CallTimes(budget_s=1.5, talk_s=0.1, hang_up_s=0.5, connect_s=1.2)
"""A call in two seconds, also on a busy machine."""

HASTY = replace(TIMES, t1_s=0.05, t2_s=0.2)
"""The same, with the pauses between repetitions a tenth of the real ones."""

MARGIN_S = 3.0
"""Seconds that a busy machine may add to a call."""


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Hold each test to the file descriptors and threads that were there before."""
    with nothing_left():
        yield


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificate(tmp_path_factory.mktemp("tls"), "localhost", "127.0.0.1")


TRANSPORTS = ("udp", "tcp", "tls")


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Called = Callable[..., CallResult]
CalledByAll = Callable[..., list[tuple[CallResult, SipPeer]]]


@pytest.fixture
def run(transport: str, pair: tuple[Path, Path]) -> Called:
    """Place a call to a script, over each transport, and return its result and, in `run.peer`, the far end."""

    def placed(script: Script, **more: object) -> tuple[CallResult, SipPeer]:
        return placed_over(transport, script, pair, **more)

    return placed


@pytest.fixture
def run_all(pair: tuple[Path, Path]) -> CalledByAll:
    """Place a call to a script over all transports at once: one of those that wait takes as long as three."""

    def placed(script: Script, **more: object) -> list[tuple[CallResult, SipPeer]]:
        with ThreadPoolExecutor(len(TRANSPORTS)) as pool:
            return list(pool.map(lambda transport: placed_over(transport, script, pair, **more), TRANSPORTS))

    return placed


def placed_over(transport: str, script: Script, pair: tuple[Path, Path], **more: object) -> tuple[CallResult, SipPeer]:
    tls = server_tls(*pair) if transport == "tls" else None
    lost, then = more.pop("lost", None), more.pop("then", None)
    with sip_peer(transport, script, tls=tls, lost=lost) as peer:
        result = call_to(peer, pair, **more)
        if then:
            then()
    return result, peer


def call_to(peer: SipPeer, pair: tuple[Path, Path], **more: object) -> CallResult:
    client_tls = ssl.create_default_context(cafile=str(pair[0]))
    return place_call(parse_sip_uri(peer.uri), CALLED, CALLER, **{"times": TIMES, "tls": client_tls, **more})


def statuses(result: CallResult) -> list[int]:
    return [response.status for response in result.responses]


def answering(call: PeerCall) -> None:
    call.respond(100, "Processing", tag="")
    call.respond(180, "Ringing")
    call.respond(200, "OK", sdp=sdp_at(9))
    assert call.end() == "BYE"


def ringing(call: PeerCall) -> None:
    call.respond(180, "Ringing")
    assert call.end() == "CANCEL"


def test_an_answer_is_confirmed_and_hung_up(run: Called) -> None:
    result, peer = run(answering)
    assert statuses(result) == [100, 180, 200]
    assert peer.call.methods == ["INVITE", "ACK", "BYE"]
    assert 0 <= result.ring_s <= result.answer_s < TIMES.budget_s
    assert result.trouble is None


def test_the_invite_is_one_of_twilio_to_the_number(run: Called, transport: str) -> None:
    result, peer = run(answering)
    invite = peer.call.invite
    assert invite.text.startswith(
        f"INVITE sip:{CALLED}@{'localhost' if transport == 'tls' else '127.0.0.1'}:{peer.port}"
    )
    assert f"<sip:{CALLED}@" in invite.header("To")
    assert "tag=" not in invite.header("To")
    assert f"<sip:{CALLER}@127.0.0.1>;tag=" in invite.header("From")
    assert f"SIP/2.0/{transport.upper()} {result.local_address};branch=z9hG4bK" in invite.header("Via")
    assert invite.header("Via").endswith(";rport")
    assert (invite.header("CSeq"), invite.header("Max-Forwards")) == ("1 INVITE", "70")
    assert (invite.header("Call-ID"), invite.header("User-Agent")) == (result.call_id, "Trunkline")
    assert "100rel" not in invite.text
    assert "m=audio " in invite.body
    assert " RTP/AVP 0 8 101\r\n" in invite.body


def test_ack_and_bye_go_to_the_contact_of_the_answer(run: Called) -> None:
    def script(call: PeerCall) -> None:
        call.respond(
            200, "OK", more=f"Contact: <sip:{CALLED}@{call.address};x=1>\r\nRecord-Route: <sip:a;lr>, <sip:b;lr>\r\n"
        )
        assert call.end() == "BYE"

    _, peer = run(script)
    invite, ack, bye = peer.call.requests
    assert ack.text.startswith(f"ACK sip:{CALLED}@{peer.address};x=1 SIP/2.0\r\n")
    assert bye.text.startswith(f"BYE sip:{CALLED}@{peer.address};x=1 SIP/2.0\r\n")
    assert (ack.header("CSeq"), bye.header("CSeq")) == ("1 ACK", "2 BYE")
    assert ack.header("Route") == bye.header("Route") == "<sip:b;lr>, <sip:a;lr>"
    assert ack.header("To").endswith(";tag=peer")
    assert len({invite.header("Via"), ack.header("Via"), bye.header("Via")}) == 3


def test_ringing_that_nobody_answers_is_cancelled(run_all: CalledByAll) -> None:
    for result, peer in run_all(ringing):
        assert statuses(result) == [180]
        assert result.final is None
        assert TIMES.budget_s / 2 <= result.waited_s < TIMES.budget_s + MARGIN_S
        assert peer.call.methods == ["INVITE", "CANCEL", "ACK"]
        invite, cancel, ack = peer.call.requests
        assert invite.header("Via") == cancel.header("Via") == ack.header("Via")
        assert (cancel.header("CSeq"), ack.header("CSeq")) == ("1 CANCEL", "1 ACK")
        assert "tag=" not in cancel.header("To")


def test_an_answer_that_crosses_the_cancel_is_confirmed_and_hung_up(run_all: CalledByAll) -> None:
    def script(call: PeerCall) -> None:
        call.respond(180, "Ringing")
        cancel = call.expect("CANCEL")
        call.respond(200, "OK", sdp=sdp_at(9))
        call.respond(200, "OK", to=cancel)
        assert call.end() == "BYE"

    started = time.monotonic()
    placed = run_all(script, times=replace(TIMES, hang_up_s=4.0))
    assert time.monotonic() - started < TIMES.budget_s + MARGIN_S, "it waits for what was confirmed"
    for result, peer in placed:
        assert peer.call.methods == ["INVITE", "CANCEL", "ACK", "BYE"]
        assert statuses(result) == [180, 200]
        assert result.answer_s > TIMES.budget_s / 2


def test_a_refusal_is_confirmed(run: Called) -> None:
    def script(call: PeerCall) -> None:
        call.respond(180, "Ringing")
        call.respond(486, "Rejected")
        call.expect("ACK")

    result, peer = run(script)
    assert (result.final.status, result.final.reason) == (486, "Rejected")
    assert peer.call.methods == ["INVITE", "ACK"]
    assert result.waited_s < MARGIN_S


def test_a_redirection_is_not_followed(run: Called) -> None:
    def script(call: PeerCall) -> None:
        call.respond(302, "Moved Temporarily", more="Contact: <sip:x@elsewhere.example:5070>;q=1\r\n")
        call.expect("ACK")

    result, _ = run(script)
    assert (result.final.status, result.redirected_to) == (302, "elsewhere.example")


def test_a_challenge_is_the_end(run: Called) -> None:
    def script(call: PeerCall) -> None:
        call.respond(407, "Unauthorized", more='Proxy-Authenticate: Digest realm="x", nonce="y"\r\n')
        call.expect("ACK")

    result, peer = run(script)
    assert result.final.status == 407
    assert peer.call.methods == ["INVITE", "ACK"]


def test_a_far_end_without_a_word_costs_the_budget(run_all: CalledByAll) -> None:
    started = time.monotonic()
    placed = run_all(lambda _: None)
    assert time.monotonic() - started < TIMES.longest_s + MARGIN_S
    for result, peer in placed:
        assert (result.responses, result.was_heard, result.trouble) == ((), False, None)
        assert set(peer.call.methods) == {"INVITE"}


def test_a_call_that_has_just_been_heard_when_we_give_up_is_cancelled_all_the_same(run_all: CalledByAll) -> None:
    def script(call: PeerCall) -> None:
        time.sleep(TIMES.budget_s + 0.1)
        call.respond(180, "Ringing")
        assert call.end() == "CANCEL"

    assert [result.responses for result, _ in run_all(script)] == [(), (), ()]


def test_the_far_end_may_hang_up_first(run: Called) -> None:
    def script(call: PeerCall) -> None:
        call.respond(200, "OK", sdp=sdp_at(9))
        call.expect("ACK")
        call.request("BYE")
        assert call.expect("200").header("CSeq") == "1 BYE"

    result, peer = run(script, times=replace(TIMES, talk_s=5.0))
    assert result.final.status == 200
    assert peer.call.methods == ["INVITE", "ACK", "200"]


def test_requests_in_the_call_are_answered(run: Called) -> None:
    asked = {"OPTIONS": "200", "INVITE": "488", "MESSAGE": "405"}

    def script(call: PeerCall) -> None:
        call.respond(200, "OK", sdp=sdp_at(9))
        call.expect("ACK")
        for number, (method, status) in enumerate(asked.items(), 1):
            call.request(method, number)
            assert call.expect(status).header("CSeq") == f"{number} {method}"
        call.request("BYE", 9, call_id="of-another-call")
        assert call.end() == "BYE"

    result, peer = run(script, times=replace(TIMES, talk_s=0.4))
    assert result.final.status == 200
    assert [stray.method for stray in peer.strays] == ["481"]


def test_a_forked_call_is_hung_up_at_both_ends(run: Called) -> None:
    def script(call: PeerCall) -> None:
        call.respond(200, "OK", tag="one", sdp=sdp_at(9))
        call.respond(200, "OK", tag="two", sdp=sdp_at(9))
        tags = set()
        for _ in range(2):
            bye = call.expect("BYE")
            tags.add(bye.header("To").partition("tag=")[2])
            call.respond(200, "OK", to=bye)
        assert tags == {"one", "two"}

    result, peer = run(script)
    assert statuses(result) == [200]
    assert peer.call.methods.count("ACK") == 2


def test_far_ends_without_number_are_not_all_hung_up(run: Called) -> None:
    def script(call: PeerCall) -> None:
        for number in range(50):
            call.respond(200, "OK", tag=f"end{number}", sdp=sdp_at(9))

    _, peer = run(script)
    assert len({bye.header("To") for bye in peer.call.requests if bye.method == "BYE"}) == 8


def test_what_is_no_sip_is_passed_over(run: Called, transport: str) -> None:
    def script(call: PeerCall) -> None:
        if transport == "udp":
            call.send(b"\x00\xff\xfe" * 99)
            call.send(b"")
        call.send(b"SIP/2.0 180 Ringing\r\nCall-ID: of-another-call\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n")
        call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
        answering(call)

    result, _ = run(script)
    assert statuses(result) == [100, 180, 200]


def test_nothing_but_garbage_is_no_sip(run_all: CalledByAll) -> None:
    def script(call: PeerCall) -> None:
        call.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    for result, _ in run_all(script):
        assert (result.trouble, result.responses, result.was_heard) == (Trouble.UNREADABLE, (), True)


def test_responses_without_an_end_do_not_outlast_the_budget(run: Called) -> None:
    took = []

    def script(call: PeerCall) -> None:
        while not took and time.monotonic() < started + 5.0:
            call.respond(180, "Ringing")

    started = time.monotonic()
    times = replace(TIMES, budget_s=0.7, hang_up_s=0.3)
    result, _ = run(script, then=lambda: took.append(time.monotonic() - started), times=times)
    assert result.waited_s < times.budget_s + MARGIN_S
    assert took[0] < times.longest_s + MARGIN_S
    assert len(result.responses) <= 1_000


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_a_connection_that_is_closed_in_the_middle_is_a_trouble(run: Called, transport: str) -> None:
    def script(call: PeerCall) -> None:
        call.respond(180, "Ringing")
        call.hang_up()

    result, _ = run(script)
    assert (result.trouble, statuses(result)) == (Trouble.CLOSED, [180])


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_messages_may_come_in_any_pieces(run: Called, transport: str) -> None:
    def script(call: PeerCall) -> None:
        whole = call.response(180, "Ringing") + b"\r\n\r\n" + call.response(200, "OK", sdp=sdp_at(9))
        for place in range(0, len(whole), 7):
            call.send(whole[place : place + 7])
        assert call.end() == "BYE"

    result, _ = run(script)
    assert statuses(result) == [180, 200]


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_a_message_of_no_bearable_length_ends_the_call(run: Called, transport: str) -> None:
    def script(call: PeerCall) -> None:
        call.send(b"SIP/2.0 200 OK\r\nContent-Length: 9999999\r\n\r\n")

    result, _ = run(script)
    assert result.trouble is Trouble.UNREADABLE


# What only UDP has: packets that are lost.


def test_an_invite_that_is_lost_is_sent_again(pair: tuple[Path, Path]) -> None:
    result, peer = placed_over(
        "udp", answering, pair, lost=lambda method, count: method == "INVITE" and count <= 2, times=HASTY
    )
    assert peer.call.methods[:3] == ["INVITE"] * 3
    assert peer.call.order == ["INVITE", "ACK", "BYE"]
    assert statuses(result)[-1] == 200
    assert result.answer_s > 3 * HASTY.t1_s


def test_a_provisional_response_ends_the_repetitions(pair: tuple[Path, Path]) -> None:
    _, peer = placed_over("udp", ringing, pair)
    assert peer.call.methods.count("INVITE") == 1


def test_an_ack_that_is_lost_is_sent_again_when_the_answer_is(pair: tuple[Path, Path]) -> None:
    def script(call: PeerCall) -> None:
        call.respond(200, "OK", sdp=sdp_at(9))
        time.sleep(0.1)
        call.respond(200, "OK", sdp=sdp_at(9))
        call.expect("ACK")
        assert call.end() == "BYE"

    result, peer = placed_over(
        "udp", script, pair, lost=lambda method, count: (method, count) == ("ACK", 1), times=replace(HASTY, talk_s=0.4)
    )
    assert statuses(result) == [200]
    assert peer.call.methods.count("ACK") >= 2


def test_a_bye_that_is_lost_is_sent_again(pair: tuple[Path, Path]) -> None:
    _, peer = placed_over(
        "udp", answering, pair, lost=lambda method, count: method == "BYE" and count <= 2, times=HASTY
    )
    assert peer.call.methods.count("BYE") >= 3
    assert peer.call.order == ["INVITE", "ACK", "BYE"]


def test_a_cancel_that_is_lost_is_sent_again(pair: tuple[Path, Path]) -> None:
    _, peer = placed_over(
        "udp", ringing, pair, lost=lambda method, count: method == "CANCEL" and count <= 2, times=HASTY
    )
    assert peer.call.methods.count("CANCEL") >= 3
    assert peer.call.order == ["INVITE", "CANCEL", "ACK"]


def test_a_refusal_that_is_repeated_is_confirmed_again(pair: tuple[Path, Path]) -> None:
    def script(call: PeerCall) -> None:
        call.respond(180, "Ringing")
        cancel = call.expect("CANCEL")
        call.respond(200, "OK", to=cancel)
        call.respond(487, "Request Terminated")
        call.respond(487, "Request Terminated")
        call.expect("ACK")

    _, peer = placed_over("udp", script, pair)
    assert "ACK" in peer.call.methods


def test_nobody_is_called_for_longer_than_all_tries_take(pair: tuple[Path, Path]) -> None:
    result, peer = placed_over("udp", lambda _: None, pair, times=replace(HASTY, t1_s=0.01))
    assert 0.64 <= result.waited_s < TIMES.budget_s
    assert set(peer.call.methods) == {"INVITE"}
    # After 0.01, 0.03, 0.07, 0.15, 0.31 and, if the machine is quick enough, 0.63 seconds.
    assert 6 <= len(peer.call.methods) <= 7


def test_an_answer_from_another_address_counts(pair: tuple[Path, Path]) -> None:
    def script(call: PeerCall) -> None:
        host, _, port = call.invite.header("Via").partition(";")[0].rpartition(" ")[2].partition(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.2", 0))
            other.sendto(call.response(180, "Ringing"), (host, int(port)))
            other.sendto(call.response(486, "Rejected"), (host, int(port)))
        call.expect("ACK")

    result, _ = placed_over("udp", script, pair)
    assert statuses(result) == [180, 486]


def test_a_contact_that_leads_nowhere_keeps_nobody_from_hanging_up(pair: tuple[Path, Path]) -> None:
    def script(call: PeerCall) -> None:
        call.respond(200, "OK", more="Contact: <sip:x@127.0.0.3:9>\r\n")
        assert call.end() == "BYE"

    _, peer = placed_over("udp", script, pair, times=HASTY)
    assert "BYE" in peer.call.methods


def test_a_port_at_which_nobody_listens_is_refused_at_once() -> None:
    for transport in ("udp", "tcp", "tls"):
        kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
        with socket.socket(socket.AF_INET, kind) as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        started = time.monotonic()
        uri = parse_sip_uri(f"sip:127.0.0.1:{port};transport={transport}")
        result = place_call(uri, CALLED, CALLER, times=replace(TIMES, budget_s=5.0))
        assert result.trouble is Trouble.REFUSED
        assert time.monotonic() - started < MARGIN_S


def test_a_name_without_an_address_is_a_trouble() -> None:
    result = place_call(parse_sip_uri("sip:nobody.invalid;transport=tcp"), CALLED, CALLER, times=TIMES)
    assert result.trouble in {Trouble.NAME_NOT_FOUND, Trouble.NAME_TIMED_OUT}


def test_an_address_that_may_not_be_called_is_not(pair: tuple[Path, Path]) -> None:
    asked = []
    with sip_peer("tcp", answering) as peer:
        result = call_to(peer, pair, allows=lambda address: bool(asked.append(address)))
        assert peer.calls == {}
    assert (result.trouble, asked) == (Trouble.ADDRESS_NOT_ALLOWED, ["127.0.0.1"])


def test_a_certificate_that_nobody_trusts_is_a_trouble(pair: tuple[Path, Path]) -> None:
    with sip_peer("tls", answering, tls=server_tls(*pair)) as peer:
        result = call_to(peer, pair, tls=None, times=replace(TIMES, budget_s=5.0, connect_s=3.0))
        assert peer.calls == {}
    assert result.trouble is Trouble.TLS_CERTIFICATE


def test_a_certificate_of_another_host_is_a_trouble(tmp_path: Path) -> None:
    other = certificate(tmp_path, "elsewhere.example")
    with sip_peer("tls", answering, tls=server_tls(*other)) as peer:
        result = call_to(peer, other, times=replace(TIMES, budget_s=5.0, connect_s=3.0))
    assert result.trouble is Trouble.TLS_CERTIFICATE


def test_a_server_that_does_not_speak_tls_is_a_trouble(pair: tuple[Path, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = parse_sip_uri(f"sip:127.0.0.1:{silent.getsockname()[1]};transport=tls")
        started = time.monotonic()
        result = place_call(uri, CALLED, CALLER, times=replace(TIMES, budget_s=5.0))
        assert result.trouble is Trouble.CONNECT_TIMED_OUT
        assert time.monotonic() - started < TIMES.connect_s + MARGIN_S


# Sound.


@pytest.fixture
def ear() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.settimeout(1.0)
        yield made


def heard(ear: socket.socket) -> list[bytes]:
    ear.setblocking(False)
    packets = []
    try:
        while True:
            packets.append(ear.recv(2048))
    except BlockingIOError:
        return packets


def test_an_answered_call_hears_silence_and_counts_what_comes(run: Called, ear: socket.socket) -> None:
    def script(call: PeerCall) -> None:
        call.respond(200, "OK", sdp=sdp_at(ear.getsockname()[1]))
        call.expect("ACK")
        port = int(call.invite.body.partition("m=audio ")[2].partition(" ")[0])
        for _ in range(3):
            ear.sendto(b"\x80\x00" + b"\x00" * 170, ("127.0.0.1", port))
        assert call.end() == "BYE"

    result, _ = run(script, times=replace(TIMES, talk_s=0.3))
    packets = heard(ear)
    assert 8 <= len(packets) <= 17
    assert {packet[:2] for packet in packets} == {b"\x80\x00"}
    assert {packet[12:] for packet in packets} == {b"\xff" * 160}
    numbers = [int.from_bytes(packet[2:4]) for packet in packets]
    assert numbers == list(range(numbers[0], numbers[0] + len(packets)))
    stamps = [int.from_bytes(packet[4:8]) for packet in packets]
    assert stamps == list(range(stamps[0], stamps[0] + 160 * len(packets), 160))
    assert result.rtp_packets == 3
    assert result.is_answer_plain


def test_early_media_hears_silence_while_it_rings(run: Called, ear: socket.socket) -> None:
    def script(call: PeerCall) -> None:
        call.respond(183, "Session Progress", sdp=sdp_at(ear.getsockname()[1], payloads="8"))
        time.sleep(0.2)
        call.respond(486, "Rejected")
        call.expect("ACK")

    result, _ = run(script)
    packets = heard(ear)
    assert len(packets) >= 5
    assert {packet[12:] for packet in packets} == {b"\xd5" * 160}
    assert result.ring_s is not None


def test_a_secure_call_offers_keys_and_sends_no_sound(run: Called, ear: socket.socket) -> None:
    def script(call: PeerCall) -> None:
        assert " RTP/SAVP 0 8 101\r\n" in call.invite.body
        assert "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:" in call.invite.body
        call.respond(200, "OK", sdp=sdp_at(ear.getsockname()[1], "RTP/SAVP"))
        assert call.end() == "BYE"

    result, _ = run(script, is_secure=True)
    assert heard(ear) == []
    assert not result.is_answer_plain


def test_sound_goes_to_no_address_that_may_not_be_called(pair: tuple[Path, Path], ear: socket.socket) -> None:
    def script(call: PeerCall) -> None:
        call.respond(200, "OK", sdp=sdp_at(ear.getsockname()[1], host="127.0.0.4"))
        assert call.end() == "BYE"

    placed_over("tcp", script, pair, allows=lambda address: address == "127.0.0.1")
    assert heard(ear) == []


def test_fifty_calls_at_once_leave_nothing(run: Called, transport: str, pair: tuple[Path, Path]) -> None:
    tls = server_tls(*pair) if transport == "tls" else None
    patient = CallTimes(budget_s=10.0, talk_s=0.1)
    with sip_peer(transport, answering, tls=tls) as peer, ThreadPoolExecutor(50) as pool:
        results = list(pool.map(lambda _: call_to(peer, pair, times=patient), range(50)))
    assert [result.final and result.final.status for result in results] == [200] * 50
    assert len({result.call_id for result in results}) == 50
    assert {tuple(call.methods) for call in peer.calls.values()} == {("INVITE", "ACK", "BYE")}


def test_an_exception_in_the_middle_hangs_up_and_closes(run: Called, transport: str, pair: tuple[Path, Path]) -> None:
    def interrupted(address: str) -> bool:
        # Asked for the second time when an answer says where its sound goes.
        if asked.append(address) or len(asked) > 1:
            raise KeyboardInterrupt
        return True

    asked: list[str] = []
    tls = server_tls(*pair) if transport == "tls" else None
    with sip_peer(transport, answering, tls=tls) as peer, pytest.raises(KeyboardInterrupt):
        call_to(peer, pair, allows=interrupted)
    assert peer.call.methods[-1] == "BYE"
