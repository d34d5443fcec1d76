"""Two opinions about what an adoption takes over: `app.path.adoption` reads records, the sandbox calls its own objects.

They share no code. By hand, for longer:
`PATH_EXAMPLES=10000 PATH_SEED=1 pytest -s tests/unit/test_adoption_and_call.py -k every_call`.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from itertools import product
from typing import Any

from app.dev.sandbox.call import trace_call
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, NUMBER, ORIGINATION_URL, TRUNK
from app.path.adoption import Chain, LinkProblem, NotAdoptable, chain_of
from app.path.adoption_marks import (
    marked,
    unmarked_inbound_trunk,
    unmarked_rule,
    unmarked_trunk,
    unmarked_url,
)
from app.path.compare import compare
from app.path.corrections import (
    corrected_inbound_trunk,
    corrected_rule,
    corrected_trunk,
    corrected_url,
    takes_encrypted_media,
)
from app.path.observed import Observed, normalised
from app.path.spec import Label, PathSpec
from app.providers.livekit_records import changed_rule, changed_trunk
from tests.support.random_paths import CALLED, Configuration, configuration, described

EXAMPLES = int(os.environ.get("PATH_EXAMPLES", "300"))
"""Configurations; those of the suite are the same each time."""

SEED = int(os.environ.get("PATH_SEED", "1"))

MOST_CALLS = 60
"""Calls of one configuration that are followed, before and after."""

LEAST_ADOPTABLE = 0.2
"""Of all configurations: a property of chains that hardly ever are some says little."""

HOPS = {
    "twilioNumber": NUMBER,
    "twilioTrunk": TRUNK,
    "originationUrl": ORIGINATION_URL,
    "livekitTrunk": INBOUND_TRUNK,
    "dispatchRule": DISPATCH_RULE,
}

Outcome = Mapping[str, Any]


def base(made: Configuration) -> PathSpec:
    """Return the path of an agent that is to adopt the number, and has not been looked at."""
    spec = made.spec()
    number = next(each for each in made.numbers if each["phone_number"] == CALLED)
    keys = {"managedBy": "trunkline", "instance": spec.instance, "agentId": spec.agent_id, "operationId": "1"}
    mark = json.dumps({**keys, "createdAt": "2026-01-01T00:00:00+00:00"})
    return replace(spec, ids={NUMBER: number["sid"]}, agent_name="night-desk", label=Label(spec.label.tag, mark))


def calls_of(made: Configuration) -> list[Outcome]:
    """Call the number in each way that some object tells from the others, evenly thinned out."""
    every = list(product(made.callers(), made.sources(), made.rolls()))
    sandbox = made.sandbox()
    return [
        {"caller": caller, **trace_call(sandbox, CALLED, caller, source=source, roll=roll)}
        for caller, source, roll in every[:: -(-len(every) // MOST_CALLS)]
    ]


def gist(call: Outcome) -> tuple[object, ...]:
    """Return all that a caller gets, without the names of objects."""
    hops = [(each["hop"], each["id"], each["ok"]) for each in call["path"]]
    return call["reaches"], call["agents"], call["status"], call["callEndedBy"], hops


def with_marks(made: Configuration, seen: Observed, found: Chain) -> Configuration:
    """Return the configuration as it is once the marks are written, by what the adapters send."""
    after, other = marked(seen, found.spec), deepcopy(made)
    for trunk in other.trunks:
        trunk["friendly_name"] = after.trunks[trunk["sid"]].tag if trunk["sid"] in after.trunks else ""
    tags = {url.sid: url.tag for urls in after.urls.values() for url in urls}
    for url in other.urls:
        url["friendly_name"] = tags.get(url["sid"], url["friendly_name"])
    inbound, rules = found.spec.inbound_trunk_id, found.spec.rule_id
    other.livekit_trunks = [
        changed_trunk(seen.inbound_trunks[inbound], after.inbound_trunks[inbound])
        if one.sip_trunk_id == inbound
        else one
        for one in other.livekit_trunks
    ]
    other.rules = [
        changed_rule(seen.rules[rules], after.rules[rules]) if one.sip_dispatch_rule_id == rules else one
        for one in other.rules
    ]
    return other


def off_the_chain(found: Chain, calls: list[Outcome]) -> Iterator[str]:
    """Yield each call that goes another way than the chain, or does not get to its rule."""
    ids, options = found.spec.ids, found.spec.options
    allowed = {normalised(each) for each in options.allowed_callers or ()}
    for call in calls:
        taken = {HOPS[each["hop"]]: each for each in call["path"] if each["hop"] in HOPS}
        is_let_in = not allowed or normalised(call["caller"]) in allowed
        if not is_let_in:
            if call["reaches"]:
                yield f"{call['caller']} is not allowed, and reaches {call['agents']}"
            continue
        for step in (NUMBER, TRUNK, INBOUND_TRUNK, DISPATCH_RULE):
            if step not in taken or taken[step]["id"] != ids[step]:
                yield f"{call['caller']} comes to {taken.get(step)}, not {ids[step]}"
        if options.pin is None and not call["reaches"]:
            yield f"{call['caller']} is told {call['reason']}"
        if call["reaches"] and found.spec.agent_name not in call["agents"]:
            yield f"{call['caller']} reaches {call['agents']}"


def changed_by_repair(found: Chain, after: Observed) -> Iterator[str]:
    """Yield what a repair would write."""
    spec = found.spec
    trunk, inbound, rule = (
        after.trunks[spec.trunk_sid],
        after.inbound_trunks[spec.inbound_trunk_id],
        after.rules[spec.rule_id],
    )
    url = next(each for each in after.urls[spec.trunk_sid] if each.sid == spec.url_sid)
    encrypts = takes_encrypted_media(inbound, rule)
    for now, wanted in (
        (trunk, corrected_trunk(trunk, spec, livekit_encrypts=encrypts)),
        (url, corrected_url(url, spec, is_secure=trunk.is_secure)),
        (inbound, corrected_inbound_trunk(inbound, spec, twilio_encrypts=trunk.is_secure)),
        (rule, corrected_rule(rule, spec, twilio_encrypts=trunk.is_secure)),
    ):
        if now != wanted:
            yield f"{now} would become {wanted}"


def not_given_back(found: Chain, after: Observed) -> Iterator[str]:
    """Yield what is not as it was found once the marks are off again."""
    spec, seen = found.spec, found.observed
    urls = {each.sid: each for each in after.urls[spec.trunk_sid]}
    were = {each.sid: each for each in seen.urls[spec.trunk_sid]}
    for now, was in (
        (
            unmarked_trunk(after.trunks[spec.trunk_sid], spec, spec.adopted[TRUNK]),
            seen.trunks[spec.trunk_sid],
        ),
        (unmarked_url(urls[spec.url_sid], spec, spec.adopted[ORIGINATION_URL]), were[spec.url_sid]),
        (
            unmarked_inbound_trunk(after.inbound_trunks[spec.inbound_trunk_id], spec, spec.adopted[INBOUND_TRUNK]),
            seen.inbound_trunks[spec.inbound_trunk_id],
        ),
        (unmarked_rule(after.rules[spec.rule_id], spec, spec.adopted[DISPATCH_RULE]), seen.rules[spec.rule_id]),
    ):
        if now != was:
            yield f"{now} was {was}"


def faults_of(made: Configuration, found: Chain, calls: list[Outcome]) -> Iterator[str]:
    seen = found.observed
    after = marked(seen, found.spec)
    yield from off_the_chain(found, calls)
    yield from (f"found: {each}" for each in compare(found.spec, after))
    yield from changed_by_repair(found, after)
    yield from not_given_back(found, after)
    for before, now in zip(calls, calls_of(with_marks(made, seen, found)), strict=True):
        if gist(before) != gist(now):
            yield f"{gist(before)} has become {gist(now)}"


def wrongly_refused(found: NotAdoptable, calls: list[Outcome]) -> Iterator[str]:
    """Yield what speaks against a refusal: that all calls take one way, where it says that they do not."""
    ways = {
        tuple(each["id"] for each in call["path"] if each["hop"] in {"livekitTrunk", "dispatchRule"}) for call in calls
    }
    all_reach = all(call["reaches"] for call in calls)
    if found.link == INBOUND_TRUNK:
        # An open-source server takes a call on without a trunk, by a rule without one.
        all_reach = all_reach and all(trunk_id for trunk_id, *_ in ways)
    if found.problem is LinkProblem.MISSING and all_reach:
        yield f"every call reaches an agent, and the refusal is {found}"
    is_known = found.link in {INBOUND_TRUNK, DISPATCH_RULE} and "PIN" not in found.detail
    if found.problem is LinkProblem.AMBIGUOUS and is_known and all_reach and len(ways) == 1 and len(calls) < MOST_CALLS:
        yield f"every call takes the way {ways}, and the refusal is {found}"


def test_every_call_to_an_adoptable_number_takes_its_chain_and_is_changed_by_no_mark() -> None:
    ended: Counter[str] = Counter()
    for example in range(EXAMPLES):
        made = configuration((SEED, example))
        calls, found = calls_of(made), chain_of(made.observed(), base(made))
        if isinstance(found, Chain):
            faults = list(faults_of(made, found, calls))
            ended["shared" if found.shared else "adoptable"] += 1
        else:
            faults = list(wrongly_refused(found, calls))
            ended[f"{found.link} {found.problem}"] += 1
        assert not faults, f"{SEED}, {example}: {faults[0]}\n{described(made)}"
    print(dict(ended))  # noqa: T201  # with -s
    assert ended["adoptable"] + ended["shared"] >= LEAST_ADOPTABLE * EXAMPLES
    assert ended["shared"]
    assert {each.partition(" ")[2] for each in ended} >= {"missing", "ambiguous", "unsuitable"}
