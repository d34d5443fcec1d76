"""Puts the console into the application: cookie, form protection, pages, and every failure as a page."""

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
from app.console import agent_pages, audit_pages, bulk_pages, operation_pages, webhook_pages
from app.console.agent_pages import register_agents, register_numbers
from app.console.audit_pages import register_audits
from app.console.bulk_pages import register_bulks
from app.console.operation_pages import register_operations
from app.console.pages import DESK, Desk, page, register_words, visitor
from app.console.reads import ConsoleReader
from app.console.sign_in import configure_cookies, register_guard, register_sign_in
from app.console.webhook_pages import register_webhooks
from app.domain.errors import ErrorCode, RefusedError
from app.domain.findings import ADVICE
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

_NO_FORM_TO_RETURN_TO = frozenset({401, 403, 404})
"""Statuses of a refused form after which its page would not be shown either."""


_SHEETS: Mapping[str, Callable[..., Response]] = {
    "agent_id": agent_pages.agent_page,
    "operation_id": operation_pages.operation_page,
    "bulk_id": bulk_pages.bulk_page,
    "webhook_id": webhook_pages.webhook_page,
}
"""Id in the path -> the page that its forms are on."""

_LISTS: Mapping[str | None, Callable[..., Response]] = {
    "console.start_audit": audit_pages.audit_page,
    "console.create_bulk": bulk_pages.bulks_page,
    "console.check_bulk": bulk_pages.bulks_page,
    "console.create_webhook": webhook_pages.webhooks_page,
}
"""Endpoint of a form without an id -> the page that it is on."""


def register_errors(app: APIFlask, blueprint: Blueprint) -> None:
    """Show every failure of the console's requests, and unknown paths, as pages."""
    register_error_handlers(blueprint, refused=_refused, failed=error_page)
    blueprint.register_error_handler(CSRFError, _expired_form)
    app.register_error_handler(NotFound, _no_such_page)


def error_page(code: ErrorCode, detail: str, *, headers: Mapping[str, str] | None = None) -> Response:
    """Render an error as a page of its own, with the Retry-After of its code."""
    kind = KINDS[code]
    response = page("error.html", kind.status, code=code, title=kind.title, detail=detail, advice=ADVICE[code])
    response.headers.update(retry_after(kind.retry_after_s) | dict(headers or {}))
    return response


def _refused(error: RefusedError) -> ResponseReturnValue:
    response = _page_of(error)
    response.headers.update(headers_of(error))
    return response


def _page_of(error: RefusedError) -> Response:
    """Choose the page that a refusal is shown on."""
    if request.endpoint == "console.enter":
        return page("sign_in.html", status_of(error), wanted=_wanted(), refusal=error)
    # Some checks come before the guard: what is refused there is refused to a stranger, who must see no page.
    if request.method == "POST" and visitor() is not None and status_of(error) not in _NO_FORM_TO_RETURN_TO:
        try:
            return _form_again(error)
        except RefusedError as gone:
            # The page that the form was on cannot be shown: there is no such agent, say.
            return error_page(gone.code, gone.detail)
        except LOST_DATABASE as away:
            return error_page(*explain(away))
    return error_page(error.code, error.detail)


def _wanted() -> str:
    """Return the page that a person who signs in wants; of a form that is too large to be read, the first one."""
    try:
        return request.form.get("next", "/")
    except RequestEntityTooLarge:
        return "/"


def _form_again(error: RefusedError) -> Response:
    """Show the page that the form was on, with what is wrong with it and what was typed."""
    ids = request.view_args or {}
    if request.endpoint in {"console.provision", "console.plan"}:
        return agent_pages.provision_page(ids["agent_id"], refusal=error)
    for name, sheet in _SHEETS.items():
        if name in ids:
            return sheet(ids[name], refusal=error)
    return _LISTS.get(request.endpoint, agent_pages.numbers_page)(refusal=error)


def _expired_form(_error: CSRFError) -> ResponseReturnValue:
    """Answer a form whose cookie is gone or was another's: most often a page left open for a day."""
    return error_page(
        ErrorCode.MALFORMED_REQUEST, "The page was open too long, or cookies are disabled. Nothing was changed."
    )


def _no_such_page(error: NotFound) -> ResponseReturnValue:
    """Answer an address that nothing serves: in HTML for a browser, as a problem for everybody else."""
    wants_page = request.accept_mimetypes.best_match(["application/problem+json", "text/html"]) == "text/html"
    if request.path.startswith("/api/") or not wants_page:
        return problem(ErrorCode.NOT_FOUND, f"{error.name}.")
    return error_page(ErrorCode.NOT_FOUND, "This page does not exist.")


SIGN_INS = "20/minute"
"""Wrong keys from one address, and with one beginning: a person mistypes a few times."""


def register_console(app: APIFlask) -> None:
    """Add the console to an application that has its wiring and its web services."""
    settings = app.extensions[WIRING].settings
    configure_cookies(app, settings)
    # The API's bearer keys are sent by no browser on its own: only our forms need the token, and the guard asks for it.
    # It lives as long as the cookie. Behind a proxy the Referer that flask-wtf would compare names another host.
    app.config |= {"WTF_CSRF_CHECK_DEFAULT": False, "WTF_CSRF_TIME_LIMIT": None, "WTF_CSRF_SSL_STRICT": False}
    app.extensions[DESK] = Desk(
        reader=ConsoleReader(app.extensions[WIRING].sessions, app.extensions[WEB_SERVICES].reader),
        csrf=CSRFProtect(app),
        sessions=ConsoleSessions(app.extensions[WIRING].sessions),
        sign_in_limit=RateLimit(parse(SIGN_INS), settings.redis_url),
    )
    # A misspelt name in a template is a defect that must show, not an empty place.
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
    register_numbers(blueprint)
    register_agents(blueprint)
    register_operations(blueprint)
    register_bulks(blueprint)
    register_audits(blueprint)
    register_webhooks(blueprint)
    register_words(blueprint)
    register_errors(app, blueprint)
    app.register_blueprint(blueprint)
