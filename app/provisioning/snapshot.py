"""What both providers hold now, read by list calls only, and how one agent's rows compare with it."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from app.domain.errors import ErrorCode
from app.domain.findings import Finding, FindingCode
from app.providers.base import CarrierNumber, CarrierTrunk, DispatchRule, InboundTrunk, OriginationUrl
from app.providers.errors import RejectedError
from app.providers.lanes import calling, current_caller
from app.provisioning.context import (
    DISPATCH_RULE,
    INBOUND_TRUNK,
    NUMBER,
    ORIGINATION_URL,
    TAG_PREFIX,
    TRUNK,
    Toolbox,
    owner_of,
)
from app.provisioning.verification import same_sip_uri

PARALLEL_LISTS = 8
"""Origination URL lists in flight at once: the one request per trunk that an audit cannot avoid."""


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
    by_number: dict[str, list[InboundTrunk]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Index the LiveKit trunks by their numbers."""
        for trunk in self.inbound_trunks.values():
            for number in trunk.numbers:
                self.by_number.setdefault(number, []).append(trunk)


def read_all(tools: Toolbox, known_trunks: Iterable[str]) -> Snapshot:
    """List everything: pages of numbers and trunks, one URL list per trunk of ours, one list each at LiveKit."""
    numbers = {number.sid: number for number in tools.carrier.list_numbers()}
    trunks = {trunk.sid: trunk for trunk in tools.carrier.list_trunks()}
    ours = {sid for sid, trunk in trunks.items() if tag_owner(trunk.tag, tools.instance)}
    caller = current_caller()

    def list_urls(trunk_sid: str) -> list[OriginationUrl]:
        with calling(caller):
            return tools.carrier.list_origination_urls(trunk_sid)

    with ThreadPoolExecutor(PARALLEL_LISTS) as pool:
        wanted = sorted(ours | (set(known_trunks) & trunks.keys()))
        urls = dict(zip(wanted, pool.map(list_urls, wanted), strict=True))
    return Snapshot(numbers, trunks, urls, *_read_livekit(tools))


def read_one(tools: Toolbox, path: AgentPath) -> Snapshot:
    """Read what concerns one agent: its number, trunk and URLs, and the LiveKit lists."""
    number = _read_number(tools, path)
    numbers = {number.sid: number} if number else {}
    trunk = tools.carrier.get_trunk(path.trunk_sid)
    trunks = {trunk.sid: trunk} if trunk else {}
    urls = {sid: tools.carrier.list_origination_urls(sid) for sid in trunks}
    return Snapshot(numbers, trunks, urls, *_read_livekit(tools))


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


def _read_livekit(tools: Toolbox) -> tuple[dict[str, InboundTrunk], dict[str, DispatchRule]]:
    inbound = {trunk.id: trunk for trunk in tools.platform.list_inbound_trunks()}
    return inbound, {rule.id: rule for rule in tools.platform.list_dispatch_rules()}


def tag_owner(tag: str, instance: str) -> str | None:
    """Return the agent id in a tag of this instance, or None where the tag is not ours."""
    prefix = f"{TAG_PREFIX}/{instance}/"
    return tag.removeprefix(prefix) if tag.startswith(prefix) else None


def metadata_owner(metadata: str, instance: str) -> str | None:
    """Return the agent id in LiveKit metadata of this instance, or None where it is not ours."""
    owner = owner_of(metadata)
    return owner[1] if owner and owner[0] == instance else None


def compare(path: AgentPath, snapshot: Snapshot, tools: Toolbox) -> list[Finding]:
    """Say what keeps this agent's path from being as it was built."""
    found = [
        _number(path, snapshot),
        _trunk(path, snapshot),
        _origination_url(path, snapshot, tools.sip_uri),
        _inbound_trunk(path, snapshot, tools.allowed_addresses),
        _rule(path, snapshot),
    ]
    problems = [problem for problem in found if problem]
    findings = [Finding(code, path.agent_id, resource, detail=detail) for code, resource, detail in problems]
    return findings + _foreign_trunks(path, snapshot, tools.instance)


_Problem = tuple[FindingCode, tuple[str, str], str] | None


def _number(path: AgentPath, snapshot: Snapshot) -> _Problem:
    number, what = snapshot.numbers.get(path.number_sid), (NUMBER, path.number_sid)
    if number is None:
        return FindingCode.NUMBER_GONE, what, ""
    routing = number.routing
    if routing.trunk_sid == path.trunk_sid:
        return None
    if routing.trunk_sid or routing.voice_application_sid:
        return FindingCode.NUMBER_MOVED, what, f"Now on {routing.trunk_sid or routing.voice_application_sid}."
    return FindingCode.NUMBER_DETACHED, what, ""


def _trunk(path: AgentPath, snapshot: Snapshot) -> _Problem:
    trunk = snapshot.trunks.get(path.trunk_sid)
    if trunk is None:
        return FindingCode.TRUNK_GONE, (TRUNK, path.trunk_sid), ""
    return (FindingCode.TRUNK_SECURE, (TRUNK, trunk.sid), "") if trunk.is_secure else None


def _origination_url(path: AgentPath, snapshot: Snapshot, sip_uri: str) -> _Problem:
    if path.trunk_sid not in snapshot.trunks:
        return None  # gone with its trunk: that finding says it
    what = (ORIGINATION_URL, path.url_sid)
    url = next((url for url in snapshot.urls.get(path.trunk_sid, ()) if url.sid == path.url_sid), None)
    if url is None:
        return FindingCode.ORIGINATION_URL_MISSING, what, ""
    if not same_sip_uri(url.sip_url, sip_uri):
        wrong_host = _sip_host(url.sip_url) != _sip_host(sip_uri)
        code = FindingCode.ORIGINATION_HOST_WRONG if wrong_host else FindingCode.ORIGINATION_URL_CHANGED
        return code, what, f"It is {url.sip_url}."
    return None if url.is_enabled else (FindingCode.ORIGINATION_URL_DISABLED, what, "")


def _sip_host(uri: str) -> str | None:
    address = uri.lower().removeprefix("sip:").partition(";")[0]
    return urlsplit(f"//{address}").hostname


def _inbound_trunk(path: AgentPath, snapshot: Snapshot, allowed: Sequence[str]) -> _Problem:
    trunk, what = snapshot.inbound_trunks.get(path.inbound_trunk_id), (INBOUND_TRUNK, path.inbound_trunk_id)
    if trunk is None:
        return FindingCode.LIVEKIT_TRUNK_GONE, what, ""
    if path.phone_number not in trunk.numbers:
        return FindingCode.LIVEKIT_TRUNK_LOST_NUMBER, what, ""
    shut_out = trunk.allowed_addresses and not set(allowed or ["*"]) <= set(trunk.allowed_addresses)
    return (FindingCode.LIVEKIT_TRUNK_CHANGED, what, "") if trunk.has_auth or shut_out else None


def _rule(path: AgentPath, snapshot: Snapshot) -> _Problem:
    rule, what = snapshot.rules.get(path.rule_id), (DISPATCH_RULE, path.rule_id)
    if rule is None:
        return FindingCode.RULE_GONE, what, ""
    if not rule.trunk_ids:
        return FindingCode.RULE_WILDCARD, what, ""
    if path.inbound_trunk_id not in rule.trunk_ids:
        return FindingCode.RULE_DEAD_TRUNK, what, f"It names {', '.join(rule.trunk_ids)}."
    if rule.agent_names != (path.agent_name,):
        return FindingCode.RULE_LOST_AGENT, what, ""
    filtered = rule.inbound_numbers or (rule.numbers and path.phone_number not in rule.numbers)
    return (FindingCode.RULE_FILTERED, what, "") if filtered else None


def _foreign_trunks(path: AgentPath, snapshot: Snapshot, instance: str) -> list[Finding]:
    return [
        Finding(FindingCode.LIVEKIT_TRUNK_FOREIGN, path.agent_id, (INBOUND_TRUNK, trunk.id))
        for trunk in snapshot.by_number.get(path.phone_number, ())
        if trunk.id != path.inbound_trunk_id and metadata_owner(trunk.metadata, instance) is None
    ]
