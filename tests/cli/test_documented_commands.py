"""Every `trunkline …` in every document is a command that there is, with options that it takes."""

import re
from collections.abc import Iterator

import click
import pytest

from app.cli.__main__ import trunkline
from app.cli.commands import COMMANDS
from tests.support.pages import ELLIPSIS, PAGES, ROOT, blocks_of

INLINE = re.compile(r"`(?:\.venv/bin/)?trunkline ([^`]+)`")
IN_A_BLOCK = re.compile(r"(?:^|\$\(|&& |; |\| |'|exec web )\s*(?:\.venv/bin/)?trunkline ([^#|)'\n]*)", re.MULTILINE)

TOP = {str(each.name): each for each in COMMANDS}

ALWAYS = {"--help"} | {opt for option in trunkline().params for opt in option.opts}


def _written() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        if page.name == "CHANGELOG.md":
            continue
        for text in INLINE.findall(page.read_text(encoding="utf-8")):
            yield name, text
        for block in blocks_of(page):
            if block.is_shell:
                for text in IN_A_BLOCK.findall(block.text):
                    yield block.where, text


def problem_of(text: str) -> str | None:
    """Say what is wrong with the arguments of a command line; None: nothing."""
    words = text.split()
    if words[0] == ELLIPSIS:
        return None
    if words[0].startswith("-"):
        return None if words[0] in ALWAYS else f"no option {words[0]}"
    if words[0] not in TOP:
        return f"no command {words[0]}"
    command, rest = TOP[words[0]].load(), words[1:]
    while isinstance(command, click.Group) and rest and re.fullmatch(r"[a-z][a-z-]*", rest[0]):
        found = command.commands.get(rest[0])
        if found is None:
            break
        command, rest = found, rest[1:]
    taken = {opt for one in command.params if isinstance(one, click.Option) for opt in (*one.opts, *one.secondary_opts)}
    named = {word.partition("=")[0].rstrip(",.") for word in rest if word.startswith("--")}
    if isinstance(command, click.Group):
        return f"no command {rest[0]}" if rest and re.fullmatch(r"[a-z][a-z-]*", rest[0]) else None
    return ", ".join(sorted(named - taken - ALWAYS)) or None


def test_every_command_in_the_documents_exists() -> None:
    written = list(_written())
    assert len(written) > 50
    wrong = [f"{where}: trunkline {text}: {problem}" for where, text in written if (problem := problem_of(text))]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nonsense list", "no command nonsense"),
        ("agents create NAME --nonsense", "--nonsense"),
        ("keys nonsense", "no command nonsense"),
        ("audit --fix", None),
        ("operations retry ID --wait", None),
    ],
)
def test_a_command_that_is_none_is_found(text: str, problem: str | None) -> None:
    assert problem_of(text) == problem
