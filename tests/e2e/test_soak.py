"""A short soak with a fixed seed: load, faults and kills on a stack of its own, then no difference may be left."""

import json
import os
import subprocess
import sys

OPERATIONS = 8
SEED = 5
LONGEST_S = 240
"""Seconds until the run is given up: half a minute as a rule."""


def test_after_some_chaos_rows_and_providers_agree() -> None:
    command = [sys.executable, "-m", "app.dev.localstack", "soak", "--operations", str(OPERATIONS)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(  # noqa: S603 - our own interpreter and module
        [*command, "--seed", str(SEED), "--copies", "--json"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    report = json.loads(done.stdout)
    assert sum(report["kills"].values()) > 0
    assert sum(count for kind, count in report["faults"].items() if kind != "requests") > 0
    assert report["ended"].get("provision succeeded", 0) > 0
    assert report["settledSeconds"] is not None
    assert not any(report["afterAudit"].values()), report["afterAudit"]
