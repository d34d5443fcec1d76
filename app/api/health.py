"""/healthz, /readyz and /metrics: for supervisors, load balancers and Prometheus; no key needed."""

from dataclasses import asdict

from apiflask import APIBlueprint
from flask import Response, request
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from app.api.authentication import check_key
from app.api.context import door, wiring
from app.api.documented import answers_with
from app.api.schemas import Live, Ready
from app.domain.errors import ErrorCode
from app.setting_values import is_loopback

FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP")
"""Headers with which a proxy on this machine says that the request came from elsewhere."""

blueprint = APIBlueprint("health", __name__, tag="Health")


@blueprint.get("/healthz")
@blueprint.output(Live, description="The process answers.")
def live() -> object:
    """Say that the process is alive."""
    return {"ok": True}


@blueprint.get("/readyz")
@blueprint.output(Ready, description="Everything that is needed is there.")
@answers_with(bodies={503: (Ready, "Something that is needed is not there.")})
def ready() -> object:
    """Say whether database, migrations, broker and both providers are there."""
    findings = door().readiness.findings()
    is_ready = all(finding.ok for finding in findings)
    return {"ok": is_ready, "checks": [asdict(finding) for finding in findings]}, 200 if is_ready else 503


@blueprint.get("/metrics")
@blueprint.output({}, content_type="text/plain", description="Prometheus' text format.")
@answers_with(ErrorCode.UNAUTHENTICATED, ErrorCode.SERVICE_UNAVAILABLE)
def metrics() -> Response:
    """Tell Prometheus how all processes do: on this machine, with a key, or for all with METRICS_PUBLIC."""
    if not (wiring().settings.metrics_public or _is_from_here()):
        check_key()
    return Response(door().metrics(), content_type=CONTENT_TYPE_PLAIN_0_0_4)


def _is_from_here() -> bool:
    return is_loopback(request.remote_addr) and not any(name in request.headers for name in FORWARDED)
