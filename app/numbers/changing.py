"""Changes an agent after its creation: its row alone, or its path too, by an operation of kind `update`.

What stands at the providers for the options that change is read before the operation is opened, and written back if it
fails. A transaction under the agent's lock decides; nothing is read in it.
"""

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import structlog
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import flag_modified

from app.bulk.items import BulkItemRef
from app.db.access import record_activity
from app.db.engine import Sessions
from app.db.models import Agent, Operation
from app.domain.errors import ErrorCode, RefusedError, validation_failed
from app.domain.events import Action, Origin
from app.domain.operations import (
    DISPATCH_RULE,
    INBOUND_TRUNK,
    LAST,
    STEP_BY_NAME,
    TRUNK,
    OperationKind,
    PhoneStatus,
    StepState,
    TrunkMode,
)
from app.domain.options import OPTIONS, STEP_OF, AgentOptions, options_json, options_of, steps_of
from app.domain.texts import InvalidTextError, check_metadata
from app.domain.workspaces import AccountIds
from app.numbers.agents import accounts_of, give_external_id, lock_agent, refuse_busy
from app.numbers.maintenance import TRUNK_STEPS, profiles_differ, spec_from_row
from app.numbers.service import Publisher, refusal_of
from app.path.options import observed_options, problems_of
from app.path.spec import PathSpec
from app.saga import machine
from app.saga.chain_plan import plan_of
from app.saga.rows import Rows, agent_row
from app.saga.state import Saga

if TYPE_CHECKING:
    from app.saga.context import Toolbox, ToolboxSource

log = structlog.get_logger(__name__)

READS = 2
"""Reads of the providers before a change is given up for somebody else's that was faster, twice."""

OF_THE_RULE = frozenset({"livekit_agent_name", "metadata"})
"""What beside options stands in a dispatch rule: the agent of the call, and what its job is given."""

ACCOUNTS_STAY = (
    "An agent stays in its carrier account and its voice project: make another agent that uses these, and connect the "
    "number to that."
)

OUTRUN = "Somebody else has changed the agent meanwhile: get it again, and send the change once more."


@dataclass(frozen=True, slots=True)
class AgentFields:
    """What a change may name of an agent."""

    external_id: str | None
    name: str
    livekit_agent_name: str
    metadata: Mapping[str, Any]
    options: AgentOptions
    trunk_mode: TrunkMode
    accounts: AccountIds
    """Where its path is built: given, it must be what it is."""

    @classmethod
    def of(cls, agent: Agent) -> "AgentFields":
        """Return what stands in a row."""
        return cls(
            agent.external_id,
            agent.name,
            agent.livekit_agent_name,
            agent.agent_metadata,
            options_of(agent.options),
            agent.trunk_mode,
            agent.accounts,
        )

    def differing(self, other: "AgentFields") -> frozenset[str]:
        """Return the fields in which two differ, those of the options by their own names."""
        names = (one.name for one in fields(self) if one.name != "options")
        differing = (name for name in names if _text(getattr(self, name)) != _text(getattr(other, name)))
        # As JSON: the metadata of a job may come with its keys in another order.
        options = (
            name
            for name in self.options.differing(other.options)
            if _text(options_json(self.options.only([name]))) != _text(options_json(other.options.only([name])))
        )
        return frozenset(differing) | frozenset(options)


def _text(value: object) -> str:
    """Return what tells two values apart as JSON does: Python takes true for 1, and 1.0 too."""
    return json.dumps(value, sort_keys=True, default=str)


Decide = Callable[[AgentFields], AgentFields]
"""What a change makes of an agent; may refuse."""


def patched_by(patch: Mapping[str, Any]) -> Decide:
    """Return what makes of an agent what a JSON merge patch (RFC 7396) asks for, by the fields of the agent's row.

    Its types are checked. 422 `validation_failed` for metadata that becomes too large.
    """

    def decide(now: AgentFields) -> AgentFields:
        plain = ("external_id", "name", "livekit_agent_name", "trunk_mode")
        given = {name: patch[name] for name in plain if name in patch}
        ids = {name: patch[name] for name in now.accounts._fields if name in patch}
        if "agent_metadata" in patch:
            given["metadata"] = _checked_metadata(merged(now.metadata, patch["agent_metadata"]) or {})
        if "options" in patch:
            given["options"] = options_of(merged(options_json(now.options), patch["options"]) or {})
        return replace(now, **given, accounts=now.accounts._replace(**ids))

    return decide


def made_of(wanted: Mapping[str, Any]) -> Decide:
    """Return what makes these fields of the agent's row what they are given as, each as a whole."""
    given = dict(wanted)
    if "options" in given:
        given["options"] = options_of(given["options"])
    if "trunk_mode" in given:
        given["trunk_mode"] = TrunkMode(given["trunk_mode"])
    return lambda now: replace(now, **given)


def merged(now: Any, patch: Any) -> Any:
    """Apply a merge patch, as in section 2 of RFC 7396: null removes, an object is merged, anything else replaces."""
    if not isinstance(patch, Mapping):
        return patch
    found = dict(now) if isinstance(now, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = merged(found.get(name), value)
    return found


def _checked_metadata(value: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        check_metadata(value)
    except InvalidTextError as error:
        raise validation_failed({"metadata": [str(error)]}) from error
    return value


@dataclass(frozen=True)
class Changed:
    """What comes of a change: the agent as it is now, and the operation that brings the rest to its path."""

    agent: Agent
    operation: Operation | None = None


T = TypeVar("T")


class _Update(NamedTuple):
    """What an operation is to change, and what it must know of before."""

    spec: PathSpec
    """The path as it stands."""
    names: frozenset[str]
    """Of the options whose present values are read."""
    extras: frozenset[str]
    """Names of agents that the options name, or are to name."""
    steps: frozenset[str]
    leaves_trunk: bool


class _Read(NamedTuple):
    spec: PathSpec
    names: frozenset[str]
    former: AgentOptions


@dataclass(frozen=True)
class ChangeService:
    """Changes agents."""

    sessions: Sessions
    publisher: Publisher
    rows: Rows
    toolboxes: "ToolboxSource"

    def change(
        self,
        agent_id: uuid.UUID,
        decide: Decide,
        *,
        is_current: Callable[[int], bool] | None = None,
        origin: Origin,
        bulk_item: BulkItemRef | None = None,
    ) -> Changed:
        """Change the agent to what `decide` makes of it; `is_current` says whether a version is the one that is meant.

        What only its row says is changed at once. Else an update is queued, and the agent stays as it is until that has
        succeeded; but for its external id, which is changed at once in either case. Refused: 404 `agent_not_found`, 412
        `version_mismatch`, 422 `validation_failed`; and where it would change anything, 409 `operation_in_progress`,
        `agent_has_phone` (the trunk mode of a number that stands), `accounts_differ`, `external_id_in_use`,
        `shared_with_others`. May raise the providers' errors: nothing is changed then. `bulk_item` is the bulk's item
        that it is for: `ItemTakenError` unless that is still pending.
        """
        tools = self.toolboxes.of(accounts_of(self.sessions, agent_id))
        read: _Read | None = None
        bulk_id = bulk_item.bulk_id if bulk_item else None
        for reads_left in range(READS, -1, -1):
            try:
                with self.sessions.begin() as session:
                    outcome = self._decide(session, tools, agent_id, decide, is_current, read, origin, bulk_id)
                    if bulk_item is not None:
                        _tell(bulk_item, session, outcome)
            except IntegrityError as error:
                raise refusal_of(error) from error
            if isinstance(outcome, Agent):
                return Changed(outcome)
            if isinstance(outcome, Saga):
                return self._publish(outcome)
            if reads_left:
                read = _read(tools, outcome)
        raise RefusedError(ErrorCode.OPERATION_IN_PROGRESS, OUTRUN)

    def _decide(
        self,
        session: Session,
        tools: "Toolbox",
        agent_id: uuid.UUID,
        decide: Decide,
        is_current: Callable[[int], bool] | None,
        read: _Read | None,
        origin: Origin,
        bulk_id: uuid.UUID | None,
    ) -> Agent | Saga | _Update:
        """Change the row, or open the operation, or say what has to be read before."""
        agent, now = lock_agent(session, agent_id)
        if is_current is not None and not is_current(agent.version):
            raise RefusedError(ErrorCode.VERSION_MISMATCH, f"The agent is at version {agent.version}.")
        before = AgentFields.of(agent)
        after = decide(before)
        changed = before.differing(after)
        if not changed:
            return agent
        _refuse(agent, before, after, changed)
        refuse_busy(session, agent_id)
        if "trunk_mode" in changed and agent.twilio_phone_number is not None:
            detail = "The trunk mode is that of the next number: deprovision this one first."
            raise RefusedError(ErrorCode.AGENT_HAS_PHONE, detail)
        update = _update_of(tools, agent, before, after, changed)
        if update is None:
            _write(session, agent, after)
            session.flush()
            session.refresh(agent)
            names = sorted(changed)
            record_activity(session, origin, Action.AGENT_CHANGE, agent_id, agent.workspace_id, fields=names)
            return agent
        if update.names and (read is None or (read.spec, read.names) != (update.spec, update.names)):
            return update
        if "external_id" in changed:
            # It is not of the path: whether it can be had is known now, and it stays whatever becomes of the rest.
            give_external_id(session, agent, after.external_id)
            agent.version += 1
            session.flush()
        change = machine.open_operation(
            OperationKind.UPDATE,
            agent_row(agent),
            now,
            origin,
            only=update.steps | {LAST},
            leaves_trunk=update.leaves_trunk,
            wanted=_wanted(after, changed),
            former_options=options_json(read.former) if read and update.names else {},
            bulk_id=bulk_id,
        )
        return self.rows.open(change, session)

    def _publish(self, saga: Saga) -> Changed:
        operation_id, agent_id = saga.operation.id, saga.agent.id
        steps = [name for name, row in saga.steps.items() if row.state is StepState.PENDING]
        log.info("update_queued", operation_id=str(operation_id), steps=steps)
        self.publisher.publish(plan_of(saga))
        with self.sessions() as session:
            return Changed(session.get_one(Agent, agent_id), session.get_one(Operation, operation_id))


def _tell(bulk_item: BulkItemRef, session: Session, outcome: "Agent | Saga | _Update") -> None:
    """Tell a bulk's item what became of it, unless the providers are to be read first."""
    if isinstance(outcome, Saga):
        bulk_item.start(session, outcome.operation.id)
    elif isinstance(outcome, Agent):
        bulk_item.finish(session)


def _refuse(agent: Agent, before: AgentFields, after: AgentFields, changed: frozenset[str]) -> None:
    """Refuse what cannot be, whatever is under way."""
    if "accounts" in changed:
        raise RefusedError(ErrorCode.ACCOUNTS_DIFFER, ACCOUNTS_STAY)
    number = agent.twilio_phone_number
    # What an adopted path has, and this change leaves alone, need not be what could be set.
    known = problems_of(before.options, number)
    touched = {".".join(one.path) for one in OPTIONS if one.field in changed}
    problems = {
        f"options.{path}": found
        for path, found in problems_of(after.options, number).items()
        if found != known.get(path) or any(f"{path}.".startswith(f"{one}.") for one in touched)
    }
    if problems:
        raise validation_failed(problems)


def _update_of(
    tools: "Toolbox", agent: Agent, before: AgentFields, after: AgentFields, changed: frozenset[str]
) -> _Update | None:
    """Return what an operation has to do; None where nothing changes at a provider."""
    if agent.phone_provisioning_status is not PhoneStatus.PROVISIONED:
        return None
    names = frozenset(name for name in changed if STEP_OF.get(name))
    steps = steps_of(names) | ({DISPATCH_RULE} if changed & OF_THE_RULE else set())
    leaves_trunk = agent.trunk_id is not None and profiles_differ(tools, agent.options, options_json(after.options))
    if TRUNK in steps and agent.trunk_id is not None:
        # What other numbers share is not changed: this one goes to a trunk that is as it wants it.
        names, steps = names - {"transfer"}, steps - {TRUNK}
    if leaves_trunk:
        steps |= TRUNK_STEPS - {LAST}
    if not steps:
        return None
    spec = spec_from_row(tools, agent)
    for step in steps:
        adopted = spec.adopted.get(step)
        if adopted is not None and adopted.is_shared:
            named = f"{STEP_BY_NAME[step].label} {adopted.id}"
            raise RefusedError(ErrorCode.SHARED_WITH_OTHERS, f"Other numbers use the {named} of this number too.")
    extras = frozenset(one.name for options in (before.options, after.options) for one in options.agents or ())
    return _Update(spec, names, extras, steps, leaves_trunk)


def _read(tools: "Toolbox", update: _Update) -> _Read:
    """Read what stands at the providers for the options that change; twice, where it is said not to be there."""
    spec, steps, platform = update.spec, steps_of(update.names), tools.platform
    trunk, rule, carrier_trunk = None, None, None
    with tools.noting():
        if INBOUND_TRUNK in steps:
            trunk = _found(partial(platform.get_inbound_trunk, spec.inbound_trunk_id))
        if DISPATCH_RULE in steps:
            rule = _found(partial(platform.get_dispatch_rule, spec.rule_id))
        if TRUNK in steps:
            carrier_trunk = _found(partial(tools.carrier.get_trunk, spec.trunk_sid))
    return _Read(spec, update.names, observed_options(trunk, rule, carrier_trunk, update.names, update.extras))


def _found(get: Callable[[], T | None]) -> T | None:
    return get() or get()


def _write(session: Session, agent: Agent, after: AgentFields) -> None:
    if after.external_id != agent.external_id:
        give_external_id(session, agent, after.external_id)
    agent.name, agent.livekit_agent_name = after.name, after.livekit_agent_name
    agent.agent_metadata, agent.options = dict(after.metadata), options_json(after.options)
    for name in ("agent_metadata", "options"):
        # SQLAlchemy compares as Python does, which takes true for 1.
        flag_modified(agent, name)
    agent.trunk_mode = after.trunk_mode
    agent.version += 1


def _wanted(after: AgentFields, changed: frozenset[str]) -> dict[str, Any]:
    """Return what the agent's row is to be, by field of the saga's row."""
    wanted = {name: getattr(after, name) for name in ("name", "livekit_agent_name", "metadata") if name in changed}
    return wanted | ({"options": options_json(after.options)} if changed & STEP_OF.keys() else {})
