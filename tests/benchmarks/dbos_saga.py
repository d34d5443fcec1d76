"""The same saga as a DBOS workflow, one step per resource: what a workflow engine on the same PostgreSQL makes of it.

It makes the same seven calls, on a trunk that stands already and that all of its numbers share.

A process of its own (`python -m tests.benchmarks.dbos_saga`): reads its order from standard input, writes its result to
standard output. It is spared what Trunkline does besides: no HTTP, no agent row, no trail, no ledger, no undo. The
branches run one after the other, since side by side they would need a child workflow each, with rows of its own, and
the figure that counts is throughput at a fixed concurrency.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from dbos import DBOS, DBOSConfig
from sqlalchemy import Engine, text

from app.settings import load_settings
from app.wiring import build
from tests.benchmarks.straight import Saga
from tests.support.stack import NoPublisher

QUEUE = "saga"

POLL_S = 0.1
"""Seconds between two reads of the queue: with the default of 1 s no more than `concurrency` would start a second."""

APPLICATION = "trunkline-bench"

POOL_SIZE = 20
"""Connections of DBOS's pool: as many as ours may open per process."""

SPARE_THREADS = 8
"""Threads beyond those that run workflows."""

_LEFT = text("""
    SELECT count(*) FILTER (WHERE status IN ('ENQUEUED', 'PENDING', 'DELAYED')),
           count(*) FILTER (WHERE status = 'ERROR')
      FROM dbos.workflow_status
""")


def define(saga: Saga, trunk_sid: str) -> Any:
    """Register the steps and the workflow, on a shared trunk that stands; return the workflow."""
    look_up, attach, read_back = _step(saga.look_up), _step(saga.attach), _step(saga.read_back)
    create_inbound, create_rule = _step(saga.create_inbound_trunk), _step(saga.create_rule)

    @DBOS.workflow()
    def provision(number: str) -> None:
        agent_id = DBOS.workflow_id or ""
        number_sid = look_up(number)
        inbound_id = create_inbound(number, agent_id)
        rule_id = create_rule(inbound_id, agent_id)
        attach(trunk_sid, number_sid)
        read_back(number, number_sid, trunk_sid, inbound_id, rule_id)

    return provision


def _step(call: Callable[..., Any]) -> Callable[..., Any]:
    """Make a step of a method: DBOS marks what it is given, and a bound method takes no mark."""

    @DBOS.step(name=call.__name__)
    def step(*arguments: str) -> Any:
        return call(*arguments)

    return step


def main() -> None:
    """Queue all numbers while nothing takes them, let the queue go, and write how long it took.

    A process that is given no numbers only helps, until its standard input ends.
    """
    order = json.loads(sys.stdin.readline())
    wiring = build(load_settings(), publisher=NoPublisher())
    config: DBOSConfig = {
        "name": APPLICATION,
        "system_database_url": os.environ["DATABASE_URL"],
        "sys_db_pool_size": POOL_SIZE,
        "max_executor_threads": order["slots"] + SPARE_THREADS,
        "log_level": "WARNING",
        "executor_id": f"bench-{os.getpid()}",
    }
    DBOS(config=config)
    workflow = define(Saga.of(wiring), order["trunk"])
    DBOS.launch()
    if order["numbers"]:
        sys.stdout.write(json.dumps(_play(workflow, order["numbers"], order["slots"], wiring.engine)) + "\n")
        sys.stdout.flush()
    sys.stdin.read()
    DBOS.destroy()
    wiring.close()


def _play(workflow: Any, numbers: Sequence[str], slots: int, engine: Engine) -> dict[str, float]:
    """Return what it took from the moment when the queue may go until nothing is left of it."""
    first, *rest = numbers
    workflow(first)  # connections are opened and everything is imported
    queue = DBOS.register_queue(QUEUE, worker_concurrency=0, polling_interval_sec=POLL_S)
    for number in rest:
        DBOS.enqueue_workflow(QUEUE, workflow, number)
    cpu, started = time.process_time(), time.perf_counter()
    queue.set_worker_concurrency(slots)
    while True:
        with engine.connect() as connection:
            left, failed = connection.execute(_LEFT).one()
        if failed:
            raise RuntimeError(f"{failed} workflows failed")
        if not left:
            return {"seconds": time.perf_counter() - started, "cpuSeconds": time.process_time() - cpu}
        time.sleep(POLL_S)


if __name__ == "__main__":
    main()
