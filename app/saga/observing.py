"""Reads what both providers have: everything for an audit, or what the path of one agent needs.

Unexpected data never makes a read fail: a record that cannot be read is kept as such.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import Any

from app.domain.errors import ErrorCode
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, NUMBER, ORIGINATION_URL, TRUNK
from app.path.marks import agent_of, is_pool_tag
from app.path.observed import (
    CarrierNumber,
    CarrierTrunk,
    DispatchRule,
    InboundTrunk,
    NumberRouting,
    Observed,
    OriginationUrl,
    ResourceKey,
    Unreadable,
)
from app.path.spec import PathSpec
from app.providers.base import Carrier, VoicePlatform
from app.providers.errors import RejectedError, TransientError
from app.providers.twilio_records import is_sid

PARALLEL_LISTS = 8
"""Lists read at once: an audit needs one request for each trunk, shared or not."""


class _UnreadableRecords(dict[ResourceKey, list[Unreadable]]):
    """The records of each list that could not be read."""

    def of_list(self, kind: str, parent_id: str = "") -> list[Unreadable]:
        return self.setdefault((kind, parent_id), [])


def read_all(
    carrier: Carrier, platform: VoicePlatform, instance: str, paths: Iterable[PathSpec], shared: Collection[str] = ()
) -> Observed:
    """List everything that an account and a project have, as `read_account` and `read_project` do."""
    return both(read_account(carrier, instance, paths, shared), read_project(platform))


def both(account: Observed, project: Observed) -> Observed:
    """Return what an account and a project have together."""
    return replace(
        account,
        inbound_trunks=project.inbound_trunks,
        rules=project.rules,
        unreadable={**account.unreadable, **project.unreadable},
    )


def read_account(carrier: Carrier, instance: str, paths: Iterable[PathSpec], shared: Collection[str] = ()) -> Observed:
    """List an account's numbers and trunks, and the URLs of our trunks and of those that our numbers are on.

    `instance` is the one whose mark makes a trunk ours, `paths` are those of the stored agents, `shared` the sids of
    the stored trunks that numbers share. Takes a request for every thousand of a list, and one for each trunk.
    """
    unreadable = _UnreadableRecords()
    numbers = {number.sid: number for number in carrier.list_numbers(unreadable.of_list(NUMBER))}
    trunks = {trunk.sid: trunk for trunk in carrier.list_trunks(unreadable.of_list(TRUNK))}
    wanted = {
        sid
        for sid, trunk in trunks.items()
        if sid in shared or is_pool_tag(instance, trunk.tag) or agent_of(instance, trunk.tag)
    }
    for path in paths:
        number = numbers.get(path.number_sid)
        on = number.routing.trunk_sid if number else None
        wanted |= {path.trunk_sid, on or ""} & trunks.keys()

    def list_urls(trunk_sid: str) -> list[OriginationUrl]:
        return carrier.list_origination_urls(trunk_sid, unreadable.of_list(ORIGINATION_URL, trunk_sid))

    sids = sorted(wanted)
    urls = dict(zip(sids, _at_once([partial(list_urls, sid) for sid in sids]), strict=True))
    return Observed(numbers, trunks, urls, unreadable=unreadable)


def read_project(platform: VoicePlatform) -> Observed:
    """List a project's trunks and rules."""
    unreadable = _UnreadableRecords()
    # Rules before trunks: a trunk that a rule names but the later list lacks is gone, not new.
    rules = {rule.id: rule for rule in platform.list_dispatch_rules(unreadable=unreadable.of_list(DISPATCH_RULE))}
    inbound = {trunk.id: trunk for trunk in platform.list_inbound_trunks(unreadable=unreadable.of_list(INBOUND_TRUNK))}
    return Observed(inbound_trunks=inbound, rules=rules, unreadable=unreadable)


def read_path(carrier: Carrier, platform: VoicePlatform, spec: PathSpec) -> Observed:
    """Read what decides about calls to one number: its own resources, and all of LiveKit's trunks and rules."""
    unreadable = _UnreadableRecords()
    number = read_number(carrier, spec)
    trunk_sids = {spec.trunk_sid, (number.routing.trunk_sid if number else None) or spec.trunk_sid}
    trunks = {sid: trunk for sid in sorted(trunk_sids) if is_sid(sid, "TK") and (trunk := carrier.get_trunk(sid))}
    urls = {sid: carrier.list_origination_urls(sid, unreadable.of_list(ORIGINATION_URL, sid)) for sid in trunks}
    rules = platform.list_dispatch_rules(unreadable=unreadable.of_list(DISPATCH_RULE))
    inbound = platform.list_inbound_trunks(unreadable=unreadable.of_list(INBOUND_TRUNK))
    return _observed(number, trunks, urls, inbound, rules, unreadable)


def read_chain(
    carrier: Carrier, platform: VoicePlatform, number: CarrierNumber, project: Observed | None = None
) -> Observed:
    """Read what the calls of a number may take, whoever has made it: all that decides whether it is one chain.

    That is its trunk with its URLs and every number on it, and all trunks and rules of the project, unless `project`
    has just been read. Of the trunk's other numbers nothing is known but that they are there. `TransientError` where
    the trunk's own list does not show the number that says to be on it.
    """
    unreadable, trunk_sid = _UnreadableRecords(), number.routing.trunk_sid or ""
    others: list[str] = []
    trunks: dict[str, CarrierTrunk] = {}
    urls: dict[str, Sequence[OriginationUrl]] = {}
    reads: list[Callable[[], Any]] = [] if project else [partial(read_project, platform)]
    if is_sid(trunk_sid, "TK"):
        reads += [
            partial(carrier.get_trunk, trunk_sid),
            partial(carrier.list_origination_urls, trunk_sid, unreadable.of_list(ORIGINATION_URL, trunk_sid)),
            partial(carrier.list_trunk_numbers, trunk_sid),
        ]
    found = _at_once(reads)
    project = project or found.pop(0)
    if found and found[0] is not None:
        trunks, urls, others = {trunk_sid: found[0]}, {trunk_sid: found[1]}, found[2]
        if number.sid not in others:
            detail = f"Twilio says that the number is on trunk {trunk_sid}, and does not list it there."
            raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, detail)
    numbers = {sid: CarrierNumber(sid, "", number.account_sid, NumberRouting(trunk_sid, None, None)) for sid in others}
    return both(Observed(numbers | {number.sid: number}, trunks, urls, unreadable=unreadable), project)


def read_built_path(
    carrier: Carrier,
    platform: VoicePlatform,
    spec: PathSpec,
    known: Observed,
    check_time: Callable[[], None],
) -> Observed:
    """Read the same of a path whose steps have all been done: LiveKit's lists by our trunk and number, all at once.

    `known` has our Twilio trunk, or its origination URLs too, where they were made or read a moment ago: they are not
    read then. `check_time` may raise before a call. What should be in a filtered list and is not is read by its id, so
    that a finding can say why.
    """
    unreadable = _UnreadableRecords()

    def trunks() -> dict[str, CarrierTrunk]:
        check_time()
        trunk = carrier.get_trunk(spec.trunk_sid)
        return {spec.trunk_sid: trunk} if trunk else {}

    def urls() -> Sequence[OriginationUrl]:
        check_time()
        return carrier.list_origination_urls(spec.trunk_sid, unreadable.of_list(ORIGINATION_URL, spec.trunk_sid))

    def inbound_trunks() -> list[InboundTrunk]:
        check_time()
        found = platform.list_inbound_trunks(spec.phone_number, unreadable=unreadable.of_list(INBOUND_TRUNK))
        if all(one.id != spec.inbound_trunk_id for one in found):
            check_time()
            ours = platform.get_inbound_trunk(spec.inbound_trunk_id)
            found += [ours] if ours else []
        return found

    def rules() -> list[DispatchRule]:
        check_time()
        found = platform.list_dispatch_rules(spec.inbound_trunk_id, unreadable=unreadable.of_list(DISPATCH_RULE))
        if all(one.id != spec.rule_id for one in found):
            check_time()
            ours = platform.get_dispatch_rule(spec.rule_id)
            found += [ours] if ours else []
        return found

    reads: list[Callable[[], Any]] = [partial(read_number, carrier, spec), inbound_trunks, rules]
    reads += [] if known.trunks else [trunks]
    reads += [] if known.urls else [urls]
    number, inbound, found, *rest = _at_once(reads)
    trunk = known.trunks or rest.pop(0)
    ours = known.urls or {spec.trunk_sid: rest.pop(0)}
    return _observed(number, trunk, ours, inbound, found, unreadable)


def read_built_paths(
    carrier: Carrier,
    platform: VoicePlatform,
    specs: Sequence[PathSpec],
    known: Observed,
    check_time: Callable[[], None],
) -> Observed:
    """Read the same of many paths at once: their trunks' numbers, and LiveKit's lists by their numbers and trunks.

    `known` has trunks and origination URLs that need not be read. LiveKit's filters take many values, and show for all
    of them together what they show for each. Of a number Twilio's list says that it is on the trunk; what else decides
    about it was seen when it was looked up. What is missing may be late: only a read of its own says that it is.
    """
    unreadable = _UnreadableRecords()
    trunk_sids = sorted({spec.trunk_sid for spec in specs})
    unknown = [sid for sid in trunk_sids if sid not in known.trunks]

    def on_time(read: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            check_time()
            return read()

        return run

    numbers = [spec.phone_number for spec in specs]
    inbound_ids = [spec.inbound_trunk_id for spec in specs]
    lists = unreadable.of_list
    reads: list[Callable[[], Any]] = [
        partial(platform.list_inbound_trunks, *numbers, unreadable=lists(INBOUND_TRUNK)),
        partial(platform.list_dispatch_rules, *inbound_ids, unreadable=lists(DISPATCH_RULE)),
        *(partial(carrier.list_trunk_numbers, sid) for sid in trunk_sids),
        *(partial(carrier.get_trunk, sid) for sid in unknown),
        *(partial(carrier.list_origination_urls, sid, lists(ORIGINATION_URL, sid)) for sid in unknown),
    ]
    inbound, rules, *others = _at_once([on_time(read) for read in reads])
    on_trunk = {sid: set(others.pop(0)) for sid in trunk_sids}
    trunks = {sid: trunk for sid in unknown if (trunk := others.pop(0))}
    urls = {sid: others.pop(0) for sid in unknown}
    found = [
        CarrierNumber(spec.number_sid, spec.phone_number, "", NumberRouting(spec.trunk_sid, None, None))
        for spec in specs
        if spec.number_sid in on_trunk[spec.trunk_sid]
    ]
    return Observed(
        {number.sid: number for number in found},
        {**known.trunks, **trunks},
        {**known.urls, **urls},
        {trunk.id: trunk for trunk in inbound},
        {rule.id: rule for rule in rules},
        unreadable,
    )


def read_number(carrier: Carrier, spec: PathSpec) -> CarrierNumber | None:
    """Read the number by its SID and, on a 404, by its text: one 404 may be wrong."""
    with _not_owned_is_none():
        return carrier.get_number(spec.number_sid)
    with _not_owned_is_none():
        number = carrier.find_number(spec.phone_number)
        return number if number.sid == spec.number_sid else None
    return None


@contextmanager
def _not_owned_is_none() -> Iterator[None]:
    """Let the refusal pass that says that the account does not own the number."""
    try:
        yield
    except RejectedError as error:
        if error.code is not ErrorCode.NUMBER_NOT_IN_ACCOUNT:
            raise


def _observed(
    number: CarrierNumber | None,
    trunks: Mapping[str, CarrierTrunk],
    urls: Mapping[str, Sequence[OriginationUrl]],
    inbound: Iterable[InboundTrunk],
    rules: Iterable[DispatchRule],
    unreadable: Mapping[ResourceKey, Sequence[Unreadable]],
) -> Observed:
    numbers = {number.sid: number} if number else {}
    return Observed(
        numbers, trunks, urls, {trunk.id: trunk for trunk in inbound}, {rule.id: rule for rule in rules}, unreadable
    )


def _at_once(reads: Sequence[Callable[[], Any]]) -> list[Any]:
    """Make independent reads side by side and return their results in order.

    Of several errors a refusal is raised, the first: another try does not help, whatever befell the others.
    """
    if not reads:
        return []
    with ThreadPoolExecutor(min(len(reads), PARALLEL_LISTS), "reads") as threads:
        # Each runs in a copy of this thread's context variables, where the adapters find the caller and the trace.
        pending = [threads.submit(copy_context().run, read) for read in reads]
        errors = [error for one in pending if (error := one.exception())]
    if errors:
        raise next((error for error in errors if isinstance(error, RejectedError)), errors[0])
    return [one.result() for one in pending]
