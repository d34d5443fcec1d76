"""The page of the system: what runs, how it is set, and that no secret is on it."""

import re
import uuid
from datetime import UTC, datetime, timedelta

from pydantic import SecretStr
from sqlalchemy import update

from app.access import Scope
from app.db.models import Audit, Operation
from app.domain.findings import AuditStatus
from app.domain.version import VERSION
from app.settings import Settings
from app.views.system import setting_lines
from tests.support.api import Api, make_settings
from tests.support.console import signed_in

SECRETS = {
    "database_url": "postgresql://trunkline:hunter2@db.example.com:5432/trunkline?password=hunter2",
    "redis_url": "rediss://:hunter2@redis.example.com:6379/0",
    "flower_basic_auth": "me:hunter2",
    "twilio_auth_token": "hunter2-token",
    "twilio_api_key_sid": "SK" + "0" * 32,
    "twilio_api_key_secret": "hunter2-secret",
    "livekit_api_key": "hunter2-key",
    "livekit_api_secret": "hunter2-livekit",
    "otel_exporter_otlp_endpoint": "https://me:hunter2@otel.example.com/otlp",
}


def page(api: Api) -> str:
    response = signed_in(api, Scope.READ).get("/system")
    assert response.status_code == 200, response.text
    return response.text


def test_the_page_shows_versions_checks_and_settings(api: Api) -> None:
    text = page(api)

    assert f"<dt>Trunkline</dt><dd><code>{VERSION}</code></dd>" in text
    assert re.search(r"<dt>Schema</dt><dd><code>\d{4}</code></dd>", text)
    assert '<span class="badge good">Ready</span>' in text
    assert (
        '<code>OPERATION_BUDGET_S</code></th><td><code>900.0</code></td><td><span class="muted">default</span>' in text
    )
    assert "<strong>Twilio</strong>" in text


def test_of_no_secret_is_more_shown_than_that_it_is_set() -> None:
    settings = make_settings(SECRETS["database_url"]).model_copy(
        update={
            name: SecretStr(value) if "SecretStr" in str(Settings.model_fields[name].annotation) else value
            for name, value in SECRETS.items()
        }
    )
    shown = {line.name: line.value for line in setting_lines(settings)}

    assert not [name for name, value in shown.items() if "hunter2" in value]
    assert shown["DATABASE_URL"] == "postgresql://db.example.com:5432/trunkline"
    assert shown["LIVEKIT_API_SECRET"] == shown["FLOWER_BASIC_AUTH"] == "(set, not shown)"
    assert shown["CREDENTIAL_KEYS"] == ""
    assert set(shown) == {name.upper() for name in Settings.model_fields}


def test_a_schedule_that_stands_still_is_late(api: Api) -> None:
    assert "nothing is overdue" in page(api)
    operation_id = api.provision(api.agent(), "+15145550001").json["operationId"]
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    with api.wiring.sessions.begin() as session:
        session.execute(update(Operation).where(Operation.id == uuid.UUID(operation_id)).values(wake_at=long_ago))
        session.add(Audit(status=AuditStatus.DONE, findings=[], finished_at=long_ago, created_at=long_ago))

    text = page(api)

    assert "no sweeper seems to run" in text
    assert text.count(">Late<") == 2


def test_only_operators_see_it(api: Api) -> None:
    acme = api.in_workspace("acme", Scope.ADMIN)
    browser = signed_in(api, Scope.READ)
    assert 'href="/system"' in browser.get("/audit").text
    browser.sign_in(acme.key)

    assert browser.get("/system").status_code == 403
    assert 'href="/system"' not in browser.get("/audit").text
