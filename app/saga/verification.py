"""Reads the whole path at both providers and asks whether calls get through."""

from collections.abc import Callable

from app.domain.errors import ErrorCode
from app.domain.findings import Finding, FindingCode, Severity
from app.domain.operations import TRUNK
from app.path.compare import compare, is_broken
from app.path.observed import CarrierTrunk
from app.providers.errors import RejectedError
from app.saga.context import StepContext
from app.saga.observing import read_built_path


def verify(ctx: StepContext, delete: Callable[[str, str], None]) -> list[Finding]:
    """Read the path until calls get through; return what differs all the same.

    `delete` takes kind (step name) and id of a duplicate of ours that stops calls. `RejectedError(path_not_verified)`
    names why calls fail, when they still do after some reads.
    """
    findings: list[Finding] = []

    def is_whole() -> bool:
        findings[:] = read_findings(ctx)
        duplicates = [one.resource for one in findings if one.code is FindingCode.TWIN and one.resource]
        for kind, external_id in duplicates:
            ctx.check_time()
            delete(kind, external_id)
        return not is_broken(findings)

    if not ctx.wait_until(is_whole):
        details = [
            f"{finding.kind.sentence} {finding.detail}".strip()
            for finding in findings
            if finding.severity is Severity.CRITICAL
        ]
        raise RejectedError(ErrorCode.PATH_NOT_VERIFIED, " ".join(details))
    return findings


def read_findings(ctx: StepContext) -> list[Finding]:
    """Read every resource of the path once, side by side, and compare it with what it should be."""
    spec = ctx.spec
    made = None
    if not ctx.keeps_path:
        # A provisioning has made its trunk a moment ago: nobody has changed it since, and a read less is a wait less.
        made = CarrierTrunk(ctx.ids[TRUNK], spec.trunk.tag, spec.trunk.is_secure, None, spec.trunk.transfer_mode or "")
    return compare(spec, read_built_path(ctx.tools.carrier, ctx.tools.platform, spec, made, ctx.check_time))
