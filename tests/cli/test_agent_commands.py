"""`agents`: lists, ambiguous names, and confirmation before a deletion."""

import re

import pytest

from app.db.access import ApiKey
from app.db.models import Agent, Event, Operation, OperationStep
from app.db.webhooks import WebhookEndpoint
from app.domain.operations import OperationStatus, StepState
from tests.support.commands import CommandLine, Shell
from tests.support.sandbox_app import NUMBER

FREE = "+15145550001"


def test_an_agent_is_created_shown_and_deleted_by_its_name(shell: Shell) -> None:
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
    assert cut.stderr == "There are more: use --limit 2\n"


def test_an_agent_is_named_by_the_beginning_of_its_id(shell: Shell) -> None:
    agent_id = str(shell.live.agent_id)

    assert shell.json("agents", "show", agent_id[:8])["id"] == agent_id
    assert shell.json("agents", "show", agent_id[:13])["id"] == agent_id
    assert shell.run("agents", "show", agent_id[:7]).exit_code == 1


def test_a_name_that_two_agents_have_is_refused_with_both_ids(shell: Shell) -> None:
    duplicates = [shell.run("agents", "create", "duplicate").stdout.strip() for _ in range(2)]

    result = shell.run("agents", "delete", "duplicate", "--yes")

    assert result.exit_code == 1
    assert result.stderr.startswith("Error: There are several agents called 'duplicate': give the id (")
    assert all(agent_id in result.stderr for agent_id in duplicates)
    assert len(shell.json("agents", "list")["items"]) == 3


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("",), "name "),
        (("a", "--metadata", "nonsense"), "--metadata is not JSON"),
        (("a", "--metadata", "[]"), "metadata "),
        (("a", "--metadata", '{"a": NaN}'), "--metadata has NaN"),
        (("a", "--metadata", '{"a": 1e308}'), "metadata has a number that would be rounded (a)"),
        (("a", "--metadata", "[" * 20_000), "--metadata is nested too deeply"),
    ],
)
def test_an_agent_that_the_api_would_refuse_is_a_usage_error(
    bare: CommandLine, words: tuple[str, ...], reason: str
) -> None:
    result = bare.run("agents", "create", *words)

    assert (result.exit_code, f"Error: {reason}" in result.stderr) == (2, True), result.output


HOSTILE = "[red]\x1b]0;x\x07\x1bc\x9b31m\u202e"
"""Rich's markup, a window's title, a reset, a colour by C1, and text that runs backwards."""

SHOWING = [
    ("agents", "list"),
    ("agents", "show", "{agent}"),
    ("status", "{agent}"),
    ("verify", "{agent}"),
    ("repair", "{agent}"),
    ("deprovision", HOSTILE),
    ("move", "{agent}", "{agent}"),
    ("numbers", "list"),
    ("operations", "list"),
    ("operations", "show", "{operation}"),
    ("operations", "retry", "{operation}"),
    ("provision", "{agent}", "+15145550001"),
    ("provision", "{agent}", "+15145550001", "--dry-run"),
    ("webhooks", "list"),
    ("keys", "list"),
    ("keys", "revoke", HOSTILE),
    ("audit",),
    ("doctor",),
]


def test_no_command_prints_control_characters_from_stored_text(shell: Shell) -> None:
    live = shell.live
    with live.wiring.sessions.begin() as session:
        agent = session.get_one(Agent, live.agent_id)
        agent.name = agent.livekit_agent_name = HOSTILE
        operation = session.query(Operation).one()
        operation.status, operation.error_code, operation.error_detail = OperationStatus.FAILED, "x", HOSTILE
        operation.requested_by = HOSTILE
        for step in session.query(OperationStep):
            step.state, step.error_code, step.error_detail, step.resource_id = StepState.UNDONE, "x", HOSTILE, HOSTILE
        session.query(Event).update({"detail": {"why": HOSTILE}})
        session.add(ApiKey(name=HOSTILE, key_hash="x", scopes=["read"]))
        session.add(WebhookEndpoint(url=f"https://x/{HOSTILE}", sealed_secret="whsec_x"))
        ids = {"agent": str(agent.id), "operation": str(operation.id)}

    path = f"/v1/Trunks/{live.agent.twilio_trunk_sid}/OriginationUrls/{live.agent.twilio_origination_url_sid}"
    live.console.twilio("POST", path, SipUrl="sip:\x1bc@evil")

    shown = ""
    for words in SHOWING:
        for extra in ((), ("--json",)):
            result = shell.run(*(word.format(**ids) for word in words), *extra, typed="n\n")
            assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", result.output), (words, result.output)
            shown += result.output
    assert r"[red]\u001b]0;x\u0007\u001bc\u009b31m\u202e" in shown


@pytest.mark.parametrize("limit", ["\uff11\uff10", "\u0663", "1_0", "+5", " 5 ", "0"])
def test_a_limit_is_a_plain_integer(bare: CommandLine, limit: str) -> None:
    assert bare.run("agents", "list", "--limit", limit).exit_code == 2


@pytest.mark.parametrize("name", ["\udcff", "a\x1bb", "\u200b"])
def test_a_name_that_no_agent_can_have_is_not_found(bare: CommandLine, name: str) -> None:
    assert "(agent_not_found)" in bare.run("agents", "show", name).stderr
    assert bare.run("agents", "create", name).exit_code == 2
