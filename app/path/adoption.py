"""Adoption: the one chain that a number's calls take through objects that somebody made by hand.

`chain_of` follows the calls as `app.path.call` does, of every kind of caller and from every address of Twilio. Where
they do not all take one way to a named agent, it says at which link, and what is missing or ambiguous there.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby
from typing import Any, NoReturn

from app.domain.findings import Finding, Severity, worst_first
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, NUMBER, ORIGINATION_URL, STEP_BY_NAME, TRUNK
from app.domain.options import NO_OPTIONS, STEP_OF, AgentOptions, RuleAgent, job_metadata
from app.domain.texts import InvalidTextError, check_metadata, read_json, shown
from app.path.adoption_marks import marked
from app.path.arrival import leads_to, parsed_url, shares_of
from app.path.compare import compare
from app.path.corrections import TWILIO_TRANSFER_MODE
from app.path.marks import instance_in, is_damaged
from app.path.observed import (
    CarrierNumber,
    CarrierTrunk,
    DispatchRule,
    InboundTrunk,
    Observed,
    OriginationUrl,
    normalised,
)
from app.path.options import observed_options
from app.path.reach import Taking, takings
from app.path.spec import Adopted, PathSpec, as_built, built_inbound_trunk, built_rule

_OURS = re.compile(r"\b[Oo]ur\b")


class LinkProblem(StrEnum):
    """Why there is no chain at a link."""

    MISSING = "missing"
    """Nothing leads on from here, or not to our voice project."""
    AMBIGUOUS = "ambiguous"
    """Calls go on by one of several."""
    UNSUITABLE = "unsuitable"
    """There is one, and calls fail by it, or it is nothing that an agent could have."""
    UNREADABLE = "unreadable"
    """A record that cannot be read may take the calls."""
    MANAGED = "managed"
    """It has the mark of an installation of Trunkline already, of this one or another."""


@dataclass(frozen=True, slots=True)
class NotAdoptable:
    """Where the chain breaks."""

    link: str
    """The step whose object it is, or would be."""
    problem: LinkProblem
    detail: str
    """A sentence or two, for a person."""
    candidates: tuple[str, ...] = ()
    """The ids of the objects in question."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain that can be adopted."""

    spec: PathSpec
    """The path as it will be: ids, what was there before (`adopted`), and the agent that callers get."""
    metadata: Mapping[str, Any]
    """The agent's, as its job gets it already."""
    shared: Mapping[str, str]
    """Step -> who else uses its object, in words."""
    observed: Observed
    """What it was found in."""

    @property
    def number(self) -> CarrierNumber:
        """The number at Twilio."""
        return self.observed.numbers[self.spec.number_sid]


def chain_of(observed: Observed, spec: PathSpec) -> Chain | NotAdoptable:
    """Return the chain of a number; `spec` is of the agent that is to have it, and names the number alone.

    `observed` has the number, its trunk and that trunk's URLs, every number on that trunk, and all trunks and rules of
    the voice project.
    """
    try:
        return _chain(observed, spec)
    except _BrokenError as broken:
        return broken.found


class _BrokenError(Exception):
    """The chain breaks here."""

    def __init__(self, found: NotAdoptable) -> None:
        super().__init__(found.detail)
        self.found = found


def _broken(link: str, problem: LinkProblem, detail: str, *candidates: str) -> NoReturn:
    raise _BrokenError(NotAdoptable(link, problem, detail, tuple(map(shown, candidates))))


def _chain(observed: Observed, spec: PathSpec) -> Chain:
    number = observed.numbers[spec.number_sid]
    trunk = _trunk_of(observed, spec, number)
    url = _url_of(observed, spec, trunk)
    inbound, rule = _taken_by(observed, spec)
    _refuse_marked(spec, INBOUND_TRUNK, inbound.id, inbound.name, inbound.metadata)
    _refuse_marked(spec, DISPATCH_RULE, rule.id, rule.name, rule.metadata)
    shared = dict(_shared(observed, spec, trunk, inbound, rule))
    adopted = {
        TRUNK: Adopted(trunk.sid, trunk.tag),
        ORIGINATION_URL: Adopted(url.sid, url.tag),
        INBOUND_TRUNK: Adopted(inbound.id, inbound.name, inbound.metadata),
        DISPATCH_RULE: Adopted(rule.id, rule.name, rule.metadata),
    }
    agent, metadata, others = _agents_of(spec, rule)
    found = replace(
        spec,
        agent_name=agent.name,
        job_metadata=job_metadata(metadata),
        ids={NUMBER: number.sid} | {step: one.id for step, one in adopted.items()},
        adopted={step: replace(one, is_shared=step in shared) for step, one in adopted.items()},
    )
    options = _options_of(found, trunk, inbound, rule, others)
    found = replace(found, options=options, profile=spec.profile.with_options(options).as_found())
    _check_whole(found, observed)
    return Chain(found, metadata, shared, observed)


# From the number to LiveKit.


def _trunk_of(observed: Observed, spec: PathSpec, number: CarrierNumber) -> CarrierTrunk:
    routing = number.routing
    if not number.is_voice:
        _broken(NUMBER, LinkProblem.UNSUITABLE, "The number cannot take voice calls, or is set to receive fax.")
    if not routing.trunk_sid:
        where = "on no trunk"
        if routing.is_taken:
            where = f"on {routing.taken_by}, and on no trunk"
        elif routing.voice_host:
            where = f"on no trunk: its voice URL takes its calls to {routing.voice_host}"
        _broken(TRUNK, LinkProblem.MISSING, f"The number is {where}.")
    trunk = observed.trunks.get(routing.trunk_sid)
    if trunk is None:
        is_unreadable = observed.may_hold(TRUNK, routing.trunk_sid)
        problem = LinkProblem.UNREADABLE if is_unreadable else LinkProblem.MISSING
        why = "cannot be read" if is_unreadable else "does not exist"
        _broken(TRUNK, problem, f"The number's trunk {shown(routing.trunk_sid)} {why}.", routing.trunk_sid)
    _refuse_marked(spec, TRUNK, trunk.sid, trunk.tag)
    return trunk


def _url_of(observed: Observed, spec: PathSpec, trunk: CarrierTrunk) -> OriginationUrl:
    """Return the URL that Twilio calls first; where several are drawn from, all must lead to LiveKit: the likeliest."""
    urls = observed.urls.get(trunk.sid, ())
    if unreadable := observed.unreadable.get((ORIGINATION_URL, trunk.sid)):
        detail = (
            f"{_count(unreadable, 'origination URL')} of trunk {trunk.sid} cannot be read, and may be called first."
        )
        _broken(ORIGINATION_URL, LinkProblem.UNREADABLE, detail, *(one.external_id for one in unreadable))
    tier = _first_tier(urls)
    if not tier:
        why = "has no origination URL"
        if urls:
            why = "has no origination URL that is enabled and can be read"
        detail = f"Trunk {trunk.sid} {why}: calls end there."
        _broken(ORIGINATION_URL, LinkProblem.MISSING, detail, *(url.sid for url in urls))
    away = [url for url in tier if not leads_to(url.sip_url, spec.profile)]
    if away and len(away) < len(tier):
        detail = (
            f"The origination URLs of one priority lead to different places: {_listed(away)} not to the host and port "
            "of the voice project."
        )
        _broken(ORIGINATION_URL, LinkProblem.AMBIGUOUS, detail, *(url.sid for url in tier))
    if away:
        detail = (
            f"{_listed(away)} leads to another host or port than the voice project's ({spec.profile.sip_uri.host})."
        )
        _broken(ORIGINATION_URL, LinkProblem.MISSING, detail, *(url.sid for url in away))
    for url in tier:
        uri = parsed_url(url.sip_url)
        if uri is not None and uri.called not in {"", spec.phone_number}:
            detail = f"The user part of {_listed([url])} replaces the called number."
            _broken(ORIGINATION_URL, LinkProblem.UNSUITABLE, detail, url.sid)
        _refuse_marked(spec, ORIGINATION_URL, url.sid, url.tag)
    return min(tier, key=lambda url: (-url.weight, url.sid))


def _first_tier(urls: Sequence[OriginationUrl]) -> list[OriginationUrl]:
    """Return the URLs of the first priority that can be called at all, without those that the draw never picks."""
    enabled = sorted((url for url in urls if url.is_enabled), key=lambda one: one.priority)
    for _, of_one_priority in groupby(enabled, key=lambda one: one.priority):
        tier = list(of_one_priority)
        called = [url for url, share in zip(tier, shares_of(tier), strict=True) if share and parsed_url(url.sip_url)]
        if called:
            return called
    return []


def _listed(urls: Sequence[OriginationUrl]) -> str:
    return " and ".join(f"{shown(url.sid)} ({shown(url.sip_url)})" for url in urls)


def _count(records: Sequence[object], what: str) -> str:
    return f"{len(records)} {what}{'s' if len(records) > 1 else ''}"


# In LiveKit.


def _taken_by(observed: Observed, spec: PathSpec) -> tuple[InboundTrunk, DispatchRule]:
    """Return the trunk and the rule that take every call that is let in."""
    for kind in (INBOUND_TRUNK, DISPATCH_RULE):
        if unreadable := observed.unreadable.get((kind, "")):
            what = STEP_BY_NAME[kind].label.removeprefix("LiveKit ").lower()
            detail = f"{_count(unreadable, what)} of the voice project cannot be read, and may take its calls."
            _broken(kind, LinkProblem.UNREADABLE, detail, *filter(None, (one.external_id for one in unreadable)))
    found = list(takings(observed, spec))
    trunk = _inbound_trunk_of(observed, spec, found)
    return trunk, _rule_of(observed, spec, trunk, found)


def _inbound_trunk_of(observed: Observed, spec: PathSpec, found: Sequence[Taking]) -> InboundTrunk:
    for taking in found:
        if taking.trunk.rivals:
            ids = [one.id for one in taking.trunk.rivals]
            detail = f"{' and '.join(map(shown, ids))} both take its calls, which LiveKit refuses then."
            _broken(INBOUND_TRUNK, LinkProblem.AMBIGUOUS, detail, *ids)
    trunks = {taking.trunk.trunk.id: taking.trunk.trunk for taking in found if taking.trunk.trunk is not None}
    having = observed.trunks_for(spec.phone_number)
    if len(trunks) > 1:
        detail = (
            f"It depends on the caller, or on Twilio's address, which takes a call: {' or '.join(map(shown, trunks))}."
        )
        _broken(INBOUND_TRUNK, LinkProblem.AMBIGUOUS, detail, *trunks)
    if not trunks and having:
        detail = f"{shown(having[0].id)} has the number, but lets in none of Twilio's addresses."
        _broken(INBOUND_TRUNK, LinkProblem.UNSUITABLE, detail, *(one.id for one in having))
    if not trunks:
        _broken(INBOUND_TRUNK, LinkProblem.MISSING, "No trunk of the voice project has the number.")
    (trunk,) = trunks.values()
    if not trunk.numbers:
        detail = f"{shown(trunk.id)} has no numbers: it takes the calls of every number, so that it is no number's own."
        _broken(INBOUND_TRUNK, LinkProblem.UNSUITABLE, detail, trunk.id)
    return trunk


def _rule_of(observed: Observed, spec: PathSpec, trunk: InboundTrunk, found: Sequence[Taking]) -> DispatchRule:
    for taking in found:
        if taking.rule.conflict is not None:
            ids = list(dict.fromkeys(one.id for one in taking.rule.conflict))
            detail = f"{' and '.join(map(shown, ids))} contradict each other: LiveKit refuses the calls."
            if len(ids) == 1:
                detail = f"{shown(ids[0])} contradicts itself: LiveKit refuses the calls."
            _broken(DISPATCH_RULE, LinkProblem.AMBIGUOUS, detail, *ids)
    rules = {taking.rule.rule.id: taking.rule.rule for taking in found if taking.rule.rule is not None}
    if not rules:
        detail = f"No dispatch rule takes the calls of {shown(trunk.id)}."
        _broken(DISPATCH_RULE, LinkProblem.MISSING, detail, *(one.id for one in observed.rules_for(trunk.id)))
    if len(rules) > 1:
        detail = f"It depends on the caller which rule takes a call: {' or '.join(map(shown, rules))}."
        _broken(DISPATCH_RULE, LinkProblem.AMBIGUOUS, detail, *rules)
    (rule,) = rules.values()
    if not rule.trunk_ids:
        detail = f"{shown(rule.id)} names no trunk: it takes the calls of all of them, so that it is no number's own."
        _broken(DISPATCH_RULE, LinkProblem.UNSUITABLE, detail, rule.id)
    if rule.inbound_numbers:
        detail = f"{shown(rule.id)} takes only the calls of some callers (inbound_numbers)."
        _broken(DISPATCH_RULE, LinkProblem.UNSUITABLE, detail, rule.id)
    others = [
        one.id
        for one in (*observed.rules_for(trunk.id), *observed.wildcard_rules)
        if one.id != rule.id and (not one.numbers or spec.phone_number in one.numbers)
    ]
    if rule.pin and others:
        detail = f"{shown(rule.id)} asks for a PIN, and by it a caller may come to {' or '.join(map(shown, others))}."
        _broken(DISPATCH_RULE, LinkProblem.AMBIGUOUS, detail, rule.id, *others)
    return rule


def _agents_of(spec: PathSpec, rule: DispatchRule) -> tuple[RuleAgent, Mapping[str, Any], tuple[RuleAgent, ...]]:
    """Return the agent that takes the calls over, what its job gets, and the rule's other agents."""
    if not any(agent.name for agent in rule.agents):
        detail = (
            f"{shown(rule.id)} names no agent: LiveKit dispatches its calls to workers without a name, and Trunkline "
            "goes by the name. Give the worker an agent_name, and the rule that name."
        )
        _broken(DISPATCH_RULE, LinkProblem.MISSING, detail, rule.id)
    names = [agent.name for agent in rule.agents]
    if not all(names) or len(set(names)) < len(names):
        detail = f"{shown(rule.id)} names an agent twice, or one without a name beside another."
        _broken(DISPATCH_RULE, LinkProblem.UNSUITABLE, detail, rule.id)
    agent = next((one for one in rule.agents if one.name == spec.agent_name), rule.agents[0])
    metadata = {one.name: _metadata_of(rule, one) for one in rule.agents}
    return agent, metadata[agent.name], tuple(one for one in rule.agents if one is not agent)


def _metadata_of(rule: DispatchRule, agent: RuleAgent) -> Mapping[str, Any]:
    """Return the job metadata as an agent's is kept: an object that is stored without being changed."""
    try:
        metadata = read_json(agent.metadata) if agent.metadata else {}
        check_metadata(metadata)
        is_object = isinstance(metadata, dict)
    except InvalidTextError:
        is_object = False
    if not is_object:
        detail = (
            f"The metadata that {shown(rule.id)} gives to the jobs of {shown(agent.name)} is not a JSON object, or one "
            "that would be changed when it is stored."
        )
        _broken(DISPATCH_RULE, LinkProblem.UNSUITABLE, detail, rule.id)
    return metadata  # type: ignore[return-value]  # it is a dict


def _options_of(
    spec: PathSpec, trunk: CarrierTrunk, inbound: InboundTrunk, rule: DispatchRule, others: Sequence[RuleAgent]
) -> AgentOptions:
    """Return the options by which a path would be made as this one is; what no provider has is the agent's own."""
    names = [name for name, step in STEP_OF.items() if step is not None]
    extras = [one.name for one in others]
    fresh = replace(spec, options=NO_OPTIONS, adopted={})
    made = as_built(fresh, Observed()).trunks[spec.trunk_sid]
    made = replace(made, transfer_mode=made.transfer_mode or TWILIO_TRANSFER_MODE)
    usual = observed_options(built_inbound_trunk(fresh), built_rule(fresh), made, names, extras)
    found = observed_options(inbound, rule, trunk, names, extras)
    # What is empty is LiveKit's own, and what is not set is left alone. So is Krisp where the rule alone turns it on.
    differing = [
        name
        for name in found.differing(usual)
        if (getattr(found, name) or isinstance(getattr(found, name), bool)) and (name != "krisp" or inbound.krisp)
    ]
    own = spec.options.only([name for name, step in STEP_OF.items() if step is None])
    return found.only(differing).over(own)


# Whose it is.


def _refuse_marked(spec: PathSpec, link: str, resource_id: str, *texts: str) -> None:
    instance = spec.instance if is_damaged(spec.instance, *texts) else instance_in(*texts)
    if instance is None:
        return
    whose = "this installation" if instance == spec.instance else f"instance {shown(instance)}"
    detail = f"{STEP_BY_NAME[link].label} {shown(resource_id)} is managed by {whose} of Trunkline already."
    _broken(link, LinkProblem.MANAGED, detail, resource_id)


def _shared(
    observed: Observed, spec: PathSpec, trunk: CarrierTrunk, inbound: InboundTrunk, rule: DispatchRule
) -> Iterator[tuple[str, str]]:
    """Yield the steps whose objects others use too, with a sentence about it."""
    on_trunk = [
        number
        for number in observed.numbers.values()
        if number.routing.trunk_sid == trunk.sid and number.sid != spec.number_sid
    ]
    if on_trunk:
        for step in (TRUNK, ORIGINATION_URL):
            yield step, f"{_count(on_trunk, 'other number')} on Twilio trunk {trunk.sid}"
    called = normalised(spec.phone_number)
    others = [number for number in dict.fromkeys(map(normalised, inbound.numbers)) if number != called]
    if others:
        yield INBOUND_TRUNK, f"{_count(others, 'other number')} on LiveKit trunk {inbound.id}"
    if rule.numbers and set(rule.numbers) <= {spec.phone_number}:
        return
    further = [one for one in dict.fromkeys(rule.trunk_ids) if one != inbound.id and one in observed.inbound_trunks]
    if further:
        yield DISPATCH_RULE, f"{_count(further, 'other LiveKit trunk')} in dispatch rule {rule.id}"
    elif others:
        yield (
            DISPATCH_RULE,
            f"the other numbers of LiveKit trunk {inbound.id}, whose calls dispatch rule {rule.id} takes",
        )


def _check_whole(spec: PathSpec, observed: Observed) -> None:
    """Refuse where calls fail, or where our spec would not be what is there: the worst of it is named."""
    found = [one for one in compare(spec, marked(observed, spec)) if one.severity is not Severity.FOREIGN]
    if found:
        worst = worst_first(found)[0]
        link = worst.resource[0] if worst.resource else DISPATCH_RULE
        what = "Calls fail. " if worst.severity is Severity.CRITICAL else ""
        # A finding speaks of what is ours, which it is not yet.
        cause = _OURS.sub(lambda found: "The" if found[0] == "Our" else "the", worst.cause)
        _broken(link, LinkProblem.UNSUITABLE, f"{what}{cause}", *_ids(worst))


def _ids(finding: Finding) -> tuple[str, ...]:
    return (finding.resource[1],) if finding.resource else ()
