"""The sound of a test call: what we offer (SDP, RFC 4566), what is answered, and silence to send (RTP, RFC 3550)."""

import base64
import math
import re
import secrets
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from app.calls.sockets import bound_socket

PACKET_S = 0.02
"""Seconds of sound in a packet, as telephony has it."""

SAMPLES = 160
"""Samples of a packet at 8 kHz."""

SILENCE = {0: b"\xff" * SAMPLES, 8: b"\xd5" * SAMPLES}
"""Payload type -> a packet of silence: PCMU and PCMA (RFC 3551), the two codecs that Twilio offers."""

MAX_PACKET_BYTES = 2_048
"""Bytes of a packet that are read: only its first one counts."""

MOST_AT_ONCE = 64
"""Packets that are counted before whoever waits looks at the clock again."""

_MAX_SDP_BYTES = 10_000

_CONNECTION = re.compile(r"c=IN IP[46] ([0-9A-Fa-f.:]{2,45})(?:/[0-9/]+)?", re.ASCII)
_AUDIO = re.compile(r"m=audio ([0-9]{1,5})(?:/[0-9]+)? RTP/(S?)AVPF?((?: [0-9]{1,3})+)", re.ASCII)


def offer_of(host: str, port: int, *, is_secure: bool) -> bytes:
    """Return what Twilio offers: PCMU, PCMA and touch tones; with keys (RFC 4568) where its trunk is secure."""
    profile = "RTP/SAVP" if is_secure else "RTP/AVP"
    family = "IP6" if ":" in host else "IP4"
    lines = [
        "v=0",
        f"o=trunkline {secrets.randbits(31)} 1 IN {family} {host}",
        "s=Trunkline test call",
        f"c=IN {family} {host}",
        "t=0 0",
        f"m=audio {port} {profile} 0 8 101",
    ]
    if is_secure:
        # 16 bytes of key and 14 of salt.
        keys = base64.b64encode(secrets.token_bytes(30)).decode()
        lines.append(f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{keys}")
    lines += [
        "a=rtpmap:0 PCMU/8000",
        "a=rtpmap:8 PCMA/8000",
        "a=rtpmap:101 telephone-event/8000",
        "a=fmtp:101 0-16",
        "a=ptime:20",
        "a=maxptime:150",
        "a=sendrecv",
    ]
    return ("\r\n".join(lines) + "\r\n").encode()


@dataclass(frozen=True, slots=True)
class SoundTarget:
    """Where the far end takes our sound."""

    host: str
    port: int
    payload: int
    """The codec, a key of `SILENCE`."""
    is_encrypted: bool = False


def read_answer(body: bytes) -> SoundTarget | None:
    """Read an SDP answer; None where no address takes a codec of ours."""
    host, audio = "", None
    for line in body[:_MAX_SDP_BYTES].decode("utf-8", "replace").splitlines():
        if line.startswith("m="):
            if audio is not None:
                break
            audio = _AUDIO.fullmatch(line.strip())
        elif found := _CONNECTION.fullmatch(line.strip()):
            host = found[1]
    if audio is None or not host:
        return None
    port, payloads = int(audio[1]), [int(each) for each in audio[3].split()]
    payload = next((each for each in payloads if each in SILENCE), None)
    if payload is None or not 0 < port < 2**16:
        return None
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return None if address.is_unspecified else SoundTarget(str(address), port, payload, bool(audio[2]))


class Sound:
    """The socket for sound: sends silence once it is known where to, and counts what comes."""

    def __init__(self, host: str, allows: Callable[[str], bool], *, is_secure: bool) -> None:
        self._socket = bound_socket(host)
        self._allows = allows
        self._is_secure = is_secure
        self._target: SoundTarget | None = None
        self._source = secrets.randbits(32)
        self._number = secrets.randbits(15)
        self._timestamp = secrets.randbits(31)
        self._next_at = 0.0
        self.packets = 0
        """Packets that have come."""

    @property
    def port(self) -> int:
        """Where sound for us goes."""
        return int(self._socket.getsockname()[1])

    def fileno(self) -> int:
        """Return what to wait for."""
        return self._socket.fileno()

    def aim(self, sdp: bytes) -> None:
        """Send silence from now on where an answer says; nowhere if that may not be called.

        Nothing is sent on a secure call: LiveKit answers without any sound of the caller's.
        """
        found = None if self._is_secure else read_answer(sdp)
        if found is not None and self._allows(found.host):
            self._target = found

    def next_at(self) -> float:
        """Return when the next packet is due, on the monotonic clock."""
        return self._next_at if self._target else math.inf

    def send_due(self, now: float) -> None:
        """Send a packet if one is due; late ones are left out."""
        if self._target is None or now < self._next_at:
            return
        self._next_at = max(self._next_at + PACKET_S, now)
        header = struct.pack(
            "!BBHII", 0x80, self._target.payload, self._number % 2**16, self._timestamp % 2**32, self._source
        )
        self._number += 1
        self._timestamp += SAMPLES
        with suppress(OSError):
            self._socket.sendto(header + SILENCE[self._target.payload], (self._target.host, self._target.port))

    def receive(self) -> None:
        """Count the packets that have come."""
        with suppress(OSError):
            for _ in range(MOST_AT_ONCE):
                self.packets += self._socket.recv(MAX_PACKET_BYTES)[:1] >= b"\x80"

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
