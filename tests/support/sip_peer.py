"""A SIP server on loopback that does what a script says, over UDP, TCP or TLS; written without the client's code."""

import queue
import re
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from select import select

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

WAIT_S = 3.0
"""Seconds that an expected request may take."""

TAG = "peer"
"""The tag of the far end, where a script says no other."""

PAUSE_S = 0.05
"""Seconds between two looks whether the server is to end."""


@dataclass
class Request:
    """One message of the client, as text."""

    method: str
    text: str
    body: str

    def header(self, name: str) -> str:
        """Return the first header of this name, or the empty text."""
        found = re.search(rf"(?im)^{re.escape(name)}:[ \t]*(.*?)\r?$", self.text)
        return found[1] if found else ""


def read(data: bytes) -> Request:
    """Read a message with nothing but text functions; a response has its status in place of a method."""
    head, _, body = data.decode().partition("\r\n\r\n")
    first, second, *_ = head.split(" ", 2)
    return Request(second if first == "SIP/2.0" else first, head + "\r\n", body)


@dataclass
class PeerCall:
    """One call at the server: what came, and how to respond."""

    invite: Request
    address: str
    send: Callable[[bytes], None]
    hang_up: Callable[[], None]
    came: "queue.Queue[Request]" = field(default_factory=queue.Queue)
    methods: list[str] = field(default_factory=list)
    """Of everything that came, in order, repetitions and what was lost included."""
    requests: list[Request] = field(default_factory=list)
    """Likewise."""
    is_running: bool = False
    """Whether its script was started."""

    @property
    def order(self) -> list[str]:
        """The methods that came, in order, each repetition left out."""
        return [method for place, method in enumerate(self.methods) if self.methods[place - 1 : place] != [method]]

    def respond(
        self, status: int, reason: str = "", *, to: Request | None = None, sdp: str = "", tag: str = TAG, more: str = ""
    ) -> None:
        """Respond to the INVITE, or to another request."""
        self.send(self.response(status, reason, to=to, sdp=sdp, tag=tag, more=more))

    def response(
        self, status: int, reason: str = "", *, to: Request | None = None, sdp: str = "", tag: str = TAG, more: str = ""
    ) -> bytes:
        """Return a response as bytes; `more` are further header lines."""
        request = to or self.invite
        copied = "".join(f"{name}: {request.header(name)}\r\n" for name in ("Via", "From", "Call-ID", "CSeq"))
        whole = (
            f"{request.header('To')};tag={tag}" if tag and "tag=" not in request.header("To") else request.header("To")
        )
        contact = "" if "Contact:" in more else f"Contact: <sip:peer@{self.address}>\r\n"
        kind = "Content-Type: application/sdp\r\n" if sdp else ""
        head = f"SIP/2.0 {status} {reason}\r\n{copied}To: {whole}\r\n{contact}{more}{kind}"
        return f"{head}Content-Length: {len(sdp)}\r\n\r\n{sdp}".encode()

    def expect(self, method: str, wait_s: float = WAIT_S) -> Request:
        """Return the next request of this method; AssertionError when none comes."""
        try:
            while (request := self.came.get(timeout=wait_s)).method != method:
                pass
        except queue.Empty:
            raise AssertionError(f"no {method} came, but {self.methods}") from None
        return request

    def end(self, wait_s: float = WAIT_S) -> str:
        """Answer what ends the call, a BYE or a CANCEL with its 487; return which it was."""
        try:
            while (request := self.came.get(timeout=wait_s)).method not in {"BYE", "CANCEL"}:
                pass
        except queue.Empty:
            return ""
        self.respond(200, "OK", to=request)
        if request.method == "CANCEL":
            self.respond(487, "Request Terminated")
            self.expect("ACK")
        return request.method

    def request(self, method: str, number: int = 1, tag: str = TAG, call_id: str = "") -> None:
        """Send a request of the far end to the client, of this call or another."""
        headers = {
            "Via": f"SIP/2.0/UDP {self.address};branch=z9hG4bK{secrets.token_hex(4)}",
            "From": f"{self.invite.header('To')};tag={tag}",
            "To": self.invite.header("From"),
            "Call-ID": call_id or self.invite.header("Call-ID"),
            "CSeq": f"{number} {method}",
            "Content-Length": "0",
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.send(f"{method} sip:client@127.0.0.1 SIP/2.0\r\n{lines}\r\n".encode())


Script = Callable[[PeerCall], None]
Lost = Callable[[str, int], bool]
"""Whether the n-th request (from 1) of a method in a call is lost on its way."""


def sdp_at(port: int, profile: str = "RTP/AVP", host: str = "127.0.0.1", payloads: str = "0 101") -> str:
    """Return an answer that takes sound there."""
    return f"v=0\r\no=- 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\nm=audio {port} {profile} {payloads}\r\n"


class SipPeer:
    """The server; each INVITE with a new Call-ID runs the script in a thread of its own."""

    def __init__(
        self, transport: str, script: Script, tls: ssl.SSLContext | None = None, lost: Lost | None = None
    ) -> None:
        self.transport = transport
        self._script, self._tls = script, tls
        self._lost = lost or (lambda _method, _count: False)
        kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
        self._socket = socket.socket(socket.AF_INET, kind)
        self._socket.bind(("127.0.0.1", 0))
        if transport != "udp":
            self._socket.listen(64)
        self._socket.settimeout(PAUSE_S)
        self.port = self._socket.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.calls: dict[str, PeerCall] = {}
        self.strays: list[Request] = []
        """What came of no call that an INVITE has begun."""
        self.errors: list[BaseException] = []
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._scripts: list[threading.Thread] = []
        self._start(self._threads, self._listen if transport == "udp" else self._accept)

    @property
    def uri(self) -> str:
        """The origination URI that leads here."""
        host = "localhost" if self.transport == "tls" else "127.0.0.1"
        return f"sip:{host}:{self.port};transport={self.transport}"

    @property
    def call(self) -> PeerCall:
        """The one call that came."""
        (call,) = self.calls.values()
        return call

    def close(self) -> None:
        """Let the scripts end, and then everything; raise what one has raised."""
        while self._scripts:
            self._scripts.pop().join()
        self._is_over.set()
        while self._threads:
            self._threads.pop().join()
        self._socket.close()
        for error in self.errors:
            raise error

    @staticmethod
    def _start(threads: list[threading.Thread], work: Callable[..., None], *parts: object) -> None:
        thread = threading.Thread(target=work, args=parts, daemon=True)
        threads.append(thread)
        thread.start()

    def _listen(self) -> None:
        while not self._is_over.is_set():
            with suppress(TimeoutError, ConnectionError):
                data, source = self._socket.recvfrom(65_536)
                self._take(data, lambda answer, to=source: self._send_to(answer, to), lambda: None)

    def _send_to(self, data: bytes, address: tuple[str, int]) -> None:
        with suppress(OSError):
            self._socket.sendto(data, address)

    @staticmethod
    def _send_on(connection: socket.socket, lock: threading.Lock, data: bytes) -> None:
        with lock, suppress(OSError):
            connection.sendall(data)

    def _accept(self) -> None:
        while not self._is_over.is_set():
            with suppress(TimeoutError, ConnectionError):
                connection, _ = self._socket.accept()
                self._start(self._threads, self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, ssl.SSLError):
            if self._tls is not None:
                connection.settimeout(WAIT_S)
                connection = self._tls.wrap_socket(connection, server_side=True)
            connection.settimeout(PAUSE_S)
            self._read(connection)
        connection.close()

    def _read(self, connection: socket.socket) -> None:
        # A TLS connection is used by one thread at a time: this one, or a script that sends.
        lock, buffer = threading.Lock(), b""
        while not self._is_over.is_set():
            if not select([connection], [], [], PAUSE_S)[0]:
                continue
            with lock, suppress(TimeoutError):
                data = connection.recv(65_536)
                if not data:
                    return
                buffer += data
            while (end := buffer.find(b"\r\n\r\n") + 4) > 3:
                length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", buffer[:end])
                whole = end + int(length[1] if length else 0)
                if len(buffer) < whole:
                    break
                message, buffer = buffer[:whole], buffer[whole:]
                self._take(
                    message, partial(self._send_on, connection, lock), partial(connection.shutdown, socket.SHUT_RDWR)
                )

    def _take(self, data: bytes, send: Callable[[bytes], None], hang_up: Callable[[], None]) -> None:
        request = read(data)
        with self._lock:
            call = self.calls.get(request.header("Call-ID"))
            if call is None and request.method != "INVITE":
                self.strays.append(request)
                return
            if call is None:
                call = PeerCall(request, self.address, send, hang_up)
                self.calls[request.header("Call-ID")] = call
            call.methods.append(request.method)
            call.requests.append(request)
            if self._lost(request.method, call.methods.count(request.method)):
                return
            is_running, call.is_running = call.is_running, True
        if is_running:
            call.came.put(request)
        else:
            self._start(self._scripts, self._run, call)

    def _run(self, call: PeerCall) -> None:
        try:
            self._script(call)
        except BaseException as error:  # noqa: BLE001  # raised by close, in the test's thread
            self.errors.append(error)


@contextmanager
def sip_peer(
    transport: str, script: Script, *, tls: ssl.SSLContext | None = None, lost: Lost | None = None
) -> Iterator[SipPeer]:
    """Serve for a while."""
    peer = SipPeer(transport, script, tls, lost)
    try:
        yield peer
    finally:
        peer.close()


def certificate(folder: Path, *names: str) -> tuple[Path, Path]:
    """Make a certificate for these names and addresses, signed by itself; return the files of it and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.now(UTC)
    alternatives: list[x509.GeneralName] = []
    for each in names:
        try:
            alternatives.append(x509.IPAddress(ip_address(each)))
        except ValueError:
            alternatives.append(x509.DNSName(each))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "peer.crt", folder / "peer.key"
    certificate_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


def server_tls(certificate_file: Path, key_file: Path) -> ssl.SSLContext:
    """Return the server's side of a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file, key_file)
    return context
