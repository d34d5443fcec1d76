"""LiveKit's SIP dispatch rules, with the conflict check of livekit/protocol, gaps included."""

from collections.abc import Iterable

from livekit.protocol import sip

from app.dev.sandbox.livekit_wire import (
    WILDCARD,
    RuleKey,
    check_list_update,
    check_media,
    invalid,
    new_id,
    paged,
    patch_media,
    rule_keys,
    unknown,
    updated,
    upgrade,
)
from app.dev.sandbox.state import Sandbox

DispatchRule = sip.SIPDispatchRuleInfo

UNKNOWN = "requested sip dispatch rule does not exist"
UNSUPPORTED = "twirp error unknown: unsupported SIP Dispatch Rule: <nil>"


def create_dispatch_rule(sandbox: Sandbox, request: sip.CreateSIPDispatchRuleRequest) -> DispatchRule:
    """Create a rule. With `dispatch_rule` set, the fields beside it are ignored, and all rules are checked."""
    rule = _requested(request)
    if rule.sip_dispatch_rule_id:
        raise invalid("rule id must not be set")
    _check(rule)
    if request.HasField("dispatch_rule"):
        _check_against_all(sandbox, rule)
    else:
        _check_among(rule, _rules_of(sandbox, list(request.trunk_ids)))
    rule.sip_dispatch_rule_id = new_id("SDR_")
    sandbox.store.put("livekit_rules", rule.sip_dispatch_rule_id, rule)
    return rule


def list_dispatch_rules(sandbox: Sandbox, request: sip.ListSIPDispatchRuleRequest) -> sip.ListSIPDispatchRuleResponse:
    """List rules by id; a filter by trunk returns wildcard rules too."""
    rows = sandbox.store.livekit_rules.rows
    ids, trunk_ids = set(request.dispatch_rule_ids), set(request.trunk_ids)

    def keep(rule: DispatchRule) -> bool:
        if ids and rule.sip_dispatch_rule_id not in ids:
            return False
        return not trunk_ids or not rule.trunk_ids or not trunk_ids.isdisjoint(rule.trunk_ids)

    page = request.page if request.HasField("page") else None
    if page is not None or not (ids or trunk_ids):
        candidates = [rows[row_id] for row_id in sorted(rows)]
    elif ids:
        candidates = [rows[row_id] for row_id in sorted(ids & rows.keys())]
    else:
        candidates = _rules_of(sandbox, list(trunk_ids))
    items = paged(candidates, page, lambda rule: rule.sip_dispatch_rule_id, keep)
    return sip.ListSIPDispatchRuleResponse(items=items)


def update_dispatch_rule(sandbox: Sandbox, request: sip.UpdateSIPDispatchRuleRequest) -> DispatchRule:
    """Replace a rule or patch it; like trunks, a rule that moves to another trunk is not checked there."""
    rule_id = request.sip_dispatch_rule_id
    if not rule_id:
        raise invalid("rule id must be set")
    action = request.WhichOneof("action")
    if action is None:
        raise invalid("missing or unsupported update action")
    if action == "replace" and request.replace.sip_dispatch_rule_id not in ("", rule_id):
        raise invalid("rule id in the info must be empty or match the id in the update")
    if action == "replace":
        _check(request.replace)
    else:
        check_list_update(request.update.trunk_ids, is_set=request.update.HasField("trunk_ids"))
        check_media(request.update.media)
    current, changed = _rule(sandbox, rule_id), DispatchRule()
    changed.CopyFrom(request.replace if action == "replace" else current)
    if action == "update":
        _patch(changed, request.update)
        _check(changed)
    changed.sip_dispatch_rule_id = rule_id
    kept = _rules_of(sandbox, list(changed.trunk_ids))
    check_conflicts(changed if rule.sip_dispatch_rule_id == rule_id else rule for rule in kept)
    sandbox.store.put("livekit_rules", rule_id, changed)
    return changed


def delete_dispatch_rule(sandbox: Sandbox, request: sip.DeleteSIPDispatchRuleRequest) -> DispatchRule:
    """Delete a rule; an unknown one is 404."""
    if not request.sip_dispatch_rule_id:
        raise invalid("dispatch rule ID is required")
    rule = _rule(sandbox, request.sip_dispatch_rule_id)
    sandbox.store.delete("livekit_rules", rule.sip_dispatch_rule_id)
    return rule


def check_conflicts(rules: Iterable[DispatchRule]) -> None:
    """Check the rules in LiveKit's order; the error names the earlier one (livekit/protocol sip/sip.go:185-237).

    A rule that names a trunk, number or caller twice conflicts with itself.
    """
    owners: dict[RuleKey, DispatchRule] = {}
    for rule in rules:
        for key in rule_keys(rule):
            if owner := owners.get(key):
                who = f'"{owner.sip_dispatch_rule_id or "<new>"}" "{owner.name or "<blank name>"}"'
                raise invalid(
                    "Dispatch rule for the same trunk, inbound number, number, and PIN combination "
                    f"already exists in dispatch rule {who}"
                )
            owners[key] = rule


def _requested(request: sip.CreateSIPDispatchRuleRequest) -> DispatchRule:
    rule = DispatchRule()
    if request.HasField("dispatch_rule"):
        rule.CopyFrom(request.dispatch_rule)
        upgrade(rule)
        return rule
    rule = DispatchRule(
        trunk_ids=request.trunk_ids,
        hide_phone_number=request.hide_phone_number,
        inbound_numbers=request.inbound_numbers,
        name=request.name,
        metadata=request.metadata,
        attributes=dict(request.attributes),
        room_preset=request.room_preset,
    )
    if request.HasField("rule"):
        rule.rule.CopyFrom(request.rule)
    if request.HasField("room_config"):
        rule.room_config.CopyFrom(request.room_config)
    return rule


def _rule(sandbox: Sandbox, rule_id: str) -> DispatchRule:
    rule: DispatchRule | None = sandbox.store.livekit_rules.get(rule_id)
    if rule is None:
        raise unknown(UNKNOWN)
    return rule


def _rules_of(sandbox: Sandbox, trunk_ids: list[str]) -> list[DispatchRule]:
    """Return the rules that name one of the trunks, and the wildcards, by id; all rules when no trunk is given."""
    store = sandbox.store
    ids: Iterable[str] = store.livekit_rules.rows
    if trunk_ids:
        ids = {row_id for trunk_id in (*trunk_ids, WILDCARD) for row_id in store.rules_by_trunk.ids(trunk_id)}
    return [store.livekit_rules.rows[row_id] for row_id in sorted(ids)]


def _check_against_all(sandbox: Sandbox, rule: DispatchRule) -> None:
    """Check a new rule against every rule; the index avoids the full check while there is no conflict."""
    index, keys = sandbox.store.rules_by_key, list(rule_keys(rule))
    if index.shared or len(set(keys)) < len(keys) or any(index.ids(key) for key in keys):
        _check_among(rule, _rules_of(sandbox, []))


def _check_among(rule: DispatchRule, existing: list[DispatchRule]) -> None:
    """Check a new rule in LiveKit's order: the first existing one, the new one, the others."""
    check_conflicts([*existing[:1], rule, *existing[1:]])


def _check(rule: DispatchRule) -> None:
    if not rule.HasField("rule"):
        raise invalid("missing rule")
    check_media(rule.media)
    if rule.rule.WhichOneof("rule") is None:
        raise invalid(UNSUPPORTED)


def _patch(rule: DispatchRule, change: sip.SIPDispatchRuleUpdate) -> None:
    if change.HasField("trunk_ids"):
        wanted = updated(rule.trunk_ids, change.trunk_ids)
        rule.ClearField("trunk_ids")
        rule.trunk_ids.extend(wanted)
    for name in ("name", "metadata"):
        if change.HasField(name):
            setattr(rule, name, getattr(change, name))
    if change.HasField("rule"):
        rule.rule.CopyFrom(change.rule)
    patch_media(rule, change)
    for key, value in change.attributes.items():
        if value:
            rule.attributes[key] = value
        else:
            rule.attributes.pop(key, None)
