"""`plan`, `apply` and `export`: a file in, what differs out, and exit codes that a script goes by."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.cli import bulk, declared_files
from app.cli import declared as command
from app.cli.declared_files import read_file, write_text
from app.cli.output import CommandError
from app.views.declaration_schemas import LOST_PLUS
from tests.support.commands import CommandLine, Shell

FREE, MISSING = "+15145550001", "+15145557777"

DESK = f"""
agents:
  - externalId: desk
    name: Front desk
    phoneNumber: {FREE}
    options: {{call: {{ringingS: 20}}}}
  - externalId: night
"""


class Workspace:
    """A folder with a file, and the command line."""

    def __init__(self, shell: Shell, folder: Path) -> None:
        self.shell, self.path = shell, folder / "numbers.yaml"

    def __call__(self, *words: str, text: str | None = None, code: int = 0, typed: str = "") -> str:
        if text is not None:
            self.path.write_text(text, encoding="utf-8")
        result = self.shell.run(words[0], "-f", str(self.path), *words[1:], typed=typed)
        assert result.exit_code == code, result.output
        return result.output

    def run_workers(self) -> None:
        """Do what sweeper and workers do."""
        live = self.shell.live
        live.wiring.dispatcher.advance()
        while live.publisher.adoptions:
            live.wiring.dispatcher.start_adoptions(live.publisher.adoptions.pop())
        live.drive()
        live.wiring.dispatcher.advance()


@pytest.fixture
def run(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    found = Workspace(shell, tmp_path)
    shell.live.sandbox.number(FREE)
    monkeypatch.setattr(bulk.time, "sleep", lambda _: found.run_workers())
    return found


def test_a_file_is_planned_applied_and_found_to_be_so(run: Workspace) -> None:
    desk = 'livekitAgentName Front desk, metadata {}, options {"call": {"ringingS": 20}}, trunkMode shared'
    planned = run("plan", text=DESK, code=2)
    assert planned.splitlines() == [
        f"+ create       desk  name Front desk, {desk}",
        "+ create       night  name night, livekitAgentName night, metadata {}, options {}, trunkMode shared",
        f"+ provision    desk  {FREE}",
        "Plan: 2 create, 1 provision. 2 at once, 1 in a bulk.",
    ]

    assert "is succeeded: 1 succeeded." in run("apply", "--yes")
    assert run("plan").strip() == command.NOTHING
    assert run("apply", "--yes").strip() == command.NOTHING
    assert run.shell.live.sandbox.call(FREE)["reaches"]

    changed = run("plan", text=DESK.replace("Front desk", "Reception"), code=2)
    assert "~ update       desk  name Front desk -> Reception" in changed


def test_with_json_there_is_one_document_and_no_progress(run: Workspace) -> None:
    run.path.write_text(DESK, encoding="utf-8")

    result = run.shell.run("apply", "-f", str(run.path), "--yes", "--json")

    assert (json.loads(result.stdout)["bulk"]["status"], result.stderr) == ("succeeded", "")


def test_what_is_exported_is_a_file_that_changes_nothing(run: Workspace, tmp_path: Path) -> None:
    run("apply", "--yes", text=DESK)
    for name in ("all.yaml", "all.json"):
        assert run.shell.run("export", "-o", str(tmp_path / name)).exit_code == 0
        assert run.shell.run("plan", "-f", str(tmp_path / name), "--prune").exit_code == 0
    shown = run.shell.run("export").stdout
    assert shown == (tmp_path / "all.yaml").read_text(encoding="utf-8")
    assert f"phoneNumber: '{FREE}'" in shown
    assert run.shell.json("export") == read_file(str(tmp_path / "all.json")).document


def test_prune_says_what_goes_and_asks(run: Workspace) -> None:
    run("apply", "--yes", text=DESK)

    planned = run("plan", "--prune", text="agents: []", code=2)
    assert f"- deprovision  desk  {FREE} (not in the file)" in planned
    assert "- delete       night  (not in the file)" in planned
    refused = run("apply", "--prune", typed="n\n", code=1)
    assert "Make 3 changes, 2 of them an agent that is deleted?" in refused
    assert "is succeeded: 2 succeeded." in run("apply", "--prune", typed="y\n")
    assert run.shell.json("export") == {"agents": []}
    assert run.shell.json("agents", "list")["items"]


def test_without_wait_it_returns_at_once_and_says_where_to_watch(run: Workspace) -> None:
    found = json.loads(run("apply", "--yes", "--no-wait", "--json", text=DESK).splitlines()[-1])

    assert (found["bulk"]["status"], found["failures"]) == ("queued", [])
    assert f"{found['bulkId']} is queued" in run.shell.run("provision", "watch", found["bulkId"], "--no-wait").output


def test_what_fails_is_named_with_its_line_and_its_reason(run: Workspace) -> None:
    shown = run("apply", "--yes", text=DESK.replace(FREE, MISSING), code=3)

    assert f"{run.path}:3: provision desk: " in shown
    assert "(number_not_in_account)" in shown
    assert run("plan", code=2).startswith("+ provision    desk")


def test_a_conflict_is_named_with_its_line_and_nothing_is_changed(run: Workspace) -> None:
    live = run.shell.live
    text = DESK.replace(FREE, live.number)

    planned = run("plan", text=text, code=1)
    assert "+ create       desk" in planned
    assert f"{run.path}:5: agents[0].phoneNumber: desk: Agent {live.agent_id}, which has no externalId," in planned
    applied = run("apply", "--yes", code=1)
    assert "(declaration_conflict)" in applied
    assert f"{run.path}:5: agents[0].phoneNumber: " in applied
    assert run.shell.json("export") == {"agents": []}


WRONG = {
    "a field that is not known": ("agents:\n- externalId: a\n  phone: '1'\n", "3: agents[0].phone: Unknown field."),
    "a number without its plus": (
        "agents:\n- externalId: a\n  phoneNumber: 15145550001\n",
        f"3: agents[0].phoneNumber: {LOST_PLUS}",
    ),
    "an external id twice": (
        "agents:\n- externalId: a\n- name: b\n  externalId: a\n",
        "4: agents[1].externalId: is that of /agents/0 already.",
    ),
    "a number twice": (
        f"agents:\n- {{externalId: a, phoneNumber: {FREE}}}\n- {{externalId: b, phoneNumber: {FREE}}}\n",
        "3: agents[1].phoneNumber: is that of /agents/0 already.",
    ),
    "an agent without an external id": (
        "agents:\n- name: a\n",
        "2: agents[0].externalId: Missing data for required field.",
    ),
    "a name twice": ("agents:\n- externalId: a\n  externalId: b\n", "3: externalId stands twice in one object."),
    "no YAML": ("agents: [\n", "2: this is not YAML: "),
    "no agents": ("numbers: []\n", "1: numbers: Unknown field."),
    "nothing": ("", "it must be an object with the list agents."),
    "a list": ("- externalId: a\n", "it must be an object with the list agents."),
}


@pytest.mark.parametrize("name", ["plan", "apply"])
@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_file_is_told_with_its_line(
    bare: CommandLine, tmp_path: Path, case: str, name: str
) -> None:
    text, said = WRONG[case]
    path = tmp_path / "numbers.yaml"
    path.write_text(text, encoding="utf-8")

    result = bare.run(name, "-f", str(path), *(["--yes"] if name == "apply" else []))

    assert (result.exit_code, said in result.output.replace(f"{path}:", "")) == (1, True), result.output


@pytest.mark.parametrize(
    "words", [("plan",), ("plan", "-f", "missing.yaml"), ("plan", "--bogus"), ("apply", "-f", "no.json")]
)
def test_a_wrong_command_line_is_1_since_2_means_changes(bare: CommandLine, words: tuple[str, ...]) -> None:
    assert bare.run(*words).exit_code == 1


def test_json_and_standard_input_are_read_too(run: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    run.path = run.path.with_suffix(".json")
    run("plan", text='{"agents": [\n\t{"externalId": "a"}]}', code=2)
    assert "not JSON (line 1, column 13)" in run("plan", text='{"agents": [,]}', code=1)
    assert f"{run.path}:2: agents[0].x: " in run("plan", text='{"agents": [\n\t{"externalId": "a", "x": 1}]}', code=1)
    result = run.shell.run("plan", "-f", "-", typed="agents:\n- externalId: a\n")
    assert result.exit_code == 2


PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-(10**12), 10**12), st.floats(-1e6, 1e6), st.text(max_size=20))
WORDS = st.sampled_from(
    ["no", "on", "~", "null", "0123", "1_000", "1e5", "+1", "2026-01-01", "12:30", "<<", "=", "-", "é"]
)
DOCUMENTS = st.recursive(
    PLAIN | WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@settings(max_examples=150, deadline=None)
@given(document=DOCUMENTS, is_json=st.booleans())
def test_what_is_written_is_read_as_it_was(
    document: Any, is_json: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / ("written.json" if is_json else "written.yaml")
    path.write_text(write_text(document, is_json=is_json), encoding="utf-8", newline="")

    assert read_file(str(path)).document == document


SURPRISES = {
    "on: no": {"on": "no"},
    "a: +15145550001": {"a": "+15145550001"},
    "a: 0123": {"a": "0123"},
    "a: 2026-01-01": {"a": "2026-01-01"},
    "a: &x {b: 1}\nc: {<<: *x, d: 2}": {"a": {"b": 1}, "c": {"b": 1, "d": 2}},
    "a: 1.5e3": {"a": 1500.0},
}


@pytest.mark.parametrize("text", SURPRISES)
def test_yaml_has_no_surprises(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))

    assert read_file("-").document == SURPRISES[text]


NOT_JSON = (
    "a: &x [*x]",
    "a: !foo 1",
    "a: !foo [1]",
    "a: !!set {x, y}",
    "a: !!binary aGk=",
    "a: !!timestamp 2026-01-01",
    "a: !!timestamp x",
    "a: !!int x",
    "a: !!bool maybe",
    "a: 1e400",
    "a: " + "9" * 5000,
    "a: 1\n---\nb: 1",
    "? [a]\n: 1",
    "[" * 5000,
)


@pytest.mark.parametrize("text", NOT_JSON)
def test_yaml_that_json_cannot_have_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))

    with pytest.raises(CommandError, match="standard input"):
        read_file("-")


def test_anchors_that_multiply_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declared_files, "MOST_VALUES", 1_000)
    lists = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30))
    monkeypatch.setattr("sys.stdin", io.StringIO(f"a0: &a0 [1]\n{lists}"))

    with pytest.raises(CommandError, match="more than 1,000 values, those of its anchors included"):
        read_file("-")
