"""gunicorn's configuration beyond the Procfile's options; gunicorn loads this module by name (`-c`)."""

import resource
from typing import Any

from app.web.worker import BufferingWorker

worker_class = BufferingWorker

forwarder_headers = ""
"""gunicorn would take `SCRIPT_NAME` and `PATH_INFO` from headers of these names; no client may set them."""

DESCRIPTORS = 4096
"""Open files of a process: 1,000 connections and the application's own files exceed the usual limit of 1,024."""


def on_starting(_server: Any) -> None:
    """Raise the limit of open files for this process and its workers, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def post_worker_init(worker: Any) -> None:
    """Trust the protocol that a proxy names where the application trusts the proxy; by now it has its settings.

    gunicorn itself trusts loopback, and whom FORWARDED_ALLOW_IPS names.
    """
    from app.web.context import WIRING  # noqa: PLC0415 - the worker has it, the process above it need not

    wiring = worker.wsgi.extensions.get(WIRING)  # the bare view that a benchmark serves has none
    trusted = map(str, wiring.settings.trusted_networks) if wiring else ()
    worker.cfg.set("forwarded_allow_ips", ",".join([*worker.cfg.forwarded_allow_ips, *trusted]))
