"""Each single change at the providers: what it does to calls, what a verification says, what a repair makes of it.

The tables are in `twilio_changes` and `livekit_changes`. What operators set by hand is on every path from the start.
"""

from collections.abc import Mapping
from typing import Any

import pytest

from app.domain.errors import ErrorCode, RefusedError
from app.domain.events import Origin
from app.domain.findings import Callers, Finding, FindingCode, Severity
from app.domain.operations import COLUMNS, TrunkMode
from app.path.call import Call, follow
from app.path.reach import reach
from app.wiring import Wiring
from tests.maintenance import livekit_changes, twilio_changes
from tests.maintenance.changes import Change, Outcome
from tests.support.changed_path import ChangedPath, OwnSandbox, by_hand, new_path, reaches, set_by_hand

OTHER_NUMBER = "+15145560077"

CHANGES = (*twilio_changes.CHANGES, *livekit_changes.CHANGES)


def test_there_are_many_changes_and_each_has_a_name_of_its_own() -> None:
    assert len({change.name for change in CHANGES}) == len(CHANGES) >= 100


@pytest.mark.sweep
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_a_single_change(change: Change, changing: tuple[OwnSandbox, Wiring]) -> None:
    check_change(new_path(*changing, **change.profile), change)


@pytest.mark.sweep
@pytest.mark.parametrize("change", twilio_changes.CHANGES, ids=lambda change: change.name)
def test_a_single_change_where_the_trunk_is_the_numbers_own(
    change: Change, changing: tuple[OwnSandbox, Wiring]
) -> None:
    check_change(new_path(*changing, trunk_mode=TrunkMode.DEDICATED, **change.profile), change)


@pytest.mark.sweep
@pytest.mark.parametrize("change", twilio_changes.OF_TRUNKS, ids=lambda change: change.name)
def test_a_change_of_a_shared_trunk_is_found_and_mended_for_each_number_on_it(
    change: Change, changing: tuple[OwnSandbox, Wiring]
) -> None:
    path = new_path(*changing, **change.profile)
    other = path.beside(OTHER_NUMBER)
    change.make(path)
    check_neighbour(other)
    codes = {finding.code for finding in path.findings() if finding.is_about_trunk}
    assert codes <= {finding.code for finding in other.findings()}
    if change.outcome is Outcome.REPAIRED:
        repair(path, change)
        left = other.findings()
        assert {finding.code for finding in left} <= {FindingCode.TRUNK_GONE, FindingCode.NUMBER_DETACHED}, shown(left)
        check_neighbour(other)
        if left:  # the number itself is on no trunk: that is written for each
            repair(other, change)
        assert (path.findings(), other.findings()) == ([], [])
        assert all(map(reaches, other.calls().values()))


def check_neighbour(other: ChangedPath) -> None:
    """The verdict is the one of its own calls."""
    findings = other.findings()
    is_critical = any(finding.severity is Severity.CRITICAL for finding in findings)
    assert is_critical is not all(map(reaches, other.calls().values())), shown(findings)


def check_change(path: ChangedPath, change: Change) -> None:
    path.sandbox.switch(livekitServer=change.server)
    set_by_hand(path)
    by_operators = by_hand(path)
    assert (path.findings(), all_reach(path, change)) == ([], True)
    made = change.make(path)
    named = change.named(path, made) if change.code else ""
    check_reach(path, change)
    check_verdict(path, change, named)
    check_repair(path, change, {key: value for key, value in by_hand(path).items() if by_operators[key] == value})


def all_reach(path: ChangedPath, change: Change) -> bool:
    return all(map(reaches, path.calls(*change.named_callers).values()))


def check_reach(path: ChangedPath, change: Change) -> None:
    """`reach` says of every call what becomes of it, and the row says whose calls fail."""
    observed, spec, calls = path.observed(), path.spec, path.calls(*change.named_callers)
    followed = {call: follow(observed, spec, call).reasons for call in calls}
    # Which draw picks which of two URLs of one priority is nobody's to know: how many calls get through is.
    for caller, source in {(call.caller, call.source) for call in calls}:
        alike = [call for call in calls if (call.caller, call.source) == (caller, source)]
        assert sum(not followed[call] for call in alike) == sum(reaches(calls[call]) for call in alike), caller
    failing = [call for call, real in calls.items() if not reaches(real)]
    assert bool(reach(observed, spec).reasons) is bool(failing)
    assert change.callers is whose(failing, calls)


def whose(failing: list[Call], calls: Mapping[Call, Any]) -> Callers | None:
    """Return whose calls fail."""
    if not failing:
        return None
    return Callers.ALL if len(failing) == len(calls) else Callers.SOME


def check_verdict(path: ChangedPath, change: Change, named: str) -> None:
    """A verification names the cause and its object, and says that calls fail when they do, and not otherwise."""
    findings = path.findings()
    critical = [finding for finding in findings if finding.severity is Severity.CRITICAL]
    assert bool(critical) is change.is_harmful, shown(findings)
    codes = {finding.code for finding in findings}
    assert codes - change.also == ({change.code} if change.code else set()), shown(findings)
    for finding in critical:
        assert finding.callers is change.callers or finding.code in change.also, shown(findings)
    if change.code:
        (cause,) = [finding for finding in findings if finding.code is change.code]
        assert (cause.severity is Severity.CRITICAL) is change.is_harmful
        assert cause.resource is not None
        assert cause.resource[1] == named, shown(findings)
        assert change.words in cause.detail, shown(findings)


def shown(findings: list[Finding]) -> str:
    return "\n".join(f"{each.severity} {each.callers} {each.code} {each.resource}: {each.detail}" for each in findings)


def check_repair(path: ChangedPath, change: Change, by_operators: Mapping[Any, object]) -> None:
    """A repair ends with the call answered, or leaves what is somebody else's; nothing foreign is touched.

    Nor is what operators have set and the change has left.
    """
    before = path.sandbox.objects()
    ours = {path.ours(kind) for kind in COLUMNS}
    if change.outcome in {Outcome.NOTHING, Outcome.LEFT}:
        assert not repair(path, change)
        assert path.sandbox.objects() == before
        return
    if change.outcome is Outcome.TAKEN_BACK:
        with pytest.raises(RefusedError) as refused:
            path.wiring.maintenance.repair(path.agent_id, takeover=False, origin=Origin())
        assert refused.value.code is ErrorCode.NUMBER_ALREADY_ROUTED
    assert repair(path, change)
    assert (path.findings(), all_reach(path, change)) == ([], True)
    after, ours = path.sandbox.objects(), ours | {path.ours(kind) for kind in COLUMNS}
    assert {key: after.get(key) for key in before.keys() - ours} == {key: before[key] for key in before.keys() - ours}
    kept = by_hand(path)
    assert {key: kept.get(key, value) for key, value in by_operators.items()} == by_operators


def repair(path: ChangedPath, change: Change) -> bool:
    """Repair; tell whether there was anything to do. Where calls fail by what is not ours, it is refused by name."""
    takeover = change.outcome is Outcome.TAKEN_BACK
    if change.outcome is Outcome.LEFT and change.is_harmful:
        causes = [finding.cause for finding in path.findings() if finding.code is change.code]
        with pytest.raises(RefusedError) as refused:
            path.wiring.maintenance.repair(path.agent_id, takeover=takeover, origin=Origin())
        is_gone = change.code is FindingCode.NUMBER_GONE
        wanted = ErrorCode.NUMBER_NOT_IN_ACCOUNT if is_gone else ErrorCode.NOT_OURS_TO_REPAIR
        assert refused.value.code is wanted
        assert causes[0] in refused.value.detail
        return False
    result = path.wiring.maintenance.repair(path.agent_id, takeover=takeover, origin=Origin())
    path.drive()
    assert result.operation is not None or not any(finding.severity is Severity.CRITICAL for finding in result.left)
    return result.operation is not None
