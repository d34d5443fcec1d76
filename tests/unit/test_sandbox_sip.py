"""The sandbox answers SIP as livekit-sip does: raw sockets over UDP and TCP, one test for each answer."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from test_sandbox_call import N, Path
from test_sandbox_process import RunningSandbox, emptied_sandbox

from tests.support.sip_phone import Phone

NewPhone = Callable[..., Phone]


@pytest.fixture
def sandbox() -> RunningSandbox:
    return emptied_sandbox()


@pytest.fixture
def path(sandbox: RunningSandbox) -> Path:
    return Path(sandbox)


@pytest.fixture(params=["udp", "tcp"])
def new_phone(request: pytest.FixtureRequest, sandbox: RunningSandbox) -> Iterator[NewPhone]:
    address = sandbox.control("GET", "sip")["address"]
    with ExitStack() as made:
        yield lambda caller="+15005550006": made.enter_context(Phone(request.param, address, caller))


@pytest.fixture
def phone(new_phone: NewPhone) -> Phone:
    return new_phone()


def test_a_call_rings_and_is_answered_with_sound(path: Path, phone: Phone) -> None:
    phone.invite(N)
    trying, ringing, answer = phone.reply(), phone.reply(), phone.reply()
    assert [trying.status, ringing.status, answer.status] == [100, 180, 200]
    assert (trying.reason, ringing.reason) == ("Processing", "Ringing")
    assert b"m=audio " in answer.body
    assert b" RTP/AVP 0\r\n" in answer.body
    phone.ack(answer)
    assert phone.bye(answer).status == 200


def test_a_number_of_no_trunk_is_not_found(path: Path, phone: Phone) -> None:
    phone.invite("+15145559999")
    assert phone.reply().status == 100
    refusal = phone.reply()
    assert (refusal.status, refusal.reason) == (404, "No trunk found")
