"""How many files a reader opens to follow one step, forward and back, counted from what is called.

Counted is every file under `app/` and `tasks/` that runs code between the Celery task and the provider, in the order in
which it is entered first. Not counted, since nobody opens them to follow a step: `app/observability` and
`app/saga/instrumentation.py` (log, metrics, traces), `app/db/engine.py` (connections) and `app/db/visibility.py` (whose
rows they see: a worker's are everybody's), settings, wiring and the clients that it builds for each account, and the
providers' side: the rate limiter and errors in `app/providers` (the adapters are replaced by providers in memory), and
the marks of what is ours. The trace does not see what runs nothing: the table of `app/saga/steps.py`, and SQL.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
from celery import Celery

from app.domain.operations import NUMBER, NUMBER_ATTACHMENT, ORIGINATION_URL, TRUNK, StepState, TrunkMode
from tests.integration.test_runner_tasks import Process
from tests.support.saga import FINISHED, Saga

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 12
"""What the reader of a step may have to open, both ways. One of them says what is made (`app/path/spec.py`), or by whom
(`app/saga/shared_trunk.py`), one whose it is: no trunk is deleted before the pool was asked (`app/trunks/pool.py`), one
what the agent's options are (`app/domain/options.py`), one what a saga's rows and verdicts are
(`app/saga/state.py`, half of what was one file of 1,080 lines), and one what is somebody else's although the path is
ours (`app/saga/adopted_steps.py`).
"""
PLUMBING = (
    "app/observability/",
    "app/saga/instrumentation.py",
    "app/accounts/clients.py",
    "app/db/engine.py",
    "app/db/visibility.py",
    "app/settings.py",
    "app/wiring.py",
    "app/providers/",
    "app/path/marks.py",
)


def is_logged(frame: FrameType | None) -> bool:
    """Tell whether a log line, metric or trace calls this: masking a number there is no part of the step."""
    while frame := frame and frame.f_back:
        if "/app/observability/" in frame.f_code.co_filename:
            return True
    return False


def files_entered(call: Callable[[], object]) -> list[str]:
    """Return the files of ours whose functions a call runs, in the order in which they are entered first."""
    found: dict[str, None] = {}

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and not is_logged(frame):
            found.setdefault(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    inside = (Path(one).relative_to(ROOT).as_posix() for one in found if one.startswith(f"{ROOT}/"))
    return [one for one in inside if one.startswith(("app/", "tasks/"))]


@pytest.mark.parametrize("trunk_mode", TrunkMode)
def test_a_reader_of_one_step_both_ways_opens_few_files(
    celery_app: Celery, saga: Saga, number_sid: str, monkeypatch: pytest.MonkeyPatch, trunk_mode: TrunkMode
) -> None:
    from tasks import steps as worker  # noqa: PLC0415  # reads the settings

    monkeypatch.setattr(worker, "_wiring", lambda: Process(saga.runner, saga.service))
    saga.trunk_mode = trunk_mode
    # What a process does once is no part of the path, nor is making what numbers share.
    saga.drive(saga.deprovision(saga.provisioned()))
    operation_id = saga.provision()
    saga.advance(operation_id, until=NUMBER)
    entered = files_entered(lambda: celery_app.tasks[f"provision.{TRUNK}"](str(operation_id), 0))
    assert saga.snapshot(operation_id).rows[TRUNK].state is StepState.DONE

    saga.drive(operation_id)
    deprovisioning = saga.deprovision(saga.snapshot(operation_id).agent.id)
    # Its branch of the way down; what else the end of an operation does is not the step's.
    for name in (NUMBER_ATTACHMENT, ORIGINATION_URL):
        assert saga.run(deprovisioning, name).verdict in FINISHED
    entered += files_entered(lambda: celery_app.tasks[f"deprovision.{TRUNK}"](str(deprovisioning), 0))
    assert saga.snapshot(deprovisioning).rows[TRUNK].state is StepState.UNDONE

    path = [one for one in dict.fromkeys(entered) if not one.startswith(PLUMBING)]
    left_out = [one for one in dict.fromkeys(entered) if one.startswith(PLUMBING)]
    print("\n".join(["To be opened:", *path, "Not counted:", *left_out]))  # noqa: T201  # -s shows the path
    assert len(path) <= LIMIT, path
