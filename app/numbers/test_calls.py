"""Test calls as rows: asked for by people or due by an agent's monitor, placed by a worker, kept for a month."""

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import func, or_, select, tuple_, update
from sqlalchemy.orm import Session

from app.calls.probing import place_test_call
from app.calls.verdicts import CallTarget, Outcome
from app.db.access import record_activity
from app.db.engine import Sessions, read_sql
from app.db.models import Agent, TestCall
from app.db.queries import Position, purge_rows
from app.domain.calls import CallStatus, CallVerdict, Reachability
from app.domain.errors import ErrorCode, RefusedError, agent_not_found, test_call_not_found
from app.domain.events import Action, Origin, WebhookEvent
from app.domain.operations import NUMBER, NUMBER_ATTACHMENT, ORIGINATION_URL, PhoneStatus
from app.domain.options import options_of
from app.domain.sip_uris import SipUri
from app.domain.workspaces import ENVIRONMENT_PROJECT
from app.numbers.agents import lock_agent
from app.numbers.maintenance import spec_from_row
from app.numbers.service import Publisher
from app.observability.counters import TEST_CALLS
from app.path.arrival import arrival, called_first, parsed_url
from app.path.observed import Observed
from app.path.spec import PathSpec
from app.providers.base import VoicePlatform
from app.providers.errors import ProviderError
from app.saga.observing import read_path
from app.webhooks.announcements import announce
from app.webhooks.sending import AddressRule

if TYPE_CHECKING:
    from app.accounts.clients import Toolboxes
    from app.observability.counters import Counters
    from app.saga.context import Toolbox

log = structlog.get_logger(__name__)

MOST_CALLS = 10
"""Calls for one agent within `WINDOW`: more would be a load on the agent's workers, and tell nothing new."""

WINDOW = timedelta(minutes=15)

LEASE = timedelta(minutes=2)
"""How long a worker may take: reading the path, half a minute of ringing, hanging up, and a margin."""

REPUBLISH_AFTER = timedelta(seconds=10)
"""How long a call may wait for a worker before its message counts as lost."""

RETRY_AFTER = timedelta(seconds=30)
"""When a monitor calls again after a call that failed: only two in a row say that a number cannot be reached."""

KEPT = timedelta(days=30)

AT_ONCE = 20
"""Calls that one worker process has at the same time, each in a thread: a port and some packets a second each."""

POLL_S = 0.2
"""Seconds between two looks of a request that waits for its call: a call takes some seconds."""

BATCH = 50
"""Calls that one pass of a sweeper opens or publishes."""

_TAKE_DUE = read_sql(__file__, "take_due_calls.sql")

_SAYS: dict[CallVerdict, Reachability] = {
    CallVerdict.ANSWERED: Reachability.REACHABLE,
    CallVerdict.NO_AGENT: Reachability.UNREACHABLE,
    CallVerdict.NO_ROUTE: Reachability.UNREACHABLE,
    CallVerdict.FAILED: Reachability.UNREACHABLE,
}
"""What one call says of its number; one that was refused for who called, or from where, says nothing of others."""


def reachability_after(before: Reachability, latest: CallVerdict, last: CallVerdict | None) -> Reachability:
    """Return what a number's calls have come to: reachable at once, unreachable after two calls in a row."""
    says, said = _SAYS.get(latest), _SAYS.get(last) if last else None
    if says is Reachability.UNREACHABLE and says is not said:
        return before
    return says or before


PlaceCall = Callable[[VoicePlatform, CallTarget, Callable[[str], bool]], Outcome]


def _place(platform: VoicePlatform, target: CallTarget, allows: Callable[[str], bool]) -> Outcome:
    return place_test_call(platform, target, allows=allows)


@dataclass(frozen=True)
class CallService:
    """Opens, places and lists test calls."""

    sessions: Sessions
    publisher: Publisher
    toolboxes: "Toolboxes"
    caller: str
    """The number that calls come from, where the agent's options let in others than a few."""
    rule: AddressRule
    """Which addresses a workspace's voice project may have us call; the environment's may have any."""
    counters: "Counters"
    place: PlaceCall = _place
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(AT_ONCE, "call"))
    """Threads start when needed: a call must not hold one of the worker's, which undo what failed."""
    _closing: threading.Event = field(default_factory=threading.Event)

    def request(self, agent_id: uuid.UUID, *, origin: Origin) -> TestCall:
        """Open a call to the agent's number; 409 `agent_has_no_phone`, 429 `test_call_limit`."""
        with self.sessions.begin() as session:
            agent, now = lock_agent(session, agent_id)
            if agent.phone_provisioning_status is not PhoneStatus.PROVISIONED or agent.twilio_phone_number is None:
                raise RefusedError(ErrorCode.AGENT_HAS_NO_PHONE, "The agent has no number that is provisioned.")
            _check_limit(session, agent_id, now)
            call = TestCall(
                id=uuid.uuid4(),
                agent_id=agent_id,
                workspace_id=agent.workspace_id,
                phone_number=agent.twilio_phone_number,
                caller=self._caller_for(agent),
                requested_by=origin.requested_by,
                key_id=origin.key_id,
                request_id=origin.request_id,
                lease_until=now + REPUBLISH_AFTER,
                status=CallStatus.QUEUED,
                is_monitor=False,
                created_at=now,
            )
            session.add(call)
            record_activity(session, origin, Action.TEST_CALL, agent_id, agent.workspace_id, test_call_id=str(call.id))
        self.publisher.publish_call(call.id)
        return call

    def get(self, agent_id: uuid.UUID, call_id: uuid.UUID) -> TestCall:
        """Return one call; 404 `agent_not_found`, `test_call_not_found`."""
        with self.sessions() as session:
            _check_agent(session, agent_id)
            call = session.scalar(select(TestCall).where(TestCall.id == call_id, TestCall.agent_id == agent_id))
        if call is None:
            raise test_call_not_found(call_id)
        return call

    def list_calls(self, agent_id: uuid.UUID, *, limit: int, cursor: Position | None = None) -> Sequence[TestCall]:
        """Return up to `limit` calls of the agent, the newest first, those after `cursor`; 404 `agent_not_found`."""
        query = select(TestCall).where(TestCall.agent_id == agent_id)
        if cursor is not None:
            query = query.where(tuple_(TestCall.created_at, TestCall.id) < tuple_(cursor.created_at, cursor.id))
        with self.sessions() as session:
            _check_agent(session, agent_id)
            return session.scalars(query.order_by(TestCall.created_at.desc(), TestCall.id.desc()).limit(limit)).all()

    def wait(self, agent_id: uuid.UUID, call_id: uuid.UUID, timeout: timedelta) -> TestCall:
        """Return the call once it is over, or as it is after `timeout`."""
        until = time.monotonic() + timeout.total_seconds()
        while (call := self.get(agent_id, call_id)).finished_at is None and time.monotonic() < until:
            time.sleep(POLL_S)
        return call

    def take_due(self) -> list[uuid.UUID]:
        """Open the calls of monitors that are due; return those and what has waited too long for a worker."""
        limits = {"most": MOST_CALLS, "window": WINDOW}
        values = {"batch": BATCH, "republish": REPUBLISH_AFTER, "caller": self.caller, **limits}
        with self.sessions.begin() as session:
            return list(session.connection().exec_driver_sql(_TAKE_DUE, values).scalars())

    def start(self, call_id: uuid.UUID) -> Future[TestCall | None] | None:
        """Place a call in a thread of its own; None where this process is ending: the next sweep publishes it."""
        return None if self._closing.is_set() else self._threads.submit(self._run_in_thread, call_id)

    def close(self) -> None:
        """Start no further call, and wait for those under way to hang up."""
        self._closing.set()
        self._threads.shutdown(cancel_futures=True)

    def purge(self) -> int:
        """Delete calls older than `KEPT`; return how many."""
        return purge_rows(self.sessions, TestCall.created_at < func.now() - KEPT, TestCall.id)

    def _run_in_thread(self, call_id: uuid.UUID) -> TestCall | None:
        try:
            return self.run(call_id)
        except Exception:  # the outermost frame of a thread: nothing else would log it
            log.exception("test_call_broke", test_call_id=str(call_id))
            return None

    def run(self, call_id: uuid.UUID) -> TestCall | None:
        """Place a call and keep its verdict; None when another worker has it, or it is over."""
        claimed = self._claim(call_id)
        if claimed is None:
            return None
        call, agent = claimed
        outcome = self._outcome(call, agent)
        log.info("test_call", agent_id=str(agent.id), verdict=outcome.verdict, hop=outcome.hop, sip=outcome.sip_status)
        return self._finish(call, outcome)

    def _claim(self, call_id: uuid.UUID) -> tuple[TestCall, Agent] | None:
        free = or_(TestCall.status == CallStatus.QUEUED, TestCall.lease_until < func.clock_timestamp())
        with self.sessions.begin() as session:
            call = session.scalar(
                update(TestCall)
                .where(TestCall.id == call_id, TestCall.status != CallStatus.FINISHED, free)
                .values(
                    status=CallStatus.RUNNING,
                    started_at=func.clock_timestamp(),
                    lease_until=func.clock_timestamp() + LEASE,
                )
                .returning(TestCall)
            )
            return None if call is None else (call, session.get_one(Agent, call.agent_id))

    def _outcome(self, call: TestCall, agent: Agent) -> Outcome:
        is_there = agent.phone_provisioning_status is PhoneStatus.PROVISIONED
        if not is_there or agent.twilio_phone_number != call.phone_number:
            return Outcome(CallVerdict.FAILED, NUMBER_ATTACHMENT, "The number was taken off the agent meanwhile.")
        tools = self.toolboxes.of(agent.accounts)
        spec = spec_from_row(tools, agent)
        observed = _read(tools, spec)
        found = _target(call, spec, observed)
        if isinstance(found, Outcome):
            return found
        is_trusted = agent.voice_project_id == ENVIRONMENT_PROJECT
        return self.place(tools.platform, found, _anything if is_trusted else self._allows)

    def _allows(self, address: str) -> bool:
        return self.rule.allows(ip_address(address))

    def _finish(self, call: TestCall, outcome: Outcome) -> TestCall | None:
        """Keep a verdict, unless another worker has the call by now, and announce what it changes."""
        with self.sessions.begin() as session:
            agent = session.scalar(select(Agent).where(Agent.id == call.agent_id).with_for_update())
            kept: TestCall | None = session.scalar(
                update(TestCall)
                .where(TestCall.id == call.id, TestCall.started_at == call.started_at)
                .values(
                    status=CallStatus.FINISHED,
                    verdict=outcome.verdict,
                    hop=outcome.hop or None,
                    detail=outcome.detail,
                    sip_status=outcome.sip_status,
                    ring_s=outcome.ring_s,
                    answer_s=outcome.answer_s,
                    room=asdict(outcome.room) if outcome.room else None,
                    lease_until=None,
                    finished_at=func.clock_timestamp(),
                )
                .returning(TestCall)
            )
            if kept is None or agent is None:
                return None
            if outcome.is_conclusive and agent.twilio_phone_number == kept.phone_number:
                self._keep_reachability(session, agent, kept)
        self.counters.count(TEST_CALLS, outcome.verdict.value, "monitor" if call.is_monitor else "request")
        return kept

    def _keep_reachability(self, session: Session, agent: Agent, call: TestCall) -> None:
        last = session.scalar(
            select(TestCall.verdict)
            .where(TestCall.agent_id == agent.id, TestCall.id != call.id, TestCall.status == CallStatus.FINISHED)
            .where(TestCall.phone_number == call.phone_number)
            .order_by(TestCall.finished_at.desc())
            .limit(1)
        )
        verdict = call.verdict or CallVerdict.FAILED
        before, agent.reachability = agent.reachability, reachability_after(agent.reachability, verdict, last)
        if options_of(agent.options).monitor_every_minutes is None:
            return
        fails = _SAYS.get(verdict) is Reachability.UNREACHABLE
        if fails and agent.reachability is not Reachability.UNREACHABLE:
            agent.monitor_due_at = session.scalar(select(func.clock_timestamp() + RETRY_AFTER))
        event = _NEWS.get((before, agent.reachability))
        if event is not None:
            announce(session, [(event, _news_of(agent, call))])

    def _caller_for(self, agent: Agent) -> str:
        allowed = options_of(agent.options).allowed_callers
        return allowed[0] if allowed else self.caller


_NEWS = {
    (Reachability.UNKNOWN, Reachability.UNREACHABLE): WebhookEvent.UNREACHABLE,
    (Reachability.REACHABLE, Reachability.UNREACHABLE): WebhookEvent.UNREACHABLE,
    (Reachability.UNREACHABLE, Reachability.REACHABLE): WebhookEvent.REACHABLE,
}


def _news_of(agent: Agent, call: TestCall) -> dict[str, object]:
    return {
        "agentId": str(agent.id),
        "agentName": agent.name,
        "phoneProvisioningStatus": agent.phone_provisioning_status,
        "phoneNumber": call.phone_number,
        "operationId": None,
        "testCall": {
            "id": str(call.id),
            "verdict": call.verdict,
            "hop": call.hop,
            "sipStatus": call.sip_status,
            "detail": call.detail,
        },
    }


def _anything(_: str) -> bool:
    return True


def _check_limit(session: Session, agent_id: uuid.UUID, now: datetime) -> None:
    recent = (
        select(TestCall.created_at)
        .where(TestCall.agent_id == agent_id, TestCall.created_at > now - WINDOW)
        .order_by(TestCall.created_at.desc())
        .limit(MOST_CALLS)
    )
    times = session.scalars(recent).all()
    if len(times) >= MOST_CALLS:
        minutes = int(WINDOW.total_seconds() // 60)
        detail = f"The agent has had {MOST_CALLS} test calls within {minutes} minutes."
        raise RefusedError(
            ErrorCode.TEST_CALL_LIMIT, detail, retry_after_s=max((times[-1] + WINDOW - now).total_seconds(), 1.0)
        )


def _check_agent(session: Session, agent_id: uuid.UUID) -> None:
    if session.scalar(select(Agent.id).where(Agent.id == agent_id, Agent.deleted_at.is_(None))) is None:
        raise agent_not_found(agent_id)


def _read(tools: "Toolbox", spec: PathSpec) -> Observed | None:
    """Read the path as it is now; None where a provider does not say: the call is placed all the same."""
    try:
        with tools.noting():
            return read_path(tools.carrier, tools.platform, spec)
    except ProviderError as error:
        log.info("test_call_without_path", code=error.code)
        return None


def _target(call: TestCall, spec: PathSpec, observed: Observed | None) -> CallTarget | Outcome:
    """Say whom Twilio would call for the number as it stands; or that it would call nobody, and why."""
    if observed is None:
        return CallTarget(spec.profile.sip_uri, call.phone_number, call.caller, spec.profile.is_secure, spec.agent_name)
    arrived = arrival(observed, spec, 0.0)
    url = called_first(observed.urls.get(arrived.trunk_sid, ()), 0.0)
    uri = parsed_url(url.sip_url) if url else None
    if uri is None or arrived.reasons:
        said = " ".join(reason.detail for reason in arrived.reasons if reason.detail)
        detail = f"Twilio would not call LiveKit for this number: verify the path. {said}".strip()
        kinds = [reason.resource[0] for reason in arrived.reasons if reason.resource] or [ORIGINATION_URL]
        return Outcome(CallVerdict.NO_ROUTE, NUMBER_ATTACHMENT if kinds[0] == NUMBER else kinds[0], detail)
    return CallTarget(
        _as_called(uri, is_secure=arrived.is_secure),
        arrived.called,
        call.caller,
        arrived.is_secure,
        spec.agent_name,
        observed.inbound_trunks.get(spec.inbound_trunk_id),
        observed.rules.get(spec.rule_id),
        is_read=True,
    )


def _as_called(uri: SipUri, *, is_secure: bool) -> SipUri:
    """Return the URI as Twilio calls it: from a secure trunk over TLS, whatever transport it names."""
    return uri.over_tls() if is_secure else uri
