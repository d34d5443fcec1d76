"""A browser for API tests: it keeps cookies, and sends forms with the page's CSRF token."""

import itertools
import re
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.access import Scope
from tests.support.api import Api

_hosts = itertools.count()
_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')


class BrowserClient:
    """One browser, with an address and cookies of its own."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.client: FlaskClient = api.app.test_client()
        host = next(_hosts)
        # An address of its own, since sign-ins are rate-limited by address.
        self.client.environ_base["REMOTE_ADDR"] = f"10.0.{host // 250}.{host % 250 + 1}"

    def get(self, path: str, **more: Any) -> TestResponse:
        """Request a page with a browser's Accept header."""
        headers = {"Accept": "text/html,*/*;q=0.8"} | more.pop("headers", {})
        return self.client.get(path, headers=headers, **more)

    def token(self, page: str = "/sign-in") -> str:
        """Return the CSRF token of a form on this page."""
        found = _TOKEN.search(self.get(page).text)
        assert found, f"{page} has no form"
        return found[1]

    def post(self, path: str, page: str = "/audit", /, **fields: Any) -> TestResponse:
        """Submit a form of `page`."""
        data = {"csrf_token": self.token(page), **fields}
        return self.client.post(path, data=data, headers={"Accept": "text/html,*/*;q=0.8"})

    def sign_in(self, key: str | None = None, **fields: str) -> TestResponse:
        """Sign in with the tests' key, or with another."""
        return self.post("/sign-in", "/sign-in", key=key or self.api.key, **fields)


def signed_in(api: Api, *scopes: Scope) -> BrowserClient:
    """Return a browser that is signed in with a new key with these scopes."""
    browser = BrowserClient(api)
    name = f"{'-'.join(scopes)}-person"
    assert browser.sign_in(api.new_key(*scopes, name=name)).status_code == 303
    return browser
