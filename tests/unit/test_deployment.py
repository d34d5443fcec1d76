"""deploy/ says what the code says: processes, settings, the sandbox, the image, the limits of a process.

Whether the programs that read these files take them is for `.ci/deployment`.
"""

import http.server
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values
from pydantic import SecretStr

from app.dev import sandbox
from app.dev.localstack.servers import LOG_SETTINGS, sandbox_settings
from app.dev.localstack.stack import SANDBOX_OPTIONS
from app.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "trunkline"
UNITS = DEPLOY / "systemd"
START = DEPLOY / "start"

PROCFILE = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text(encoding="utf-8").splitlines())

SETTINGS = {name.upper() for name in Settings.model_fields}

STORES = {"DATABASE_URL", "REDIS_URL"}

FIXED = {"WEB_ADDRESS", "PORT", "FLOWER_ADDRESS", "FLOWER_PORT", "DATA_DIR"}
"""Settings that a container decides."""

OF_COMPOSE = {
    *("POSTGRES_PASSWORD", "VALKEY_PASSWORD", "WEB_PUBLISH", "FLOWER_PUBLISH"),
    *("TRUNKLINE_IMAGE", "COMPOSE_FILE"),
}
"""Variables of deploy/compose.yaml and of Compose itself."""


class ComposeLoader(yaml.SafeLoader):
    """Reads Compose's own tag, too."""


ComposeLoader.add_constructor("!reset", lambda loader, node: loader.construct_sequence(node))


def compose(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load((DEPLOY / name).read_text(encoding="utf-8"), ComposeLoader)  # noqa: S506 - a safe one
    return found


def ours(file: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the services that run our image."""
    return {name: one for name, one in file["services"].items() if "trunkline" in one.get("image", "")}


def variables(name: str) -> set[str]:
    """Return what an example of an environment names, commented out or not."""
    return set(re.findall(r"^#?([A-Z][A-Z_]+)=", (DEPLOY / name).read_text(encoding="utf-8"), re.MULTILINE))


# Processes.


def test_compose_runs_every_line_of_the_procfile_and_the_migration() -> None:
    services = ours(compose("compose.yaml"))

    assert {name: one["command"] for name, one in services.items()} == {name: [name] for name in (*PROCFILE, "migrate")}


def test_nothing_of_compose_starts_before_the_schema_is_there() -> None:
    services = ours(compose("compose.yaml"))

    assert services.pop("migrate")["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    conditions = {name: one["depends_on"]["migrate"]["condition"] for name, one in services.items()}
    assert conditions == dict.fromkeys(services, "service_completed_successfully")


def test_the_chart_runs_every_line_of_the_procfile() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

    assert values["processes"].keys() == PROCFILE.keys()


def test_systemd_starts_every_line_of_the_procfile_after_the_migration() -> None:
    drop_in = (UNITS / "trunkline@migrate.service.d" / "once.conf").read_text(encoding="utf-8")
    before = [word for line in re.findall(r"^Before=(.*)$", drop_in, re.MULTILINE) for word in line.split()]

    assert before == [f"trunkline@{name}.service" for name in PROCFILE]


def test_workers_are_scaled_by_the_queue_that_they_take_from() -> None:
    template = (CHART / "templates" / "autoscaling.yaml").read_text(encoding="utf-8")
    (pairs,) = re.findall(r"\$queues := dict (.*) }}", template)
    words = shlex.split(pairs)
    taken = {name: words[words.index("-Q") + 1] for name in PROCFILE if "-Q" in (words := shlex.split(PROCFILE[name]))}

    scaled = shlex.split(pairs)
    found = dict(zip(scaled[::2], scaled[1::2], strict=True))
    assert found.keys() == taken.keys()
    assert all(found[name] in taken[name].split(",") for name in found)


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    """A folder with the entry point, a Procfile of its own and an environment's programs."""
    (tmp_path / "deploy").mkdir()
    shutil.copy(START, tmp_path / "deploy")
    (tmp_path / "Procfile").write_text('web: exec told "${PORT:-8080}"\nbulk: exec told bulk\n')
    told = tmp_path / ".venv" / "bin" / "told"
    told.parent.mkdir(parents=True)
    told.write_text('#!/bin/sh\necho "$$ $PWD $*"\n')
    told.chmod(0o755)
    shutil.copy(told, told.with_name("alembic"))
    return tmp_path


def started(installation: Path, *arguments: str) -> tuple[int, list[str]]:
    """Call the entry point from elsewhere; return its process id, and what the program told.

    That is the program's id, its folder and its arguments.
    """
    with subprocess.Popen(  # noqa: S603 - ours
        [installation / "deploy" / "start", *arguments], cwd="/", stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        return process.pid, process.stdout.read().split()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["web"], ["8080"]),
        (["bulk", "-c", "32", "a b"], ["bulk", "-c", "32", "a", "b"]),
        (["migrate"], ["upgrade", "head"]),
    ],
    ids=["process", "options", "migration"],
)
def test_the_entry_point_becomes_the_process(installation: Path, arguments: list[str], told: list[str]) -> None:
    process_id, said = started(installation, *arguments)

    assert said == [str(process_id), str(installation), *told]


def test_the_entry_point_becomes_any_other_program_where_it_was_called(installation: Path) -> None:
    process_id, said = started(installation, "told", "doctor", "--json")

    assert said == [str(process_id), "/", "doctor", "--json"]


def test_the_entry_point_names_the_processes() -> None:
    done = subprocess.run([START], capture_output=True, text=True, check=False)  # noqa: S603 - ours

    assert done.returncode == 2
    assert f" migrate|sandbox|{'|'.join(PROCFILE)} " in done.stderr


def test_every_line_of_the_procfile_becomes_its_program() -> None:
    assert [name for name, line in PROCFILE.items() if not line.startswith("exec ")] == []


# Settings.


@pytest.mark.parametrize(
    ("example", "more"),
    [("compose.env.example", OF_COMPOSE), ("systemd.env.example", set())],
    ids=["compose", "systemd"],
)
def test_an_example_names_settings_only(example: str, more: set[str]) -> None:
    assert variables(example) - more - SETTINGS == set()
    assert {"CREDENTIAL_KEYS", "FLOWER_BASIC_AUTH", "TWILIO_ACCOUNT_SID", "LIVEKIT_SIP_URI"} <= variables(example)


def test_compose_sets_settings_only() -> None:
    for file in ("compose.yaml", "compose.sandbox.yaml"):
        for one in (*ours(compose(file)).values(), compose(file).get("x-on-sandbox", {})):
            assert one.get("environment", {}).keys() - SETTINGS == set()


def test_everything_that_compose_asks_for_is_in_its_example() -> None:
    text = "".join((DEPLOY / file).read_text(encoding="utf-8") for file in ("compose.yaml", "compose.sandbox.yaml"))
    asked = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", text))

    assert asked - variables("compose.env.example") == set()


def test_compose_holds_no_secret() -> None:
    environments = [one.get("environment", {}) for one in compose("compose.yaml")["services"].values()]
    secret = re.compile("PASSWORD|AUTH|TOKEN|SECRET|KEYS?$|_URL$")
    found = {value for each in environments for name, value in each.items() if secret.search(name)}

    assert len(found) == 5
    assert [value for value in found if not re.search(r"\$\{[A-Z_]+:\?", value)] == []


def test_the_chart_takes_every_setting_that_is_no_secret() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    secrets = {name.upper() for name, field in Settings.model_fields.items() if SecretStr in _types(field.annotation)}

    taken = schema["properties"]["settings"]["properties"].keys()

    assert secrets > {"CREDENTIAL_KEYS", "TWILIO_AUTH_TOKEN"}
    assert taken == SETTINGS - secrets - STORES - FIXED - {"FLOWER_BASIC_AUTH"}


def _types(annotation: object) -> set[object]:
    return {annotation, *getattr(annotation, "__args__", ())}


def test_what_the_chart_sets_itself_are_settings() -> None:
    template = (CHART / "templates" / "processes.yaml").read_text(encoding="utf-8")
    named = set(re.findall(r"- name: ([A-Z][A-Z_]+)$", template, re.MULTILINE))

    assert named
    assert named - SETTINGS == set()


# The sandbox.


def sandbox_block() -> dict[str, str | None]:
    """Return what systemd's example has for the sandbox, as it is once the comment marks are gone."""
    text = (DEPLOY / "systemd.env.example").read_text(encoding="utf-8").split("--- Or the sandbox")[1]
    return dict(re.findall(r"^#([A-Z_]+)=(.*)$", text, re.MULTILINE))


def wanted_for_the_sandbox() -> dict[str, str]:
    return sandbox_settings(f"http://127.0.0.1:{sandbox.PORT}", f"sip:127.0.0.1:{sandbox.SIP_PORT};transport=tcp") | {
        "INSTANCE_NAME": "sandbox",
        "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
    }


def test_both_ways_to_the_sandbox_are_the_one_of_the_local_stack() -> None:
    assert compose("compose.sandbox.yaml")["x-on-sandbox"]["environment"] == wanted_for_the_sandbox()
    assert sandbox_block() == wanted_for_the_sandbox()


def test_the_sandbox_starts_as_in_the_local_stack() -> None:
    (line,) = re.findall(r"line='exec python -m app\.dev\.sandbox (.*)'", START.read_text(encoding="utf-8"))

    assert set(shlex.split(line)) == {"--sip-port", str(sandbox.SIP_PORT), *SANDBOX_OPTIONS}


def test_on_the_sandbox_every_process_that_needs_it_shares_its_network() -> None:
    override = compose("compose.sandbox.yaml")["services"]
    needs = {name: one for name, one in override.items() if name != "sandbox"}

    assert needs.keys() == PROCFILE.keys()
    assert {one["network_mode"] for one in needs.values()} == {"service:sandbox"}
    published = [port for name in PROCFILE for port in compose("compose.yaml")["services"][name].get("ports", [])]
    assert override["sandbox"]["ports"] == published
    assert [name for name, one in needs.items() if one.get("ports") == []] == ["web", "flower"]


@pytest.mark.parametrize("example", ["compose.env.example", "systemd.env.example"])
def test_an_example_is_complete(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filled in where nothing stands, it has all that a process needs."""
    monkeypatch.chdir(tmp_path)
    for name in SETTINGS & os.environ.keys():
        monkeypatch.delenv(name)
    given = {
        "TWILIO_ACCOUNT_SID": sandbox.ACCOUNT_SID,
        "TWILIO_API_KEY_SID": sandbox.API_KEY_SID,
        "TWILIO_API_KEY_SECRET": "secret",
        "LIVEKIT_URL": "wss://project.livekit.cloud",
        "LIVEKIT_API_KEY": "key",
        "LIVEKIT_API_SECRET": "secret",
        "LIVEKIT_SIP_URI": "sip:project.sip.livekit.cloud;transport=tcp",
    }
    in_file = {name: value or given.get(name) for name, value in dotenv_values(DEPLOY / example).items()}
    by_compose = {"DATABASE_URL": "postgresql://a:b@postgres/trunkline", "REDIS_URL": "redis://valkey/0"}
    environment = {**(by_compose if "compose" in example else {}), **in_file}

    settings = Settings(**{name.lower(): value for name, value in environment.items() if value and name in SETTINGS})

    assert (settings.instance_name, settings.twilio_password) == ("trunkline", "secret")


# The image.


def instructions(name: str) -> list[str]:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
    return re.findall(rf"^{name} (.*)$", text, re.MULTILINE)


def copied() -> list[str]:
    return [word for line in instructions("COPY") if "--from" not in line for word in shlex.split(line)[:-1]]


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()

    assert lines[1] == "*"
    assert [line.removeprefix("!") for line in lines if line.startswith("!")] == copied()
    assert [name for name in copied() if not (ROOT / name).exists()] == []


def test_the_image_has_all_code_and_what_the_programs_read() -> None:
    top = {path.name for path in ROOT.glob("*.py")} | {"app", "tasks", "migrations"}

    assert {*top, "Procfile", "pyproject.toml", "deploy/start"} <= set(copied())


def test_the_image_runs_as_the_user_that_the_chart_asks_for() -> None:
    (user,) = instructions("USER")
    helpers = (CHART / "templates" / "_helpers.tpl").read_text(encoding="utf-8")

    assert re.findall(r"runAs(?:User|Group): (\d+)", helpers) == user.split(":")
    assert f"--uid {user.split(':')[0]} " in " ".join(instructions("RUN"))


def test_the_image_and_the_chart_are_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))

    assert (chart["version"], chart["appVersion"]) == (version, version)
    assert f"VERSION={version}" in instructions("ARG")


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers with the status that its server was given, on the one path that it knows."""

    def do_GET(self) -> None:
        self.send_response(self.server.statuses.get(self.path, 404))  # type: ignore[attr-defined]  # ours
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answering() -> Iterator[http.server.HTTPServer]:
    with http.server.HTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def health_checks() -> dict[str, tuple[str, list[str]]]:
    """Return process -> the path that it is asked for, and the command that asks."""
    (image,) = [json.loads(line.split(" CMD ")[1]) for line in instructions("HEALTHCHECK")]
    flower = compose("compose.yaml")["services"]["flower"]["healthcheck"]["test"]
    return {"web": ("/healthz", image), "flower": ("/healthcheck", flower[1:])}


@pytest.mark.parametrize("process", ["web", "flower"])
@pytest.mark.parametrize("status", [200, 503])
def test_a_process_is_healthy_while_it_says_so(answering: http.server.HTTPServer, process: str, status: int) -> None:
    path, (program, *arguments) = health_checks()[process]
    answering.statuses = {path: status}  # type: ignore[attr-defined]  # for Answering
    arguments = [one.replace("5555", str(answering.server_port)) for one in arguments]
    environ = {"PORT": str(answering.server_port), "http_proxy": "http://192.0.2.1:1"}

    done = subprocess.run([sys.executable, *arguments], env=environ, stderr=subprocess.DEVNULL, check=False)  # noqa: S603

    assert program == "python"
    assert (done.returncode == 0) == (status == 200)


def test_only_processes_with_a_port_have_a_health_check() -> None:
    services = ours(compose("compose.yaml"))
    unchecked = {name for name, one in services.items() if one.get("healthcheck") == {"disable": True}}

    assert services.keys() - unchecked == {"web", "flower"}


# What is held alike.


def test_no_number_gets_into_the_log_of_composes_postgresql() -> None:
    command = compose("compose.yaml")["services"]["postgres"]["command"]

    assert [setting for setting in LOG_SETTINGS if setting not in command] == []


def test_no_process_may_write_or_gain_privileges() -> None:
    everything = {**ours(compose("compose.sandbox.yaml")), **ours(compose("compose.yaml"))}

    assert everything.keys() == {*PROCFILE, "migrate", "sandbox"}
    for one in everything.values():
        assert (one["read_only"], one["cap_drop"], one["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])


def test_a_process_gets_longer_to_stop_than_it_takes() -> None:
    """Kubernetes waits for five seconds before it asks web to stop; the rest is for what ends after its time."""
    (celery,) = re.findall(
        r"^worker_soft_shutdown_timeout = (\d+)$", (ROOT / "celeryconfig.py").read_text(), re.MULTILINE
    )
    (gunicorn,) = re.findall(r"--graceful-timeout (\d+)", PROCFILE["web"])
    longest_s = max(int(celery), 5 + int(gunicorn)) + 10
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["processes"]
    unit = (UNITS / "trunkline@.service").read_text(encoding="utf-8")
    told = [int(seconds) for seconds in re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)]
    told += [int(one["stop_grace_period"].removesuffix("s")) for one in ours(compose("compose.yaml")).values()]

    assert min(told + [one["terminationGracePeriodSeconds"] for one in values.values()]) >= longest_s


def test_what_the_documents_name_of_it_exists() -> None:
    pages = (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    named = {name for page in pages for name in re.findall(r"`(deploy/[\w./@-]*)", page.read_text(encoding="utf-8"))}

    assert {"deploy/Dockerfile", "deploy/systemd/", "deploy/helm/trunkline"} <= named
    assert [name for name in named if not (ROOT / name).exists()] == []
