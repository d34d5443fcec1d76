"""What must hold when an operation has ended: status, rows and providers agree, and nothing of others is changed.

Nothing of a number's is left when no object carries its agent's tag and neither row nor ledger names one. What its
numbers share belongs to the pool, and stays without them: `check_pool` says what may be there.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from app.db.engine import Sessions
from app.db.models import Agent, Operation, Trunk
from app.domain.operations import OperationStatus, PhoneStatus, StepState, TrunkState
from app.domain.sip_uris import SipUri
from app.path.marks import POOL_DIGITS, POOL_PREFIX
from app.path.spec import DispatchRuleSpec, InboundTrunkSpec, Label, OriginationUrlSpec, TrunkSpec
from app.wiring import Wiring
from tests.e2e.rows import AgentRows, rows_of
from tests.support.sandbox import Sandbox

ROUTING = ("trunk_sid", "voice_application_sid", "voice_url")

COLUMN_OF = {
    "trunks": "twilio_trunk_sid",
    "originationUrls": "twilio_origination_url_sid",
    "livekitTrunks": "livekit_inbound_trunk_id",
    "livekitRules": "livekit_dispatch_rule_id",
}
"""Kind of object in the sandbox -> the agent's column that must hold its id."""

ID_OF = {
    "trunks": "sid",
    "originationUrls": "sid",
    "livekitTrunks": "sip_trunk_id",
    "livekitRules": "sip_dispatch_rule_id",
}

SHARED_KINDS = ("trunks", "originationUrls")
"""What an agent with a place on a shared trunk does not have of its own."""

CREATES = (
    "twilio.create_trunk",
    "twilio.create_origination_url",
    "livekit.create_inbound_trunk",
    "livekit.create_dispatch_rule",
)

State = dict[str, list[dict[str, Any]]]
"""Everything at both providers, by kind."""

IDS = ("sid", "sip_trunk_id", "sip_dispatch_rule_id")

OPERATION_STATUSES_OF = {
    PhoneStatus.PROVISIONED: {OperationStatus.SUCCEEDED},
    PhoneStatus.FAILED: {OperationStatus.FAILED},
    PhoneStatus.NOT_PROVISIONED: {OperationStatus.SUCCEEDED, OperationStatus.CANCELLED},
}


@dataclass(frozen=True)
class Assignment:
    """An agent, the number that it is to get, and how that number was routed before."""

    agent_id: str
    number: str
    name: str
    before: dict[str, Any]
    """The number's record before it was provisioned."""


def owned(state: State, agent_id: str) -> dict[str, list[str]]:
    """Return the ids at both providers that have this agent's tag, by kind."""
    return {
        kind: [str(item[id_name]) for item in state[kind] if agent_id in json.dumps(item)]
        for kind, id_name in ID_OF.items()
    }


def check(sessions: Sessions, sandbox: Sandbox, assignment: Assignment, expected: PhoneStatus) -> None:
    """Raise AssertionError unless everything about this agent has ended as `expected`, everywhere."""
    check_all(sessions, sandbox, [assignment], expected)


def check_all(sessions: Sessions, sandbox: Sandbox, assignments: Iterable[Assignment], expected: PhoneStatus) -> None:
    """Do the same for many agents, with one look at the providers: listing everything is what takes long."""
    check_pool(sessions, sandbox)
    state = sandbox.state()
    for each in assignments:
        check_end(rows_of(sessions, each.agent_id), state, sandbox, each, expected)


def check_end(rows: AgentRows, state: State, sandbox: Sandbox, assignment: Assignment, expected: PhoneStatus) -> None:
    """Raise unless an agent's rows and what is at the providers agree on its end; calls are made now."""
    check_rows(rows, expected)
    if expected is PhoneStatus.PROVISIONED:
        check_path(rows, state, assignment)
        check_call(sandbox, assignment)
        return
    check_clean(rows, state)
    now = routing_of(state, assignment.number)
    then = {name: assignment.before[name] or None for name in ROUTING}
    assert now == then, f"the number's routing is {now}, it was {then}"


def check_path(rows: AgentRows, state: State, assignment: Assignment) -> None:
    """Raise unless an agent has exactly one path, and rows, ledger and providers agree on it."""
    ours, known = owned(state, assignment.agent_id), known_ids(rows)
    number = next(item for item in state["numbers"] if item["phone_number"] == assignment.number)
    live = sorted(entry.external_id for entry in rows.ledger if entry.deleted_at is None)
    own = {kind: each for kind, each in known.items() if rows.trunk is None or kind not in SHARED_KINDS}
    expected = {kind: [own[kind]] if kind in own else [] for kind in known}
    assert ours == expected, f"not exactly one set: {ours}, rows {known}"
    assert number["trunk_sid"] == rows.agent.twilio_trunk_sid, "the number is not on our trunk"
    assert rows.agent.twilio_phone_number_sid == number["sid"]
    assert rows.agent.twilio_phone_number == assignment.number
    assert live == sorted(str(each) for each in own.values()), f"ledger {live}, rows {known}"
    if rows.trunk is not None:
        place = {kind: getattr(rows.trunk, COLUMN_OF[kind]) for kind in SHARED_KINDS}
        assert place == {kind: known[kind] for kind in SHARED_KINDS}, f"its place is on {place}, rows {known}"


def check_call(sandbox: Sandbox, assignment: Assignment) -> None:
    """Raise unless a call to the number reaches the agent."""
    call = sandbox.call(assignment.number)
    assert call["reaches"], call["reason"]
    assert call["agentName"] == assignment.name


def check_clean(rows: AgentRows, state: State) -> None:
    """Raise unless nothing of the agent's is left at the providers, and its row and the ledger say so."""
    ours, known = owned(state, str(rows.agent.id)), known_ids(rows)
    live = sorted(entry.external_id for entry in rows.ledger if entry.deleted_at is None)
    assert not any(ours.values()), f"left over: {ours}"
    assert not any(known.values()), f"rows still name {known}"
    assert not live, f"ledger still has {live}"
    assert rows.agent.twilio_phone_number is None
    assert rows.agent.twilio_phone_number_sid is None
    assert rows.agent.trunk_id is None, "it still has a place on a shared trunk"


def check_pool(sessions: Sessions, sandbox: Sandbox) -> None:
    """Raise unless each shared trunk is one that a row names, once, with its members' numbers on it and no others.

    Also true while operations run: a trunk that is just being made has its row, and its tag. Only what two looks show
    counts: rows and providers are not read at the same moment.
    """
    if seen := set(_wrong_in_pool(sessions, sandbox.state())):
        wrong = seen & set(_wrong_in_pool(sessions, sandbox.state()))
        assert not wrong, sorted(wrong)


def _wrong_in_pool(sessions: Sessions, state: State) -> Iterator[str]:
    with sessions.begin() as session:
        standing = list(session.scalars(select(Trunk).where(Trunk.state != TrunkState.GONE)))
        members = list(session.scalars(select(Agent).where(Agent.trunk_id.is_not(None))))
        on_their_way = {
            (one.former_trunk_id, one.phone_number)
            for one in session.scalars(select(Operation).where(Operation.finished_at.is_(None)))
        }
    made: dict[str, list[str]] = {}
    for item in state["trunks"]:
        if item["friendly_name"].startswith(f"{POOL_PREFIX}/"):
            made.setdefault(item["friendly_name"].rpartition("/")[2], []).append(item["sid"])
    for row in standing:
        sids = made.pop(row.id.hex[:POOL_DIGITS], [])
        if len(sids) > 1 or row.twilio_trunk_sid not in {None, *sids}:
            yield f"shared trunk {row.id} is {sids} at Twilio, {row.twilio_trunk_sid} in its row"
        urls = [item["sid"] for item in state["originationUrls"] if item["trunk_sid"] in sids]
        if len(urls) > 1 or row.twilio_origination_url_sid not in {None, *urls}:
            yield f"shared trunk {row.id} has the URLs {urls}, {row.twilio_origination_url_sid} in its row"
        on_it = {item["phone_number"] for item in state["numbers"] if item["trunk_sid"] in sids}
        theirs = {each.twilio_phone_number for each in members if each.trunk_id == row.id}
        # Until an update to another trunk has ended, its number is on one of both.
        if on_it - theirs - {number for trunk_id, number in on_their_way if trunk_id == row.id}:
            yield f"shared trunk {row.id} has {on_it}: not all of them are its members'"
    if made:
        yield f"no row names the shared trunks {made}"
    yield from (f"agent {each.id} has a place and no number" for each in members if not each.twilio_phone_number)


def known_ids(rows: AgentRows) -> dict[str, str | None]:
    """Return what the agent's row says of its path, by kind."""
    return {kind: getattr(rows.agent, column) for kind, column in COLUMN_OF.items()}


def routing_of(state: State, phone_number: str) -> dict[str, Any]:
    """Return where a number's calls go."""
    number = next(item for item in state["numbers"] if item["phone_number"] == phone_number)
    return {name: number[name] or None for name in ROUTING}


def check_rows(rows: AgentRows, expected: PhoneStatus) -> None:
    """Raise unless the agent's rows are final and consistent."""
    assert rows.agent.phone_provisioning_status is expected, (
        f"{rows.agent.phone_provisioning_status}, not {expected}; "
        f"operation {rows.operation.status} {rows.operation.error_code}: {rows.operation.error_detail}; "
        f"steps { {row.name: row.state.value for row in rows.steps} }"
    )
    assert rows.operation.status in OPERATION_STATUSES_OF[expected], rows.operation.status
    assert all(operation.status.is_final for operation in rows.operations)
    assert rows.operation.wake_at is None
    assert rows.operation.finished_at is not None
    assert all(row.lease_token is None for row in rows.steps), "a lease is still held"
    end = StepState.DONE if expected is PhoneStatus.PROVISIONED else StepState.UNDONE
    assert {row.state for row in rows.steps} == {end}, {row.name: row.state.value for row in rows.steps}


class ForeignObjects:
    """What others own in the same accounts: a number on their trunk, and a LiveKit trunk with its rule."""

    def __init__(self, wiring: Wiring, sandbox: Sandbox, number: str) -> None:
        self._sandbox = sandbox
        label = Label("somebody-else", '{"owner": "somebody else"}')
        self.trunk_sid = wiring.carrier.create_trunk(TrunkSpec(label.tag)).sid
        url = wiring.carrier.create_origination_url(
            self.trunk_sid, OriginationUrlSpec(label.tag, SipUri("elsewhere.example.com", transport="tcp"))
        )
        record = sandbox.number(number, trunkSid=self.trunk_sid)
        trunk = wiring.platform.create_inbound_trunk(InboundTrunkSpec(label, number))
        rule = wiring.platform.create_dispatch_rule(DispatchRuleSpec(label.tag, trunk.id, "their-agent"))
        self._ids = {self.trunk_sid, url.sid, str(record["sid"]), trunk.id, rule.id}
        self._seen = self._sandbox.requests()[-1]["seq"]
        self._before = self._objects()
        assert len(self._before) == len(self._ids)

    def check(self) -> None:
        """Raise unless every byte of theirs is as it was, and no write of ours named one of their ids."""
        now = self._objects()
        assert now == self._before, "somebody else's objects were changed"
        reads = ("twilio.list", "twilio.fetch", "livekit.list", "livekit.get")
        for request in self._sandbox.requests(self._seen):
            text = request["path"] + json.dumps(request["body"])
            named = [each for each in self._ids if each in text]
            assert not named or request["operation"].startswith(reads), f"{request['operation']} on {named}"

    def _objects(self) -> list[str]:
        """Return their objects as JSON."""
        everything = [item for objects in self._sandbox.state().values() for item in objects]
        return sorted(json.dumps(item) for item in everything if self._ids & {item.get(name) for name in IDS})


def check_created_once(sandbox: Sandbox, assignment: Assignment) -> None:
    """Raise unless each of the four creates was sent once for this agent, whatever is left of it."""
    sent = [item["operation"] for item in sandbox.requests() if assignment.agent_id in json.dumps(item["body"])]
    made = Counter(operation for operation in sent if ".create_" in operation)
    assert made == dict.fromkeys(CREATES, 1), made
