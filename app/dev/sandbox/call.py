"""Follows a call from the Twilio number to the agent: Twilio's side of it, its fail-over, and what comes of it.

A second opinion: it is written from the providers' sources and documents and shares no code with the application.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from ipaddress import ip_address, ip_network
from itertools import groupby
from typing import Any

from app.dev.sandbox.call_livekit import Answer, Hop, Invite, hop, ringing_s, take_invite
from app.dev.sandbox.state import FIRST_PROJECT, SILENT, Sandbox

Record = dict[str, Any]

TWILIO_SIGNALLING = tuple(
    ip_network(cidr)
    for cidr in (
        "54.172.60.0/30",
        "54.244.51.0/30",
        "54.171.127.192/30",
        "35.156.191.128/30",
        "54.65.63.192/30",
        "54.169.127.128/30",
        "54.252.254.64/30",
        "177.71.206.192/30",
    )
)
"""Twilio's SIP signalling addresses (twilio.com/docs/sip-trunking/ip-addresses, 2026-03-09)."""

DEFAULT_SOURCE = "54.172.60.0"
"""The address that the call comes from when none is given: Twilio's region us1, the default one."""

DEFAULT_CALLER = "+15005550006"
"""The caller when none is given: Twilio's magic number for a valid one."""

IN_USE = (None, "", "in-use")
"""Statuses of a number that takes calls. The field is undocumented: `in-use` is the documents' example, and a record
without a status says nothing against it."""

TWILIO, LIVEKIT, OTHER_HOST = "twilio", "livekit", "otherHost"
"""Who may have ended a call."""


def is_twilio_address(text: str) -> bool:
    """Say whether Twilio's signalling comes from this address."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return any(address in block for block in TWILIO_SIGNALLING)


class CallEndedError(Exception):
    """The call ends on Twilio's side, before any origination URL is tried; the hop says where and why."""

    def __init__(self, name: str, resource_id: str | None, reason: str) -> None:
        super().__init__(reason)
        self.hop = hop(name, resource_id, reason, ok=False)


def trace_call(
    sandbox: Sandbox,
    called: str,
    caller: str | None = None,
    *,
    source: str = DEFAULT_SOURCE,
    roll: float = 0.0,
    pin: str | None = None,
) -> dict[str, Any]:
    """Follow a call to a number; runs under the store's lock.

    `source` is the IPv4 address that Twilio sends from, `roll` (0 <= roll < 1) draws among the origination URLs of a
    priority by their weights. `pin` is what the caller dials when asked for one; without it he hangs up. `status` is
    what LiveKit answers to the last INVITE that it gets, None for silence and when the last URL leads elsewhere. The
    call `reaches` an agent only if an agent that the rule names answers it and it is not cut within ten seconds;
    `agents` are all that the rule dispatches. `call` is what LiveKit makes of a call that reaches one.
    """
    hops: list[Hop] = []
    account = _account(sandbox, called)
    try:
        number = _number(account, hops, called)
        trunk = _trunk(account, hops, number)
        urls = _enabled_urls(account, trunk)
    except CallEndedError as end:
        return _result([*hops, end.hop], Answer([], None, str(end)), TWILIO)
    invite = Invite(called, caller or DEFAULT_CALLER, source, is_secure=trunk["secure"], pin=pin)
    return _call_urls(sandbox, hops, drawn_order(urls, roll), invite)


def _result(hops: list[Hop], answer: Answer, ended_by: str) -> dict[str, Any]:
    reaches = not answer.reason
    return {
        "reaches": reaches,
        "agentName": answer.answered_by if reaches else None,
        "agents": answer.agents,
        "status": answer.status,
        "reason": answer.reason,
        "callEndedBy": None if reaches else ended_by,
        "call": _effects(answer) if reaches else None,
        "path": hops,
    }


def _effects(answer: Answer) -> dict[str, Any]:
    """Return what a call is like that has come into its room (livekit/protocol sip/sip.go, EvaluateDispatchRule).

    Noise is cancelled if trunk or rule says so; durations and headers are the trunk's alone, all else the rule's.
    """
    trunk, rule = answer.trunk, answer.rule
    config = rule.room_config if rule else None
    return {
        "room": answer.room,
        "jobs": [{"agent": each.agent_name, "metadata": each.metadata} for each in config.agents] if config else [],
        "preset": rule.room_preset if rule else "",
        "emptyTimeoutS": config.empty_timeout if config else 0,
        "departureTimeoutS": config.departure_timeout if config else 0,
        "maxParticipants": config.max_participants if config else 0,
        "participantMetadata": rule.metadata if rule else "",
        "participantAttributes": dict(rule.attributes) if rule else {},
        "hidesPhoneNumber": bool(rule and rule.hide_phone_number),
        "krisp": bool((trunk and trunk.krisp_enabled) or (rule and rule.krisp_enabled)),
        "ringsS": None if answer.is_asked else ringing_s(trunk),
        "lastsS": answer.longest_s,
        "headersToAttributes": dict(trunk.headers_to_attributes) if trunk else {},
        "includeHeaders": trunk.include_headers if trunk else 0,
    }


def _account(sandbox: Sandbox, called: str) -> Sandbox:
    """Return the sandbox as the Twilio account sees it that has the number: the first one if none has."""
    accounts = (sandbox.of_account(sid) for sid in sandbox.store.accounts.rows)
    return next((account for account in accounts if account.store.number_by_phone.ids(called)), sandbox)


def _number(sandbox: Sandbox, hops: list[Hop], called: str) -> Record:
    """Find the number, which must be on a trunk: a trunk beats an application, which beats a URL (twilio-oai)."""
    ids = sandbox.store.number_by_phone.ids(called)
    if not ids:
        raise CallEndedError("twilioNumber", None, f"{called} is not a number of this account")
    number = sandbox.store.numbers.rows[ids[0]]
    sid = number["sid"]
    if number.get("status") not in IN_USE:
        raise CallEndedError("twilioNumber", sid, f"{called} is not in use: its status is {number['status']}")
    if not number["capabilities"].get("voice") or number["voice_receive_mode"] == "fax":
        raise CallEndedError("twilioNumber", sid, f"{called} does not take voice calls")
    if not number["trunk_sid"]:
        instead = number["voice_application_sid"] or number["voice_url"]
        where = f"calls go to {instead}" if instead else "nothing answers its calls"
        raise CallEndedError("twilioNumber", sid, f"{called} is on no trunk; {where}")
    hops.append(hop("twilioNumber", sid, f"{called} is on trunk {number['trunk_sid']}"))
    return number


def _trunk(sandbox: Sandbox, hops: list[Hop], number: Record) -> Record:
    trunk: Record | None = sandbox.store.trunks.get(number["trunk_sid"])
    if trunk is None:
        raise CallEndedError("twilioTrunk", number["trunk_sid"], f"trunk {number['trunk_sid']} does not exist")
    detail = f"{trunk['friendly_name']}, {'secure' if trunk['secure'] else 'plain'}"
    hops.append(hop("twilioTrunk", trunk["sid"], detail))
    return trunk


def _enabled_urls(sandbox: Sandbox, trunk: Record) -> list[Record]:
    """Return the enabled URLs in the order of their creation, which is that of Twilio's list."""
    store = sandbox.store
    rows = store.origination_urls.ordered(store.urls_by_trunk.ids(trunk["sid"]))
    if urls := [url for _, url in rows if url["enabled"]]:
        return urls
    raise CallEndedError("originationUrl", None, f"trunk {trunk['sid']} has no enabled origination URL (32010)")


def drawn_order(urls: Iterable[Record], roll: float) -> list[Record]:
    """Return URLs in the order in which Twilio tries them, for one draw.

    The lowest priority comes first; one URL of each priority is drawn by weight, and the others of the priority follow
    it in the given order. How Twilio orders these is not documented, only that all are tried before the next priority
    (twilio.com/docs/sip-trunking). A weight of 0, which Twilio accepts, is drawn only if all have it.
    """
    order: list[Record] = []
    for _, tier in groupby(sorted(urls, key=_priority), key=_priority):
        candidates = list(tier)
        drawn = _drawn(candidates, roll)
        order += [drawn, *(url for url in candidates if url is not drawn)]
    return order


def _priority(url: Record) -> int:
    return int(url["priority"])


def _drawn(urls: list[Record], roll: float) -> Record:
    left = roll * sum(url["weight"] for url in urls)
    for url in urls:
        left -= url["weight"]
        if left < 0:
            return url
    return urls[0]


FINAL_STATUSES = frozenset({400, 404, 405, 410, 416, 482, 484, 486})
"""Refusals after which Twilio tries no other URL, besides any 2xx and 6xx (twilio.com/docs/sip-trunking)."""


def is_final(status: int | None) -> bool:
    """Say whether Twilio stops trying at this answer.

    None stands for a LiveKit that has begun to answer (100, 180) and then falls silent: the four seconds after which
    Twilio tries the next URL count only until the first response of any kind.
    """
    return status is None or status in FINAL_STATUSES or status < HTTPStatus.MULTIPLE_CHOICES or status >= 600  # noqa: PLR2004 - 6xx


def _call_urls(sandbox: Sandbox, hops: list[Hop], urls: list[Record], invite: Invite) -> dict[str, Any]:
    """Try one URL after the other, until an answer is final."""
    last, ended_by = Answer([], None, "no origination URL can be read"), TWILIO
    for url in urls:
        sid, text = url["sid"], url["sip_url"]
        destination = read_sip_url(text)
        if destination is None:
            hops.append(hop("originationUrl", sid, f"{text} cannot be read, Twilio tries the next", ok=False))
        elif (project := _project(sandbox, destination)) is None:
            is_silent = sandbox.switches.other_sip_hosts == SILENT
            what = "gives no answer" if is_silent else "answers the call itself"
            reason = f"{text} leaves to another host than the SIP host {sandbox.credentials.sip_host}, which {what}"
            hops.append(hop("originationUrl", sid, reason, ok=False))
            last, ended_by = Answer([], None, reason), OTHER_HOST
            if not is_silent:
                break
        else:
            called = destination.user or invite.called
            detail = text if called == invite.called else f"{text}: the call arrives as {called}"
            hops.append(hop("originationUrl", sid, detail))
            last, ended_by = take_invite(sandbox.of_project(project), invite.to(called)), LIVEKIT
            hops += last.hops
            if is_final(last.status):
                break
    return _result(hops, last, TWILIO if last.is_ended_by_twilio else ended_by)


TRANSPORTS = frozenset({"udp", "tcp", "tls"})

LIVEKIT_PORTS = frozenset({None, 5060, 5061})
"""Ports where LiveKit listens (livekit/sip pkg/config/config.go:39-40). Which of the two a URL names besides its
transport does not matter here; that an open-source server listens on 5061 only with a certificate is its own
configuration, and taken as done."""

MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Destination:
    """Where an origination URL sends calls; `user` is empty when Twilio fills in the dialled number."""

    user: str
    host: str
    port: int | None


SIP_URL = re.compile(
    r"sips?:"
    r"(?:(?P<user>[^@\s\x00-\x1f\x7f]*)@)?"
    r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<host>[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?\.?))"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<parameters>(?:;[^;?@\s\x00-\x1f\x7f]*)*)"
    r"(?:\?[^@\s\x00-\x1f\x7f]*)?",
    re.IGNORECASE | re.ASCII,
)
"""RFC 3261, section 25.1: what stands before the only `@` is the user. Blanks around the URL are cut off first."""

REGION_HOST = re.compile(r"([a-z0-9-]+)\.[a-z0-9-]+(\.sip\.livekit\.cloud)")


@lru_cache(maxsize=4096)
def read_sip_url(text: str) -> Destination | None:
    """Read an origination URL; None when it is none.

    Of its parameters only the transport can spoil it, by a value that Twilio does not have or by standing there twice;
    which one it is does not matter, since LiveKit serves all three, and `sips:` means `;transport=tls`. `edge`,
    `region` and the headers after `?` change nothing of the way (twilio.com/docs/sip-trunking).
    """
    parts = SIP_URL.fullmatch(text.strip())
    if parts is None or int(parts["port"] or 1) not in range(1, MAX_PORT + 1):
        return None
    pairs = [parameter.partition("=") for parameter in parts["parameters"].lower().split(";")]
    transports = [value for name, _, value in pairs if name == "transport"]
    if len(transports) > 1 or not TRANSPORTS.issuperset(transports):
        return None
    host = (parts["v6"] or parts["host"]).lower()
    if parts["v6"] and not _is_address(host):
        return None
    user = (parts["user"] or "").partition(":")[0]
    return Destination(user, project_host(host), int(parts["port"]) if parts["port"] else None)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=64)
def project_host(host: str) -> str:
    """Return a host in one spelling: without a final dot, an address in its short form, a region's as the project's.

    LiveKit Cloud has `<project>.<region>.sip.livekit.cloud` beside `<project>.sip.livekit.cloud`
    (docs.livekit.io/deploy/admin/regions/endpoints); any region counts, since their list grows.
    """
    host = host.lower().strip("[]").removesuffix(".")
    if _is_address(host):
        return str(ip_address(host))
    return REGION_HOST.sub(r"\1\2", host) if REGION_HOST.fullmatch(host) else host


def _project(sandbox: Sandbox, destination: Destination) -> str | None:
    """Return the name of the LiveKit project that a URL leads to."""
    if sandbox.sip_address and f"{destination.host}:{destination.port}" == sandbox.sip_address:
        return FIRST_PROJECT
    return project_at(sandbox, destination.host) if destination.port in LIVEKIT_PORTS else None


def project_at(sandbox: Sandbox, host: str) -> str | None:
    """Return the name of the LiveKit project whose SIP host this is."""
    projects = sandbox.store.projects.rows.values()
    return next((each["name"] for each in projects if project_host(each["sip_host"]) == project_host(host)), None)
