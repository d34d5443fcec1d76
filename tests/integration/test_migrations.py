"""The migrations make what the models say, take it away again, and let every status in."""

import uuid
from enum import StrEnum
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, insert, inspect, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.db.access import Base
from app.db.models import Agent, Operation, OperationStep, Trunk
from app.domain.operations import OPEN_STATUSES, OperationKind, OperationStatus, PhoneStatus, StepState, TrunkState
from app.domain.workspaces import DEFAULT_WORKSPACE
from app.sealing import Sealer, is_sealed, new_key, parse_keys
from app.web.readiness import newest_migration
from app.webhooks.deliveries import old_secret_field, previous_secret_field, secret_field
from tests.support.saga import E164, Saga
from tests.support.servers import ROOT


def tables(url: str) -> set[str]:
    engine = create_engine(url)
    try:
        return set(inspect(engine).get_table_names()) - {"alembic_version"}
    finally:
        engine.dispose()


def test_they_go_up_match_the_models_go_down_and_up_again(empty_database_url: str) -> None:
    config = Config(toml_file=ROOT / "pyproject.toml")
    config.attributes["url"] = empty_database_url
    command.upgrade(config, "head")
    command.check(config)
    assert tables(empty_database_url) == set(Base.metadata.tables)
    command.downgrade(config, "base")
    assert tables(empty_database_url) == set()
    command.upgrade(config, "head")
    command.check(config)


def test_numbers_on_shared_trunks_keep_the_release_that_knows_them(empty_database_url: str) -> None:
    config = Config(toml_file=ROOT / "pyproject.toml")
    config.attributes["url"] = empty_database_url
    command.upgrade(config, "head")
    engine = create_engine(empty_database_url)
    try:
        with engine.begin() as connection:
            trunk = {"id": uuid.uuid4(), "profile": {}, "profile_hash": "", "shard": 1, "state": TrunkState.CREATING}
            connection.execute(insert(Trunk).values(trunk))
            agent = {"id": uuid.uuid4(), "name": "a", "livekit_agent_name": "a", "agent_metadata": {}}
            agent |= {"phone_provisioning_status": PhoneStatus.NOT_PROVISIONED, "trunk_id": trunk["id"]}
            connection.execute(insert(Agent).values(agent))
            ended = {"id": uuid.uuid4(), "agent_id": agent["id"], "workspace_id": DEFAULT_WORKSPACE}
            ended |= {"kind": OperationKind.REHOME, "phone_number": E164, "status": OperationStatus.SUCCEEDED}
            ended |= {"takeover": False, "epoch": 0, "idle_kicks": 0}
            connection.execute(insert(Operation).values(ended))
        with pytest.raises(DBAPIError, match="numbers are on shared trunks"):
            command.downgrade(config, "0010")
        assert "trunks" in tables(empty_database_url)
        with engine.begin() as connection:
            connection.execute(update(Agent).values(trunk_id=None))
        command.downgrade(config, "0010")
        with engine.begin() as connection:
            assert connection.exec_driver_sql("SELECT kind FROM operations").scalars().all() == ["repair"]
    finally:
        engine.dispose()


def put_agent(saga: Saga, **values: Any) -> uuid.UUID:
    agent_id = uuid.uuid4()
    status = {"phone_provisioning_status": PhoneStatus.NOT_PROVISIONED} | values
    with saga.sessions.begin() as session:
        row = {"id": agent_id, "name": "a", "livekit_agent_name": "a", "agent_metadata": {}} | status
        session.execute(insert(Agent).values(row))
    return agent_id


def put_operation(saga: Saga, agent_id: uuid.UUID, **values: Any) -> uuid.UUID:
    row = {"id": uuid.uuid4(), "agent_id": agent_id, "kind": OperationKind.PROVISION, "phone_number": E164}
    row |= {"status": OperationStatus.QUEUED, "takeover": False, "epoch": 0, "idle_kicks": 0} | values
    row = {"workspace_id": DEFAULT_WORKSPACE} | row
    with saga.sessions.begin() as session:
        session.execute(insert(Operation).values(row))
    return row["id"]


def put_step(saga: Saga, state: StepState) -> None:
    operation_id = put_operation(saga, put_agent(saga))
    row = {"operation_id": operation_id, "name": "a", "position": 0, "state": state, "attempts": 0}
    with saga.sessions.begin() as session:
        session.execute(insert(OperationStep).values(row))


@pytest.mark.parametrize(
    "status",
    [*PhoneStatus, *OperationStatus, *OperationKind, *StepState],
    ids=lambda status: f"{type(status).__name__}.{status.name}",
)
def test_every_status_has_its_place(saga: Saga, status: StrEnum) -> None:
    """`alembic check` does not see a new value of an enum: the CHECK constraint would refuse it in production."""
    match status:
        case PhoneStatus():
            put_agent(saga, phone_provisioning_status=status)
        case OperationStatus():
            put_operation(saga, put_agent(saga), status=status)
        case OperationKind():
            put_operation(saga, put_agent(saga), kind=status)
        case StepState():
            put_step(saga, status)


@pytest.mark.parametrize("table", ["agents", "operations", "operation_steps"])
def test_no_other_status_has_one(saga: Saga, table: str) -> None:
    put_step(saga, StepState.PENDING)
    column = {"agents": "phone_provisioning_status", "operation_steps": "state"}.get(table, "status")
    with pytest.raises(IntegrityError, match="ck_"), saga.sessions.begin() as session:
        session.connection().exec_driver_sql(f"UPDATE {table} SET {column} = 'SOMETHING'")  # noqa: S608 - our own names


@pytest.mark.parametrize("status", sorted(OPEN_STATUSES))
def test_an_agent_has_one_open_operation(saga: Saga, status: OperationStatus) -> None:
    agent_id = put_agent(saga)
    put_operation(saga, agent_id, status=status)
    with pytest.raises(IntegrityError, match="uq_operations_open_agent"):
        put_operation(saga, agent_id)


@pytest.mark.parametrize("status", sorted(set(OperationStatus) - OPEN_STATUSES))
def test_an_agent_has_any_number_of_operations_that_ended(saga: Saga, status: OperationStatus) -> None:
    agent_id = put_agent(saga)
    for _ in range(2):
        put_operation(saga, agent_id, status=status)
    put_operation(saga, agent_id)


def test_a_number_belongs_to_one_agent(saga: Saga) -> None:
    put_agent(saga, twilio_phone_number=E164)
    with pytest.raises(IntegrityError, match="uq_agents_twilio_phone_number"):
        put_agent(saga, twilio_phone_number=E164)


def test_the_newest_migration_by_name_is_the_head() -> None:
    heads = ScriptDirectory.from_config(Config(toml_file=ROOT / "pyproject.toml")).get_heads()
    assert heads == [newest_migration()]


def test_secrets_of_before_are_sealed_where_there_is_a_key_and_opened_on_the_way_down(empty_database_url: str) -> None:
    keys, config = parse_keys(new_key()), Config(toml_file=ROOT / "pyproject.toml")
    config.attributes |= {"url": empty_database_url, "sealing_keys": keys}
    command.upgrade(config, "0011")
    engine, endpoint, older = create_engine(empty_database_url), uuid.uuid4(), uuid.uuid4()
    with engine.begin() as connection:
        rows = (
            "INSERT INTO webhook_endpoints (id, url, secret, previous_secret) VALUES (%s, 'https://x', 'whsec_a', %s)"
        )
        connection.exec_driver_sql(rows, (endpoint, "whsec_b"))
        connection.exec_driver_sql(rows, (uuid.uuid4(), None))
        connection.exec_driver_sql(
            "INSERT INTO webhook_old_secrets (id, endpoint_id, secret, valid_until) VALUES (%s, %s, 'whsec_c', now())",
            (older, endpoint),
        )

    def stored() -> list[str]:
        with engine.begin() as connection:
            found = connection.exec_driver_sql(
                "SELECT secret FROM webhook_endpoints WHERE id = %s UNION ALL "
                "SELECT previous_secret FROM webhook_endpoints WHERE id = %s UNION ALL "
                "SELECT secret FROM webhook_old_secrets",
                (endpoint, endpoint),
            )
            return list(found.scalars())

    clear = stored()
    command.upgrade(config, "head")
    sealed, sealer = stored(), Sealer(keys)
    assert all(map(is_sealed, sealed))
    fields = (secret_field(endpoint), previous_secret_field(endpoint), old_secret_field(older))
    assert [sealer.open(*each) for each in zip(sealed, fields, strict=True)] == clear
    command.downgrade(config, "0011")
    assert stored() == clear
    config.attributes["sealing_keys"] = ()
    command.upgrade(config, "head")
    assert stored() == clear
    engine.dispose()
