"""Loaded into a worker (`-I tests.benchmarks.probe`), and only for a benchmark: writes a line per task with its times.

It measures from outside: Celery's signals, SQLAlchemy's events, and a clock around the adapters' calls and around the
statements that go past SQLAlchemy.
"""

import functools
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from celery import signals
from sqlalchemy import event

from app.db.engine import Statements
from app.saga import steps as saga_steps
from tasks import steps as worker

CALLS = ("find", "get", "list", "create", "update", "delete", "attach", "detach", "restore")
"""Prefixes of the adapters' methods that make a call."""

_now = threading.local()
_written = threading.Lock()
_received: dict[str, float] = {}


def _record() -> dict[str, Any] | None:
    return getattr(_now, "record", None)


def _add(name: str, value: float) -> None:
    record = _record()
    if record is not None:
        record[name] = record.get(name, 0) + value


def _timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            _add(name, (time.perf_counter() - started) * 1000)

    return timed


def _counted(run: Callable[..., Any]) -> Callable[..., Any]:
    """Time a call that runs statements as a transaction of its own."""

    def counted(self: Statements, statements: Sequence[Any]) -> Any:
        _add("transactions", 1)
        _add("statements", len(statements))
        return run(self, statements)

    return _timed("database_ms", counted)


def _time_methods(owner: Any, name: str, beginnings: tuple[str, ...]) -> None:
    for method in dir(owner):
        if method.startswith(beginnings):
            setattr(owner, method, _timed(name, getattr(owner, method)))


@signals.worker_ready.connect
def _instrument(**_: object) -> None:
    wiring = worker.wiring()
    for adapter in (wiring.carrier, wiring.platform):
        _time_methods(adapter, "provider_ms", CALLS)
    # Its calls run in threads of their own, where no record is.
    saga_steps.read_built_path = _timed("provider_ms", saga_steps.read_built_path)
    Statements.run = _counted(Statements.run)  # type: ignore[method-assign]  # what a probe does
    # The dialect's own: every round trip goes through one of these.
    _time_methods(wiring.engine.dialect, "database_ms", ("do_execute", "do_commit", "do_rollback", "do_ping"))
    event.listen(wiring.engine, "commit", lambda _connection: _add("transactions", 1))
    event.listen(wiring.engine, "before_cursor_execute", _count_statement)


def _count_statement(*_: object) -> None:
    _add("statements", 1)


@signals.task_received.connect
def _task_received(request: Any, **_: object) -> None:
    _received[request.id] = time.time()


@signals.task_prerun.connect
def _task_begins(task_id: str, task: Any, args: Any, **_: object) -> None:
    began = time.time()
    received = _received.pop(task_id, began)
    _now.record = {"task": task.name, "operation": args[0], "id": task_id, "received_at": received, "began_at": began}


@signals.before_task_publish.connect
def _publish_begins(**_: object) -> None:
    _now.publishing = time.perf_counter()


@signals.after_task_publish.connect
def _publish_ends(headers: dict[str, Any], **_: object) -> None:
    if _record() is not None:
        _add("publish_ms", (time.perf_counter() - _now.publishing) * 1000)
        _now.record.setdefault("published", {})[headers["id"]] = time.time()


@signals.task_postrun.connect
def _task_ends(**_: object) -> None:
    record = _record()
    if record is None:
        return
    record["ended_at"] = time.time()
    _now.record = None
    with _written, Path(os.environ["BENCH_PROBE"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
