"""What gunicorn is told beyond the Procfile's options: the worker, its descriptors, and what it must not believe."""

import resource
from typing import Any

from app.web.worker import BufferingWorker

worker_class = BufferingWorker

forwarder_headers = ""
"""gunicorn takes `SCRIPT_NAME` and `PATH_INFO` from a header of that name; nobody has a reason to send us one."""

DESCRIPTORS = 4096
"""Open files of a process: 1,000 connections and what the application has open are more than the usual 1,024."""


def on_starting(_server: Any) -> None:
    """Let this process and its workers open more files, as far as the system lets them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
