"""The credentials of three accounts are in no output of the installation: of no process, store, trace or answer."""

import base64
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from app.access import KeyService, Scope
from app.dev.localstack.processes import JsonClient, ServerProcess, free_port
from app.sealing import VERSION, new_key
from tests.e2e.assignments import next_number
from tests.e2e.rows import wait_until_finished
from tests.support.collector import Collector, running_collector
from tests.support.receiver import LOOPBACK, Receiver, receiver
from tests.support.redis_monitor import monitored_redis
from tests.support.sandbox import ControlledSandbox, running_sandbox
from tests.support.servers import running_valkey
from tests.support.stack import START_S, Api, Stack, Timings, eventually, running_stack
from tests.support.teams import CARRIER, VOICE, Team, add_team, read, rotate

TEAMS = ("first", "second", "third")
MARK = "marked"
"""What every secret of this test begins with, whole or in part: a cut one is found, too."""

KEYS = new_key()
FLOWER_LOGIN = "ops:flower-password"

_next = itertools.count(1)


def secret(name: str) -> str:
    """Return a secret that nothing else looks like."""
    return f"{MARK}-{name}-{next(_next):04d}-0123456789abcdef0123"


@dataclass
class Installation:
    """A stack with three teams, and everything that it has put out."""

    outputs: dict[str, str]
    secrets: dict[str, str]
    """What must be in no output, by its name; whole, and as HTTP sends it."""

    def leaks(self) -> list[str]:
        """Return which secret is in which output, with the text before it."""
        return [
            f"{name} in {where}: ...{output[max(output.index(value) - 120, 0) : output.index(value)]}"
            for where, output in self.outputs.items()
            for name, value in self.secrets.items()
            if value in output
        ]


class RecordingApi(Api):
    """Records every answer."""

    def __init__(self, base_url: str, key: str) -> None:
        super().__init__(base_url, key)
        self.answers: list[str] = []

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        status, answer = super().call(method, path, body)
        self.answers.append(f"{method} {path}: {status} {answer}")
        return status, answer


@contextmanager
def running_flower(stack: Stack, folder: Path) -> Iterator[JsonClient]:
    """Run Flower as the Procfile does; yield a client with its password."""
    port = free_port()
    process = ServerProcess("flower", folder / "flower.pid", folder / "flower.log")
    command = [sys.executable, "-m", "celery", "-A", "tasks", "flower", "--conf=flowerconfig.py"]
    process.start([*command, "--address=127.0.0.1", f"--port={port}"], stack.environ)
    login = base64.b64encode(FLOWER_LOGIN.encode()).decode()
    client = JsonClient(f"http://127.0.0.1:{port}", {"Authorization": f"Basic {login}"})
    try:
        process.wait_until(lambda: client.answers("/healthcheck"), START_S)
        yield client
    finally:
        process.stop()


def everything_in_redis(url: str) -> str:
    """Return every key with its value, as a dump of Redis has them."""
    found = []
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter():
            kind = client.type(key).decode()
            read_value: dict[str, Callable[[], object]] = {
                "string": lambda key=key: client.get(key),
                "hash": lambda key=key: client.hgetall(key),
                "list": lambda key=key: client.lrange(key, 0, -1),
                "set": lambda key=key: client.smembers(key),
                "zset": lambda key=key: client.zrange(key, 0, -1, withscores=True),
                "stream": lambda key=key: client.xrange(key),
            }
            found.append(f"{key!r} {read_value[kind]()!r}")
    return "\n".join(found)


def everything_in_the_database(url: str) -> str:
    """Return every row of every table, as a dump of the database has them."""
    found = []
    with psycopg.connect(url.replace("postgresql+psycopg", "postgresql")) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1").fetchall()
        for (table,) in tables:
            with connection.cursor().copy(f"COPY {table} TO STDOUT") as rows:
                found.append(f"{table}\n" + b"".join(bytes(each) for each in rows).decode())
    return "\n".join(found)


@pytest.fixture(scope="module")
def sandbox_server() -> Iterator[ControlledSandbox]:
    with running_sandbox() as server:
        yield server


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with running_collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def stack(make_database: Callable[[], str], sandbox_server: ControlledSandbox, collector: Collector) -> Iterator[Stack]:
    with (
        running_valkey() as valkey,
        running_stack(make_database(), valkey.url, sandbox_server.control, Timings(2), start=False) as stack,
    ):
        stack.environ |= {
            "CREDENTIAL_KEYS": KEYS,
            "WEBHOOK_ALLOWED_NETWORKS": LOOPBACK,
            "FLOWER_BASIC_AUTH": FLOWER_LOGIN,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        stack.start()
        yield stack


@pytest.fixture(scope="module")
def installation(
    stack: Stack, sandbox_server: ControlledSandbox, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Installation:
    """Let everything happen once that handles a credential, and collect what was put out."""
    folder, redis_url = tmp_path_factory.mktemp("flower"), stack.environ["REDIS_URL"]
    admin = RecordingApi(stack.api.base_url, KeyService(stack.sessions).create("operator", [Scope.ADMIN])[1])
    with running_flower(stack, folder) as flower, receiver() as hooks:
        with monitored_redis(redis_url) as monitor:
            secrets = _use_credentials(stack, admin, sandbox_server, hooks)
            eventually(lambda: any(b"twilio.create_trunk" in each for each in collector.bodies), "spans arrive")
        outputs = _collected(stack, admin, collector, flower, hooks)
    outputs["redis"] = everything_in_redis(redis_url) + monitor.text
    outputs["flower's log"] = (folder / "flower.log").read_text(encoding="utf-8", errors="replace")
    return Installation(outputs, secrets)


def _use_credentials(stack: Stack, admin: Api, server: ControlledSandbox, hooks: Receiver) -> dict[str, str]:
    """Store, check, use, rotate, refuse and accept credentials of three accounts; return all of them, by name."""
    sandbox, secrets = server.control, {"the key that seals": KEYS}
    status, made = admin.call("POST", "/api/webhooks", {"url": hooks.url})
    assert status == 201, made
    teams = []
    for name in TEAMS:
        team = add_team(admin, sandbox, name, auth_token=secret(name), api_secret=secret(f"{name}-livekit"))
        teams.append(team)
        secrets |= {f"{name}'s auth token": team.auth_token, f"{name}'s LiveKit secret": team.api_secret}
        wait_until_finished(stack, [_provision(stack, team)])
    secrets |= _rotate(admin, teams[0])
    secrets |= _be_refused(admin, teams[1])
    _fail_quoting(stack, server, teams[1])
    _be_revoked(stack, admin, teams[2])
    eventually(lambda: hooks.server.seen, "the webhook is delivered")
    encoded = {
        f"{name}'s login": base64.b64encode(f"{team.account_sid}:{value}".encode()).decode()
        for team in teams
        for name, value in secrets.items()
    }
    return secrets | encoded


def _provision(stack: Stack, team: Team) -> str:
    number = next_number()
    team.numbers([number])
    return stack.api.provision(stack.api.agent(f"{team.name} {number[-4:]}", **team.ids), number)


def _rotate(admin: Api, team: Team) -> dict[str, str]:
    """Rotate both credentials, so that the old ones are kept for a day."""
    token, api_secret = secret("rotated"), secret("rotated-livekit")
    team.rotate_token(token)
    team.sandbox.change_project(team.name, keys={team.api_key: api_secret})
    rotate(admin, VOICE, team.voice_id, api_secret)
    return {"a rotated token": token, "a rotated LiveKit secret": api_secret}


def _be_refused(admin: Api, team: Team) -> dict[str, str]:
    """Have wrong credentials refused: on a rotation, on save, and in a body that does not fit."""
    wrong, saved, unread = secret("wrong"), secret("wrong-on-save"), secret("unread")
    assert admin.call("POST", f"/api/{CARRIER}/{team.carrier_id}/rotate", {"secret": wrong})[0] == 409
    assert admin.call("POST", f"/api/{VOICE}/{team.voice_id}/rotate", {"secret": wrong})[0] == 409
    account = {"name": "wrong", "accountSid": team.account_sid, "baseUrl": team.sandbox.base_url}
    status, made = admin.call("POST", f"/api/{CARRIER}", {**account, "secret": saved})
    assert (status, made["status"]) == (201, "invalid"), made
    for body in ({**account, "secret": f"{unread} "}, {**account, "secret": [unread]}):
        assert admin.call("POST", f"/api/{CARRIER}", body)[0] == 422
    assert admin.call("PATCH", f"/api/{CARRIER}/{team.carrier_id}", {"secret": unread})[0] == 422
    return {"a wrong secret": wrong, "a wrong secret that was stored": saved, "a secret in a wrong body": unread}


def _fail_quoting(stack: Stack, server: ControlledSandbox, team: Team) -> None:
    """Have each provider refuse a request with a message that repeats its own credential."""
    for operation, value, given in (
        ("twilio.attach_number", team.auth_token, {"status": 400, "code": 20001}),
        ("livekit.create_dispatch_rule", team.api_secret, {"code": "invalid_argument"}),
    ):
        server.control.fault(operation, "reject", message=f"Basic {value} may not", **given)
        wait_until_finished(stack, [_provision(stack, team)])
    server.control.clear_faults()


def _be_revoked(stack: Stack, admin: Api, team: Team) -> None:
    """Have a credential refused in the middle of its work, look at it, and have it accepted again."""
    team.suspend()
    operation_id = _provision(stack, team)
    eventually(lambda: team.status() == "invalid", "the account is invalid")
    for kind in (CARRIER, VOICE):
        admin.call("GET", f"/api/{kind}")
    assert admin.call("POST", f"/api/{CARRIER}/{team.carrier_id}/check")[1]["status"] == "invalid"
    team.restore()
    assert admin.call("POST", f"/api/{CARRIER}/{team.carrier_id}/check")[1]["status"] == "verified"
    wait_until_finished(stack, [operation_id])
    assert "secret" not in read(admin, CARRIER, team.carrier_id)


def _collected(
    stack: Stack, admin: RecordingApi, collector: Collector, flower: JsonClient, hooks: Receiver
) -> dict[str, str]:
    for path in ("/api/activity", "/api/operations?limit=200", "/api/agents?limit=200", "/metrics", "/readyz?deep=1"):
        admin.call("GET", path)
    pages = ("/", "/workers", "/tasks", "/api/tasks?limit=1000", "/api/workers?refresh=1", "/api/queues/length")
    return {
        **{name: stack.log(name) for name in ("web", "worker", "sweeper")},
        "answers": "\n".join(admin.answers),
        "metrics": str(admin.call("GET", "/metrics")[1]),
        "traces": b"".join(collector.bodies).decode("utf-8", "replace"),
        "flower": "\n".join(str(flower.call("GET", page)[1]) for page in pages),
        "webhooks": "\n".join(f"{each.headers} {each.body!r}" for each in hooks.server.seen),
        "database": everything_in_the_database(stack.database_url),
    }


def test_every_output_has_what_it_is_expected_to_have(installation: Installation) -> None:
    """What was never written cannot leak."""
    expected = {
        "web": ["account_created", "account_rotated"],
        "worker": ["step_finished", "account_invalid"],
        "sweeper": ["sweeper_started"],
        "answers": ["credentials_refused", "validation_failed", "verified", "isDefault"],
        "metrics": ["trunkline_operations"],
        "traces": ["twilio.create_trunk", "livekit.create_dispatch_rule"],
        "flower": ["provision.twilio_trunk"],
        "webhooks": ["phone.needs_attention", "phone.provisioned"],
        "database": [VERSION, "carrier_accounts", *TEAMS],
        "redis": ["provision.twilio_trunk"],
    }
    missing = {
        where: [word for word in words if word not in installation.outputs[where]] for where, words in expected.items()
    }
    assert missing == {where: [] for where in expected}


def test_no_output_has_a_secret_of_an_account(installation: Installation) -> None:
    assert installation.leaks() == []
    cut = [where for where, output in installation.outputs.items() if f"{MARK}-" in output]
    assert cut == []


@pytest.mark.parametrize(
    "where", ["web", "worker", "sweeper", "answers", "metrics", "traces", "flower", "database", "redis"]
)
def test_a_leak_is_found_wherever_it_is(installation: Installation, where: str) -> None:
    value = installation.secrets["second's auth token"]
    outputs = installation.outputs | {where: installation.outputs[where] + value}
    assert any(
        leak.startswith(f"second's auth token in {where}: ")
        for leak in Installation(outputs, installation.secrets).leaks()
    )


def test_no_two_stored_secrets_are_sealed_alike(installation: Installation) -> None:
    """Not even equal ones would be: each has a key and a nonce of its own."""
    sealed = [part for part in installation.outputs["database"].split() if part.startswith(f"{VERSION}:")]
    assert len(sealed) >= 2 * len(TEAMS) + 1
    assert len(set(sealed)) == len(sealed)
