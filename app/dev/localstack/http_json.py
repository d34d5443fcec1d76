"""A few JSON calls to servers on this machine, before and beside every client library."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

CALL_S = 10.0
"""Seconds until a call to a server on this machine is given up."""

# A proxy that the user has set for the outside world has no business between us and ourselves.
_opener = build_opener(ProxyHandler({}))


class JsonClient:
    """Calls one server on this machine."""

    def __init__(self, base_url: str, headers: Mapping[str, str] | None = None, timeout_s: float = CALL_S) -> None:
        self.base_url = base_url
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._timeout_s = timeout_s

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Return the status and the decoded body (None when empty); OSError when nobody answers."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.base_url + path, data=data, headers=self._headers, method=method)  # noqa: S310
        try:
            with _opener.open(request, timeout=self._timeout_s) as answer:
                return answer.status, _decoded(answer.read())
        except HTTPError as refusal:
            with refusal:
                return refusal.code, _decoded(refusal.read())

    def get(self, path: str) -> Any:
        """Return the decoded body of a GET; OSError on any status but 200."""
        status, body = self.call("GET", path)
        if status != HTTPStatus.OK:
            raise OSError(f"GET {self.base_url}{path}: {status} {body}")
        return body

    def answers(self, path: str) -> bool:
        """Say whether a GET is answered with 200 now."""
        try:
            return self.call("GET", path)[0] == HTTPStatus.OK
        except OSError:
            return False


def _decoded(body: bytes) -> Any:
    """Decode JSON; a body that is something else is given back as text."""
    text = body.decode("utf-8", "replace")
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text
