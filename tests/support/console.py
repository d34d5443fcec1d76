"""A browser's manners for API tests: a cookie jar, and forms sent with the token that the page gave."""

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
    """One browser."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.client: FlaskClient = api.app.test_client()
        host = next(_hosts)
        # From an address of its own: tries to sign in are counted by address.
        self.client.environ_base["REMOTE_ADDR"] = f"10.0.{host // 250}.{host % 250 + 1}"

    def get(self, path: str, **more: Any) -> TestResponse:
        """Open a page, as a browser asks for it."""
        headers = {"Accept": "text/html,*/*;q=0.8"} | more.pop("headers", {})
        return self.client.get(path, headers=headers, **more)

    def token(self, page: str = "/sign-in") -> str:
        """Return the token of a form on this page."""
        found = _TOKEN.search(self.get(page).text)
        assert found, f"{page} has no form"
        return found[1]

    def post(self, path: str, page: str = "/audit", **fields: Any) -> TestResponse:
        """Send a form that stands on `page`."""
        data = {"csrf_token": self.token(page), **fields}
        return self.client.post(path, data=data, headers={"Accept": "text/html,*/*;q=0.8"})

    def sign_in(self, key: str | None = None, **fields: str) -> TestResponse:
        """Sign in, with the tests' own key unless another is given."""
        return self.post("/sign-in", "/sign-in", key=key or self.api.key, **fields)


def signed_in(api: Api, *scopes: Scope) -> BrowserClient:
    """Return a browser that is signed in with a new key of these scopes."""
    browser = BrowserClient(api)
    name = f"{'-'.join(scopes)}-person"
    assert browser.sign_in(api.new_key(*scopes, name=name)).status_code == 303
    return browser
