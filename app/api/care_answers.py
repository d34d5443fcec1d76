"""Answers about the care of a path: verification, repair, move, plan, audit."""

import uuid
from dataclasses import asdict
from typing import Any

from flask import Response

from app.api.answers import POLL_AFTER_S, accepted, failure_answer, packed, wait_for, wait_on
from app.api.care_schemas import AuditAccepted, AuditOut, MovedOut, PlanOut, RepairedOut, VerifiedOut
from app.api.context import door
from app.db.models import Operation
from app.domain.statuses import OperationStatus, PhoneStatus
from app.provisioning.care import Checkup, as_json
from app.provisioning.planning import Preview

_VERIFIED, _REPAIRED, _MOVED, _PLAN = VerifiedOut(), RepairedOut(), MovedOut(), PlanOut()
_AUDIT_ACCEPTED, _AUDIT = AuditAccepted(), AuditOut()


def verification_answer(checkup: Checkup) -> Response:
    """Answer a request to verify."""
    return packed(_VERIFIED, verification_body(checkup), 200, {})


def verification_body(checkup: Checkup) -> dict[str, Any]:
    """Put a look at a path into the words of `VerifiedOut`: every named check, and the health that was kept."""
    details: dict[str, list[str]] = {}
    for finding in checkup.findings:
        shown = as_json(finding)
        details.setdefault(finding.check, []).append(f"{shown['sentence']} {shown['detail']}".strip())
    checks = [
        {"name": name, "ok": ok, "detail": " ".join(details.get(name, ())) or None}
        for name, ok in checkup.checks.items()
    ]
    health = {
        "state": checkup.health,
        "checked_at": checkup.checked_at,
        "findings": [as_json(finding) for finding in checkup.findings],
    }
    success = all(checkup.checks.values())
    return {"success": success, "checks": checks, "health": health}


def repair_answer(operation: Operation | None) -> Response:
    """Answer a request to repair: 200 where all is well, else 202, or how it ended if the client waited."""
    if operation is None:
        return packed(_REPAIRED, {"success": True, "message": "All is well: nothing to repair."}, 200, {})
    ended, headers = wait_for(operation)
    if ended is None:
        return accepted(operation, PhoneStatus.PROVISIONED, headers)
    if ended.status is not OperationStatus.SUCCEEDED:
        return failure_answer(ended, headers)
    return packed(_REPAIRED, {"success": True, "message": "The path was repaired."}, 200, headers)


def move_answer(operation: Operation) -> Response:
    """Answer a request to move a number: 202, or how it ended if the client waited."""
    ended, headers = wait_for(operation)
    if ended is None:
        return accepted(operation, PhoneStatus.PROVISIONED, headers)
    if ended.status is not OperationStatus.SUCCEEDED:
        return failure_answer(ended, headers)
    moved = {name: getattr(ended, name) for name in _MOVED.fields if name != "success"}
    return packed(_MOVED, {"success": True, **moved}, 200, headers)


def plan_answer(preview: Preview) -> Response:
    """Answer a dry run."""
    return packed(_PLAN, plan_body(preview), 200, {})


def plan_body(preview: Preview) -> dict[str, Any]:
    """Put a plan into the words of `PlanOut`."""
    used, limit = preview.trunks_used, preview.trunks_limit
    return {
        "success": True,
        "is_dry_run": True,
        "would_succeed": preview.would_succeed,
        "calls": [asdict(call) for call in preview.calls],
        "obstacles": [asdict(obstacle) for obstacle in preview.obstacles],
        "trunks": {"used": used, "limit": limit, "free": max(limit - used, 0)},
    }


def audit_answer(audit_id: uuid.UUID) -> Response:
    """Answer a request to audit: 202, or the report if the client waited long enough."""
    found, headers = wait_on(lambda patience: door().reader.wait_for_audit(audit_id, patience))
    if found is not None and found.finished_at is not None:
        return packed(_AUDIT, {name: getattr(found, name) for name in _AUDIT.fields}, 200, headers)
    url = f"/api/audit/{audit_id}"
    headers |= {"Location": url, "Retry-After": str(POLL_AFTER_S)}
    return packed(_AUDIT_ACCEPTED, {"success": True, "audit_id": audit_id, "status_url": url}, 202, headers)
