"""The client that a generator has written connects a number on the sandbox. `.ci/clients` runs this, not the suite."""

import os
import subprocess
from pathlib import Path

from app import create_app
from app.access import KeyService, Scope
from app.db.models import Agent
from app.domain.operations import PhoneStatus
from app.settings import Settings
from app.wiring import build
from tests.support.sandbox import Sandbox
from tests.support.sandbox_app import NUMBER, SandboxApp
from tests.support.served_app import InstantWorker, served


def test_the_example_in_the_document_connects_a_number(database_url: str, redis_url: str, sandbox: Sandbox) -> None:
    given = {name.lower(): value for name, value in sandbox.settings().items()}
    worker = InstantWorker()
    wiring = build(Settings(_env_file=None, database_url=database_url, redis_url=redis_url, **given), publisher=worker)
    worker.live = SandboxApp(wiring, worker, sandbox)
    sandbox.number(NUMBER)
    _, key = KeyService(wiring.sessions).create("generated", [Scope.WRITE, Scope.READ])
    example = Path(os.environ["CLIENT_EXAMPLE"])
    with served(create_app(wiring)) as url:
        done = subprocess.run(  # noqa: S603  # what .ci/clients has installed, and our own example
            [os.environ["CLIENT_PYTHON"], str(example)],
            cwd=example.parent,
            env={"TRUNKLINE_URL": url, "TRUNKLINE_KEY": key},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    with wiring.sessions() as session:
        agent = session.query(Agent).where(Agent.twilio_trunk_sid.is_not(None)).one()
    wiring.close()

    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{NUMBER} {agent.twilio_trunk_sid}\n"
    assert (agent.name, agent.phone_provisioning_status) == ("Front desk", PhoneStatus.PROVISIONED)
