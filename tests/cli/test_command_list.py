"""docs/cli.md lists every command with every option, and nothing else."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import pytest

from app.cli.commands import COMMANDS, LazyCommand
from app.cli.doctor import CHECKS

DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"
ROW = re.compile(r"^\| `([a-z]+(?: [a-z]+)?)((?: [A-Z_]+)*)` \| .* \|(.*)\|$", re.MULTILINE)


def _commands(found: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(found, click.Group):
        yield name, found
        return
    for inner, command in found.commands.items():
        yield from _commands(command, f"{name} {inner}")


def commands_of(listed: Iterable[LazyCommand]) -> dict[str, click.Command]:
    """Return every command by its full name."""
    return dict(pair for command in listed for pair in _commands(command.load(), str(command.name)))


ALL = commands_of(COMMANDS)


def _arguments(command: click.Command) -> str:
    return " ".join(str(one.metavar or one.name).upper() for one in command.params if isinstance(one, click.Argument))


def _options(command: click.Command) -> set[str]:
    options = [one for one in command.params if isinstance(one, click.Option)]
    return {"/".join([*one.opts, *one.secondary_opts]) for one in options} - {"--json", "--workspace"}


def test_the_document_has_every_command_with_its_arguments_and_options() -> None:
    rows = ROW.findall(DOCUMENT.read_text(encoding="utf-8"))
    written = {name: (arguments.strip(), set(re.findall(r"`([^`]+)`", options))) for name, arguments, options in rows}

    assert written == {name: (_arguments(command), _options(command)) for name, command in ALL.items()}


def test_the_document_has_every_check_of_the_doctor() -> None:
    table = DOCUMENT.read_text(encoding="utf-8").split("## Doctor")[1]
    written = [name for row in re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)[1:] for name in row.split(", ")]

    assert sorted(written) == sorted(["settings", *(check.name for check in CHECKS)])


def test_every_command_takes_a_workspace_but_those_of_the_installation() -> None:
    without = {
        name.split()[0] for name, command in ALL.items() if not any("--workspace" in one.opts for one in command.params)
    }

    sentence = re.search(r"has no such option: (.+)\.$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert sentence is not None
    assert without == set(re.findall(r"`(\w+)`", sentence[1]))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command.name))
def test_the_list_says_of_a_command_what_its_own_help_begins_with(command: LazyCommand) -> None:
    own = command.load()

    assert own.name == command.name
    assert own.get_short_help_str(200) == command.get_short_help_str(200)


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_json_output_and_a_help_text(name: str) -> None:
    command = ALL[name]

    assert command.help
    assert name == "sweep" or any(one.name == "is_json" for one in command.params)
