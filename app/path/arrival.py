"""How a call comes from Twilio to LiveKit: number, trunk and origination URL, and every reason why it does not.

Sources: https://www.twilio.com/docs/sip-trunking (origination URLs: priority, weight, user part, secure trunks) and
https://www.twilio.com/docs/phone-numbers/api/incomingphonenumber-resource (trunk before application before URL).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from app.domain.findings import FindingCode
from app.domain.numbers import mask_numbers
from app.domain.operations import NUMBER, ORIGINATION_URL, TRUNK
from app.domain.sip_uris import DEFAULT_PORTS, SipUri, parse_sip_uri
from app.domain.texts import shown
from app.path.observed import CarrierNumber, Observed, OriginationUrl, ResourceKey
from app.path.spec import PathSpec, Profile

_Code = FindingCode

_LIVEKIT_CLOUD = ".sip.livekit.cloud"

_SCHEMES = ("sip:", "sips:")
"""An origination URL has one of them, where a setting may leave it out."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a call does not reach the agent: a code, the resource that stops it, and what is wrong with it in words."""

    code: FindingCode
    resource: ResourceKey | None
    detail: str = ""


class Arrival(NamedTuple):
    """How a call comes to LiveKit; with reasons it does not, and the rest is how it would."""

    reasons: tuple[Reason, ...]
    called: str
    """The user of the To header."""
    then: tuple[str, ...]
    """The users of the URLs that Twilio tries next, where LiveKit's answer is not final."""
    renumbered: tuple[Reason, ...]
    """Why the user is not the number: these stop the call, unless something takes its calls to the agent as well."""
    trunk_sid: str
    """The Twilio trunk that it comes through."""
    is_secure: bool
    """Whether Twilio encrypts its media."""
    ours_is_secure: bool
    """Whether our Twilio trunk encrypts media, whichever trunk the call comes through."""


def arrival(observed: Observed, spec: PathSpec, roll: float) -> Arrival:
    """Follow a call through Twilio: number, trunk and origination URL."""
    reasons: list[Reason] = []
    number = observed.numbers.get(spec.number_sid)
    if number is None:
        reasons.append(missing(observed, _Code.NUMBER_GONE, (NUMBER, spec.number_sid)))
    elif not number.is_voice:
        reasons.append(Reason(_Code.NUMBER_NO_VOICE, (NUMBER, number.sid), _why_no_voice(number)))
    trunk_sid = spec.trunk_sid if number is None else number.routing.trunk_sid
    if trunk_sid:
        through = _through(observed, spec, trunk_sid, roll)
        if through is not None:
            return through._replace(reasons=tuple(reasons))
    if number is not None and trunk_sid != spec.trunk_sid:
        reasons.append(_why_not_our_trunk(number))
    return _through_ours(observed, spec, roll, reasons)


def _through_ours(observed: Observed, spec: PathSpec, roll: float, reasons: list[Reason]) -> Arrival:
    through = _through(observed, spec, spec.trunk_sid, roll)
    if through is not None:
        return through._replace(reasons=tuple(reasons))
    trunk = observed.trunks.get(spec.trunk_sid)
    if trunk is None:
        reasons.append(missing(observed, _Code.TRUNK_GONE, (TRUNK, spec.trunk_sid)))
    else:
        reasons += _why_not_our_url(observed, spec, roll)
    is_secure = _is_secure(observed, spec)
    return Arrival(tuple(reasons), spec.phone_number, (), (), spec.trunk_sid, is_secure, is_secure)


def _is_secure(observed: Observed, spec: PathSpec) -> bool:
    """Tell whether our Twilio trunk encrypts media: as it is to be, where it is gone."""
    trunk = observed.trunks.get(spec.trunk_sid)
    return spec.profile.is_secure if trunk is None else trunk.is_secure


def missing(observed: Observed, code: FindingCode, resource: ResourceKey, parent_id: str = "") -> Reason:
    """Return that a resource is gone, or, where it may be one that cannot be read, that it cannot be."""
    if observed.may_hold(*resource, parent_id):
        return Reason(_Code.UNREADABLE, resource)
    return Reason(code, resource)


def sentence(predicates: str) -> str:
    """Return a detail that says this of its resource."""
    return f"It {predicates}."


def _why_no_voice(number: CarrierNumber) -> str:
    faults = [
        "has no voice capability" if not number.has_voice else "",
        "is set to receive fax" if number.receive_mode == "fax" else "",
        f"has the status {shown(number.status)}" if number.status not in {"in-use", ""} else "",
    ]
    return sentence(", ".join(filter(None, faults)))


def _why_not_our_trunk(number: CarrierNumber) -> Reason:
    resource = (NUMBER, number.sid)
    routing = number.routing
    if routing.trunk_sid:
        return Reason(_Code.NUMBER_MOVED, resource, f"It is on trunk {shown(routing.trunk_sid)}.")
    if routing.voice_application_sid:
        detail = f"It is on application {shown(routing.voice_application_sid)}."
        return Reason(_Code.NUMBER_MOVED, resource, detail)
    return Reason(_Code.NUMBER_DETACHED, resource, "It has a voice URL of its own." if routing.voice_url else "")


def _through(observed: Observed, spec: PathSpec, trunk_sid: str, roll: float) -> Arrival | None:
    """Return how a call comes to LiveKit through a trunk, or None where it does not."""
    trunk = observed.trunks.get(trunk_sid)
    if trunk is None:
        return None
    users = _users(observed.urls.get(trunk_sid, ()), spec, roll)
    if not users:
        return None
    called, *then = users
    renumbered: list[Reason] = []
    if called != spec.phone_number:
        renumbered = _why_not_our_url(observed, spec, roll)
        if trunk_sid != spec.trunk_sid:
            detail = f"It is on trunk {shown(trunk_sid)}, which calls {mask_numbers(shown(called))} instead."
            renumbered = [Reason(_Code.NUMBER_MOVED, (NUMBER, spec.number_sid), detail), *renumbered]
    ours_is_secure = _is_secure(observed, spec)
    return Arrival((), called, tuple(then), tuple(renumbered), trunk_sid, trunk.is_secure, ours_is_secure)


def _users(urls: Sequence[OriginationUrl], spec: PathSpec, roll: float) -> list[str]:
    """Return whom Twilio calls at LiveKit, one after the other, until a URL leads elsewhere."""
    users: dict[str, None] = {}
    for url in urls if len(urls) == 1 and urls[0].is_enabled else drawn(urls, roll):
        uri = parsed_url(url.sip_url)
        if uri is None:
            continue
        if not _leads_to_livekit(spec.profile.sip_uri, uri):
            break
        users[uri.called or spec.phone_number] = None
    return list(users)


def drawn(urls: Sequence[OriginationUrl], roll: float) -> Iterator[OriginationUrl]:
    """Yield the enabled URLs in the order in which Twilio calls them: by priority, within one drawn by weight."""
    enabled = sorted((url for url in urls if url.is_enabled), key=lambda one: (one.priority, one.sid))
    for _, of_one_priority in groupby(enabled, key=lambda one: one.priority):
        tier = list(of_one_priority)
        first = _drawn_from(tier, roll)
        yield first
        yield from (url for url in tier if url is not first)


def _drawn_from(tier: list[OriginationUrl], roll: float) -> OriginationUrl:
    shares = shares_of(tier)
    total = 0.0
    for url, share in zip(tier, shares, strict=True):
        total += share
        if total > roll * sum(shares):
            return url
    return tier[-1]


def shares_of(tier: Sequence[OriginationUrl]) -> list[int]:
    """Return each URL's share of the calls: its weight, or the same for all where none has one."""
    weights = [url.weight for url in tier]
    return weights if any(weights) else [1] * len(tier)


def called_first(urls: Sequence[OriginationUrl], roll: float) -> OriginationUrl | None:
    """Return the URL that answers: the first that can be read, since the others answer nothing."""
    return next((url for url in drawn(urls, roll) if parsed_url(url.sip_url)), None)


@lru_cache(maxsize=4096)
def parsed_url(sip_url: str) -> SipUri | None:
    """Return what an origination URL says, or None where Twilio can make nothing of it."""
    text = sip_url.strip()
    if not text.lower().startswith(_SCHEMES) or any(character <= " " or character == "\x7f" for character in text):
        return None
    try:
        return parse_sip_uri(sip_url)
    except ValueError:
        return None


def _is_right(spec: PathSpec, uri: SipUri) -> bool:
    """Tell whether a URI leads to LiveKit and leaves the called number as it is."""
    return _leads_to_livekit(spec.profile.sip_uri, uri) and _keeps_number(spec, uri)


def _keeps_number(spec: PathSpec, uri: SipUri) -> bool:
    return uri.called in {"", spec.phone_number}


def leads_to(sip_url: str, profile: Profile, called: str | None = None) -> bool:
    """Tell whether an origination URL leads to LiveKit, and leaves this called number, if given, as it is."""
    uri = parsed_url(sip_url)
    if uri is None or not _leads_to_livekit(profile.sip_uri, uri):
        return False
    return called is None or uri.called in {"", called}


def _leads_to_livekit(ours: SipUri, uri: SipUri) -> bool:
    """Compare host and port.

    A secure trunk calls over TLS whatever the URI says (docs/sip-trunking), so that either of SIP's own ports is right.
    """
    if uri.effective_port != ours.effective_port and uri.effective_port not in DEFAULT_PORTS.values():
        return False
    return uri.host == ours.host or _without_region(uri.host) == _without_region(ours.host)


def _without_region(host: str) -> str:
    """Return `abc.sip.livekit.cloud` for its region form `abc.eu.sip.livekit.cloud`, and any other host as it is."""
    project, *region = host.removesuffix(_LIVEKIT_CLOUD).split(".")
    return project + _LIVEKIT_CLOUD if host.endswith(_LIVEKIT_CLOUD) and len(region) == 1 else host


def _why_not_our_url(observed: Observed, spec: PathSpec, roll: float) -> list[Reason]:
    """Say why the URLs of our trunk do not lead calls to LiveKit: what ours lacks, and what stands before it."""
    urls = observed.urls.get(spec.trunk_sid, ())
    ours = next((url for url in urls if url.sid == spec.url_sid), None)
    resource = (ORIGINATION_URL, spec.url_sid)
    reasons = []
    if ours is None:
        reasons.append(missing(observed, _Code.ORIGINATION_URL_MISSING, resource, spec.trunk_sid))
    elif not ours.is_enabled:
        reasons.append(Reason(_Code.ORIGINATION_URL_DISABLED, resource))
    wanted = url_as_wanted(spec)
    if ours is not None and ORIGINATION_URL in spec.adopted:
        # It keeps its place among the others.
        wanted = replace(wanted, priority=ours.priority, weight=ours.weight)
    first = called_first([*(url for url in urls if url is not ours), wanted], roll)
    if first is not None and first is not wanted and not _is_right_url(spec, first):
        detail = f"{shown(first.sid)} ({shown(first.sip_url)}) is called before ours."
        reasons.append(Reason(_Code.ORIGINATION_URL_OVERRIDDEN, (ORIGINATION_URL, first.sid), detail))
    elif ours is not None and (ours.priority, ours.weight) != (wanted.priority, wanted.weight):
        other = called_first(urls, roll)
        if other is not None and other is not ours:
            detail = (
                f"Its priority is {ours.priority} and its weight {ours.weight}: {shown(other.sid)} is called before it."
            )
            reasons.append(Reason(_Code.ORIGINATION_URL_CHANGED, resource, detail))
    return [*reasons, *_why_not_this_url(spec, ours)] if ours is not None else reasons


def url_as_wanted(spec: PathSpec) -> OriginationUrl:
    """Return our origination URL as it is to be."""
    url = spec.origination_url
    return OriginationUrl(
        sid=spec.url_sid,
        trunk_sid=spec.trunk_sid,
        sip_url=str(url.uri),
        is_enabled=True,
        tag=url.tag,
        created_at=None,
        priority=url.priority,
        weight=url.weight,
    )


def _is_right_url(spec: PathSpec, url: OriginationUrl) -> bool:
    uri = parsed_url(url.sip_url)
    return uri is not None and _is_right(spec, uri)


def _why_not_this_url(spec: PathSpec, ours: OriginationUrl) -> list[Reason]:
    resource = (ORIGINATION_URL, ours.sid)
    uri = parsed_url(ours.sip_url)
    if uri is None:
        return [Reason(_Code.ORIGINATION_URL_CHANGED, resource, f"It cannot be read: {shown(ours.sip_url)}.")]
    reasons = []
    if not _leads_to_livekit(spec.profile.sip_uri, uri):
        reasons.append(Reason(_Code.ORIGINATION_HOST_WRONG, resource, f"It is {shown(ours.sip_url)}."))
    if not _keeps_number(spec, uri):
        detail = f"Its user part replaces the called number: {shown(ours.sip_url)}."
        reasons.append(Reason(_Code.ORIGINATION_URL_CHANGED, resource, detail))
    return reasons
