"""What a look at a path and a dry run found, in the words of their schemas."""

import uuid
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from app.bulk.files import report_text
from app.db.models import BulkItem
from app.numbers.dry_run import Preview
from app.numbers.maintenance import VerifyResult, finding_json


def report_download(bulk_id: uuid.UUID, items: Iterable[BulkItem]) -> tuple[str, dict[str, str]]:
    """Return a bulk's report as CSV, with the headers that make a browser save it as a file."""
    headers = {
        "Content-Disposition": f'attachment; filename="provisioning-{bulk_id}.csv"',
        "Content-Type": "text/csv; charset=utf-8; header=present",
    }
    return report_text(items), headers


def verification_body(result: VerifyResult) -> dict[str, Any]:
    """Put a look at a path into the words of `VerifiedOut`: every named check, and the health that was kept."""
    details: dict[str, list[str]] = {}
    for finding in result.findings:
        shown = finding_json(finding)
        details.setdefault(finding.check, []).append(f"{shown['sentence']} {shown['detail']}".strip())
    checks = [
        {"name": name, "ok": ok, "detail": " ".join(details.get(name, ())) or None}
        for name, ok in result.checks.items()
    ]
    health = {
        "state": result.health,
        "checked_at": result.checked_at,
        "findings": [finding_json(finding) for finding in result.findings],
    }
    success = all(result.checks.values())
    return {"success": success, "checks": checks, "health": health}


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
