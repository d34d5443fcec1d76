"""Faults on SIP messages: packets that are lost, answers that come late, not at all, or as nonsense."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from test_sandbox_call import N, Path
from test_sandbox_process import RunningSandbox, emptied_sandbox

from tests.support.sip_phone import Phone

NewPhone = Callable[[], Phone]


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
        yield lambda: made.enter_context(Phone(request.param, address))


@pytest.fixture
def phone(new_phone: NewPhone) -> Phone:
    return new_phone()


def test_the_first_packets_are_lost(path: Path, phone: Phone) -> None:
    path.sandbox.fault("sip.invite", "sip_drop", times=2)
    data = phone.invite(N)
    phone.send(data)
    assert phone.is_silent()
    phone.send(data)
    assert phone.statuses() == [100, 180, 200]


def test_a_response_is_lost(path: Path, phone: Phone) -> None:
    path.sandbox.fault("sip.response_180", "sip_drop", times=1)
    path.sandbox.fault("sip.response_100", "sip_drop", times=1)
    phone.invite(N)
    answer = phone.reply()
    assert answer.status == 200
    phone.ack(answer)
    path.sandbox.fault("sip.response_200", "sip_drop", times=1)
    branch = "z9hG4bKbye"
    bye = phone.request("BYE", branch=branch, to_tag=answer.to_tag, cseq=2)
    phone.send(bye)
    assert phone.is_silent()
    phone.send(bye)
    assert phone.reply().status == 200


def test_an_ack_is_lost(path: Path, sandbox: RunningSandbox) -> None:
    path.sandbox.fault("sip.ack", "sip_drop", times=1)
    with Phone("udp", sandbox.control("GET", "sip")["address"]) as phone:
        phone.invite("+15145559999")
        refusal = phone.final()
        phone.ack(refusal)
        assert phone.final().start == refusal.start


def test_a_peer_is_silent(path: Path, phone: Phone) -> None:
    path.sandbox.fault("sip.*", "sip_drop")
    phone.invite(N)
    phone.cancel()
    assert phone.is_silent()


@pytest.mark.parametrize(("spec", "statuses"), [({}, [100]), ({"status": 180}, [100, 180])])
def test_a_peer_falls_silent(path: Path, phone: Phone, spec: dict[str, int], statuses: list[int]) -> None:
    path.sandbox.fault("sip.invite", "sip_silent", **spec)
    data = phone.invite(N)
    assert [phone.reply().status for _ in statuses] == statuses
    assert phone.is_silent()
    phone.send(data)
    assert phone.reply().status == statuses[-1]


def test_an_answer_comes_late(path: Path, phone: Phone) -> None:
    path.sandbox.fault("sip.invite", "sip_late", seconds=0.3)
    started = time.monotonic()
    data = phone.invite(N)
    phone.send(data)
    assert phone.statuses() == [100, 180, 200]
    assert time.monotonic() - started >= 0.3


def test_a_late_invite_can_be_cancelled(path: Path, phone: Phone) -> None:
    path.sandbox.fault("sip.invite", "sip_late", seconds=0.3)
    phone.invite(N)
    phone.cancel()
    final = {reply.header("CSeq"): reply for reply in (phone.reply(), phone.reply())}
    assert {name: reply.status for name, reply in final.items()} == {"1 CANCEL": 200, "1 INVITE": 487}
    phone.ack(final["1 INVITE"])
    assert phone.is_silent()
    assert path.sandbox.control("GET", "sip")["calls"] == []


def test_one_response_comes_late(path: Path, phone: Phone) -> None:
    path.sandbox.fault("sip.response_200", "sip_late", seconds=0.2)
    started = time.monotonic()
    phone.invite(N)
    assert phone.final().status == 200
    assert time.monotonic() - started >= 0.2


def test_a_call_is_sent_elsewhere(path: Path, phone: Phone) -> None:
    path.sandbox.fault("sip.invite", "sip_status", status=302, contact="sip:x@192.0.2.7:5060")
    phone.invite(N)
    assert phone.reply().status == 100
    moved = phone.reply()
    assert (moved.status, moved.reason, moved.header("Contact")) == (
        302,
        "Moved Temporarily",
        "<sip:x@192.0.2.7:5060>",
    )


@pytest.mark.parametrize(("status", "header"), [(401, "WWW-Authenticate"), (407, "Proxy-Authenticate")])
def test_a_password_is_asked_for(path: Path, phone: Phone, status: int, header: str) -> None:
    path.sandbox.fault("sip.invite", "sip_status", status=status)
    phone.invite(N)
    challenge = phone.final()
    assert (challenge.status, challenge.header(header)[:13]) == (status, "Digest realm=")


@pytest.mark.parametrize("status", [480, 500, 503, 603])
def test_a_call_is_refused_with_any_status(path: Path, phone: Phone, status: int) -> None:
    path.sandbox.fault("sip.invite", "sip_status", status=status, message="Not now")
    phone.invite(N)
    refusal = phone.final()
    assert (refusal.status, refusal.reason) == (status, "Not now")


def test_only_the_call_that_is_meant_is_hit(path: Path, new_phone: NewPhone) -> None:
    path.sandbox.fault("sip.invite", "sip_status", status=480, contains="+15145550001")
    first, second = new_phone(), new_phone()
    first.invite(N)
    second.invite("+15145550001")
    assert (first.final().status, second.final().status) == (200, 480)


@pytest.mark.parametrize(
    ("spec", "data"), [({}, b"\x00\xffSIP/2.0 2OO \r\nVia\r\n\r\n"), ({"message": "HTTP"}, b"HTTP")]
)
def test_an_answer_is_nonsense(path: Path, phone: Phone, spec: dict[str, str], data: bytes) -> None:
    path.sandbox.fault("sip.invite", "sip_garbage", **spec)
    phone.invite(N)
    assert phone.socket.recv(4096) == data


def test_one_response_is_nonsense(path: Path, phone: Phone) -> None:
    path.sandbox.fault("sip.response_180", "sip_garbage")
    phone.invite(N)
    assert phone.reply().status == 100
    assert phone.received() == b"\x00\xffSIP/2.0 2OO \r\nVia\r\n\r\n"


def test_a_connection_is_reset(path: Path, sandbox: RunningSandbox) -> None:
    path.sandbox.fault("sip.invite", "sip_reset")
    with Phone("tcp", sandbox.control("GET", "sip")["address"]) as phone:
        phone.invite(N)
        with pytest.raises(ConnectionResetError):
            phone.received()


def test_a_port_is_closed_and_opened_again(path: Path, sandbox: RunningSandbox) -> None:
    address = sandbox.control("GET", "sip")["address"]
    sandbox.control("PUT", "sip", {"tcp": False, "udp": False})
    with pytest.raises(ConnectionRefusedError):
        Phone("tcp", address)
    with Phone("udp", address) as phone:
        phone.invite(N)
        with pytest.raises(ConnectionRefusedError):
            phone.received()
    sandbox.control("PUT", "sip", {"tcp": True, "udp": True})
    for transport in ("udp", "tcp"):
        with Phone(transport, address) as phone:
            phone.invite(N)
            assert phone.final().status == 200


def test_faults_of_one_kind_of_message_leave_the_other_alone(path: Path, phone: Phone) -> None:
    path.sandbox.fault("*", "500")
    path.sandbox.fault("*", "sip_status", status=480, times=1)
    path.sandbox.fault("*", "pause", times=None)
    phone.invite(N)
    assert phone.final().status == 480
    hits = {fault["kind"]: fault["hits"] for fault in path.sandbox.control("GET", "faults")["faults"]}
    assert hits == {"500": 0, "sip_status": 1, "pause": 0}


@pytest.mark.parametrize("wrong", [{}, {"status": 200}, {"status": "x"}, {"status": 480, "contact": 1}])
def test_a_status_that_refuses_nothing_is_no_fault(sandbox: RunningSandbox, wrong: dict[str, object]) -> None:
    fault = {"operation": "sip.invite", "kind": "sip_status", **wrong}
    assert "error" in sandbox.control("POST", "faults", fault, status=400)
