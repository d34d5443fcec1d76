"""A database of the first edition, with rows in every table, on its way to this release: one path, nothing lost."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine, inspect, text

from app import create_app
from app.db.access import ApiKey
from app.domain.workspaces import DEFAULT_WORKSPACE, ENVIRONMENT_ACCOUNT, ENVIRONMENT_PROJECT
from app.sealing import Sealer, is_sealed
from app.webhooks.deliveries import previous_secret_field, secret_field
from app.wiring import Wiring, build
from tests.support.api import Api, PingOnlyProvider, RecordingPublisher, make_settings
from tests.support.servers import ROOT

ROWS = Path(__file__).with_name("rows_of_migration_0006.sql")
FIRST_EDITION = "0006"

KEY = b"k" * 32
ADMIN, READ, REVOKED = "tl_old-admin-key", "tl_old-read-key", "tl_old-revoked-key"
RINGING, FAILED, OPEN = (f"20000000-0000-4000-8000-00000000000{n}" for n in (1, 3, 2))
ENDPOINT = "60000000-0000-4000-8000-000000000001"
SECRETS = {
    "secret": "whsec_b2xkLXNlY3JldC1vZi10aGUtZmlyc3QtZWRpdGlvbg==",
    "previous_secret": "whsec_ZXZlbi1vbGRlci1zZWNyZXQtYmVmb3JlLXRoYXQ=",
}
OTHER_WORKSPACE = """
    INSERT INTO workspaces (id, slug, name, carrier_account_id, voice_project_id)
    SELECT '80000000-0000-4000-8000-000000000001', 'second', 'Second', carrier_account_id, voice_project_id
    FROM workspaces;
    INSERT INTO agents (id, name, livekit_agent_name, metadata, phone_provisioning_status, workspace_id)
    VALUES ('80000000-0000-4000-8000-000000000002', 'theirs', 'theirs', '{}', 'NOT_PROVISIONED',
            '80000000-0000-4000-8000-000000000001')
"""

Rows = dict[str, list[dict[str, Any]]]


def config_of(url: str, keys: tuple[bytes, ...] = (KEY,)) -> Config:
    config = Config(toml_file=ROOT / "pyproject.toml")
    config.attributes |= {"url": url, "sealing_keys": keys}
    return config


def rows_of(engine: Engine, columns: dict[str, list[str]] | None = None) -> Rows:
    """Return all rows of every table, or of these with these columns alone."""
    names = inspect(engine)
    wanted = columns or {
        table: sorted(each["name"] for each in names.get_columns(table))
        for table in names.get_table_names()
        if table != "alembic_version"
    }
    with engine.begin() as connection:
        return {
            table: sorted(
                (dict(row) for row in connection.execute(text(f"SELECT {', '.join(own)} FROM {table}")).mappings()),  # noqa: S608 - names of our own schema
                key=str,
            )
            for table, own in wanted.items()
        }


def columns_of(rows: Rows) -> dict[str, list[str]]:
    return {table: list(own[0]) for table, own in rows.items()}


def without_secrets(rows: Rows) -> Rows:
    kept = [{name: value for name, value in row.items() if name not in SECRETS} for row in rows["webhook_endpoints"]]
    return rows | {"webhook_endpoints": kept}


@pytest.fixture
def old_engine(empty_database_url: str) -> Iterator[Engine]:
    """A database at the first edition's last migration, with its rows."""
    command.upgrade(config_of(empty_database_url), FIRST_EDITION)
    engine = create_engine(empty_database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(ROWS.read_text(encoding="utf-8"))
    yield engine
    engine.dispose()


@contextmanager
def services(url: str) -> Iterator[Wiring]:
    """Yield this release's services over a database, with the key that seals."""
    key = SecretStr(base64.b64encode(KEY).decode())
    settings = make_settings(url).model_copy(update={"credential_keys": key})
    provider = PingOnlyProvider()
    wiring = build(settings, publisher=RecordingPublisher(), carrier=provider, platform=provider)
    try:
        yield wiring
    finally:
        wiring.close()


def opened(engine: Engine, sealer: Sealer) -> dict[str, str]:
    """Return the webhook's secrets as they are stored, opened."""
    with engine.begin() as connection:
        row = connection.exec_driver_sql("SELECT id, secret, previous_secret FROM webhook_endpoints").one()
    assert is_sealed(row.secret)
    assert is_sealed(row.previous_secret)
    return {
        "secret": sealer.open(row.secret, secret_field(row.id)),
        "previous_secret": sealer.open(row.previous_secret, previous_secret_field(row.id)),
    }


def test_every_row_goes_up_and_what_it_said_is_unchanged(old_engine: Engine, empty_database_url: str) -> None:
    before = rows_of(old_engine)
    assert [table for table, rows in before.items() if not rows] == []
    command.upgrade(config_of(empty_database_url), "head")
    after = rows_of(old_engine, columns_of(before))
    assert without_secrets(after) == without_secrets(before)
    command.check(config_of(empty_database_url))


def test_its_webhook_secrets_are_sealed_and_still_the_same(old_engine: Engine, empty_database_url: str) -> None:
    command.upgrade(config_of(empty_database_url), "head")
    assert opened(old_engine, Sealer((KEY,))) == SECRETS
    stored = str(rows_of(old_engine))
    assert [name for name, secret in SECRETS.items() if secret in stored] == []


def test_without_keys_its_secrets_stay_readable_until_they_are_sealed(
    old_engine: Engine, empty_database_url: str
) -> None:
    command.upgrade(config_of(empty_database_url, keys=()), "head")
    (endpoint,) = rows_of(old_engine)["webhook_endpoints"]
    assert {name: endpoint[name] for name in SECRETS} == SECRETS
    with services(empty_database_url) as wiring:
        wiring.stored_secrets.rewrap()
    assert opened(old_engine, Sealer((KEY,))) == SECRETS


def test_its_agents_are_the_default_workspaces_and_use_the_environments_accounts(
    old_engine: Engine, empty_database_url: str
) -> None:
    command.upgrade(config_of(empty_database_url), "head")
    rows = rows_of(old_engine)
    (workspace,) = rows["workspaces"]
    assert workspace["id"] == DEFAULT_WORKSPACE
    for table in ("agents", "operations", "bulks", "webhook_endpoints"):
        assert {row["workspace_id"] for row in rows[table]} == {DEFAULT_WORKSPACE}, table
    accounts = {(row["carrier_account_id"], row["voice_project_id"]) for row in rows["agents"]}
    assert accounts == {(ENVIRONMENT_ACCOUNT, ENVIRONMENT_PROJECT)}
    assert {row["workspace_id"] for table in ("api_keys", "audits") for row in rows[table]} == {None}


@pytest.fixture
def api(old_engine: Engine, empty_database_url: str) -> Iterator[Api]:
    """This release's API over the upgraded database, and a second workspace with an agent beside it."""
    command.upgrade(config_of(empty_database_url), "head")
    with old_engine.begin() as connection:
        connection.exec_driver_sql(OTHER_WORKSPACE)
    with services(empty_database_url) as wiring:
        provider = PingOnlyProvider()
        yield Api(create_app(wiring), wiring, RecordingPublisher(), provider, provider, key=ADMIN)


@pytest.mark.parametrize("key", [ADMIN, READ])
def test_its_keys_still_work_and_see_all(api: Api, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}

    def get(path: str) -> Any:
        answer = api.get(path, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json

    assert {each["name"] for each in get("/api/agents")["items"]} == {"front desk", "night line", "sales", "theirs"}
    assert get(f"/api/agents/{RINGING}/phone-status")["phoneProvisioningStatus"] == "PROVISIONED"
    assert get(f"/api/agents/{RINGING}/phone-status")["phoneNumber"] == "+15145550101"
    assert get(f"/api/agents/{OPEN}/phone-status")["phoneProvisioningStatus"] == "DEPROVISIONING"
    assert len(get("/api/operations")["items"]) == 3  # not that of the deleted agent
    assert get("/api/operations/40000000-0000-4000-8000-000000000002")["status"] == "running"
    assert [each["total"] for each in get("/api/provisionings")["items"]] == [2]


def test_its_admin_key_still_manages_and_a_revoked_one_stays_revoked(api: Api) -> None:
    assert [each["id"] for each in api.get("/api/webhooks").json["items"]] == [ENDPOINT]
    assert api.get("/api/audit/50000000-0000-4000-8000-000000000001").json["status"] == "done"
    assert api.get("/api/agents", headers={"Authorization": f"Bearer {REVOKED}"}).status_code == 401
    with api.wiring.sessions() as session:
        assert {key.name: key.revoked_at is None for key in session.query(ApiKey)} == {
            "backend": True,
            "dashboard": True,
            "lost": False,
        }


def test_an_agent_that_failed_there_gets_a_number_here(api: Api) -> None:
    answer = api.provision(FAILED, "+15145550103")
    assert answer.status_code == 202, answer.text
    (row,) = [row for row in rows_of(api.wiring.engine)["operations"] if row["status"] == "queued"]
    assert (str(row["agent_id"]), row["workspace_id"]) == (FAILED, DEFAULT_WORKSPACE)
