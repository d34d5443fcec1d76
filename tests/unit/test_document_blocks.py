"""Every block of the documents can be read: shell, Python, JSON and YAML; the marks above them are known, and counted.

What can run here runs in tests/e2e/test_pages_run.py.
"""

import ast
import json
import shutil
import subprocess

import pytest
import yaml

from tests.support.pages import ELLIPSIS, PAGES, PARSE, PASTED, ROOT, SHOWN, Block, MarkError, blocks_of, mark_of

BLOCKS = [block for page in PAGES for block in blocks_of(page)]

NOT_RUN = 19
"""Blocks of commands that no test runs, each with its reason above it: accounts, root, Docker, a cluster, hours."""


def _named(blocks: list[Block]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", blocks, ids=[block.where for block in blocks])


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_every_block_of_commands_is_one() -> None:
    wrong = []
    for block in BLOCKS:
        if block.is_shell:
            done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)  # noqa: S607 - whichever the person has
            wrong += [f"{block.where}: {done.stderr}"] * bool(done.returncode)
    assert wrong == []


@_named([block for block in BLOCKS if block.language == "python"])
def test_python_is_python(block: Block) -> None:
    ast.parse(block.text)


@_named([block for block in BLOCKS if block.language == "yaml"])
def test_yaml_is_yaml(block: Block) -> None:
    assert yaml.safe_load(block.text)


@_named([block for block in BLOCKS if block.language == "json" and ELLIPSIS not in block.text])
def test_json_is_json(block: Block) -> None:
    assert json.loads(block.text)


def test_what_no_test_runs_is_counted() -> None:
    left_out = [block.where for block in BLOCKS if block.is_shell and block.mark == PARSE]
    assert len(left_out) == NOT_RUN, left_out


def test_every_page_with_commands_says_how_they_are_run() -> None:
    assert {block.page.name for block in BLOCKS if block.is_shell and block.mark == ""} == set()


def test_output_is_shown_below_what_prints_it() -> None:
    for page in PAGES:
        blocks = blocks_of(page)
        for above, block in zip([None, *blocks], blocks, strict=False):
            if block.mark in SHOWN:
                assert above is not None, block.where
                assert above.mark in PASTED | SHOWN, block.where


@pytest.mark.parametrize(
    "written", ["runs", "parse", "file", "refused", "run numbers.csv", "parse;", "run twice twice", "example"]
)
def test_a_mark_that_says_nothing_is_refused(written: str) -> None:
    with pytest.raises(MarkError):
        mark_of(written, "page.md:1", "sh")


def test_the_convention_is_documented() -> None:
    told = (ROOT / "docs" / "CONTRIBUTING.md").read_text(encoding="utf-8").split("\n## Commands in documents\n")[1]
    for mark in ("run twice", "refused", "parse", "file", "output", "shape", "example", "before"):
        assert f"`{mark}" in told or f"test {mark}" in told, mark
