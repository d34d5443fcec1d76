"""Whether calls get through, whose, and every reason why not: one call of each class that both providers treat alike.

Classes, not callers: what a list names, and one caller that no list names; Twilio's addresses by the lists that let
them in; the draws among origination URLs of one priority by the URL that they pick.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count, groupby, pairwise, product
from typing import NamedTuple

from app.domain.findings import Callers, FindingCode
from app.domain.numbers import mask_numbers
from app.domain.texts import shown
from app.path.arrival import Arrival, Reason, arrival, shares_of, url_as_wanted
from app.path.call import Call, Followed, follow, follow_in_livekit
from app.path.livekit_matching import (
    LONGEST_CALLER,
    TWILIO_BLOCKS,
    RuleMatch,
    TrunkMatch,
    admits,
    is_room_named,
    match_rule,
    match_trunk,
    normalised_all,
    sources_of,
)
from app.path.observed import (
    DispatchRule,
    InboundTrunk,
    Observed,
    OriginationUrl,
    ResourceKey,
    normalised,
    rule_conflicts,
    trunk_conflicts,
)
from app.path.spec import PathSpec

__all__ = [
    "Call",
    "Followed",
    "Reach",
    "Reason",
    "Taking",
    "follow",
    "reach",
    "rule_conflicts",
    "takings",
    "trunk_conflicts",
]


@dataclass(frozen=True, slots=True)
class Reach:
    """Who gets through. Without reasons everybody does, from each of Twilio's addresses."""

    reasons: tuple[tuple[Reason, Callers], ...] = ()
    agents: tuple[str, ...] = ()
    """The agents of those calls that get through."""


MOST_NAMED = 5
"""Callers or addresses that a detail names one by one."""


class _Group(NamedTuple):
    """Callers, or addresses, that both providers treat alike."""

    example: str
    members: tuple[str, ...]
    """Empty: all that no list names."""


class _Outcome(NamedTuple):
    """What becomes of the calls of one class, and what share of all draws it has."""

    arrived: Arrival
    share: float
    callers: _Group
    sources: _Group
    followed: Followed


def reach(observed: Observed, spec: PathSpec, *, caller: str | None = None, source: str | None = None) -> Reach:
    """Follow a call of every kind of caller from every address of Twilio, or of the given ones.

    Callers whom the option `call.allowedCallers` leaves out are not asked for: that they get nowhere is wanted.
    """
    calling_from = sources_of(spec.profile.allowed_addresses) if source is None else (source,)
    arrivals = _arrivals(observed, spec)
    called = {spec.phone_number, *(user for one, _ in arrivals for user in (one.called, *one.then))}
    trunks, rules = _what_may_take_it(observed, spec, sorted(called), calling_from)
    sources = _source_groups(calling_from, tuple(one.allowed_addresses for one in trunks if one.allowed_addresses))
    allowed = tuple(trunk.allowed_numbers for trunk in trunks if trunk.allowed_numbers)
    inbound = tuple(rule.inbound_numbers for rule in rules if rule.inbound_numbers)
    long = tuple(rule for rule in rules if _depends_on_length(rule))
    wanted = spec.options.allowed_callers or ()
    callers = _caller_groups(allowed, inbound, long, wanted) if caller is None else (_Group(caller, (caller,)),)
    outcomes = [
        _Outcome(arrived, share, who, where, follow_in_livekit(observed, spec, arrived, who.example, where.example))
        for (arrived, share), who, where in product(arrivals, callers, sources)
    ]
    agents = dict.fromkeys(agent for one in outcomes if not one.followed.reasons for agent in one.followed.agents)
    return Reach(tuple(_weighed(outcomes)), tuple(agents))


def _what_may_take_it(
    observed: Observed, spec: PathSpec, called: Sequence[str], sources: tuple[str, ...]
) -> tuple[list[InboundTrunk], list[DispatchRule]]:
    """Return the LiveKit trunks and rules on which the fate of a call may depend, ours among them.

    Wildcards only where they are of use: trunks where none that has the number lets everybody in, rules where a call
    may come without a trunk, or to one whose rules all filter.
    """
    named = [observed.trunks_for(number) for number in called]
    trunks = [trunk for of_number in named for trunk in of_number]
    is_taken = all(any(_lets_all_in(trunk, sources) for trunk in of_number) for of_number in named)
    if not is_taken:
        trunks += observed.wildcard_trunks
    ours = observed.inbound_trunks.get(spec.inbound_trunk_id)
    if ours is not None and ours not in trunks:
        trunks.append(ours)
    rules: list[DispatchRule] = []
    for trunk in trunks:
        of_trunk = observed.rules_for(trunk.id)
        rules += of_trunk
        is_taken = is_taken and not all(rule.inbound_numbers or rule.numbers for rule in of_trunk)
    if not is_taken:
        rules += observed.wildcard_rules
    our_rule = observed.rules.get(spec.rule_id)
    return trunks, rules if our_rule is None or our_rule in rules else [*rules, our_rule]


def _lets_all_in(trunk: InboundTrunk, sources: tuple[str, ...]) -> bool:
    if trunk.allowed_numbers:
        return False
    allowed = trunk.allowed_addresses
    return not allowed or (len(_source_groups(sources, (allowed,))) == 1 and admits(allowed, sources[0]))


class Taking(NamedTuple):
    """Which trunk and rule of LiveKit take the calls of one class; no rule is asked where trunks refuse them."""

    trunk: TrunkMatch
    rule: RuleMatch
    is_stranger: bool
    """Whether the callers are those that no list names."""


def takings(observed: Observed, spec: PathSpec) -> Iterator[Taking]:
    """Yield which trunk and rule take a call to the number, of every kind of caller from every address of Twilio.

    Of nobody's path in particular: what a call meets that comes to LiveKit with the called number as it is.
    """
    called, calling_from = spec.phone_number, sources_of(spec.profile.allowed_addresses)
    trunks = [*observed.trunks_for(called), *observed.wildcard_trunks]
    rules = [*(rule for trunk in trunks for rule in observed.rules_for(trunk.id)), *observed.wildcard_rules]
    sources = _source_groups(calling_from, tuple(one.allowed_addresses for one in trunks if one.allowed_addresses))
    allowed = tuple(trunk.allowed_numbers for trunk in trunks if trunk.allowed_numbers)
    inbound = tuple(rule.inbound_numbers for rule in rules if rule.inbound_numbers)
    callers = _caller_groups(allowed, inbound, (), ())
    for who, where in product(callers, sources):
        taken = match_trunk(observed, called, who.example, where.example)
        is_refused = taken.rivals or (taken.trunk is None and spec.profile.is_cloud)
        rule = RuleMatch(None) if is_refused else match_rule(observed, taken.trunk, called, who.example)
        yield Taking(taken, rule, is_stranger=not who.members)


_SHORT_CALLER = "anonymous"

_SHORT_ROOM = 50
"""Characters of a prefix that leaves room for every number: at most 200 bytes of 256, as nearly every rule's."""

_REPLACED = "\N{REPLACEMENT CHARACTER}"
"""Stands for what the database cannot store, a NUL among them (`app.domain.texts`)."""


def _depends_on_length(rule: DispatchRule) -> bool:
    """Tell whether a room is named for some callers only: its prefix leaves too little room for a long number."""
    if len(rule.room) <= _SHORT_ROOM:
        return False
    return is_room_named(rule, LONGEST_CALLER, "0") and not is_room_named(rule, LONGEST_CALLER, LONGEST_CALLER)


@lru_cache(maxsize=256)
def _caller_groups(
    allowed: tuple[tuple[str, ...], ...],
    inbound: tuple[tuple[str, ...], ...],
    long: tuple[DispatchRule, ...],
    wanted: tuple[str, ...],
) -> tuple[_Group, ...]:
    """Group the callers that the lists name, as they are written and as E.164, and one that none of them names.

    `long` are the rules that tell callers apart by their length, `wanted` the only callers who count, if any.
    """
    if wanted:
        every = _caller_groups((*allowed, wanted), inbound, long, ())
        return tuple(each for each in every if each.members and normalised(each.example) in normalised_all(wanted))
    named = {text for numbers in (*allowed, *inbound) for text in numbers}
    named |= set(map(normalised, named))
    # Nobody calls with an empty user, or with one that no From header can hold.
    named = {text for text in named if text and text.isprintable() and _REPLACED not in text}
    stranger = next(text for text in (f"+1202555{number:04}" for number in count(100)) if text not in named)
    as_numbers, as_written = list(map(normalised_all, allowed)), list(map(frozenset, inbound))

    def treatment(caller: str) -> tuple[bool, ...]:
        number = normalised(caller)
        return (
            *(number in numbers for numbers in as_numbers),
            *(caller in texts for texts in as_written),
            *(is_room_named(rule, caller, caller) for rule in long),
        )

    groups: dict[tuple[bool, ...], list[str]] = {treatment(stranger): []}
    for caller in sorted(named | ({_SHORT_CALLER, LONGEST_CALLER} if long else set())):
        groups.setdefault(treatment(caller), []).append(caller)
    _strangers, *others = groups.items()
    return (_Group(stranger, ()), *(_Group(callers[0], tuple(callers)) for _, callers in others))


@lru_cache(maxsize=1024)
def _source_groups(sources: tuple[str, ...], allowed: tuple[tuple[str, ...], ...]) -> tuple[_Group, ...]:
    """Group the addresses from which calls come by which of the lists let them in."""
    groups: dict[tuple[bool, ...], list[str]] = {}
    for address in sources:
        groups.setdefault(tuple(admits(one, address) for one in allowed), []).append(address)
    return tuple(_Group(addresses[0], tuple(addresses)) for addresses in groups.values())


def _arrivals(observed: Observed, spec: PathSpec) -> list[tuple[Arrival, float]]:
    """Return how calls come to LiveKit, and the share of the draws that each has."""
    number = observed.numbers.get(spec.number_sid)
    ours = observed.urls.get(spec.trunk_sid, ())
    edges = {0.0, 1.0}
    if any(url.sid != spec.url_sid for url in ours):
        edges.update(_edges(ours), _edges([*(url for url in ours if url.sid != spec.url_sid), url_as_wanted(spec)]))
    trunk_sid = number.routing.trunk_sid if number is not None else None
    if trunk_sid and trunk_sid != spec.trunk_sid:
        edges.update(_edges(observed.urls.get(trunk_sid, ())))
    if len(edges) == len({0.0, 1.0}):
        return [(arrival(observed, spec, 0.0), 1.0)]
    found: dict[Arrival, float] = {}
    for low, high in pairwise(sorted(edges)):
        arrived = arrival(observed, spec, (low + high) / 2)
        found[arrived] = found.get(arrived, 0.0) + high - low
    return list(found.items())


def _edges(urls: Sequence[OriginationUrl]) -> Iterator[float]:
    """Yield the draws at which Twilio goes over to another URL of one priority."""
    enabled = sorted((url for url in urls if url.is_enabled), key=lambda one: (one.priority, one.sid))
    for _, of_one_priority in groupby(enabled, key=lambda one: one.priority):
        shares = shares_of(list(of_one_priority))
        yield from (sum(shares[:index]) / sum(shares) for index in range(1, len(shares)))


def _weighed(outcomes: Sequence[_Outcome]) -> Iterator[tuple[Reason, Callers]]:
    """Yield each reason once, in the order of the call, and whether it stops all calls or which."""
    found: dict[tuple[FindingCode, ResourceKey | None], list[tuple[_Outcome, Reason]]] = {}
    for outcome in outcomes:
        for reason in outcome.followed.reasons:
            found.setdefault((reason.code, reason.resource), []).append((outcome, reason))
    for occurrences in found.values():
        detail = " ".join(dict.fromkeys(reason.detail for _, reason in occurrences if reason.detail))
        reason = replace(occurrences[0][1], detail=detail)
        stopped = {id(outcome): outcome for outcome, _ in occurrences}
        if len(stopped) == len(outcomes):
            yield reason, Callers.ALL
        else:
            whose = _whose(list(stopped.values()), outcomes)
            yield replace(reason, detail=f"{detail} {whose}".lstrip()), Callers.SOME


def _whose(stopped: Sequence[_Outcome], outcomes: Sequence[_Outcome]) -> str:
    """Say in words which calls fail: of which callers, from which addresses, what share of them."""
    parts = [
        _of_callers({one.callers for one in stopped}, {one.callers for one in outcomes}),
        _of_sources({one.sources for one in stopped}, {one.sources for one in outcomes}),
        _of_draws({one.arrived: one.share for one in stopped}.values()),
    ]
    return f"Affected: {', '.join(filter(None, parts)) or 'some combinations of caller and address'}."


def _of_callers(stopped: set[_Group], all_of_them: set[_Group]) -> str:
    if stopped == all_of_them:
        return ""
    if any(not group.members for group in stopped):
        spared = [text for group in all_of_them - stopped for text in group.members]
        return f"every caller but {_listed(_masked(spared))}"
    return f"callers {_listed(_masked(text for group in stopped for text in group.members))}"


def _masked(callers: Iterable[str]) -> list[str]:
    return sorted({mask_numbers(shown(normalised(caller))) for caller in callers})


def _of_sources(stopped: set[_Group], all_of_them: set[_Group]) -> str:
    if stopped == all_of_them:
        return ""
    addresses = {address for group in stopped for address in group.members}
    blocks = [block for block, members in TWILIO_BLOCKS.items() if addresses.issuperset(members)]
    rest = addresses.difference(*(TWILIO_BLOCKS[block] for block in blocks))
    return f"calls from {_listed([*blocks, *sorted(rest)])}"


def _of_draws(shares: Iterable[float]) -> str:
    share = sum(shares)
    return f"about {max(1, round(share * 100))} % of the calls" if share < 1 - 1e-9 else ""


def _listed(texts: Sequence[str]) -> str:
    more = len(texts) - MOST_NAMED
    return ", ".join(texts) if more <= 0 else f"{', '.join(texts[:MOST_NAMED])} and {more} more"
