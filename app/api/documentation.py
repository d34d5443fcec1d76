"""/openapi.json and /docs: the reference, and a page to try it on; Swagger UI comes from a package, not from a CDN."""

import threading
from importlib.util import find_spec
from pathlib import Path

from apiflask import APIBlueprint
from flask import Response, current_app, send_from_directory

blueprint = APIBlueprint("documentation", __name__, enable_openapi=False)

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""Swagger UI writes style attributes; scripts come from files of ours alone."""

ASSETS = frozenset({"swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png"})
ASSET_AGE_S = 3600
"""Seconds a browser keeps Swagger UI's files; they change only with a release."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Trunkline API</title>
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
<link rel="icon" href="/docs/assets/favicon-32x32.png">
</head>
<body>
<div id="reference"></div>
<noscript>This page needs JavaScript; the same reference as data: <a href="/openapi.json">/openapi.json</a>.</noscript>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""

START = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  persistAuthorization: false,
  tryItOutEnabled: true,
  validatorUrl: null,
});
"""

_building = threading.Lock()


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """Send the OpenAPI 3.1 document, built at the first request."""
    # apispec keeps state while it builds: two threads at once would mix their documents.
    with _building:
        document = current_app.json.dumps(current_app._get_spec("json"))  # type: ignore[attr-defined]  # noqa: SLF001 - the public `spec` builds anew each time
    return Response(document, mimetype="application/json")


@blueprint.get("/docs")
def page() -> Response:
    """Send the page."""
    return Response(PAGE, mimetype="text/html", headers={"Content-Security-Policy": PAGE_POLICY})


@blueprint.get("/docs/start.js")
def start() -> Response:
    """Send the script that starts Swagger UI: inline it would need a wider policy."""
    return Response(START, mimetype="text/javascript")


@blueprint.get("/docs/assets/<name>")
def asset(name: str) -> Response:
    """Send one of Swagger UI's own files."""
    response = send_from_directory(_assets(), name if name in ASSETS else "\0", max_age=ASSET_AGE_S)
    response.headers["Cache-Control"] = f"public, max-age={ASSET_AGE_S}"
    return response


def _assets() -> Path:
    """Find the files without importing the package: it is an untyped Flask extension that we do not use."""
    found = find_spec("flask_swagger_ui")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError("flask_swagger_ui")
    return Path(found.submodule_search_locations[0]) / "dist"
