"""What the sandbox's SIP keeps is bounded, forgotten after a time, and gone when it stops."""

import heapq
import itertools
import threading
from collections.abc import Callable, Iterator

import pytest
from livekit.protocol import sip
from test_sandbox_process import running

from app.dev.localstack.processes import free_port
from app.dev.localstack.servers import SIP_SOCKETS
from app.dev.sandbox.application import SandboxApp, create_sandbox
from app.dev.sandbox.sip_calls import MOST_CALLS, SipCalls
from app.dev.sandbox.sip_transactions import MOST_TRANSACTIONS
from tests.support.leftovers import nothing_left
from tests.support.sip_phone import Phone, offer

N = "+15145551234"


class Later:
    """Timers that a test lets run out."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waiting: list[tuple[float, int, Callable[[], None], list[bool]]] = []
        """A heap: when, in which order, what, and whether it was cancelled."""
        self._order = itertools.count()

    def __call__(self, seconds: float, action: Callable[[], None]) -> "OneTimer":
        cancelled: list[bool] = []
        heapq.heappush(self.waiting, (self.now + seconds, next(self._order), action, cancelled))
        return OneTimer(cancelled)

    def pass_by(self, seconds: float) -> None:
        """Let time pass, and do what was to happen in it."""
        ends_at = self.now + seconds
        while self.waiting and self.waiting[0][0] <= ends_at:
            self.now, _, action, cancelled = heapq.heappop(self.waiting)
            if not cancelled:
                action()
        self.now = ends_at


class OneTimer:
    """One of them."""

    def __init__(self, cancelled: list[bool]) -> None:
        self._cancelled = cancelled

    def cancel(self) -> None:
        """Have it not happen."""
        self._cancelled.append(True)


class Line:
    """A caller without a socket."""

    def __init__(self, transport: str = "udp") -> None:
        self.transport = transport
        self.address = ("127.0.0.1", 40_001)
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        """Keep a message."""
        self.sent.append(data)

    def reset(self) -> None:
        """Nothing is to be reset."""

    def starts(self) -> list[str]:
        """Return the first words of what came since the last look."""
        seen = [data.decode().split("\r\n")[0].removeprefix("SIP/2.0 ").split(" ")[0] for data in self.sent]
        self.sent.clear()
        return seen

    def tag(self) -> str:
        """Return the To tag of the last message."""
        return self.sent[-1].decode().partition(";tag=SCL_")[2].split("\r\n")[0]


class Server:
    """The calls of one sandbox, in a time of its own."""

    def __init__(self) -> None:
        self.app = create_sandbox()
        self.later = Later()
        self.calls = SipCalls(self.app.sandbox, clock=lambda: self.later.now)
        self.calls.transactions.later = self.later
        store = self.app.sandbox.store
        with store.transaction():
            store.put("livekit_trunks", "ST_a", sip.SIPInboundTrunkInfo(sip_trunk_id="ST_a", numbers=[N]))
            rule = sip.SIPDispatchRuleInfo(sip_dispatch_rule_id="SDR_a", trunk_ids=["ST_a"])
            rule.rule.dispatch_rule_individual.room_prefix = "call"
            rule.room_config.agents.add(agent_name="front-desk")
            store.put("livekit_rules", "SDR_a", rule)

    def say(
        self, line: Line, method: str, name: object = 1, *, called: str = N, tag: str = "", body: bytes = b""
    ) -> None:
        """Send a request of a call that has this name."""
        lines = [
            f"{method} sip:{called}@127.0.0.1 SIP/2.0",
            f"Via: SIP/2.0/UDP 127.0.0.1:40001;branch=z9hG4bK{name}{method if method == 'BYE' else ''}",
            f"From: <sip:+15005550006@127.0.0.1>;tag=f{name}",
            f"To: <sip:{called}@127.0.0.1>{f';tag=SCL_{tag}' if tag else ''}",
            f"Call-ID: {name}",
            f"CSeq: 1 {method}",
            f"Content-Length: {len(body)}",
        ]
        self.calls.receive(line, "\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def call(self, line: Line, name: object = 1, called: str = N) -> None:
        """Call a number."""
        self.say(line, "INVITE", name, called=called, body=offer())

    def ended_by(self) -> list[str | None]:
        """Return who has ended each call."""
        return [call["endedBy"] for call in self.calls.shown()]


def test_an_answer_without_an_ack_and_without_sound_does_not_stand_long() -> None:
    server, line = Server(), Line()
    server.call(line)
    server.later.pass_by(0.2)
    assert line.starts() == ["100", "180", "200"]
    server.later.pass_by(2.9)
    assert line.starts() == ["200", "200"]
    server.later.pass_by(3.0)
    assert server.ended_by() == [None]
    server.later.pass_by(0.2)
    assert line.starts() == ["BYE"]
    assert server.ended_by() == ["livekit"]


def test_sound_keeps_a_call_that_was_not_acknowledged() -> None:
    server, line = Server(), Line()
    server.call(line)
    for _ in range(10):
        server.later.pass_by(2.0)
        server.calls.heard(("127.0.0.1", 40_000))
    assert server.ended_by() == [None]
    server.later.pass_by(31.0)
    assert server.ended_by() == ["livekit"]


def test_an_acknowledged_call_may_be_without_sound_for_a_while() -> None:
    server, line = Server(), Line()
    server.call(line)
    server.later.pass_by(0.2)
    server.say(line, "ACK", tag=line.tag())
    line.starts()
    server.later.pass_by(29.9)
    assert (line.starts(), server.ended_by()) == ([], [None])
    server.later.pass_by(0.2)
    assert (line.starts(), server.ended_by()) == (["BYE"], ["livekit"])


def test_a_bye_that_nobody_answers_is_sent_for_some_seconds() -> None:
    server, line = Server(), Line()
    server.call(line)
    server.later.pass_by(6.3)
    line.starts()
    server.later.pass_by(60)
    assert line.starts() == ["BYE", "BYE", "BYE", "BYE"]
    assert [each for each in server.later.waiting if not each[3]] == []


def test_a_refusal_is_sent_for_half_a_minute_at_most() -> None:
    server, line = Server(), Line()
    server.call(line, called="+15145559999")
    server.later.pass_by(100)
    seen = line.starts()
    assert set(seen) == {"100", "404"}
    assert 8 <= seen.count("404") <= 12


def test_a_transaction_is_forgotten_after_a_while() -> None:
    server, line = Server(), Line()
    for name in range(3):
        server.say(line, "OPTIONS", name)
    server.later.pass_by(31)
    server.say(line, "OPTIONS", "x")
    assert len(server.calls.transactions) == 4
    server.later.pass_by(2)
    server.say(line, "OPTIONS", "y")
    assert len(server.calls.transactions) == 2


def test_a_rejection_is_repeated_for_a_minute() -> None:
    server, line = Server(), Line("tcp")
    server.call(line, called="+15145559999")
    for pause, looked in ((59, 1), (2, 2)):
        server.later.pass_by(pause)
        line.starts()
        body = offer()
        data = (
            f"INVITE sip:+15145559999@h SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bKnext{pause}\r\n"
            "From: <sip:a@h>;tag=f1\r\nTo: <sip:+15145559999@h>\r\nCall-ID: 1\r\nCSeq: 2 INVITE\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        server.calls.receive(line, data.encode() + body)
        assert line.starts()[-1] == "404"
        assert len(server.calls.shown()) == looked


def test_transactions_are_bounded() -> None:
    server, line = Server(), Line()
    for name in range(MOST_TRANSACTIONS + 10):
        server.say(line, "OPTIONS", name)
    assert len(server.calls.transactions) == MOST_TRANSACTIONS


def test_calls_are_bounded() -> None:
    server, line = Server(), Line("tcp")
    for name in range(MOST_CALLS + 1):
        server.call(line, name)
    assert line.starts()[-2:] == ["180", "503"]
    line = Line("tcp")
    server.call(line, "first again")
    assert b"Service temporarily unavailable" in line.sent[-1]
    server.later.pass_by(100)
    server.call(line, "later")
    assert line.starts()[-1] == "180"


def test_nothing_of_a_call_is_left_after_it() -> None:
    server, line = Server(), Line("tcp")
    server.call(line)
    server.later.pass_by(0.3)
    server.say(line, "ACK", tag=line.tag())
    server.say(line, "BYE", tag=line.tag())
    assert line.starts()[-1] == "200"
    assert [each for each in server.later.waiting if not each[3]] == []
    assert list(server.app.sandbox.rooms.of("sandbox")) == []


def test_a_reset_ends_what_was_to_happen() -> None:
    server, line = Server(), Line()
    server.call(line)
    server.app.sandbox.reset()
    line.starts()
    server.later.pass_by(60)
    assert line.starts() == []
    assert server.calls.shown() == []


@pytest.fixture
def app() -> Iterator[SandboxApp]:
    app = create_sandbox()
    yield app
    app.close()


def test_no_thread_and_no_socket_is_left_when_it_stops(app: SandboxApp) -> None:
    before = set(threading.enumerate())
    with nothing_left():
        app.listen(0)
        address = app.sandbox.sip_address
        with Phone("tcp", address) as phone, Phone("udp", address) as other:
            for each in (phone, other):
                each.invite(N)
                assert each.final().status == 404
            assert len(set(threading.enumerate()) - before) == 1
            app.close()
            assert phone.received() == b""
    app.listen(int(address.rpartition(":")[2]))
    assert app.sandbox.sip_address == address


def test_a_process_says_where_it_answers_and_takes_the_port_it_is_given() -> None:
    port = free_port(None, SIP_SOCKETS)
    with running("--sip-port", str(port), "--sip-source", "54.172.60.1", "--livekit-server", "openSource") as one:
        assert one.process.stdout.readline() == f"SIP answered on 127.0.0.1:{port}\n"
        shown = one.control("GET", "sip")
        assert (shown["uri"], shown["source"]) == (f"sip:127.0.0.1:{port};transport=tcp", "54.172.60.1")
        one.control("PUT", "sip", {"source": None})
        one.control("PUT", "switches", {"livekitServer": "cloud"})
        one.control("POST", "reset", {})
        assert one.control("GET", "sip")["source"] == "54.172.60.1"
        assert one.control("GET", "switches")["livekitServer"] == "openSource"
