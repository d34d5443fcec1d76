"""docs/architecture.md and docs/CONTRIBUTING.md say what the code says: rooms, steps, statuses, places, names."""

import ast
import random
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from app.domain import operations
from app.domain.errors import OPERATION_ERROR_CODES
from app.domain.events import Action, EventName, WebhookEvent
from app.domain.findings import FindingCode
from app.domain.operations import KINDS, OPERATION_MOVES, STEPS, Direction, OperationKind, OperationStatus, StepState
from app.observability.counters import METRICS
from app.saga.state import Change
from app.saga.steps import ACTIONS
from app.settings import Settings
from tests.support.machine_model import Dice, Life

ROOT = Path(__file__).parents[2]
ARCHITECTURE, CONTRIBUTING = ROOT / "docs" / "architecture.md", ROOT / "docs" / "CONTRIBUTING.md"

LIVES = 480
"""Random lives of one number in which every move is seen: 240 are too few. The same ones each time."""

EVENTS = 150
"""Events of one life."""

NOTHING = "-"
"""What a cell without a value says."""


def read_page(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def table(heading: str, first: str) -> list[list[str]]:
    """Return the cells of a table of the architecture page: the one under this heading whose head row begins so."""
    found = read_page(ARCHITECTURE).split(f" {heading}\n")[1].split(f"\n| {first} |")[1]
    lines = found.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def in_code(cell: str) -> list[str]:
    """Return what a cell has in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def words(cell: str) -> list[str]:
    return cell.replace(",", " ").split()


def diagram(heading: str) -> set[tuple[str, str]]:
    """Return the moves that the diagram under a heading draws, without those from the start and to the end."""
    drawn = read_page(ARCHITECTURE).split(f" {heading}\n")[1].split("```mermaid")[1].split("```")[0]
    return set(re.findall(r"^ +(\w+) --> (\w+)$", drawn, re.MULTILINE))


# The rooms.


def module_of(room: str) -> str:
    return room.removesuffix("/").removesuffix(".py").replace("/", ".")


def layers() -> list[str]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (found,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    return list(found)


def rooms() -> dict[str, set[str]]:
    """Return layer -> modules, as the document has them."""
    found = defaultdict(set)
    for layer, room, _ in table("Rooms", "layer"):
        found[layer].update(map(module_of, in_code(room)))
    return found


def test_the_rooms_are_the_layers_of_import_linter() -> None:
    written = {str(place): set(re.split(r" [|:] ", layer)) for place, layer in enumerate(layers(), 1)}

    assert {layer: found for layer, found in rooms().items() if layer != NOTHING} == written


def test_the_layers_whose_rooms_may_use_each_other_are_named() -> None:
    (named,) = re.findall(r"do not import each other, except in layers ([\d, and]+)\.", read_page(ARCHITECTURE))

    assert re.findall(r"\d+", named) == [str(place) for place, layer in enumerate(layers(), 1) if " : " in layer]


def test_every_package_and_module_has_a_room() -> None:
    def exists(path: Path) -> bool:
        return path.suffix == ".py" or (path / "__init__.py").exists()

    def is_listed(path: Path) -> bool:
        if module_of(str(path.relative_to(ROOT))) in listed:
            return True
        inner = [one for one in path.glob("*.py") if one.name != "__init__.py"] if path.is_dir() else []
        return bool(inner) and all(map(is_listed, inner))

    listed = set().union(*rooms().values())
    modules = [path for path in (ROOT / "app").iterdir() if exists(path) and path.name != "__init__.py"]

    assert [path.name for path in (*modules, ROOT / "tasks") if not is_listed(path)] == []
    assert [room for row in table("Rooms", "layer") for room in in_code(row[1]) if not (ROOT / room).exists()] == []


# The steps.


def named(function: Any) -> str:
    return f"{function.__module__.replace('.', '/')}.py:{function.__qualname__}" if function else NOTHING


def test_the_table_of_steps_is_that_of_the_code() -> None:
    written = [
        (in_code(name), in_code(needs), column.strip("`"), do.strip("`"), undo.strip("`"))
        for name, needs, column, do, undo in table("The steps", "step")
    ]

    assert written == [
        (
            [step.name],
            list(step.needs),
            step.column or NOTHING,
            named(ACTIONS[step.name].do),
            named(ACTIONS[step.name].undo),
        )
        for step in STEPS
    ]


# The life of an operation and of a step.


class Moves:
    """What random events make of operations and steps: (from, to) -> the kinds, and the functions that decide it."""

    def __init__(self) -> None:
        self.kinds: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.functions: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.of_steps: dict[tuple[str, str], set[str]] = defaultdict(set)


@pytest.fixture(scope="module")
def moves() -> Iterator[Moves]:
    """Drive the machine through random events, and see which moves it makes."""
    seen, move_to, set_step = Moves(), Change.move_to, Change.set_step

    def move_operation(self: Change, status: OperationStatus) -> None:
        move = self.operation.status.value, status.value
        if self.operation.status is not status:
            seen.kinds[move].add(self.operation.kind.value)
            seen.functions[move].add(sys._getframe(1).f_code.co_name)
        move_to(self, status)

    def change_step(self: Change, name: str, **values: Any) -> None:
        old, new = self.steps[name].state, values.get("state")
        # A worker that comes back after its repair has ended may still write what it did.
        if new and new is not old and not self.before.operation.status.is_final:
            seen.of_steps[old.value, new.value].add(sys._getframe(1).f_code.co_name)
        set_step(self, name, **values)

    dice = random.Random(5)  # noqa: S311  # the same events each time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Change, "move_to", move_operation)
        patch.setattr(Change, "set_step", change_step)
        for _ in range(LIVES):
            life = Life()
            life.begin(Dice(dice.getrandbits(48)))
            for _ in range(EVENTS):
                life.happens(Dice(dice.getrandbits(48)))
            list(life.heal())
    return seen


OPERATION_TABLE = {
    (old, new): (set(words(kinds)), set(in_code(functions)))
    for start, end, kinds, _, functions in table("The life of an operation", "from")
    for old in in_code(start)
    for new in in_code(end)
}
STEP_TABLE = {
    (old, new): set(in_code(functions))
    for start, end, _, functions in table("The life of a step", "from")
    for old in in_code(start)
    for new in in_code(end)
}


def test_the_moves_of_an_operation_are_those_of_the_code() -> None:
    legal = {(old.value, new.value) for old, following in OPERATION_MOVES.items() for new in following}

    assert OPERATION_TABLE.keys() == legal
    assert diagram("The life of an operation") == legal


def test_each_kind_makes_the_moves_that_the_document_says(moves: Moves) -> None:
    # The model that makes the moves knows no shared trunks, and so no rehome.
    assert {move: kinds - {"rehome"} for move, (kinds, _) in OPERATION_TABLE.items()} == moves.kinds


def test_each_move_of_an_operation_is_decided_where_the_document_says(moves: Moves) -> None:
    assert {move: functions for move, (_, functions) in OPERATION_TABLE.items()} == moves.functions


def test_the_moves_of_a_step_are_those_of_the_code(moves: Moves) -> None:
    assert diagram("The life of a step") == STEP_TABLE.keys()
    assert {state for move in STEP_TABLE for state in move} == {state.value for state in StepState}
    assert moves.of_steps.keys() == STEP_TABLE.keys()


def test_each_move_of_a_step_is_decided_where_the_document_says(moves: Moves) -> None:
    assert moves.of_steps == STEP_TABLE


def test_the_table_of_kinds_is_that_of_the_code() -> None:
    def yes(value: bool) -> str:
        return "yes" if value else "no"

    assert table("The life of an operation", "kind") == [
        [
            f"`{kind.name}`",
            kind.starts.value,
            yes(kind.rolls_back or kind.starts is Direction.UNDO),
            yes(kind.keeps_path),
            yes(kind.makes),
            yes(kind.is_retried),
        ]
        for kind in KINDS.values()
    ]


def test_the_phone_status_follows_as_the_document_says() -> None:
    kinds = [KINDS[kind] for kind in OperationKind]
    columns = [*(kind.phone for kind in kinds), *(kind.target_phone for kind in kinds if kind.target_phone)]

    assert table("The life of an operation", "status") == [
        [f"`{status}`", *(column[status].value if status in column else NOTHING for column in columns)]
        for status in OperationStatus
    ]


# What both documents name.


def top_names(node: ast.stmt) -> list[str]:
    """Return what one statement of a module or class defines."""
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.Assign(targets=targets):
            return [one.id for one in targets if isinstance(one, ast.Name)]
    return []


@cache
def names_in(path: Path) -> frozenset[str]:
    """Return every name that a module defines at its top, and each class's as `Class.name`."""

    def defined(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
        for node in body:
            for name in top_names(node):
                yield prefix + name
                if isinstance(node, ast.ClassDef):
                    yield from defined(node.body, f"{prefix}{name}.")

    return frozenset(defined(ast.parse(path.read_text(encoding="utf-8")).body))


PATH = re.compile(
    r"((?:app|tasks|tests|migrations|docs|deploy|\.ci)/[\w./@-]*|[\w.-]+\.(?:py|md|toml|lock|yaml)|Procfile|\.env\.example)(?::([\w.]+))?"
)


def named_in(page: Path) -> list[tuple[str, str | None]]:
    """Return (path, name or None) of everything in backticks that is a path of this repository."""
    text = re.sub(r"^```.*?^```", "", read_page(page), flags=re.MULTILINE | re.DOTALL)
    return [(found[1], found[2]) for one in in_code(text) if (found := PATH.fullmatch(one))]


@pytest.mark.parametrize("page", [ARCHITECTURE, CONTRIBUTING], ids=lambda page: page.name)
def test_every_path_and_name_in_the_document_exists(page: Path) -> None:
    found = named_in(page)

    assert len(found) > 50
    assert [path for path, _ in found if not any((base / path).exists() for base in (ROOT, page.parent))] == []
    assert [f"{path}:{name}" for path, name in found if name and name not in names_in(ROOT / path)] == []


# What adding something takes.


def adding(what: str) -> str:
    """Return what the page says of adding something: the section, or the row of the last table."""
    text = read_page(CONTRIBUTING)
    if f"\n## Add {what}\n" in text:
        return text.split(f"\n## Add {what}\n")[1].split("\n## ")[0]
    return text.split(f"\n| {what} |")[1].split("\n")[0]


@cache
def files() -> dict[str, str]:
    """Return the text of every file in which a name of ours may stand, by path."""
    found = [path for folder in ("app", "tasks", "docs", "tests") for path in (ROOT / folder).rglob("*")]
    kept = [path for path in found if path.suffix in {".py", ".sql", ".html", ".md", ".json"}]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in (*kept, ROOT / ".env.example")}


def files_with_all(members: Iterable[Sequence[str]]) -> set[str]:
    """Return the files that have each member of a list, in one of its spellings: those that a new one needs, too."""
    patterns = [re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, spellings))})(?!\w)") for spellings in members]
    return {path for path, text in files().items() if all(pattern.search(text) for pattern in patterns)}


def spellings(*members: StrEnum) -> list[tuple[str, str]]:
    return [(member.name, member.value) for member in members]


STEP_CONSTANTS = {value: name for name, value in vars(operations).items() if name.isupper() and isinstance(value, str)}

LISTS: Mapping[str, Sequence[Sequence[str]]] = {
    "a step": [(step.name, STEP_CONSTANTS[step.name]) for step in STEPS],
    "an error code": spellings(*OPERATION_ERROR_CODES),
    "event of an operation": spellings(*EventName),
    "event for webhooks": spellings(*WebhookEvent),
    "finding": spellings(*FindingCode),
    "call or button that changes something": spellings(*Action),
    "metric": [(metric.name,) for metric in METRICS],
    "setting": [(name, name.upper()) for name in Settings.model_fields],
}
"""What may be added -> all that there are of it."""


@pytest.mark.parametrize("what", LISTS)
def test_the_page_names_every_file_that_adding_one_touches(what: str) -> None:
    written = {found[1] for one in in_code(adding(what)) if (found := PATH.fullmatch(one))}
    linked = {f"docs/{target}" for target in re.findall(r"\]\(([\w/.-]+)", adding(what))}

    assert files_with_all(LISTS[what]) <= written | linked


def test_the_page_names_every_table_of_error_codes() -> None:
    """A table is a class or a value at the top of a module that has all codes with which operations end."""
    wanted = {code.name for code in OPERATION_ERROR_CODES}
    tables = {
        f"{path}:{name}"
        for path, text in files().items()
        if path.startswith("app/") and path.endswith(".py") and wanted <= set(re.findall(r"\w+", text))
        for node in ast.parse(text).body
        if isinstance(node, ast.ClassDef | ast.Assign | ast.AnnAssign)
        and wanted <= set(re.findall(r"\w+", ast.get_source_segment(text, node) or ""))
        for name in top_names(node)
    }

    assert len(tables) > 1
    assert tables - set(in_code(adding("an error code"))) == set()


def test_the_page_names_every_test_that_goes_through_all_error_codes() -> None:
    goes_through = re.compile(r"\b(?:set\(|in_order\(|in )ErrorCode\b(?!\.)")
    holding = {path for path, text in files().items() if path.startswith("tests/") and goes_through.search(text)}

    assert {path for path in holding if path not in adding("an error code")} == set()


def test_every_folder_of_tests_is_in_the_table() -> None:
    found = read_page(CONTRIBUTING).split("\n## Which test goes where\n")[1].split("\n## ")[0]
    listed = [name for line in re.findall(r"^\| (`.+?) \|", found, re.MULTILINE) for name in in_code(line)]

    assert sorted(listed) == sorted(
        f"tests/{path.name}/" for path in (ROOT / "tests").iterdir() if any(path.glob("*.py"))
    )
