"""What both providers hold now, read by list calls only, and how one agent's rows compare with it.

Nothing that a provider holds makes a comparison fail: what cannot be read is a finding of its own.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import structlog

from app.domain.errors import ErrorCode
from app.domain.findings import Finding, FindingCode
from app.domain.marks import agent_of, is_damaged
from app.domain.steps import DISPATCH_RULE, INBOUND_TRUNK, NUMBER, ORIGINATION_URL, TRUNK
from app.domain.texts import shown
from app.providers.base import CarrierNumber, CarrierTrunk, DispatchRule, InboundTrunk, OriginationUrl, Unreadable
from app.providers.errors import RejectedError
from app.providers.rate_limiter import calling, current_caller
from app.saga.context import Toolbox
from app.saga.verification import same_sip_uri, sip_host

log = structlog.get_logger(__name__)

PARALLEL_LISTS = 8
"""Origination URL lists in flight at once: the one request per trunk that an audit cannot avoid."""

NO_ID = "unknown"
"""Stands for the id of a record whose id cannot be read."""

Place = tuple[str, str]
"""A kind of resource (step name) and an id: its own, or that of what its list is under, empty for the account."""


@dataclass(frozen=True)
class AgentPath:
    """What the rows say about one provisioned agent."""

    agent_id: str
    agent_name: str
    phone_number: str
    number_sid: str
    trunk_sid: str
    url_sid: str
    inbound_trunk_id: str
    rule_id: str


@dataclass(frozen=True)
class Snapshot:
    """Both providers at about one moment."""

    numbers: dict[str, CarrierNumber]
    trunks: dict[str, CarrierTrunk]
    urls: Mapping[str, Sequence[OriginationUrl]]
    inbound_trunks: dict[str, InboundTrunk]
    rules: dict[str, DispatchRule]
    unreadable: Mapping[Place, Sequence[Unreadable]] = field(default_factory=dict)
    by_number: dict[str, list[InboundTrunk]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Index the LiveKit trunks by their numbers."""
        for trunk in self.inbound_trunks.values():
            for number in trunk.numbers:
                self.by_number.setdefault(number, []).append(trunk)

    def may_hold(self, kind: str, external_id: str, parent_id: str = "") -> bool:
        """Say whether a resource that is not listed may be one that could not be read."""
        odd = self.unreadable.get((kind, parent_id), ())
        return any(one.external_id == external_id or (not one.external_id and one.may_be_ours) for one in odd)


class _Unreadables(dict[Place, list[Unreadable]]):
    """Collects what each list could not read."""

    def at(self, kind: str, parent_id: str = "") -> list[Unreadable]:
        return self.setdefault((kind, parent_id), [])


def read_all(tools: Toolbox, known_trunks: Iterable[str]) -> Snapshot:
    """List everything: pages of numbers and trunks, one URL list per trunk of ours, one list each at LiveKit."""
    odd = _Unreadables()
    numbers = {number.sid: number for number in tools.carrier.list_numbers(odd.at(NUMBER))}
    trunks = {trunk.sid: trunk for trunk in tools.carrier.list_trunks(odd.at(TRUNK))}
    ours = {sid for sid, trunk in trunks.items() if agent_of(tools.instance, trunk.tag)}
    caller = current_caller()

    def list_urls(trunk_sid: str) -> list[OriginationUrl]:
        with calling(caller):
            return tools.carrier.list_origination_urls(trunk_sid, odd.at(ORIGINATION_URL, trunk_sid))

    with ThreadPoolExecutor(PARALLEL_LISTS) as pool:
        wanted = sorted(ours | (set(known_trunks) & trunks.keys()))
        urls = dict(zip(wanted, pool.map(list_urls, wanted), strict=True))
    return _with_livekit(tools, numbers, trunks, urls, odd)


def read_one(tools: Toolbox, path: AgentPath) -> Snapshot:
    """Read what concerns one agent: its number, trunk and URLs, and the LiveKit lists."""
    odd = _Unreadables()
    number = _read_number(tools, path)
    numbers = {number.sid: number} if number else {}
    trunk = tools.carrier.get_trunk(path.trunk_sid)
    trunks = {trunk.sid: trunk} if trunk else {}
    urls = {sid: tools.carrier.list_origination_urls(sid, odd.at(ORIGINATION_URL, sid)) for sid in trunks}
    return _with_livekit(tools, numbers, trunks, urls, odd)


def _read_number(tools: Toolbox, path: AgentPath) -> CarrierNumber | None:
    """Read the number by its sid, and where Twilio knows none by its text: one 404 need not be true."""
    for look, key in (
        (tools.carrier.get_number, path.number_sid),
        (tools.carrier.find_number, path.phone_number),
    ):
        try:
            number = look(key)
        except RejectedError as error:
            if error.code is not ErrorCode.NUMBER_NOT_IN_ACCOUNT:
                raise
        else:
            return number if number.sid == path.number_sid else None
    return None


def _with_livekit(
    tools: Toolbox,
    numbers: dict[str, CarrierNumber],
    trunks: dict[str, CarrierTrunk],
    urls: Mapping[str, Sequence[OriginationUrl]],
    odd: _Unreadables,
) -> Snapshot:
    # Rules before trunks: a trunk that a rule names and that is not listed after it is gone, not still to come.
    rules = {rule.id: rule for rule in tools.platform.list_dispatch_rules(unreadable=odd.at(DISPATCH_RULE))}
    inbound = {trunk.id: trunk for trunk in tools.platform.list_inbound_trunks(unreadable=odd.at(INBOUND_TRUNK))}
    return Snapshot(numbers, trunks, urls, inbound, rules, odd)


def compare(path: AgentPath, snapshot: Snapshot, tools: Toolbox) -> list[Finding]:
    """Say what keeps this agent's path from being as it was built."""
    findings = []
    for kind, external_id, check in (
        (NUMBER, path.number_sid, _number),
        (TRUNK, path.trunk_sid, _trunk),
        (ORIGINATION_URL, path.url_sid, _origination_url),
        (INBOUND_TRUNK, path.inbound_trunk_id, _inbound_trunk),
        (DISPATCH_RULE, path.rule_id, _rule),
        (INBOUND_TRUNK, path.inbound_trunk_id, _foreign_trunks),
    ):
        findings += guarded(partial(check, path, snapshot, tools), path.agent_id, (kind, external_id))
    return findings


def guarded(
    check: Callable[[], list[Finding]], agent_id: str | None = None, resource: Place | None = None
) -> list[Finding]:
    """Return what a check finds; one that breaks is one finding and one line of the log, and the others go on."""
    try:
        return check()
    except Exception:
        log.exception("check_broke", resource=resource, agent_id=agent_id)
        detail = "The check met an error of ours; the log has it."
        return [Finding(FindingCode.UNREADABLE, agent_id, resource, detail=detail)]


def find_unreadable(snapshot: Snapshot, instance: str, known: Collection[str]) -> list[Finding]:
    """Say what could not be read, but for what is known (its agent's path says it), and which marks of ours cannot be.

    A damaged mark makes a resource nobody's: it is never deleted as an orphan.
    """
    found = [
        Finding(FindingCode.UNREADABLE, None, (kind, one.external_id or NO_ID), parent_id=parent or None)
        for (kind, parent), records in sorted(snapshot.unreadable.items())
        for one in records
        if not one.external_id or one.external_id not in known
    ]
    marked = [
        *((TRUNK, trunk.sid, (trunk.tag,)) for trunk in snapshot.trunks.values()),
        *((INBOUND_TRUNK, trunk.id, (trunk.metadata,)) for trunk in snapshot.inbound_trunks.values()),
        *((DISPATCH_RULE, rule.id, (rule.name, rule.metadata)) for rule in snapshot.rules.values()),
        *((ORIGINATION_URL, url.sid, (url.tag,)) for urls in snapshot.urls.values() for url in urls),
    ]
    detail = "Its mark names no agent, or is nested too deep to read."
    for kind, external_id, texts in marked:
        if is_damaged(instance, *texts):
            found.append(Finding(FindingCode.UNREADABLE, None, (kind, external_id), detail=detail))
    return found


def _gone(code: FindingCode, path: AgentPath, snapshot: Snapshot, what: Place, parent_id: str = "") -> list[Finding]:
    """Say that a resource is not there; where it may be what could not be read, say that instead."""
    is_odd = snapshot.may_hold(*what, parent_id)
    return [Finding(FindingCode.UNREADABLE if is_odd else code, path.agent_id, what)]


def _number(path: AgentPath, snapshot: Snapshot, _: Toolbox) -> list[Finding]:
    number, what = snapshot.numbers.get(path.number_sid), (NUMBER, path.number_sid)
    if number is None:
        return _gone(FindingCode.NUMBER_GONE, path, snapshot, what)
    routing = number.routing
    if routing.trunk_sid == path.trunk_sid:
        return []
    if routing.trunk_sid or routing.voice_application_sid:
        detail = f"Now on {shown(routing.trunk_sid or routing.voice_application_sid or '')}."
        return [Finding(FindingCode.NUMBER_MOVED, path.agent_id, what, detail=detail)]
    return [Finding(FindingCode.NUMBER_DETACHED, path.agent_id, what)]


def _trunk(path: AgentPath, snapshot: Snapshot, _: Toolbox) -> list[Finding]:
    trunk, what = snapshot.trunks.get(path.trunk_sid), (TRUNK, path.trunk_sid)
    if trunk is None:
        return _gone(FindingCode.TRUNK_GONE, path, snapshot, what)
    return [Finding(FindingCode.TRUNK_SECURE, path.agent_id, what)] if trunk.is_secure else []


def _origination_url(path: AgentPath, snapshot: Snapshot, tools: Toolbox) -> list[Finding]:
    if path.trunk_sid not in snapshot.trunks:
        return []  # gone with its trunk: that finding says it
    what = (ORIGINATION_URL, path.url_sid)
    url = next((url for url in snapshot.urls.get(path.trunk_sid, ()) if url.sid == path.url_sid), None)
    if url is None:
        return _gone(FindingCode.ORIGINATION_URL_MISSING, path, snapshot, what, path.trunk_sid)
    if not same_sip_uri(url.sip_url, tools.sip_uri):
        wrong_host = sip_host(url.sip_url) != sip_host(tools.sip_uri)
        code = FindingCode.ORIGINATION_HOST_WRONG if wrong_host else FindingCode.ORIGINATION_URL_CHANGED
        return [Finding(code, path.agent_id, what, detail=f"It is {shown(url.sip_url)}.")]
    return [] if url.is_enabled else [Finding(FindingCode.ORIGINATION_URL_DISABLED, path.agent_id, what)]


def _inbound_trunk(path: AgentPath, snapshot: Snapshot, tools: Toolbox) -> list[Finding]:
    trunk, what = snapshot.inbound_trunks.get(path.inbound_trunk_id), (INBOUND_TRUNK, path.inbound_trunk_id)
    if trunk is None:
        return _gone(FindingCode.LIVEKIT_TRUNK_GONE, path, snapshot, what)
    if path.phone_number not in trunk.numbers:
        return [Finding(FindingCode.LIVEKIT_TRUNK_LOST_NUMBER, path.agent_id, what)]
    wanted = set(tools.allowed_addresses or ["*"])
    shut_out = trunk.allowed_addresses and not wanted <= set(trunk.allowed_addresses)
    is_changed = trunk.has_auth or shut_out
    return [Finding(FindingCode.LIVEKIT_TRUNK_CHANGED, path.agent_id, what)] if is_changed else []


def _rule(path: AgentPath, snapshot: Snapshot, _: Toolbox) -> list[Finding]:
    rule, what = snapshot.rules.get(path.rule_id), (DISPATCH_RULE, path.rule_id)
    if rule is None:
        return _gone(FindingCode.RULE_GONE, path, snapshot, what)
    if not rule.trunk_ids:
        return [Finding(FindingCode.RULE_WILDCARD, path.agent_id, what)]
    if path.inbound_trunk_id not in rule.trunk_ids:
        detail = f"It names {shown(', '.join(rule.trunk_ids))}."
        return [Finding(FindingCode.RULE_DEAD_TRUNK, path.agent_id, what, detail=detail)]
    if rule.agent_names != (path.agent_name,):
        return [Finding(FindingCode.RULE_LOST_AGENT, path.agent_id, what)]
    filtered = rule.inbound_numbers or (rule.numbers and path.phone_number not in rule.numbers)
    return [Finding(FindingCode.RULE_FILTERED, path.agent_id, what)] if filtered else []


def _foreign_trunks(path: AgentPath, snapshot: Snapshot, tools: Toolbox) -> list[Finding]:
    return [
        Finding(FindingCode.LIVEKIT_TRUNK_FOREIGN, path.agent_id, (INBOUND_TRUNK, trunk.id))
        for trunk in snapshot.by_number.get(path.phone_number, ())
        if trunk.id != path.inbound_trunk_id and agent_of(tools.instance, trunk.metadata) is None
    ]
