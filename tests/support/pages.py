"""The fenced blocks of the documents, and what the comment above each of them asks of the tests.

docs/CONTRIBUTING.md says how a block is marked.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
"""Every document; a new one is taken in by being there."""

SHELL = frozenset({"sh", "bash"})
"""Languages of blocks that are pasted into a shell."""

RUN, TWICE, REFUSED = "run", "run twice", "refused"
PARSE, FILE, BEFORE = "parse", "file", "before"
OUTPUT, SHAPE, EXAMPLE = "output", "shape", "example"

PASTED = frozenset({RUN, TWICE, REFUSED, BEFORE})
"""Marks of blocks that are run; `refused`: something in it is refused or fails, as the page says."""

SHOWN = frozenset({OUTPUT, SHAPE})
"""Marks of blocks that show what the block above them prints: word for word, or by its fields and their types."""

NEED_A_REASON = frozenset({PARSE, REFUSED, EXAMPLE})

ELLIPSIS = "…"
"""Stands for anything that is left out: a part of a text, whole lines, or a value."""

BLOCK = re.compile(
    r"(?:^ *<!-- test: (?P<mark>[^>]*?) -->\n(?:\s*\n)?)?"
    r"^(?P<indent> *)```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$"
    r"|^<!-- test before\n(?P<before>.*?)^-->$",
    re.MULTILINE | re.DOTALL,
)
MARK = re.compile(r"(run twice|run|refused|parse|file|output|shape|example)(?: ([\w./-]+))?(?:; (.+))?")


class MarkError(ValueError):
    """A comment above a block asks for something that there is not."""


@dataclass(frozen=True)
class Block:
    """One fenced block, or hidden commands before it (`test before`)."""

    page: Path
    line: int
    language: str
    text: str
    mark: str
    name: str = ""
    """Of the file that a block marked `file` is stored as."""

    @property
    def where(self) -> str:
        """The page and line, as editors open it."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_shell(self) -> bool:
        """Whether it is commands for a shell, run or not."""
        return self.language in SHELL


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page in their order; MarkError for a mark that cannot be followed.

    A page without any mark says nothing of what it supposes: it is not run.
    """
    text, found = page.read_text(encoding="utf-8"), list[Block]()
    is_marked = "<!-- test" in text
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("text" if match["before"] is None else "before"))
        if match["before"] is not None:
            found.append(Block(page, line, "sh", match["before"], BEFORE))
            continue
        body = dedent(match["text"])
        mark, name = mark_of(match["mark"], f"{page.name}:{line}", match["language"] if is_marked else "")
        if mark == "" and match["language"] == "json" and found and found[-1].mark in PASTED | SHOWN:
            mark = OUTPUT
        found.append(Block(page, line, match["language"], body, mark, name))
    return found


def mark_of(written: str | None, where: str, language: str) -> tuple[str, str]:
    """Return a mark and its file's name, "" where there is none; MarkError where it says nothing that is known."""
    if written is None:
        return (RUN if language in SHELL else ""), ""
    read = MARK.fullmatch(written)
    if read is None or (read[1] == FILE) != bool(read[2]):
        raise MarkError(f"{where}: `test: {written}` says nothing that docs/CONTRIBUTING.md knows")
    if read[1] in NEED_A_REASON and not read[3]:
        raise MarkError(f"{where}: `test: {written}` needs its reason, behind a semicolon")
    return read[1], read[2] or ""


def fits(shown: Any, seen: Any) -> bool:
    """Say whether JSON that a page shows is what was seen; the ellipsis stands for what is left out."""
    if isinstance(shown, str) and ELLIPSIS in shown:
        return shown == ELLIPSIS or (isinstance(seen, str) and text_fits(shown, seen))
    if isinstance(shown, dict) and isinstance(seen, dict):
        named = shown.keys() - {ELLIPSIS}
        return (shown.keys() == named == seen.keys() or (ELLIPSIS in shown and named <= seen.keys())) and all(
            fits(shown[name], seen[name]) for name in named
        )
    if isinstance(shown, list) and isinstance(seen, list):
        whole = shown[-1:] != [ELLIPSIS]
        items = shown if whole else shown[:-1]
        return (len(items) == len(seen) if whole else len(items) <= len(seen)) and all(map(fits, items, seen))
    return bool(shown == seen) and type(shown) is type(seen)


def text_fits(shown: str, seen: str) -> bool:
    """Say whether text is what a page shows of it."""
    parts = map(re.escape, shown.strip().split(ELLIPSIS))
    return re.fullmatch(".*".join(parts), seen.strip(), re.DOTALL) is not None


def has_shape(shown: Any, seen: Any) -> bool:
    """Say whether JSON has the fields that a page shows, with values of the same types."""
    if isinstance(shown, Mapping) and isinstance(seen, Mapping):
        return (
            shown.keys() == seen.keys() or (ELLIPSIS in shown and shown.keys() - {ELLIPSIS} <= seen.keys())
        ) and all(has_shape(shown[name], seen[name]) for name in shown if name in seen)
    if isinstance(shown, list) and isinstance(seen, list):
        return all(has_shape(shown[0], each) for each in seen) if shown else True
    return shown == ELLIPSIS or type(shown) is type(seen)


def json_documents(text: str) -> Iterator[Any]:
    """Yield each JSON object or list that begins a line of a text, or follows another one, in order."""
    decoder, at = json.JSONDecoder(), 0
    while start := re.compile(r"^[{\[]|(?<=[}\]])[{\[]", re.MULTILINE).search(text, at):
        try:
            found, at = decoder.raw_decode(text, start.start())
            yield found
        except ValueError:
            at = start.end()
