"""Generated requests as two workspaces at once: nothing of one is ever in an answer of the other.

Each knows some ids of the other, as from a former colleague, and tries them everywhere; the other ids, and all that the
other makes meanwhile, it must not learn. The application answers over HTTP with real PostgreSQL, the providers are the
sandbox. More by hand: `SCHEMATHESIS_EXAMPLES=100 python -m pytest tests/api/test_schemathesis_workspaces.py`.
"""

import itertools
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
import schemathesis
from schemathesis import HookContext
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from schemathesis.engine.recorder import ScenarioRecorder
from sqlalchemy import select

from app import create_app
from app.access import KeyService, Scope
from app.bulk.items import Item
from app.db.access import ApiKey
from app.db.models import Agent, Audit, Bulk, Operation, Workspace
from app.db.visibility import seeing
from app.db.webhooks import WebhookDelivery, WebhookEndpoint
from app.domain.events import Origin
from app.domain.workspaces import WORKSPACE_HEADER
from app.settings import Settings
from app.wiring import Wiring, build
from tests.support.sandbox import Sandbox
from tests.support.sandbox_app import SandboxApp, without_pauses
from tests.support.served_app import InstantWorker, served

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "2"))
"""Random cases of each call."""

KNOWN = 0.9
"""Share of ids that exist: half of them are the workspace's own, the others the other's."""

SLUGS = ("acme", "globex")
NUMBERS = {"acme": ("+15145551301", "+15145551302", "+15145551303"), "globex": ("+15145551311", "+15145551312")}
"""Each is known to its own workspace alone."""

OWNED = (Agent, Operation, Bulk, Audit, WebhookEndpoint, ApiKey)
ASKED = Origin(requested_by="before")

_NO_SUCH = re.compile(r"There is no \w+ [0-9a-f-]{36}")
"""Repeats an id that was asked for."""


@dataclass
class Exchange:
    """One request and its answer, as text."""

    sent: str
    status: int
    got: str


@dataclass
class Team:
    """One workspace, what there is of it from the start, and what it was told."""

    slug: str
    workspace_id: uuid.UUID
    key: str
    key_id: str
    known: dict[str, list[str]]
    """Ids that the other team knows too, by what they are of."""
    exchanges: list[Exchange] = field(default_factory=list)

    def add(self, recorder: ScenarioRecorder) -> None:
        for interaction in recorder.interactions.values():
            request, response = interaction.request, interaction.response
            if response is not None:
                sent = f"{request.method} {request.uri} {(request.body or b'').decode(errors='replace')}"
                got = f"{response.headers} {response.content.decode(errors='replace')}"
                self.exchanges.append(Exchange(sent, response.status_code, _NO_SUCH.sub("", got)))


def _fill(wiring: Wiring, slug: str) -> Team:
    """Give a workspace agents with and without a number, operations, a bulk, webhooks and a delivery."""
    workspace_id = uuid.uuid4()
    with wiring.sessions.begin() as session:
        session.add(Workspace(id=workspace_id, slug=slug, name=f"{slug}'s name"))
    with seeing(workspace_id):
        row, key = KeyService(wiring.sessions).create(f"{slug}'s key", [Scope.ADMIN])
        agents = [wiring.agents.create(f"{slug}'s agent", f"{slug}-livekit", {}).id for _ in range(8)]
        for agent_id, number in zip(agents, NUMBERS[slug][:-1], strict=False):
            wiring.provisioning.provision(agent_id, number, takeover=False, origin=ASKED)
        bulk = wiring.bulk.accept([Item(1, phone_number=NUMBERS[slug][0], agent_id=agents[0])], origin=ASKED)
        url = f"https://93.184.215.14/{slug}"
        hooks = [wiring.webhooks.create(url, None, f"{slug}'s hook").endpoint.id for _ in range(6)]
        delivery = wiring.webhooks.test(hooks[0])
        audit_id = wiring.audits.request_audit(fix=False, origin=ASKED)
        with wiring.sessions() as session:
            operations = list(session.scalars(select(Operation.id)))
    wiring.publisher.publish_audit(audit_id)
    found = {
        "agent": agents[::2],
        "operation": operations[:1],
        "bulk": [bulk.id],
        "webhook": hooks[::2],
        "delivery": [delivery.id],
        "audit": [audit_id],
        "workspace": [workspace_id],
    }
    known = {name: [str(one) for one in ids] for name, ids in found.items()}
    return Team(slug, workspace_id, key, str(row.id), known)


@pytest.fixture
def teams(database_url: str, redis_url: str, sandbox: Sandbox) -> Iterator[tuple[Wiring, Sequence[Team]]]:
    given = {name.lower(): value for name, value in sandbox.settings().items()}
    worker = InstantWorker()
    settings = Settings(_env_file=None, database_url=database_url, redis_url=redis_url, **given)
    wiring = without_pauses(build(settings, publisher=worker))
    worker.live = SandboxApp(wiring, worker, sandbox)
    for number in itertools.chain(*NUMBERS.values()):
        sandbox.number(number)
    yield wiring, [_fill(wiring, slug) for slug in SLUGS]
    wiring.close()


def _config(team: Team, other: Team) -> SchemathesisConfig:
    values = {name: [*team.known[name], *other.known[name]] for name in team.known}
    values["slug"] = [team.slug, team.slug, team.slug, other.slug]
    parameters = {f"path.{name}_id": name for name in team.known} | {f"header.{WORKSPACE_HEADER}": "slug"}
    parameters["query.agentId"] = "agent"
    off = {"enabled": False}
    return SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "headers": {"Authorization": f"Bearer {team.key}"},
            "continue-on-failure": True,
            "cache": {"enabled": False},
            "phases": {"examples": off, "coverage": off, "stateful": off},
            "generation": {
                "mode": "positive",
                "max-examples": EXAMPLES,
                "deterministic": True,
                "database": "none",
                "no-shrink": True,
            },
            "dictionaries": {name: {"values": found} for name, found in values.items()},
            "parameters": {where: {"dictionary": name, "probability": KNOWN} for where, name in parameters.items()},
        }
    )


def _run(url: str, team: Team, other: Team) -> None:
    """Send what is generated as this team, with bodies that name agents of both."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=_config(team, other))
    agents = itertools.cycle([*team.known["agent"], *other.known["agent"]])
    numbers = itertools.cycle(NUMBERS[team.slug])

    @schema.hook
    def map_body(_context: HookContext, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        named = {"toAgentId": lambda: next(agents), "phoneNumber": lambda: next(numbers)}
        named["items"] = lambda: [{"phoneNumber": next(numbers), "agentId": next(agents)}]
        return {name: named[name]() if name in named else value for name, value in body.items()}

    @schema.hook
    def filter_path_parameters(_context: HookContext, parameters: Any) -> bool:
        """Leave the key that these requests are sent with: who revokes it is told nothing more."""
        return team.key_id not in (parameters or {}).values()

    for event in from_schema(schema).execute():
        if isinstance(event, events.FatalError):
            raise event.exception
        if isinstance(event, events.ScenarioFinished):
            team.add(event.recorder)


def _secrets(wiring: Wiring, team: Team, told: str) -> set[str]:
    """Return all that only this team may know, but for what the other has sent itself."""
    with wiring.sessions() as session:
        found = {str(one) for rows in OWNED for one in session.scalars(_own(rows.id, rows, team))}
        found |= {
            str(one) for one in session.scalars(_own(WebhookDelivery.id, WebhookEndpoint, team).join(WebhookDelivery))
        }
        paths = (Agent.twilio_phone_number_sid, Agent.livekit_inbound_trunk_id, Agent.livekit_dispatch_rule_id)
        found |= {one for column in paths for one in session.scalars(_own(column, Agent, team)) if one}
    names = (f"{team.slug}'s", f"{team.slug}-livekit", f"93.184.215.14/{team.slug}", *NUMBERS[team.slug], team.key)
    return {one for one in (*found, *names) if one not in told}


def _own(column: Any, rows: Any, team: Team) -> Any:
    return select(column).select_from(rows).where(rows.workspace_id == team.workspace_id)


def _leaks(exchanges: Sequence[Exchange], secrets: set[str]) -> list[str]:
    wanted = re.compile("|".join(map(re.escape, sorted(secrets))))
    return [
        f"{one.sent[:300]} ({one.status}) tells {found[0]}" for one in exchanges if (found := wanted.search(one.got))
    ]


def test_nothing_of_one_workspace_is_in_an_answer_of_the_other(teams: tuple[Wiring, Sequence[Team]]) -> None:
    wiring, (acme, globex) = teams
    with served(create_app(wiring)) as url:
        with ThreadPoolExecutor(2) as threads:
            for run in [threads.submit(_run, url, *pair) for pair in ((acme, globex), (globex, acme))]:
                run.result()
        operator = KeyService(wiring.sessions).create("operator", [Scope.READ])[1]
        seen = requests.get(f"{url}/api/agents", headers={"Authorization": f"Bearer {operator}"}, timeout=10)

    for team, other in ((acme, globex), (globex, acme)):
        secrets = _secrets(wiring, other, " ".join(one.sent for one in team.exchanges))
        listed = [one for one in team.exchanges if "/api/numbers" in one.sent]
        assert not _leaks([one for one in team.exchanges if one not in listed], secrets)
        # Who uses the account may choose from its numbers that nobody has: some may be given back by now.
        assert not _leaks(listed, {one for one in secrets if not one.startswith(("+", "PN"))})
        assert any(one.status == 200 for one in listed)
        # What finds nothing here does find it where it is.
        assert _leaks([Exchange("an operator's", 200, seen.text)], secrets)
        assert _leaks(other.exchanges, secrets)
        known = [one for ids in other.known.values() for one in ids]
        tried = [one for one in team.exchanges if any(of in one.sent.partition("?")[0].split()[1] for of in known)]
        assert len(tried) > 5 * EXAMPLES
        assert not [f"{one.sent} gets {one.status}" for one in tried if one.status < 400]
        assert sum(one.status < 300 for one in team.exchanges) > 50
        assert not [f"{one.sent} gets {one.status}" for one in team.exchanges if one.status >= 500]
