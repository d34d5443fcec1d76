"""One logging pipeline for web, workers and commands: structlog in front, every library's own logging behind it."""

import json
import logging
import re
import sys
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from app.domain.numbers import mask_numbers
from app.domain.texts import escaped

QUIET = (
    "werkzeug",
    "urllib3",
    "twilio.http_client",
    "alembic.runtime.plugins",
    "asyncio",
    "kombu",
    "amqp",
    # Two lines for each task, which cost what a query costs.
    "celery.worker.strategy",
    "celery.app.trace",
)
"""Libraries whose INFO lines only repeat our own."""

ADOPTED = ("gunicorn.error",)

TRACEBACKS = frozenset({"exception", "stack"})
"""Fields that may have several lines."""

_SECRET = re.compile(r"\bwhsec_[A-Za-z0-9+/=]{8,}")
_KEY = re.compile(r"\btl_[A-Za-z0-9_-]{20,}")


def configure(log_format: Literal["json", "console"]) -> None:
    """Send every log line to stderr in one form; a second call changes the form."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    # None of it is in our lines; Python's logging HOWTO ("Optimization") says how to leave it out.
    logging._srcfile = None  # noqa: SLF001  # the name that the HOWTO gives
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(log_format, shared))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ADOPTED:
        # They bring handlers of their own; one process writes one form.
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _formatter(log_format: Literal["json", "console"], shared: list[Processor]) -> logging.Formatter:
    last: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    # Tracebacks become text before the mask, so that it sees what an exception quotes.
    last += [structlog.processors.format_exc_info, structlog.processors.UnicodeDecoder(), mask]
    if log_format == "json":
        last += [structlog.processors.JSONRenderer(_as_json, default=str, ensure_ascii=False)]
    else:
        last += [_escape_values, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()], processors=last
    )


def _as_json(event: EventDict, **options: Any) -> str:
    """Write a line; control characters only occur in strings, where JSON escapes them the same way."""
    return escaped(json.dumps(event, **options))


def _escape_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape control characters before the renderer adds its colours; it writes other values by `repr`."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = escaped(value, keep="\n" if name in TRACEBACKS else "")
    return event


def mask(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Hide phone numbers, keys and signing secrets in every value, however deep, even where a caller forgot to."""
    for name, value in event.items():
        event[name] = _masked(value)
    return event


def _masked(value: object) -> object:
    if isinstance(value, str):
        if "+" not in value and "%" not in value and "_" not in value:
            # Everything that is masked contains one of these; this check costs a tenth of the patterns.
            return value
        return _SECRET.sub("whsec_***", _KEY.sub("tl_***", mask_numbers(value)))
    if isinstance(value, dict):
        return {_masked(name): _masked(inner) for name, inner in value.items()}
    return [_masked(inner) for inner in value] if isinstance(value, list | tuple) else value
