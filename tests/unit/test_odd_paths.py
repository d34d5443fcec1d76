"""Whatever stands at the providers, a path is compared, planned and looked for: no text breaks one of our readers."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.audit.orphans import StoredPaths, find_orphans
from app.audit.service import find_unreadable
from app.domain.findings import Finding, FindingCode, Severity
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, NUMBER, ORIGINATION_URL, TRUNK
from app.domain.options import RuleAgent
from app.numbers.maintenance import guarded
from app.path.compare import compare
from app.path.marks import metadata_of, tag_of
from app.path.observed import Media, NumberRouting, Observed, Unreadable
from app.path.spec import PathSpec
from app.saga.context import StepContext
from app.saga.steps import ACTIONS, read_findings
from tests.support.malformed_texts import ANY_TEXT, MALFORMED_URIS, damaged_marks, id_of
from tests.support.providers import World
from tests.support.saga import E164, SIP_URI
from tests.support.step_context import AGENT, make_context

TAG = tag_of("test", AGENT)
NOW = datetime(2026, 2, 1, tzinfo=UTC)
STRANGER = "00000000-0000-4000-8000-0000000000ab"


def whole() -> tuple[World, StepContext, PathSpec]:
    """Return a world with one whole path, its context and its rows."""
    world = World.new()
    trunk = world.carrier.own_trunk(TAG)
    inbound = world.platform.own_trunk(E164, name=TAG, metadata=make_context().spec.label.metadata)
    ids = {
        NUMBER: world.carrier.own_number(E164, trunk_sid=trunk),
        TRUNK: trunk,
        ORIGINATION_URL: world.carrier.own_url(trunk, SIP_URI, TAG),
        INBOUND_TRUNK: inbound,
        DISPATCH_RULE: world.platform.own_rule(inbound, "support", name=TAG),
    }
    return world, make_context(world, ids=ids), make_context(world, ids=ids).spec


def seen(world: World, **unreadable: list[Unreadable]) -> Observed:
    """Return what an audit would read."""
    urls = {sid: [url for url in world.carrier.urls.values() if url.trunk_sid == sid] for sid in world.carrier.trunks}
    odd = {(kind, ""): records for kind, records in unreadable.items()}
    return Observed(world.carrier.numbers, world.carrier.trunks, urls, world.platform.trunks, world.platform.rules, odd)


def audited(observed: Observed, path: PathSpec, context: StepContext) -> list[Finding]:
    """Return all that an audit finds."""
    rows = StoredPaths({path.agent_id: path}, frozenset(), NOW)
    return [
        *compare(path, observed),
        *find_unreadable(observed, "test", set()),
        *find_orphans(observed, (rows, rows), context.tools, timedelta(hours=1)),
    ]


def codes(findings: list[Finding]) -> set[FindingCode]:
    return {finding.code for finding in findings}


# Without shrinking: a failure names its texts, and making them smaller takes minutes.
@settings(
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(st.data())
def test_no_text_in_any_field_breaks_a_look(data: st.DataObject) -> None:
    world, context, path = whole()
    own_url, own_rule = context.ids[ORIGINATION_URL], context.ids[DISPATCH_RULE]
    mark = st.one_of(ANY_TEXT, st.sampled_from([TAG, context.spec.label.metadata, *damaged_marks("test", STRANGER)]))

    def any_texts(size: int = 2) -> tuple[str, ...]:
        return tuple(data.draw(st.lists(ANY_TEXT, max_size=size)))

    world.carrier.route(context.ids[NUMBER], **{data.draw(st.sampled_from(sorted(ROUTING))): data.draw(ANY_TEXT)})
    world.carrier.urls[own_url] = replace(world.carrier.urls[own_url], sip_url=data.draw(ANY_TEXT), tag=data.draw(mark))
    world.carrier.own_url(context.ids[TRUNK], data.draw(ANY_TEXT), data.draw(mark))
    world.carrier.own_trunk(data.draw(mark))
    inbound = world.platform.own_trunk(E164, name=data.draw(mark), metadata=data.draw(mark))
    world.platform.trunks[inbound] = replace(world.platform.trunks[inbound], allowed_addresses=any_texts())
    rule = world.platform.own_rule(context.ids[INBOUND_TRUNK], data.draw(ANY_TEXT), metadata=data.draw(mark))
    for rule_id in (own_rule, rule):
        world.platform.rules[rule_id] = replace(
            world.platform.rules[rule_id],
            name=data.draw(mark),
            metadata=data.draw(mark),
            agents=tuple(map(RuleAgent, any_texts())),
            inbound_numbers=any_texts(),
            numbers=any_texts(),
            pin=data.draw(ANY_TEXT),
            room_preset=data.draw(ANY_TEXT),
            media=Media(codecs=any_texts(), only_listed_codecs=data.draw(st.booleans())),
        )
    world.platform.rules[rule] = replace(world.platform.rules[rule], trunk_ids=any_texts())
    findings = audited(seen(world), path, context)
    assert not [finding for finding in findings if "error of ours" in finding.detail]
    assert all(finding.detail.isprintable() for finding in findings)
    read_findings(context)
    for actions in ACTIONS.values():
        if actions.find:
            actions.find(context)


ROUTING = NumberRouting.__slots__


@pytest.mark.parametrize("uri", MALFORMED_URIS, ids=id_of)
def test_an_origination_url_that_is_no_uri_is_wrong_and_not_the_end(uri: str) -> None:
    world, context, path = whole()
    url = context.ids[ORIGINATION_URL]
    world.carrier.urls[url] = replace(world.carrier.urls[url], sip_url=uri)
    findings = audited(seen(world), path, context)
    assert codes(findings) <= {FindingCode.ORIGINATION_URL_CHANGED, FindingCode.ORIGINATION_HOST_WRONG}
    assert {finding.severity for finding in findings} == {Severity.CRITICAL}
    assert {finding.resource for finding in findings} == {(ORIGINATION_URL, url)}


@pytest.mark.parametrize("metadata", list(damaged_marks("test", str(STRANGER))), ids=id_of)
def test_each_damaged_mark_is_one_finding_and_nobodys(metadata: str) -> None:
    world, context, path = whole()
    odd = {
        world.platform.own_trunk("+15145550000", metadata=metadata),
        world.platform.own_rule("ST_theirs", "theirs", metadata=metadata),
    }
    findings = audited(seen(world), path, context)
    assert codes(findings) == {FindingCode.UNREADABLE}
    assert {finding.resource[1] for finding in findings if finding.resource} == odd


Lose = Callable[[World, StepContext], object]
LOST: dict[str, Lose] = {
    NUMBER: lambda world, context: world.carrier.numbers.pop(context.ids[NUMBER]),
    TRUNK: lambda world, context: world.carrier.trunks.pop(context.ids[TRUNK]),
    INBOUND_TRUNK: lambda world, context: world.platform.trunks.pop(context.ids[INBOUND_TRUNK]),
    DISPATCH_RULE: lambda world, context: world.platform.rules.pop(context.ids[DISPATCH_RULE]),
}


@pytest.mark.parametrize("kind", LOST)
def test_what_could_not_be_read_is_not_gone(kind: str) -> None:
    world, context, path = whole()
    LOST[kind](world, context)
    own, other = context.ids[kind], f"{context.ids[kind][:-1]}f"
    gone = codes(compare(path, seen(world)))
    assert FindingCode.UNREADABLE not in gone
    for odd, is_open in (
        (Unreadable(own, may_be_ours=True), True),
        (Unreadable("", may_be_ours=True), True),
        (Unreadable("", may_be_ours=False), False),
        (Unreadable(other, may_be_ours=True), False),
    ):
        found = compare(path, seen(world, **{kind: [odd]}))
        assert (FindingCode.UNREADABLE in codes(found)) is is_open
        assert (codes(found) == gone) is not is_open


def test_a_check_that_breaks_is_one_finding_and_the_others_go_on() -> None:
    world, _, path = whole()
    observed = seen(world)
    world.platform.rules[path.rule_id] = object()  # type: ignore[assignment]  # a defect of ours
    (finding,) = guarded(lambda: compare(path, observed), path.agent_id)
    assert (finding.code, finding.agent_id) == (FindingCode.UNREADABLE, path.agent_id)
    assert "error of ours" in finding.detail
    assert guarded(lambda: [finding]) == [finding]


def test_a_rule_is_an_orphan_once_every_trunk_of_its_own_is() -> None:
    world, context, path = whole()
    platform, old, young = world.platform, NOW - timedelta(days=1), NOW

    def trunk(agent: str, made_at: datetime) -> str:
        mark = f'{{"managedBy": "trunkline", "instance": "test", "agentId": "{agent}", "createdAt": "{made_at}"}}'
        return platform.own_trunk(f"+1{len(platform.trunks)}", metadata=mark)

    tag, ended, fresh = f"trunkline/test/{STRANGER}", trunk(STRANGER, old), trunk(STRANGER, young)
    theirs = platform.own_trunk("+19", metadata="theirs")
    # What serves somebody: another agent of ours, for as long as you like.
    own = platform.trunks[path.inbound_trunk_id]
    platform.trunks[own.id] = replace(own, metadata=metadata_of("test", AGENT, AGENT, old))
    gone = "ST_gone"
    rules = {
        (gone,): True,
        (ended,): True,
        (ended, gone): True,
        (): True,
        (fresh,): False,
        (ended, fresh): False,
        (theirs,): False,
        (gone, theirs): False,
        (path.inbound_trunk_id,): False,
    }
    made = {trunks: platform.own_rule("", "x", name=tag) for trunks in rules}
    for trunks, rule_id in made.items():
        platform.rules[rule_id] = replace(platform.rules[rule_id], trunk_ids=trunks)
    leftovers = {FindingCode.ORPHAN, FindingCode.TWIN}
    found = [
        each.resource[1] for each in audited(seen(world), path, context) if each.resource and each.code in leftovers
    ]
    assert {trunks: rule_id in found for trunks, rule_id in made.items()} == rules
    # A rule goes before its trunk.
    assert found.index(made[ended,]) < found.index(ended)
    unsure = audited(seen(world, **{INBOUND_TRUNK: [Unreadable(gone, may_be_ours=True)]}), path, context)
    assert made[gone,] not in [each.resource[1] for each in unsure if each.resource]


def test_a_second_rule_of_an_agent_on_its_own_trunk_is_a_twin() -> None:
    world, context, path = whole()
    twin = world.platform.own_rule(path.inbound_trunk_id, "support", name=TAG)
    # Two rules on one trunk: LiveKit refuses every call (503).
    (finding,) = audited(seen(world), path, context)
    assert (finding.code, finding.severity) == (FindingCode.TWIN, Severity.CRITICAL)
    rows = StoredPaths({path.agent_id: path}, frozenset(), datetime.now(UTC) + timedelta(hours=2))
    (finding,) = find_orphans(seen(world), (rows, rows), context.tools, timedelta(hours=1))
    assert (finding.code, finding.resource) == (FindingCode.TWIN, (DISPATCH_RULE, twin))


def test_a_rule_of_ours_is_found_by_its_name_and_by_the_metadata_of_an_earlier_release() -> None:
    world, context, path = whole()
    find = ACTIONS[DISPATCH_RULE].find
    assert find is not None
    rule = world.platform.rules[path.rule_id]
    for name, metadata, is_ours in (
        (TAG, "", True),
        (TAG, "the user's own", True),
        ("renamed", context.spec.label.metadata, True),
        ("renamed", "", False),
        (tag_of("other", AGENT), "", False),
        (f"{TAG}/x", "", False),
    ):
        world.platform.rules[path.rule_id] = replace(rule, name=name, metadata=metadata)
        assert find(context) == ([path.rule_id] if is_ours else [])
