"""One message over real HTTP: to the address that was checked, under the name of the URL, and no further."""

import ssl
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from app.webhooks.deliveries import is_received
from app.webhooks.sending import MAX_BODY_BYTES, RETRY_AFTER_CAP_S, AddressRule, Sender, SendError, WebhookResponse
from tests.support.scripted_server import Answer as Scripted
from tests.support.scripted_server import (
    Drop,
    DropMidway,
    Hang,
    Raw,
    ScriptedServer,
    Trickle,
    refusing_url,
    scripted_server,
)

RULE = AddressRule((ip_network("127.0.0.0/8"),))
HEADERS = {"Content-Type": "application/json", "webhook-id": "msg_1"}
NAME = "hooks.example.com"
OPENSSL = "/usr/bin/openssl"


class Once:
    """A resolver that gives loopback once, and a stranger's address to whoever asks again."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, host: str, _port: int) -> list[str]:
        self.asked.append(host)
        return ["127.0.0.1"] if len(self.asked) == 1 else ["192.0.2.1"]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        server.default = Scripted(204)
        yield server


def at_name(server: ScriptedServer) -> str:
    return server.url.replace("127.0.0.1", NAME) + "/in?a=b"


def test_the_name_is_resolved_once_and_stays_in_the_host_header(server: ScriptedServer) -> None:
    resolve = Once()

    assert Sender(RULE, resolve).send(at_name(server), HEADERS, b'{"a": 1}') == WebhookResponse(204, "", None)

    (seen,) = server.seen
    assert (seen.method, seen.path, seen.body) == ("POST", "/in?a=b", b'{"a": 1}')
    assert seen.headers["Host"] == at_name(server).split("/")[2]
    assert {name: seen.headers[name] for name in HEADERS} == HEADERS
    assert resolve.asked == [NAME]


def test_the_next_address_is_tried_where_one_refuses(server: ScriptedServer) -> None:
    sender = Sender(RULE, lambda _host, _port: ["127.0.0.2", "127.0.0.1"])

    assert sender.send(at_name(server), HEADERS, b"{}").status == 204


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_is_not_followed(server: ScriptedServer, status: int) -> None:
    server.answer(Scripted(status, headers={"Location": server.url + "/inner"}))

    assert Sender(RULE).send(server.url, HEADERS, b"{}").status == status
    assert len(server.seen) == 1


def test_only_the_first_kib_of_an_answer_is_kept(server: ScriptedServer) -> None:
    server.answer(Scripted(500, b"x" * 100_000 + b"end", "text/plain", {"Retry-After": "7200"}))

    answer = Sender(RULE).send(server.url, HEADERS, b"{}")

    assert answer == WebhookResponse(500, "x" * MAX_BODY_BYTES, 7200.0)


def test_bytes_that_no_text_column_takes_are_replaced(server: ScriptedServer) -> None:
    server.answer(Scripted(500, b"a\0b\xff", "text/plain"))

    assert Sender(RULE).send(server.url, HEADERS, b"{}").body == "a\ufffdb\ufffd"


@pytest.mark.parametrize("behaviour", [DropMidway(), Trickle()], ids=["breaks off", "trickles"])
def test_a_body_that_does_not_come_takes_nothing_from_the_status(server: ScriptedServer, behaviour: object) -> None:
    server.answer(behaviour)

    began = time.monotonic()
    assert Sender(RULE, timeout_s=0.5).send(server.url, HEADERS, b"{}").status == 200
    assert time.monotonic() - began < 3


def test_a_receiver_that_never_answers_is_left_at_the_deadline(server: ScriptedServer) -> None:
    server.answer(Hang())

    began = time.monotonic()
    with pytest.raises(SendError, match="timed_out"):
        Sender(RULE, timeout_s=0.5).send(server.url, HEADERS, b"{}")
    assert 0.4 < time.monotonic() - began < 3


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK",
        OK,
        OK + b"Content-Le",
        OK + b"Content-Length: 0\r\n",
        OK + b"Content-Length: 0\r\n\r",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"garbage\r\n\r\n",
        b"HTTP/1.1 2e2 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        OK + b"X: " + b"x" * 70_000 + b"\r\n\r\n",
        OK + b"X: x\r\n" * 200 + b"\r\n",
    ],
    ids=lambda head: repr(head[:40]) + str(len(head)),
)
def test_a_head_that_breaks_off_or_makes_no_sense_is_no_answer(server: ScriptedServer, head: bytes) -> None:
    server.answer(Raw(head))

    with pytest.raises(SendError, match="broken_answer"):
        Sender(RULE).send(server.url, HEADERS, b"{}")


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK", OK + b"X: x\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"], ids=repr)
def test_a_head_that_drips_beyond_the_deadline_is_no_answer(server: ScriptedServer, head: bytes) -> None:
    server.answer(Raw(head, drips=True))

    began = time.monotonic()
    with pytest.raises(SendError, match="timed_out"):
        Sender(RULE, timeout_s=0.3).send(server.url, HEADERS, b"{}")
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("status", [100, 102, 103])
def test_what_comes_before_the_answer_is_not_the_answer(server: ScriptedServer, status: int) -> None:
    interim = f"HTTP/1.1 {status} Wait\r\nLink: </a>\r\n\r\n".encode()
    server.answer(Raw(interim * 3 + b"HTTP/1.1 204 No Content\r\n\r\n"))

    assert Sender(RULE).send(server.url, HEADERS, b"{}").status == 204


def test_an_answer_that_switches_protocols_takes_no_message(server: ScriptedServer) -> None:
    server.answer(Raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"))

    assert not is_received(Sender(RULE).send(server.url, HEADERS, b"{}"))


@pytest.mark.parametrize("wish", ["-5", "nan", "inf", "1e999", "9" * 400, "soon", ""])
def test_a_wish_that_makes_no_sense_takes_nothing_from_the_status(server: ScriptedServer, wish: str) -> None:
    server.answer(Scripted(503, headers={"Retry-After": wish}))

    wished = Sender(RULE).send(server.url, HEADERS, b"{}").retry_after_s
    assert wished is None or 0 <= wished <= RETRY_AFTER_CAP_S


def test_a_malformed_header_takes_nothing_from_the_status_and_logs_no_url(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer(Raw(OK + b"no colon in this line\r\nContent-Length: 0\r\n\r\n"))

    assert Sender(RULE).send(server.url + "/in?token=t0ken", HEADERS, b"{}").status == 200
    assert "t0ken" not in caplog.text


def test_a_receiver_that_hangs_up_or_is_not_there_is_said_so(server: ScriptedServer) -> None:
    server.answer(Drop())

    with pytest.raises(SendError, match="broken_answer"):
        Sender(RULE).send(server.url, HEADERS, b"{}")
    with pytest.raises(SendError, match="connection_failed"):
        Sender(RULE).send(refusing_url(), HEADERS, b"{}")


@pytest.fixture
def tls_server(server: ScriptedServer, tmp_path: Path) -> tuple[ScriptedServer, str]:
    """The same server behind TLS, and the certificate that it shows: NAME's, signed by itself."""
    certificate, key = str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem")
    command = [OPENSSL, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", key, "-out", certificate, "-days", "2", "-subj", f"/CN={NAME}"]
    subprocess.run([*command, "-addext", f"subjectAltName=DNS:{NAME}"], check=True, capture_output=True)  # noqa: S603
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server._server.socket = context.wrap_socket(server._server.socket, server_side=True)
    return server, certificate


def loopback(_host: str, _port: int) -> list[str]:
    return ["127.0.0.1"]


def test_tls_checks_the_name_and_not_the_address(tls_server: tuple[ScriptedServer, str]) -> None:
    server, certificate = tls_server
    sender = Sender(RULE, loopback, authorities=certificate)
    url = at_name(server).replace("http:", "https:")

    assert sender.send(url, HEADERS, b"{}").status == 204
    with pytest.raises(SendError, match="tls_failed"):
        sender.send(url.replace(NAME, "other.example.com"), HEADERS, b"{}")
    assert len(server.seen) == 1


def test_a_certificate_that_nobody_vouches_for_is_refused(tls_server: tuple[ScriptedServer, str]) -> None:
    server, _ = tls_server

    with pytest.raises(SendError, match="tls_failed"):
        Sender(RULE, loopback).send(at_name(server).replace("http:", "https:"), HEADERS, b"{}")
    assert server.seen == []
