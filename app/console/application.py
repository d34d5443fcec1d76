"""Adds the console to the application: session cookie, CSRF protection, pages and error pages."""

from collections.abc import Callable, Mapping

from apiflask import APIBlueprint, APIFlask
from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue
from flask_wtf import CSRFProtect
from flask_wtf.csrf import CSRFError
from jinja2 import StrictUndefined
from limits import parse
from werkzeug.exceptions import NotFound, RequestEntityTooLarge

from app.access import ConsoleSessions
from app.console import (
    account_pages,
    agent_pages,
    bulk_pages,
    key_pages,
    operation_pages,
    webhook_pages,
    workspace_pages,
)
from app.console.account_pages import register_accounts
from app.console.adoption_pages import register_adoption
from app.console.agent_pages import register_agents, register_numbers
from app.console.bulk_pages import register_bulks
from app.console.key_pages import register_keys
from app.console.operation_pages import register_audits, register_operations
from app.console.overview_pages import register_overview
from app.console.pages import CONSOLE_SERVICES, ConsoleServices, page, register_filters, signed_in_caller
from app.console.reader import ConsoleReader
from app.console.sign_in import configure_cookies, register_guard, register_sign_in
from app.console.trunk_pages import register_trunks
from app.console.webhook_pages import register_webhooks
from app.console.workspace_pages import register_workspaces
from app.domain.errors import ADVICE, ErrorCode, RefusedError
from app.web.context import WEB_SERVICES, WIRING
from app.web.limits import RateLimit
from app.web.problems import (
    KINDS,
    LOST_DATABASE,
    explain,
    headers_of,
    problem,
    register_error_handlers,
    retry_after,
    status_of,
)

_STATUSES_WITHOUT_FORM = frozenset({401, 403, 404})
"""Statuses for which the form's page cannot be shown again with the error."""


_DETAIL_PAGES: Mapping[str, Callable[..., Response]] = {
    "agent_id": agent_pages.agent_page,
    "operation_id": operation_pages.operation_page,
    "bulk_id": bulk_pages.bulk_page,
    "webhook_id": webhook_pages.webhook_page,
    "workspace_id": workspace_pages.workspace_page,
    "account_id": account_pages.carrier_page,
    "project_id": account_pages.project_page,
}
"""Id in the path -> the page that has its forms."""

_LIST_PAGES: Mapping[str | None, Callable[..., Response]] = {
    "console.start_audit": operation_pages.audit_page,
    "console.create_bulk": bulk_pages.bulks_page,
    "console.check_bulk": bulk_pages.bulks_page,
    "console.create_webhook": webhook_pages.webhooks_page,
    "console.create_carrier_account": account_pages.accounts_page,
    "console.create_voice_project": account_pages.accounts_page,
    "console.create_workspace": workspace_pages.workspaces_page,
    "console.create_key": key_pages.keys_page,
    "console.revoke_key": key_pages.keys_page,
}
"""Endpoint of a form without an id -> the page that has it."""


def register_errors(app: APIFlask, blueprint: Blueprint) -> None:
    """Show errors of console requests, and unknown paths, as pages."""
    register_error_handlers(blueprint, refused=_refused, failed=error_page)
    blueprint.register_error_handler(CSRFError, _expired_form)
    app.register_error_handler(NotFound, _no_such_page)


def error_page(code: ErrorCode, detail: str, *, headers: Mapping[str, str] | None = None) -> Response:
    """Render an error page, with the Retry-After of its code."""
    kind = KINDS[code]
    response = page("error.html", kind.status, code=code, title=kind.title, detail=detail, advice=ADVICE[code])
    response.headers.update(retry_after(kind.retry_after_s) | dict(headers or {}))
    return response


def _refused(error: RefusedError) -> ResponseReturnValue:
    response = _refusal_page(error)
    response.headers.update(headers_of(error))
    return response


def _refusal_page(error: RefusedError) -> Response:
    """Return the page that shows a refusal: the form's own page where possible, else an error page."""
    if request.endpoint == "console.submit_sign_in":
        return page("sign_in.html", status_of(error), wanted=_wanted_path(), refusal=error)
    # Some checks run before authentication: a caller who is not signed in must not see the page.
    if request.method == "POST" and signed_in_caller() is not None and status_of(error) not in _STATUSES_WITHOUT_FORM:
        try:
            return _redisplay_form(error)
        except RefusedError as gone:
            # The page with the form cannot be shown, for example because the agent was deleted.
            return error_page(gone.code, gone.detail)
        except LOST_DATABASE as away:
            return error_page(*explain(away))
    return error_page(error.code, error.detail)


def _wanted_path() -> str:
    """Return the path to open after signing in; `/` if the form is too large to read."""
    try:
        return request.form.get("next", "/")
    except RequestEntityTooLarge:
        return "/"


def _redisplay_form(error: RefusedError) -> Response:
    """Render the page with the form again, with the error and the submitted values."""
    ids = request.view_args or {}
    if request.endpoint in {"console.provision", "console.plan", "console.adopt_plan", "console.adopt"}:
        return agent_pages.provision_page(ids["agent_id"], refusal=error)
    if request.endpoint == "console.change_agent":
        return agent_pages.edit_page(ids["agent_id"], error)
    if request.endpoint == "console.change_webhook":
        return webhook_pages.edit_page(ids["webhook_id"], error)
    for name, details in _DETAIL_PAGES.items():
        if name in ids:
            return details(ids[name], refusal=error)
    return _LIST_PAGES.get(request.endpoint, agent_pages.numbers_page)(refusal=error)


def _expired_form(_error: CSRFError) -> ResponseReturnValue:
    """Handle a form without a valid CSRF token: most often a page that was left open for a day."""
    return error_page(
        ErrorCode.MALFORMED_REQUEST, "The page was open too long, or cookies are disabled. Nothing was changed."
    )


def _no_such_page(error: NotFound) -> ResponseReturnValue:
    """Handle an unknown path: an HTML page for browsers, a problem document otherwise."""
    wants_page = request.accept_mimetypes.best_match(["application/problem+json", "text/html"]) == "text/html"
    if request.path.startswith("/api/") or not wants_page:
        return problem(ErrorCode.NOT_FOUND, f"{error.name}.")
    return error_page(ErrorCode.NOT_FOUND, "This page does not exist.")


SIGN_IN_RATE = "20/minute"
"""Wrong keys per address, and per first characters of the key: enough for a person who mistypes."""


def register_console(app: APIFlask) -> None:
    """Register the console on an application that has its wiring and web services."""
    settings = app.extensions[WIRING].settings
    configure_cookies(app, settings)
    # No browser sends the API's bearer keys by itself, so only our forms need a CSRF token; `register_guard` checks it.
    # It is valid as long as the cookie. The Referer check is off: behind a proxy the Referer names another host.
    app.config |= {"WTF_CSRF_CHECK_DEFAULT": False, "WTF_CSRF_TIME_LIMIT": None, "WTF_CSRF_SSL_STRICT": False}
    app.extensions[CONSOLE_SERVICES] = ConsoleServices(
        reader=ConsoleReader(app.extensions[WIRING].sessions, app.extensions[WEB_SERVICES].reader),
        csrf=CSRFProtect(app),
        sessions=ConsoleSessions(app.extensions[WIRING].sessions),
        sign_in_limit=RateLimit(parse(SIGN_IN_RATE), settings.redis_url),
    )
    # A misspelt name in a template must raise an error, not render as empty.
    app.jinja_env.undefined = StrictUndefined
    blueprint = APIBlueprint(
        "console",
        __name__,
        template_folder="templates",
        static_folder="static",
        static_url_path="/console/static",
        enable_openapi=False,
    )
    register_guard(blueprint)
    register_sign_in(blueprint)
    register_overview(blueprint)
    register_numbers(blueprint)
    register_agents(blueprint)
    register_adoption(blueprint)
    register_operations(blueprint)
    register_bulks(blueprint)
    register_trunks(blueprint)
    register_audits(blueprint)
    register_webhooks(blueprint)
    register_accounts(blueprint)
    register_workspaces(blueprint)
    register_keys(blueprint)
    register_filters(blueprint)
    register_errors(app, blueprint)
    app.register_blueprint(blueprint)
