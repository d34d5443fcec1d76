import json
import os
import subprocess
import sys
import uuid
from typing import Any

import pytest
from click.testing import Result

from app import create_app
from app.access import KeyService
from app.wiring import build
from tests.support.api import NUMBER, OTHER_NUMBER, Api, make_settings


def _run(api: Api, *arguments: str) -> Result:
    return api.app.test_cli_runner().invoke(args=arguments)


def test_a_key_is_made_and_shown_once(api: Api) -> None:
    result = _run(api, "keys", "create", "ops")

    key = result.stdout.strip()
    assert result.exit_code == 0
    assert "cannot be shown again" in result.stderr
    caller = KeyService(api.wiring.sessions).authenticate(key)
    assert caller is not None
    assert caller.scopes == ("read", "write")
    assert key not in _run(api, "keys", "list").output


def test_a_key_is_made_for_a_program(api: Api) -> None:
    result = _run(api, "keys", "create", "dev", "--scope", "admin", "--json")

    made = json.loads(result.stdout)
    assert set(made) == {"key", *json.loads(_run(api, "keys", "list", "--json").stdout)[0]}
    assert (made["name"], made["scopes"]) == ("dev", ["admin"])
    listed = json.loads(_run(api, "keys", "list", "--json").stdout)
    assert [key["name"] for key in listed] == ["tests", "dev"]
    assert listed[1]["id"] == made["id"]


@pytest.mark.parametrize(
    "arguments", [("create", "a", "--scope", "root"), ("create",), ("create", "a\nb"), ("revoke", "nobody")]
)
def test_a_command_that_cannot_be_carried_out_fails_without_a_traceback(api: Api, arguments: Any) -> None:
    result = _run(api, "keys", *arguments)

    assert result.exit_code in {1, 2}
    assert "Traceback" not in result.output
    assert "Error:" in result.stderr
    assert api.count("api_keys") == 1


def test_a_key_is_revoked(api: Api) -> None:
    result = _run(api, "keys", "revoke", "tests")

    assert (result.exit_code, "Revoked tests" in result.stdout) == (0, True)
    assert api.get("/api/agents").status_code == 401


def test_a_name_that_two_keys_have_revokes_neither(api: Api) -> None:
    ids = [json.loads(_run(api, "keys", "create", "same", "--json").stdout)["id"] for _ in range(2)]

    result = _run(api, "keys", "revoke", "same")

    assert (result.exit_code, all(one in result.stderr for one in ids)) == (1, True)
    assert [key["revokedAt"] for key in json.loads(_run(api, "keys", "list", "--json").stdout)] == [None] * 3
    assert _run(api, "keys", "revoke", ids[0]).exit_code == 0
    assert _run(api, "keys", "revoke", "same").exit_code == 0


def test_a_workspace_is_made_with_a_key_changed_and_deleted(api: Api) -> None:
    assert _run(api, "workspaces", "create", "acme", "--name", "Acme").exit_code == 0
    assert _run(api, "workspaces", "change", "acme", "--name", "Acme Inc.").exit_code == 0
    key = json.loads(_run(api, "keys", "create", "theirs", "--workspace", "acme", "--json").stdout)
    listed = json.loads(_run(api, "workspaces", "list", "--json").stdout)["items"]
    left = _run(api, "workspaces", "delete", "acme", "--yes")
    _run(api, "keys", "revoke", key["id"])
    gone = _run(api, "workspaces", "delete", "acme", "--yes")

    assert key["workspace"] == "acme"
    assert [(one["slug"], one["name"]) for one in listed] == [("acme", "Acme Inc."), ("default", "Default")]
    assert (left.exit_code, "1 valid keys" in left.stderr) == (1, True)
    assert (gone.exit_code, gone.stdout) == (0, "Deleted Acme Inc. (acme).\n")
    assert "acme" in _run(api, "keys", "list").stdout


def test_a_command_sees_and_creates_in_the_workspace_that_it_names(api: Api) -> None:
    api.agent("ours")
    _run(api, "workspaces", "create", "acme")
    made = _run(api, "agents", "create", "theirs", "--workspace", "acme").stdout.strip()
    _run(api, "keys", "create", "theirs", "--workspace", "acme")

    def names(*command: str) -> list[str]:
        found = json.loads(_run(api, *command, "--json").stdout)
        return [one.get("name") or one["actor"] for one in (found["items"] if isinstance(found, dict) else found)]

    assert names("agents", "list") == ["theirs", "ours"]
    assert names("agents", "list", "--workspace", "acme") == ["theirs"]
    assert names("keys", "list", "--workspace", "acme") == ["theirs"]
    assert {who.split()[-1] for who in names("activity", "--workspace", "acme")} == {"create"}
    hidden = _run(api, "agents", "show", made, "--workspace", "default")
    assert (hidden.exit_code, "agent_not_found" in hidden.stderr) == (1, True)


def test_a_command_shows_nothing_of_another_workspace(api: Api) -> None:
    agent = api.agent("hidden")
    operation = api.provision(agent).json["operationId"]
    bulk = api.post("/api/provisionings", {"items": [{"phoneNumber": OTHER_NUMBER, "agent": "hidden too"}]}).json[
        "bulkId"
    ]
    api.wiring.webhooks.create("https://hidden.example.com/in", None, None)
    _run(api, "workspaces", "create", "acme")
    hidden = ("hidden", agent, operation, bulk, NUMBER, OTHER_NUMBER, "tests")

    for command in (
        ("agents", "list"),
        ("agents", "show", "hidden"),
        ("agents", "show", agent[:8]),
        ("status", agent),
        ("operations", "list"),
        ("operations", "show", operation),
        ("provision", "watch", bulk, "--no-wait"),
        ("webhooks", "list"),
        ("keys", "list"),
        ("activity",),
        ("activity", "--about", agent),
    ):
        assert any(one in _run(api, *command).stdout for one in hidden), command
        shown = _run(api, *command, "--workspace", "acme")
        assert not any(one in shown.stdout for one in hidden), command
        assert "Traceback" not in shown.stderr


@pytest.mark.parametrize("slug", ["nowhere", "", "a\nb"])
def test_a_workspace_that_there_is_not_is_one_line(api: Api, slug: str) -> None:
    result = _run(api, "agents", "list", "--workspace", slug)

    assert (result.exit_code, result.stdout) == (1, "")
    assert "workspace_not_found" in result.stderr


@pytest.mark.parametrize("command", [("trunks", "list"), ("credentials", "rewrap"), ("doctor",)])
def test_what_is_the_installation_s_takes_no_workspace(api: Api, command: tuple[str, ...]) -> None:
    assert _run(api, *command, "--workspace", "default").exit_code == 2


def test_an_operation_is_queued_again(api: Api) -> None:
    operation_id = api.provision(api.agent()).json["operationId"]

    result = _run(api, "operations", "retry", operation_id)

    assert (result.exit_code, result.stdout) == (0, f"Operation {operation_id} is queued.\n")
    assert len(api.publisher.plans) == 2
    gone = _run(api, "operations", "retry", str(uuid.uuid4()))
    assert (gone.exit_code, "operation_not_found" in gone.stderr) == (1, True)


def test_a_database_that_is_away_is_one_line(api: Api) -> None:
    settings = make_settings("postgresql://app:hidden@127.0.0.1:1/none")
    wiring = build(settings, publisher=api.publisher, carrier=api.carrier, platform=api.platform)

    result = create_app(wiring).test_cli_runner().invoke(args=["keys", "list"])

    wiring.close()
    assert result.exit_code == 1
    assert "hidden" not in result.output
    assert len(result.stderr.strip().splitlines()) == 1


def test_wrong_settings_end_the_process_with_a_line_each(tmp_path: Any) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd(), "REDIS_URL": "nonsense"}  # noqa: PTH109
    command = [sys.executable, "-m", "flask", "--app", "app", "keys", "list"]

    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)  # noqa: S603

    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert {"DATABASE_URL", "REDIS_URL", "TWILIO_ACCOUNT_SID"} <= {line.split(":")[0] for line in lines}
