"""Our mark on an adopted path: what it changes in each object, and what taking it off gives back."""

from dataclasses import replace

from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, ORIGINATION_URL, TRUNK
from app.path.marks import has_mark, restored, takes_mark, with_mark
from app.path.observed import CarrierTrunk, DispatchRule, InboundTrunk, Observed, OriginationUrl
from app.path.spec import Adopted, PathSpec


def marked(observed: Observed, spec: PathSpec) -> Observed:
    """Return what there is once everything on an adopted path that nobody else uses has our mark."""

    def own(step: str) -> str:
        adopted = spec.adopted.get(step)
        return "" if adopted is None or adopted.is_shared else adopted.id

    trunks, inbound, rules = dict(observed.trunks), dict(observed.inbound_trunks), dict(observed.rules)
    if sid := own(TRUNK):
        trunks[sid] = marked_trunk(trunks[sid], spec)
    if trunk_id := own(INBOUND_TRUNK):
        inbound[trunk_id] = marked_inbound_trunk(inbound[trunk_id], spec)
    if rule_id := own(DISPATCH_RULE):
        rules[rule_id] = marked_rule(rules[rule_id], spec)
    url_sid = own(ORIGINATION_URL)
    urls = {
        sid: [marked_url(url, spec) if url.sid == url_sid else url for url in of_trunk]
        for sid, of_trunk in observed.urls.items()
    }
    return replace(observed, trunks=trunks, urls=urls, inbound_trunks=inbound, rules=rules)


def marked_trunk(now: CarrierTrunk, spec: PathSpec) -> CarrierTrunk:
    """Return the Twilio trunk with our tag for a name."""
    return replace(now, tag=spec.label.tag)


def marked_url(now: OriginationUrl, spec: PathSpec) -> OriginationUrl:
    """Return the origination URL with our tag for a name."""
    return replace(now, tag=spec.label.tag)


def marked_inbound_trunk(now: InboundTrunk, spec: PathSpec) -> InboundTrunk:
    """Return the LiveKit trunk with our tag for a name, and our mark beside what its metadata says."""
    is_marked = has_mark(spec.instance, spec.agent_id, now.metadata) or not takes_mark(now.metadata)
    metadata = now.metadata if is_marked else with_mark(now.metadata, spec.label.metadata)
    return replace(now, name=spec.label.tag, metadata=metadata)


def marked_rule(now: DispatchRule, spec: PathSpec) -> DispatchRule:
    """Return the dispatch rule with our tag for a name; its metadata is for everybody in the room to read."""
    return replace(now, name=spec.label.tag)


def unmarked_trunk(now: CarrierTrunk, spec: PathSpec, adopted: Adopted) -> CarrierTrunk:
    """Return the Twilio trunk with its former name, where our tag still stands."""
    return replace(now, tag=_former(now.tag, spec, adopted))


def unmarked_url(now: OriginationUrl, spec: PathSpec, adopted: Adopted) -> OriginationUrl:
    """Return the origination URL with its former name, where our tag still stands."""
    return replace(now, tag=_former(now.tag, spec, adopted))


def unmarked_inbound_trunk(now: InboundTrunk, spec: PathSpec, adopted: Adopted) -> InboundTrunk:
    """Return the LiveKit trunk with its former name and metadata, each where our mark still stands."""
    is_marked = has_mark(spec.instance, spec.agent_id, now.metadata)
    metadata = restored(now.metadata, adopted.metadata) if is_marked else now.metadata
    return replace(now, name=_former(now.name, spec, adopted), metadata=metadata)


def unmarked_rule(now: DispatchRule, spec: PathSpec, adopted: Adopted) -> DispatchRule:
    """Return the dispatch rule with its former name, where our tag still stands."""
    return replace(now, name=_former(now.name, spec, adopted))


def _former(name: str, spec: PathSpec, adopted: Adopted) -> str:
    """Return the former name in place of our tag; what somebody has renamed since is theirs."""
    return adopted.name if has_mark(spec.instance, spec.agent_id, name) else name
