"""The command line alone, against a running stack: from `doctor` to a connected number and back."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from run import LAUNCHER_TEXT, ROOT
from tests.e2e.assignments import SHARED_TIMINGS, next_number
from tests.e2e.invariants import check_pool
from tests.support.sandbox import ControlledSandbox, Sandbox
from tests.support.servers import running_valkey
from tests.support.stack import Stack, running_stack
from tests.support.typed_commands import typed_commands

LIMIT_S = 120
"""Seconds that a command may take on a busy machine."""

Trunkline = Callable[..., subprocess.CompletedProcess[str]]

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(scope="module")
def own_stack(make_database: Callable[[], str], sandbox_server: ControlledSandbox) -> Iterator[Stack]:
    """A stack of its own: the shared one has rows of other tests, whose resources are gone."""
    providers = sandbox_server.control
    with running_valkey() as valkey, running_stack(make_database(), valkey.url, providers, SHARED_TIMINGS) as stack:
        yield stack


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`trunkline` as a program whose commands are processes of their own, begun as copies of one."""
    folder = tmp_path_factory.mktemp("bin")
    with typed_commands(folder) as text:
        tool = folder / "trunkline"
        tool.write_text(text, encoding="utf-8")
        tool.chmod(0o755)
        yield tool


@pytest.fixture
def trunkline(stack: Stack, tool: Path) -> Trunkline:
    """Run a command as a process of its own, with its output in a pipe; over HTTP unless it is local."""

    def run(*words: str, is_local: bool = False) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(  # noqa: S603
            [tool, *words],
            env=stack.environ if is_local else from_a_laptop(stack),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture
def stack(own_stack: Stack, sandbox: Sandbox) -> Stack:
    """The stack over an emptied sandbox."""
    own_stack.empty_pool()
    return own_stack


def from_a_laptop(stack: Stack) -> dict[str, str]:
    """Return an environment with the server's address and a key, and none of the installation's secrets."""
    path = {name: stack.environ[name] for name in ("PATH", "HOME", "LANG") if name in stack.environ}
    return {**path, "TRUNKLINE_URL": stack.api.base_url, "TRUNKLINE_KEY": stack.api.key}


def on_a_terminal(stack: Stack, *command: str | Path) -> str:
    """Run a program on a terminal of 80 columns; return all that it wrote there."""
    ours, theirs = pty.openpty()
    environ = {**stack.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "50"}
    process = subprocess.Popen(command, env=environ, stdin=theirs, stdout=theirs, stderr=theirs)  # noqa: S603
    os.close(theirs)
    written = bytearray()
    try:
        while chunk := os.read(ours, 65536):
            written += chunk
    except OSError:
        pass  # Linux reports a closed terminal so
    os.close(ours)
    assert process.wait(LIMIT_S) == 0, written.decode()
    return written.decode()


def test_a_number_is_connected_with_the_command_line_alone(trunkline: Trunkline, sandbox: Sandbox) -> None:
    number, name = next_number(), "Front desk, e2e"
    sandbox.number(number)
    assert trunkline("doctor", is_local=True).stdout.splitlines()[-1] == "All checks passed."
    free = json.loads(trunkline("numbers", "list", "--free", "--json").stdout)["items"]
    assert number in [one["phoneNumber"] for one in free]
    agent_id = trunkline("agents", "create", name).stdout.strip()

    connected = trunkline("provision", name, number)

    assert connected.stdout == f"{number} is connected to {name}.\n"
    assert [line.split()[:2] for line in connected.stderr.splitlines()][-1] == ["DONE", "verification"]
    assert sandbox.call(number)["reaches"]
    status = trunkline("status", name)
    assert "PROVISIONED" in status.stdout
    assert trunkline("verify", agent_id).stdout.count("✓") == 5
    assert trunkline("audit").stdout.endswith("0 findings.\n")
    assert trunkline("deprovision", agent_id, "--yes").stdout == f"{name} no longer has a number.\n"
    assert not sandbox.call(number)["reaches"]
    kinds = [one["kind"] for one in json.loads(trunkline("operations", "list", "--json").stdout)["items"]]
    assert kinds[:2] == ["deprovision", "provision"]
    trunkline("agents", "delete", agent_id, "--yes")


def test_a_terminal_shows_the_steps_while_they_happen(stack: Stack, sandbox: Sandbox, tool: Path) -> None:
    number = next_number()
    sandbox.number(number)
    agent_id = stack.api.agent("on a terminal")
    sandbox.latency(twilio_ms=600, livekit_ms=600)  # longer than between two frames, on a busy machine too

    written = on_a_terminal(stack, tool, "provision", agent_id, number)

    sandbox.latency()
    assert "\x1b[" in written
    frames = ESCAPES.sub("", written)
    assert re.search(r"[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]  twilio trunk", frames)
    assert re.search(r"✓  verification", frames)
    assert f"{number} is connected to on a terminal." in frames
    assert max(len(line.strip("\r")) for line in frames.split("\n")) < 200


def test_no_color_is_honoured_on_a_terminal(
    stack: Stack, sandbox: Sandbox, tool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.number(next_number())
    assert COLOUR.search(on_a_terminal(stack, tool, "doctor"))
    monkeypatch.setitem(stack.environ, "NO_COLOR", "1")

    written = on_a_terminal(stack, tool, "doctor")

    assert "All checks passed." in written
    assert not COLOUR.search(written)


def test_the_launcher_starts_the_command_line_from_any_folder(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    launcher = Path(sys.executable).with_name("trunkline")
    assert launcher.read_text(encoding="utf-8") == LAUNCHER_TEXT
    (tmp_path / "bin" / "trunkline").symlink_to(launcher)

    done = subprocess.run(  # noqa: S603
        [tmp_path / "bin" / "trunkline", "agents", "list", "--json"],
        env=stack.environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout)["items"], list)


def test_what_the_readme_says_to_paste_can_be_pasted_twice(
    stack: Stack, sandbox: Sandbox, tool: Path, tmp_path: Path
) -> None:
    """Word for word: a folder as ./run.py leaves it, and a curl that finds port 8080 at the stack's own."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", readme.split("\n## Use it\n")[1], re.MULTILINE | re.DOTALL)
    (number,) = set(re.findall(r"\+1\d{10}", "".join(blocks)))
    sandbox.number(number)
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "dev-key").write_text(stack.api.key + "\n", encoding="utf-8")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "trunkline").symlink_to(tool)
    port = stack.api.base_url.rpartition(":")[2]
    (tmp_path / ".curlrc").write_text(f'connect-to = "localhost:8080:127.0.0.1:{port}"\n', encoding="utf-8")

    done = subprocess.run(
        ["bash", "-euo", "pipefail"],  # noqa: S607 - whichever the person has
        input="".join(blocks) * 2,
        env={**stack.environ, "CURL_HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert '"success": false' not in done.stdout
    assert done.stdout.count('"status": "PENDING"') == 2
    assert done.stdout.count('"hasPhone": true') == 2
    assert done.stdout.count(f"{number} is connected to Front desk.") == 2
    left = sandbox.state()
    assert [left[kind] for kind in ("livekitTrunks", "livekitRules")] == [[], []]
    assert [number["trunk_sid"] for number in left["numbers"]] == [None] * len(left["numbers"])
    check_pool(stack.sessions, sandbox)
    assert [len(left[kind]) for kind in ("trunks", "originationUrls")] == [1, 1]  # the one that numbers share
