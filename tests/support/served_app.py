"""The application as it answers over HTTP, with workers that have done their work before it does."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock, Thread
from typing import Any

from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

from app.db.visibility import seeing
from app.saga.chain_plan import Plan
from tests.support.saga import RecordingPublisher
from tests.support.sandbox_app import SandboxApp


class InstantWorker(RecordingPublisher):
    """Does what is published before it returns, as if workers were that quick; like them it sees all workspaces."""

    live: SandboxApp
    lock = RLock()

    def publish(self, plan: Plan) -> bool:
        with self.lock, seeing(None):
            self.plans.append(plan)
            if len(self.plans) == 1:
                self.live.drive()
        return True

    def publish_audit(self, audit_id: uuid.UUID) -> bool:
        with self.lock, seeing(None):
            self.live.wiring.audits.run_audit(audit_id)
        return True


class SilentHandler(WSGIRequestHandler):
    """Keeps connections, writes nothing to stderr."""

    protocol_version = "HTTP/1.1"

    def log(self, *_: Any) -> None:
        pass


@contextmanager
def served(app: Flask) -> Iterator[str]:
    """Yield the address at which `app` answers."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=SilentHandler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
