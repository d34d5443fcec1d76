"""Where the sandbox listens for SIP: UDP and TCP on one port of loopback, and a port for the sound of all calls."""

import asyncio
import errno
import socket
import threading
import time
from typing import Any

from app.dev.sandbox.sip_calls import SipCalls
from app.dev.sandbox.sip_wire import MalformedError, framed
from app.dev.sandbox.state import Sandbox

HOST = "127.0.0.1"
"""The only address: what is said here needs no password."""

MOST_CONNECTIONS = 1_024
"""TCP connections at once; a further one is closed."""

BIND_TRIES, BIND_PAUSE_S = 50, 0.1
"""How often a port is tried, and seconds between: that of a killed sandbox is free when its worker has gone."""

STOP_S = 5.0
"""Seconds that the thread may take to end."""


class UdpFlow:
    """The way back to the sender of a packet."""

    transport = "udp"

    def __init__(self, sender: asyncio.DatagramTransport, address: tuple[str, int]) -> None:
        self._sender = sender
        self.address = address

    def send(self, data: bytes) -> None:
        """Send a packet."""
        if not self._sender.is_closing():
            self._sender.sendto(data, self.address)

    def reset(self) -> None:
        """Do nothing: there is no connection."""


class Packets(asyncio.DatagramProtocol):
    """SIP over UDP."""

    def __init__(self, calls: SipCalls) -> None:
        self._calls = calls
        self._sender: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: Any) -> None:
        """Keep the socket to answer with."""
        self._sender = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        """Hand a packet on."""
        if self._sender:
            self._calls.receive(UdpFlow(self._sender, address[:2]), data)


class Sound(asyncio.DatagramProtocol):
    """The RTP of all calls: counted, and thrown away."""

    def __init__(self, calls: SipCalls) -> None:
        self._calls = calls

    def datagram_received(self, _data: bytes, address: Any) -> None:
        """Count a packet."""
        self._calls.heard(address[:2])


class Connection(asyncio.Protocol):
    """SIP over one TCP connection."""

    transport = "tcp"

    def __init__(self, calls: SipCalls, connections: set["Connection"]) -> None:
        self._calls = calls
        self._connections = connections
        self._buffer = bytearray()
        self._stream: asyncio.Transport | None = None
        self.address = ("", 0)

    def connection_made(self, transport: Any) -> None:
        """Keep the connection, unless there are too many."""
        self._stream = transport
        self.address = (transport.get_extra_info("peername") or self.address)[:2]
        self._connections.add(self)
        if len(self._connections) > MOST_CONNECTIONS:
            transport.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        """Forget the connection: its calls stand until they end by themselves."""
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        """Hand on each message that is whole."""
        self._buffer += data
        try:
            while message := framed(self._buffer):
                self._calls.receive(self, message)
        except MalformedError:
            self.close()

    def send(self, data: bytes) -> None:
        """Send a message."""
        if self._stream and not self._stream.is_closing():
            self._stream.write(data)

    def close(self) -> None:
        """Close the connection at once."""
        if self._stream:
            self._stream.abort()

    def reset(self) -> None:
        """Close the connection with a reset."""
        if self._stream:
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            self._stream.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._stream.abort()


class SipListener:
    """The sockets, and the one thread that serves them."""

    def __init__(self, sandbox: Sandbox, calls: SipCalls, port: int) -> None:
        """Listen on this port of loopback; 0 takes one that is free for UDP and TCP."""
        self._sandbox = sandbox
        self._calls = calls
        self._udp: socket.socket | None
        self._tcp: socket.socket | None
        self._udp, self._tcp = _bound(port)
        self._sound = _udp_socket(0)
        self.port = int(self._udp.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="sip", daemon=True)
        self._connections: set[Connection] = set()
        self._packets: asyncio.DatagramTransport | None = None
        self._heard: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None
        calls.transactions.later, calls.apply = self._loop.call_later, self.apply
        calls.rtp_port = int(self._sound.getsockname()[1])
        sandbox.sip_address = f"{HOST}:{self.port}"

    def start(self) -> None:
        """Serve in a thread of its own; returns when it does."""
        self._loop.run_until_complete(self._open())
        self._thread.start()

    def apply(self) -> None:
        """Listen, or do not, as the settings say; not to be called under the store's lock."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(STOP_S)

    def stop(self) -> None:
        """Close every socket and end the thread."""
        self._calls.apply = lambda: None
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(STOP_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._close())
        asyncio.set_event_loop(None)
        self._loop.close()

    async def _open(self) -> None:
        self._heard, _ = await self._loop.create_datagram_endpoint(lambda: Sound(self._calls), sock=self._sound)
        await self._listen()

    async def _listen(self) -> None:
        """Open and close the two sockets of the port; connections that are open stay."""
        wanted = self._sandbox.sip
        if wanted.udp and not self._packets:
            bound, self._udp = self._udp or _udp_socket(self.port), None
            self._packets, _ = await self._loop.create_datagram_endpoint(lambda: Packets(self._calls), sock=bound)
        elif not wanted.udp and self._packets:
            self._packets.abort()
            self._packets = None
        if wanted.tcp and not self._server:
            taken, self._tcp = self._tcp or _tcp_socket(self.port), None
            self._server = await self._loop.create_server(self._connected, sock=taken)
        elif not wanted.tcp and self._server:
            self._server.close()
            self._server = None
        # What is closed is gone once the loop has come round.
        await asyncio.sleep(0)

    def _connected(self) -> Connection:
        return Connection(self._calls, self._connections)

    async def _close(self) -> None:
        for taken in (self._udp, self._tcp):
            if taken:
                taken.close()
        if self._server:
            self._server.close()
        for connection in list(self._connections):
            connection.close()
        for datagrams in (self._packets, self._heard):
            if datagrams:
                datagrams.abort()
        # The loop closes the sockets when it comes round.
        await asyncio.sleep(0)


def _udp_socket(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    return _bind(made, port)


def _tcp_socket(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return _bind(made, port)


def _bind(made: socket.socket, port: int) -> socket.socket:
    try:
        made.bind((HOST, port))
    except OSError:
        made.close()
        raise
    return made


def _bound(port: int) -> tuple[socket.socket, socket.socket]:
    """Return a UDP and a TCP socket on one port; raise OSError when it does not become free."""
    for tries_left in reversed(range(BIND_TRIES)):
        udp = None
        try:
            udp = _udp_socket(port)
            return udp, _tcp_socket(int(udp.getsockname()[1]))
        except OSError as error:
            if udp:
                udp.close()
            if error.errno != errno.EADDRINUSE or not tries_left:
                raise
        if port:
            time.sleep(BIND_PAUSE_S)
    raise OSError(errno.EADDRINUSE, "no port is free for UDP and TCP")
