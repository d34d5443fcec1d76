"""`agents` and `numbers`: lists, names that are ambiguous, and questions before something is lost."""

import pytest

from tests.support.commands import Shell
from tests.support.stage import FOREIGN_NUMBER, NUMBER

FREE = "+15145550001"


def test_an_agent_is_made_shown_and_deleted_by_its_name(shell: Shell) -> None:
    made = shell.run("agents", "create", "Night desk", "--livekit-name", "night", "--metadata", '{"lang": "fr"}')
    agent_id = made.stdout.strip()
    assert f"provision {agent_id} NUMBER" in made.stderr

    shown = shell.json("agents", "show", "Night desk")
    assert (shown["id"], shown["livekitAgentName"], shown["metadata"]) == (agent_id, "night", {"lang": "fr"})

    assert shell.run("agents", "delete", "Night desk", typed="n\n").exit_code == 1
    assert shell.run("agents", "delete", "Night desk", "--yes").stdout == f"Deleted Night desk ({agent_id}).\n"
    gone = shell.run("agents", "show", agent_id)
    assert (gone.exit_code, gone.stderr) == (1, f"Error: There is no agent {agent_id}. (agent_not_found)\n")


def test_agents_are_listed_a_row_each_with_their_whole_ids_in_a_pipe(shell: Shell) -> None:
    new = shell.run("agents", "create", "x" * 200).stdout.strip()

    heading, newest, oldest = shell.run("agents", "list").stdout.splitlines()

    assert heading.split() == ["agent", "number", "status", "created", "(UTC)", "id"]
    assert newest.startswith("x" * 200)
    assert newest.endswith(new)
    assert oldest.split()[:4] == ["front", "desk", NUMBER, "PROVISIONED"]
    one = shell.json("agents", "list", "--status", "PROVISIONED")["items"]
    assert [each["phoneNumber"] for each in one] == [NUMBER]
    cut = shell.run("agents", "list", "--limit", "1")
    assert cut.stderr == "There are more: --limit 2\n"


def test_an_agent_is_named_by_the_beginning_of_its_id(shell: Shell) -> None:
    agent_id = str(shell.stage.agent_id)

    assert shell.json("agents", "show", agent_id[:8])["id"] == agent_id
    assert shell.json("agents", "show", agent_id[:13])["id"] == agent_id
    assert shell.run("agents", "show", agent_id[:7]).exit_code == 1


def test_a_name_that_two_agents_have_is_refused_with_both_ids(shell: Shell) -> None:
    twins = [shell.run("agents", "create", "twin").stdout.strip() for _ in range(2)]

    result = shell.run("agents", "delete", "twin", "--yes")

    assert result.exit_code == 1
    assert result.stderr.startswith("Error: There are several agents called 'twin': give the id (")
    assert all(twin in result.stderr for twin in twins)
    assert len(shell.json("agents", "list")["items"]) == 3


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("",), "name "),
        (("a", "--metadata", "nonsense"), "--metadata is not JSON"),
        (("a", "--metadata", "[]"), "metadata "),
    ],
)
def test_an_agent_that_the_api_would_refuse_is_a_wrong_command_line(
    shell: Shell, words: tuple[str, ...], reason: str
) -> None:
    result = shell.run("agents", "create", *words)

    assert (result.exit_code, f"Error: {reason}" in result.stderr) == (2, True), result.output


def test_the_accounts_numbers_are_listed_with_their_use(shell: Shell) -> None:
    shell.stage.sandbox.number(FREE)
    result = shell.run("numbers", "list")

    uses = {line.split()[0]: line.split()[1] for line in result.stdout.splitlines()[1:]}
    assert uses[FREE] == "free"
    assert (uses[NUMBER], uses[FOREIGN_NUMBER]) == ("agent", "trunk")
    assert f"front desk ({shell.stage.agent_id})" in result.stdout
    free = shell.json("numbers", "list", "--free")
    assert FREE in [one["phoneNumber"] for one in free]
    assert {one["use"] for one in free} == {"free"}
    assert shell.json("numbers", "list")[-1]["phoneNumber"] == FOREIGN_NUMBER


def test_a_provider_that_refuses_is_one_line(shell: Shell) -> None:
    shell.stage.sandbox.fault("twilio.list_numbers", "reject", status=401, code=20003)

    result = shell.run("numbers", "list")

    assert result.exit_code == 1
    assert result.stderr == "Error: Twilio refused list_numbers: HTTP 401, code 20003. (twilio_bad_credentials)\n"
