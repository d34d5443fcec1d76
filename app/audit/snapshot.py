"""Reads what both providers have, by list calls only, and compares it with one agent's stored path.

Unexpected data at a provider never makes a comparison fail: what cannot be read is a finding of its own.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import structlog

from app.domain.errors import ErrorCode
from app.domain.findings import Finding, FindingCode
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, NUMBER, ORIGINATION_URL, TRUNK
from app.domain.texts import shown
from app.path.marks import agent_of, is_damaged
from app.path.observed import CarrierNumber, CarrierTrunk, DispatchRule, InboundTrunk, OriginationUrl, Unreadable
from app.providers.errors import RejectedError
from app.providers.rate_limiter import calling, current_caller
from app.saga.context import Toolbox
from app.saga.verification import same_sip_uri, sip_host

log = structlog.get_logger(__name__)

PARALLEL_LISTS = 8
"""Origination URL lists read at once: an audit needs one request for each trunk."""

NO_ID = "unknown"
"""Replaces the id of a record whose id cannot be read."""

ResourceKey = tuple[str, str]
"""A kind of resource (step name) and an id: the resource's own, or its parent's (empty for the account) for a list."""


@dataclass(frozen=True)
class AgentPath:
    """The stored path of one provisioned agent."""

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
    """What both providers have at about one moment."""

    numbers: dict[str, CarrierNumber]
    trunks: dict[str, CarrierTrunk]
    urls: Mapping[str, Sequence[OriginationUrl]]
    inbound_trunks: dict[str, InboundTrunk]
    rules: dict[str, DispatchRule]
    unreadable: Mapping[ResourceKey, Sequence[Unreadable]] = field(default_factory=dict)
    by_number: dict[str, list[InboundTrunk]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Index the LiveKit trunks by their numbers."""
        for trunk in self.inbound_trunks.values():
            for number in trunk.numbers:
                self.by_number.setdefault(number, []).append(trunk)

    def may_hold(self, kind: str, external_id: str, parent_id: str = "") -> bool:
        """Tell whether a resource that is not listed may be one that could not be read."""
        unreadable = self.unreadable.get((kind, parent_id), ())
        return any(one.external_id == external_id or (not one.external_id and one.may_be_ours) for one in unreadable)


class _UnreadableRecords(dict[ResourceKey, list[Unreadable]]):
    """The records of each list that could not be read."""

    def of_list(self, kind: str, parent_id: str = "") -> list[Unreadable]:
        return self.setdefault((kind, parent_id), [])


def read_all(tools: Toolbox, known_trunks: Iterable[str]) -> Snapshot:
    """List everything: numbers and trunks, the URLs of each of our trunks, and LiveKit's trunks and rules."""
    unreadable = _UnreadableRecords()
    numbers = {number.sid: number for number in tools.carrier.list_numbers(unreadable.of_list(NUMBER))}
    trunks = {trunk.sid: trunk for trunk in tools.carrier.list_trunks(unreadable.of_list(TRUNK))}
    ours = {sid for sid, trunk in trunks.items() if agent_of(tools.instance, trunk.tag)}
    caller = current_caller()

    def list_urls(trunk_sid: str) -> list[OriginationUrl]:
        with calling(caller):
            return tools.carrier.list_origination_urls(trunk_sid, unreadable.of_list(ORIGINATION_URL, trunk_sid))

    with ThreadPoolExecutor(PARALLEL_LISTS) as pool:
        wanted = sorted(ours | (set(known_trunks) & trunks.keys()))
        urls = dict(zip(wanted, pool.map(list_urls, wanted), strict=True))
    return _with_livekit(tools, numbers, trunks, urls, unreadable)


def read_one(tools: Toolbox, path: AgentPath) -> Snapshot:
    """Read what one agent's path needs: its number, trunk and URLs, and the LiveKit lists."""
    unreadable = _UnreadableRecords()
    number = _read_number(tools, path)
    numbers = {number.sid: number} if number else {}
    trunk = tools.carrier.get_trunk(path.trunk_sid)
    trunks = {trunk.sid: trunk} if trunk else {}
    urls = {sid: tools.carrier.list_origination_urls(sid, unreadable.of_list(ORIGINATION_URL, sid)) for sid in trunks}
    return _with_livekit(tools, numbers, trunks, urls, unreadable)


def _read_number(tools: Toolbox, path: AgentPath) -> CarrierNumber | None:
    """Read the number by its SID and, on a 404, by its text: one 404 may be wrong."""
    for read_number, key in (
        (tools.carrier.get_number, path.number_sid),
        (tools.carrier.find_number, path.phone_number),
    ):
        try:
            number = read_number(key)
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
    unreadable: _UnreadableRecords,
) -> Snapshot:
    # Rules before trunks: a trunk that a rule names but the later list lacks is gone, not new.
    rules = {rule.id: rule for rule in tools.platform.list_dispatch_rules(unreadable=unreadable.of_list(DISPATCH_RULE))}
    inbound = {
        trunk.id: trunk for trunk in tools.platform.list_inbound_trunks(unreadable=unreadable.of_list(INBOUND_TRUNK))
    }
    return Snapshot(numbers, trunks, urls, inbound, rules, unreadable)


def compare(path: AgentPath, snapshot: Snapshot, tools: Toolbox) -> list[Finding]:
    """Return how this agent's path differs from how it was built."""
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
    check: Callable[[], list[Finding]], agent_id: str | None = None, resource: ResourceKey | None = None
) -> list[Finding]:
    """Return what a check finds; one that raises becomes a finding and a log line, and the others go on."""
    try:
        return check()
    except Exception:
        log.exception("check_broke", resource=resource, agent_id=agent_id)
        detail = "The check failed by an error of ours; see the log."
        return [Finding(FindingCode.UNREADABLE, agent_id, resource, detail=detail)]


def find_unreadable(snapshot: Snapshot, instance: str, known: Collection[str]) -> list[Finding]:
    """Return the records and marks that could not be read, without `known` ids, which their agents' checks report.

    A resource with a damaged mark belongs to nobody: it is never deleted as an orphan.
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


def _gone(
    code: FindingCode, path: AgentPath, snapshot: Snapshot, what: ResourceKey, parent_id: str = ""
) -> list[Finding]:
    """Report a resource as missing, or as unreadable when it may be one that could not be read."""
    is_unreadable = snapshot.may_hold(*what, parent_id)
    return [Finding(FindingCode.UNREADABLE if is_unreadable else code, path.agent_id, what)]


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
        return []  # gone with its trunk, which has its own finding
    what = (ORIGINATION_URL, path.url_sid)
    url = next((url for url in snapshot.urls.get(path.trunk_sid, ()) if url.sid == path.url_sid), None)
    if url is None:
        return _gone(FindingCode.ORIGINATION_URL_MISSING, path, snapshot, what, path.trunk_sid)
    if not same_sip_uri(url.sip_url, str(tools.profile.sip_uri)):
        wrong_host = sip_host(url.sip_url) != sip_host(str(tools.profile.sip_uri))
        code = FindingCode.ORIGINATION_HOST_WRONG if wrong_host else FindingCode.ORIGINATION_URL_CHANGED
        return [Finding(code, path.agent_id, what, detail=f"It is {shown(url.sip_url)}.")]
    return [] if url.is_enabled else [Finding(FindingCode.ORIGINATION_URL_DISABLED, path.agent_id, what)]


def _inbound_trunk(path: AgentPath, snapshot: Snapshot, tools: Toolbox) -> list[Finding]:
    trunk, what = snapshot.inbound_trunks.get(path.inbound_trunk_id), (INBOUND_TRUNK, path.inbound_trunk_id)
    if trunk is None:
        return _gone(FindingCode.LIVEKIT_TRUNK_GONE, path, snapshot, what)
    if path.phone_number not in trunk.numbers:
        return [Finding(FindingCode.LIVEKIT_TRUNK_LOST_NUMBER, path.agent_id, what)]
    wanted = set(tools.profile.allowed_addresses or ["*"])
    excludes_twilio = trunk.allowed_addresses and not wanted <= set(trunk.allowed_addresses)
    is_changed = trunk.has_auth or excludes_twilio
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
