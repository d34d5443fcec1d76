"""Relays on loopback: one that terminates TLS, and an HTTP proxy."""

import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

OPENSSL = "/usr/bin/openssl"

CHUNK_BYTES = 65536

PATIENCE_S = 10.0
"""Seconds until an idle connection is given up: longer than any test waits."""


class Relay:
    """Takes connections at `port` and hands each to `meet`; `received` is what the clients sent, without TLS."""

    def __init__(self, meet: "Callable[[Relay, socket.socket], None]") -> None:
        self.received = bytearray()
        self._meet = meet
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more connections."""
        # To close it alone does not wake the thread that waits in accept.
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)
        self._server.close()

    def join(self, client: socket.socket, server: socket.socket) -> None:
        """Copy bytes both ways until one end closes; in one thread, since a TLS socket is not thread-safe."""
        others = {client: server, server: client}
        while True:
            pending = [end for end in others if isinstance(end, ssl.SSLSocket) and end.pending()]
            for end in pending or select.select(list(others), [], [], PATIENCE_S)[0]:
                chunk = end.recv(CHUNK_BYTES)
                if not chunk:
                    return
                if end is client:
                    self.received += chunk
                others[end].sendall(chunk)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                client.settimeout(PATIENCE_S)
                threading.Thread(target=self._take, args=(client,), daemon=True).start()

    def _take(self, client: socket.socket) -> None:
        with suppress(OSError), client:
            self._meet(self, client)


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Return a self-signed certificate for 127.0.0.1, and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    command = [OPENSSL, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", f"/CN={name}"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)  # noqa: S603
    return certificate, key


@contextmanager
def tls_relay(certificate: Path, key: Path, target: tuple[str, int]) -> Iterator[Relay]:
    """Yield a relay that terminates TLS before `target`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def meet(relay: Relay, client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as shown, socket.create_connection(target) as server:
            relay.join(shown, server)

    relay = Relay(meet)
    try:
        yield relay
    finally:
        relay.close()


@contextmanager
def proxy() -> Iterator[Relay]:
    """Yield an HTTP proxy that records its requests, and answers 502 to all of them."""

    def meet(relay: Relay, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head and (chunk := client.recv(CHUNK_BYTES)):
            head += chunk
        relay.received += head
        client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    relay = Relay(meet)
    try:
        yield relay
    finally:
        relay.close()
