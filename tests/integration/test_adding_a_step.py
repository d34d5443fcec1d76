"""A new step touches at most four files: one is added to a copy of the code, and an operation is run with it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.broker import NOWHERE

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 4
LIMIT_S = 60.0

EDITS = {
    "app/domain/operations.py": [
        ('VERIFICATION = "verification"\n', 'VERIFICATION = "verification"\nNOTE = "livekit_note"\n'),
        (
            "    Step(NUMBER_ATTACHMENT,",
            '    Step(NOTE, "livekit", (DISPATCH_RULE,), makes=True),\n    Step(NUMBER_ATTACHMENT,',
        ),
        ("(ORIGINATION_URL, DISPATCH_RULE), changes", "(ORIGINATION_URL, NOTE), changes"),
    ],
    "app/saga/livekit_steps.py": [
        (
            "\n\ndef find_dispatch_rules(",
            '''

NOTES: dict[str, str] = {}
"""Stands for a provider: note -> the rule that it is about."""


def find_notes(ctx: StepContext) -> list[str]:
    """List the notes about our rule."""
    return [note for note, rule in NOTES.items() if rule == ctx.ids[DISPATCH_RULE]]


def write_note(ctx: StepContext) -> Result:
    """Write a note about our rule."""
    note = f"NO{len(NOTES)}"
    NOTES[note] = ctx.ids[DISPATCH_RULE]
    return Result(note)


def delete_note(ctx: StepContext, note: str) -> None:
    """Delete a note."""
    NOTES.pop(note, None)


def find_dispatch_rules(''',
        ),
    ],
    "app/saga/steps.py": [
        ("    INBOUND_TRUNK,\n    NUMBER,", "    INBOUND_TRUNK,\n    NOTE,\n    NUMBER,"),
        (
            "    NUMBER_ATTACHMENT: Actions(",
            """    NOTE: Actions(livekit_steps.write_note, livekit_steps.find_notes, livekit_steps.delete_note),
    NUMBER_ATTACHMENT: Actions(""",
        ),
    ],
}
"""File -> what is replaced by what: all that a developer writes for a step that has no column."""

RUN = """
import json, sys
from app.db.engine import make_engine, make_sessions
from app.db.queries import live_resources
from app.domain.events import EventName
from app.providers.errors import UnknownOutcomeError
from app.domain.errors import ErrorCode
from app.domain.operations import STEPS
from app.saga import livekit_steps
from app.saga.chain_plan import plan_of
from app.views.operation_schemas import OperationOut
from app.views.operations import OperationView
from tests.support.saga import E164, wire
from app.db.models import Operation
from sqlalchemy import select
from sqlalchemy.orm import joinedload, selectinload

saga = wire(make_sessions(make_engine(sys.argv[1])))
saga.world.carrier.own_number(E164)

def shown(operation_id):
    with saga.sessions() as session:
        row = session.scalars(
            select(Operation).where(Operation.id == operation_id)
            .options(selectinload(Operation.steps), joinedload(Operation.agent))
        ).one()
        resources = live_resources(session, row.agent_id)
        view = OperationView.of(row, resources=resources)
        return {
            "json": json.loads(json.dumps(OperationOut().dump(view), default=str)),
            "ledger": [one.kind for one in resources],
            "notes": list(livekit_steps.NOTES),
        }

def messages(plan):
    from tasks.steps import chain_of
    found = []
    def walk(one):
        if isinstance(one, dict):
            if isinstance(one.get("task"), str):
                found.append(one["task"])
            for value in one.values():
                walk(value)
        elif isinstance(one, (list, tuple)):
            for value in one:
                walk(value)
    walk(json.loads(json.dumps(chain_of(plan), default=str)))
    return found

answer = {}
provisioning = saga.provision()
answer["down"] = messages(saga.plan(provisioning))
# Once without an answer: the step looks before it writes a second note, and verification looks for duplicates.
saga.world.log.plan("platform.create_dispatch_rule", after=UnknownOutcomeError(ErrorCode.PROVIDER_UNAVAILABLE, "Lost."))
saga.drive(provisioning)
answer["provisioned"] = shown(provisioning)
deprovisioning = saga.deprovision(saga.snapshot(provisioning).agent.id)
answer["up"] = messages(saga.plan(deprovisioning))
saga.drive(deprovisioning)
answer["deprovisioned"] = shown(deprovisioning)
print("ANSWER " + json.dumps(answer))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the code with one more step."""
    for name in ("app", "tasks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "celeryconfig.py", tmp_path)
    for name, edits in EDITS.items():
        file = tmp_path / name
        content = file.read_text()
        for old, new in edits:
            assert content.count(old) == 1, f"{name}: {old!r}"
            content = content.replace(old, new)
        file.write_text(content)
    (tmp_path / "run_one.py").write_text(RUN)
    return tmp_path


def test_a_step_is_added_in_few_files_and_is_done_shown_and_undone(copy: Path, database_url: str) -> None:
    assert len(EDITS) <= LIMIT
    environ = {**os.environ, **NOWHERE, "PYTHONPATH": f"{copy}{os.pathsep}{ROOT}"}
    command = [sys.executable, "run_one.py", database_url]
    done = subprocess.run(  # noqa: S603
        command, cwd=copy, env=environ, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    answer = json.loads(line.removeprefix("ANSWER "))

    assert "provision.livekit_note" in answer["down"]
    steps = {step["name"]: step for step in answer["provisioned"]["json"]["steps"]}
    assert answer["provisioned"]["json"]["status"] == "succeeded"
    assert (steps["livekit_note"]["state"], steps["livekit_note"]["resourceId"]) == ("DONE", "NO0")
    assert answer["provisioned"]["notes"] == ["NO0"]
    assert "livekit_note" in answer["provisioned"]["ledger"]

    assert "deprovision.livekit_note" in answer["up"]
    steps = {step["name"]: step for step in answer["deprovisioned"]["json"]["steps"]}
    assert steps["livekit_note"]["state"] == "UNDONE"
    assert (answer["deprovisioned"]["notes"], answer["deprovisioned"]["ledger"]) == ([], [])
