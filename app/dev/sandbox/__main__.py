"""`python -m app.dev.sandbox`: the command line of the sandbox."""

import argparse
import ctypes
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import ThreadWorker

from app.dev import sandbox
from app.dev.sandbox.application import SandboxApp, create_sandbox
from app.dev.sandbox.control import seed_demo
from app.dev.sandbox.state import CLOUD, LIVEKIT_SERVERS, Credentials, Switches

THREADS = 1024
"""Threads: each held, hung, paused or slow request occupies one, whether its client still waits or not, and the control
API needs some too. They are started as needed."""

CONNECTIONS = 2048
"""Open connections at once, kept-alive ones included."""

KEEPALIVE_S = 75
"""Seconds that an idle connection stays open: longer than any client's pool keeps one."""

GRACE_S = 2
"""Seconds that requests in flight get when the sandbox is told to stop."""

PR_SET_PDEATHSIG = 1
"""Linux prctl option: the signal that a process gets when its parent dies (man 2 prctl)."""


class SandboxWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn ships no types
    """A gthread worker that releases held requests when it is told to stop."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Release held requests, then stop as gunicorn does."""
        application = self.app.callable
        if isinstance(application, SandboxApp):
            application.sandbox.faults.clear()
        super().handle_exit(sig, frame)

    def _cap_keepalive(self, _deadline: float) -> None:
        """Close idle connections at once when the sandbox stops."""
        super()._cap_keepalive(time.monotonic())


class SandboxGunicorn(BaseApplication):  # type: ignore[misc]  # gunicorn ships no types
    """Gunicorn set up for one sandbox; `make` runs in the worker, so that it alone opens the journal."""

    def __init__(self, host: str, port: int, make: Callable[[], SandboxApp]) -> None:
        self._bind = f"{host}:{port}"
        self._make = make
        super().__init__()

    def load_config(self) -> None:
        """Hand gunicorn its settings."""
        settings = {
            "bind": self._bind,
            "workers": 1,
            "worker_class": SandboxWorker,
            "threads": THREADS,
            "worker_connections": CONNECTIONS,
            "keepalive": KEEPALIVE_S,
            "graceful_timeout": GRACE_S,
            "control_socket_disable": True,
            "accesslog": None,
            "loglevel": "warning",
            "proc_name": "sandbox",
            "post_fork": _die_with_parent,
            "post_worker_init": _announce,
            "worker_exit": _close,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> SandboxApp:
        """Build the application, in the worker."""
        return self._make()


def _die_with_parent(_arbiter: Any, _worker: Any) -> None:
    """Kill the worker when its master is killed, so that port and journal are free at once (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _announce(worker: Any) -> None:
    host, port = worker.sockets[0].getsockname()[:2]
    lines = f"sandbox ready on http://{host}:{port}\n"
    if isinstance(worker.app.callable, SandboxApp):
        lines += f"SIP answered on {worker.app.callable.sandbox.sip_address}\n"
    sys.stdout.write(lines)
    sys.stdout.flush()


def _close(_arbiter: Any, worker: Any) -> None:
    application = worker.app.callable
    if isinstance(application, SandboxApp):
        application.close()


def serve(host: str, port: int, make: Callable[[], SandboxApp]) -> None:
    """Serve until SIGTERM or SIGINT."""
    SandboxGunicorn(host, port, make).run()


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    options = argparse.ArgumentParser(
        prog="python -m app.dev.sandbox", description="A stand-in for Twilio and LiveKit."
    )
    options.add_argument("--port", type=int, default=sandbox.PORT, help="port to listen on; 0 takes a free one")
    options.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; the control API serves loopback only"
    )
    options.add_argument("--sip-port", type=int, default=0, help="UDP and TCP port of 127.0.0.1 where SIP is answered")
    options.add_argument(
        "--sip-source", help="IPv4 address that SIP calls are taken to come from, such as one of Twilio"
    )
    options.add_argument("--livekit-server", choices=LIVEKIT_SERVERS, default=CLOUD, help="whose rules calls meet")
    options.add_argument("--state", type=Path, help="journal file; without it nothing outlives the process")
    options.add_argument("--seed-demo", action="store_true", help="start an empty account with a handful of numbers")
    options.add_argument("--account-sid", default=sandbox.ACCOUNT_SID)
    options.add_argument("--auth-token", default=sandbox.AUTH_TOKEN)
    options.add_argument("--api-key-sid", default=sandbox.API_KEY_SID)
    options.add_argument("--api-key-secret", default=sandbox.API_KEY_SECRET)
    options.add_argument("--livekit-api-key", default=sandbox.LIVEKIT_API_KEY)
    options.add_argument("--livekit-api-secret", default=sandbox.LIVEKIT_API_SECRET)
    options.add_argument("--sip-host", default=sandbox.SIP_HOST, help="SIP host of the LiveKit project")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Serve the sandbox until it is told to stop."""
    options = parser().parse_args(arguments)
    credentials = Credentials(
        account_sid=options.account_sid,
        auth_token=options.auth_token,
        api_key_sid=options.api_key_sid,
        api_key_secret=options.api_key_secret,
        livekit_api_key=options.livekit_api_key,
        livekit_api_secret=options.livekit_api_secret,
        sip_host=options.sip_host,
    )

    def make() -> SandboxApp:
        application = create_sandbox(credentials, options.state)
        application.sandbox.start_with(Switches(livekit_server=options.livekit_server), options.sip_source)
        application.listen(options.sip_port)
        if options.seed_demo:
            seed_demo(application.sandbox)
        return application

    serve(options.host, options.port, make)


if __name__ == "__main__":
    main()
