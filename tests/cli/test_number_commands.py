"""`numbers list`: uses, filters, and what it prints of them."""

import pytest

from tests.support.commands import Shell
from tests.support.sandbox_app import FOREIGN_NUMBER, NUMBER

FREE, OTHER = "+15145550000", "+14385550001"


@pytest.fixture
def numbers(shell: Shell) -> Shell:
    """The account's two numbers, a free one, and one of each other use."""
    shell.live.sandbox.number(FREE)
    shell.live.sandbox.number(OTHER, voiceUrl="https://flows.example.com/v1/Flows/FW1")
    shell.live.sandbox.number("+14385550002", voiceApplicationSid="AP" + "f" * 32)
    shell.live.sandbox.number("+14385550003", voice=False)
    return shell


def rows(output: str) -> dict[str, list[str]]:
    """Return the words of each row, by number."""
    return {line.split()[0]: line.split()[1:] for line in output.splitlines()[1:]}


def listed(shell: Shell, *words: str) -> list[str]:
    return [one["phoneNumber"] for one in shell.json("numbers", "list", *words)["items"]]


def test_each_number_is_listed_with_its_use(numbers: Shell) -> None:
    result = numbers.run("numbers", "list")
    found = rows(result.stdout)

    assert list(found) == sorted(found)
    assert found[FREE][0] == "free"
    assert found[OTHER][:4] == ["voice_url", "callers", "reach", "flows.example.com"]
    assert found["+14385550002"][:4] == ["application", "on", "application", "AP" + "f" * 32 + ":"]
    assert found["+14385550003"][0] == "no_voice"
    assert found[FOREIGN_NUMBER][:7] == ["trunk", "on", "another", "trunk:", "adopt", "its", "path,"]
    assert found[FOREIGN_NUMBER][10].startswith("TK")
    assert found[NUMBER][:4] == ["agent", "front", "desk", f"({numbers.live.agent_id})"]
    assert found[NUMBER][4] == numbers.live.agent.twilio_trunk_sid
    assert all(words[-1].startswith("PN") for words in found.values())
    assert result.stderr == "6 numbers, 1 free. Connect one: trunkline provision AGENT NUMBER\n"


def test_json_is_what_the_api_responds(numbers: Shell) -> None:
    found = numbers.json("numbers", "list", "--use", "trunk")

    assert found["items"][0] | {"sid": "", "trunkSid": ""} == {
        "phoneNumber": FOREIGN_NUMBER,
        "sid": "",
        "use": "trunk",
        "agentId": None,
        "agentName": None,
        "trunkSid": "",
        "applicationSid": None,
        "voiceHost": None,
        "canProvision": True,
        "needsTakeover": True,
    }
    assert (found["nextCursor"], found["unreadable"], "asOf" in found) == (None, 0, True)


def test_use_search_and_limit_narrow_the_list(numbers: Shell) -> None:
    assert listed(numbers, "--free") == listed(numbers, "--use", "free") == [FREE]
    assert listed(numbers, "--use", "agent") == [NUMBER]
    assert listed(numbers, "--search", "(438) 555-000") == [OTHER, "+14385550002", "+14385550003"]
    assert listed(numbers, "--search", "FRONT") == [NUMBER]
    assert listed(numbers, "--search", "438", "--use", "voice_url") == [OTHER]
    assert listed(numbers, "--search", "nobody") == []
    assert listed(numbers, "--limit", "2") == [OTHER, "+14385550002"]
    limited = numbers.run("numbers", "list", "--limit", "2")
    assert len(rows(limited.stdout)) == 2
    assert "There are more: use a higher --limit." in limited.stderr
    assert numbers.run("numbers", "list", "--search", "nobody").stderr.startswith("0 numbers, 0 free.")
    for wrong in (("--use", "FREE"), ("--limit", "0"), ("--limit", "x")):
        assert numbers.run("numbers", "list", *wrong).exit_code == 2


def test_a_record_that_cannot_be_read_is_told(numbers: Shell) -> None:
    numbers.live.sandbox.number("front desk")
    assert "Left out, since they cannot be read: 1 records." in numbers.run("numbers", "list").stderr


def test_an_account_without_numbers_is_told(shell: Shell) -> None:
    shell.live.sandbox.reset()
    result = shell.run("numbers", "list")
    assert (result.stdout, result.stderr) == ("", "The account has no numbers: buy one in the Twilio console.\n")


def test_a_provider_that_refuses_is_one_line(shell: Shell) -> None:
    shell.live.sandbox.fault("twilio.list_numbers", "reject", status=401, code=20003)

    result = shell.run("numbers", "list")

    assert result.exit_code == 1
    assert result.stderr == "Error: Twilio refused list_numbers: HTTP 401, code 20003. (twilio_bad_credentials)\n"
