"""`accounts`, `projects` and `doctor --account`: the secret comes from standard input and is printed nowhere."""

import json
from dataclasses import replace
from typing import Any

import pytest

from app.sealing import Sealer
from app.web.context import WIRING
from tests.support.accounts import PROJECT_KEY, PROJECT_SECRET, PROJECT_URL, SID, TOKEN, FakeAccounts, Room, accepting
from tests.support.commands import Shell
from tests.support.toolboxes import with_parts

ADD = ("accounts", "add", "Acme", "--account-sid", SID)
ADD_PROJECT = ("projects", "add", "Acme", "--url", PROJECT_URL, "--api-key", PROJECT_KEY)
SIP_URI = ("--sip-uri", "sip:4nd0vfrjcr1.sip.livekit.cloud")


@pytest.fixture
def providers() -> FakeAccounts:
    return accepting()


@pytest.fixture
def accounts(shell: Shell, providers: FakeAccounts) -> Shell:
    """A command line whose accounts are at these providers."""
    wiring = shell.live.wiring
    service = replace(wiring.accounts, sealer=Sealer([b"k" * 32]), clients=providers, room_of=lambda _: Room())
    shell.application.extensions[WIRING] = with_parts(wiring, accounts=service)
    return shell


def shown(shell: Shell, *words: str, typed: str = "", code: int = 0) -> Any:
    result = shell.run(*words, "--json", typed=typed)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_an_account_is_added_shown_changed_rotated_and_deleted_by_its_name(
    accounts: Shell, providers: FakeAccounts
) -> None:
    made = shown(accounts, *ADD, "--trunk-limit", "7", typed=f"{TOKEN}\n")
    assert (made["accountSid"], made["status"], made["trunkLimit"]) == (SID, "verified", 7)

    listed = accounts.run("accounts", "list").stdout.splitlines()
    assert listed[0].split() == ["name", "workspace", "status", "checked", "(UTC)", "id"]
    assert listed[-1].split()[:3] == ["Acme", "default", "verified"]
    assert "✓ credentials" in accounts.run("accounts", "show", "Acme").stdout.replace("  ", " ")
    assert shown(accounts, "accounts", "change", "Acme", "--rate", "12")["rate"] == "12"

    providers.accepted.add((SID, SID, "newer"))
    rotated = shown(accounts, "accounts", "rotate", "Acme", "--old-valid-for", "0", typed="newer\n")
    assert (rotated["status"], rotated["oldValidUntil"]) == ("verified", None)
    refused = accounts.run("accounts", "rotate", made["id"], typed="wrong\n")
    assert (refused.exit_code, "credentials_refused" in refused.stderr) == (1, True)

    assert accounts.run("accounts", "delete", "Acme", typed="n\n").exit_code == 1
    assert accounts.run("accounts", "delete", "Acme", "--yes").stdout == f"Deleted Acme ({made['id']}).\n"
    assert accounts.run("accounts", "show", "Acme").exit_code == 1


def test_a_project_is_added_and_checked_and_a_refusal_is_told_by_the_exit_code(
    accounts: Shell, providers: FakeAccounts
) -> None:
    made = shown(accounts, *ADD_PROJECT, *SIP_URI, "--allow", "twilio", typed=f"{PROJECT_SECRET}\n")
    assert (made["status"], made["sipUri"]) == ("verified", "sip:4nd0vfrjcr1.sip.livekit.cloud;transport=tcp")
    assert "54.172.60.0/30" in made["allowedAddresses"]

    providers.accepted.clear()

    assert shown(accounts, "projects", "check", "Acme", code=3)["status"] == "invalid"


def test_no_command_takes_or_prints_a_secret(accounts: Shell) -> None:
    results = [
        accounts.run(*ADD, typed=f"{TOKEN}\n"),
        accounts.run(*ADD, "--secret", TOKEN),
        accounts.run("accounts", "show", "Acme"),
        accounts.run("accounts", "check", "Acme", "--json"),
    ]

    assert [result.exit_code for result in results] == [0, 2, 0, 0]
    assert not [result for result in results if TOKEN in result.stdout]


def test_wrong_options_are_told_as_such(accounts: Shell) -> None:
    for words, name in (
        ((*ADD, "--rate", "fast"), "rate"),
        ((*ADD_PROJECT, "--sip-uri", "sip:acme-1a2b3c.sip.livekit.cloud"), "sipUri"),
        ((*ADD, "--username", "AC" + "d" * 32), "username"),
    ):
        result = accounts.run(*words, typed="x\n")
        assert (result.exit_code, name in result.stderr) == (2, True), result.output


def test_a_name_that_two_accounts_have_is_refused_with_both_ids(accounts: Shell) -> None:
    made = [shown(accounts, *ADD, typed=f"{TOKEN}\n")["id"] for _ in range(2)]

    result = accounts.run("accounts", "show", "Acme")

    assert result.exit_code == 1
    assert all(account_id in result.stderr for account_id in made)


def test_an_agent_is_created_at_an_account(accounts: Shell) -> None:
    made = shown(accounts, *ADD, typed=f"{TOKEN}\n")

    agent = shown(accounts, "agents", "create", "desk", "--carrier-account", made["id"])

    assert agent["carrierAccountId"] == made["id"]


def test_the_doctor_checks_one_account_alone(accounts: Shell, providers: FakeAccounts) -> None:
    shown(accounts, *ADD, typed=f"{TOKEN}\n")

    found = shown(accounts, "doctor", "--account", "Acme", code=3)  # an account without numbers is a warning
    assert [check["name"] for check in found["checks"]] == ["credentials", "numbers", "trunks"]
    providers.accepted.clear()
    refused = accounts.run("doctor", "--account", "Acme")
    assert (refused.exit_code, "✗" in refused.stdout) == (1, True)
    assert accounts.run("doctor", "--account", "nobody").exit_code == 1
