"""Adoptions at the command line: one path, those of a file, and all that there are."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.commands import CommandLine, Shell
from tests.support.handmade import build_by_hand
from tests.support.sandbox_app import FOREIGN_NUMBER

OLD = "+15145550007"
"""A number that rings by a path that somebody built."""

NAME = "night-line"


@pytest.fixture
def built(shell: Shell) -> dict[str, str]:
    return build_by_hand(shell.live.sandbox, OLD, NAME)


@pytest.fixture
def desk(shell: Shell) -> str:
    return shell.run("agents", "create", "desk").stdout.strip()


def state(shell: Shell) -> dict[str, list[dict[str, object]]]:
    return {
        kind: [{name: value for name, value in one.items() if name != "date_updated"} for one in rows]
        for kind, rows in shell.live.sandbox.state().items()
    }


def run_bulks(shell: Shell) -> None:
    """Do what sweeper and workers do."""
    wiring, publisher = shell.live.wiring, shell.live.publisher
    wiring.dispatcher.advance()
    while publisher.adoptions:
        replace(wiring.dispatcher, adoption=wiring.adoption).start_adoptions(publisher.adoptions.pop())
    shell.live.drive()


def test_a_dry_run_shows_the_path_and_what_changes(shell: Shell, desk: str, built: dict[str, str]) -> None:
    before = state(shell)
    shown = shell.run("adopt", "desk", OLD, "--dry-run")
    assert shown.exit_code == 0, shown.output
    for word in (*built.values(), f"line {OLD}", "gets Trunkline's mark"):
        assert word in shown.stdout, word
    assert f"The agent's livekitAgentName becomes {NAME}." in shown.stdout
    plan = shell.json("adopt", "desk", OLD, "--dry-run")
    assert (plan["agent"]["livekitAgentName"], plan["agent"]["changes"]) == (
        NAME,
        ["livekitAgentName", "metadata", "options"],
    )
    assert (state(shell), shell.json("operations", "list", "--agent", desk)["items"]) == (before, [])


def test_a_path_is_adopted_after_a_question_and_kept_or_removed_after_another(
    shell: Shell, desk: str, built: dict[str, str]
) -> None:
    before = state(shell)
    asked = shell.run("adopt", "desk", OLD, typed="n\n")
    assert (asked.exit_code, f"Adopt the path of {OLD} for desk?" in asked.stderr) == (1, True)
    assert state(shell) == before
    done = shell.run("adopt", "desk", OLD, typed="y\n")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, f"The path of {OLD} is desk's."), done.output
    assert shell.live.sandbox.call(OLD)["agentName"] == NAME
    assert "adopted" in shell.run("status", "desk").stdout

    unsaid = shell.run("deprovision", "desk", "--yes")
    assert (unsaid.exit_code, "keep it as it was found, or to remove it" in unsaid.stderr) == (1, True), unsaid.output
    chosen = shell.run("deprovision", "desk", typed="keep\ny\n")
    assert chosen.exit_code == 0, chosen.output
    assert state(shell) == before
    assert shell.json("adopt", "desk", OLD, "--yes")["status"] == "succeeded"
    removed = shell.run("deprovision", "desk", "--path", "remove", "--yes")
    assert (removed.exit_code, shell.live.sandbox.call(OLD)["reaches"]) == (0, False), removed.output
    assert not set(built.values()) & {str(one.get("sid")) for rows in state(shell).values() for one in rows}


def test_what_cannot_be_adopted_is_refused_with_the_link(shell: Shell, desk: str) -> None:
    refused = shell.run("adopt", "desk", FOREIGN_NUMBER, "--yes")
    assert (refused.exit_code, "no origination URL" in refused.stderr) == (1, True), refused.output


def test_a_file_of_numbers_is_adopted(shell: Shell, built: dict[str, str], tmp_path: Path) -> None:
    shell.meanwhile = lambda: run_bulks(shell)
    file = tmp_path / "numbers.csv"
    file.write_text(f"phoneNumber\n{OLD}\n", encoding="utf-8")
    done = shell.run("import", "--adopt", str(file))
    assert done.exit_code == 0, done.output
    assert "places are free" not in done.stderr
    assert shell.json("status", f"callers of {OLD}")["livekitDispatchRuleId"] == built["livekitRules"]


def test_every_number_on_somebodys_trunk_is_tried(shell: Shell, built: dict[str, str]) -> None:
    shell.meanwhile = lambda: run_bulks(shell)
    done = shell.run("import", "--adopt", "--all", "--json")
    assert done.exit_code == 3, done.output
    assert json.loads(done.stdout)["counts"] | {"pending": 0} == {
        "pending": 0,
        "running": 0,
        "succeeded": 1,
        "failed": 1,
        "cancelled": 0,
    }


@pytest.mark.parametrize("words", [("--all",), (), ("--adopt",)])
def test_a_file_or_all_is_named(bare: CommandLine, words: tuple[str, ...]) -> None:
    assert bare.run("import", *words).exit_code == 2
