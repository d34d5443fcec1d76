"""Assembles the web application: hooks in their order, error handlers, blueprints, API reference."""

from apiflask import APIFlask

from app.access import KeyService
from app.api import (
    accounts,
    agents,
    declarations,
    documentation,
    keys,
    numbers,
    operations,
    overview,
    provisionings,
    test_calls,
    trunks,
    webhooks,
    workspaces,
)
from app.api.documentation import configure_openapi
from app.domain.operations import STEP_BY_NAME
from app.domain.version import VERSION
from app.idempotency import IdempotencyStore
from app.observability import logs
from app.observability.metrics import BrokerCollector, BuildCollector, RoomCollector, RowCollector, make_metrics
from app.views.bulks import BulkReader
from app.views.overview import OverviewReader
from app.views.reader import Reader
from app.views.trunks import TrunkReader
from app.web import health
from app.web.authentication import register_authentication, register_rate_limit
from app.web.bodies import MAX_BODY_BYTES, buffer_bodies
from app.web.context import WEB_SERVICES, WIRING, WebServices
from app.web.cross_origin import register_cross_origin
from app.web.limits import make_rate_limit, register_provider_calls
from app.web.problems import problem, refused_problem, register_error_handlers
from app.web.readiness import ReadinessCollector, make_readiness
from app.web.requests import register_paths, register_requests
from app.wiring import Wiring, profile_of

BLUEPRINTS = (
    agents.blueprint,
    agents.phones_blueprint,
    numbers.blueprint,
    provisionings.blueprint,
    declarations.blueprint,
    agents.maintenance_blueprint,
    test_calls.blueprint,
    trunks.blueprint,
    operations.blueprint,
    operations.audits_blueprint,
    overview.blueprint,
    webhooks.blueprint,
    workspaces.blueprint,
    keys.blueprint,
    keys.links_blueprint,
    keys.activity_blueprint,
    accounts.carriers_blueprint,
    accounts.projects_blueprint,
    health.blueprint,
    documentation.blueprint,
)
"""Every part of the API, in the order in which the reference shows them."""


def build_application(wiring: Wiring) -> APIFlask:
    """Build the Flask application on `wiring`, which outlives it."""
    logs.configure(wiring.settings.log_format)
    app = APIFlask(
        "app",
        "Trunkline",
        VERSION,
        spec_path=None,
        docs_path=None,
        json_errors=False,
        static_folder=None,  # type: ignore[arg-type]  # Flask's word for none; APIFlask types it too narrowly
    )
    app.json.sort_keys = False  # type: ignore[attr-defined]  # the default provider has it
    app.url_map.merge_slashes = False
    # A trailing slash is the same path: a redirect would lose the body or method of some clients.
    app.url_map.strict_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES + 1
    app.extensions[WIRING] = wiring
    sessions = wiring.sessions
    broker = BrokerCollector(
        wiring.settings.redis_url, wiring.telemetry.counters, wiring.rate_limiters, tuple(STEP_BY_NAME)
    )
    readiness = make_readiness(wiring)
    app.extensions[WEB_SERVICES] = WebServices(
        keys=KeyService(sessions),
        idempotency=IdempotencyStore(sessions),
        reader=Reader(sessions, wiring.settings.trunk_max_numbers),
        bulk_reader=BulkReader(sessions),
        trunk_reader=TrunkReader(
            sessions, wiring.settings.instance_name, profile_of(wiring.settings), wiring.settings.trunk_max_numbers
        ),
        overview_reader=OverviewReader(sessions, wiring.headroom.of, wiring.rate_limiters),
        readiness=readiness,
        metrics=make_metrics(
            BuildCollector(VERSION),
            RowCollector(sessions),
            broker,
            RoomCollector(wiring.headroom.all),
            ReadinessCollector(readiness),
        ),
        rate_limit=make_rate_limit(wiring.settings),
    )
    app.wsgi_app = buffer_bodies(app.wsgi_app)  # type: ignore[assignment, method-assign]  # Flask's way
    register_requests(app)
    register_cross_origin(app, wiring.settings.page_origins)
    register_provider_calls(app)
    register_authentication(app)
    register_rate_limit(app)
    register_paths(app)
    register_error_handlers(app, refused=refused_problem, failed=problem)
    configure_openapi(app)
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
    return app
