"""`doctor` on a working installation, and on one wrong setting, store, provider or process at a time."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from app.cli.doctor import NullPublisher, doctor
from app.cli.doctor_checks import read_settings
from app.cli.doctor_providers import PROVIDER_CHECKS
from app.db.models import Audit
from app.domain.events import Origin
from app.domain.findings import AuditStatus
from app.domain.sip_uris import SipUri
from app.settings import Settings
from app.wiring import build
from tests.support.api import make_settings
from tests.support.sandbox import ControlledSandbox
from tests.support.sandbox_app import SandboxApp
from tests.support.servers import PostgresServer, ValkeyServer

NOWHERE = "127.0.0.1:1"


@pytest.fixture
def well(live: SandboxApp, valkey_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SandboxApp:
    """A working installation; its settings are in the environment."""
    monkeypatch.setenv("REDIS_URL", valkey_server.url)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return live


def _run(*words: str) -> Result:
    result = CliRunner().invoke(doctor, words, prog_name="trunkline")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def _check(code: int) -> dict[str, dict[str, Any]]:
    """Run `doctor` and return the checks that did not pass, by name; where one name has several, the last."""
    result = _run("--json")
    assert result.exit_code == code, result.output
    shown = json.loads(result.stdout)
    assert shown["ok"] is (code == 0)
    return {one["name"]: one for one in shown["checks"] if one["verdict"] != "ok"}


def test_every_check_passes_on_a_working_installation(well: SandboxApp) -> None:
    result = _run()

    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "All checks passed."), result.output
    assert "calls go to sandbox.sip.livekit.cloud" in result.stdout
    assert _check(0) == {}


def test_every_missing_setting_is_named_at_once_and_the_rest_is_still_checked(
    well: SandboxApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "LIVEKIT_API_SECRET"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("LIVEKIT_SIP_URI", "sips:p_abc.sip.livekit.cloud")

    result = _run()

    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    wrong = [line.split()[2] for line in lines if line.startswith("✗")]
    assert wrong == ["TWILIO_ACCOUNT_SID:", "TWILIO_AUTH_TOKEN:", "LIVEKIT_API_SECRET:", "LIVEKIT_SIP_URI:"]
    assert sum("→ " in line for line in lines) == 4
    assert "PostgreSQL 18 responds" in result.stdout
    assert "not checked: fix TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN first" in result.stdout
    assert lines[-1] == "4 failed, 7 not checked."


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_the_doctor_runs_whichever_setting_is_wrong(
    sandbox_server: ControlledSandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    stores = {"DATABASE_URL": f"postgresql://nobody@{NOWHERE}/none", "REDIS_URL": f"redis://{NOWHERE}/0"}
    for variable, value in {**sandbox_server.control.settings(), **stores, name.upper(): "\x01 nonsense"}.items():
        monkeypatch.setenv(variable, value)

    settings, problems = read_settings()

    assert isinstance(settings, Settings)
    assert name.upper() in problems


def test_a_wrong_token_is_told_from_a_missing_permission(well: SandboxApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "of somebody else")
    monkeypatch.setenv("LIVEKIT_API_SECRET", "of another project, forty bytes and more")
    found = _check(1)
    assert "HTTP 401" in found["Twilio"]["detail"]
    assert "TWILIO_AUTH_TOKEN is not TWILIO_ACCOUNT_SID's" in found["Twilio"]["mend"]
    assert "the key lacks SIP admin" in found["LiveKit"]["mend"]
    assert found["numbers"]["detail"] == "not checked: fix Twilio first"

    monkeypatch.undo()
    assert "of somebody else" not in _run().output


def test_a_key_that_may_not_list_numbers_is_found_though_trunks_answer(well: SandboxApp) -> None:
    well.sandbox.fault("twilio.list_numbers", "reject", times=None, status=403, code=20003)

    found = _check(1)

    assert list(found) == ["numbers"]
    assert "a restricted API key needs Phone Numbers" in found["numbers"]["mend"]


def test_an_account_that_is_nearly_full_is_a_warning(well: SandboxApp) -> None:
    for number in range(98):
        well.console.twilio("POST", "/v1/Trunks", FriendlyName=f"theirs-{number}")

    found = _check(3)

    assert found["trunks"]["detail"].startswith("499 more numbers fit: 499 places are free on shared trunks")


def test_a_rule_that_matches_every_call_is_a_warning(well: SandboxApp) -> None:
    kind = {"dispatch_rule_individual": {"room_prefix": "all"}}
    made = well.console.livekit("CreateSIPDispatchRule", dispatch_rule={"name": "all", "rule": kind})

    assert made["sip_dispatch_rule_id"] in _check(3)["dispatch rules"]["detail"]


CLOUD = "wss://desk-a1b2c3.livekit.cloud"
OWN = "wss://livekit.example.com"


@pytest.mark.parametrize(
    ("url", "host", "wrong"),
    [
        (CLOUD, "4xk29.sip.livekit.cloud", ""),
        (CLOUD, "4xk29.eu.sip.livekit.cloud", ""),
        (CLOUD, "sip.example.com", "is not a LiveKit Cloud SIP host"),
        (CLOUD, "desk-a1b2c3.sip.livekit.cloud", "starts with the project's name"),
        (OWN, "sip.example.com", ""),
        (OWN, "4xk29.sip.livekit.cloud", "calls go to LiveKit Cloud"),
    ],
)
def test_the_sip_host_is_compared_with_the_project(url: str, host: str, wrong: str) -> None:
    settings = make_settings(f"postgresql://nobody@{NOWHERE}/none").model_copy(
        update={"livekit_url": url, "livekit_sip_uri": SipUri(host, 5060, "tcp")}
    )
    wiring = build(settings, publisher=NullPublisher())
    (check,) = [check for check in PROVIDER_CHECKS if check.name == "SIP URI"]

    outcome = check.run(wiring)

    wiring.close()
    assert (outcome.status, wrong in outcome.detail) == ("failed" if wrong else "ok", True)
    assert bool(outcome.fix) is bool(wrong)


def test_a_database_without_the_schema_says_how_to_migrate(
    well: SandboxApp, monkeypatch: pytest.MonkeyPatch, postgres_server: PostgresServer
) -> None:
    postgres_server.create_database("doctor_empty")
    monkeypatch.setenv("DATABASE_URL", postgres_server.url("doctor_empty"))

    found = _check(1)

    assert found["migrations"]["mend"] == "Run: alembic upgrade head"
    assert set(found) == {"migrations", "trunks", "sweeper", "workers", "API keys", "stored secrets"}


def test_stores_that_are_down_are_named_without_their_passwords(
    well: SandboxApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://app:hidden@{NOWHERE}/none")
    monkeypatch.setenv("REDIS_URL", f"redis://:hidden@{NOWHERE}/0")

    result = _run()

    assert (result.exit_code, "hidden" in result.output) == (1, False)
    found = _check(1)
    assert "Check DATABASE_URL" in found["database"]["mend"]
    assert "Check REDIS_URL" in found["broker"]["mend"]
    assert "Twilio" not in found


def test_late_audits_show_that_sweeper_and_workers_do_not_run(well: SandboxApp) -> None:
    well.wiring.audits.request_audit(fix=False, origin=Origin(requested_by="sweeper"))
    assert _check(0) == {}
    _age_audits(well, "5 minutes")
    assert list(_check(3)) == ["workers"]
    _age_audits(well, "1 hour")

    found = _check(3)

    assert set(found) == {"sweeper", "workers"}
    assert found["sweeper"]["mend"].endswith("trunkline sweep")


def _age_audits(live: SandboxApp, by: str) -> None:
    with live.wiring.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE audits SET created_at = created_at - interval '{by}'")  # noqa: S608


def test_an_overdue_operation_shows_that_the_sweeper_does_not_run(well: SandboxApp) -> None:
    agent = well.wiring.agents.create("late", None, {})
    well.sandbox.number("+15145550001")
    with well.wiring.sessions.begin() as session:
        session.add(Audit(status=AuditStatus.DONE))
    well.wiring.provisioning.provision(agent.id, "+15145550001", takeover=False, origin=Origin())
    with well.wiring.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE operations SET wake_at = now() - interval '2 minutes', idle_kicks = 4")

    found = _check(3)

    assert "120 s overdue" in found["sweeper"]["detail"]
    assert found["workers"]["detail"] == "no worker starts what is queued: 1 operations wait"


def test_half_an_api_key_is_reported_and_the_other_checks_run(
    well: SandboxApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWILIO_API_KEY_SID", "SK" + "0" * 32)

    found = _check(1)

    assert "TWILIO_API_KEY_SECRET: goes with TWILIO_API_KEY_SID" in found["settings"]["detail"]
    assert found["Twilio"]["verdict"] == "skipped"
