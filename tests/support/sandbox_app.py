"""The whole application in one process: real adapters against the sandbox, real PostgreSQL, plans driven inline."""

import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import jwt
import pytest
import requests

from app.db.models import Agent, Audit
from app.dev import sandbox as defaults
from app.domain.events import Origin
from app.domain.operations import PhoneStatus, TrunkMode
from app.path.marks import POOL_PREFIX
from app.saga.state import Verdict
from app.settings import load_settings
from app.wiring import Wiring, build
from tests.support.saga import FINISHED, RecordingPublisher
from tests.support.sandbox import Sandbox
from tests.support.toolboxes import tools_of, with_parts, with_tools

NUMBER = "+15145551234"
FOREIGN_NUMBER = "+15145559999"
ROUNDS = 40


class ProviderConsole:
    """Calls the providers' APIs with the same credentials but none of our code, as somebody at their consoles."""

    def __init__(
        self,
        sandbox: Sandbox,
        auth_token: str = defaults.AUTH_TOKEN,
        livekit_secret: str = defaults.LIVEKIT_API_SECRET,
    ) -> None:
        self.url = sandbox.base_url
        self._auth_token, self._livekit_secret = auth_token, livekit_secret

    def twilio(self, method: str, path: str, **data: str) -> dict[str, Any]:
        """Call Twilio by path; return the response's body."""
        auth = (defaults.ACCOUNT_SID, self._auth_token)
        response = requests.request(method, self.url + path, data=data, auth=auth, timeout=10)
        assert response.ok, response.text
        return response.json() if response.text else {}

    def livekit(self, call: str, **body: Any) -> dict[str, Any]:
        """Call LiveKit's SIP service with JSON; return the response's body."""
        return self._twirp(call, json=body).json()

    def sip(self, call: str, body: bytes) -> bytes:
        """Call LiveKit's SIP service with a protobuf message; return the response's."""
        return self._twirp(call, data=body, headers={"Content-Type": "application/protobuf"}).content

    def _twirp(self, call: str, headers: Mapping[str, str] | None = None, **body: Any) -> requests.Response:
        claims = {"iss": defaults.LIVEKIT_API_KEY, "exp": int(time.time()) + 60, "sip": {"admin": True}}
        token = jwt.encode(claims, self._livekit_secret, algorithm="HS256")
        path = f"{self.url}/twirp/livekit.SIP/{call}"
        headers = {**(headers or {}), "Authorization": f"Bearer {token}"}
        response = requests.post(path, headers=headers, timeout=10, **body)
        assert response.ok, response.text
        return response

    def rule(self, rule_id: str, **fields: Any) -> None:
        """Replace a dispatch rule by one with these fields."""
        kind = {"dispatch_rule_individual": {"room_prefix": "call"}}
        self.livekit("UpdateSIPDispatchRule", sip_dispatch_rule_id=rule_id, replace={"rule": kind, **fields})


class SandboxApp:
    """The application with real adapters against the sandbox, and one agent whose number is provisioned."""

    def __init__(
        self,
        wiring: Wiring,
        publisher: RecordingPublisher,
        sandbox: Sandbox,
        *,
        number: str = NUMBER,
        trunk_mode: TrunkMode = TrunkMode.SHARED,
    ) -> None:
        self.wiring, self.publisher, self.sandbox, self.number = wiring, publisher, sandbox, number
        self.console = ProviderConsole(sandbox)
        self.agent_id = wiring.agents.create("front desk", "front-desk", {"tone": "kind"}, trunk_mode=trunk_mode).id

    @property
    def agent(self) -> Agent:
        """The agent's row as it is now."""
        return self.wiring.agents.get(self.agent_id)

    def provision(self) -> None:
        """Provision the agent's number, and check that it rings."""
        self.wiring.provisioning.provision(self.agent_id, self.number, takeover=False, origin=Origin())
        self.drive()
        assert self.agent.phone_provisioning_status is PhoneStatus.PROVISIONED
        assert self.rings() == "front-desk"

    def drive(self) -> None:
        """Run every published plan until nothing more is published."""
        for _ in range(ROUNDS):
            if not self.publisher.plans:
                return
            plan = self.publisher.plans.pop(0)
            for name in plan.steps:
                outcome = self.wiring.runner.run_step(plan.operation_id, plan.epoch, name, plan.direction)
                if outcome.verdict is Verdict.ROLLING_BACK:
                    self.wiring.provisioning.republish(plan.operation_id)
                if outcome.verdict not in FINISHED:
                    break

    def audit(self, *, fix: bool = False) -> Audit:
        """Run an audit, and the repairs that it queued."""
        audit = self.wiring.audits.run_audit(
            self.wiring.audits.request_audit(fix=fix, origin=Origin(requested_by="test"))
        )
        assert audit is not None
        assert audit.error_detail is None
        self.drive()
        return audit

    def rings(self) -> str | None:
        """Call the number; return the agent that answers, or None."""
        call = self.sandbox.call(self.number)
        return call["agentName"] if call["reaches"] else None

    def foreign_trunk(self) -> str:
        """Return the id of the foreign LiveKit trunk."""
        trunks = self.sandbox.state()["livekitTrunks"]
        return str(next(one["sip_trunk_id"] for one in trunks if FOREIGN_NUMBER in one["numbers"]))

    def foreign(self) -> list[dict[str, Any]]:
        """Return every object at the providers that is neither ours nor our number."""
        state = self.sandbox.state()
        objects = [one for kind in sorted(state) for one in state[kind]]
        return [one for one in objects if not self.is_ours(one) and NUMBER not in str(one)]

    def is_ours(self, one: object) -> bool:
        """Tell whether an object at a provider has the agent's mark, or that of a trunk that numbers share."""
        return str(self.agent_id) in str(one) or f"{POOL_PREFIX}/stage/" in str(one)


def without_pauses(wiring: Wiring) -> Wiring:
    """Return the wiring with steps that do not wait between two reads: the sandbox shows a write at once."""
    tools = replace(tools_of(wiring.runner), sleep=lambda _seconds: None)
    return with_parts(wiring, runner=with_tools(wiring.runner, tools))


@pytest.fixture
def live(
    request: pytest.FixtureRequest, database_url: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SandboxApp]:
    """An application with one provisioned agent, and a foreign trunk, number and LiveKit path beside it.

    The parameter, if there is one, is the agent's trunk mode.
    """
    stores = {"DATABASE_URL": database_url, "REDIS_URL": "redis://127.0.0.1:1/0"}
    limits = {"INSTANCE_NAME": "stage", "ORPHAN_GRACE_S": "0", "PROVIDER_TIMEOUT_S": "5"}
    for name, value in {**sandbox.settings(), **stores, **limits}.items():
        monkeypatch.setenv(name, value)
    publisher = RecordingPublisher()
    wiring = without_pauses(build(load_settings(), publisher=publisher))
    live = SandboxApp(wiring, publisher, sandbox, trunk_mode=getattr(request, "param", TrunkMode.SHARED))
    sandbox.number(NUMBER, voiceUrl="https://example.com/voice")
    add_foreign_path(live)
    live.provision()
    yield live
    wiring.close()


def add_foreign_path(live: SandboxApp) -> None:
    """Add somebody else's trunk, number, LiveKit trunk and rule."""
    trunk = live.console.twilio("POST", "/v1/Trunks", FriendlyName="theirs")["sid"]
    live.sandbox.number(FOREIGN_NUMBER, trunkSid=trunk)
    inbound = live.console.livekit("CreateSIPInboundTrunk", trunk={"name": "theirs", "numbers": [FOREIGN_NUMBER]})
    kind = {"dispatch_rule_individual": {"room_prefix": "theirs"}}
    rule = {"name": "theirs", "rule": kind, "trunk_ids": [inbound["sip_trunk_id"]]}
    live.console.livekit("CreateSIPDispatchRule", dispatch_rule=rule)


def unknown_agent() -> str:
    """Return an agent id that no row has."""
    return str(uuid.uuid4())
