"""What is said of a server that cannot be asked, does not know the key, or is not ours: one sentence each."""

import json
import os
import signal
import socket
import sys
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from subprocess import PIPE, Popen
from threading import Event, Thread
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner, Result
from flask import Flask, Response, redirect, request
from werkzeug.wrappers import Response as WerkzeugResponse

from app.access import Scope
from app.cli import remote
from app.cli.__main__ import trunkline
from app.cli.client import Client, ProblemError
from app.cli.output import CommandError
from app.cli.profiles import Target
from app.cli.remote import Remote
from tests.support.api import Api
from tests.support.relay import make_certificate, tls_relay
from tests.support.served_app import served


def client(url: str, key: str = "tl_key") -> Client:
    return Client(Remote(Target(url, key, "TRUNKLINE_KEY")), {})


def failure(asked: Client, method: str = "GET", path: str = "/api/agents") -> ProblemError:
    with pytest.raises(ProblemError) as raised:
        asked.request(method, path)
    assert "\n" not in raised.value.message
    return raised.value


@contextmanager
def answering(response: Response | WerkzeugResponse) -> Iterator[str]:
    """Yield the address of a server that gives this one response."""
    app = Flask("proxy", static_folder=None)
    app.register_error_handler(404, lambda _error: response)
    with served(app) as url:
        yield url


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_where_nobody_listens_the_connection_is_refused() -> None:
    url = f"http://127.0.0.1:{free_port()}"

    error = failure(client(url))

    assert (error.code, error.status) == ("cannot_connect", None)
    assert error.message.startswith(f"{url} cannot be reached: Connection refused")


def test_a_proxys_login_is_sent_as_it_was_before_it_was_put_into_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    app = Flask("proxy", static_folder=None)
    app.before_request(lambda: seen.append(request.headers.get("Proxy-Authorization")))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with served(app) as url:
        monkeypatch.setenv("http_proxy", url.replace("://", "://desk%40acme:p%3Aw%2F@"))
        failure(client("http://trunkline.invalid"))

    assert seen[0] == "Basic " + b64encode(b"desk@acme:p:w/").decode()


def test_a_name_that_nobody_has_cannot_be_reached() -> None:
    assert failure(client("http://trunkline.invalid")).code == "cannot_connect"


def test_a_certificate_that_nobody_vouches_for_is_a_failure_of_tls(api: Api, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "trunkline")
    with served(api.app) as url, tls_relay(certificate, key, ("127.0.0.1", int(urlsplit(url).port or 0))) as relay:
        error = failure(client(f"https://127.0.0.1:{relay.port}"))

    assert error.code == "tls_failed"
    assert "certificate verify failed" in error.message


def test_a_wrong_key_is_said_with_where_it_was_written(api: Api) -> None:
    with served(api.app) as url:
        error = failure(client(url, "tl_wrong"))

    assert (error.code, error.status) == ("unauthenticated", 401)
    assert error.message.endswith("The key is that of TRUNKLINE_KEY.")


def test_a_key_without_the_scope_is_said_with_the_scope(api: Api) -> None:
    with served(api.app) as url:
        error = failure(client(url, api.new_key(Scope.READ)), "POST")

    assert (error.code, error.status) == ("forbidden", 403)
    assert "write" in error.message


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (Response("<html>", 502, mimetype="text/html"), "HTTP 502 text/html"),
        (Response("<html>", 200, mimetype="text/html"), "HTTP 200 text/html"),
        (Response("{", 200, mimetype="application/json"), "HTTP 200 application/json"),
        (Response('{"error": "no"}', 500, mimetype="application/json"), "HTTP 500 application/json"),
        (Response("[1, 2]", 200, mimetype="application/json"), "HTTP 200 application/json"),
        (Response('"x"', 200, mimetype="application/json"), "HTTP 200 application/json"),
        (Response("[" * 200_000 + "]" * 200_000, 200, mimetype="application/json"), "HTTP 200 application/json"),
        (Response('{"code": "x", "errors": ["y"]}', 422, mimetype="application/json"), "HTTP 422 application/json"),
        (Response("{}", 200, mimetype="application/json", headers={"Content-Encoding": "gzip"}), "incorrect header"),
        (redirect("https://login.example.com/"), "a redirect to https://login.example.com/, which is not followed"),
    ],
)
def test_what_is_not_ours_is_said_to_be_another(response: Response, said: str) -> None:
    with answering(response) as url:
        error = failure(client(url))

    assert error.code == "not_a_trunkline"
    assert said in error.message
    assert "TRUNKLINE_URL" in error.message


@pytest.mark.parametrize("body", ['{"hello": 1}', '{"items": null}', ""])
def test_a_list_without_items_is_not_ours(body: str) -> None:
    with answering(Response(body, 200, mimetype="application/json")) as url, pytest.raises(ProblemError) as raised:
        client(url).pages("/api/agents", None)

    assert raised.value.code == "not_a_trunkline"
    assert "a list without items" in raised.value.message


def test_a_field_that_an_answer_lacks_is_said() -> None:
    body = '{"items": [{"id": 1, "error": {"code": "x"}}], "nextCursor": null}'
    with answering(Response(body, 200, mimetype="application/json")) as url:
        ((one,), last) = client(url).pages("/api/agents", None)

    assert (one, last["nextCursor"], one.get("name")) == ({"id": 1, "error": {"code": "x"}}, None, None)
    for lacking, name in ((one, "name"), (one["error"], "detail")):
        with pytest.raises(ProblemError, match=f"an answer without '{name}'"):
            lacking[name]


def test_errors_of_fields_are_read_whatever_they_are() -> None:
    body = '{"code": "validation_failed", "detail": null, "errors": {"a": null, "b": {"c": 1}, "d": [2]}}'
    with answering(Response(body, 422, mimetype="application/problem+json")) as url:
        assert failure(client(url)).errors == {"a": [], "b": ["c"], "d": ["2"]}


@pytest.mark.parametrize("words", [("agents", "list"), ("agents", "list", "--json"), ("agents", "create", "desk")])
def test_ctrl_c_while_the_server_answers_is_an_interruption(words: Sequence[str]) -> None:
    app, asked, go_on = Flask("slow", static_folder=None), Event(), Event()

    def hold() -> None:
        asked.set()
        go_on.wait(30)

    app.before_request(hold)
    with served(app) as url:
        environment = {**os.environ, "TRUNKLINE_URL": url, "TRUNKLINE_KEY": "tl_key"}
        command = [sys.executable, "-m", "app.cli", *words]
        process = Popen(command, stderr=PIPE, stdout=PIPE, env=environment)  # noqa: S603  # our own command line
        assert asked.wait(30)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=30)
        go_on.set()

    assert (process.returncode, out) == (130, b"")
    if "--json" in words:
        assert json.loads(said)["code"] == "interrupted"
    else:
        assert b"Stopped by Ctrl-C" in said


def ended_by(url: str, *words: str) -> Result:
    return CliRunner().invoke(trunkline(), words, env={"TRUNKLINE_URL": url, "TRUNKLINE_KEY": "tl_key"})


def test_a_file_that_cannot_be_written_is_one_line() -> None:
    with answering(Response('{"agents": []}', 200, mimetype="application/json")) as url:
        ended = ended_by(url, "export", "-o", "/dev/full")

    assert (ended.exit_code, ended.stderr) == (1, "Error: The output cannot be written: No space left on device.\n")


def test_a_folder_that_is_missing_is_found_before_anything_is_done(tmp_path: Path) -> None:
    numbers, report = tmp_path / "numbers.csv", tmp_path / "nowhere" / "report.csv"
    numbers.write_text("phoneNumber\n+15145550001\n", encoding="utf-8")
    unasked = f"http://127.0.0.1:{free_port()}"

    for words in (("import", str(numbers), "--report", str(report)), ("export", "-o", str(report))):
        ended = ended_by(unasked, *words)
        assert f"There is no folder {report.parent}." in ended.stderr
        assert ended.exit_code in {1, 2}


def test_a_path_that_a_server_does_not_have_may_be_a_wrong_address(api: Api) -> None:
    with served(api.app) as url:
        error = failure(client(f"{url}/trunkline", api.key))

    assert error.message == "Not Found. (not_found) Check the address, which is that of TRUNKLINE_URL."


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "http://127.0.0.1:abc"])
def test_a_proxy_that_is_none_is_said(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(CommandError, match="The proxy that the environment names"):
        client("http://trunkline.invalid")


def test_a_get_is_sent_again_and_a_change_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BACKOFF_S", 0)
    asked: list[str] = []
    app = Flask("busy", static_folder=None)

    def busy(_error: Exception) -> tuple[dict[str, str], int]:
        asked.append(request.method)
        return {"code": "service_unavailable", "detail": "Wait."}, 503

    app.register_error_handler(404, busy)
    with served(app) as url:
        assert failure(client(url)).code == "service_unavailable"
        assert failure(client(url), "DELETE").code == "service_unavailable"

    assert asked == ["GET", "GET", "GET", "DELETE"]


def test_a_connection_that_ends_says_that_a_change_may_have_been_made() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            connection, _ = listening.accept()
            connection.recv(1000)
            connection.close()

        thread = Thread(target=hang_up)
        thread.start()
        error = failure(client(f"http://127.0.0.1:{listening.getsockname()[1]}"), "DELETE")
        thread.join()

    assert error.code == "connection_lost"
    assert "may have been done" in error.message


OPERATOR = ("trunkline.local_operator", "Trunkline.Local_Operator", "trunkline-local-operator", "wsgi.local_operator")


@pytest.mark.parametrize("name", OPERATOR)
def test_no_header_on_the_wire_makes_a_request_the_operators(api: Api, name: str) -> None:
    with served(api.app) as url:
        connection = HTTPConnection(str(urlsplit(url).netloc))
        connection.request("GET", "/api/agents", headers={name: "LocalOperator(command='trunkline status')"})
        assert connection.getresponse().status == 401
        connection.close()
