"""A newcomer: pastes the blocks of a page into one shell, in their order, and compares what the page says it prints."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.pages import (
    BEFORE,
    FILE,
    OUTPUT,
    PASTED,
    REFUSED,
    ROOT,
    SHOWN,
    TWICE,
    Block,
    fits,
    has_shape,
    json_documents,
    text_fits,
)

LEFT_OUT = (".git", ".venv", ".data", "build", "__pycache__", ".env", ".*_cache")
"""What a fresh copy of the project does not have."""

ON_PATH = "bin-on-path"
"""Where `trunkline` lies for a shell that finds it by its name, as docs/cli.md proposes."""

PAGE_S = 120.0
"""Seconds that a page may take on a busy machine: some 15 as a rule."""

START = """\
set -uo pipefail -E
trap 'printf "%s\\n" "exit code $?: $BASH_COMMAND" >>"$BLOCK.failed"' ERR
exec </dev/null
"""
"""A name that the page has not set, and a command that fails, are found; the shell goes on, as a pasted one does."""


def copy_of_the_project(folder: Path, trunkline: str) -> None:
    """Copy the files of the project as somebody who has fetched it has them, with the tools of our own .venv.

    `trunkline` is the text of this tool. No link leads there: ./run.py would take .venv for one that lies elsewhere,
    and clear it.
    """
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
    python = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
    tools = {".venv/bin/python": python, ".venv/bin/trunkline": trunkline, f"{ON_PATH}/trunkline": trunkline}
    for name, text in tools.items():
        tool = folder / name
        tool.parent.mkdir(parents=True, exist_ok=True)
        tool.write_text(text, encoding="utf-8")
        tool.chmod(0o755)


@dataclass(frozen=True)
class Pasted:
    """What became of one block."""

    block: Block
    output: str
    errors: str
    failed: str

    def refusals(self) -> list[str]:
        """Return what did not go as a page that says nothing else promises."""
        refused = [
            f"{each.get('status')} {each.get('code')}: {each.get('detail')}"
            for each in json_documents(self.output)
            if isinstance(each, dict) and each.get("success") is False
        ]
        return [*self.failed.splitlines(), *refused]


class Newcomer:
    """Has a folder with the project, and reaches its processes where the documents say that they are.

    `addresses` are those of the documents and those of the test's own processes.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str], addresses: Mapping[str, str]) -> None:
        self._folder, self._environ, self._addresses = folder, environ, addresses

    def read(self, blocks: Sequence[Block]) -> list[str]:
        """Paste all blocks that are to be run; return what is not as the page says, one problem a line."""
        where = self._folder / ".pasted"
        shutil.rmtree(where, ignore_errors=True)
        where.mkdir()
        ended = self._run(self._script(blocks, where))
        problems = [] if ended is None else [f"{blocks[0].page.name}: the shell ended: {ended}"]
        last: Pasted | None = None
        for number, block in enumerate(blocks):
            if block.mark in PASTED:
                last = self._pasted(block, where / str(number))
                problems += _problems(last)
            elif block.mark in SHOWN:
                problems += _compare(block, last)
        return problems

    def _script(self, blocks: Sequence[Block], where: Path) -> Path:
        lines = [START]
        for number, block in enumerate(blocks):
            name = where / str(number)
            text = self._moved(block.text)
            if block.mark == FILE:
                lines.append(f"cat > {block.name} <<'END OF THE BLOCK'\n{text}END OF THE BLOCK\n")
            elif block.mark in PASTED:
                again = text if block.mark == TWICE else ""
                lines.append(f"BLOCK={name}\nexec >$BLOCK.out 2>$BLOCK.err\n{text}{again}")
        script = where / "page.sh"
        script.write_text("\n".join([*lines, f"touch {where}/end"]), encoding="utf-8")
        return script

    def _run(self, script: Path) -> str | None:
        """Run a script in a session of its own; return why it did not come to its end."""
        bash = shutil.which("bash") or "/bin/bash"
        with subprocess.Popen(  # noqa: S603 - our own documents
            [bash, str(script)],
            cwd=self._folder,
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        ) as shell:
            try:
                said, _ = shell.communicate(timeout=PAGE_S)
            except subprocess.TimeoutExpired:
                said = f"after {PAGE_S:g} s"
            finally:
                _end_session(shell.pid)
        return None if (script.parent / "end").exists() else said or _last_error(script.parent)

    def _pasted(self, block: Block, name: Path) -> Pasted:
        def part(ending: str) -> str:
            file = name.with_name(f"{name.name}.{ending}")
            text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
            for ours, theirs in ((mine, documented) for documented, mine in self._addresses.items()):
                text = text.replace(ours, theirs)
            return text

        return Pasted(block, part("out"), part("err"), part("failed"))

    def _moved(self, text: str) -> str:
        """Return commands with our processes' addresses in place of the documented ones."""
        for documented, mine in self._addresses.items():
            text = re.sub(rf"(localhost|127\.0\.0\.1):{documented.rpartition(':')[2]}\b", mine, text)
        return text


def _end_session(leader: int) -> None:
    """Kill what a page has left running: its process group is its own."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def _last_error(folder: Path) -> str:
    errors = sorted(folder.glob("*.err"), key=lambda file: file.stat().st_mtime)
    return errors[-1].read_text(encoding="utf-8", errors="replace")[-500:] if errors else "without a word"


def _problems(pasted: Pasted) -> list[str]:
    refused = pasted.refusals()
    if pasted.block.mark == REFUSED:
        return [] if refused else [f"{pasted.block.where}: nothing was refused\n{pasted.output}"]
    said = [f"{pasted.block.where}: {line}" for line in refused]
    if "Traceback (most recent call last)" in pasted.errors + pasted.output:
        said.append(f"{pasted.block.where}: a traceback")
    return [*said, pasted.errors[-2000:]] if said else []


def _compare(block: Block, above: Pasted | None) -> list[str]:
    if above is None or above.block.mark == BEFORE:
        return [f"{block.where}: shows output, and no block above it is run"]
    if block.language == "json":
        compare = fits if block.mark == OUTPUT else has_shape
        shown = json.loads(block.text)
        good = any(compare(shown, each) for each in json_documents(above.output))
    else:
        good = text_fits(block.text, above.output)
    return [] if good else [f"{block.where}: is not what {above.block.where} printed:\n{above.output}"]
