"""`agents set`, and options of `agents create` and `agents show`."""

from pathlib import Path

import pytest

from tests.support.api import Api
from tests.support.commands import CommandLine, Shell
from tests.support.sandbox_app import NUMBER


def test_a_wrong_livekit_agent_name_is_put_right(shell: Shell) -> None:
    result = shell.run("agents", "set", "front desk", "--livekit-agent", "night")

    assert (result.exit_code, result.stdout) == (0, "front desk is changed.\n")
    assert shell.live.rings() == "night"
    assert "livekit_dispatch_rule" in result.stderr


def test_options_are_set_shown_and_taken_back(shell: Shell, tmp_path: Path) -> None:
    agents = tmp_path / "agents.json"
    agents.write_text('[{"name": "recorder", "metadata": {"consent": "asked"}}]', encoding="utf-8")
    words = [
        "dispatch.pin=0815",
        "call.allowedCallers=+15145550100,+15145550101",
        "call.krisp=true",
        f"agents=@{agents}",
    ]
    words += ["participant.attributes=line=front desk", "room.maxParticipants=4", "dispatch.roomPrefix=a=b"]

    shell.run("agents", "set", "front desk", *(part for one in words for part in ("--option", one)))

    shown = shell.json("agents", "show", "front desk")
    assert (shown["version"], shown["options"]) == (
        2,
        {
            "dispatch": {"roomPrefix": "a=b", "pin": "0815"},
            "agents": [{"name": "recorder", "metadata": {"consent": "asked"}}],
            "room": {"maxParticipants": 4},
            "participant": {"attributes": {"line": "front desk"}},
            "call": {"krisp": True, "allowedCallers": ["+15145550100", "+15145550101"]},
        },
    )
    lines = shell.run("agents", "show", "front desk").stdout.splitlines()
    assert [line.split() for line in lines if "dispatch.pin" in line] == [["dispatch.pin", "0815"]]
    shell.run("agents", "set", "front desk", "--unset", "dispatch.pin", "--unset", "call", "--unset", "agents")
    kept = {"dispatch": {"roomPrefix": "a=b"}, "room": {"maxParticipants": 4}}
    assert shell.json("agents", "show", "front desk")["options"] == {
        **kept,
        "participant": {"attributes": {"line": "front desk"}},
    }


def test_metadata_is_merged_and_can_be_emptied(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "metadata.json"
    file.write_text('{"more": 1}', encoding="utf-8")

    shell.run("agents", "set", "front desk", "--metadata", '{"tone": null, "lang": "fr"}', "--name", "Reception")
    assert shell.json("agents", "show", "Reception")["metadata"] == {"lang": "fr"}
    shell.run("agents", "set", "Reception", "--metadata", f"@{file}")
    assert shell.json("agents", "show", "Reception")["metadata"] == {"lang": "fr", "more": 1}
    shell.run("agents", "set", "Reception", "--unset", "metadata")
    assert shell.json("agents", "show", "Reception")["metadata"] == {}


def test_what_only_the_row_says_is_changed_without_an_operation(shell: Shell) -> None:
    found = shell.json("agents", "set", "front desk", "--name", "Reception", "--option", "monitor.everyMinutes=60")

    assert (found["name"], found["version"], found["options"]) == ("Reception", 2, {"monitor": {"everyMinutes": 60}})
    assert shell.live.publisher.plans == []


def test_a_change_may_be_queued_without_waiting(shell: Shell) -> None:
    shell.meanwhile = lambda: pytest.fail("nobody waits")

    found = shell.json("agents", "set", "front desk", "--livekit-agent", "night", "--no-wait")

    assert (found["kind"], found["status"], found["phoneNumber"]) == ("update", "queued", NUMBER)


def test_a_failed_change_is_an_error_and_leaves_all_as_it_was(shell: Shell) -> None:
    shell.live.sandbox.fault(
        "livekit.update_dispatch_rule", "reject", status=400, code="invalid_argument", message="no"
    )

    result = shell.run("agents", "set", "front desk", "--livekit-agent", "night")

    assert result.exit_code == 1
    assert "Error: the update failed. LiveKit refused update_dispatch_rule" in result.stderr
    assert shell.live.rings() == "front-desk"
    assert shell.json("agents", "show", "front desk")["version"] == 1


def test_a_change_is_made_for_one_version_only(shell: Shell) -> None:
    shell.run("agents", "set", "front desk", "--name", "Reception", "--if-version", "1")

    again = shell.run("agents", "set", "Reception", "--name", "Third", "--if-version", "1")

    assert (again.exit_code, again.stderr) == (1, "Error: The agent is at version 2. (version_mismatch)\n")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((), "Nothing to change: see --help."),
        (("--option", "dispatch.pim=1"), "There is no option 'dispatch.pim': did you mean dispatch.pin?"),
        (("--option", "x=1"), "There is no option 'x': there are dispatch.kind, "),
        (("--option", "dispatch=1"), "There is no option 'dispatch': "),
        (("--option", "dispatch.pin"), "--option dispatch.pin has no value: write dispatch.pin=VALUE, or --unset"),
        (("--option", "call.headersToAttributes=x"), "--option call.headersToAttributes must be name=value"),
        (("--option", "agents=[{]"), "--option agents is not JSON (line 1, column 3)."),
        (("--option", "room.maxParticipants=many"), "options.room.maxParticipants Not a valid integer."),
        (("--option", "dispatch.kind=both"), "options.dispatch.kind Must be one of: individual, direct, callee."),
        (("--option", "dispatch.pin=@/nowhere"), "/nowhere cannot be read: "),
        (("--unset", "nonsense"), "There is no option 'nonsense': "),
        (("--unset", "dispatch", "--option", "dispatch.pin=1"), "--unset dispatch and an --option of it exclude"),
        (("--unset", "metadata", "--metadata", "{}"), "--metadata and --unset metadata exclude each other."),
        (("--metadata", "[]"), "metadata "),
        (("--metadata", "{"), "--metadata is not JSON"),
        (("--name", " "), "name "),
        (("--if-version", "0", "--name", "a"), "Invalid value for '--if-version'"),
    ],
)
def test_what_makes_no_change_is_a_usage_error(bare: CommandLine, api: Api, words: tuple[str, ...], error: str) -> None:
    api.agent("front desk")

    result = bare.run("agents", "set", "front desk", *words)

    assert (result.exit_code, f"Error: {error}" in result.stderr) == (2, True), result.stderr
    assert bare.json("agents", "show", "front desk")["version"] == 1


def test_what_an_option_may_not_be_is_said_with_its_reason(shell: Shell) -> None:
    result = shell.run("agents", "set", "front desk", "--option", "dispatch.pin=12x", "--option", "call.ringingS=999")

    assert result.exit_code == 2
    assert "options.dispatch.pin must be 1 to 16 digits.; options.call.ringingS must be from 1 to 180." in result.stderr


def test_an_agent_is_created_with_options(shell: Shell) -> None:
    shell.run("agents", "create", "Night", "--option", "dispatch.kind=direct", "--option", "dispatch.roomName=lobby")

    assert shell.json("agents", "show", "Night")["options"] == {"dispatch": {"kind": "direct", "roomName": "lobby"}}
    wrong = shell.run("agents", "create", "Day", "--option", "dispatch.kind=direct")
    assert (wrong.exit_code, "options.dispatch.roomName is needed" in wrong.stderr) == (2, True)
