from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event

import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from sqlalchemy import text

from app.domain.errors import ErrorCode
from app.domain.operations import OperationKind, OperationStatus
from app.providers.errors import RejectedError
from app.web import readiness
from tests.support.api import NOWHERE, OTHER_NUMBER, Api, PingOnlyProvider, running_api
from tests.support.servers import ValkeyServer


@pytest.fixture
def api(own_api: Api) -> Api:
    """An application of its own: readiness results are cached for seconds, across tests."""
    return own_api


def test_a_live_process_says_so(api: Api) -> None:
    response = api.client.get("/healthz")

    assert (response.status_code, response.json) == (200, {"ok": True})


def test_a_ready_process_names_its_checks(api: Api) -> None:
    response = api.client.get("/readyz")

    assert (response.status_code, response.json["ok"]) == (200, True)
    assert [check["name"] for check in response.json["checks"]] == [
        "database",
        "migrations",
        "broker",
        "twilio",
        "livekit",
    ]
    assert all(check["ok"] and check["detail"] is None and check["tookMs"] >= 0 for check in response.json["checks"])


@pytest.mark.parametrize(
    ("query", "status"), [("", 200), ("?deep=0", 200), ("?source=balancer", 200), ("?deep=1", 503), ("?deep=true", 503)]
)
def test_a_provider_that_refuses_us_is_reported_and_counts_only_on_request(api: Api, query: str, status: int) -> None:
    api.carrier.error = RejectedError(ErrorCode.TWILIO_BAD_CREDENTIALS, "Twilio refuses the credentials.")

    response = api.client.get(f"/readyz{query}")

    assert (response.status_code, response.json["ok"]) == (status, status == 200)
    failed = [check for check in response.json["checks"] if not check["ok"]]
    assert [(check["name"], check["detail"]) for check in failed] == [("twilio", "Twilio refuses the credentials.")]


def test_deep_is_a_yes_or_a_no(api: Api) -> None:
    assert api.client.get("/readyz?deep=2").json["code"] == "validation_failed"


def test_the_results_of_the_checks_are_a_metric(api: Api) -> None:
    api.platform.error = OSError()

    families = {family.name: family for family in text_string_to_metric_families(api.get("/metrics").text)}

    found = {sample.labels["check"]: sample.value for sample in families["trunkline_check_ok"].samples}
    assert found == {"database": 1, "migrations": 1, "broker": 1, "twilio": 1, "livekit": 0}


def test_a_provider_that_hangs_delays_only_deep_requests() -> None:
    is_over, provider = Event(), PingOnlyProvider()
    twilio = readiness.Check("twilio", provider.ping, is_required=False)
    checks = readiness.Readiness([twilio, readiness.Check("database", lambda: None)], timeout_s=0.6)
    assert [result.ok for result in checks.results()] == [True, True]
    provider.before = lambda: is_over.wait(10) and None

    shallow, deep = checks.results(), checks.results(deep=True)

    is_over.set()
    assert ([result.ok for result in shallow], checks.is_ready(shallow)) == ([True, True], True)
    assert ([result.ok for result in deep], checks.is_ready(deep, deep=True)) == ([False, True], False)
    assert checks.is_ready(deep)


def _fill(valkey: ValkeyServer) -> None:
    with valkey_client(valkey) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)


def _demote(valkey: ValkeyServer) -> None:
    with valkey_client(valkey) as client:
        client.replicaof("127.0.0.1", 1)


def _recover(valkey: ValkeyServer) -> None:
    with valkey_client(valkey) as client:
        client.config_set("maxmemory", 0)
        client.replicaof("NO", "ONE")


def valkey_client(valkey: ValkeyServer) -> Redis:
    return Redis.from_url(valkey.url)


@pytest.mark.parametrize(
    ("break_valkey", "reason"), [(_fill, "it is full"), (_demote, "it is a read-only replica")], ids=["full", "replica"]
)
def test_a_broker_that_takes_no_writes_is_reported(
    api: Api, valkey_server: ValkeyServer, break_valkey: Callable[[ValkeyServer], None], reason: str
) -> None:
    break_valkey(valkey_server)
    try:
        response, deep = api.client.get("/readyz"), api.client.get("/readyz?deep=1")
    finally:
        _recover(valkey_server)

    assert (response.status_code, deep.status_code) == (200, 503)
    checks = {check["name"]: check for check in response.json["checks"]}
    assert (checks["broker"]["ok"], checks["broker"]["detail"]) == (False, f"Redis takes no writes: {reason}")
    assert api.client.get("/readyz?deep=1").status_code == 200


def test_the_text_of_a_driver_is_not_shown(api: Api) -> None:
    api.platform.error = OSError("10.0.0.7:443 refused, token abc")

    response = api.client.get("/readyz")

    assert "10.0.0.7" not in response.text
    assert [check["detail"] for check in response.json["checks"] if not check["ok"]] == ["unreachable (OSError)"]


def test_a_provider_is_not_called_again_within_seconds(api: Api) -> None:
    for _ in range(3):
        api.client.get("/readyz")

    assert (api.carrier.pings, api.platform.pings) == (1, 1)


def test_a_check_that_hangs_times_out_and_is_not_started_twice(api: Api) -> None:
    is_over = Event()
    slow = readiness.Check("slow", lambda: is_over.wait(10) and None)
    quick = readiness.Check("quick", lambda: None)
    checks = readiness.Readiness([slow, quick], timeout_s=0.4)

    first, second = checks.results(), checks.results()

    is_over.set()
    assert [result.ok for result in first] == [False, True]
    assert first[0].detail == "no response within 0.4 s"
    assert second[0].ok is False
    assert checks.started["slow"] == 1


def test_a_success_is_cached_for_its_ttl_and_a_failure_for_two_seconds() -> None:
    now, provider = [0.0], PingOnlyProvider()
    checks = readiness.Readiness([readiness.Check("twilio", provider.ping, ttl_s=15)], clock=lambda: now[0])

    def pings_at(moment: float) -> int:
        now[0] = moment
        checks.results()
        return provider.pings

    assert [pings_at(0), pings_at(14.9), pings_at(15)] == [1, 1, 2]
    provider.error = OSError()
    assert [pings_at(30), pings_at(31.9), pings_at(32)] == [3, 3, 4]


@pytest.fixture
def disconnected(empty_database_url: str) -> Iterator[Api]:
    """The application on a database without a table, and with no broker."""
    with running_api(empty_database_url, NOWHERE) as api:
        yield api


def test_a_database_that_was_never_migrated_is_not_ready(disconnected: Api) -> None:
    checks = {check["name"]: check for check in disconnected.client.get("/readyz").json["checks"]}

    assert checks["database"]["ok"]
    assert checks["migrations"]["detail"] == "the database is empty: run the migrations"
    assert not checks["broker"]["ok"]


@contextmanager
def schema_at(api: Api, revision: str) -> Iterator[str]:
    """Have the database say that it is at this revision, for as long as the block runs; yield the real one."""
    with api.wiring.engine.begin() as connection:
        head = connection.scalar(text("SELECT version_num FROM alembic_version"))
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    try:
        yield str(head)
    finally:
        with api.wiring.engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :head"), {"head": head})


def test_a_database_behind_the_code_is_not_ready(api: Api) -> None:
    with schema_at(api, "0001") as head:
        response = api.client.get("/readyz")

    assert response.status_code == 503
    assert f"the database is at revision 0001, the code at {head}" in response.text


def test_a_database_that_was_migrated_for_a_newer_release_is_ready(api: Api) -> None:
    with schema_at(api, "9999"):
        response = api.client.get("/readyz?deep=1")

    assert (response.status_code, response.json["ok"]) == (200, True)


def test_metrics_count_rows(api: Api) -> None:
    api.fail(api.provision(api.agent()).json["operationId"], "number_not_voice", "No voice.")
    api.provision(api.agent("second"), OTHER_NUMBER)

    families = {family.name: family for family in text_string_to_metric_families(api.get("/metrics").text)}

    operations = {tuple(sample.labels.values()): sample.value for sample in families["trunkline_operations"].samples}
    agents = {sample.labels["status"]: sample.value for sample in families["trunkline_agents"].samples}
    assert (operations["provision", "failed"], operations["provision", "queued"]) == (1, 1)
    assert sum(operations.values()) == 2
    assert len(operations) == len(OperationKind) * len(OperationStatus)
    assert (agents["FAILED"], agents["PENDING"]) == (1, 1)
    assert families["trunkline_oldest_open_operation_seconds"].samples[0].value > 0
    assert families["trunkline_wake_delay_seconds"].samples[0].value == 0
