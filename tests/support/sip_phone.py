"""A telephone of raw sockets, which says exactly what a test wants, for a server of SIP on loopback."""

import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

WAIT_S = 5.0
"""Seconds that an expected message may take."""

SILENCE_S = 0.25
"""Seconds without a message that count as silence."""


class Reply:
    """One message of the server, read with nothing but string functions."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        self.start, *lines = head.decode().split("\r\n")
        self.lines = lines

    @property
    def status(self) -> int:
        """The status; 0 for a request."""
        return int(self.start.split(" ")[1]) if self.start.startswith("SIP/2.0 ") else 0

    @property
    def reason(self) -> str:
        """The reason phrase."""
        return self.start.split(" ", 2)[2]

    def header(self, name: str) -> str:
        """Return the first header of this name, or the empty text."""
        found = (line.split(":", 1)[1].strip() for line in self.lines if line.lower().startswith(f"{name.lower()}:"))
        return next(found, "")

    @property
    def to_tag(self) -> str:
        """The tag that the server has put on the To header."""
        found = re.search(r";tag=([^;\s]+)", self.header("To"))
        return found[1] if found else ""


def offer(rtp_port: int = 40_000, profile: str = "RTP/AVP", payloads: str = "0 8 101", *more: str) -> bytes:
    """Return an SDP as a caller offers it."""
    lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "c=IN IP4 127.0.0.1", "t=0 0"]
    lines += [f"m=audio {rtp_port} {profile} {payloads}", "a=rtpmap:101 telephone-event/8000", *more]
    return ("\r\n".join(lines) + "\r\n").encode()


class Phone:
    """One caller, over UDP or TCP, and the call that it makes."""

    def __init__(self, transport: str, address: str, caller: str = "+15005550006") -> None:
        host, _, port = address.partition(":")
        self.transport, self.server, self.caller = transport, address, caller
        kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
        self.socket = socket.socket(socket.AF_INET, kind)
        self.socket.settimeout(WAIT_S)
        try:
            self.socket.connect((host, int(port)))
        except OSError:
            self.socket.close()
            raise
        self.here = "{}:{}".format(*self.socket.getsockname())
        self.call_id, self.from_tag = secrets.token_hex(8), secrets.token_hex(4)
        self.branch, self.called, self.cseq = "", "", 0
        self._buffer = b""

    def close(self) -> None:
        """Hang up the socket."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def request(
        self,
        method: str,
        *,
        branch: str = "",
        to_tag: str = "",
        cseq: int = 0,
        body: bytes = b"",
        host: str = "",
        **more: str,
    ) -> bytes:
        """Return a request of this call as bytes; `more` are further headers, `_` for `-`."""
        to = f"<sip:{self.called}@{host or self.server}>" + (f";tag={to_tag}" if to_tag else "")
        headers = {
            "Via": f"SIP/2.0/{self.transport.upper()} {self.here};branch={branch or self.branch};rport",
            "Max-Forwards": "70",
            "From": f'"{self.caller}" <sip:{self.caller}@example.pstn.twilio.com>;tag={self.from_tag}',
            "To": to,
            "Call-ID": self.call_id,
            "CSeq": f"{cseq or self.cseq} {method}",
            "Contact": f"<sip:{self.caller}@{self.here}>",
            **({"Content-Type": "application/sdp"} if body else {}),
            **{name.replace("_", "-"): value for name, value in more.items()},
            "Content-Length": str(len(body)),
        }
        start = f"{method} sip:{self.called}@{host or self.server} SIP/2.0"
        lines = [start, *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def invite(self, called: str, body: bytes | None = None, **more: str) -> bytes:
        """Call a number, and return what was sent."""
        self.called, self.branch = called, f"z9hG4bK{secrets.token_hex(6)}"
        self.cseq += 1
        data = self.request("INVITE", body=offer() if body is None else body, **more)
        self.send(data)
        return data

    def ack(self, final: Reply) -> None:
        """Acknowledge a final response: a refusal within its transaction, an answer in one of its own."""
        branch = "z9hG4bK" + secrets.token_hex(6) if final.status < 300 else self.branch
        self.send(self.request("ACK", branch=branch, to_tag=final.to_tag))

    def bye(self, answer: Reply) -> Reply:
        """Hang up, and return the response."""
        branch = "z9hG4bK" + secrets.token_hex(6)
        self.send(self.request("BYE", branch=branch, to_tag=answer.to_tag, cseq=self.cseq + 1))
        return self.reply()

    def cancel(self) -> None:
        """Give up while it rings."""
        self.send(self.request("CANCEL"))

    def reply(self) -> Reply:
        """Return the next message; TimeoutError when none comes."""
        return Reply(self.received())

    def received(self) -> bytes:
        """Return the bytes of the next message; none when the connection has ended."""
        if self.transport == "udp":
            return self.socket.recv(65_536)
        while b"\r\n\r\n" not in self._buffer:
            if not (data := self.socket.recv(65_536)):
                return b""
            self._buffer += data
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        said = re.search(rb"(?i)content-length: *([0-9]+)", head)  # nonsense has none
        length = int(said[1]) if said else 0
        while len(rest) < length:
            rest += self.socket.recv(65_536)
        self._buffer = rest[length:]
        return head + b"\r\n\r\n" + rest[:length]

    def final(self) -> Reply:
        """Return the next message that is no provisional response."""
        while 0 < (reply := self.reply()).status < 200:
            pass
        return reply

    def statuses(self) -> list[int]:
        """Return the statuses up to the final one."""
        seen = []
        while not seen or seen[-1] < 200:
            seen.append(self.reply().status)
        return seen

    def is_silent(self, seconds: float = SILENCE_S) -> bool:
        """Say whether nothing comes for a while."""
        self.socket.settimeout(seconds)
        try:
            self.received()
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(WAIT_S)
        return False


@contextmanager
def phones(transport: str, address: str, count: int) -> Iterator[list[Phone]]:
    """Yield so many telephones, and hang all of them up."""
    made = [Phone(transport, address, f"+1500555{1000 + number}") for number in range(count)]
    try:
        yield made
    finally:
        for phone in made:
            phone.close()
