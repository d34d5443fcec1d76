"""The comparison at the end of a soak: every agent's rows against everything at both providers that has our tag."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import dict_row

from app.path.marks import POOL_PREFIX, pool_tag
from tests.support.sandbox import Sandbox

COLUMN_OF = {
    "trunks": ("sid", "twilio_trunk_sid"),
    "originationUrls": ("sid", "twilio_origination_url_sid"),
    "livekitTrunks": ("sip_trunk_id", "livekit_inbound_trunk_id"),
    "livekitRules": ("sip_dispatch_rule_id", "livekit_dispatch_rule_id"),
}
"""Kind of object in the sandbox -> its id, and the agent's column that must hold it."""

SHARED_KINDS = ("trunks", "originationUrls")
"""The kinds that numbers share."""

ROUTING = ("trunk_sid", "voice_application_sid", "voice_url")

FINAL_STATUSES = {"PROVISIONED", "FAILED", "NOT_PROVISIONED"}

READS = ("twilio.list", "twilio.fetch", "livekit.list", "livekit.get")

State = dict[str, list[dict[str, Any]]]


@dataclass
class Differences:
    """What is wrong, one line each."""

    stuck: list[str] = field(default_factory=list)
    """Operations that did not end, and agents without one whose status is not final."""
    leftovers: list[str] = field(default_factory=list)
    """Objects of ours at a provider that no row knows; or a number that has not got its old routing back."""
    duplicates: list[str] = field(default_factory=list)
    """A second object beside what a provisioned agent has."""
    broken: list[str] = field(default_factory=list)
    """An agent that is PROVISIONED by its row and does not get its calls."""
    pool: list[str] = field(default_factory=list)
    """A trunk that numbers share and its row differ, or there are two of one; or an agent's place is none."""
    foreign: list[str] = field(default_factory=list)
    """An object of somebody else that was changed, or named in a write."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is wrong."""
        return not any(self.counts().values())

    def counts(self) -> dict[str, int]:
        """Count the lines of each kind."""
        return {name: len(lines) for name, lines in vars(self).items()}


@dataclass(frozen=True)
class ForeignObjects:
    """What others own in the same accounts, as it was before the soak."""

    ids: frozenset[str]
    before: tuple[str, ...]
    since: int
    """The last request before the soak."""

    @classmethod
    def remember(cls, sandbox: Sandbox, numbers: set[str]) -> "ForeignObjects":
        """Take everything that exists now, but of the numbers only these."""
        state = sandbox.state()
        state["numbers"] = [item for item in state["numbers"] if item["phone_number"] in numbers]
        ids = frozenset(_id(item) for item in _all(state))
        requests = sandbox.requests()
        return cls(ids, _as_text(state, ids), requests[-1]["seq"] if requests else 0)

    def changes(self, sandbox: Sandbox, state: State) -> list[str]:
        """Return which of them differ, and which writes named any of them."""
        if not self.ids:
            return []
        now = _as_text(state, self.ids)
        found = [f"changed or gone: {text}" for text in set(self.before) - set(now)]
        for request in sandbox.requests(self.since):
            if not request["operation"].startswith(READS):
                text = request["path"] + json.dumps(request["body"])
                found += [f"{request['operation']} on {one}" for one in self.ids if one in text]
        return found


@dataclass
class SharedTrunks:
    """The trunks that numbers share: their rows, and what carries their marks at the provider."""

    state: State
    rows: list[dict[str, Any]]
    instance: str
    most: int
    """Numbers that one of them takes."""

    def __post_init__(self) -> None:
        prefix = f"{POOL_PREFIX}/{self.instance}/"
        self._made = {
            kind: [item for item in self.state[kind] if item["friendly_name"].startswith(prefix)]
            for kind in SHARED_KINDS
        }
        self.ids = frozenset(item["sid"] for items in self._made.values() for item in items)

    def differences(self) -> Iterator[str]:
        """Yield what is at the provider and in no row, the other way round, and trunks with too many numbers."""
        for kind in SHARED_KINDS:
            _, column = COLUMN_OF[kind]
            made = {item["sid"]: item["friendly_name"] for item in self._made[kind]}
            known = {row[column]: pool_tag(self.instance, row["id"]) for row in self.rows if row[column]}
            yield from (f"{kind} {sid} is {made.get(sid)} and should be {tag}" for sid, tag in _less(known, made))
            # What was asked for without a response is looked for before anything else is made.
            sought = {pool_tag(self.instance, row["id"]) for row in self.rows if row["intent"] and not row[column]}
            yield from (f"{kind} {sid}, {tag}, has no row" for sid, tag in _less(made, known) if tag not in sought)
        numbers = Counter(item["trunk_sid"] for item in self.state["numbers"])
        for row in self.rows:
            if numbers[row["twilio_trunk_sid"]] > self.most and row["twilio_trunk_sid"]:
                yield f"trunk {row['id']} has {numbers[row['twilio_trunk_sid']]} numbers"

    def misplaced(self, agents: dict[str, dict[str, Any]], busy: set[str]) -> Iterator[str]:
        """Yield trunks with too many members, places without a number, and numbers that no place explains."""
        standing, members = {row["id"]: row for row in self.rows}, Counter(one["trunk_id"] for one in agents.values())
        yield from (f"trunk {each} has {members[each]} members" for each in standing if members[each] > self.most)
        holders = {agent["twilio_phone_number"]: agent for agent in agents.values()}
        for item in self.state["numbers"]:
            agent = holders.get(item["phone_number"])
            if item["trunk_sid"] in self.ids and (agent is None or agent["twilio_trunk_sid"] != item["trunk_sid"]):
                yield f"number {item['phone_number']} is on {item['trunk_sid']} without a place there"
        for agent_id, agent in agents.items():
            place = agent["trunk_id"]
            if agent_id in busy or place is None:
                continue
            if agent["twilio_phone_number"] is None:
                yield f"agent {agent_id} has a place and no number"
            elif place not in standing or standing[place]["twilio_trunk_sid"] != agent["twilio_trunk_sid"]:
                yield f"agent {agent_id} has {agent['twilio_trunk_sid']}, which is not its place's"


def _less(one: dict[str, str], other: dict[str, str]) -> list[tuple[str, str]]:
    return sorted(one.items() - other.items())


def compare(
    sandbox: Sandbox,
    dsn: str,
    foreign: ForeignObjects,
    original: dict[str, dict[str, Any]],
    *,
    instance: str,
    most: int,
) -> Differences:
    """Compare rows and providers; `original` has each number's record before the soak, `most` share a trunk."""
    state = sandbox.state()
    found = Differences(foreign=foreign.changes(sandbox, state))
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        agents = {str(row["id"]): row for row in connection.execute("SELECT * FROM agents")}
        unfinished = connection.execute("SELECT * FROM operations WHERE finished_at IS NULL").fetchall()
        trunks = connection.execute("SELECT * FROM trunks WHERE state <> 'GONE'").fetchall()
    found.stuck += [f"{row['kind']} {row['id']} is {row['status']}: {row['error_detail']}" for row in unfinished]
    busy = {str(row["agent_id"]) for row in unfinished}
    shared = SharedTrunks(state, trunks, instance, most)
    found.pool += [*shared.differences(), *shared.misplaced(agents, busy)]
    owners = _owners(state, foreign.ids | shared.ids)
    for agent_id, agent in agents.items():
        if agent_id in busy:
            continue
        if agent["phone_provisioning_status"] not in FINAL_STATUSES:
            found.stuck.append(f"agent {agent_id} is {agent['phone_provisioning_status']} without an operation")
        _compare_agent(sandbox, found, agent, owners.pop(agent_id, {}))
    left = {owner: kinds for owner, kinds in owners.items() if owner not in busy}
    found.leftovers += [f"no agent's: {owner} {kinds}" for owner, kinds in left.items()]
    held = {agent["twilio_phone_number"] for agent in agents.values()}
    found.leftovers += list(_misrouted(state, original, held))
    return found


def count_results(dsn: str) -> dict[str, int]:
    """Count agents by their status, operations by kind and status, failed ones by their error."""
    agents = "SELECT phone_provisioning_status, count(*) FROM agents GROUP BY 1 ORDER BY 1"
    operations = "SELECT kind || ' ' || status, count(*) FROM operations GROUP BY 1 ORDER BY 1"
    trunks = "SELECT 'trunks ' || state, count(*) FROM trunks GROUP BY 1 ORDER BY 1"
    codes = "SELECT 'failed: ' || error_code, count(*) FROM operations WHERE status = 'failed' GROUP BY 1 ORDER BY 1"
    with psycopg.connect(dsn) as connection:
        return {
            str(name): int(n) for query in (agents, operations, trunks, codes) for name, n in connection.execute(query)
        }


def events_of_agent(dsn: str, text: str) -> list[str]:
    """Return the event log of the one agent that `text` names."""
    query = (
        "SELECT to_char(e.at, 'HH24:MI:SS.MS'), e.event, e.step, e.detail::text FROM events e "
        "JOIN operations o ON o.id = e.operation_id WHERE %s LIKE '%%' || o.agent_id || '%%' ORDER BY e.id"
    )
    with psycopg.connect(dsn) as connection:
        return [" ".join(str(part) for part in row) for row in connection.execute(query, [text])]


def _compare_agent(sandbox: Sandbox, found: Differences, agent: dict[str, Any], owned: dict[str, list[str]]) -> None:
    is_provisioned = agent["phone_provisioning_status"] == "PROVISIONED"
    known = {kind: agent[column] for kind, (_, column) in COLUMN_OF.items()}
    # A trunk that numbers share carries nobody's mark: what carries the agent's would be a second one.
    own = known | (dict.fromkeys(SHARED_KINDS) if agent["trunk_id"] else {})
    for kind, ids in owned.items():
        extra = [f"{kind} {one} of agent {agent['id']}" for one in ids if one != own[kind]]
        (found.duplicates if is_provisioned else found.leftovers).extend(extra)
    if not is_provisioned:
        found.leftovers += [f"row of {agent['id']} names {kind} {one}" for kind, one in known.items() if one]
        return
    call = sandbox.call(agent["twilio_phone_number"])
    if not call["reaches"]:
        found.broken.append(f"agent {agent['id']}: {call['reason']}")


def _owners(state: State, foreign: frozenset[str]) -> dict[str, dict[str, list[str]]]:
    """Return what has our tag: agent id -> kind -> ids."""
    owners: dict[str, dict[str, list[str]]] = {}
    for kind in COLUMN_OF:
        for item in state[kind]:
            owner = "unmarked" if _id(item) not in foreign else None
            tag = str(item.get("friendly_name") or item.get("name") or "")
            if tag.startswith("trunkline/"):
                owner = tag.rpartition("/")[2]
            if owner:
                owners.setdefault(owner, {}).setdefault(kind, []).append(_id(item))
    return owners


def _misrouted(state: State, original: dict[str, dict[str, Any]], held: set[str]) -> Iterator[str]:
    for item in state["numbers"]:
        before = original[item["phone_number"]]
        now, then = ({name: record[name] or None for name in ROUTING} for record in (item, before))
        if item["phone_number"] not in held and now != then:
            yield f"number {item['phone_number']} is routed {now}, it was {then}"


def _all(state: State) -> Iterator[dict[str, Any]]:
    for items in state.values():
        yield from items


def _id(item: dict[str, Any]) -> str:
    return str(item.get("sip_dispatch_rule_id") or item.get("sip_trunk_id") or item["sid"])


def _as_text(state: State, ids: frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted(json.dumps(item, sort_keys=True) for item in _all(state) if _id(item) in ids))
