"""The overview: figures of the workspace or the installation; what each error code means; the system itself."""

from collections.abc import Sequence
from typing import Any

from flask import Blueprint, url_for
from flask.typing import ResponseReturnValue

from app.console.charts import Share, hours_chart, lay_out
from app.console.forms import FILTERED_STATUSES, STATUS_FILTER_LABELS, HealthFilter
from app.console.pages import live_fragment, page
from app.console.presentation import SEVERITY_TONES, STATUS_FILTER_TONES, Tone, humanize
from app.console.reader import Tab
from app.domain.errors import ADVICE, ErrorCode
from app.domain.findings import Severity
from app.domain.operations import OperationStatus
from app.views.overview import AgentFigures, AuditFigures, Overview, PathState
from app.views.system import SystemReader
from app.web.context import caller, web_services, wiring
from app.web.problems import KINDS

_PATHS = (
    (PathState.IN_SYNC, "In sync", Tone.GOOD, HealthFilter.IN_SYNC),
    (PathState.WARNINGS, "Warnings, calls get through", Tone.WARN, HealthFilter.DRIFTED),
    (PathState.CALLS_FAIL, "Calls fail", Tone.BAD, HealthFilter.CALLS_FAIL),
    (PathState.UNKNOWN, "Not checked", Tone.QUIET, HealthFilter.UNKNOWN),
)

_SEVERITIES = {
    Severity.CRITICAL: "Calls fail",
    Severity.WARNING: "Warnings",
    Severity.FOREIGN: "Somebody else's",
}


_CHECKS = {
    "database": "PostgreSQL",
    "migrations": "Schema",
    "broker": "Redis",
    "twilio": "Twilio",
    "livekit": "LiveKit",
}


def register_overview(blueprint: Blueprint) -> None:
    """Register the overview, and the pages of error codes and of the system."""
    blueprint.get("/overview", endpoint="overview")(overview)
    blueprint.get("/overview/live", endpoint="overview_live")(overview_live)
    blueprint.get("/codes", endpoint="codes")(codes)
    blueprint.get("/system", endpoint="system")(system)


def overview() -> ResponseReturnValue:
    """Show the figures."""
    return page("overview.html", **_page_data(_read()))


def overview_live() -> ResponseReturnValue:
    """Return the live part of the page, which the script polls."""
    found = _read()
    return live_fragment("overview_live.html", found.version, lambda: _page_data(found))


def codes() -> ResponseReturnValue:
    """Show what each error code means, and what to do."""
    rows = [(code.value, KINDS[code], ADVICE[code]) for code in ErrorCode]
    return page("codes.html", rows=rows)


def system() -> ResponseReturnValue:
    """Show the installation."""
    readiness = web_services().readiness
    results = readiness.results()
    return page(
        "system.html",
        facts=SystemReader(wiring().sessions, wiring().settings).read(),
        checks=[(_CHECKS.get(one.name, one.name), one) for one in results],
        is_ready=readiness.is_ready(results),
    )


def _read() -> Overview:
    return web_services().overview_reader.read(is_operator=caller().is_operator)


def _page_data(found: Overview) -> dict[str, Any]:
    return {
        "overview": found,
        "live_url": url_for("console.overview_live"),
        "statuses": _status_shares(found.agents),
        "paths": _path_shares(found.agents),
        "unreachable": found.agents.unreachable,
        "attention": found.open.by_status[OperationStatus.NEEDS_ATTENTION],
        "chart": hours_chart(found.hours),
        "failures": [(one, _title(one.code)) for one in found.failures],
        "failed_tab": Tab.FAILED,
        "findings": _finding_counts(found.audit),
    }


def _status_shares(agents: AgentFigures) -> Sequence[Share]:
    return lay_out(
        [
            Share(
                STATUS_FILTER_LABELS[one],
                sum(agents.by_status[status] for status in statuses),
                STATUS_FILTER_TONES[one],
                "console.numbers",
                {"status": one.value},
            )
            for one, statuses in FILTERED_STATUSES.items()
        ]
    )


def _path_shares(agents: AgentFigures) -> Sequence[Share]:
    return lay_out(
        [
            Share(label, agents.by_path[state], tone, "console.numbers", {"health": listed.value})
            for state, label, tone, listed in _PATHS
        ]
    )


def _finding_counts(audit: AuditFigures | None) -> Sequence[tuple[str, int, Tone]]:
    counts = audit.by_severity if audit else {}
    return [(label, counts.get(one, 0), SEVERITY_TONES[one]) for one, label in _SEVERITIES.items()]


def _title(code: str) -> str:
    """Return what a code means; in an upgrade, workers may store one that this release does not know."""
    return KINDS[ErrorCode(code)].title if code in ADVICE else humanize(code)
