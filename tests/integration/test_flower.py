"""Flower as the Procfile starts it: off loopback never without a password, and nowhere a hand on the workers."""

import asyncio
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from celery import Celery
from flower.app import Flower
from flower.urls import settings
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.options import options

from app.dev.localstack.processes import free_port
from tests.support.sandbox import Sandbox
from tests.support.servers import ROOT

START_S = 60
"""Seconds until a process is given up: 3 as a rule."""


@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.7", "flower.example.com"])  # noqa: S104 - nothing listens there
def test_flower_does_not_start_off_loopback_without_a_password(address: str) -> None:
    (line,) = [line for line in (ROOT / "Procfile").read_text().splitlines() if line.startswith("flower:")]
    stores = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "REDIS_URL": "redis://127.0.0.1:1/0"}
    given = {**Sandbox("http://127.0.0.1:1").settings(), **stores, "FLOWER_ADDRESS": address, "FLOWER_PORT": "1"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    done = subprocess.run(  # noqa: S603 - our own Procfile
        ["sh", "-c", line.removeprefix("flower:")],  # noqa: S607 - the Procfile's lines are for a shell
        cwd=ROOT,
        env={**os.environ, **given, "PATH": path},
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )

    assert done.returncode != 0
    assert "FLOWER_BASIC_AUTH: missing: FLOWER_ADDRESS is not loopback" in done.stderr


def _answers(*requests: tuple[str, str, str | None]) -> list[HTTPResponse]:
    """Return what a Flower with our settings and the password a:b answers to each method, path and login."""

    async def ask() -> list[HTTPResponse]:
        port = free_port()
        server = Flower(capp=Celery(broker="memory://"), options=options, **settings).listen(port, "127.0.0.1")
        client = AsyncHTTPClient()
        answers = []
        for method, path, login in requests:
            user, _, password = login.partition(":") if login else (None, None, None)
            answers.append(
                await client.fetch(
                    f"http://127.0.0.1:{port}{path}",
                    method=method,
                    body="" if method == "POST" else None,
                    auth_username=user,
                    auth_password=password,
                    raise_error=False,
                )
            )
        server.stop()
        client.close()
        return answers

    options.parse_config_file(str(ROOT / "flowerconfig.py"), final=False)
    before, options.basic_auth = options.basic_auth, ["a:b"]
    try:
        # In a thread: a browser's test that ran before leaves its loop in this one.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: asyncio.run(ask())).result()
    finally:
        options.basic_auth = before


def test_flowers_metrics_are_for_holders_of_the_password() -> None:
    answers = _answers(("GET", "/metrics", None), ("GET", "/metrics", "a:x"), ("GET", "/metrics", "a:b"))

    assert [answer.code for answer in answers] == [401, 401, 200]


@pytest.mark.parametrize(
    "path",
    [
        "/api/worker/shutdown/w",
        "/api/worker/pool/restart/w",
        "/api/worker/pool/shrink/w",
        "/api/worker/queue/cancel-consumer/w",
        "/api/task/revoke/t",
        "/api/task/rate-limit/t",
    ],
)
def test_nobody_reaches_the_workers_through_flower(path: str) -> None:
    answer, unknown = _answers(("POST", path, "a:b"), ("POST", "/no/such/route", "a:b"))

    # The same page: a route that is there would say what it knows of the worker or the task.
    assert (answer.code, answer.body) == (404, unknown.body)


def test_flower_still_says_which_tasks_there_are() -> None:
    """The runbook's way to put an operation back into the queue goes through the same part of Flower."""
    (answer,) = _answers(("GET", "/api/task/types", "a:b"))

    assert answer.code == 200


def test_the_procfile_starts_flower_with_these_settings() -> None:
    (line,) = [line for line in (ROOT / "Procfile").read_text().splitlines() if line.startswith("flower:")]

    assert " --conf=flowerconfig.py " in line
