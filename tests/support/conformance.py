"""Runs the tests of the providers' behaviour against other servers than our sandbox: `--livekit`, `--twilio-emulator`.

With one of these options only those tests run that ask that provider and no other, and that do not control the sandbox;
without them they run like all the others, against the sandbox. What a test asks is said by its fixtures alone.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support import livekit_server, twilio_server
from tests.support.provider_probe import REPORT, UnusableError

TARGETS: dict[str, tuple[str, Callable[[Any], None]]] = {
    livekit_server.OPTION: ("livekit_project", livekit_server.check),
    twilio_server.OPTION: ("twilio_account", twilio_server.check),
}
"""Option -> the fixture of the provider that it names, and what finds out whether that can be asked."""

CONTROLLED = frozenset({"sandbox", "own_sandbox", "sandbox_server"})
"""Fixtures with which a test controls the sandbox: faults, switches, numbers. No other server has that."""

UNUSABLE = 2
"""Exit code where a server cannot be asked, as for wrong arguments."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the two options."""
    group = parser.getgroup("conformance", "other servers than the sandbox")
    group.addoption(
        livekit_server.OPTION,
        nargs=3,
        metavar=("URL", "KEY", "SECRET"),
        help="run only the tests of LiveKit's behaviour, against this server; what others have there is left alone",
    )
    group.addoption(
        twilio_server.OPTION,
        nargs="+",
        metavar=("URL", "ACCOUNT_SID AUTH_TOKEN"),
        help="run only the tests of Twilio's behaviour, against this emulator (default: the sandbox's credentials)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Ask each named server once, before anything is collected; one sentence and exit code 2 where that fails."""
    config.stash[REPORT] = []
    if config.getoption(livekit_server.OPTION):
        # The SDK signs with the secret too.
        config.addinivalue_line("filterwarnings", "ignore::jwt.warnings.InsecureKeyLengthWarning")
    if hasattr(config, "workerinput"):
        return
    for option, (_, check) in TARGETS.items():
        given = config.getoption(option)
        if given:
            try:
                check(given)
            except UnusableError as error:
                pytest.exit(f"{option}: {error}", returncode=UNUSABLE)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests that ask the named providers and nothing else."""
    providers = {fixture for option, (fixture, _) in TARGETS.items() if config.getoption(option)}
    if not providers:
        return
    every = {fixture for fixture, _ in TARGETS.values()}

    def asks_only_these(item: pytest.Item) -> bool:
        used = set(getattr(item, "fixturenames", ()))
        return bool(used & providers) and not used & (CONTROLLED | (every - providers))

    kept = [item for item in items if asks_only_these(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what the servers hold now."""
    for line in config.stash[REPORT]:
        terminalreporter.write_line(line)
