"""The size of the code's layout: how many modules there are, and that none is a fragment of its only importer."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

MOST_MODULES = 284
"""Modules of `app` and `tasks`, `__init__.py` included: a reader has to find a noun among them."""

FEW_LINES = 40
"""Lines up to which a module with one importer belongs into that importer."""

REASON = "of its own because"
"""The words with which a module's docstring says why it stays apart."""

ENTRY_FILES = ("celeryconfig.py", "flowerconfig.py", "run.py")
"""Files at the root that import modules as well."""


def modules() -> dict[str, Path]:
    """Return the modules of `app` and `tasks` by name."""
    paths = sorted(path for top in ("app", "tasks") for path in (ROOT / top).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imported(tree: ast.Module, known: set[str]) -> Iterator[str]:
    """Yield which of the known modules a module imports, anywhere in it; a text "module" or "module:name" counts too.

    Celery imports the tasks by such a text, and `wiring` the publisher.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in known else node.module
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.partition(":")[0]


def test_there_are_few_enough_modules() -> None:
    count = len(modules())
    assert count <= MOST_MODULES


def test_a_short_module_with_one_importer_says_why_it_is_one() -> None:
    found = modules()
    files = found | {name: ROOT / name for name in ENTRY_FILES}
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in files.items()}
    importers: dict[str, set[str]] = defaultdict(set)
    for name, tree in trees.items():
        for other in imported(tree, set(found)):
            importers[other].add(name)
    fragments = {
        name: importer
        for name, path in found.items()
        for importer in importers[name]
        if path.name != "__init__.py"
        and len(importers[name]) == 1
        and len(path.read_text(encoding="utf-8").splitlines()) <= FEW_LINES
        and REASON not in " ".join((ast.get_docstring(trees[name]) or "").split())
    }
    assert not fragments, (
        f"modules of at most {FEW_LINES} lines with one importer (module: importer) belong into it; one that must stay "
        f'apart says so in its docstring: "A module {REASON} ...": {fragments}'
    )
