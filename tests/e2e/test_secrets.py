"""No secret and no full phone number in any output of the processes."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import text

from app.access import KeyService, Scope
from app.dev import sandbox as defaults
from app.dev.localstack.processes import JsonClient
from tests.e2e.rows import statuses, wait_until_finished
from tests.support.receiver import receiver
from tests.support.redis_monitor import RedisMonitor, monitored_redis
from tests.support.sandbox import ControlledSandbox, Sandbox, running_sandbox
from tests.support.sandbox_app import ProviderConsole
from tests.support.servers import running_valkey
from tests.support.stack import Api, Stack, Timings, eventually, executed_stack

AUTH_TOKEN = "marked-auth-token-0123456789abcdef"
API_KEY_SECRET = "marked-key-secret-0123456789abcdef"
LIVEKIT_SECRET = "marked-livekit-secret-0123456789abcdef"
FLOWER_PASSWORD = "marked-flower-password"
JOB_SECRET = "marked-webhook-secret"
"""What a client keeps in an agent's metadata, for the agent only."""

VOICE_URL = "https://example.com/voice?token=marked-url-token"
"""Where a number's calls went before it was provisioned: kept in a row, shown to nobody."""

HOOK_TOKEN = "token=marked-hook-token"
NOBODY = "http://127.0.0.1:1/hook?from=trunkline"

WRONG_KEY = "tl_" + "marked0wrong0key0" * 3
CONNECTED, REFUSED, STUCK, ORPHANED, DRIFTED = (f"+1514777{n:04d}" for n in range(1111, 1116))
NUMBERS = (CONNECTED, REFUSED, STUCK, ORPHANED, DRIFTED)
QUOTING = f"Basic {AUTH_TOKEN} may not use {REFUSED} (%2B{REFUSED[1:]}); secret {LIVEKIT_SECRET}"
"""A provider's message that repeats the request."""

FOR_EVER = None

SAVED_TEXTS = (
    "SELECT detail::text FROM events",
    "SELECT coalesce(error_detail, '') FROM operations",
    "SELECT coalesce(error_detail, '') FROM operation_steps",
    "SELECT findings::text || coalesce(error_detail, '') FROM audits",
    "SELECT health_findings::text FROM agents",
    "SELECT coalesce(error, '') FROM webhook_deliveries",
)
"""Columns whose texts are shown to others."""


@dataclass
class Outputs:
    """Every output, by where it was found."""

    outputs: dict[str, str] = field(default_factory=dict)
    hook_secrets: list[str] = field(default_factory=list)
    """The signing secrets of the test's webhooks."""

    def leaks(self, secrets: dict[str, str]) -> list[str]:
        """Return which secret is in which output, with the text before it."""
        return [
            f"{name} in {where}: ...{output[max(output.index(secret) - 120, 0) : output.index(secret)]}"
            for where, output in self.outputs.items()
            for name, secret in secrets.items()
            if secret in output
        ]


class RecordingApi(Api):
    """Records the body of every problem."""

    def __init__(self, base_url: str, key: str) -> None:
        super().__init__(base_url, key)
        self.problems: list[str] = []

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        status, answer = super().call(method, path, body)
        if status >= 400:
            self.problems.append(str(answer))
        return status, answer


@pytest.fixture(scope="module")
def marked_sandbox() -> Iterator[ControlledSandbox]:
    given = {"auth-token": AUTH_TOKEN, "api-key-secret": API_KEY_SECRET, "livekit-api-secret": LIVEKIT_SECRET}
    options = [part for name, value in given.items() for part in (f"--{name}", value)]
    with running_sandbox(options=options) as server:
        yield server


@pytest.fixture(scope="module")
def marked_stack(make_database: Callable[[], str], marked_sandbox: ControlledSandbox) -> Iterator[Stack]:
    database_url, timings = make_database(), Timings(provider_timeout=2)
    with (
        running_valkey() as valkey,
        executed_stack(database_url, valkey.url, marked_sandbox.control, timings, start=False) as stack,
    ):
        stack.environ |= {
            "TWILIO_AUTH_TOKEN": AUTH_TOKEN,
            "TWILIO_API_KEY_SID": defaults.API_KEY_SID,
            "TWILIO_API_KEY_SECRET": API_KEY_SECRET,
            "LIVEKIT_API_SECRET": LIVEKIT_SECRET,
            "FLOWER_BASIC_AUTH": f"ops:{FLOWER_PASSWORD}",
            "INSTANCE_NAME": "marked",
            "ORPHAN_GRACE_S": "0",
            "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
        }
        stack.start()
        yield stack


@pytest.fixture(scope="module")
def outputs(marked_stack: Stack, marked_sandbox: ControlledSandbox) -> Outputs:
    """Let everything happen once, and collect what was put out."""
    sandbox, api = marked_sandbox.control, RecordingApi(marked_stack.api.base_url, marked_stack.api.key)
    for number in NUMBERS:
        sandbox.number(number, voiceUrl=VOICE_URL)
    with monitored_redis(marked_stack.environ["REDIS_URL"]) as monitor, receiver() as webhook_receiver:
        hook_secrets = [_webhook(marked_stack, f"{url}&{HOOK_TOKEN}") for url in (webhook_receiver.url, NOBODY)]
        _provision_with_retry(marked_stack, sandbox, api)
        _fail(marked_stack, sandbox, api)
        _send_bad_requests(api)
        _get_stuck(marked_stack, sandbox, api)
        _cause_drift(marked_stack, sandbox, api)
        eventually(lambda: webhook_receiver.server.seen, "the webhook is delivered")
    metrics = str(api.call("GET", "/metrics")[1])
    return Outputs(_collected(marked_stack, api, monitor, metrics), hook_secrets)


@pytest.fixture(scope="module")
def secrets(marked_stack: Stack, outputs: Outputs) -> dict[str, str]:
    """What must not be in any output; numbers without their plus, which may be encoded."""
    database = marked_stack.database_url.partition("://")[2].partition("@")[0].partition(":")[2]
    found = {
        "the auth token": AUTH_TOKEN,
        "the API key's secret": API_KEY_SECRET,
        "LiveKit's secret": LIVEKIT_SECRET,
        "Flower's password": FLOWER_PASSWORD,
        "a secret of the agent's": JOB_SECRET,
        "the former webhook": "marked-url-token",
        "a token in a webhook's address": HOOK_TOKEN,
        **{f"the secret of webhook {n}": secret for n, secret in enumerate(outputs.hook_secrets)},
        "a client's key": marked_stack.api.key,
        "a wrong key": WRONG_KEY,
        "a token of LiveKit's": "eyJhbGciOi",
        **{f"number {number}": number[1:] for number in NUMBERS},
    }
    return {**found, **({"the database's password": database} if database else {})}


def test_everything_happened(outputs: Outputs) -> None:
    """What was never written cannot leak: each output has the texts that it is expected to have."""
    expected = {
        "problems": ["number_in_use", "validation_failed", "unauthenticated", "livekit_bad_credentials"],
        "redis": ["provision.twilio_trunk", "deprovision.twilio_trunk", "task-received", "celeryev"],
        "worker": ["step_finished", "step_call_failed", "operation_needs_attention", "audit_found"],
        "web": ["provision_queued"],
        "sweeper": ["sweeper_started"],
        "metrics": ["trunkline_operations"],
        "rows": [
            "livekit_bad_credentials",
            "twilio_rejected",
            "orphan",
            "origination_host_wrong",
            "*1115",
            "connection_failed",
            f'Twilio said: "Basic *** may not use ********{REFUSED[-4:]}',
        ],
    }
    missing = {where: [one for one in words if one not in outputs.outputs[where]] for where, words in expected.items()}
    assert missing == {where: [] for where in expected}


def test_no_output_has_a_secret_or_a_full_number(outputs: Outputs, secrets: dict[str, str]) -> None:
    assert outputs.leaks(secrets) == []


@pytest.mark.parametrize("where", ["worker", "redis", "problems", "rows"])
def test_a_leak_is_found_wherever_it_is(outputs: Outputs, secrets: dict[str, str], where: str) -> None:
    leaking = Outputs({**outputs.outputs, where: outputs.outputs[where] + f'"number": "%2B{CONNECTED[1:]}"'})
    (leak,) = leaking.leaks(secrets)
    assert leak.startswith(f"number {CONNECTED} in {where}: ")


def test_malformed_settings_are_named_and_not_shown(marked_stack: Stack) -> None:
    environ = marked_stack.environ | {
        "DATABASE_URL": f"mysql://user:{AUTH_TOKEN}@127.0.0.1/x",
        "REDIS_URL": f"http://:{AUTH_TOKEN}@127.0.0.1",
        "LIVEKIT_URL": f"ftp://{LIVEKIT_SECRET}",
        "TWILIO_API_KEY_SID": API_KEY_SECRET,
        "FLOWER_BASIC_AUTH": FLOWER_PASSWORD,
    }
    command = [sys.executable, "-m", "flask", "--app", "app", "keys", "list"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 1
    assert {"DATABASE_URL", "REDIS_URL", "LIVEKIT_URL", "TWILIO_API_KEY_SID", "FLOWER_BASIC_AUTH"} <= {
        line.split(":")[0] for line in done.stderr.splitlines()
    }
    assert "marked" not in done.stdout + done.stderr


def _agent(api: Api, name: str) -> str:
    status, body = api.call("POST", "/api/agents", {"name": name, "metadata": {"hook": JOB_SECRET}})
    assert status == 201, body
    return str(body["id"])


def _provisioned(stack: Stack, api: Api, number: str) -> str:
    agent_id = _agent(api, f"agent of {number[-4:]}")
    wait_until_finished(stack, [api.provision(agent_id, number)])
    assert api.phone(agent_id)["hasPhone"]
    return agent_id


def _webhook(stack: Stack, url: str) -> str:
    """Register a webhook; return its secret."""
    key = KeyService(stack.sessions).create("admin", [Scope.ADMIN])[1]
    status, body = Api(stack.api.base_url, key).call("POST", "/api/webhooks", {"url": url})
    assert status == 201, body
    return str(body["secret"])


def _provision_with_retry(stack: Stack, sandbox: Sandbox, api: Api) -> None:
    """One lost response, then a whole path; a second agent is refused the number, and the path is verified."""
    sandbox.fault("twilio.create_trunk", "apply_then_drop")
    agent_id = _provisioned(stack, api, CONNECTED)
    assert api.post_number(_agent(api, "second"), CONNECTED)[0] == 409
    assert api.call("POST", f"/api/agents/{agent_id}/verify")[0] == 200


def _fail(stack: Stack, sandbox: Sandbox, api: Api) -> None:
    """A refusal that quotes the request: the operation is rolled back, and the waiting client gets the error."""
    sandbox.fault("livekit.create_dispatch_rule", "reject", code="unauthenticated", message=QUOTING)
    sandbox.fault("twilio.create_origination_url", "429", message=QUOTING)
    agent_id = _agent(api, "refused")
    operation_id = api.provision(agent_id, REFUSED)
    wait_until_finished(stack, [operation_id])
    assert api.phone(agent_id)["phoneProvisioningStatus"] == "FAILED"
    sandbox.fault("twilio.list_trunks", "reject", status=401, code=20003, message=QUOTING)
    status, body = api.call("POST", f"/api/agents/{agent_id}/provision-phone?dryRun=true", {"phoneNumber": REFUSED})
    assert (status, body["code"]) == (502, "twilio_bad_credentials")
    sandbox.fault("livekit.create_inbound_trunk", "reject", code="unauthenticated", message=QUOTING)
    client = JsonClient(api.base_url, {"Authorization": f"Bearer {api.key}", "Prefer": "wait=30"}, timeout_s=60)
    status, body = client.call("POST", f"/api/agents/{agent_id}/provision-phone", {"phoneNumber": REFUSED})
    assert status >= 400
    api.problems.append(str(body))


def _send_bad_requests(api: RecordingApi) -> None:
    agent_id = _agent(api, "sends bad requests")
    path = f"/api/agents/{agent_id}/provision-phone"
    for body in (
        {"phoneNumber": CONNECTED + "0"},
        {"phoneNumber": CONNECTED, CONNECTED: 1},
        {CONNECTED: CONNECTED},
        CONNECTED,
    ):
        assert api.call("POST", path, body)[0] == 422
    assert api.call("GET", f"/api/agents/{CONNECTED}")[0] == 404
    assert api.call("GET", f"/api/agents?{CONNECTED.replace('+', '%2B')}=1")[0] == 422
    unknown_client = RecordingApi(api.base_url, WRONG_KEY)
    assert unknown_client.call("GET", "/api/agents")[0] == 401
    api.problems += unknown_client.problems


def _get_stuck(stack: Stack, sandbox: Sandbox, api: Api) -> None:
    """An undo that is refused again and again."""
    agent_id = _provisioned(stack, api, STUCK)
    sandbox.fault("twilio.detach_number", "reject", times=FOR_EVER, status=400, code=20001, message=QUOTING)
    operation_id = api.deprovision(agent_id)
    eventually(lambda: statuses(stack.sessions, [operation_id])[operation_id] == "needs_attention", "it gets stuck")


def _cause_drift(stack: Stack, sandbox: Sandbox, api: Api) -> None:
    """Numbers in what somebody sets at a provider's console, and an audit that finds it."""
    ids, console = api.phone(_provisioned(stack, api, DRIFTED)), ProviderConsole(sandbox, AUTH_TOKEN, LIVEKIT_SECRET)
    path = f"/v1/Trunks/{ids['twilioTrunkSid']}/OriginationUrls/{ids['twilioOriginationUrlSid']}"
    console.twilio("POST", path, SipUrl=f"sip:{DRIFTED}@elsewhere.example.com")
    mark = '{"managedBy": "trunkline", "instance": "marked", "agentId": "%s", "createdAt": "2020-01-01T00:00:00Z"}'
    trunk = {"name": "orphan", "numbers": [ORPHANED], "metadata": mark % "00000000-0000-4000-8000-000000000000"}
    console.livekit("CreateSIPInboundTrunk", trunk=trunk)
    status, asked = api.call("POST", "/api/audit", {"fix": False})
    assert status == 202, asked
    read_audit = lambda: api.call("GET", asked["statusUrl"])[1]  # noqa: E731
    eventually(lambda: read_audit()["status"] == "done", lambda: f"the audit ends: {read_audit()}")


def _collected(stack: Stack, api: RecordingApi, monitor: RedisMonitor, metrics: str) -> dict[str, str]:
    with stack.sessions.begin() as session:
        rows = [str(value) for query in SAVED_TEXTS for value in session.scalars(text(query))]
    logs = {name: stack.log(name) for name in ("web", "worker", "sweeper")}
    others = {"problems": "\n".join(api.problems), "redis": monitor.text, "metrics": metrics, "rows": "\n".join(rows)}
    return {**logs, **others}
