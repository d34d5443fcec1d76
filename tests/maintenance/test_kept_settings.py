"""What operators set that is no field of its own, and marks: kept, or put back, by a repair, a move and an audit.

The single fields of each object are in `tests/contract/test_kept_through_repairs.py`, on any server.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest

from app.domain.events import Origin
from app.domain.findings import FindingCode, Severity
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, ORIGINATION_URL, TRUNK, TrunkMode
from app.path.marks import has_mark, pool_tag, tag_of
from app.wiring import Wiring
from tests.support.changed_path import ChangedPath, OwnSandbox, by_hand, new_path, reaches, set_by_hand


def _twilio_trunk(path: ChangedPath) -> dict[str, Any]:
    return path.sandbox.inside.store.trunks.rows[path.ours(TRUNK)]


def _url(path: ChangedPath) -> dict[str, Any]:
    return path.sandbox.inside.store.origination_urls.rows[path.ours(ORIGINATION_URL)]


def _own_keys(path: ChangedPath) -> object:
    marked = json.loads(path.inbound().metadata)
    return {name: value for name, value in marked.items() if name in {"costCentre", "notes"}}


def _with_own_keys(path: ChangedPath) -> None:
    marked = json.loads(path.inbound().metadata) | {"costCentre": "42", "notes": ["a", {"b": None}]}
    path.change_inbound(lambda info: setattr(info, "metadata", json.dumps(marked)))


def _record(path: ChangedPath) -> None:
    path.console.twilio("POST", f"{path.trunk_path}/Recording", Mode="record-from-answer-dual", Trim="trim-silence")


def _through_an_edge(path: ChangedPath) -> None:
    path.change_url(SipUrl=f"{_url(path)['sip_url']};edge=dublin?X-Team=support")


def _addresses(path: ChangedPath) -> None:
    path.change_inbound(lambda info: info.allowed_addresses.append("10.0.0.0/8"))


Setting = tuple[Callable[[ChangedPath], object], Callable[[ChangedPath], object]]
SETTINGS: dict[str, Setting] = {
    "recording": (_record, lambda path: _twilio_trunk(path)["recording"]),
    "domain": (
        lambda path: path.change_trunk(DomainName="acme-desk.pstn.twilio.com"),
        lambda path: _twilio_trunk(path)["domain_name"],
    ),
    "edge and headers": (_through_an_edge, lambda path: _url(path)["sip_url"]),
    "metadata keys": (_with_own_keys, _own_keys),
    "name of the LiveKit trunk": (
        lambda path: path.change_inbound(lambda info: setattr(info, "name", "Main line")),
        lambda path: path.inbound().name,
    ),
    "further number": (
        lambda path: path.change_inbound(lambda info: info.numbers.append("+15145550077")),
        lambda path: list(path.inbound().numbers),
    ),
    "further address": (_addresses, lambda path: list(path.inbound().allowed_addresses)),
    "further trunk": (
        lambda path: path.change_rule(lambda info: info.trunk_ids.append("ST_abcdefghijkm")),
        lambda path: list(path.rule().trunk_ids),
    ),
    "prefix of rooms": (
        lambda path: path.change_rule(lambda info: setattr(info.rule.dispatch_rule_individual, "room_prefix", "desk")),
        lambda path: path.rule().rule.dispatch_rule_individual.room_prefix,
    ),
    "priority of another URL": (
        lambda path: path.add_url("sip:elsewhere.example.com", Priority="20"),
        lambda path: [row for row in path.sandbox.state()["originationUrls"] if "elsewhere" in row["sip_url"]],
    ),
    "everything else": (set_by_hand, lambda path: sorted(map(str, by_hand(path).items()))),
}
"""Name -> what sets it by hand, and what reads it."""


def damage(path: ChangedPath) -> None:
    """Give each of our four objects something that a repair has to write."""
    path.change_trunk(FriendlyName="by hand")
    path.change_url(Enabled="false")
    path.change_inbound(lambda info: info.allowed_numbers.append("+12025550123"))
    path.change_rule(lambda info: setattr(info.rule.dispatch_rule_individual, "pin", "1234"))


def repair(path: ChangedPath) -> None:
    damage(path)
    assert path.wiring.maintenance.repair(path.agent_id, takeover=False, origin=Origin()).operation
    path.drive()


def move(path: ChangedPath) -> None:
    """Move the number to another agent of the same name at LiveKit; `path` is about that one from here on."""
    other = path.wiring.agents.create("night desk", "front-desk", {"tone": "tired"}).id
    path.wiring.maintenance.move(path.agent_id, other, origin=Origin())
    path.drive()
    path.agent_id = other


def audit_and_fix(path: ChangedPath) -> None:
    damage(path)
    assert path.audit(fix=True).findings


DEEDS = {"repair": repair, "move": move, "audit --fix": audit_and_fix}


@pytest.fixture
def path(request: pytest.FixtureRequest, changing: tuple[OwnSandbox, Wiring]) -> ChangedPath:
    """A new path; the parameter, if there is one, is the agent's trunk mode."""
    return new_path(*changing, trunk_mode=getattr(request, "param", TrunkMode.SHARED))


@pytest.mark.sweep
@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("name", SETTINGS)
def test_what_an_operator_set_is_kept(name: str, deed: str, path: ChangedPath) -> None:
    change, read = SETTINGS[name]
    change(path)
    assert path.findings() == []
    before = read(path)
    DEEDS[deed](path)
    assert read(path) == before
    assert path.findings() == []
    assert all(map(reaches, path.calls().values()))


def _empty_trunk(path: ChangedPath) -> None:
    path.change_inbound(lambda info: (info.ClearField("name"), info.ClearField("metadata")))


def _as_of_old(path: ChangedPath) -> None:
    """Write our mark into the rule's metadata, as earlier releases did, and empty its name."""
    path.change_rule(lambda info: (setattr(info, "metadata", path.inbound().metadata), info.ClearField("name")))


EMPTIED: dict[str, Callable[[ChangedPath], object]] = {
    TRUNK: lambda path: path.change_trunk(FriendlyName=""),
    ORIGINATION_URL: lambda path: path.change_url(FriendlyName=""),
    INBOUND_TRUNK: _empty_trunk,
    DISPATCH_RULE: lambda path: path.change_rule(lambda info: info.ClearField("name")),
    "rule of an earlier release": _as_of_old,
}
"""Our object -> what takes our mark off it."""


def marks(path: ChangedPath) -> dict[str, bool]:
    """Tell for each of our objects whether it carries our mark, or the pool's where numbers share it."""
    instance, agent_id = path.wiring.settings.instance_name, str(path.agent_id)
    texts = {INBOUND_TRUNK: path.inbound().metadata, DISPATCH_RULE: path.rule().name}
    tags = {TRUNK: _twilio_trunk(path)["friendly_name"], ORIGINATION_URL: _url(path)["friendly_name"]}
    own_tag = pool_tag(instance, path.agent.trunk_id) if path.agent.trunk_id else tag_of(instance, path.agent_id)
    return {kind: tag == own_tag for kind, tag in tags.items()} | {
        kind: has_mark(instance, agent_id, text) for kind, text in texts.items()
    }


@pytest.mark.sweep
@pytest.mark.parametrize("path", TrunkMode, indirect=True)
@pytest.mark.parametrize("deed", ["repair", "move", "audit --fix"])
@pytest.mark.parametrize("which", EMPTIED)
def test_a_mark_that_was_emptied_is_put_back(which: str, deed: str, path: ChangedPath) -> None:
    EMPTIED[which](path)
    (finding,) = path.findings()
    assert (finding.code, finding.severity) == (FindingCode.MARK_LOST, Severity.WARNING)
    DEEDS[deed](path)
    assert (marks(path), path.findings()) == (dict.fromkeys(marks(path), True), [])
    assert path.rule().metadata == ""
    assert path.audit().findings == []


@pytest.mark.parametrize("path", TrunkMode, indirect=True)
def test_all_marks_at_once_are_put_back_and_nothing_is_made_twice(path: ChangedPath) -> None:
    before = set(path.sandbox.objects())
    for empty in EMPTIED.values():
        empty(path)
    path.audit(fix=True)
    assert (marks(path), path.findings()) == (dict.fromkeys(marks(path), True), [])
    assert set(path.sandbox.objects()) == before
