"""/healthz and /readyz, for supervisors and load balancers, without a key; /metrics, for Prometheus, with one."""

from dataclasses import asdict

from apiflask import APIBlueprint
from flask import Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from app.db.visibility import seeing
from app.domain.errors import ErrorCode
from app.views.agent_schemas import Live, Ready, ReadyQuery
from app.web.authentication import check_key
from app.web.context import web_services, wiring
from app.web.documented import responds_with

blueprint = APIBlueprint("health", __name__, tag="Health")


@blueprint.get("/healthz")
@blueprint.output(Live, description="The process responds.")
def live() -> object:
    """Say that the process is alive."""
    return {"ok": True}


@blueprint.get("/readyz")
@blueprint.input(ReadyQuery, location="query")
@blueprint.output(Ready, description="Ready: the database responds, and has the schema of this version or a newer one.")
@responds_with(ErrorCode.VALIDATION_FAILED, bodies={503: (Ready, "Something that is required is unavailable.")})
def ready(query_data: dict[str, bool]) -> object:
    """Say whether the process is ready, and whether broker and providers are available."""
    readiness, deep = web_services().readiness, query_data["deep"]
    results = readiness.results(deep=deep)
    is_ready = readiness.is_ready(results, deep=deep)
    return {"ok": is_ready, "checks": [asdict(result) for result in results]}, 200 if is_ready else 503


@blueprint.get("/metrics")
@blueprint.output({}, content_type="text/plain", description="Prometheus' text format.")
@responds_with()
def metrics() -> Response:
    """Return the metrics of all processes for Prometheus; needs an operator's key unless METRICS_PUBLIC is set."""
    # No address is trusted: behind a proxy on this machine every client has 127.0.0.1.
    if not wiring().settings.metrics_public:
        check_key()
    with seeing(None):
        return Response(web_services().metrics(), content_type=CONTENT_TYPE_PLAIN_0_0_4)
