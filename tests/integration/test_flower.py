"""Flower as the Procfile starts it: off loopback never without a password."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
