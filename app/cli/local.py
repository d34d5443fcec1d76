"""Requests to the application in this process: WSGI without a socket, and without a key.

An entry of the WSGI environ that no HTTP header can produce says that the operator of this installation asks. A module
of its own because it brings the web framework, which a command that asks a server does without.
"""

from flask import Flask
from werkzeug.test import EnvironBuilder, run_wsgi_app

from app.cli.client import Answer, Request
from app.web.authentication import LOCAL_OPERATOR, LocalOperator


class Local:
    """The application itself, called by the operator with the command that is named."""

    name = "This installation"
    is_local = True

    def __init__(self, application: Flask, command: str) -> None:
        self._application = application
        self._operator = LocalOperator(command)

    def send(self, request: Request) -> Answer:
        """Return what the application answers."""
        builder = EnvironBuilder(
            request.path, method=request.method, headers=request.headers.items(), data=request.body or b""
        )
        environ = builder.get_environ() | {LOCAL_OPERATOR: self._operator}
        body, status, headers = run_wsgi_app(self._application, environ, buffered=True)
        return Answer(
            int(status.partition(" ")[0]), b"".join(body), {name.lower(): value for name, value in headers.items()}
        )

    def advice(self, _code: str) -> str:
        """Return nothing: there is neither an address nor a key that could be wrong."""
        return ""
