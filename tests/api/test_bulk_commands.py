"""`flask provision`: a file in, progress to the end, a report out; Ctrl-C stops only the looking."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from app.bulk import queries
from app.cli import bulk as command
from tests.support.api import NOBODY, Api

Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def _write(name: str, text: str) -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return _write


def run(api: Api, *arguments: str) -> Result:
    return api.app.test_cli_runner().invoke(args=["provision", *arguments])


CSV = "phoneNumber,agent\n+15145550001,a\n+15145550002,b\n+1514,c\n"


class Meanwhile:
    """Takes the place of the pause between two looks: the sweeper passes, and workers end what it opened."""

    def __init__(self, api: Api, end: Callable[[Api, str], None]) -> None:
        self.api, self.end = api, end

    def __call__(self, _seconds: float) -> None:
        self.api.wiring.sweeper.dispatcher.advance()
        for plan in self.api.publisher.plans:
            self.end(self.api, str(plan.operation_id))
        self.api.publisher.plans.clear()


def succeed(api: Api, operation_id: str) -> None:
    api.succeed(operation_id)


def fail(api: Api, operation_id: str) -> None:
    api.fail(operation_id, "number_not_in_account", "No.")


def watched(api: Api, monkeypatch: pytest.MonkeyPatch, end: Callable[[Api, str], None]) -> None:
    monkeypatch.setattr(command.time, "sleep", Meanwhile(api, end))


def test_a_file_is_imported_and_watched_to_its_end(
    api: Api, write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    watched(api, monkeypatch, succeed)
    report = tmp_path / "report.csv"

    result = run(api, "import", write("numbers.csv", CSV), "--report", str(report))

    assert result.exit_code == 3, result.output
    assert "has 3 items; 1 of them invalid.\n2 of 2 numbers fit: 0 places are free" in result.stdout
    assert result.stdout.rstrip().endswith("is failed: 2 succeeded, 1 failed.")
    rows = list(csv.DictReader(report.read_text(encoding="utf-8").splitlines()))
    assert [row["status"] for row in rows] == ["succeeded", "succeeded", "failed"]
    assert rows[2]["errorCode"] == "validation_failed"


def test_a_file_of_which_everything_succeeds_is_exit_code_0(
    api: Api, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched(api, monkeypatch, succeed)
    items = [{"phoneNumber": "+15145550001", "agent": {"name": "a", "metadata": {"lang": "fr"}}}]

    result = run(api, "import", write("numbers.json", json.dumps({"items": items})), "--json")

    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert (shown["status"], shown["counts"]["succeeded"]) == ("succeeded", 1)


def test_without_waiting_the_bulk_is_left_to_the_sweeper(api: Api, write: Write) -> None:
    result = run(api, "import", write("numbers.csv", CSV), "--no-wait", "--json")

    assert (result.exit_code, json.loads(result.stdout)["status"]) == (0, "queued")
    assert api.count("operations") == 0


def test_ctrl_c_leaves_the_bulk_running_and_says_how_to_come_back(
    api: Api, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", interrupt)
    result = run(api, "import", write("numbers.csv", CSV))

    assert result.exit_code == 130
    with api.wiring.sessions() as session:
        ((bulk_id, pending),) = queries.open_bulks(session)
    assert (f"provision watch {bulk_id}" in result.stdout, pending) == (True, 2)
    watched(api, monkeypatch, succeed)
    assert "2 succeeded, 1 failed" in run(api, "watch", str(bulk_id)).stdout


def test_what_failed_is_resumed_by_id(api: Api, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    watched(api, monkeypatch, fail)
    first = json.loads(run(api, "import", write("numbers.csv", CSV), "--json").stdout)
    assert (first["status"], first["counts"]["failed"]) == ("failed", 3)
    watched(api, monkeypatch, succeed)

    result = run(api, "resume", first["id"], "--json")

    assert (result.exit_code, json.loads(result.stdout)["counts"]["succeeded"]) == (3, 2)
    assert api.count("agents") == 2


def test_a_bulk_is_cancelled_by_id(api: Api, write: Write) -> None:
    bulk_id = json.loads(run(api, "import", write("numbers.csv", CSV), "--no-wait", "--json").stdout)["id"]

    result = run(api, "cancel", bulk_id)

    lines = [
        f"Bulk {bulk_id} is cancelled: 1 failed, 2 cancelled.",
        "2 cancelled, 0 still running, 1 already done.",
    ]
    assert (result.exit_code, result.stdout.splitlines()) == (0, lines)
    again = json.loads(run(api, "cancel", bulk_id, "--json").stdout)
    assert again["cancellation"] == {"cancelledNow": 0, "stillRunning": 0, "alreadyDone": 3}


BAD_FILES = {
    "header.csv": ("number\n1\n", "must begin with a header row"),
    "empty.csv": ("phoneNumber\n", "must have 1 to 10000 items, not 0"),
    "text.json": ("[", "is not JSON"),
    "null.json": ("null", "must be a list of items"),
    "deep.json": ("[" * 100_000, "is nested too deeply"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_read_is_one_line(api: Api, write: Write, name: str) -> None:
    text, reason = BAD_FILES[name]
    result = run(api, "import", write(name, text))

    assert (result.exit_code, reason in result.stderr) == (1, True)
    assert "Traceback" not in result.output
    assert api.count("bulks") == 0


@pytest.mark.parametrize("verb", ["resume", "watch", "cancel"])
def test_a_bulk_that_there_is_not_is_one_line(api: Api, verb: str) -> None:
    result = run(api, verb, NOBODY)

    assert (result.exit_code, "bulk_not_found" in result.stderr) == (1, True)
