"""Every command against a server, with a URL and a key alone: what it does, or that it must run on the server."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.access import Scope
from app.cli import progress
from app.cli.commands import COMMANDS
from app.sealing import Sealer
from app.web.context import WIRING
from tests.cli.test_command_list import commands_of
from tests.support.accounts import PROJECT_KEY, PROJECT_SECRET, PROJECT_URL, SID, TOKEN, Room, accepting
from tests.support.commands import RemoteShell, Shell
from tests.support.handmade import build_by_hand
from tests.support.sandbox_app import NUMBER, SandboxApp
from tests.support.served_app import served
from tests.support.toolboxes import with_parts

FREE, OTHER, DECLARED, OLD = "+15145550001", "+15145550002", "+15145550003", "+15145550007"
ON_THE_SERVER = {"credentials rewrap", "doctor", "sweep"}


@pytest.fixture
def remote(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteShell]:
    """A command line on another machine: no settings, no file of them, and a server at a URL."""
    wiring = shell.live.wiring
    accounts = replace(wiring.accounts, sealer=Sealer([b"k" * 32]), clients=accepting(), room_of=lambda _: Room())
    shell.application.extensions[WIRING] = with_parts(wiring, accounts=accounts)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("DATABASE_URL", "REDIS_URL", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "LIVEKIT_API_SECRET"):
        monkeypatch.delenv(name, raising=False)
    with served(shell.application) as url:
        monkeypatch.setattr("app.cli.installation.wiring", lambda: pytest.fail("a command looks into the database"))
        found = RemoteShell(shell.live, url)
        monkeypatch.setattr(progress.time, "sleep", found.pause)
        yield found


def audit_and_drive(live: SandboxApp) -> None:
    """Do what workers and sweeper do."""
    publisher, wiring = live.publisher, live.wiring
    for audit_id in publisher.audits:
        wiring.audits.run_audit(audit_id)
    publisher.audits.clear()
    wiring.dispatcher.advance()
    live.drive()


Run = Callable[..., str]
"""Runs a command that must end with `code`; returns what it prints."""


def use_one_number(run: Run) -> str:
    """Run the commands about one number; return the id of an agent without one."""
    desk, night = (run("agents create", name).strip() for name in ("desk", "night"))
    assert "front desk" in run("agents list")
    assert desk in run("agents show", "desk")
    assert FREE in run("numbers list", "--free")
    assert "No obstacles." in run("provision number", "desk", FREE, "--dry-run")
    assert run("provision number", "desk", FREE) == f"{FREE} is connected to desk.\n"
    assert "PROVISIONED" in run("status", desk[:8])
    assert run("agents set", "desk", "--livekit-agent", "reception") == "desk is changed.\n"
    assert run("verify", "desk").startswith("Every check passed.")
    assert "othing to repair" in run("repair", "desk")
    (newest, *_) = json.loads(run("operations list", "--agent", "desk", "--json"))["items"]
    assert "operation_succeeded" in run("operations show", newest["id"][:8])
    run("operations retry", newest["id"], code=1)
    assert run("move", "desk", "night") == f"{FREE} is connected to night.\n"
    assert run("deprovision", night, "--yes") == "night no longer has a number.\n"
    assert f"The path of {OLD} is night's." in run("adopt", "night", OLD, "--yes")
    run("call", "night", "--no-wait")
    assert "2 agents checked" in run("audit")
    assert "agent.create" in run("activity")
    return desk


def use_bulks(run: Run, file: Path) -> None:
    """Run the commands about many numbers."""
    file.write_text(f"phoneNumber,agent\n{FREE},one\n", encoding="utf-8")
    bulk = json.loads(run("import", str(file), "--json"))["id"]
    file.write_text(f"phoneNumber,agent\n{OTHER},two\n+1514,three\n", encoding="utf-8")
    report = file.with_name("report.csv")
    run("provision import", str(file), "--report", str(report), code=3)
    assert "validation_failed" in report.read_text(encoding="utf-8")
    assert f"Bulk {bulk} is succeeded" in run("provision watch", bulk)
    run("provision cancel", bulk)
    run("provision resume", bulk, "--no-wait")
    assert "numbers fit" in run("trunks list")
    assert "1 stay where they are" in run("trunks consolidate", "--dry-run")


def use_a_file(run: Run, file: Path) -> None:
    """Run the commands about a file of agents and numbers."""
    file.write_text(f"agents:\n- externalId: declared\n  phoneNumber: {DECLARED}\n", encoding="utf-8")
    assert f"+ provision    declared  {DECLARED}" in run("plan", "-f", str(file), code=2)
    assert "is succeeded" in run("apply", "-f", str(file), "--yes")
    assert run("plan", "-f", str(file)) == "Nothing to do: all is as the file says.\n"
    assert "externalId: declared" in run("export")


def use_teams(run: Run) -> None:
    """Run the commands about workspaces, keys and accounts."""
    run("workspaces create", "acme", "--name", "Acme")
    assert "acme" in run("workspaces list")
    run("workspaces show", "acme")
    assert "Acme Inc." in run("workspaces change", "acme", "--name", "Acme Inc.")
    assert run("keys create", "ci", "--workspace", "acme", "--scope", "read").startswith("tl_")
    assert "acme" in run("keys list")
    run("keys revoke", "ci")
    run("workspaces delete", "acme", "--yes")
    project = ("--url", PROJECT_URL, "--api-key", PROJECT_KEY, "--sip-uri", "sip:4nd0vfrjcr1.sip.livekit.cloud")
    for group, secret, options in (
        ("accounts", TOKEN, ("--account-sid", SID)),
        ("projects", PROJECT_SECRET, project),
    ):
        run(f"{group} add", "Acme", *options, typed=f"{secret}\n")
        assert "Acme" in run(f"{group} list")
        run(f"{group} show", "Acme")
        run(f"{group} change", "Acme", "--rate", "12")
        run(f"{group} check", "Acme")
        run(f"{group} rotate", "Acme", typed=f"{secret}\n")
        run(f"{group} delete", "Acme", "--yes")


def test_every_command_works_with_a_url_and_a_key(remote: RemoteShell, tmp_path: Path) -> None:
    done: set[str] = set()
    remote.meanwhile = lambda: audit_and_drive(remote.live)
    for number in (FREE, OTHER, DECLARED):
        remote.live.sandbox.number(number)
    build_by_hand(remote.live.sandbox, OLD, "night-line")

    def run(command: str, *words: str, code: int = 0, typed: str = "") -> str:
        done.add(command)
        result = remote.run(*command.split(), *words, typed=typed)
        assert result.exit_code == code, (command, result.output)
        return result.stdout

    desk = use_one_number(run)
    use_bulks(run, tmp_path / "numbers.csv")
    use_a_file(run, tmp_path / "numbers.yaml")
    run("agents delete", desk, "--yes")
    use_teams(run)
    remote.live.wiring.webhooks.create("https://hooks.example.com/in", None, None)
    assert "hooks.example.com" in run("webhooks list")
    run("webhooks trigger", "ping")
    run("webhooks listen", code=1)  # this server sends nothing to loopback: test_webhook_commands.py has one that does

    assert done | ON_THE_SERVER == set(commands_of(COMMANDS))


@pytest.mark.parametrize("command", sorted(ON_THE_SERVER))
def test_what_only_the_installation_can_do_says_where_it_must_run(remote: RemoteShell, command: str) -> None:
    result = remote.run(*command.split())

    url = remote.given["TRUNKLINE_URL"]
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error: {command} must run on the server itself, where its settings are, and commands go to {url}: log in "
        f"there, or call trunkline --local {command}.\n"
    )


def test_an_operation_is_remembered_with_the_key_s_name(remote: RemoteShell) -> None:
    remote.run("agents", "create", "desk")
    (newest, *_) = remote.json("activity", "--limit", "1")["items"]

    assert (newest["actor"], newest["channel"], newest["action"]) == ("shell", "api", "agent.create")


def test_a_workspace_s_key_sees_its_own_and_a_profile_s_workspace_narrows_an_operator(
    remote: RemoteShell, tmp_path: Path
) -> None:
    remote.run("workspaces", "create", "acme")
    assert remote.json("agents", "list", "--workspace", "acme")["items"] == []
    assert remote.run("agents", "show", "front desk", "--workspace", "nowhere").exit_code == 1

    file = tmp_path / "trunkline" / "config.toml"
    file.parent.mkdir()
    file.touch(0o600)
    url, key = remote.given["TRUNKLINE_URL"], remote.given["TRUNKLINE_KEY"]
    file.write_text(f'[acme]\nurl = "{url}"\nkey = "{key}"\nworkspace = "acme"\n', encoding="utf-8")
    remote.given = {}
    assert remote.json("--profile", "acme", "agents", "list")["items"] == []
    every = remote.json("--profile", "acme", "workspaces", "list")["items"]
    assert [one["slug"] for one in every] == ["acme", "default"]
    assert remote.run("--profile", "nobody", "agents", "list").exit_code == 1


def test_with_json_an_error_is_one_document_on_stderr(remote: RemoteShell) -> None:
    missing = remote.run("status", "nobody", "--json")
    wrong = remote.run("status", "--json")
    invalid = remote.run("agents", "create", "", "--json")
    remote.given["TRUNKLINE_KEY"] = "tl_wrong"
    unknown = remote.run("agents", "list", "--json")

    told = [json.loads(one.stderr) for one in (missing, wrong, invalid, unknown)]
    assert [one["code"] for one in told] == ["agent_not_found", "usage", "validation_failed", "unauthenticated"]
    assert [one.exit_code for one in (missing, wrong, invalid, unknown)] == [1, 2, 2, 1]
    assert told[2]["errors"].keys() == {"name"}
    assert all(one["type"].startswith("urn:trunkline:problem:") and one["detail"] for one in told)
    assert not any(one.stdout for one in (missing, wrong, invalid, unknown))


def test_a_key_that_may_not_change_anything_is_told_so(remote: RemoteShell) -> None:
    remote.given["TRUNKLINE_KEY"] = remote.new_key(Scope.READ)

    result = remote.run("deprovision", "front desk", "--yes")

    assert (result.exit_code, "(forbidden)" in result.stderr) == (1, True), result.stderr
    assert NUMBER in remote.run("status", "front desk").stdout


def test_the_version_is_told_without_a_server(remote: RemoteShell) -> None:
    remote.given = {"TRUNKLINE_URL": "nonsense"}

    assert remote.run("--version").stdout.startswith("trunkline 0.")
